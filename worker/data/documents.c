/* documents.c: see documents.h. A window of the stream is held in `buf`; a text piece or a line is cut off its front. */
#include "worker/data/documents.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"
#include "worker/data/question.h"
#include "worker/data/text_stream.h"

/* More than a piece: a document that ends exactly with a piece is told from one that goes on. */
#define WINDOW         (DOCUMENT_PIECE + 8)
#define LINE_MAX_BYTES ((size_t)256 << 20) /* of one JSONL line */

struct documents {
    struct text_stream *s;
    char *path;
    bool jsonl, instruct,
        end;   /* instruct: a kind of jsonl. end: of the stream; buf may hold more */
    char *buf; /* bytes [at, have) are to be given out */
    size_t at, have, cap;
    long line;
    bool first; /* the next piece starts a document */
    /* jsonl: the document being cut */
    char *doc;
    size_t doc_len, doc_at, doc_prompt;
};

int documents_open(struct documents **out, const char *path, const char *format, struct dha_err *e)
{
    *out = NULL;
    struct documents *d = calloc(1, sizeof *d);
    if (!d)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory to read %s", path);
    d->instruct = strcmp(format, "instruct") == 0;
    d->jsonl = d->instruct || strcmp(format, "jsonl") == 0;
    d->first = true;
    d->cap = WINDOW;
    d->buf = malloc(d->cap);
    d->path = strdup(path);
    if (!d->buf || !d->path) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory to read %s", path);
        documents_close(d);
        return -1;
    }
    if (text_stream_open(&d->s, path, e) < 0) {
        documents_close(d);
        return -1;
    }
    *out = d;
    return 0;
}

void documents_close(struct documents *d)
{
    if (!d)
        return;
    text_stream_close(d->s);
    free(d->doc);
    free(d->path);
    free(d->buf);
    free(d);
}

/* Moves what is left to the front and fills the window behind it. */
static int fill(struct documents *d, struct dha_err *e)
{
    memmove(d->buf, d->buf + d->at, d->have - d->at);
    d->have -= d->at;
    d->at = 0;
    if (d->end || d->have == d->cap)
        return 0;
    ssize_t k = text_stream_read(d->s, d->buf + d->have, d->cap - d->have, e);
    if (k < 0)
        return -1;
    d->end = (size_t)k < d->cap - d->have;
    d->have += (size_t)k;
    return 0;
}

/* How much of text[0..len) is the next piece. */
static size_t cut(const char *text, size_t len)
{
    if (len <= DOCUMENT_PIECE)
        return len;
    size_t at = DOCUMENT_PIECE;
    while (at > 0 && text[at - 1] != '\n')
        at--;
    if (at > 0)
        return at;
    at =
        DOCUMENT_PIECE; /* no newline: not inside a UTF-8 sequence, which has at most 3 more bytes */
    for (int i = 0; i < 3 && ((unsigned char)text[at] & 0xc0) == 0x80; i++)
        at--;
    return at;
}

static int give(struct piece *p, const char *text, size_t len, bool first, struct dha_err *e)
{
    p->text = malloc(len ? len : 1);
    if (!p->text)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a piece of text");
    memcpy(p->text, text, len);
    p->len = len;
    p->first = first;
    p->prompt = 0;
    return 1;
}

static int next_text(struct documents *d, struct piece *p, struct dha_err *e)
{
    if (fill(d, e) < 0)
        return -1;
    if (d->have == 0)
        return 0;
    size_t len = cut(d->buf, d->have);
    if (memchr(d->buf, '\0', len)) {
        dha_fail(e, DHA_E_INPUT, "has NUL bytes: it is binary, not text");
        return dha_err_hint(e, "a token file is named with data.format \"u16\" or \"u32\"");
    }
    if (give(p, d->buf, len, d->first, e) < 0)
        return -1;
    d->at = len;
    d->first = false;
    return 1;
}

