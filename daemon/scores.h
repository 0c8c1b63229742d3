/* scores.h: what a result says beyond one loss: that of each domain of a mixture, and the scores on tasks. */
#ifndef DHA_DAEMON_SCORES_H
#define DHA_DAEMON_SCORES_H

#include "daemon/daemon.h"

/* Puts into a job's result: "domains" {NAME: {"parent", "converted", "final"}} from the stages' evaluations, "tasks" as the eval
 * stage's eval.json has them; null where there are none. */
int scores_put(struct daemon *d, const struct store_stages *l, cJSON *result, struct dha_err *e);

#endif
