/* exchange.h: better head counts for the same budget (METHODS section 6, "Budget").
 *
 * The plan's costs are those of one entry merged alone into the parent; the knapsack adds them up. Near its answer the costs
 * are measured again, with all other entries merged and every layer refitted, and counts move to a neighbouring choice
 * where the loss of the whole converted model says so.
 */
#ifndef DHA_WORKER_METHOD_EXCHANGE_H
#define DHA_WORKER_METHOD_EXCHANGE_H

#include "worker/method/method.h"

struct exchange_report {            /* losses in nats a token on the cost sequences (STREAM_COST) */
    double parent;                  /* of the parent */
    double before;                  /* of the model merged by the pick that came in */
    double after;                   /* ... by the pick that went out: never above `before` */
    int64_t sequences;              /* they were measured on */
    int evaluations, rounds, moves; /* moves: changes of the pick that were kept */
};

/* pick [2*layers]: a choice of every entry of p; improved in place within `total` heads. The same on every rank. */
int exchange_improve(const struct method_env *env, const struct plan *p, int total, int *pick,
                     struct exchange_report *report, struct dha_err *e);

#endif
