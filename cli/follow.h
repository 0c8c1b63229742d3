/* follow.h: following jobs until they end.
 *
 * On a terminal the view is redrawn in place twice a second; elsewhere a plain line is printed when a job's state
 * or stage changes and, while a stage runs, at most every ten seconds with how far it is. Ctrl-C ends the following, never the jobs. A daemon that
 * goes away for a while (a restart, an upgrade) is waited for: the stages run on without it.
 */
#ifndef DHA_CLI_FOLLOW_H
#define DHA_CLI_FOLLOW_H

#include "cli/client.h"
#include "cli/fmt.h"

enum follow_end { FOLLOW_ENDED, FOLLOW_INTERRUPTED };

/* docs[i] receives the last document of ids[i] (owned by the caller, also on failure where not NULL).
 * n == 1: the detailed view; more: one line a job. Returns an enum follow_end or -1. */
int follow_jobs(struct client *c, const char *const *ids, int n, FILE *out, cJSON **docs,
                struct dha_err *e);

#endif
