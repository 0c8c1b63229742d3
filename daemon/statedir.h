/* statedir.h: what the daemon owns on disk, and that it alone does.
 *
 *   STATE/            0700 (0711, with jobs/ and cache/, once jobs of other users run: runas.h)
 *     lock            held by the store for the daemon's life: one daemon a state directory
 *     state.db metrics.db   the store's
 *     jobs/JOB/KIND/  out/ and a1/ a2/ ... (attempts)
 *     cache/          the workers' tokenised data
 *     dhad.log
 *
 * The socket may lie elsewhere. A directory that is made for it has mode 0700, or as much more as lets in whom the
 * settings let in; one that is there already is its owner's business (a warning says who cannot pass it). A socket file in the way is removed only while the lock is held and
 * only after a connection to it was refused: it is then a dead daemon's.
 */
#ifndef DHA_DAEMON_STATEDIR_H
#define DHA_DAEMON_STATEDIR_H

#include "daemon/access.h"

/* mkdir -p with mode 0700 for what is made. */
int make_dirs(const char *path, struct dha_err *e);

/* Makes STATE and its folders; returns its absolute path (free it) or NULL. Takes no lock. */
char *statedir_make(const char *path, struct dha_err *e);

/* A listening unix socket at path, or -1. Call it only while holding the state's lock. It is 0600 from its first
 * moment; then it is opened as far as statedir_open_socket() says. */
int statedir_listen(const char *path, const struct access *a, struct dha_err *e);
/* Mode and group of the socket file as the settings want them: 0600; 0660 with a group; 0666 where others may read.
 * What lets users in is the daemon's check of each request: this is the door before it. */
int statedir_open_socket(const char *path, const struct access *a, struct dha_err *e);

#endif
