/* token_file.h: the bytes of a token file, understood. Pure: no files, for corpus.c and the fuzz target.
 *
 * u16 or u32 little endian, either from the first byte on, or behind llm.c's header of 256 int32:
 * magic 20240520, version 1 (u16) or magic 20240801, version 7 (u32), then the number of tokens.
 */
#ifndef DHA_WORKER_TOKEN_FILE_H
#define DHA_WORKER_TOKEN_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/err.h"

struct token_span {
    const uint8_t *data; /* borrowed; may be unaligned */
    int64_t n;
    int width; /* bytes a token: 2 or 4 */
};

static inline uint32_t token_at(const struct token_span *s, int64_t i)
{
    const uint8_t *p = s->data + i * s->width;
    uint16_t narrow;
    uint32_t wide;
    if (s->width == 2) {
        memcpy(&narrow, p, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, p, sizeof wide);
    return wide;
}

/* format: "u16" or "u32". Every token is below vocab on success. Errors: DHA_E_INPUT with `where`, the
 * position and what to do. */
int token_span_parse(const uint8_t *data, size_t len, const char *format, int vocab,
                     const char *where, struct token_span *out, struct dha_err *e);
/* Index of the first token that is not below vocab, or -1. */
int64_t token_span_bad(const struct token_span *s, int vocab);

#endif
