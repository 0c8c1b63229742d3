/* align.h: heads of a group turned towards each other before they are merged (METHODS 2.2, 2.3, 2.5). */
#ifndef DHA_WORKER_METHOD_ALIGN_H
#define DHA_WORKER_METHOD_ALIGN_H

#include "worker/method/method.h"

/* A clone of env->parent (MHA) with the same function, whose key and value heads are aligned inside the groups of group_of
 * [2*layers*heads]: generalised Procrustes on the second moment of the layer's inputs over env->calib_tokens tokens.
 * Values: any orthogonal Q, W_v <- Q^T W_v and W_o <- W_o Q. Keys: one rotation a RoPE plane, W_k <- R^T W_k and
 * W_q <- R^T W_q. float64; every rank gets the same model. */
int align_apply(const struct method_env *env, const int *group_of, struct model **out,
                struct dha_err *e);

/* The two solutions of the pair problem, max tr(Q^T M) for M = X_i^T X_target [d,d]: Q [d,d]. */
int align_orthogonal(int d, const double *m, double *q, struct dha_err *e);
int align_planar(int d, const double *m, double *q, struct dha_err *e);

#endif
