/* turn.c: one loop turn = one commit. Everything that changed since the loop last blocked goes to disk
 * together; then replies go out; then processes are started or signalled for it. The scheduler runs
 * before the commit, so that a stage's end, the next stage's start and the event of both are one
 * transaction, and the hand-over costs one sync. */
#include "daemon/daemon.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/log.h"
#include "daemon/sweep_watch.h"

/* Replies may bring new requests (keep-alive), which bring new changes: after so many rounds, or so much time, the
 * loop gets its turn for everything else. */
enum { ROUNDS = 16, ROUNDS_US = 4000, TROUBLE_US = 10000000 };

/* After a pass that failed. */
enum { PASS_AGAIN_MS = 2000 };

/* What has to be free where the state is before anything is started there; and when to look again. */
enum { ROOM_BYTES = 256 * 1024, ROOM_FILES = 64, ROOM_AGAIN_MS = 1000 };

static int64_t read_us(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t now_us(void)
{
    return read_us(CLOCK_REALTIME);
}

static int64_t clock_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

void daemon_trouble(const struct dha_err *e, const char *doing)
{
    log_fail(doing, e);
}

/* What STATE/jobs says when it is there and does not work (the server of a FUSE or network mount is dead); 0: it does. */
static int jobs_error(const struct daemon *d)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%.4000s/jobs", d->state_dir);
    return stat(path, &st) != 0 && errno != ENOENT ? errno : 0;
}

/* Why nothing can be started below the state directory, as a sentence: its disk, or its number of files, or jobs/ does not
 * work; false: there is room. */
static bool is_full(const struct daemon *d, char *text, size_t size)
{
    struct statvfs fs;
    int err = jobs_error(d);
    if (err) {
        snprintf(text, size,
                 "%.200s/jobs cannot be read (%s): is it mounted? Once it is, it goes on by itself",
                 d->state_dir, strerror(err));
        return true;
    }
    if (statvfs(d->state_dir, &fs) != 0) {
        return false;
    }
    unsigned long long bytes = (unsigned long long)fs.f_bavail * fs.f_frsize;
    if (bytes < ROOM_BYTES) {
        snprintf(text, size,
                 "the state disk is full: %llu bytes free in %.200s; free space and it goes on by "
                 "itself",
                 bytes, d->state_dir);
        return true;
    }
    if (fs.f_files > 0 && fs.f_favail < ROOM_FILES) {
        snprintf(text, size,
                 "the state disk is full: it has room for %llu more files (inodes) in %.200s; "
                 "remove some and it goes on by itself",
                 (unsigned long long)fs.f_favail, d->state_dir);
        return true;
    }
    return false;
}

static void on_later(uv_timer_t *t)
{
    (void)t; /* waking the loop is all: the turn's end looks for itself */
}

/* Where there is none, each start would fail: three in a row, and with them every job of the queue. What could not be
 * written need not be the database: its log has room of its own. */
static bool has_room(struct daemon *d)
{
    char text[400];
    bool full = is_full(d, text, sizeof text);
    if (full && !d->full) {
        log_error("nothing is started: %s", text);
    } else if (!full && d->full) {
        log_info("the state directory has room again");
    }
    d->full = full;
    return !full;
}

/* A pass over ten thousand waiting stages must not follow every one of a thousand submissions a second:
 * after a costly pass the next one waits ten times as long as it took. */
static bool pass_is_due(struct daemon *d)
{
    if (!d->want_pass || d->stopping || d->blind) {
        return false;
    }
    uint64_t due = d->last_pass_ms + 10 * d->last_pass_cost_ms, now = uv_now(&d->loop);
    if (now >= due && has_room(d)) {
        return true;
    }
    due = now >= due ? now + ROOM_AGAIN_MS : due;
    if (!uv_is_active((uv_handle_t *)&d->later) || uv_timer_get_due_in(&d->later) > due - now) {
        uv_timer_start(&d->later, on_later, due - now, 0);
    }
    return false;
}

static void run_pass(struct daemon *d)
{
    struct dha_err e = {0};
    int64_t begin = clock_us();
    d->want_pass = false;
    bool failed = plan_pass(d, &e) != 0;
    int64_t took = clock_us() - begin;
    d->last_pass_ms = uv_now(&d->loop);
    d->last_pass_cost_ms = (uint64_t)took / 1000;
    if (failed) { /* nothing else may ever ask for the next one */
        log_fail("scheduling", &e);
        d->want_pass = true;
        d->last_pass_cost_ms += PASS_AGAIN_MS / 10;
    }
    histogram_add(&d->stat.pass, took);
    if (took > d->stat.pass_max_us) {
        d->stat.pass_max_us = took;
    }
}

static int commit(struct daemon *d, struct dha_err *e)
{
    FAILPOINT(turn_before_commit);
    int64_t begin = clock_us();
    int rc = store_commit(d->store, e);
    int64_t took = clock_us() - begin;
    if (rc != 0) {
        dha_err_context(e, "the change could not be saved");
        log_fail("commit", e);
        d->lost = *e;
        d->lost_us = now_us();
        return -1;
    }
    d->lost = (struct dha_err){0};
    FAILPOINT(turn_after_commit);
    histogram_add(&d->stat.commit, took);
    if (took > d->stat.commit_max_us) {
        d->stat.commit_max_us = took;
    }
    if (took > 50000) {
        log_warn("a commit took %lld ms", (long long)(took / 1000));
    }
    return 0;
}

