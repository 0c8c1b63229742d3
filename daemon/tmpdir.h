/* tmpdir.h: an attempt's temporary directory: short, because Open MPI puts unix sockets below it, and
 * removed with all that is in it: by the shim, or by the daemon when the shim was killed. Shared by dhad
 * and dha-shim; needs nothing but libc. */
#ifndef DHA_DAEMON_TMPDIR_H
#define DHA_DAEMON_TMPDIR_H

#define TMPDIR_SIZE 32

/* A new directory's name into out: 0 / -1 with errno. */
int tmpdir_make(char out[TMPDIR_SIZE]);
/* Removes it; links are removed, not followed. Refuses (-1) a name that tmpdir_make() cannot have made. */
int tmpdir_remove(const char *name);
/* Any directory with all that is in it; links are removed, not followed: 0 / -1 with errno. */
int tree_remove(const char *path);

#endif
