#include "worker/generate/generate.h"

#include <stdlib.h>
#include <string.h>

static const char incomplete[] = "\xEF\xBF\xBD"; /* U+FFFD */

static int push(struct stream *t, int32_t token, struct dha_err *e)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 64;
        int32_t *grown = realloc(t->ids, cap * sizeof *grown);
        if (!grown)
            return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu tokens", cap);
        t->ids = grown;
        t->cap = cap;
    }
    t->ids[t->n++] = token;
    return 0;
}

int stream_begin(struct stream *t, const struct spm *spm, const int32_t *prompt, size_t n,
                 struct dha_err *e)
{
    char *text;
    *t = (struct stream){.spm = spm};
    for (size_t i = 0; i < n; i++)
        if (push(t, prompt[i], e))
            return -1;
    if (spm_decode(spm, t->ids, t->n, &text, e))
        return -1;
    t->start = t->sent = strlen(text);
    free(text);
    return 0;
}

void stream_end(struct stream *t)
{
    free(t->ids);
    *t = (struct stream){0};
}

static int give(struct stream *t, bool all, char **piece, struct dha_err *e)
{
    char *text;
    *piece = NULL;
    if (spm_decode(t->spm, t->ids, t->n, &text, e))
        return -1;
    size_t len = strlen(text), mark = sizeof incomplete - 1;
    while (!all && len >= t->sent + mark && !memcmp(text + len - mark, incomplete, mark))
        len -= mark;
    size_t from = t->sent < len ? t->sent : len;
    *piece = strndup(text + from, len - from);
    free(text);
    if (!*piece)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for text");
    t->sent = from + strlen(*piece);
    return 0;
}

int stream_token(struct stream *t, int32_t token, char **piece, struct dha_err *e)
{
    *piece = NULL;
    return push(t, token, e) ? -1 : give(t, false, piece, e);
}

int stream_last(struct stream *t, char **piece, struct dha_err *e)
{
    return give(t, true, piece, e);
}

int stream_text(const struct stream *t, char **out, struct dha_err *e)
{
    char *text;
    *out = NULL;
    if (spm_decode(t->spm, t->ids, t->n, &text, e))
        return -1;
    size_t len = strlen(text);
    *out = strdup(text + (t->start < len ? t->start : len));
    free(text);
    return *out ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "no memory for text");
}
