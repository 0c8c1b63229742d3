/* expand.h: head maps undone. The expanded model has one key and one value head a query head (those that it
 * read, repeated), so it is a stock MHA LLaMA with the same logits: how a user checks a conversion
 * with software that knows nothing of it. */
#ifndef DHA_WORKER_EXPAND_H
#define DHA_WORKER_EXPAND_H

#include "worker/model/model.h"

int model_expand(struct model **out, struct model *from, struct dha_err *e);

#endif
