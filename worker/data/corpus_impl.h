/* corpus_impl.h: what a corpus is inside; for corpus.c, corpus_rows.c and corpus_mix.c only. */
#ifndef DHA_WORKER_CORPUS_IMPL_H
#define DHA_WORKER_CORPUS_IMPL_H

#include "worker/data/corpus.h"
#include "worker/data/token_cache.h"
#include "worker/data/token_file.h"

struct segment {
    char *path;
    struct mapped_file map;
    struct token_span span;
    const uint8_t *classes; /* [span.n], see token_cache.h; NULL without */
    int64_t first;          /* of the concatenation */
};

struct files {
    int users, n;
    int64_t
        *starts; /* instruct: where each example starts, and behind the last one [n_examples + 1] */
    int64_t n_examples;
    struct segment seg[]; /* [n] */
};

/* Either a window [first, first + n) of files, made of the examples [ex, ex + n_ex) if they have classes, or a mixture. */
struct corpus {
    struct files *f; /* NULL: a mixture */
    int64_t first, n;
    int64_t ex, n_ex;
    int n_domains;
    struct corpus_domain *domains; /* weights cumulative: the last is 1 */
};

/* The file that holds token `at` of the concatenation. */
const struct segment *corpus_find(const struct files *f, int64_t at);
/* Finds the examples of files with classes. */
int corpus_index_examples(struct files *f, struct dha_err *e);
/* The smallest example of c that starts at or behind token `at` of the concatenation, c->ex + c->n_ex if none does. */
int64_t corpus_example_at(const struct corpus *c, int64_t at);
/* A row that begins with example `from`; classes may be NULL. answers: only answers have targets. */
void corpus_fill_row(const struct corpus *c, int64_t from, int seq, bool answers, int32_t *ids,
                     int32_t *targets, uint8_t *classes);
/* First example of evaluation row i, or -1; and the number of rows. */
int64_t corpus_row_example(const struct corpus *c, int64_t i, int seq);
int64_t corpus_rows(const struct corpus *c, int seq);
/* The domain of a draw: a pure function of its arguments. */
const struct corpus *corpus_pick(const struct corpus *c, int64_t seed, enum corpus_stream stream,
                                 int64_t step, int64_t index);
/* 0 <= result < n, uniform but for 2^-64 n. */
int64_t corpus_below(uint64_t random, int64_t n);

#endif
