/* attempt.c: from launched or found to watched to gone, and all of them together; see attempt.h. */
#include "daemon/attempt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/log.h"
#include "daemon/logcap.h"
#include "daemon/remote.h"
#include "daemon/runas.h"
#include "daemon/stagekey.h"
#include "daemon/statedir.h"

enum {
    SWEEP_MS = 30000,
    TROUBLE_MS = 2000,
    READOPT_MS = 1000,
    TRIM_MS = 1000,
    YOUNG_MS = 200,
    LOCKLESS_MS = 1000,
    AWAY_MS = 5000
};

struct attempt *attempt_add(struct daemon *d, const struct store_attempt *row)
{
    struct attempt *a = calloc(1, sizeof *a);
    if (!a || !(a->dir = strdup(row->dir ? row->dir : ""))) {
        free(a);
        return NULL;
    }
    a->d = d;
    a->id = row->id;
    a->job = row->job;
    a->stage = row->stage;
    a->number = row->number;
    snprintf(a->uuid, sizeof a->uuid, "%s", row->uuid);
    a->started_us = row->started_us;
    a->unreachable_us = row->unreachable_us;
    a->user = RUNAS_SELF;
    a->pid = (pid_t)row->pid;
    a->pid_start = (unsigned long long)row->pid_start;
    snprintf(a->boot_id, sizeof a->boot_id, "%s", row->boot_id);
    a->ran = row->pid > 0 || row->hello_us > 0;
    a->suspended_ms = -1;
    a->pidfd = -1;
    a->in = (struct ingest){.attempt = a->id,
                            .dir = a->dir,
                            .offset = row->journal_offset,
                            .fd = -1,
                            .retaining = true};
    a->phase = A_STARTING;
    a->next = d->attempts;
    d->attempts = a;
    daemon_want_tick(d);
    return a;
}

static void on_poll_closed(uv_handle_t *h)
{
    struct attempt *a = h->data;
    close(a->pidfd);
    free(a->dir);
    free(a);
}

void attempt_drop(struct attempt *a)
{
    for (struct attempt **p = &a->d->attempts; *p; p = &(*p)->next) {
        if (*p == a) {
            *p = a->next;
            break;
        }
    }
    ingest_finish(&a->in);
    remote_destroy(a->remote);
    a->remote = NULL;
    a->phase = A_CLOSED;
    if (a->polling) {
        uv_close((uv_handle_t *)&a->poll, on_poll_closed);
    } else {
        free(a->dir);
        free(a);
    }
}

bool attempts_of_job(struct daemon *d, int64_t job)
{
    for (struct attempt *a = d->attempts; a; a = a->next) {
        if (a->job == job) {
            return true;
        }
    }
    return false;
}

static int stat_jobs(const struct daemon *d, struct stat *st)
{
    char path[4200];
    snprintf(path, sizeof path, "%.4000s/jobs", d->state_dir);
    return stat(path, st);
}

/* Their file system is there and does not work (the server of a FUSE or network mount is dead). */
static void ask_for_jobs(struct daemon *d)
{
    struct stat st;
    if (stat_jobs(d, &st) != 0) {
        d->want_adopt = true; /* waits for them */
    }
}

/* ---- look ---- */

enum lock_state { LOCK_ABSENT, LOCK_FREE, LOCK_HELD, LOCK_UNKNOWN };

static void path_in(const struct attempt *a, const char *name, char out[4200])
{
    snprintf(out, 4200, "%.4000s/%s", a->dir, name);
}

static bool has_file(const struct attempt *a, const char *name)
{
    char path[4200];
    struct stat st;
    path_in(a, name, path);
    return !a->foreign && runas_stat(path, &st) == 0;
}

/* A link, or a directory that was moved, may be where its own was: then that attempt's lock, journal and last words are not
 * this one's. spec.json says whose they are. */
static void look_whose(struct attempt *a)
{
    char path[4200];
    struct stat st;
    struct dha_err ignored = {0};
    if (a->foreign || runas_stat(a->dir, &st) != 0 ||
        (st.st_dev == a->dir_dev && st.st_ino == a->dir_ino)) {
        return;
    }
    path_in(a, "spec.json", path);
    cJSON *doc = runas_json(path, 0, &ignored);
    const char *uuid = json_str(doc, "uuid", "");
    if (strcmp(uuid, a->uuid) == 0) {
        a->dir_dev = st.st_dev;
        a->dir_ino = st.st_ino;
    } else if (uuid[0]) {
        a->foreign = a->in.closed = true;
        log_warn("job %lld: attempt %d: what is at %s is attempt %.40s's", (long long)a->job,
                 a->number, a->dir, uuid);
    }
    cJSON_Delete(doc);
}

