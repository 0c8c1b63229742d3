#include "proto/text.h"

#include <string.h>

/* Words longer than this are no slips of one of our names. */
#define WORD_MAX 48

size_t text_utf8_len(const unsigned char *s, size_t n)
{
    if (n == 0)
        return 0;
    unsigned char c = s[0];
    if (c < 0x80)
        return 1;
    /* The second byte's range excludes overlong forms (E0, F0), surrogates (ED) and code points
     * over U+10FFFF (F4); Unicode 15, table 3-7. */
    size_t len;
    unsigned char lo = 0x80, hi = 0xbf;
    if (c >= 0xc2 && c <= 0xdf) {
        len = 2;
    } else if (c >= 0xe0 && c <= 0xef) {
        len = 3;
        lo = c == 0xe0 ? 0xa0 : lo;
        hi = c == 0xed ? 0x9f : hi;
    } else if (c >= 0xf0 && c <= 0xf4) {
        len = 4;
        lo = c == 0xf0 ? 0x90 : lo;
        hi = c == 0xf4 ? 0x8f : hi;
    } else {
        return 0;
    }
    if (n < len || s[1] < lo || s[1] > hi)
        return 0;
    for (size_t i = 2; i < len; i++)
        if (s[i] < 0x80 || s[i] > 0xbf)
            return 0;
    return len;
}

void text_trim_utf8(char *s)
{
    size_t n = strlen(s);
    size_t i = n;
    while (i > 0 && n - i < 3 && ((unsigned char)s[i - 1] & 0xc0) == 0x80)
        i--; /* back over continuation bytes */
    if (i == 0 || ((unsigned char)s[i - 1] & 0x80) == 0)
        return;
    if (text_utf8_len((const unsigned char *)s + i - 1, n - i + 1) != n - i + 1)
        s[i - 1] = '\0';
}

void text_clean_utf8(char *s)
{
    size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        size_t len = text_utf8_len((const unsigned char *)s + i, n - i);
        if (len == 0)
            s[i] = '?';
        i += len ? len : 1;
    }
}

void text_copy(char *dst, size_t cap, const char *src)
{
    size_t n = 0;
    for (; src[n] && n + 1 < cap; n++)
        dst[n] = (unsigned char)src[n] < 0x20 || src[n] == 0x7f ? '?' : src[n];
    dst[n] = '\0';
    if (src[n])
        text_trim_utf8(dst);
}

static bool is_control(const unsigned char *s, size_t len, bool lines)
{
    if (len == 1)
        return (s[0] < 0x20 && !(lines && s[0] == '\n')) || s[0] == 0x7f;
    return len == 2 && s[0] == 0xc2 && s[1] < 0xa0;
}

size_t text_shown(char *dst, size_t cap, const char *src, bool lines)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *s = (const unsigned char *)src;
    size_t left = strlen(src), need = 0, end = 0;
    bool room = cap > 0;
    while (left) {
        size_t len = text_utf8_len(s, left), n;
        unsigned char c = len == 2 ? s[1] : s[0]; /* a C1 character's number is its second byte */
        bool escaped = len == 0 || is_control(s, len, lines);
        char code[4] = {'\\', 'x', hex[c >> 4], hex[c & 15]};
        n = escaped ? sizeof code : len;
        room = room && need + n < cap;
        if (room) {
            memcpy(dst + need, escaped ? code : (const char *)s, n);
            end = need + n;
        }
        need += n;
        s += len ? len : 1;
        left -= len ? len : 1;
    }
    if (cap > 0)
        dst[end] = '\0';
    return need;
}

/* Edit distance with swaps of neighbours (optimal string alignment). */
static size_t distance(const char *a, size_t na, const char *b, size_t nb)
{
    size_t row[3][WORD_MAX + 1];
    for (size_t j = 0; j <= nb; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t *cur = row[i % 3], *prev = row[(i + 2) % 3], *prev2 = row[(i + 1) % 3];
        cur[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t d = prev[j - 1] + (a[i - 1] != b[j - 1]);
            if (prev[j] + 1 < d)
                d = prev[j] + 1;
            if (cur[j - 1] + 1 < d)
                d = cur[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                prev2[j - 2] + 1 < d)
                d = prev2[j - 2] + 1;
            cur[j] = d;
        }
    }
    return row[na % 3][nb];
}

const char *text_nearest(const char *word, const char *const *names, size_t n)
{
    size_t nw = strlen(word);
    const char *best = NULL;
    size_t best_d = 0;
    if (nw == 0 || nw > WORD_MAX)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t nn = strlen(names[i]);
        if (nn > WORD_MAX)
            continue;
        size_t longer = nw > nn ? nw : nn;
        size_t limit = longer <= 3 ? 1 : longer / 3; /* a third of the letters may be wrong */
        size_t d = distance(word, nw, names[i], nn);
        if (d <= limit && d < longer && (!best || d < best_d)) {
            best = names[i];
            best_d = d;
        }
    }
    return best;
}