bool turn_trouble(const struct daemon *d, char *text, size_t size)
{
    if (d->no_jobs) {
        int err = jobs_error(d);
        snprintf(text, size,
                 "%.180s/jobs %s%s%s while stages run: is it mounted? Nothing is started or ended "
                 "before it is back; if it is gone for good, make a directory \"gone\" in it",
                 d->state_dir, err ? "cannot be read (" : "is empty", err ? strerror(err) : "",
                 err ? ")" : "");
        return true;
    }
    if (is_full(d, text, size)) {
        return true;
    }
    /* What waits to be saved is tried again every few seconds; older means that nothing waits. */
    if (d->lost.code == DHA_E_OK || now_us() - d->lost_us > TROUBLE_US) {
        return false;
    }
    snprintf(text, size,
             d->lost.code == DHA_E_NO_SPACE /* a quota, say */
                 ? "the state disk is full: %.200s; free space and it goes on by itself"
                 : "%.200s; it is tried again by itself",
             d->lost.msg);
    return true;
}

int turn_writable(const struct daemon *d, struct dha_err *e)
{
    char text[400];
    if (turn_trouble(d, text, sizeof text)) {
        return dha_fail(e, DHA_E_TRANSIENT, "%s", text);
    }
    if (access(d->state_dir, W_OK) != 0) {
        int err = errno;
        dha_fail(e, DHA_E_TRANSIENT, "the state directory %.300s cannot be written: %s",
                 d->state_dir, strerror(err));
        return dha_err_hint(e, "look at its mode and at how its file system is mounted");
    }
    return 0;
}

static void watch_sweeps(struct daemon *d)
{
    struct dha_err e = {0};
    d->want_watch = false;
    if (sweep_watch(d, &e) != 0) { /* the next evaluation looks again */
        log_fail("looking for dominated jobs", &e);
    }
}

/* In the transaction of the ends; without it they would run what they could have reused, and no more than that. */
static void wake_waiting(struct daemon *d)
{
    struct store_mark mark;
    struct dha_err e = {0};
    if (store_mark(d->store, &mark, &e) != 0) {
        log_fail("looking at who waited", &e);
    } else if (stages_wake_waiting(d, &e) != 0) {
        log_fail("looking at who waited", &e);
        store_undo(d->store, &mark);
    } else if (store_keep(d->store, &mark, &e) != 0) {
        log_fail("looking at who waited", &e);
    }
}

/* One round; true if there may be more to do. */
static bool round_once(struct daemon *d)
{
    struct dha_err e = {0};
    if (d->want_watch) {
        watch_sweeps(d);
    }
    if (d->n_ended > 0) {
        wake_waiting(d);
    }
    if (pass_is_due(d)) {
        run_pass(d);
    }
    bool dirty = store_dirty(d->store), lost = false;
    if (dirty) {
        lost = commit(d, &e) != 0;
    }
    bool again = server_held(d->server) > 0;
    server_release(d->server, lost ? &e : NULL);
    if (dirty && !lost) {
        FAILPOINT(turn_after_reply);
    }
    if (lost) {
        attempts_forget(d);
    } else {
        attempts_launch(d);
    }
    int64_t last = store_event_last(d->store);
    if (last != d->events_seen) {
        d->events_seen = last;
        server_wake(d->server);
        again = true;
    }
    if (again) {
        server_run(d->server);
    }
    return store_dirty(d->store) || server_held(d->server) > 0 || pass_is_due(d);
}

static void on_idle(uv_idle_t *h)
{
    (void)h;
}

void turn_end(struct daemon *d)
{
    if (d->in_turn || !d->server) {
        return;
    }
    d->in_turn = 1;
    bool more = true;
    int64_t begin = clock_us();
    for (int i = 0; i < ROUNDS && more && clock_us() - begin < ROUNDS_US; i++) {
        more = round_once(d);
    }
    if (more) {
        uv_idle_start(&d->idle, on_idle);
    } else {
        uv_idle_stop(&d->idle);
    }
    d->in_turn = 0;
}

/* A turn is what the loop does between two sleeps: the time since the last one ended, less the time asleep. */
static void measure(struct daemon *d)
{
    int64_t cpu = read_us(CLOCK_THREAD_CPUTIME_ID);
    uint64_t now = uv_hrtime(), idle = uv_metrics_idle_time(&d->loop);
    if (d->stat.mark_ns) {
        int64_t busy = (int64_t)(now - d->stat.mark_ns) - (int64_t)(idle - d->stat.idle_ns);
        histogram_add(&d->stat.turn, busy > 0 ? busy / 1000 : 0);
        histogram_add(&d->stat.turn_cpu, cpu - d->stat.cpu_us);
    }
    d->stat.mark_ns = now;
    d->stat.cpu_us = cpu;
    d->stat.idle_ns = idle;
}

static void on_prepare(uv_prepare_t *h)
{
    turn_end(h->data);
    measure(h->data);
}

void turn_init(struct daemon *d)
{
    uv_loop_configure(&d->loop, UV_METRICS_IDLE_TIME);
    uv_prepare_init(&d->loop, &d->prepare);
    uv_idle_init(&d->loop, &d->idle);
    uv_timer_init(&d->loop, &d->later);
    d->prepare.data = d->idle.data = d->later.data = d;
    uv_prepare_start(&d->prepare, on_prepare);
    uv_unref((uv_handle_t *)&d->prepare);
}