/* Asks without taking (see shim.c). What cannot be asked (LOCK_UNKNOWN) counts as held: doing nothing is safe. */
static enum lock_state lock_state(const struct attempt *a)
{
    char path[4200];
    if (a->foreign) {
        return LOCK_ABSENT;
    }
    path_in(a, "attempt.lock", path);
    int fd = runas_open(path, O_RDWR);
    if (fd < 0) {
        int err = errno;
        return err == ENOENT || err == ENOTDIR ? LOCK_ABSENT
               : runas_spoiled(path, err)      ? LOCK_FREE
                                               : LOCK_UNKNOWN;
    }
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int rc = fcntl(fd, F_OFD_GETLK, &l);
    close(fd);
    if (rc != 0 && !a->ran && !has_file(a, "shim.json")) {
        return LOCK_FREE; /* no locks there: a shim cannot have one, and says so when it is started */
    }
    return rc == 0 && l.l_type == F_UNLCK ? LOCK_FREE : LOCK_HELD;
}

pid_t attempt_shim(const struct attempt *a)
{
    return proc_is_another(a->pid, a->pid_start, a->boot_id) ? 0 : a->pid;
}

/* The job's directory may be away; its row is not. */
uid_t attempt_user(const struct attempt *a)
{
    char job[4200];
    struct stat st;
    snprintf(job, sizeof job, "%.4000s/jobs/%lld", a->d->state_dir, (long long)a->job);
    return lstat(job, &st) == 0 ? runas_owner(a->dir) : a->user;
}

/* What the store has of the shim stays: there is one for an attempt, and the file may be forged since. */
static int read_shim_json(struct attempt *a)
{
    char path[4200];
    struct dha_err e = {0};
    int64_t pid, start;
    const char *boot;
    path_in(a, "shim.json", path);
    cJSON *doc = a->foreign ? NULL : runas_json(path, 4096, &e);
    int rc = -1;
    if (doc && json_need_int(doc, "pid", &pid, &e) == 0 && pid > 0 && pid <= INT_MAX &&
        json_need_int(doc, "start", &start, &e) == 0 &&
        json_need_str(doc, "boot_id", &boot, &e) == 0) {
        if (a->pid == 0) {
            a->pid = (pid_t)pid;
            a->pid_start = (unsigned long long)start;
            snprintf(a->boot_id, sizeof a->boot_id, "%s", boot);
        }
        a->ran = true;
        snprintf(a->tmp, sizeof a->tmp, "%s", json_str(doc, "tmp", ""));
        if (a->suspended_ms < 0) { /* its first word counts */
            a->suspended_ms = json_int(doc, "suspended_ms", -1);
            a->over_at_ms = 0; /* now it can be told better */
        }
        rc = 0;
    }
    cJSON_Delete(doc);
    return rc;
}

static void on_shim_gone(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    struct attempt *a = p->data;
    uv_poll_stop(p);
    a->phase = A_STARTING;
    attempt_look(a);
}

/* The pidfd first, the identity afterwards: a pid that changed hands in between is noticed. */
static void watch(struct attempt *a)
{
    FAILPOINT(watch_before_open);
    if (a->polling || (read_shim_json(a) != 0 && a->pid == 0)) {
        return; /* the next tick looks again */
    }
    int fd = (int)syscall(SYS_pidfd_open, a->pid, 0);
    /* shim.json is written by the user: what runs as another is not their shim, whatever it says */
    if (fd < 0 || !proc_is(a->pid, a->pid_start, a->boot_id) ||
        !proc_is_of(a->pid, attempt_user(a))) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    a->pidfd = fd;
    if (uv_poll_init(&a->d->loop, &a->poll, fd) != 0) {
        close(fd);
        a->pidfd = -1;
        return;
    }
    a->poll.data = a;
    a->polling = true;
    a->phase = A_WATCHED;
    uv_poll_start(&a->poll, UV_READABLE, on_shim_gone);
    struct dha_err e = {0};
    if (store_attempt_set_process(a->d->store, a->id, a->pid, (int64_t)a->pid_start, a->boot_id,
                                  &e) != 0) {
        log_fail("recording the shim", &e);
    }
}

