/* statedir.c: see statedir.h. */
#include "daemon/statedir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/log.h"

/* SQLite opens names of at most 512 bytes, of which the longest, backup/auto-...-journal, needs 64. */
enum { STATE_PATH = 440 };

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
    if (stat(path, &st) != 0) {
        dha_fail_errno(e, errno, "cannot look at %s", path);
        return dha_err_hint(e, "is its file system mounted, and does that answer?");
    }
    if (!S_ISDIR(st.st_mode)) {
        return dha_fail(e, DHA_E_INPUT, "%s is in the way: it is not a directory", path);
    }
    return 0;
}

/* A new state directory must not go with the power while what is in it is synced: its name, and those of the directories
 * made on the way, are entries of directories of their own. What we may not open was not made by us. */
static int sync_names(const char *full, struct dha_err *e)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", full);
    for (char *end; (end = strrchr(path, '/'));) {
        *end = '\0';
        int fd = open(path[0] ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) {
            continue;
        }
        int rc = fsync(fd), err = errno;
        close(fd);
        if (rc != 0 && err != EINVAL && err != EROFS) {
            return dha_fail_errno(e, err, "cannot sync %s", path[0] ? path : "/");
        }
    }
    return 0;
}

static bool is_new(const char *full)
{
    char db[4200];
    snprintf(db, sizeof db, "%.4096s/state.db", full);
    return access(db, F_OK) != 0;
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
    if (strlen(full) > STATE_PATH) {
        dha_fail(e, DHA_E_INPUT,
                 "the path of the state directory has %zu bytes; it may have %d: %.300s",
                 strlen(full), STATE_PATH, full);
        dha_err_hint(e, "name a shorter one (--state, DHA_STATE)");
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
    if (is_new(full) && sync_names(full, e) != 0) {
        free(full);
        return NULL;
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

/* The directory of the socket: made if it is not there. Whoever the settings let in must be able to pass it, and all
 * above it: a warning says where that is not so. */
static int socket_dir(const char *dir, const struct access *a, struct dha_err *e)
{
    char part[4096];
    struct stat st;
    mode_t want = a->others_read ? 0755 : a->has_group ? 0750 : 0700;
    if (lstat(dir, &st) != 0 && errno == ENOENT) {
        if (make_dirs(dir, e) != 0) {
            return -1;
        }
        if (want != 0700 &&
            ((a->has_group && chown(dir, (uid_t)-1, a->group) != 0) || chmod(dir, want) != 0)) {
            return dha_fail_errno(e, errno, "cannot let users into %s", dir);
        }
    } else if (make_dirs(dir, e) != 0) {
        return -1;
    }
    snprintf(part, sizeof part, "%s", dir);
    for (char *end = part + strlen(part); end && want != 0700; end = strrchr(part, '/')) {
        *end = '\0';
        if (part[0] && stat(part, &st) == 0 && !(st.st_mode & S_IXOTH) &&
            (a->others_read || st.st_gid != a->group || !(st.st_mode & S_IXGRP))) {
            log_warn(
                "%s (mode %04o) keeps users whom the settings let in from the socket: chmod %s",
                part, (unsigned)st.st_mode & 07777, a->others_read ? "o+x" : "g+x and chgrp");
        }
    }
    return 0;
}

int statedir_open_socket(const char *path, const struct access *a, struct dha_err *e)
{
    char name[32];
    struct stat st;
    mode_t mode = a->others_read ? 0666 : a->has_group ? 0660 : 0600;
    gid_t group = a->has_group ? a->group : getegid();
    int rc = 0, fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        rc = dha_fail_errno(e, errno, "socket %s", path);
    } else if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid()) {
        rc = dha_fail(e, DHA_E_CONFLICT, "%s is not this daemon's socket any more", path);
    }
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    /* closed first, so that a group that is no longer let in is out before another comes in */
    if (rc == 0 && st.st_gid != group &&
        (chmod(name, 0600) != 0 || chown(name, (uid_t)-1, group) != 0)) {
        dha_fail_errno(e, errno, "cannot give %s to group %s", path,
                       a->has_group ? a->group_name : "of the daemon");
        rc = dha_err_hint(e, "%s",
                          geteuid() == 0
                              ? "root may, unless its container lacks CAP_CHOWN, or the "
                                "group is no part of its user namespace"
                              : "the user who runs dhad has to be a member of the group");
    }
    if (rc == 0 && chmod(name, mode) != 0) {
        rc = dha_fail_errno(e, errno, "cannot change the mode of %s", path);
    }
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

/* A user may open many at once (their files' limit); who else connects meanwhile must find room behind them. */
enum { BACKLOG = 4096 };

int statedir_listen(const char *path, const struct access *a, struct dha_err *e)
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
        if (socket_dir(dir, a, e) != 0) {
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
    if (rc == 0 && listen(fd, BACKLOG) != 0) {
        rc = -1;
        err = errno;
    }
    if (rc != 0) {
        close(fd);
        return dha_fail_errno(e, err, "cannot listen on %s", path);
    }
    if (statedir_open_socket(path, a, e) != 0) {
        unlink(path);
        close(fd);
        return -1;
    }
    return fd;
}
