/* fsutil.h: the few file-system steps that publishing something durably takes. */
#ifndef DHA_WORKER_FSUTIL_H
#define DHA_WORKER_FSUTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

/* mkdir -p, mode 0777 & ~umask. */
int fs_make_dirs(const char *path, struct dha_err *e);
int fs_sync_dir(const char *path, struct dha_err *e);
/* Removes a file or a directory tree; a missing one is fine. */
int fs_remove_tree(const char *path, struct dha_err *e);
/* Copies one regular file (fsync'ed). */
int fs_copy_file(const char *from, const char *to, struct dha_err *e);
/* temp + fsync + rename + fsync of the directory. */
int fs_write_file(const char *path, const void *data, size_t n, struct dha_err *e);
/* write() all of it; ENOSPC is said as such. */
int fs_write_all(int fd, const void *data, size_t n, const char *path, struct dha_err *e);
/* XXH3-128 of a file's content in hex, and its length. */
enum { FS_DIGEST_CHARS = 33 };
int fs_digest(const char *path, char digest[FS_DIGEST_CHARS], int64_t *bytes, struct dha_err *e);
/* A digest of the same kind of what was fed to a state (xxhash.h). */
void fs_digest_hex(uint64_t high, uint64_t low, char digest[FS_DIGEST_CHARS]);
bool fs_exists(const char *path);
/* snprintf of a path; -1 if it does not fit. */
int fs_path(char *buf, size_t cap, struct dha_err *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
