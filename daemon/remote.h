/* remote.h: what an attempt left on other nodes (launcher `hosts`). Nobody of ours lives there: each node of the attempt
 * is asked over ssh to run `dha-shim --sweep UUID TMP`, which kills everything that carries the attempt's tag and says by
 * its exit status whether anything is left.
 *
 * Until each has said that nothing is, the attempt is not over and keeps its slots (G4). One that does not answer makes
 * the attempt `unreachable`: it is asked again every few seconds, its other slots are given to nobody, and after
 * unreachable_s it is drained with the reason and the attempt ends as lost. One that answers that processes will not die
 * is drained as this host would be (G7). A daemon that starts anew asks all of them again.
 */
#ifndef DHA_DAEMON_REMOTE_H
#define DHA_DAEMON_REMOTE_H

#include "daemon/attempt.h"

/* One step, at every tick once the attempt's processes here are gone: true when no node has to be waited for any more. */
bool remote_step(struct attempt *a);
/* The daemon was stopped for so long: nobody could have asked. */
void remote_away(struct remote *r, uint64_t ms);
/* Forgets what is under way; NULL allowed. */
void remote_destroy(struct remote *r);
/* Does an attempt wait for any node? Else remote_is_silent() need not be asked of each. */
bool remote_any(const struct daemon *d);
/* Does somebody wait for this node to answer? */
bool remote_is_silent(const struct daemon *d, const char *node);
/* For which node the job waits, and for how long still; false if it does not. */
bool remote_waits(const struct daemon *d, int64_t job, char *text, size_t size);

#endif
