#include "cli/start.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/locate.h"

#define START_WAIT_MS 15000
#define START_POLL_MS 20
#define ROOM_WAIT_S   8

int daemon_connect(const char *socket_path)
{
    const struct timeval patience = {.tv_sec = ROOM_WAIT_S};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(socket_path) >= sizeof addr.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(addr.sun_path, socket_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) ||
        connect(fd, (const struct sockaddr *)&addr, sizeof addr)) {
        int errnum = errno;
        close(fd);
        errno = errnum;
        return -1;
    }
    return fd;
}

bool daemon_listens(const char *socket_path)
{
    int fd = daemon_connect(socket_path);

    if (fd < 0) {
        return errno == EAGAIN;
    }
    close(fd);
    return true;
}

/* One starter at a time: the others wait here and then find what the first one started. The lock goes when its
 * descriptor is closed, also by our death; dhad does not inherit it. */
static int lock_start(const char *state, struct dha_err *e)
{
    char path[LOCATE_MAX + 16];
    int fd;

    snprintf(path, sizeof path, "%s/.start.lock", state);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return dha_fail_errno(e, errno, "opening %s", path);
    }
    while (flock(fd, LOCK_EX)) {
        if (errno != EINTR) {
            dha_fail_errno(e, errno, "locking %s", path);
            close(fd);
            return -1;
        }
    }
    return fd;
}

int daemon_start(const char *state, const char *socket_path, struct dha_err *e)
{
    const struct timespec pause = {.tv_nsec = START_POLL_MS * 1000000L};
    char program[LOCATE_MAX];
    char dir[LOCATE_MAX];
    char *slash;
    int status;
    int lock;

    if (locate_program("dhad", program, sizeof program, e)) {
        return -1;
    }
    snprintf(dir, sizeof dir, "%s", socket_path);
    slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = 0;
        if (locate_mkdirs(dir, 0700, e)) {
            return -1;
        }
    }
    if (locate_mkdirs(state, 0700, e)) {
        return -1;
    }
    lock = lock_start(state, e);
    if (lock < 0) {
        return -1;
    }
    if (daemon_listens(socket_path)) {
        close(lock);
        return 0;
    }
    const char *const argv[] = {program,     "--state",  state, "--socket",
                                socket_path, "--detach", NULL};
    if (child_run(argv, CHILD_STDOUT_TO_STDERR, NULL, &status, e)) {
        close(lock);
        return -1;
    }
    for (int waited = 0; !status && waited < START_WAIT_MS; waited += START_POLL_MS) {
        if (daemon_listens(socket_path)) {
            close(lock);
            return 0;
        }
        nanosleep(&pause, NULL);
    }
    close(lock);
    if (status) {
        enum dha_code code = dha_code_from_exit(status);
        dha_fail(e, code == DHA_E_COUNT || code == DHA_E_OK ? DHA_E_UNREACHABLE : code,
                 "dhad did not start (exit status %d)", status);
        return dha_err_hint(e, "what it said is above; its log is %s/dhad.log", state);
    }
    dha_fail(e, DHA_E_UNREACHABLE, "dhad was started but nothing listens on %s after %d s",
             socket_path, START_WAIT_MS / 1000);
    return dha_err_hint(e, "its log is %s/dhad.log", state);
}
