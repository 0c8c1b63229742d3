/* mask.h: masks on a model (METHODS 2.6): one z a layer and original head, the same for keys and values, between the head as it
 * was (z = 1) and the head W' that its group will share (z = 0):
 *
 *   eff_h = z_h W_h + (1 - z_h) W'_group(h)           dW_h   = z_h deff_h
 *   dz_h  = <deff_h, W_h - W'_group(h)>               dW'_g  = sum over h in g of (1 - z_h) deff_h
 *
 * on weights, once a step. W' starts as the mean of the members' weights and is trained with them. Life cycle:
 * model_mask_attach() makes the model's operators (z = 1: exactly the MHA model); whoever owns the schedule writes z before
 * model_oper_apply() and reads dz after model_oper_backward(); model_oper_detach() frees. With all z = 0 the model is the
 * grouped model with heads W', whatever W_h.
 */
#ifndef DHA_WORKER_MASK_H
#define DHA_WORKER_MASK_H

#include "worker/model/model.h"

struct model_mask {
    float *z;   /* host, [layers*heads] */
    double *dz; /* host, [layers*heads]: of the last backward, this rank's */
    /* W' of entry e: groups * dim rows of `hidden` at at[e], its biases (if any) at bias_at[e] */
    size_t n, *at, *bias_at;
    struct kern_buf *merged, *dmerged; /* [n] */
};

/* norm_restore: each W' is scaled to its members' mean Frobenius norm (METHODS 2.9), its bias with it. */
int model_mask_attach(struct model *m, const int *group_of, bool norm_restore, struct dha_err *e);
void model_mask_free(struct model *m, struct model_mask *mask); /* NULL is fine; called by detach */
/* Cosine of head h's key and value weights with the W' of its groups: who is near what it will become. */
int model_mask_similarity(struct model *m, int layer, int h, double *cosine, struct dha_err *e);

#endif
