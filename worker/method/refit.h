/* refit.h: W_O of a converted model by ridge regression onto the parent's attention output (METHODS section 6).
 *
 * Life cycle. refit_open() draws the sequences; then for each layer in order refit_layer_open() keeps the parent's outputs of
 * that layer, refit_solve() is called for as many versions of it as wanted, refit_layer_close() moves on.
 * refit_outputs() is all of that for one version a layer.
 */
#ifndef DHA_WORKER_METHOD_REFIT_H
#define DHA_WORKER_METHOD_REFIT_H

#include "worker/method/layer.h"
#include "worker/method/walk.h"

struct refit {
    struct comm *comm;
    struct walk parent; /* owns this rank's sequences and the parent's residual stream */
    struct model *to;   /* whose layer is refitted */
    struct run *merged; /* that layer on the parent's inputs */
    int hd, width, layer;
    double *a, *x;              /* E[y'^T y'], E[y^T y'] [H*d, H*d] */
    float *y, *host;            /* the parent's outputs [all rows, H*d]; staging [rows, H*d] */
    double *wide, *wide2;       /* [rows, H*d] */
    struct attn_layer original; /* the parent's layer */
};

/* mha: the parent in MHA form; to: a conversion of it, or mha itself while it holds a trial's weights. total: sequences
 * of all ranks. On failure nothing is left open. */
int refit_open(struct refit *r, const struct method_env *env, struct model *mha, struct model *to,
               int total, struct dha_err *e);
void refit_close(struct refit *r);
int refit_layer_open(struct refit *r, int layer, struct dha_err *e);
/* Replaces o_proj of the layer that `to` holds now (the same on every rank). */
int refit_solve(struct refit *r, struct dha_err *e);
int refit_layer_close(struct refit *r, struct dha_err *e);

/* mha: the parent in MHA form; merged: its conversion, whose o_proj of every layer is replaced. */
int refit_outputs(const struct method_env *env, struct model *mha, struct model *merged,
                  struct dha_err *e);

#endif
