/* attempt_stop.c: the ladder (DESIGN section 4, item 6): SIGUSR2 = checkpoint and stop; after the grace
 * SIGKILL to every process of the attempt, found by session, descent and tag; the shim is spared so
 * that it can sweep and leave exit.json, until it does not. Every rung is re-applied until it worked. */
#include "daemon/attempt.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/log.h"

enum { SHIM_MS = 5000, STALL_GRACE_MS = 10000, PULSE_MS = 1000 };

static void stop_one(struct attempt *a, int64_t grace_ms)
{
    uint64_t now = uv_now(&a->d->loop);
    if (a->stop == STOP_NONE) {
        a->stop = STOP_WANTED;
    }
    if (grace_ms >= 0) {
        uint64_t at = now + (uint64_t)grace_ms;
        if (a->kill_at_ms == 0 || at < a->kill_at_ms) {
            a->kill_at_ms = at > 0 ? at : 1;
        }
    }
    /* The tick does the rest, after the commit of the intent. */
}

void attempts_stop(struct daemon *d, int64_t job, int64_t grace_ms)
{
    for (struct attempt *a = d->attempts; a; a = a->next) {
        if (a->job == job) {
            stop_one(a, grace_ms);
        }
    }
}

static void ask(struct attempt *a)
{
    bool changed;
    struct dha_err e = {0};
    FAILPOINT(cancel_before_signal);
    if (syscall(SYS_pidfd_send_signal, a->pidfd, SIGUSR2, NULL, 0) != 0) {
        return; /* it is gone: the pidfd says so */
    }
    FAILPOINT(cancel_after_signal);
    a->stop = STOP_ASKED;
    log_info("job %lld: attempt %d told to checkpoint and stop", (long long)a->job, a->number);
    if (store_attempt_set_state(a->d->store, a->id, ATTEMPT_STOPPING, "told to stop", now_us(),
                                &changed, &e) != 0) {
        log_fail("attempt state", &e);
    }
}

static void kill_all(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    if (a->stop != STOP_KILLING) {
        FAILPOINT(cancel_before_kill);
        a->stop = STOP_KILLING;
        a->kill_shim_ms = now + SHIM_MS;
        log_info("job %lld: attempt %d is killed", (long long)a->job, a->number);
    }
    procs_kill(a->pid, a->uuid, getpid());
    FAILPOINT(cancel_after_kill);
    if (now >= a->kill_shim_ms && a->phase == A_WATCHED) {
        syscall(SYS_pidfd_send_signal, a->pidfd, SIGKILL, NULL, 0);
    }
}

/* Alive is not progressing: a hung collective looks alive. Step, phase or a phase's count must have moved. */
static bool is_stalled(struct attempt *a)
{
    struct store_stage st;
    struct dha_err e = {0};
    uint64_t now = uv_now(&a->d->loop);
    if (a->d->stall_s == 0 || a->stop != STOP_NONE || now < a->next_pulse_ms) {
        return false;
    }
    a->next_pulse_ms = now + PULSE_MS;
    if (store_stage_get(a->d->store, a->stage, &st, &e) != 0) {
        return false;
    }
    /* Measured on this daemon's monotonic clock: neither a jump of the wall clock nor the time that no daemon
     * was there is held against the attempt. */
    if (a->moved_ms == 0 || st.progress.changed_us != a->changed_us) {
        a->changed_us = st.progress.changed_us;
        a->moved_ms = now;
    }
    store_stage_finish(&st);
    return now - a->moved_ms > (uint64_t)a->d->stall_s * 1000;
}

/* The wall clock is asked once, for how long it ran under other daemons: it may jump later. */
static bool is_over_time(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    if (a->walltime_s <= 0 || a->over_time) {
        return false;
    }
    if (a->over_at_ms == 0) {
        int64_t ran = now_us() - a->started_us,
                left = a->walltime_s * 1000000 - (ran > 0 ? ran : 0);
        a->over_at_ms = now + (left > 0 ? (uint64_t)left / 1000 : 0) + 1;
    }
    return now >= a->over_at_ms;
}

void attempt_ladder(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    if (is_stalled(a)) {
        a->stalled = true;
        log_warn("job %lld: attempt %d made no progress for %lld s", (long long)a->job, a->number,
                 (long long)a->d->stall_s);
        stop_one(a, STALL_GRACE_MS);
    }
    if (is_over_time(a)) {
        a->over_time = true;
        log_info("job %lld: attempt %d is over its walltime", (long long)a->job, a->number);
        stop_one(a, WALLTIME_GRACE_MS);
    }
    if (a->stop == STOP_NONE || a->phase == A_SWEEPING) {
        return;
    }
    if (a->kill_at_ms && now >= a->kill_at_ms) {
        kill_all(a);
    } else if (a->stop == STOP_WANTED && a->phase == A_WATCHED) {
        ask(a);
    }
}
