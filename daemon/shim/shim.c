/* dha-shim: one per attempt, between dhad and the launcher (mpirun or a test's script).
 *
 *   dha-shim [--as UID] ATTEMPT_DIR UUID -- COMMAND [ARGUMENT...]
 *   dha-shim --sweep UUID [TMP]      on other nodes of the attempt (daemon/remote.h): ends what carries its tag
 *
 * Life cycle. Started by root for another user (--as) it becomes that user first, for good. It takes
 * ATTEMPT_DIR/attempt.lock for its whole life; if somebody has it, or shim.json is there already, this attempt has been started before and the shim leaves without running anything:
 * that is what makes a launch happen at most once, however often the daemon asks for it. Then it
 * becomes session leader and child subreaper, blocks the signals it forwards, writes shim.json and
 * runs the command: stdin /dev/null, stdout appended to journal.ndjson, stderr appended to stderr.log.
 * SIGUSR1, SIGUSR2 and SIGTERM are passed on. When the command ends it kills what is left of the
 * attempt (procs.h), removes the short temporary directory and publishes exit.json.
 *
 * On disk if we die: the lock is free, shim.json is there and exit.json is not: the daemon calls that
 * "lost". Every argument that contains @TMP@ has it replaced by the temporary directory, whose name is
 * short because Open MPI puts unix sockets below it.
 *
 * Exit status: 0 ran (whatever the command returned), 3 was already started, 1 could not start;
 * --sweep: 0 nothing is left, 4 something is (its pids are printed).
 */
#include "daemon/failpoint.h"
#include "daemon/procs.h"
#include "daemon/tmpdir.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RAN = 0, CANNOT = 1, ALREADY = 3, LEFT = 4 };

/* How long leftovers may take to die before we say so and go: a process in an uninterruptible wait
 * is not ours to wait for; the daemon looks again. */
enum { SWEEP_SECONDS = 10 };

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    fprintf(stderr, "%s dha-shim[%d]: ", when, (int)getpid());
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

/* name in dir, atomically: temp, fsync, rename, fsync of the directory. */
static int publish(int dir, const char *name, const char *text)
{
    char tmp[64];
    snprintf(tmp, sizeof tmp, "%s.tmp", name);
    int fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -1;
    }
    size_t len = strlen(text), done = 0;
    while (done < len) {
        ssize_t w = write(fd, text + done, len - done);
        if (w < 0 && errno == EINTR) {
            continue;
        }
        if (w <= 0) {
            close(fd);
            return -1;
        }
        done += (size_t)w;
    }
    int rc = fsync(fd);
    FAILPOINT(shim_before_rename);
    if (close(fd) != 0 || rc != 0 || renameat(dir, tmp, dir, name) != 0) {
        return -1;
    }
    FAILPOINT(shim_after_rename);
    return fsync(dir);
}

static char *with_tmp(const char *arg, const char *tmp)
{
    const char *at = strstr(arg, "@TMP@");
    if (!at) {
        return strdup(arg);
    }
    char *out = NULL;
    if (asprintf(&out, "%.*s%s%s", (int)(at - arg), arg, tmp, at + strlen("@TMP@")) < 0) {
        return NULL;
    }
    return out;
}

static int redirect(int dir, const char *name, int flags, int to)
{
    int fd = dir < 0 ? open(name, flags | O_CLOEXEC) : openat(dir, name, flags | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, to) < 0) {
        return -1;
    }
    close(fd);
    return 0;
}

