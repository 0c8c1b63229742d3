/* budget.h: from the budget of a spec to numbers of heads; pure. A budget that cannot be met is DHA_E_SPEC, with the budgets that
 * can as the hint. In proto, because the worker computes with it and the controller refuses by it before anything is queued.
 */
#ifndef DHA_PROTO_BUDGET_H
#define DHA_PROTO_BUDGET_H

#include "proto/spec.h"

/* Heads kept in every layer under a uniform budget; the budget must give a whole number (a divisor of heads unless the
 * method takes any count). */
int budget_uniform(const struct job_spec *s, int heads, int *n, struct dha_err *e);
/* Heads to keep in all, K and V of every layer; each needs one of each. */
int budget_total(const struct job_spec *s, int layers, int heads, int *total, struct dha_err *e);
/* Can the spec's method meet its budget on a model of this shape? */
int budget_check(const struct job_spec *s, int layers, int heads, struct dha_err *e);

#endif
