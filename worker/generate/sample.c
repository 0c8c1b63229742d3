#include "worker/generate/sample.h"

#include <math.h>
#include <stdlib.h>

#include "worker/data/corpus.h"

#define STREAM 17 /* corpus_random()'s streams below are the corpora's */

struct candidate {
    double p; /* logit, then its share */
    int32_t token;
};

int sampler_check(const struct sampler *s, struct dha_err *e)
{
    if (!(s->temperature >= 0 && s->temperature <= 100))
        return dha_fail(e, DHA_E_USAGE, "the temperature must be 0 to 100");
    if (s->top_k < 0)
        return dha_fail(e, DHA_E_USAGE, "top-k must be 0 (all tokens) or more");
    if (!(s->top_p > 0 && s->top_p <= 1))
        return dha_fail(e, DHA_E_USAGE, "top-p must be over 0 and at most 1");
    if (s->temperature == 0 && (s->top_k > 0 || s->top_p < 1)) {
        dha_fail(e, DHA_E_USAGE, "top-k and top-p have nothing to choose from at temperature 0");
        return dha_err_hint(e, "give a temperature, for example --temperature 0.8");
    }
    return 0;
}

static int32_t largest(const float *z, int n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (z[i] > z[best])
            best = i;
    return best;
}

/* Largest first; equals by token. */
static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->p != y->p)
        return x->p < y->p ? 1 : -1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* Logits of n candidates -> shares; returns their sum, 1 but for rounding. */
static double softmax(struct candidate *c, int n, double max, double temperature)
{
    double sum = 0, whole = 0;
    for (int i = 0; i < n; i++)
        sum += c[i].p = exp((c[i].p - max) / temperature);
    for (int i = 0; i < n; i++)
        whole += c[i].p /= sum;
    return whole;
}

/* How many of the largest reach top_p; *sum: what they have. At least one. */
static int nucleus(const struct candidate *c, int n, double top_p, double *sum)
{
    double s = 0;
    int kept = 0;
    while (kept < n && s < top_p)
        s += c[kept++].p;
    *sum = s;
    return kept;
}

int sample(const struct sampler *s, const float *logits, int vocab, int64_t index, int32_t *token,
           struct dha_err *e)
{
    for (int i = 0; i < vocab; i++)
        if (!isfinite(logits[i]))
            return dha_fail(e, DHA_E_INPUT, "the model's logit of token %d is %s", i,
                            isnan(logits[i]) ? "not a number" : "infinite");
    int32_t best = largest(logits, vocab);
    *token = best;
    if (s->temperature == 0)
        return 0;
    struct candidate *c = malloc((size_t)vocab * sizeof *c);
    if (!c)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %d candidates", vocab);
    int n = vocab;
    for (int i = 0; i < vocab; i++)
        c[i] = (struct candidate){(double)logits[i], i};
    if (s->top_k > 0 || s->top_p < 1)
        qsort(c, (size_t)n, sizeof *c, by_logit);
    if (s->top_k > 0 && s->top_k < n)
        n = s->top_k;
    double sum = softmax(c, n, (double)logits[best], s->temperature);
    if (s->top_p < 1)
        n = nucleus(c, n, s->top_p, &sum);
    /* 53 random bits: a number in [0, sum) */
    double left = sum * (double)(corpus_random(s->seed, STREAM, 0, index, 0) >> 11) /
                  9007199254740992.0;
    int at = 0;
    while (at < n - 1 && left >= c[at].p)
        left -= c[at++].p;
    while (at > 0 && c[at].p == 0) /* rounding may lead past the last that has a share */
        at--;
    *token = c[at].token;
    free(c);
    return 0;
}
