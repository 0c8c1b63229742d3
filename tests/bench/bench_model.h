/* bench_model.h: what benchmarks of the worker share: a clock, a way out, random weights. */
#ifndef DHA_BENCH_MODEL_H
#define DHA_BENCH_MODEL_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "worker/data/corpus.h"
#include "worker/model/model.h"

static inline double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, why);
    exit(1);
}

static inline void fill(struct model *m)
{
    for (int i = 0; i < m->n_table; i++) {
        const struct param *p = &m->table[i];
        float *x = malloc(p->n * sizeof *x);
        if (!x)
            die("filling", "no memory");
        for (size_t k = 0; k < p->n; k++)
            x[k] = p->n_dims == 1 ? 1.0f
                                  : (float)((double)corpus_random(1, (uint64_t)i, 0, 0, k) /
                                                9223372036854775808.0 -
                                            1) *
                                        0.035f; /* uniform of standard deviation 0.02 */
        model_set(m, p, x);
        free(x);
    }
}

#endif
