/* sweep_watch.h: stops the jobs that dominate.h finds, where a sweep asked for it ("stop_dominated"). */
#ifndef DHA_DAEMON_SWEEP_WATCH_H
#define DHA_DAEMON_SWEEP_WATCH_H

#include "daemon/daemon.h"

/* Inside the open turn, after new evaluations came in. Level-triggered: it looks at what is stored, so that a
 * daemon that was killed comes to the same end. The intent to cancel is one transaction with the evaluation that
 * caused it. */
int sweep_watch(struct daemon *d, struct dha_err *e);

#endif