static bool child_lives(const struct attempt *a)
{
    struct proc_stat st;
    return a->child > 0 && proc_stat_read(a->child, &st) == 0 && st.ppid == getpid() &&
           st.state != 'Z' && st.state != 'X';
}

/* Of a shim that was killed before it wrote shim.json. */
static void remove_unused_tmp(const struct attempt *a)
{
    struct runas as;
    if (a->foreign || runas_enter_path(&as, a->dir) != 0) {
        return;
    }
    int dir = open(a->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        tmpdir_unmake(dir);
        close(dir);
    }
    runas_leave(&as);
}

static void conclude(struct attempt *a)
{
    struct dha_err e = {0};
    if (!a->ran && !has_file(a, "shim.json")) {
        remove_unused_tmp(a);
    } else if (a->d->launch.launcher != &launcher_fake) { /* that one's ranks are all here */
        if (!a->tmp[0]) {
            read_shim_json(a);
        }
        a->phase = A_REMOTE;
        if (!remote_step(a)) {
            return;
        }
    }
    int rc = attempt_conclude(a, &e);
    if (rc == 0) {
        attempt_drop(a);
    }
    if (rc >= 0) { /* INGEST_MORE: the next tick goes on */
        return;
    }
    log_fail("end of an attempt", &e);
    a->not_before_ms = uv_now(&a->d->loop) + TROUBLE_MS;
}

size_t attempt_processes(struct attempt *a, pid_t shim, pid_t *pids, size_t cap)
{
    struct runas as;
    uid_t user = attempt_user(a);
    if (runas_enter_procs(&as, user) != 0) {
        return PROCS_UNKNOWN;
    }
    size_t n = procs_find(shim, a->uuid, user, getpid(), pids, cap);
    runas_leave(&as);
    return n;
}

size_t attempt_kill(struct attempt *a, pid_t shim)
{
    struct runas as;
    uid_t user = attempt_user(a);
    if (runas_enter_procs(&as, user) != 0) {
        return PROCS_UNKNOWN;
    }
    size_t n = procs_kill(shim, a->uuid, user, getpid());
    runas_leave(&as);
    return n;
}

/* What the shim could not kill; how many of them are there still, and their pids. */
static size_t left_by_shim(struct attempt *a, pid_t pids[PROCS_LEFT_MAX])
{
    size_t n = 0;
    for (int i = 0; i < a->n_left; i++) {
        if (proc_is(a->left[i].pid, a->left[i].start, a->boot_id) &&
            proc_is_of(a->left[i].pid, attempt_user(a))) {
            kill(a->left[i].pid, SIGKILL);
            pids[n++] = a->left[i].pid;
        }
    }
    return n;
}

/* Where the lock tells nothing the shim itself may live. It sweeps, and ends when nothing is left to wait for: it is killed
 * only if it does not. */
static size_t left_of_shim(struct attempt *a, pid_t pids[PROCS_LEFT_MAX])
{
    if (!proc_is(a->pid, a->pid_start, a->boot_id) || !proc_is_of(a->pid, attempt_user(a))) {
        return 0;
    }
    if (uv_now(&a->d->loop) + SWEEP_MS >= a->sweep_end_ms + SHIM_MS) {
        kill(a->pid, SIGKILL);
    }
    pids[0] = a->pid;
    return 1;
}

/* What will not be killed keeps its node from being used (promise G7). */
static void drain_for(struct attempt *a, pid_t shim, size_t left)
{
    pid_t pids[PROCS_LEFT_MAX];
    char reason[256];
    size_t n = attempt_processes(a, shim, pids, PROCS_LEFT_MAX);
    if (n == 0 || n == PROCS_UNKNOWN) {
        n = left_by_shim(a, pids);
    }
    if (n == 0) {
        n = left_of_shim(a, pids);
    }
    int len = left == PROCS_UNKNOWN
                  ? snprintf(reason, sizeof reason, "what attempt %s left cannot be looked at",
                             a->uuid)
                  : snprintf(reason, sizeof reason,
                             "%zu process(es) of attempt %s will not die:", left, a->uuid);
    for (size_t i = 0; i < n && i < PROCS_LEFT_MAX && len > 0 && (size_t)len < sizeof reason - 12;
         i++) {
        len += snprintf(reason + len, sizeof reason - (size_t)len, " %d", (int)pids[i]);
    }
    struct dha_err e = {0};
    if (!a->d->node[0]) { /* only mpirun runs here, and no slot is */
        log_error("%s", reason);
        return;
    }
    log_error("node %s is drained: %s", a->d->node, reason);
    if (store_node_drain(a->d->store, a->d->node, reason, now_us(), &e) != 0) {
        log_fail("drain", &e);
    }
}

