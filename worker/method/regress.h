/* regress.h: layer-local regression: after the closed-form merge and the refit, the projections of every attention block are
 * fitted to the parent by a few hundred Adam steps, layer by layer from the first:
 *     min over W_q, W_k, W_v, W_o of layer l:   E || x' + f'_l(x') - (x + f_l(x)) ||^2 / E || x + f_l(x) - x' ||^2
 * f = attention block (norm, projections, RoPE, softmax, o_proj, biases), x and x' = residual streams of the parent and of the
 * converted model before it, so that a layer also makes up for what the layers before it broke. The loss of the
 * model is never computed and no gradient leaves the layer: a step needs one layer's activations and gradients.
 */
#ifndef DHA_WORKER_METHOD_REGRESS_H
#define DHA_WORKER_METHOD_REGRESS_H

#include "worker/method/method.h"

struct
    regress_report { /* relative errors of a layer (the formula above): before and after, over all its tokens. A fit that does
                         * not lower the error is not kept. */
    double first, last;
};
/* mha: the parent in MHA layout; merged: its conversion, changed in place. report [layers] or NULL. Collective: every rank
 * calls it and gets the same model. DHA_E_DIVERGED if an error is not finite. */
int regress_attention(const struct method_env *env, struct model *mha, struct model *merged,
                      struct regress_report *report, struct dha_err *e);

#endif
