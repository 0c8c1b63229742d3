/* text.h: small questions about text, for messages. Nothing here allocates. */
#ifndef DHA_PROTO_TEXT_H
#define DHA_PROTO_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Cuts an incomplete UTF-8 sequence off the end of s: what snprintf leaves when it truncates. */
void text_trim_utf8(char *s);
/* Replaces every byte that is no part of a valid UTF-8 sequence by '?', in place. */
void text_clean_utf8(char *s);
/* Copies with truncation at a character; control characters become '?'. cap > 0. */
void text_copy(char *dst, size_t cap, const char *src);
/* Copies so that a terminal shows the text and does nothing else: control characters (C0 but a newline where `lines`,
 * DEL, C1) and bytes that are no UTF-8 become \xNN. At most cap - 1 bytes, cut at a character; returns what the whole
 * takes, as snprintf does. dst may be NULL with cap 0. */
size_t text_shown(char *dst, size_t cap, const char *src, bool lines);
/* Length of the valid UTF-8 sequence that starts at s (n bytes left), or 0. Overlong forms, surrogates
 * and code points over U+10FFFF are not valid. */
size_t text_utf8_len(const unsigned char *s, size_t n);
/* Of names[0..n), the one that `word` is most likely a slip of; NULL if none is near. */
const char *text_nearest(const char *word, const char *const *names, size_t n);

#endif