static void sweep(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    pid_t pids[PROCS_LEFT_MAX];
    if (a->phase != A_SWEEPING) {
        a->phase = A_SWEEPING;
        a->sweep_end_ms = now + SWEEP_MS;
    }
    FAILPOINT(sweep_before_kill);
    /* Session and descent of a dead shim's pid would be somebody else's if the pid is used again. */
    pid_t shim = attempt_shim(a);
    size_t left = attempt_kill(a, shim);
    if (left == 0) {
        left = left_by_shim(a, pids);
    }
    if (left == 0) {
        left = left_of_shim(a, pids);
    }
    if (left == 0) {
        FAILPOINT(sweep_after_kill);
        struct runas as;
        if (runas_enter_path(&as, a->dir) == 0) {
            tmpdir_remove(a->tmp); /* the shim could not; "" is refused */
            runas_leave(&as);
        }
        conclude(a);
    } else if (now >= a->sweep_end_ms) {
        drain_for(a, shim, left);
        conclude(a);
    }
}

/* Did the shim say that nothing is left? What cannot be read said nothing: then we look ourselves. */
static bool shim_swept_all(struct attempt *a)
{
    char path[4200];
    struct dha_err e = {0};
    const cJSON *one;
    path_in(a, "exit.json", path);
    cJSON *doc = runas_json(path, 4096, &e);
    bool all = doc && json_int(doc, "left", -1) == 0;
    const cJSON *pids = json_get(doc, "pids");
    a->n_left = 0;
    cJSON_ArrayForEach(one, pids)
    {
        int64_t pid, start;
        if (a->n_left < PROCS_LEFT_MAX && json_need_int(one, "pid", &pid, &e) == 0 && pid > 0 &&
            pid <= INT_MAX && json_need_int(one, "start", &start, &e) == 0) {
            a->left[a->n_left].pid = (pid_t)pid;
            a->left[a->n_left++].start = (unsigned long long)start;
        }
    }
    cJSON_Delete(doc);
    return all;
}

/* Its directory was taken away, or closed, with all that says how far it was: what runs of it is killed, and its stage
 * goes on with another attempt. Nobody's mistake in the job. */
static void lose(struct attempt *a, int missing)
{
    a->ran = true;
    a->launch_failed = true;
    dha_fail(&a->launch_error, DHA_E_LOST, "the attempt ran, and %s %s%s", a->dir,
             missing      ? "cannot be read any more: "
             : a->foreign ? "is another attempt's"
                          : "has lost its files",
             missing ? strerror(missing) : "");
    dha_err_hint(&a->launch_error, "is %s/jobs mounted, and may the job's user read it?",
                 a->d->state_dir);
    log_warn("job %lld: attempt %d: %s", (long long)a->job, a->number, a->launch_error.msg);
    sweep(a);
}

/* The end of what its directory tells nothing of. Unless it cannot have run, what runs is looked for. */
static void over(struct attempt *a, bool may_have_run)
{
    if (a->inherited || a->ran || may_have_run) {
        sweep(a);
    } else {
        conclude(a);
    }
}

/* Nothing on disk says that it ever ran: /proc and the store are asked before it is started (again). */
static void start_again(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    struct stat st;
    int missing = runas_stat(a->dir, &st) == 0 ? 0 : errno;
    if (a->ran || a->foreign) {
        lose(a, missing);
        return;
    }
    size_t n = attempt_processes(a, 0, NULL, 0);
    if (n == 0) {
        attempt_launch(a);
        return;
    }
    if (a->young_end_ms == 0) {
        a->young_end_ms = now + SWEEP_MS;
    }
    if (n != PROCS_UNKNOWN && (missing || now >= a->young_end_ms)) {
        lose(a, missing);
    } else { /* a shim that has not come to its lock yet */
        a->not_before_ms = now + YOUNG_MS;
    }
}

