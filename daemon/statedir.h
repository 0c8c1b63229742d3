/* statedir.h: what the daemon owns on disk, and that it alone does.
 *
 *   STATE/            0700
 *     lock            held by the store for the daemon's life: one daemon a state directory
 *     state.db metrics.db   the store's
 *     jobs/JOB/KIND/  out/ and a1/ a2/ ... (attempts)
 *     cache/          the workers' tokenised data
 *     dhad.log
 *
 * The socket may lie elsewhere. A socket file in the way is removed only while the lock is held and
 * only after a connection to it was refused: it is then a dead daemon's.
 */
#ifndef DHA_DAEMON_STATEDIR_H
#define DHA_DAEMON_STATEDIR_H

#include "proto/err.h"

/* mkdir -p with mode 0700 for what is made. */
int make_dirs(const char *path, struct dha_err *e);

/* Makes STATE and its folders; returns its absolute path (free it) or NULL. Takes no lock. */
char *statedir_make(const char *path, struct dha_err *e);

/* A listening unix socket at path, mode 0600, or -1. Call it only while holding the state's lock. */
int statedir_listen(const char *path, struct dha_err *e);

#endif
