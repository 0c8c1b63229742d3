#include "worker/fsutil.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

int fs_path(char *buf, size_t cap, struct dha_err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, cap, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= cap)
        return dha_fail(e, DHA_E_INPUT, "a path is longer than %zu bytes: %.80s...", cap, buf);
    return 0;
}

int fs_make_dirs(const char *path, struct dha_err *e)
{
    char p[PATH_MAX];
    if (fs_path(p, sizeof p, e, "%s", path))
        return -1;
    for (char *s = p + 1;; s++) {
        if (*s != '/' && *s != '\0')
            continue;
        char end = *s;
        *s = '\0';
        if (mkdir(p, 0777) && errno != EEXIST)
            return dha_fail_errno(e, errno, "cannot create directory %s", p);
        *s = end;
        if (end == '\0')
            return 0;
    }
}

int fs_sync_dir(const char *path, struct dha_err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return dha_fail_errno(e, errno, "cannot open directory %s", path);
    int rc = fsync(fd);
    int err = errno;
    close(fd);
    return rc ? dha_fail_errno(e, err, "cannot sync directory %s", path) : 0;
}

int fs_remove_tree(const char *path, struct dha_err *e)
{
    if (unlink(path) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return dha_fail_errno(e, errno, "cannot remove %s", path);
    DIR *d = opendir(path);
    if (!d)
        return dha_fail_errno(e, errno, "cannot open directory %s", path);
    int rc = 0;
    for (struct dirent *f; rc == 0 && (f = readdir(d));) {
        char sub[PATH_MAX];
        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, ".."))
            continue;
        rc = fs_path(sub, sizeof sub, e, "%s/%s", path, f->d_name);
        if (rc == 0)
            rc = fs_remove_tree(sub, e);
    }
    closedir(d);
    if (rc == 0 && rmdir(path) && errno != ENOENT)
        rc = dha_fail_errno(e, errno, "cannot remove directory %s", path);
    return rc;
}

int fs_write_all(int fd, const void *data, size_t n, const char *path, struct dha_err *e)
{
    const char *p = data;
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return dha_fail_errno(e, errno, "cannot write %s", path);
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

int fs_write_file(const char *path, const void *data, size_t n, struct dha_err *e)
{
    char tmp[PATH_MAX], dir[PATH_MAX];
    if (fs_path(tmp, sizeof tmp, e, "%s.tmp%ld", path, (long)getpid()) ||
        fs_path(dir, sizeof dir, e, "%s", path))
        return -1;
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = '\0';
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return dha_fail_errno(e, errno, "cannot create %s", tmp);
    int rc = fs_write_all(fd, data, n, tmp, e);
    if (rc == 0 && fsync(fd))
        rc = dha_fail_errno(e, errno, "cannot sync %s", tmp);
    close(fd);
    if (rc == 0 && rename(tmp, path))
        rc = dha_fail_errno(e, errno, "cannot rename %s to %s", tmp, path);
    if (rc)
        unlink(tmp);
    return rc ? -1 : fs_sync_dir(slash ? dir : ".", e);
}

int fs_copy_file(const char *from, const char *to, struct dha_err *e)
{
    char buf[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return dha_fail_errno(e, errno, "cannot open %s", from);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (out < 0) {
        int err = errno;
        close(in);
        return dha_fail_errno(e, err, "cannot create %s", to);
    }
    int rc = 0;
    for (;;) {
        ssize_t r = read(in, buf, sizeof buf);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            rc = dha_fail_errno(e, errno, "cannot read %s", from);
        if (r <= 0)
            break;
        if ((rc = fs_write_all(out, buf, (size_t)r, to, e)))
            break;
    }
    if (rc == 0 && fsync(out))
        rc = dha_fail_errno(e, errno, "cannot sync %s", to);
    close(out);
    close(in);
    return rc;
}

void fs_digest_hex(uint64_t high, uint64_t low, char digest[FS_DIGEST_CHARS])
{
    snprintf(digest, FS_DIGEST_CHARS, "%016" PRIx64 "%016" PRIx64, high, low);
}

int fs_digest(const char *path, char digest[FS_DIGEST_CHARS], int64_t *bytes, struct dha_err *e)
{
    const size_t piece = (size_t)1 << 20;
    struct stat st;
    /* without waiting: in a file's place may lie a pipe that nobody writes to */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return dha_fail_errno(e, errno, "cannot open %s", path);
    FILE *f = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? fdopen(fd, "rb") : NULL;
    if (!f) {
        close(fd);
        return dha_fail(e, DHA_E_CHECKPOINT, "%s is no regular file", path);
    }
    XXH3_state_t *state = XXH3_createState();
    void *buf = malloc(piece);
    int rc = 0;
    *bytes = 0;
    if (!state || !buf) {
        rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory to verify %s", path);
    } else {
        XXH3_128bits_reset(state);
        for (size_t r; (r = fread(buf, 1, piece, f)) > 0; *bytes += (int64_t)r)
            XXH3_128bits_update(state, buf, r);
        XXH128_hash_t h = XXH3_128bits_digest(state);
        fs_digest_hex(h.high64, h.low64, digest);
        if (ferror(f))
            rc = dha_fail(e, DHA_E_IO, "cannot read %s", path);
    }
    free(buf);
    XXH3_freeState(state);
    fclose(f);
    return rc;
}

bool fs_exists(const char *path)
{
    return access(path, F_OK) == 0;
}