/* Is there no file of any job? */
static bool jobs_are_empty(const struct daemon *d)
{
    char path[4200];
    bool empty = true;
    snprintf(path, sizeof path, "%.4000s/jobs", d->state_dir);
    DIR *dir = opendir(path);
    for (struct dirent *f; dir && empty && (f = readdir(dir));) {
        empty = strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0 ||
                strcmp(f->d_name, "lost+found") == 0;
    }
    if (dir) {
        closedir(dir);
    }
    return empty;
}

/* Its shim lives, its files do not. Of an empty STATE/jobs that is another directory than before more is away than this
 * attempt, and likely to come back; of the same one somebody removed what was in it. */
static void removed_under(struct attempt *a)
{
    struct daemon *d = a->d;
    struct stat st;
    if (jobs_are_empty(d) &&
        (stat_jobs(d, &st) != 0 || st.st_dev != d->jobs_dev || st.st_ino != d->jobs_ino)) {
        d->want_adopt = true;
    } else {
        attempt_gone(a, NULL);
    }
}

/* Its shim lives, and another file is where its lock was: nothing is over, and to kill it at once would lose what it did since
 * its checkpoint. A shim that is killed lets go of its lock a moment before it is gone. */
static bool has_lost_lock(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    if ((a->phase != A_STARTING && a->phase != A_WATCHED) || has_file(a, "exit.json") ||
        !has_file(a, "shim.json") || (a->pid == 0 && read_shim_json(a) != 0) ||
        !proc_is(a->pid, a->pid_start, a->boot_id) || !proc_is_of(a->pid, attempt_user(a))) {
        a->lockless_ms = 0;
        return false;
    }
    if (a->phase == A_STARTING) {
        watch(a);
    } else if (a->lockless_ms == 0) {
        a->lockless_ms = now;
    } else if (now - a->lockless_ms >= LOCKLESS_MS) {
        attempt_gone(a, "attempt.lock");
    }
    return true;
}

void attempt_look(struct attempt *a)
{
    if (a->phase == A_NEW || a->phase == A_CLOSED || uv_now(&a->d->loop) < a->not_before_ms) {
        return;
    }
    if (a->phase == A_REMOTE) {
        conclude(a);
        return;
    }
    look_whose(a);
    enum lock_state lock = lock_state(a);
    if (lock == LOCK_UNKNOWN) {
        ask_for_jobs(a->d);
    }
    if (lock == LOCK_HELD || lock == LOCK_UNKNOWN) {
        if (a->phase == A_STARTING) {
            watch(a);
        } else if (a->in.lost && a->phase == A_WATCHED) {
            attempt_gone(a, JOURNAL_FILE); /* what it does cannot be seen any more */
        }
        return;
    }
    if (lock == LOCK_ABSENT && a->phase == A_WATCHED) { /* the pidfd tells its end */
        removed_under(a);
        return;
    }
    if (has_lost_lock(a)) {
        return;
    }
    /* The lock is free: what is on disk now is final. */
    if (a->phase == A_SWEEPING) {
        sweep(a);
    } else if (a->launch_failed && !child_lives(a)) {
        over(a, a->spawns > 1);
    } else if (has_file(a, "exit.json")) {
        if (shim_swept_all(a)) {
            conclude(a);
            return;
        }
        if (!a->tmp[0]) {
            read_shim_json(a);
        }
        sweep(a);
    } else if (has_file(a, "shim.json")) {
        log_warn("job %lld: attempt %d lost its shim", (long long)a->job, a->number);
        if (!a->tmp[0]) {
            read_shim_json(a);
        }
        sweep(a);
    } else if (a->phase == A_WATCHED) {
        return; /* its directory is closed, its shim lives: the pidfd tells its end */
    } else if (a->stop == STOP_KILLING || (a->stop != STOP_NONE && a->spawns == 0)) {
        over(a, a->spawns > 0); /* told to stop before it ever ran */
    } else if (!child_lives(a)) {
        start_again(a);
    }
}

/* ---- all of them ---- */

