/* probing.h: asking nodes what they have (proto/probe.h) where the settings do not say: this host by starting the worker,
 * others over ssh. In the background; who does not answer is asked again. */
#ifndef DHA_DAEMON_PROBING_H
#define DHA_DAEMON_PROBING_H

#include "daemon/daemon.h"
#include "proto/probe.h"

/* Asks whoever has to be asked and was not; from the loop, after the settings were read. */
void probing_start(struct daemon *d);
/* What the node said; NULL: nothing yet. */
const struct probe *probing_answer(const struct daemon *d, const char *node);
void probing_close(struct daemon *d);

#endif
