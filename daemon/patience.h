/* patience.h: files of users that may not answer. A file system may hang (NFS, automount, one that a user made), and who asks it
 * for a file's date cannot be told to stop. So it is asked in a thread, which is left to itself if it does not come back; of
 * those there are so many at most, and no user's use up what others need.
 *
 * patience_run() is for what the loop itself has to wait for: PATIENCE_MS, and while other files of that user hang
 * PATIENCE_AGAIN_MS. What has not answered is remembered until it does: if that user names it again meanwhile, that is told at
 * once. (Submissions, of which there are thousands, are read beside the loop: draft.h. It leaves its threads here as well.)
 */
#ifndef DHA_DAEMON_PATIENCE_H
#define DHA_DAEMON_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/err.h"

enum {
    PATIENCE_MS = 2000,
    PATIENCE_AGAIN_MS = 1000,
    PATIENCE_OF_ONE = 4, /* threads of patience_run() that may hang for one user */
    PATIENCE_HANGING_MAX = 32
};

/* work(arg) in a thread. 0: it is done, and arg the caller's as before. -1: TRANSIENT with e that names `what` (a path, which
 * also tells what of that user's hangs); then arg is no longer the caller's: drop(arg) is called when the work comes back, or
 * at once where it was not begun. */
int patience_run(void (*work)(void *arg), void (*drop)(void *arg), void *arg, int64_t owner_uid,
                 const char *what, struct dha_err *e);

/* A thread that is left to itself, in whoever's memory. */
struct patience_left {
    int64_t owner;
    const char *what; /* NULL where the loop does not wait for it */
    struct patience_left *next;
};

/* False: there are too many. Any thread. */
bool patience_leave(struct patience_left *l);
void patience_back(struct patience_left *l);
unsigned patience_hanging(void);
/* A thread that nobody joins. TRANSIENT where none can be had. */
int patience_thread(void (*run)(void *arg), void *arg, const char *purpose, struct dha_err *e);

#endif