static _Noreturn void run_command(int dir, char **argv, const sigset_t *before)
{
    if (redirect(-1, "/dev/null", O_RDONLY, 0) != 0 ||
        redirect(dir, "journal.ndjson", O_WRONLY | O_CREAT | O_APPEND, 1) != 0 ||
        redirect(dir, "stderr.log", O_WRONLY | O_CREAT | O_APPEND, 2) != 0) {
        _exit(127);
    }
    signal(SIGHUP, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, before, NULL);
    execvp(argv[0], argv);
    dprintf(2, "dha-shim: cannot execute %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Waits for `child`, passing signals on. Orphans that come back to us are reaped on the way. */
static int wait_for(pid_t child, const sigset_t *set)
{
    for (;;) {
        int status;
        pid_t p;
        while ((p = waitpid(-1, &status, WNOHANG)) > 0) {
            if (p == child) {
                return status;
            }
        }
        siginfo_t info;
        int sig = sigwaitinfo(set, &info);
        if (sig == SIGUSR1 || sig == SIGUSR2 || sig == SIGTERM) {
            kill(child, sig);
        }
    }
}

/* Kills what is left until nothing is, or the time is up. Returns how many there were at first. What cannot be looked at
 * is left: the daemon then looks itself. */
static size_t sweep(pid_t shim, const char *uuid, size_t *left)
{
    struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    size_t first = 0, now = 0;
    for (int round = 0; round < SWEEP_SECONDS * 50; round++) {
        now = procs_kill(shim, uuid, PROCS_ANY, getpid());
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        now = now == PROCS_UNKNOWN ? 1 : now;
        if (round == 0) {
            first = now;
        }
        if (now == 0) {
            break;
        }
        nanosleep(&pause, NULL);
    }
    *left = now;
    return first;
}

static int write_shim_json(int dir, const char *tmp)
{
    struct proc_stat st;
    char boot[PROC_BOOT_ID_SIZE], text[256];
    if (proc_stat_read(getpid(), &st) != 0) {
        return -1;
    }
    proc_boot_id(boot);
    snprintf(
        text, sizeof text,
        "{\"pid\":%d,\"start\":\"%llu\",\"boot_id\":\"%s\",\"tmp\":\"%s\",\"suspended_ms\":%lld}\n",
        (int)getpid(), st.start, boot, tmp, (long long)proc_suspended_ms());
    return publish(dir, "shim.json", text);
}

/* {"pid":1,"start":"2"},...: those that would not die. Once we are gone the daemon may not find them by itself. */
static void name_left(const char *uuid, char *text, size_t size)
{
    pid_t pids[PROCS_LEFT_MAX];
    size_t n = procs_find(getpid(), uuid, PROCS_ANY, getpid(), pids, PROCS_LEFT_MAX), len = 0;
    text[0] = '\0';
    for (size_t i = 0; n != PROCS_UNKNOWN && i < n && i < PROCS_LEFT_MAX && len < size; i++) {
        struct proc_stat st;
        if (proc_stat_read(pids[i], &st) == 0) {
            len += (size_t)snprintf(text + len, size - len, "%s{\"pid\":%d,\"start\":\"%llu\"}",
                                    len ? "," : "", (int)pids[i], st.start);
        }
    }
}

static int write_exit_json(int dir, int status, const char *uuid, size_t swept, size_t left)
{
    char text[768], who[PROCS_LEFT_MAX * 64];
    const char *how = WIFSIGNALED(status) ? "signal" : "exited";
    int value = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    who[0] = '\0';
    if (left) {
        name_left(uuid, who, sizeof who);
    }
    snprintf(text, sizeof text, "{\"%s\":%d,\"swept\":%zu,\"left\":%zu,\"pids\":[%s]}\n", how,
             value, swept, left, who);
    return publish(dir, "exit.json", text);
}

/* Does another open file find our lock in its way? The daemon's questions rest on that. */
static bool lock_is_seen(int dir)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = openat(dir, "attempt.lock", O_RDWR | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fcntl(fd, F_OFD_GETLK, &l);
    if (fd >= 0) {
        close(fd);
    }
    return rc != 0 || l.l_type != F_UNLCK;
}

/* A uuid is not a pattern and not empty: what it must not do is match the environment of others. */
static bool is_uuid(const char *text)
{
    return strlen(text) == 36 && strspn(text, "0123456789abcdef-") == 36;
}

static int sweep_node(const char *uuid, const char *tmp)
{
    pid_t pids[PROCS_LEFT_MAX];
    size_t left = 0;
    if (!is_uuid(uuid)) {
        fputs("dha-shim: --sweep wants the uuid of an attempt\n", stderr);
        return CANNOT;
    }
    size_t first = sweep(0, uuid, &left);
    if (left == 0) {
        printf("%zu swept, nothing is left\n", first);
        if (tmp) {
            tmpdir_remove(tmp); /* made by mpirun's daemon; refuses what is none of ours */
        }
        return RAN;
    }
    size_t n = procs_find(0, uuid, PROCS_ANY, getpid(), pids, PROCS_LEFT_MAX);
    printf("%zu left:", left);
    for (size_t i = 0; n != PROCS_UNKNOWN && i < n && i < PROCS_LEFT_MAX; i++) {
        printf(" %d", (int)pids[i]);
    }
    putchar('\n');
    return LEFT;
}

/* For good: the real, effective and saved ids, all groups, and no program may give something back (no_new_privs). */
static int become(const char *text)
{
    char *end;
    uid_t r, e, s;
    gid_t gr, ge, gs;
    errno = 0;
    unsigned long uid = strtoul(text, &end, 10);
    const struct passwd *pw = errno || *end || uid == 0 ? NULL : getpwuid((uid_t)uid);
    if (!pw || pw->pw_uid == 0 || pw->pw_uid != uid) {
        say("uid %s is no user to run as", text);
        return -1;
    }
    if (initgroups(pw->pw_name, pw->pw_gid) != 0 ||
        setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) != 0 ||
        setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) != 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        say("cannot become uid %s: %s", text, strerror(errno));
        return -1;
    }
    if (getresuid(&r, &e, &s) != 0 || r != uid || e != uid || s != uid ||
        getresgid(&gr, &ge, &gs) != 0 || gr != pw->pw_gid || ge != gr || gs != gr ||
        setuid(0) == 0 || seteuid(0) == 0) {
        say("uid %s could become another again", text);
        return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if ((argc == 3 || argc == 4) && strcmp(argv[1], "--sweep") == 0) {
        return sweep_node(argv[2], argc == 4 ? argv[3] : NULL);
    }
    const char *as = argc > 2 && strcmp(argv[1], "--as") == 0 ? argv[2] : NULL;
    if (as) {
        argc -= 2;
        argv += 2;
    }
    if (argc < 5 || strcmp(argv[3], "--") != 0) {
        fputs("usage: dha-shim [--as UID] ATTEMPT_DIR UUID -- COMMAND [ARGUMENT...]\n"
              "       dha-shim --sweep UUID [TMP]\n"
              "Started by dhad, one per attempt; runs COMMAND and leaves ATTEMPT_DIR/exit.json.\n",
              stderr);
        return CANNOT;
    }
    if (as && become(as) != 0) {
        return CANNOT;
    }
    const char *uuid = argv[2];
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &before);
    /* uv_spawn leaves no mask behind, but a shell might: the command starts with none. */
    sigemptyset(&before);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);

    int dir = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        say("cannot open %s: %s", argv[1], strerror(errno));
        return CANNOT;
    }
    int lock = openat(dir, "attempt.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0) {
        say("cannot open attempt.lock: %s", strerror(errno));
        return CANNOT;
    }
    /* Not flock(2): the daemon must be able to ask whether the lock is held without ever taking it
     * (F_OFD_GETLK), or its question could turn a starting shim away. */
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(lock, F_OFD_SETLK, &whole) != 0) {
        if (errno == EAGAIN || errno == EACCES) {
            return ALREADY;
        }
        say("cannot lock %s/attempt.lock: %s", argv[1], strerror(errno));
        return CANNOT;
    }
    if (!lock_is_seen(dir)) {
        say("%s: its file system grants a lock that is held: use another", argv[1]);
        return CANNOT;
    }
    if (faccessat(dir, "shim.json", F_OK, 0) == 0) {
        return ALREADY;
    }
    if (setsid() < 0 && getsid(0) != getpid()) {
        say("cannot become a session leader: %s", strerror(errno));
        return CANNOT;
    }
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
        say("cannot become a subreaper: %s", strerror(errno));
        return CANNOT;
    }
    FAILPOINT(shim_locked);
    char tmp[TMPDIR_SIZE];
    if (tmpdir_make(dir, tmp) != 0) {
        say("cannot make a temporary directory in /tmp: %s", strerror(errno));
        return CANNOT;
    }
    FAILPOINT(shim_tmp_made);
    int rc = CANNOT;
    int n = argc - 4;
    char **command = calloc((size_t)n + 1, sizeof *command);
    for (int i = 0; command && i < n; i++) {
        command[i] = with_tmp(argv[4 + i], tmp);
        if (!command[i]) {
            goto out;
        }
    }
    if (!command) {
        goto out;
    }
    /* From here on the attempt counts as started. */
    if (write_shim_json(dir, tmp) != 0) {
        say("cannot write shim.json: %s", strerror(errno));
        goto out;
    }
    FAILPOINT(shim_before_fork);
    pid_t child = fork();
    if (child == 0) {
        run_command(dir, command, &before);
    }
    int status = 127 << 8;
    if (child < 0) {
        say("cannot fork: %s", strerror(errno));
    } else {
        status = wait_for(child, &set);
    }
    size_t left = 0, swept = sweep(getpid(), uuid, &left);
    if (swept) {
        say("killed %zu process(es) the command left behind; %zu would not die", swept, left);
    }
    FAILPOINT(shim_swept);
    rc = RAN;
    tmpdir_remove(tmp);
    if (write_exit_json(dir, status, uuid, swept, left) != 0) {
        say("cannot write exit.json: %s", strerror(errno));
    }
    goto free_command;
out:
    tmpdir_remove(tmp);
free_command:
    for (int i = 0; command && i < n; i++) {
        free(command[i]);
    }
    free(command);
    return rc;
}
