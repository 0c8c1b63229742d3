/* corpus.c: files side by side as one sequence of tokens, and where in it a training sequence starts. Rows of instruct
 * data are in corpus_rows.c, mixtures in corpus_mix.c.
 *
 * A corpus is a window [first, first + n) of the logical concatenation of its files. Holding out a tail makes
 * a second window on the same files, which are counted (not thread-safe: open, split and close on one
 * thread; drawing is safe from many).
 */
#include "worker/data/corpus_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void files_release(struct files *f)
{
    if (!f || --f->users > 0)
        return;
    for (int i = 0; i < f->n; i++) {
        mapped_file_close(&f->seg[i].map);
        free(f->seg[i].path);
    }
    free(f->starts);
    free(f);
}

static int open_segment(struct segment *s, const char *path, const struct corpus_options *o,
                        struct dha_err *e)
{
    s->path = strdup(path);
    if (!s->path)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory to open %s", path);
    if (!token_cache_format(o->format))
        return mapped_file_open(&s->map, path, e) < 0
                   ? -1
                   : token_span_parse(s->map.data, s->map.len, o->format, o->vocab, path, &s->span,
                                      e);
    if (token_cache_open(path, o, &s->map, &s->span, &s->classes, e) < 0)
        return -1;
    return 0; /* in the vocabulary: check_tokenizer() */
}

int spm_fits(const struct spm *s, const char *path, int vocab, struct dha_err *e)
{
    if (spm_vocab(s) <= vocab)
        return 0;
    dha_fail(e, DHA_E_INPUT, "%s has %d tokens: some are outside the model's vocabulary of %d",
             path, spm_vocab(s), vocab);
    dha_err_hint(e, "the tokenizer is not this model's");
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", path);
    return -1;
}

static int check_tokenizer(const struct corpus_options *o, struct dha_err *e)
{
    struct spm *s = NULL;
    int rc = 0;
    if (token_cache_format(o->format) && token_cache_check(o, e) == 0)
        rc = spm_open(&s, o->tokenizer, e) || spm_fits(s, o->tokenizer, o->vocab, e) ? -1 : 0;
    else if (token_cache_format(o->format))
        rc = -1;
    spm_close(s);
    return rc;
}

int corpus_open(struct corpus **out, char *const *paths, int n_paths,
                const struct corpus_options *o, struct dha_err *e)
{
    *out = NULL;
    if (n_paths < 1)
        return dha_fail(e, DHA_E_INPUT, "no data files given");
    if (check_tokenizer(o, e) < 0)
        return -1;
    struct corpus *c = calloc(1, sizeof *c);
    struct files *f = calloc(1, sizeof *f + (size_t)n_paths * sizeof *f->seg);
    if (!c || !f) {
        free(c);
        free(f);
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a corpus");
    }
    f->users = 1;
    c->f = f;
    for (int i = 0; i < n_paths; i++) {
        f->n = i + 1;
        f->seg[i].first = c->n;
        if (open_segment(&f->seg[i], paths[i], o, e) < 0) {
            corpus_close(c);
            return -1;
        }
        c->n += f->seg[i].span.n;
    }
    if (f->seg[0].classes && corpus_index_examples(f, e) < 0) {
        corpus_close(c);
        return -1;
    }
    c->n_ex = f->n_examples;
    *out = c;
    return 0;
}

void corpus_close(struct corpus *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n_domains; i++) {
        free((char *)(uintptr_t)c->domains[i].name); /* ours, though others only read it */
        corpus_close(c->domains[i].corpus);
    }
    free(c->domains);
    files_release(c->f);
    free(c);
}

int64_t corpus_tokens(const struct corpus *c)
{
    int64_t n = c->n;
    for (int i = 0; i < c->n_domains; i++)
        n += corpus_tokens(c->domains[i].corpus);
    return n;
}

int corpus_hold_out(struct corpus *c, int64_t n, struct corpus **tail, struct dha_err *e)
{
    *tail = NULL;
    if (!c->f)
        return dha_fail(e, DHA_E_INTERNAL, "a mixture's domains are held out one by one");
    int64_t x = c->ex; /* with examples: from the first that starts in the last n tokens */
    if (corpus_has_classes(c)) {
        x = corpus_example_at(c, c->first + c->n - n);
        n = c->f->starts[c->ex + c->n_ex] - c->f->starts[x];
    }
    if (n < 1 || n >= c->n)
        return dha_fail(e, DHA_E_INPUT, "cannot hold out %lld of %lld tokens of %s", (long long)n,
                        (long long)c->n, c->f->seg[0].path);
    struct corpus *t = malloc(sizeof *t);
    if (!t)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a corpus");
    c->n -= n;
    *t = (struct corpus){.f = c->f, .first = c->first + c->n, .n = n};
    if (corpus_has_classes(c)) {
        t->ex = x;
        t->n_ex = c->ex + c->n_ex - x;
        c->n_ex -= t->n_ex;
    }
    c->f->users++;
    *tail = t;
    return 0;
}

