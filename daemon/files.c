/* files.c: see files.h. */
#include "daemon/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <openssl/evp.h>
#include <xxhash.h>

#include "daemon/runas.h"
#include "daemon/statedir.h"

enum { CHUNK = 1 << 20, DEPTH_MAX = 16 };

int files_path(char out[FILES_PATH], struct dha_err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, FILES_PATH, fmt, ap);
    va_end(ap);
    if (n < 0 || n >= FILES_PATH) {
        return dha_fail(e, DHA_E_INPUT, "the path %.200s... is too long", out);
    }
    return 0;
}

bool files_there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static int write_all(int fd, const char *buf, size_t n, const char *path, struct dha_err *e)
{
    for (size_t done = 0; done < n;) {
        ssize_t put = write(fd, buf + done, n - done);
        if (put < 0 && errno != EINTR) {
            return dha_fail_errno(e, errno, "cannot write %s", path);
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

struct hashes {
    EVP_MD_CTX *sha;
    XXH3_state_t *xxh;
};

static void finish_hashes(const struct hashes *h, struct files_seen *out)
{
    unsigned char md[EVP_MAX_MD_SIZE];
    XXH128_hash_t x = XXH3_128bits_digest(h->xxh);
    EVP_DigestFinal_ex(h->sha, md, NULL);
    for (int i = 0; i < 32; i++) {
        snprintf(out->sha256 + 2 * i, 3, "%02x", md[i]);
    }
    snprintf(out->xxh3, sizeof out->xxh3, "%016" PRIx64 "%016" PRIx64, (uint64_t)x.high64,
             (uint64_t)x.low64);
}

/* in -> the hashes, and to out unless that is < 0. */
static int pump(int in, int out, const char *path, const char *to, struct progress *p,
                struct files_seen *seen, struct dha_err *e)
{
    struct hashes h = {EVP_MD_CTX_new(), XXH3_createState()};
    char *buf = malloc(CHUNK);
    int rc = -1;
    if (!h.sha || !h.xxh || !buf || !EVP_DigestInit_ex(h.sha, EVP_sha256(), NULL) ||
        XXH3_128bits_reset(h.xxh) != XXH_OK) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory to read %s", path);
        goto out;
    }
    for (;;) {
        ssize_t n = read(in, buf, CHUNK);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            dha_fail_errno(e, errno, "cannot read %s", path);
            goto out;
        }
        if (n == 0) {
            break;
        }
        EVP_DigestUpdate(h.sha, buf, (size_t)n);
        XXH3_128bits_update(h.xxh, buf, (size_t)n);
        seen->bytes += n;
        if ((out >= 0 && write_all(out, buf, (size_t)n, to, e) != 0) ||
            progress_add(p, n, e) != 0) {
            goto out;
        }
    }
    finish_hashes(&h, seen);
    rc = 0;
out:
    free(buf);
    XXH3_freeState(h.xxh);
    EVP_MD_CTX_free(h.sha);
    return rc;
}

static int open_file(const char *path, struct files_seen *seen, struct dha_err *e)
{
    struct stat st;
    *seen = (struct files_seen){0};
    struct runas as;
    int fd = runas_enter_path(&as, path);
    if (fd == 0) {
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        runas_leave(&as);
    }
    if (fd < 0) {
        return dha_fail_errno(e, errno, "cannot open %s", path);
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return dha_fail(e, DHA_E_INPUT, "%s is not a regular file", path);
    }
    seen->owner = st.st_uid;
    return fd;
}

int files_digest(const char *path, struct progress *p, struct files_seen *out, struct dha_err *e)
{
    int fd = open_file(path, out, e);
    if (fd < 0) {
        return -1;
    }
    int rc = pump(fd, -1, path, NULL, p, out, e);
    close(fd);
    return rc;
}

int files_copy(const char *path, const char *to, struct progress *p, struct files_seen *out,
               struct dha_err *e)
{
    int in = open_file(path, out, e);
    if (in < 0) {
        return -1;
    }
    int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = -1;
    if (fd < 0) {
        dha_fail_errno(e, errno, "cannot create %s", to);
    } else {
        rc = pump(in, fd, path, to, p, out, e);
        if (rc == 0 && fsync(fd) != 0) {
            rc = dha_fail_errno(e, errno, "cannot write %s", to);
        }
        if (close(fd) != 0 && rc == 0) {
            rc = dha_fail_errno(e, errno, "cannot write %s", to);
        }
    }
    close(in);
    return rc;
}

struct walk {
    const char *dir;
    int (*fn)(void *arg, const char *relative, int64_t bytes);
    void *arg;
    struct dha_err *e;
};

static int no_dots(const struct dirent *d)
{
    return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
}

static int look(const char *path, struct stat *st)
{
    struct runas as;
    if (runas_enter_path(&as, path) != 0) {
        return -1;
    }
    int rc = lstat(path, st);
    runas_leave(&as);
    return rc;
}

static int walk(const struct walk *w, const char *relative, int depth)
{
    char path[FILES_PATH], below[FILES_PATH];
    struct dirent **names = NULL;
    if (files_path(path, w->e, "%s/%s", w->dir, relative) != 0) {
        return -1;
    }
    struct runas as;
    int n = runas_enter_path(&as, path), rc = 0;
    if (n == 0) {
        n = scandir(path, &names, no_dots, alphasort);
        runas_leave(&as);
    }
    if (n < 0) {
        return dha_fail_errno(w->e, errno, "cannot read the directory %s", path);
    }
    for (int i = 0; i < n; i++) {
        struct stat st;
        if (rc == 0) {
            rc = files_path(below, w->e, "%s%s%s", relative, *relative ? "/" : "",
                            names[i]->d_name);
        }
        if (rc == 0) {
            rc = files_path(path, w->e, "%s/%s", w->dir, below);
        }
        if (rc == 0 && look(path, &st) == 0) {
            if (S_ISREG(st.st_mode)) {
                rc = w->fn(w->arg, below, (int64_t)st.st_size);
            } else if (S_ISDIR(st.st_mode)) {
                rc = depth < DEPTH_MAX ? walk(w, below, depth + 1)
                                       : dha_fail(w->e, DHA_E_INPUT, "%s is too deep", path);
            }
        }
        free(names[i]);
    }
    free(names);
    return rc;
}

int files_walk(const char *dir, int (*fn)(void *arg, const char *relative, int64_t bytes),
               void *arg, struct dha_err *e)
{
    const struct walk w = {dir, fn, arg, e};
    return walk(&w, "", 0);
}

int files_make_parent(const char *path, struct dha_err *e)
{
    char dir[FILES_PATH];
    if (files_path(dir, e, "%s", path) != 0) {
        return -1;
    }
    char *slash = strrchr(dir, '/');
    if (!slash || slash == dir) {
        return 0;
    }
    *slash = '\0';
    return make_dirs(dir, e);
}

int files_sync_dir(const char *path, struct dha_err *e)
{
    struct runas as;
    int fd = runas_enter_path(&as, path);
    if (fd == 0) {
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        runas_leave(&as);
    }
    int rc = fd < 0 || fsync(fd) != 0 ? dha_fail_errno(e, errno, "cannot sync %s", path) : 0;
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

int files_need_space(const char *dir, int64_t bytes, struct dha_err *e)
{
    struct statvfs fs;
    if (statvfs(dir, &fs) != 0 || (uint64_t)bytes <= (uint64_t)fs.f_bavail * fs.f_frsize) {
        return 0;
    }
    dha_fail(e, DHA_E_NO_SPACE, "%lld bytes are to be copied to %s, where %llu are free",
             (long long)bytes, dir, (unsigned long long)fs.f_bavail * fs.f_frsize);
    return dha_err_hint(e, "free space there, or choose another disk");
}
