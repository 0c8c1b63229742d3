/* action.h: commands that post one action for a job and say what became of it. */
#ifndef DHA_CLI_ACTION_H
#define DHA_CLI_ACTION_H

#include "cli/client.h"

/* POST /v1/jobs/ID/ACTION with body (borrowed, may be NULL). Prints "job 3 is held (state: held)" on stderr, or the job with
 * --json. done: the word for it. pick: of several jobs of that name. */
int action_post(const struct cli *cli, const struct args *a, const char *action, const cJSON *body,
                const char *done, enum client_pick pick, struct dha_err *e);

#endif
