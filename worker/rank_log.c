/* rank_log.c: see rank_log.h. */
#include "worker/rank_log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "worker/fsutil.h"

int rank_log_open(const char *dir, int rank, int *journal, struct dha_err *e)
{
    char path[PATH_MAX];
    *journal = -1;
    if (fs_path(path, sizeof path, e, "%s/rank-%d.log", dir, rank))
        return -1;
    /* appending: the daemon may take the middle out of it (daemon/logcap.h) */
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return dha_fail_errno(e, errno, "cannot open %s", path);
    int old = rank == 0 ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3) : -1;
    fflush(NULL);
    if ((rank == 0 && old < 0) || dup2(fd, STDERR_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0) {
        int err = errno;
        close(fd);
        if (old >= 0)
            close(old);
        return dha_fail_errno(e, err, "cannot turn stdout and stderr to %s", path);
    }
    close(fd);
    setvbuf(stdout, NULL, _IOLBF, 0); /* in order with stderr */
    *journal = old;
    return 0;
}
