/* corpus_rows.c: instruct data as rows of whole examples.
 *
 * A row of seq + 1 tokens begins with an example and goes on with those after it (the first one again after the last) as
 * long as they fit. What is left is the beginning of the next example: tokens to read, but not to predict. An example
 * that is longer than a row alone loses the beginning of its prompt. The first token of an example is never predicted: what
 * stands before it belongs to another one.
 */
#include <stdlib.h>
#include <string.h>

#include "worker/data/corpus_impl.h"

int corpus_index_examples(struct files *f, struct dha_err *e)
{
    int64_t n = 0, total = 0;
    for (int i = 0; i < f->n; i++) {
        total += f->seg[i].span.n;
        for (int64_t t = 0; t < f->seg[i].span.n; t++)
            n += (f->seg[i].classes[t] & TOKEN_STARTS) != 0;
    }
    f->starts = malloc((size_t)(n + 1) * sizeof *f->starts);
    if (!f->starts)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %lld examples", (long long)n);
    n = 0;
    for (int i = 0; i < f->n; i++)
        for (int64_t t = 0; t < f->seg[i].span.n; t++)
            if (f->seg[i].classes[t] & TOKEN_STARTS)
                f->starts[n++] = f->seg[i].first + t;
    f->starts[n] = total;
    f->n_examples = n;
    return 0;
}

int64_t corpus_example_at(const struct corpus *c, int64_t at)
{
    int64_t lo = c->ex, hi = c->ex + c->n_ex;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (c->f->starts[mid] < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int64_t length(const struct corpus *c, int64_t example)
{
    return c->f->starts[example + 1] - c->f->starts[example];
}

static int64_t next(const struct corpus *c, int64_t example)
{
    return example + 1 < c->ex + c->n_ex ? example + 1 : c->ex;
}

struct row {
    int seq;
    bool answers;
    int32_t *ids, *targets;
    uint8_t *classes;
};

/* Token number `t` of the row: read in row t, predicted in row t - 1. */
static void put(struct row *r, int t, int32_t token, uint8_t class)
{
    bool counts = class == CORPUS_ANSWER || (class == CORPUS_PROMPT && !r->answers);
    if (t < r->seq)
        r->ids[t] = token;
    if (t == 0)
        return;
    r->targets[t - 1] = counts ? token : -1;
    if (r->classes)
        r->classes[t - 1] = class;
}

void corpus_fill_row(const struct corpus *c, int64_t from, int seq, bool answers, int32_t *ids,
                     int32_t *targets, uint8_t *classes)
{
    struct row r = {seq, answers, ids, targets, classes};
    int64_t example = from;
    bool again = false; /* behind the last example: an evaluation has counted what comes */
    for (int at = 0; at <= seq;) {
        int64_t n = length(c, example), room = (int64_t)seq + 1 - at;
        /* alone and too long: its end; behind others and too long: its beginning, uncounted */
        int64_t skip = at == 0 && n > room ? n - room : 0;
        bool counts = at == 0 || (n <= room && !(again && answers));
        const struct segment *s = corpus_find(c->f, c->f->starts[example]);
        int64_t i = c->f->starts[example] - s->first + skip;
        for (int64_t k = 0; k < n - skip && at <= seq; k++, i++, at++) {
            uint8_t class = s->classes[i] & TOKEN_CLASS;
            put(&r, at, (int32_t)token_at(&s->span, i),
                counts && k + skip > 0 ? class : (uint8_t)CORPUS_TEXT);
        }
        example = next(c, example);
        again = again || example == c->ex;
    }
}

/* Examples of the row that begins with `from`, without going beyond the last. */
static int64_t in_row(const struct corpus *c, int64_t from, int seq)
{
    int64_t room = (int64_t)seq + 1, n = 0;
    for (int64_t x = from; x < c->ex + c->n_ex; x++, n++) {
        if (n > 0 && length(c, x) > room)
            break;
        room -= length(c, x);
        if (room <= 0)
            return n + 1;
    }
    return n;
}

int64_t corpus_row_example(const struct corpus *c, int64_t i, int seq)
{
    for (int64_t x = c->ex; x < c->ex + c->n_ex; i--, x += in_row(c, x, seq))
        if (i == 0)
            return x;
    return -1;
}

int64_t corpus_rows(const struct corpus *c, int seq)
{
    int64_t n = 0;
    for (int64_t x = c->ex; x < c->ex + c->n_ex; x += in_row(c, x, seq))
        n++;
    return n;
}

int64_t corpus_overlong(const struct corpus *c, int seq)
{
    int64_t n = 0;
    for (int i = 0; i < c->n_domains; i++)
        n += corpus_overlong(c->domains[i].corpus, seq);
    for (int64_t x = c->ex; x < c->ex + c->n_ex; x++)
        n += length(c, x) > (int64_t)seq + 1;
    return n;
}
