/* layer.h: the attention weights of one layer in float64 on the host, always in MHA layout: every query head has
 * key and value rows of its own, heads that share them hold equal copies. All merges are done on this layout;
 * layer_store() compacts it for the head maps of the model it writes to, so that the same merge serves a
 * trial in the MHA model (measured costs) and the converted model.
 *
 * method_expand() is where a GQA input becomes MHA: everything behind it sees heads query, key and value heads.
 */
#ifndef DHA_WORKER_METHOD_LAYER_H
#define DHA_WORKER_METHOD_LAYER_H

#include "worker/model/model.h"

struct attn_layer {
    int heads, dim, width; /* H, d, D = hidden size */
    bool bias;
    double *q, *k, *v;         /* [H*d, D]: y = x W^T, head h owns rows h*d .. h*d+d-1 */
    double *o;                 /* [D, H*d]: head h owns columns h*d .. */
    double *bq, *bk, *bv, *bo; /* [H*d] three times, [D]; NULL without bias */
    double *block;             /* the one allocation behind them */
};

int layer_load(struct attn_layer *a, struct model *m, int layer, struct dha_err *e);
int layer_copy(struct attn_layer *to, const struct attn_layer *from, struct dha_err *e);
void layer_finish(struct attn_layer *a);
size_t layer_numbers(const struct attn_layer *a); /* of the block */
/* Rounds to f32 and writes into layer `layer` of m: of each kept head the rows of the first query head that
 * maps to it. m must have the same heads, dim and width. */
int layer_store(const struct attn_layer *a, struct model *m, int layer, struct dha_err *e);

/* The model itself if every head has its own key and value head (*owned = false), else an MHA model with the
 * shared heads repeated, to be freed by the caller (*owned = true). Same function, same logits. */
int method_expand(struct model *m, struct model **mha, bool *owned, struct dha_err *e);
/* A new model with the parameters of `from` outside attention and head maps from group_of [2*layers*heads]
 * (entry 2l: keys, 2l+1: values); q_proj, k_proj, v_proj, o_proj and their biases are left zero. */
int method_with_maps(struct model *from, const int *group_of, struct model **out,
                     struct dha_err *e);
/* The same, with attention: each layer of `from` is loaded, changed by `change` (which makes the rows of each group's members
 * equal) and stored. */
typedef int layer_change(void *arg, int layer, struct attn_layer *a, struct dha_err *e);
int method_rebuild(struct model *from, const int *group_of, layer_change *change, void *arg,
                   struct model **out, struct dha_err *e);
/* Fails unless every entry of group_of is a canonical partition (groups_canonical()). */
int method_check_groups(const int *group_of, int layers, int heads, struct dha_err *e);
/* Calibration is possible: enough tokens asked for, planes come in pairs. */
struct method_env;
int method_check_env(const struct method_env *env, struct dha_err *e);
/* The queue's sticky error as a dha_err: 0 if all work so far is done and well. */
int method_sync(struct kern *k, const char *doing, struct dha_err *e);

#endif