void attempts_child_ended(void *ctx, int pid)
{
    struct daemon *d = ctx;
    for (struct attempt *a = d->attempts; a; a = a->next) {
        if (a->child == pid) {
            a->child = 0;
            if (a->phase == A_STARTING) { /* else its pidfd says the same */
                attempt_look(a);
            }
            return;
        }
    }
}

/* What the job's row says about an attempt that an earlier daemon launched. */
static void recall_job(struct attempt *a)
{
    struct store_job job;
    struct dha_err e = {0};
    if (store_job_get(a->d->store, a->job, &job, &e) != 0) {
        log_fail("job of a live attempt", &e);
        return;
    }
    a->user = runas_user(job.owner_uid);
    cJSON *spec = json_parse(job.spec, strlen(job.spec), NULL, NULL);
    struct job_spec parsed;
    struct spec_errors errs;
    if (spec && spec_parse(spec, NULL, &parsed, &errs) == 0) {
        a->walltime_s = parsed.resources.walltime_s;
        a->ranks = parsed.resources.ranks;
        spec_finish(&parsed);
    }
    cJSON_Delete(spec);
    if (job.state == JOB_HELD) {
        attempts_stop(a->d, a->job, -1);
    }
    store_job_finish(&job);
}

/* Intents to cancel outlive the daemon that heard them. */
static int recall_cancels(struct daemon *d, struct dha_err *e)
{
    int64_t *ids = NULL;
    size_t n = 0;
    int rc = store_jobs_cancelling(d->store, &ids, &n, e);
    for (size_t i = 0; i < n && rc == 0; i++) {
        struct store_job job;
        rc = store_job_get(d->store, ids[i], &job, e);
        if (rc == 0) {
            rc = stages_cancel(d, job.id, job.cancel_reason, job.cancel_now, e);
            store_job_finish(&job);
        }
    }
    free(ids);
    return rc;
}

/* Stages ran, and there is no file of any job. That is more likely not mounted than gone: who ended them all for it would
 * kill work whose files are safe. */
static bool jobs_are_away(const struct daemon *d, const struct store_attempts *l)
{
    bool ran = false;
    for (size_t i = 0; i < l->n; i++) {
        ran |= l->at[i].pid > 0 || l->at[i].hello_us > 0;
    }
    return ran && jobs_are_empty(d);
}

static void on_readopt(uv_timer_t *t);

/* Nothing is started, ended or concluded until they are back. */
static bool waits_for_jobs(struct daemon *d, const struct store_attempts *l)
{
    char text[400];
    bool before = d->no_jobs;
    d->no_jobs = jobs_are_away(d, l);
    if (d->no_jobs) {
        uv_timer_start(&d->readopt, on_readopt, READOPT_MS, 0);
        if (!before && turn_trouble(d, text, sizeof text)) {
            log_error("%s", text);
        }
        return true;
    }
    struct stat st;
    if (stat_jobs(d, &st) == 0) {
        d->jobs_dev = st.st_dev;
        d->jobs_ino = st.st_ino;
    }
    if (before) {
        log_info("%s/jobs is back", d->state_dir);
        d->want_pass = true;
    }
    return false;
}

int attempts_adopt(struct daemon *d, struct dha_err *e)
{
    struct store_attempts l;
    d->blind = true;
    if (store_attempts_live(d->store, &l, e) != 0) {
        return dha_err_context(e, "finding the attempts that run");
    }
    if (waits_for_jobs(d, &l)) {
        store_attempts_finish(&l);
        return 0;
    }
    int rc = 0;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        struct attempt *a = attempt_add(d, &l.at[i]);
        if (!a) {
            rc = dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
            break;
        }
        a->inherited = true;
        recall_job(a);
        log_info("job %lld: attempt %d of stage %lld adopted", (long long)a->job, a->number,
                 (long long)a->stage);
    }
    store_attempts_finish(&l);
    if (rc != 0) {
        return -1;
    }
    d->blind = false;
    return recall_cancels(d, e);
}

static void cap_log(struct attempt *a, const char *name, int64_t limit)
{
    char path[4400];
    int64_t dropped;
    snprintf(path, sizeof path, "%.4300s/%s", a->dir, name);
    if (logcap_trim(path, limit, &dropped) != 0) {
        log_warn("%s: cannot be cut, and grows: %s", path, strerror(errno));
        a->next_trim_ms = UINT64_MAX;
    } else if (dropped > 0 && !a->trimmed) {
        a->trimmed = true;
        log_warn("job %lld: attempt %d writes more than %lld KiB to %s; the middle of its log is "
                 "dropped",
                 (long long)a->job, a->number, (long long)(limit >> 10), name);
    }
}

