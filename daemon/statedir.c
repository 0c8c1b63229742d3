/* statedir.c: see statedir.h. */
#include "daemon/statedir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int make_dirs(const char *path, struct dha_err *e)
{
    char buf[4096];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof buf) {
        return dha_fail(e, DHA_E_INPUT, "\"%.100s\" is no usable directory name", path);
    }
    memcpy(buf, path, n + 1);
    for (char *p = buf + 1;; p++) {
        if (*p != '/' && *p != '\0') {
            continue;
        }
        char keep = *p;
        *p = '\0';
        if (mkdir(buf, 0700) != 0 && errno != EEXIST) {
            return dha_fail_errno(e, errno, "cannot make the directory %s", buf);
        }
        *p = keep;
        if (!keep) {
            break;
        }
    }
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        return dha_fail(e, DHA_E_INPUT, "%s is in the way: it is not a directory", path);
    }
    return 0;
}

char *statedir_make(const char *path, struct dha_err *e)
{
    static const char *const sub[] = {"jobs", "cache"};
    if (make_dirs(path, e) != 0) {
        dha_err_context(e, "state directory");
        return NULL;
    }
    char *full = realpath(path, NULL);
    if (!full || access(full, W_OK | X_OK) != 0) {
        dha_fail_errno(e, errno, "state directory %s", path);
        free(full);
        return NULL;
    }
    for (size_t i = 0; i < sizeof sub / sizeof *sub; i++) {
        char dir[4096];
        int n = snprintf(dir, sizeof dir, "%s/%s", full, sub[i]);
        if (n < 0 || (size_t)n >= sizeof dir) {
            dha_fail(e, DHA_E_INPUT, "the path of the state directory is too long");
        }
        if (n < 0 || (size_t)n >= sizeof dir || make_dirs(dir, e) != 0) {
            free(full);
            return NULL;
        }
    }
    return full;
}

/* Removes a dead daemon's socket file. */
static int clear_stale(const struct sockaddr_un *addr, struct dha_err *e)
{
    const char *path = addr->sun_path;
    struct stat st;
    if (lstat(path, &st) != 0) {
        return errno == ENOENT ? 0 : dha_fail_errno(e, errno, "socket %s", path);
    }
    if (!S_ISSOCK(st.st_mode)) {
        dha_fail(e, DHA_E_CONFLICT, "%s is in the way: it is not a socket", path);
        return dha_err_hint(e, "remove it or choose another --socket");
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return dha_fail_errno(e, errno, "cannot make a socket");
    }
    int rc = connect(fd, (const struct sockaddr *)addr, sizeof *addr);
    int err = errno;
    close(fd);
    if (rc != 0 && err == ECONNREFUSED) {
        if (unlink(path) != 0 && errno != ENOENT) {
            return dha_fail_errno(e, errno, "cannot remove the dead socket %s", path);
        }
        return 0;
    }
    if (rc != 0 && err != EAGAIN) {
        return dha_fail_errno(e, err, "socket %s", path);
    }
    dha_fail(e, DHA_E_CONFLICT, "somebody else listens on %s", path);
    return dha_err_hint(e, "choose another --socket");
}

int statedir_listen(const char *path, struct dha_err *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    if (n >= sizeof addr.sun_path) {
        dha_fail(e, DHA_E_USAGE, "the socket path has %zu bytes; the system allows %zu: %.120s", n,
                 sizeof addr.sun_path - 1, path);
        return dha_err_hint(e, "choose a shorter --socket");
    }
    memcpy(addr.sun_path, path, n + 1);
    char dir[sizeof addr.sun_path];
    memcpy(dir, path, n + 1);
    char *slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = '\0';
        if (make_dirs(dir, e) != 0) {
            return dha_err_context(e, "directory of the socket");
        }
    }
    if (clear_stale(&addr, e) != 0) {
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return dha_fail_errno(e, errno, "cannot make a socket");
    }
    /* Never open to others, not even between bind and a chmod. */
    mode_t old = umask(0177);
    int rc = bind(fd, (struct sockaddr *)&addr, sizeof addr);
    int err = errno;
    umask(old);
    if (rc == 0 && listen(fd, 128) != 0) {
        rc = -1;
        err = errno;
    }
    if (rc != 0) {
        close(fd);
        return dha_fail_errno(e, err, "cannot listen on %s", path);
    }
    return fd;
}
