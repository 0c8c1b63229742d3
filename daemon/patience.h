/* patience.h: work on users' files that the loop has to wait for, but not for ever. A file system may hang (NFS, automount,
 * one that a user made), and who asks it for a file's date cannot be told to stop. So it is asked in a thread of its own, and
 * the loop waits PATIENCE_MS at most. What has not answered is remembered until it does: who names it again meanwhile is
 * told so at once. (Submissions, of which there are thousands, are read in one thread beside the loop: draft.h.)
 */
#ifndef DHA_DAEMON_PATIENCE_H
#define DHA_DAEMON_PATIENCE_H

#include "proto/err.h"

enum { PATIENCE_MS = 2000, PATIENCE_HANGING_MAX = 64 };

/* work(arg) in a thread. 0: it is done, and arg the caller's as before. -1: TRANSIENT with e that names `what` (a path, which
 * also tells what hangs); then arg is no longer the caller's: drop(arg) is called when the work comes back, or at once where
 * it was not begun. */
int patience_run(void (*work)(void *arg), void (*drop)(void *arg), void *arg, const char *what,
                 struct dha_err *e);

#endif
