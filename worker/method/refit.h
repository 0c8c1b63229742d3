/* refit.h: W_O of a converted model by ridge regression onto the parent's attention output (METHODS section 6). */
#ifndef DHA_WORKER_METHOD_REFIT_H
#define DHA_WORKER_METHOD_REFIT_H

#include "worker/method/method.h"

/* mha: the parent in MHA form; merged: its conversion, whose o_proj of every layer is replaced. */
int refit_outputs(const struct method_env *env, struct model *mha, struct model *merged,
                  struct dha_err *e);

#endif
