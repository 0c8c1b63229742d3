/* nodes.h: the nodes of the settings (or this host alone) as rows with slots, cores and memory. */
#ifndef DHA_DAEMON_NODES_H
#define DHA_DAEMON_NODES_H

#include "daemon/daemon.h"

/* The cores that this process may use, ascending; how many, at least one. */
size_t nodes_own_cores(int *out, size_t cap);
/* In the open turn: what the settings say is what is there afterwards; what they do not name any more takes no work.
 * `slots`: of this host, where it is the only one. */
int nodes_register(struct daemon *d, const struct hosts *hosts, long slots, struct dha_err *e);

#endif