/* Workers that talk without end must not fill the disk. Each rank has its share, so that one that does leaves the others
 * theirs. */
static void cap_logs(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    int64_t share = a->d->log_bytes / (a->ranks + 1);
    if (now < a->next_trim_ms || a->foreign) {
        return;
    }
    a->next_trim_ms = now + TRIM_MS;
    cap_log(a, "stderr.log", share);
    for (int i = 0; i < a->ranks && a->next_trim_ms != UINT64_MAX; i++) {
        char name[32];
        snprintf(name, sizeof name, RANK_LOG, i);
        cap_log(a, name, share);
    }
}

/* How long the daemon did nothing at all: its machine, container or itself was stopped (SIGSTOP), or a disk hung. */
static uint64_t time_away(struct daemon *d, int64_t *from_us, int64_t *to_us)
{
    uint64_t now = uv_now(&d->loop), since = d->last_tick_ms ? now - d->last_tick_ms : 0;
    *from_us = d->last_tick_us;
    *to_us = now_us();
    d->last_tick_ms = now;
    d->last_tick_us = *to_us;
    if (since < AWAY_MS) {
        return 0;
    }
    log_warn("the daemon was stopped for %llu s: what it watches may have been, too, and has so "
             "much more time",
             (unsigned long long)since / 1000);
    return since;
}

/* What nobody could see or do meanwhile is not held against the attempt. Its walltime goes on if it did work (its records
 * say when). */
static void forgive(struct attempt *a, uint64_t away)
{
    a->stall.moved_ms += away;
    a->kill_at_ms += a->kill_at_ms ? away : 0;
    a->kill_shim_ms += a->kill_shim_ms ? away : 0;
    a->sweep_end_ms += a->phase == A_SWEEPING ? away : 0;
    a->over_at_ms += a->over_at_ms && !a->in.worked ? away : 0;
    if (a->remote) {
        remote_away(a->remote, away);
    }
}

void attempts_tick(struct daemon *d)
{
    int64_t from_us, to_us;
    uint64_t away = time_away(d, &from_us, &to_us);
    for (struct attempt *a = d->attempts, *next; a; a = next) {
        struct dha_err e = {0};
        next = a->next;
        if (a->phase == A_NEW || uv_now(&d->loop) < a->not_before_ms) {
            continue;
        }
        look_whose(a); /* before anything in it is read */
        a->in.worked = false;
        a->in.away_from = away ? (double)from_us / 1e6 + AWAY_MS / 2e3 : 0;
        a->in.away_to = away ? (double)to_us / 1e6 - AWAY_MS / 2e3 : 0;
        if (ingest_journal(d, &a->in, false, &e) < 0) {
            log_fail("journal", &e);
            a->not_before_ms = uv_now(&d->loop) + TROUBLE_MS;
            ask_for_jobs(d);
        }
        if (away) {
            forgive(a, away);
        }
        cap_logs(a);
        attempt_ladder(a);
        attempt_look(a);
    }
    if (d->want_adopt) {
        d->want_adopt = false;
        attempts_forget(d);
    }
    if (!d->attempts) {
        uv_timer_stop(&d->tick);
    }
}

void attempts_close(struct daemon *d)
{
    d->to_launch = NULL;
    while (d->attempts) {
        attempt_drop(d->attempts);
    }
}

static void on_readopt(uv_timer_t *t)
{
    struct daemon *d = t->data;
    struct dha_err e = {0};
    if ((d->blind ? attempts_adopt(d, &e) : recall_cancels(d, &e)) != 0) {
        log_fail("adopting again", &e);
        attempts_forget(d);
    }
}

void attempts_forget(struct daemon *d)
{
    struct dha_err e = {0};
    attempts_close(d);
    if (attempts_adopt(d, &e) != 0) {
        log_fail("adopting again", &e);
        uv_timer_start(&d->readopt, on_readopt, READOPT_MS, 0);
    }
    /* A full disk stays full for a while. */
    for (struct attempt *a = d->attempts; a; a = a->next) {
        a->not_before_ms = uv_now(&d->loop) + TROUBLE_MS;
    }
    d->want_pass = true;
}
