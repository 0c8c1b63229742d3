/* regress.h: layer-local regression: after the closed-form merge and the refit, the projections of every attention block are
 * fitted to the parent by a few hundred Adam steps (layer_fit.h), layer by layer from the first:
 *     min over W_q, W_k, W_v, W_o of layer l:   E || x' + f'_l(x') - (x + f_l(x)) ||^2 / E || x + f_l(x) - x' ||^2
 * f = attention block, x and x' = residual streams of the parent and of the converted model before it, so that a layer also
 * makes up for what the layers before it broke.
 */
#ifndef DHA_WORKER_METHOD_REGRESS_H
#define DHA_WORKER_METHOD_REGRESS_H

#include "worker/method/layer_fit.h"
#include "worker/method/method.h"

/* mha: the parent in MHA layout; merged: its conversion, changed in place. report [layers] or NULL. Collective: every rank
 * calls it and gets the same model. DHA_E_DIVERGED if an error is not finite. */
int regress_attention(const struct method_env *env, struct model *mha, struct model *merged,
                      struct layer_fit_report *report, struct dha_err *e);

#endif