const struct segment *corpus_find(const struct files *f, int64_t at)
{
    int lo = 0, hi = f->n - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (f->seg[mid].first <= at)
            lo = mid;
        else
            hi = mid - 1;
    }
    return &f->seg[lo];
}

/* seq + 1 tokens from `at` on: ids are all but the last, targets all but the first. */
static void copy_out(const struct corpus *c, int64_t at, int seq, int32_t *ids, int32_t *targets)
{
    const struct segment *s = corpus_find(c->f, c->first + at);
    int64_t i = c->first + at - s->first;
    for (int t = 0; t <= seq; t++, i++) {
        while (i == s->span.n) {
            s++;
            i = 0;
        }
        int32_t token = (int32_t)token_at(&s->span, i);
        if (t < seq)
            ids[t] = token;
        if (t > 0)
            targets[t - 1] = token;
    }
}

int corpus_too_short(const char *path, int n_files, int64_t tokens, int seq, struct dha_err *e)
{
    dha_fail(e, DHA_E_INPUT, "%s%s: %lld tokens, but a sequence of %d needs %d", path,
             n_files > 1 ? " and the files after it" : "", (long long)tokens, seq, seq + 1);
    dha_err_hint(e, "give more data or a smaller data.seq_len");
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", path);
    return -1;
}

int corpus_check(const struct corpus *c, int seq, struct dha_err *e)
{
    for (int i = 0; i < c->n_domains; i++)
        if (corpus_check(c->domains[i].corpus, seq, e) < 0)
            return dha_err_context(e, "domain %s", c->domains[i].name);
    /* of examples, one is enough: a row takes them in turns */
    if (!c->f || c->n > seq || c->n_ex > 0)
        return 0;
    return corpus_too_short(c->f->seg[0].path, c->f->n, c->n, seq, e);
}

int64_t corpus_below(uint64_t random, int64_t n)
{
    return (int64_t)((unsigned __int128)random * (uint64_t)n >> 64);
}

int corpus_draw(const struct corpus *c, int64_t seed, enum corpus_stream stream, int64_t step,
                int64_t index, int seq, int32_t *ids, int32_t *targets, struct dha_err *e)
{
    if (!c->f)
        c = corpus_pick(c, seed, stream, step, index);
    if (corpus_check(c, seq, e) < 0)
        return -1;
    uint64_t x = corpus_random(seed, (uint64_t)stream, step, index, 0);
    if (corpus_has_classes(c))
        corpus_fill_row(c, c->ex + corpus_below(x, c->n_ex), seq, false, ids, targets, NULL);
    else
        copy_out(c, corpus_below(x, c->n - seq), seq, ids, targets);
    return 0;
}

bool corpus_has_classes(const struct corpus *c)
{
    return c->f ? c->f->starts != NULL : corpus_has_classes(c->domains[0].corpus);
}

int corpus_draw_classes(const struct corpus *c, int64_t seed, enum corpus_stream stream,
                        int64_t step, int64_t index, int seq, uint8_t *classes, struct dha_err *e)
{
    if (!c->f)
        c = corpus_pick(c, seed, stream, step, index);
    if (corpus_check(c, seq, e) < 0)
        return -1;
    memset(classes, CORPUS_TEXT, (size_t)seq);
    if (!corpus_has_classes(c))
        return 0;
    uint64_t x = corpus_random(seed, (uint64_t)stream, step, index, 0);
    int32_t *row = malloc(2 * (size_t)seq * sizeof *row);
    if (!row)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a row of %d tokens", seq);
    corpus_fill_row(c, c->ex + corpus_below(x, c->n_ex), seq, false, row, row + seq, classes);
    free(row);
    return 0;
}

int64_t corpus_windows(const struct corpus *c, int seq)
{
    if (!c->f)
        return 0;
    if (corpus_has_classes(c))
        return corpus_rows(c, seq);
    return c->n < 1 ? 0 : (c->n - 1) / seq;
}

int corpus_window(const struct corpus *c, int64_t i, int seq, int32_t *ids, int32_t *targets,
                  struct dha_err *e)
{
    if (corpus_check(c, seq, e) < 0)
        return -1;
    if (i < 0 || i >= corpus_windows(c, seq))
        return dha_fail(e, DHA_E_INTERNAL, "no window %lld of %lld", (long long)i,
                        (long long)corpus_windows(c, seq));
    if (corpus_has_classes(c))
        corpus_fill_row(c, corpus_row_example(c, i, seq), seq, true, ids, targets, NULL);
    else
        copy_out(c, i * seq, seq, ids, targets);
    return 0;
}

/* splitmix64's finaliser: a bijection of 64 bits in which every input bit flips every output bit with probability
 * close to one half. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t corpus_random(int64_t seed, uint64_t stream, int64_t step, int64_t index, uint64_t n)
{
    const uint64_t golden =
        0x9e3779b97f4a7c15u; /* 2^64 / golden ratio: odd, far from small multiples */
    uint64_t x = mix((uint64_t)seed + golden);
    x = mix(x + golden * (stream + 1));
    x = mix(x + golden * ((uint64_t)step + 1));
    x = mix(x + golden * ((uint64_t)index + 1));
    return mix(x + golden * (n + 1));
}
