/* sample.h: the next token from a row of logits.
 *
 * temperature 0: the largest logit, the first of equals. Else, in the order transformers applies them:
 *   z / temperature;  top_k > 0: only the k largest;  top_p < 1: only the smallest set of the largest whose probabilities reach
 *   top_p;  then one draw from softmax(z) over what is left.
 * The draw is a function of (seed, index) alone: the same seed gives the same text, and nothing is carried along.
 */
#ifndef DHA_WORKER_SAMPLE_H
#define DHA_WORKER_SAMPLE_H

#include <stdint.h>

#include "proto/err.h"

struct sampler {
    double temperature; /* >= 0 */
    int top_k;          /* 0: all */
    double top_p;       /* (0, 1] */
    int64_t seed;
};

/* What is wrong with it, or 0. */
int sampler_check(const struct sampler *s, struct dha_err *e);
/* *token: the index-th of the text. A logit that is not a number is an error. */
int sample(const struct sampler *s, const float *logits, int vocab, int64_t index, int32_t *token,
           struct dha_err *e);

#endif
