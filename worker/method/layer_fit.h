/* layer_fit.h: the attention block of one layer fitted to given outputs by Adam:
 *     min over W_q, W_k, W_v, W_o and biases of layer l:   E || f_l(x) - t ||^2 / E || t ||^2
 * f = attention block (norm, projections, RoPE, softmax, o_proj, biases), x = its inputs, t = its wanted outputs. The loss of
 * the model is never computed and no gradient leaves the layer: a step needs one layer's activations and gradients.
 *
 * Used on the converted model after the merge (regress.h) and on the parent for the costs of a plan (spectral_plan.c),
 * where shared heads are equal rows and kept so.
 *
 * Sequences. Step s of an epoch takes the sequences k * steps + s, k = 0, 1, ...: rank r holds a contiguous share of all
 * sequences and so has about as many of every step, and a step's gradient does not depend on how many ranks there are
 * (beyond rounding). What is left over is not read.
 */
#ifndef DHA_WORKER_METHOD_LAYER_FIT_H
#define DHA_WORKER_METHOD_LAYER_FIT_H

#include "worker/comm.h"
#include "worker/model/model.h"
#include "worker/train/optim.h"

struct layer_fit {
    struct comm *comm;
    struct model *model; /* whose layers are fitted, in place */
    struct kern *k;
    struct run *run;           /* RUN_LAYER */
    int total, mine, per_step; /* sequences of all ranks, of this rank; a step's */
    int steps;                 /* an epoch */
    int64_t first;             /* of this rank */
    int batch;                 /* of the run */
    size_t each;               /* seq * hidden: numbers of one sequence */
    /* the present layer: its span of the arena, copied, and its gradients */
    struct kern_buf *params, *grads, *kept;
    size_t from, n;
    struct optim optim;
};
/* Of one layer: [mine, seq, hidden] each, in this rank's order; energy = sum of squares of all ranks' targets. */
struct layer_fit_data {
    struct kern_buf *input, *target;
    double energy;
};
struct layer_fit_options {
    int64_t steps; /* asked for; at most `passes` through the sequences */
    int passes;
    const int *keys,
        *values; /* group_of [heads]: rows of a group stay equal; NULL: every row for itself */
    /* after every step, of `steps`; non-zero ends the fit with that error; may be NULL */
    int (*progress)(void *arg, int64_t step, int64_t steps, struct dha_err *e);
    void *arg;
};
/* The relative error (the formula above) before and after. A fit that does not lower it is not kept. */
struct layer_fit_report {
    double first, last;
};

/* total sequences of all ranks, of `seq` tokens. */
int layer_fit_open(struct layer_fit *f, struct comm *comm, struct model *m, int total, int seq,
                   struct dha_err *e);
void layer_fit_close(struct layer_fit *f);
/* Steps that a fit will take. */
int64_t layer_fit_steps(const struct layer_fit *f, const struct layer_fit_options *o);
/* Collective over the comm given to layer_fit_open(). DHA_E_DIVERGED if an error is not finite. */
int layer_fit(struct layer_fit *f, int layer, const struct layer_fit_data *data,
              const struct layer_fit_options *o, struct layer_fit_report *report,
              struct dha_err *e);

#endif
