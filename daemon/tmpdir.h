/* tmpdir.h: an attempt's temporary directory: short, because Open MPI puts unix sockets below it, and
 * removed with all that is in it: by the shim, or by the daemon when the shim was killed. Shared by dhad
 * and dha-shim; needs nothing but libc. */
#ifndef DHA_DAEMON_TMPDIR_H
#define DHA_DAEMON_TMPDIR_H

#define TMPDIR_SIZE 32

/* A new directory's name into out: 0 / -1 with errno. dir: the attempt's directory, where the name is written (tmp.name)
 * before the directory is made: who is killed before shim.json names it leaves it to tmpdir_unmake(). */
int tmpdir_make(int dir, char out[TMPDIR_SIZE]);
/* Removes what tmpdir_make(dir, ) made, if it is there and empty: for attempts without shim.json, whose command never ran.
 * tmpdir_make() does it first. */
void tmpdir_unmake(int dir);
/* Removes it; links are removed, not followed. Refuses (-1) a name that tmpdir_make() cannot have made. */
int tmpdir_remove(const char *name);
/* Any directory with all that is in it; links are removed, not followed: 0 / -1 with errno. */
int tree_remove(const char *path);

#endif