static int bad_line(const struct documents *d, struct dha_err *e, const char *why, const char *more)
{
    dha_fail(e, DHA_E_INPUT, "%s, line %ld: %s%s", d->path, d->line, why, more);
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", d->path);
    return dha_err_hint(e, d->instruct
                               ? "each line must be an object such as {\"prompt\": \"...\", "
                                 "\"answer\": \"...\"}"
                               : "each line must be an object such as {\"text\": \"...\"}");
}

static bool blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r')
            return false;
    return true;
}

static int take_document(struct documents *d, const char *line, size_t len, struct dha_err *e)
{
    struct json_limits lim = {LINE_MAX_BYTES, 0};
    struct dha_err why = {0};
    cJSON *j = json_parse(line, len, &lim, &why);
    if (!j)
        return bad_line(d, e, "", why.msg);
    const cJSON *text = json_get(j, "text");
    if (!text)
        text = json_get(j, "content");
    int rc = -1;
    if (d->instruct) {
        rc = question_example(j, &d->doc, &d->doc_prompt, &why);
        d->doc_len = rc ? 0 : strlen(d->doc);
        d->doc_at = 0;
        if (rc)
            bad_line(d, e, "", why.msg);
        else if (d->doc_len > DOCUMENT_PIECE)
            rc = bad_line(d, e, "an example of more than 2 MiB", "");
    } else if (!cJSON_IsObject(j)) {
        bad_line(d, e, "not an object", "");
    } else if (!cJSON_IsString(text)) {
        bad_line(d, e, "no string \"text\" or \"content\"", "");
    } else {
        d->doc_len = strlen(text->valuestring);
        d->doc_at = 0;
        d->doc = strdup(text->valuestring);
        rc = d->doc ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "no memory for a document");
    }
    cJSON_Delete(j);
    return rc;
}

/* The next line into *line, *len (in the window, without its newline). 1, 0 at the end, -1 */
static int next_line(struct documents *d, char **line, size_t *len, struct dha_err *e)
{
    for (;;) {
        char *from = d->buf + d->at;
        char *newline = d->at < d->have ? memchr(from, '\n', d->have - d->at) : NULL;
        if (newline || (d->end && d->at < d->have)) {
            *line = from;
            *len = newline ? (size_t)(newline - from) : d->have - d->at;
            d->at += *len + (newline != NULL);
            d->line++;
            return 1;
        }
        if (d->end)
            return 0;
        if (d->at == 0 && d->have == d->cap) {
            char *grown = d->cap < LINE_MAX_BYTES ? realloc(d->buf, 2 * d->cap) : NULL;
            d->line += grown == NULL;
            if (!grown)
                return bad_line(d, e, "too long, or no memory for it", "");
            d->buf = grown;
            d->cap *= 2;
        }
        if (fill(d, e) < 0)
            return -1;
    }
}

/* The next line that is not blank -> d->doc. 1, 0 at the end, -1 */
static int next_document(struct documents *d, struct dha_err *e)
{
    char *line = NULL;
    size_t len = 0;
    int rc;
    while ((rc = next_line(d, &line, &len, e)) > 0)
        if (!blank(line, len))
            return take_document(d, line, len, e) < 0 ? -1 : 1;
    return rc;
}

static int next_jsonl(struct documents *d, struct piece *p, struct dha_err *e)
{
    if (!d->doc) {
        int rc = next_document(d, e);
        if (rc <= 0)
            return rc;
    }
    bool first = d->doc_at == 0;
    size_t len = cut(d->doc + d->doc_at, d->doc_len - d->doc_at);
    if (give(p, d->doc + d->doc_at, len, first, e) < 0)
        return -1;
    p->prompt = d->doc_prompt;
    d->doc_at += len;
    if (d->doc_at == d->doc_len) {
        free(d->doc);
        d->doc = NULL;
    }
    return 1;
}

int documents_next(struct documents *d, struct piece *p, struct dha_err *e)
{
    return d->jsonl ? next_jsonl(d, p, e) : next_text(d, p, e);
}
