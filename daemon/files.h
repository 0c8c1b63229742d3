/* files.h: reading, copying and moving what stages left. Works on paths only: no store, no loop, any thread. */
#ifndef DHA_DAEMON_FILES_H
#define DHA_DAEMON_FILES_H

#include <stdbool.h>
#include <sys/types.h>

#include "daemon/progress.h"

#define FILES_PATH   4400
#define FILES_SHA256 65 /* hex + NUL */
#define FILES_XXH3   33 /* XXH3-128 in hex + NUL */

/* snprintf into FILES_PATH bytes; a path that does not fit is DHA_E_INPUT. */
int files_path(char out[FILES_PATH], struct dha_err *e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Is anything there (links are not followed)? */
bool files_there(const char *path);

struct files_seen {
    int64_t bytes;
    uid_t owner;
    char sha256[FILES_SHA256], xxh3[FILES_XXH3];
};
/* Reads a regular file (a link is refused) to its end; its bytes count as progress. */
int files_digest(const char *path, struct progress *p, struct files_seen *out, struct dha_err *e);
/* The same while writing it to `to`, a new file, synced. */
int files_copy(const char *path, const char *to, struct progress *p, struct files_seen *out,
               struct dha_err *e);

/* Every regular file below dir, depth first, in the order of names; relative has no leading slash. Links, sockets and
 * their like are left out. fn returns -1 to end the walk. */
int files_walk(const char *dir, int (*fn)(void *arg, const char *relative, int64_t bytes),
               void *arg, struct dha_err *e);

/* DHA_E_NO_SPACE where that much is not free on dir's file system: known before a long copy. */
int files_need_space(const char *dir, int64_t bytes, struct dha_err *e);
/* Makes the directories above path. */
int files_make_parent(const char *path, struct dha_err *e);
int files_sync_dir(const char *path, struct dha_err *e);

#endif
