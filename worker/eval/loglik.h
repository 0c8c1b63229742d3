/* loglik.h: log-likelihoods of continuations, as lm-evaluation-harness's HFLM computes them (_encode_pair,
 * _loglikelihood_tokens), in batches that are dealt to the ranks. Which requests share a batch does not depend on the
 * number of ranks.
 */
#ifndef DHA_WORKER_LOGLIK_H
#define DHA_WORKER_LOGLIK_H

#include "worker/comm.h"
#include "worker/data/corpus.h"
#include "worker/model/model.h"

struct request {
    int32_t *tokens; /* [n], owned: context, then continuation */
    int n, n_cont;   /* at most model positions + 1; n_cont < n */
    bool cut;        /* the beginning is missing: it did not fit */
};
struct loglik {
    double sum;  /* nats */
    bool greedy; /* each token of the continuation is the most likely one */
};

/* Tokens of context and continuation. The context's trailing white space goes to the continuation; the two are encoded
 * together, and the continuation is what lies behind as many tokens as the context alone has. What does not fit `positions`
 * (the last token is only predicted) is cut off from the left. start: a token put before the context, -1: none; an empty
 * context needs one, `start_empty`. */
struct request_options {
    int positions, start, start_empty;
};
int request_make(const struct spm *s, const char *context, const char *continuation,
                 const struct request_options *o, struct request *r, struct dha_err *e);
void request_finish(struct request *r);

/* out [n]: the same on every rank. */
int loglik_all(struct model *m, const struct request *r, size_t n, struct comm *comm,
               struct loglik *out, struct dha_err *e);

#endif
