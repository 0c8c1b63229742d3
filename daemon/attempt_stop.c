/* attempt_stop.c: the ladder (DESIGN section 4, item 6): SIGUSR2 = checkpoint and stop; after the grace
 * SIGKILL to every process of the attempt, found by session, descent and tag; the shim is spared so
 * that it can sweep and leave exit.json, until it does not. Every rung is re-applied until it worked. */
#include "daemon/attempt.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/log.h"
#include "daemon/runas.h"

enum { STALL_GRACE_MS = 10000, LOST_GRACE_MS = 10000, PULSE_MS = 1000 };

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
    attempt_kill(a, attempt_shim(a));
    FAILPOINT(cancel_after_kill);
    if (now >= a->kill_shim_ms && a->phase == A_WATCHED) {
        syscall(SYS_pidfd_send_signal, a->pidfd, SIGKILL, NULL, 0);
    }
}

/* Alive is not progressing: a hung collective looks alive. Step, phase or a phase's count must have moved. Measured on
 * this daemon's monotonic clock: neither a jump of the wall clock nor the time that no daemon was there is held against
 * the attempt; and what is known of its pace begins anew with each daemon. */
static bool look_at_progress(struct attempt *a, struct stall_limit *l, char setting[SETTING_NAME])
{
    struct store_stage st;
    struct dha_err e = {0};
    char work[STALL_NAME + 8];
    if (store_stage_get(a->d->store, a->stage, &st, &e) != 0) {
        return false;
    }
    bool phase = st.progress.phase[0] != '\0';
    int64_t done = phase ? st.progress.done : st.progress.step,
            of = phase ? st.progress.total : st.progress.steps;
    bool steps = a->in.offset > 0 && (of > 0 || done > 0); /* else they are an earlier attempt's */
    const char *name = phase ? st.progress.phase : steps ? STALL_STEP : STALL_START;
    stall_work_name(name, done, of, work, sizeof work);
    stall_see(&a->stall, work, done, of, st.progress.changed_us, uv_now(&a->d->loop));
    int64_t bound_s = settings_stall(&a->d->settings, st.kind, setting, SETTING_NAME);
    *l = stall_limit(&a->stall, bound_s, a->d->settings.stall_min_s);
    store_stage_finish(&st);
    return true;
}

static bool is_stalled(struct attempt *a, struct stall_limit *l, char setting[SETTING_NAME])
{
    uint64_t now = uv_now(&a->d->loop);
    if (a->stop != STOP_NONE || now < a->next_pulse_ms) {
        return false;
    }
    a->next_pulse_ms = now + PULSE_MS;
    return look_at_progress(a, l, setting) && stall_frozen(&a->stall, l, now);
}

/* What was frozen, for how long, and by which limit: into the attempt, the log and the event log. */
static void tell_stalled(struct attempt *a, const struct stall_limit *l, const char *setting)
{
    char what[128], from[96];
    struct dha_err e = {0};
    int64_t frozen_ms = (int64_t)(uv_now(&a->d->loop) - a->stall.moved_ms);
    stall_work_text(&a->stall, what, sizeof what);
    stall_limit_text(l, setting, from, sizeof from);
    snprintf(a->stalled_why, sizeof a->stalled_why,
             "%s made no progress for %lld s; the limit is %lld s (%s)", what,
             (long long)(frozen_ms / 1000), (long long)(l->ms / 1000), from);
    log_warn("job %lld: attempt %d: %s", (long long)a->job, a->number, a->stalled_why);
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_str(data, "what", what) |
             json_put_num(data, "frozen_s", (double)frozen_ms / 1e3) |
             json_put_num(data, "limit_s", (double)l->ms / 1e3) |
             json_put_str(data, "limit_from", from);
    char *text = rc == 0 ? json_text(data) : NULL;
    if (text && store_event_add(a->d->store, "attempt.stalled", a->job, a->stage, a->number, text,
                                now_us(), NULL, &e) != 0) {
        log_fail("event", &e);
    }
    free(text);
    cJSON_Delete(data);
}

