/* optim.h: AdamW with its state sharded over the ranks (ZeRO-1).
 *
 * A group is one flat f32 buffer of parameters with its gradients. Rank r owns piece r of `chunk` elements: it alone
 * keeps the two moments of that piece and updates it. A step is: reduce-scatter the gradients, agree on the norm,
 * update the own piece, all-gather the parameters. Memory a rank: params 4 + grads 4 + 8/size bytes a parameter.
 */
#ifndef DHA_WORKER_OPTIM_H
#define DHA_WORKER_OPTIM_H

#include "kernels/kern.h"
#include "proto/err.h"
#include "worker/comm.h"

struct
    optim_span { /* elements [from, to) take this weight decay, and the group's learning rate times `rate` */
    size_t from, to;
    float weight_decay;
    float rate;
};
struct optim_group {
    struct kern_buf *params, *grads; /* borrowed, [n] */
    size_t n, chunk;
    struct kern_buf *m, *v;   /* owned, [own] */
    size_t own;               /* elements of this rank's piece */
    double lr;                /* peak */
    bool apart;               /* outside the global norm, never clipped */
    struct optim_span *spans; /* owned copy, ascending, covering [0,n) */
    int n_spans;
};
#define OPTIM_GROUPS 3 /* the model; omega, or merged heads; masks */
struct optim {
    struct kern *k;
    struct comm *comm;
    struct optim_group group[OPTIM_GROUPS];
    int n_groups;
    double clip; /* 0 = none */
    double beta1, beta2, eps;
};

void optim_init(struct optim *o, struct kern *k, struct comm *comm, double clip);
int optim_add(struct optim *o, struct kern_buf *params, struct kern_buf *grads, size_t n, double lr,
              const struct optim_span *spans, int n_spans, struct dha_err *e);
/* The group added last stays outside the norm: its gradient has a scale of its own, and must not shrink the others. */
void optim_apart(struct optim *o);
/* Sums the gradients over ranks; *norm = global norm over all groups, the same on every rank. */
int optim_reduce(struct optim *o, double *norm, struct dha_err *e);
/* Step t (from 1) with the learning rates times `factor`; gradients are zeroed. */
int optim_update(struct optim *o, int64_t t, double factor, double norm, struct dha_err *e);
void optim_finish(struct optim *o);

#endif
