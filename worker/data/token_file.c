/* token_file.c: see token_file.h. */
#include "worker/data/token_file.h"

#include <stdbool.h>
#include <stdio.h>

#define HEADER_BYTES 1024
#define MAGIC_U16    20240520u
#define MAGIC_U32    20240801u
#define BLOCK        65536

static int fail_in(const char *where, struct dha_err *e)
{
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", where);
    return -1;
}

static uint32_t word(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Skips llm.c's header. A headerless file whose first four bytes are a magic number by chance fails the test of
 * version or count (odds of 2^-96 against), so there is no ambiguity worth an option. */
static int skip_header(const uint8_t **data, size_t *len, int width, const char *where,
                       struct dha_err *e)
{
    if (*len < HEADER_BYTES)
        return 0;
    uint32_t magic = word(*data), version = word(*data + 4), count = word(*data + 8);
    if ((magic != MAGIC_U16 || version != 1) && (magic != MAGIC_U32 || version != 7))
        return 0;
    int has = magic == MAGIC_U16 ? 2 : 4;
    if (has != width) {
        dha_fail(e, DHA_E_INPUT, "%s: its llm.c header says u%d, the spec says u%d", where, 8 * has,
                 8 * width);
        dha_err_hint(e, "set data.format to \"u%d\"", 8 * has);
        return fail_in(where, e);
    }
    *data += HEADER_BYTES;
    *len -= HEADER_BYTES;
    if (*len != (size_t)count * (size_t)width) {
        dha_fail(e, DHA_E_INPUT,
                 "%s: its llm.c header says %u tokens (%llu bytes), %zu bytes follow", where, count,
                 (unsigned long long)count * (unsigned)width, *len);
        dha_err_hint(e, "the file is truncated or damaged: copy or make it again");
        return fail_in(where, e);
    }
    return 0;
}

/* The maximum of a block vectorises; only a block with a bad token is searched. */
int64_t token_span_bad(const struct token_span *s, int vocab)
{
    if (s->width == 2 && vocab > 65535)
        return -1;
    for (int64_t at = 0; at < s->n; at += BLOCK) {
        int64_t end = s->n - at < BLOCK ? s->n : at + BLOCK;
        uint32_t most = 0;
        if (s->width == 2) {
            uint16_t top = 0;
            for (int64_t i = at; i < end; i++) {
                uint16_t t = (uint16_t)token_at(&(struct token_span){s->data, s->n, 2}, i);
                top = t > top ? t : top;
            }
            most = top;
        } else {
            for (int64_t i = at; i < end; i++) {
                uint32_t t = token_at(&(struct token_span){s->data, s->n, 4}, i);
                most = t > most ? t : most;
            }
        }
        if (most < (uint32_t)vocab)
            continue;
        for (int64_t i = at; i < end; i++)
            if (token_at(s, i) >= (uint32_t)vocab)
                return i;
    }
    return -1;
}

int token_span_parse(const uint8_t *data, size_t len, const char *format, int vocab,
                     const char *where, struct token_span *out, struct dha_err *e)
{
    bool wide = strcmp(format, "u32") == 0;
    int width = wide ? 4 : 2;
    if (!wide && strcmp(format, "u16") != 0) {
        dha_fail(e, DHA_E_INPUT, "%s: no token format \"%.20s\"", where, format);
        return fail_in(where, e);
    }
    if (skip_header(&data, &len, width, where, e) < 0)
        return -1;
    if (len == 0) {
        dha_fail(e, DHA_E_INPUT, "%s: holds no tokens", where);
        return fail_in(where, e);
    }
    if (len % (size_t)width != 0) {
        dha_fail(e, DHA_E_INPUT, "%s: %zu bytes are no whole number of u%d tokens", where, len,
                 8 * width);
        dha_err_hint(e, "check data.format (\"u16\" or \"u32\"), or whether the file is truncated");
        return fail_in(where, e);
    }
    *out = (struct token_span){data, (int64_t)(len / (size_t)width), width};
    int64_t bad = token_span_bad(out, vocab);
    if (bad >= 0) {
        dha_fail(e, DHA_E_INPUT, "%s: token %lld is %u, outside the model's vocabulary of %d",
                 where, (long long)bad, token_at(out, bad), vocab);
        dha_err_hint(e, "the file was made with another tokenizer, or data.format is wrong");
        return fail_in(where, e);
    }
    return 0;
}