void attempt_gone(struct attempt *a, const char *file)
{
    struct dha_err e = {0};
    struct stat st;
    if (a->gone) {
        return;
    }
    a->gone = true;
    bool there = runas_stat(a->dir, &st) == 0;
    snprintf(a->gone_why, sizeof a->gone_why, "%.200s%s%s was removed while the attempt ran%s",
             a->dir, file ? "/" : "", file ? file : "",
             file                           ? ""
             : a->foreign                   ? ": another attempt's is in its place"
             : there && S_ISDIR(st.st_mode) ? ": it has lost its files"
             : there                        ? ": something else is in its place"
                                            : "");
    log_warn("job %lld: attempt %d: %s", (long long)a->job, a->number, a->gone_why);
    cJSON *data = cJSON_CreateObject();
    char *text = json_put_str(data, "dir", a->dir) == 0 ? json_text(data) : NULL;
    if (text && store_event_add(a->d->store, "attempt.gone", a->job, a->stage, a->number, text,
                                now_us(), NULL, &e) != 0) {
        log_fail("event", &e);
    }
    free(text);
    cJSON_Delete(data);
    stop_one(a, LOST_GRACE_MS); /* what it computed may go where the stage's checkpoints are */
}

/* Of an attempt that is being stopped: why, what is waited for, and what comes then. */
static void stop_words(const struct attempt *a, char *text, size_t size)
{
    uint64_t now = uv_now(&a->d->loop);
    char to[64] = "";
    if (a->gives_way_to) {
        snprintf(to, sizeof to, ", to give way to job %lld of higher priority",
                 (long long)a->gives_way_to);
    }
    const char *why = a->gone        ? ", because its files were removed"
                      : a->stalled   ? ", because it counts as frozen"
                      : a->over_time ? ", because its walltime is over"
                                     : to;
    if (a->phase == A_REMOTE) {
        snprintf(text, size,
                 "its processes here have ended%s; its other nodes are asked whether something of "
                 "it still runs there",
                 why);
    } else if (a->stop == STOP_KILLING || a->phase == A_SWEEPING ||
               (a->kill_at_ms && now >= a->kill_at_ms)) {
        snprintf(text, size,
                 "its processes are being killed (SIGKILL)%s; it ends with the last one", why);
    } else if (a->kill_at_ms) {
        snprintf(text, size,
                 "told to checkpoint and stop%s; killed in %llu s (SIGKILL) if it does not", why,
                 (unsigned long long)((a->kill_at_ms - now) / 1000 + 1));
    } else {
        snprintf(text, size, "told to checkpoint and stop%s", why);
    }
}

bool attempts_pace(struct daemon *d, int64_t job, char *text, size_t size)
{
    for (struct attempt *a = d->attempts; a; a = a->next) {
        struct stall_limit l;
        char setting[SETTING_NAME], what[128], from[96];
        if (a->job != job) {
            continue;
        }
        if (a->stop != STOP_NONE) {
            stop_words(a, text, size);
            return true;
        }
        if (!look_at_progress(a, &l, setting)) {
            continue;
        }
        stall_work_text(&a->stall, what, sizeof what);
        stall_limit_text(&l, setting, from, sizeof from);
        long long s = (long long)((uv_now(&d->loop) - a->stall.moved_ms) / 1000);
        if (l.ms == 0) {
            snprintf(text, size, "it has been at %s for %lld s, and may be (setting %s is 0)", what,
                     s, setting);
        } else {
            snprintf(text, size,
                     "it has been at %s for %lld s, and counts as frozen after %lld s (%s)", what,
                     s, (long long)(l.ms / 1000), from);
        }
        return true;
    }
    return false;
}

/* How long it has run, other daemons' time included. The age of its shim, as the kernel has it, less what the machine was
 * suspended since; the wall clock, which may have jumped, only while no shim is known. */
static int64_t ran_us(const struct attempt *a)
{
    char boot[PROC_BOOT_ID_SIZE];
    int64_t us = -1;
    proc_boot_id(boot);
    if (a->pid > 0 && strcmp(a->boot_id, boot) == 0 && (us = proc_age_us(a->pid_start)) >= 0) {
        int64_t now = proc_suspended_ms();
        us -= a->suspended_ms >= 0 && now > a->suspended_ms ? (now - a->suspended_ms) * 1000 : 0;
    } else {
        us = now_us() - a->started_us;
    }
    return us > 0 ? us : 0;
}

/* Worked out once: later only time that this daemon sees go by counts. */
static bool is_over_time(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    if (a->walltime_s <= 0 || a->over_time) {
        return false;
    }
    if (a->over_at_ms == 0) {
        int64_t left = a->walltime_s * 1000000 - ran_us(a);
        a->over_at_ms = now + (left > 0 ? (uint64_t)left / 1000 : 0) + 1;
    }
    return now >= a->over_at_ms;
}

void attempt_ladder(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    if (a->phase == A_REMOTE) { /* it has run; remote.h kills what is left elsewhere */
        return;
    }
    struct stall_limit limit;
    char setting[SETTING_NAME];
    if (is_stalled(a, &limit, setting)) {
        a->stalled = true;
        tell_stalled(a, &limit, setting);
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
