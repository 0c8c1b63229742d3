#include "cli/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CAPTURE_MAX ((size_t)16 << 20)

extern char **environ;

static int read_all(int fd, char **out, struct dha_err *e)
{
    char *buf = NULL;
    size_t len = 0;
    size_t cap = 0;

    for (;;) {
        ssize_t n;
        if (len + 1 >= cap) {
            cap = cap ? cap * 2 : 8192;
            char *grown = cap > CAPTURE_MAX ? NULL : realloc(buf, cap);
            if (!grown) {
                free(buf);
                return dha_fail(e, DHA_E_NO_MEMORY, "its output is over %zu MiB",
                                CAPTURE_MAX >> 20);
            }
            buf = grown;
        }
        n = read(fd, buf + len, cap - len - 1);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            free(buf);
            return dha_fail_errno(e, errno, "reading its output");
        }
        if (n == 0) {
            buf[len] = 0;
            *out = buf;
            return 0;
        }
        len += (size_t)n;
    }
}

int child_run(const char *const argv[], enum child_stdout mode, char **out, int *status,
              struct dha_err *e)
{
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t pipe_too; /* ignored here (main.c), but not in the child */
    bool capture = mode == CHILD_STDOUT_CAPTURE || mode == CHILD_STDERR_CAPTURE;
    int pipefd[2] = {-1, -1};
    pid_t pid;
    int wstatus = 0;
    int rc;
    int ret = 0;

    if (out) {
        *out = NULL;
    }
    fflush(stdout);
    if (capture && pipe2(pipefd, O_CLOEXEC)) {
        return dha_fail_errno(e, errno, "making a pipe for %s", argv[0]);
    }
    rc = posix_spawn_file_actions_init(&fa);
    if (rc) {
        dha_fail_errno(e, rc, "preparing to run %s", argv[0]);
        ret = -1;
        goto close_pipe;
    }
    rc = posix_spawnattr_init(&attr);
    if (rc) {
        posix_spawn_file_actions_destroy(&fa);
        dha_fail_errno(e, rc, "preparing to run %s", argv[0]);
        ret = -1;
        goto close_pipe;
    }
    sigemptyset(&pipe_too);
    sigaddset(&pipe_too, SIGPIPE);
    rc = posix_spawnattr_setsigdefault(&attr, &pipe_too);
    rc = rc ? rc : posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
    rc = rc ? rc : posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    if (!rc && mode == CHILD_STDOUT_TO_STDERR) {
        rc = posix_spawn_file_actions_adddup2(&fa, 2, 1);
    } else if (!rc && mode == CHILD_STDOUT_CAPTURE) {
        rc = posix_spawn_file_actions_adddup2(&fa, pipefd[1], 1);
    } else if (!rc && mode == CHILD_STDERR_CAPTURE) {
        rc = posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
        rc = rc ? rc : posix_spawn_file_actions_adddup2(&fa, pipefd[1], 2);
    }
    if (!rc) {
        /* posix_spawn does not write through argv; its prototype predates const. */
        char *const *args;
        memcpy(&args, &argv, sizeof args);
        rc = posix_spawn(&pid, argv[0], &fa, &attr, args, environ);
    }
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&fa);
    if (rc) {
        dha_fail_errno(e, rc, "running %s", argv[0]);
        ret = -1;
        goto close_pipe;
    }
    if (capture) {
        close(pipefd[1]);
        pipefd[1] = -1;
        if (read_all(pipefd[0], out, e)) {
            dha_err_context(e, "running %s", argv[0]);
            ret = -1;
        }
        close(pipefd[0]); /* before the wait: a child that still writes must not hang us */
        pipefd[0] = -1;
    }
    while (waitpid(pid, &wstatus, 0) < 0) {
        if (errno != EINTR) {
            dha_fail_errno(e, errno, "waiting for %s", argv[0]);
            ret = -1;
            break;
        }
    }
    *status = WIFEXITED(wstatus) ? WEXITSTATUS(wstatus) : 128 + WTERMSIG(wstatus);
close_pipe:
    if (pipefd[0] >= 0) {
        close(pipefd[0]);
    }
    if (pipefd[1] >= 0) {
        close(pipefd[1]);
    }
    return ret;
}

int child_failed(const char *name, int status, struct dha_err *e)
{
    enum dha_code code = dha_code_from_exit(status);

    if (status > 128) {
        return dha_fail(e, DHA_E_INTERNAL, "%s was killed by signal %d", name, status - 128);
    }
    return dha_fail(e, code == DHA_E_COUNT || code == DHA_E_OK ? DHA_E_FAILED : code,
                    "%s ended with exit status %d (%s)", name, status,
                    code == DHA_E_COUNT ? "not one of ours" : dha_code_meaning(code));
}

int child_said(const char *name, int status, struct dha_err *e)
{
    enum dha_code code = dha_code_from_exit(status);

    if (status > 128 || code == DHA_E_COUNT || code == DHA_E_OK) {
        return child_failed(name, status, e);
    }
    return dha_fail(e, code, "%s", "");
}
