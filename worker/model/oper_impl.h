/* oper_impl.h: what oper.c and mask.c share. */
#ifndef DHA_WORKER_OPER_IMPL_H
#define DHA_WORKER_OPER_IMPL_H

#include "worker/model/model_impl.h"

struct oper_sizes {
    size_t omega, weight, bias; /* of one entry */
};
struct oper_sizes oper_sizes(const struct model *m);

/* m->oper with groups and effective weights (undefined until applied), omega only for fusion. */
int oper_begin(struct model *m, const int *group_of, bool fusion, struct dha_err *e);
/* Mean Frobenius norm of the heads of group g of an entry over that of their mean. */
int oper_norm_ratio(struct model *m, int entry, int g, double *ratio, struct dha_err *e);

/* mask.c */
void oper_mask_apply(struct model *m);
void oper_mask_backward(struct model *m, struct kern_buf *grads);

#endif
