/* stages.c: the moves of jobs and stages that users and ends of attempts cause. Everything here happens
 * inside the open turn; nothing here starts or signals a process by itself. */
#include "daemon/daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/grow.h"
#include "daemon/log.h"
#include "daemon/output.h"
#include "daemon/runas.h"
#include "daemon/stagekey.h"

/* DESIGN section 8: SIGUSR2, then this long, then SIGKILL. */
enum { CANCEL_GRACE_MS = 20000 };

static int move_job(struct daemon *d, int64_t job, enum job_state from, enum job_state to,
                    const char *reason, const struct dha_err *error, struct dha_err *e)
{
    bool changed;
    struct store_job_move m = {
        .job = job, .from = from, .to = to, .reason = reason, .error = error, .now_us = now_us()};
    if (job_state_final(to) && stages_job_ended(d, job, e) != 0) {
        return -1;
    }
    return store_job_transition(d->store, &m, &changed, e);
}

/* ---- jobs that wait for others ---- */

int stages_job_ended(struct daemon *d, int64_t job, struct dha_err *e)
{
    int64_t *id = grow(&d->ended, &d->n_ended, sizeof *id);
    if (!id) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    *id = job;
    return 0;
}

int stages_wake_waiting(struct daemon *d, struct dha_err *e)
{
    int rc = 0;
    while (rc == 0 && d->n_ended > 0) { /* each may end others, by what it reuses */
        int64_t *ids = NULL;
        size_t n = 0;
        rc = store_jobs_freed_by(d->store, d->ended[--d->n_ended], &ids, &n, e);
        for (size_t i = 0; i < n && rc == 0; i++) {
            rc = stages_advance(d, ids[i], e);
        }
        free(ids);
    }
    return rc;
}

/* ---- reuse ---- */

/* One line in the log; the event is for who asked for the stage, if somebody did. */
static int say_damaged(struct daemon *d, const struct store_stage *st, int64_t job, int64_t stage,
                       const struct dha_err *why, struct dha_err *e)
{
    log_warn("job %lld: the output of %s of job %lld is damaged: %s", (long long)job,
             stage_kind_name(st->kind), (long long)st->job, why->msg);
    cJSON *j = cJSON_CreateObject();
    char *text = NULL;
    if (json_put_str(j, "kind", stage_kind_name(st->kind)) != 0 ||
        json_put_id(j, "of_job", st->job) != 0 || json_put_str(j, "file", why->path) != 0 ||
        json_put_str(j, "message", why->msg) != 0 || !(text = json_text(j))) {
        cJSON_Delete(j);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    int rc = store_event_add(d->store, "stage.damaged", job, stage, 0, text, now_us(), NULL, e);
    free(text);
    cJSON_Delete(j);
    return rc;
}

/* As stages_find_done(); *why says what is wrong with a done stage that cannot be taken (`out` is then it, and
 * the caller's as well). */
static int find_done(struct daemon *d, const char *key, struct store_stage *out, bool *found,
                     struct dha_err *why, struct dha_err *e)
{
    struct dha_err none = {0};
    *found = false;
    if (store_stage_done_by_key(d->store, key, out, &none) != 0) {
        if (none.code == DHA_E_NOT_FOUND) {
            return 0;
        }
        *e = none;
        return -1;
    }
    *found = output_check(out->kind, out->out_dir, why) == 0;
    if (!*found && output_is_unknown(why)) {
        *e = *why;
        store_stage_finish(out);
        return dha_err_context(e, "whether an equal stage's output is whole");
    }
    return 0;
}

int stages_find_done(struct daemon *d, const char *key, struct store_stage *out, bool *found,
                     struct dha_err *e)
{
    struct dha_err why = {0};
    int rc = find_done(d, key, out, found, &why, e);
    if (rc == 0 && !*found) {
        store_stage_finish(out);
    }
    return rc;
}

/* Reuses one ready stage if possible. */
static int reuse(struct daemon *d, const struct store_stage *st, bool *reused, struct dha_err *e)
{
    struct store_stage done;
    struct dha_err why = {0};
    bool found;
    *reused = false;
    int rc = find_done(d, st->key, &done, &found, &why, e);
    if (rc == 0 && !found && why.code != DHA_E_OK) {
        rc = say_damaged(d, &done, st->job, st->id, &why, e);
    }
    if (rc != 0 || !found) {
        store_stage_finish(&done);
        return rc;
    }
    struct store_stage_move m = {.stage = st->id,
                                 .from = STAGE_READY,
                                 .to = STAGE_REUSED,
                                 .attempt = st->attempt,
                                 .reason = "an equal stage is done",
                                 .reused_from = done.id,
                                 .now_us = now_us()};
    rc = store_stage_transition(d->store, &m, reused, e);
    if (rc == 0 && *reused) {
        log_info("job %lld: %s reused from job %lld", (long long)st->job, stage_kind_name(st->kind),
                 (long long)done.job);
    }
    store_stage_finish(&done);
    return rc;
}

static int put_back(struct daemon *d, const struct store_stage *st, const char *reason,
                    struct dha_err *e)
{
    bool changed;
    struct store_stage_move m = {.stage = st->id,
                                 .from = st->state,
                                 .to = STAGE_PENDING,
                                 .attempt = st->attempt,
                                 .reason = reason,
                                 .now_us = now_us()};
    return store_stage_transition(d->store, &m, &changed, e);
}

static bool is_complete(const struct store_stage *st)
{
    return st->state == STAGE_DONE || st->state == STAGE_REUSED;
}

/* What l->at[i] reads (proto/stage.h): search's plan, else the newest model. NULL = only the job's own files. */
static const struct store_stage *input_of(const struct store_stages *l, size_t i)
{
    while (i-- > 0) {
        if (l->at[i].kind != STAGE_EVAL && l->at[i].kind != STAGE_EXPORT) {
            return &l->at[i];
        }
    }
    return NULL;
}

int stages_check_input(struct daemon *d, int64_t stage, bool *whole, struct dha_err *e)
{
    struct store_stage st = {0};
    struct store_stages l = {0};
    struct dha_err why = {0};
    int rc = -1;
    *whole = true;
    if (store_stage_get(d->store, stage, &st, e) != 0 ||
        store_stages_of_job(d->store, st.job, &l, e) != 0) {
        goto out;
    }
    const struct store_stage *in = NULL;
    for (size_t i = 0; i < l.n; i++) {
        in = l.at[i].id == stage ? input_of(&l, i) : in;
    }
    if (!in || output_check(in->kind, in->out_dir, &why) == 0) {
        rc = 0;
        goto out;
    }
    if (output_is_unknown(&why)) {
        *e = why;
        rc = dha_err_context(e, "whether the stage's input is whole");
        goto out;
    }
    *whole = false;
    if (say_damaged(d, in, st.job, in->id, &why, e) != 0) {
        goto out;
    }
    /* What came after it is behind it again, too: a stage becomes ready when the one before it completes. */
    for (const struct store_stage *s = in; s < l.at + l.n; s++) {
        if (is_complete(s) && put_back(d, s, "an output it rests on is damaged", e) != 0) {
            goto out;
        }
    }
    rc = stages_advance(d, st.job, e);
out:
    store_stages_finish(&l);
    store_stage_finish(&st);
    return rc;
}

/* Looks at the job's stages once. *again: something became ready or complete. waits: for the end of another job; then nothing
 * is taken, as nothing is started. */
static int advance_once(struct daemon *d, int64_t job, bool waits, enum job_state *state,
                        bool *again, struct dha_err *e)
{
    struct store_stages l;
    if (store_stages_of_job(d->store, job, &l, e) != 0) {
        return -1;
    }
    int rc = 0;
    size_t complete = 0;
    *again = false;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        complete += is_complete(&l.at[i]);
        if (l.at[i].state == STAGE_READY && !waits) {
            bool reused = false;
            rc = reuse(d, &l.at[i], &reused, e);
            *again |= reused;
        }
    }
    if (rc == 0 && (*again || (complete == l.n && l.n > 0)) && *state == JOB_QUEUED) {
        rc = move_job(d, job, JOB_QUEUED, JOB_RUNNING, "reuses what is done", NULL, e);
        *state = JOB_RUNNING;
    }
    if (rc == 0 && complete == l.n && l.n > 0 && *state == JOB_RUNNING) {
        rc = move_job(d, job, JOB_RUNNING, JOB_DONE, NULL, NULL, e);
        *state = JOB_DONE;
        log_info("job %lld: done", (long long)job);
    }
    store_stages_finish(&l);
    return rc;
}

int stages_advance(struct daemon *d, int64_t job, struct dha_err *e)
{
    struct store_job j;
    if (store_job_brief(d->store, job, &j, e) != 0) {
        return -1;
    }
    enum job_state state = j.state;
    bool again = !j.cancel;
    int64_t on = 0;
    int rc = store_job_waits_for(d->store, job, &on, e);
    store_job_finish(&j);
    while (rc == 0 && again && (state == JOB_QUEUED || state == JOB_RUNNING)) {
        rc = advance_once(d, job, on != 0, &state, &again, e);
    }
    d->want_pass = true;
    return rc;
}

int stages_begin(struct daemon *d, int64_t job, const char *first_key, struct dha_err *e)
{
    struct store_stage done;
    struct dha_err none = {0};
    d->want_pass = true;
    if (store_stage_done_by_key(d->store, first_key, &done, &none) == 0) {
        store_stage_finish(&done);
        return stages_advance(d, job, e);
    }
    if (none.code != DHA_E_NOT_FOUND) {
        *e = none;
        return -1;
    }
    return 0; /* nothing to reuse, as nearly always */
}

/* ---- hold, release, retry ---- */

/* After a lost transaction it may for a moment not be known what runs. */
static int knows_what_runs(struct daemon *d, struct dha_err *e)
{
    return d->blind ? dha_fail(e, DHA_E_TRANSIENT, "the state is being read again; try again") : 0;
}

static int conflict(const struct store_job *j, const char *what, struct dha_err *e)
{
    return dha_fail(e, DHA_E_CONFLICT, "job %lld is %s: it cannot be %s", (long long)j->id,
                    job_state_name(j->state), what);
}

int stages_hold(struct daemon *d, int64_t job, struct dha_err *e)
{
    struct store_job j;
    if (knows_what_runs(d, e) != 0 || store_job_brief(d->store, job, &j, e) != 0) {
        return -1;
    }
    int rc = 0;
    if (j.cancel || job_state_final(j.state)) {
        rc = conflict(&j, "held", e);
    } else if (j.state != JOB_HELD) {
        rc = move_job(d, job, j.state, JOB_HELD, "held by a user", NULL, e);
        if (rc == 0) {
            attempts_stop(d, job, -1);
        }
    }
    store_job_finish(&j);
    return rc;
}

int stages_release(struct daemon *d, int64_t job, struct dha_err *e)
{
    struct store_job j;
    if (knows_what_runs(d, e) != 0 || store_job_brief(d->store, job, &j, e) != 0) {
        return -1;
    }
    int rc = 0;
    if (j.state == JOB_HELD) {
        rc = move_job(d, job, JOB_HELD, attempts_of_job(d, job) ? JOB_RUNNING : JOB_QUEUED,
                      "released by a user", NULL, e);
        rc = rc == 0 ? stages_advance(d, job, e) : rc;
    } else if (job_state_final(j.state)) {
        rc = conflict(&j, "released", e);
    }
    store_job_finish(&j);
    return rc;
}

static int enter_as(struct runas *as, uid_t user, struct dha_err *e)
{
    if (runas_enter(as, user) == 0) {
        return 0;
    }
    return dha_fail_errno(e, errno, "cannot look at the job's files as uid %lu",
                          (unsigned long)user);
}

int stages_changed(const struct job_spec *s, int64_t owner_uid, int64_t since_us, struct dha_err *e)
{
    struct runas as;
    if (enter_as(&as, runas_user(owner_uid), e) != 0) {
        return -1;
    }
    stagekey_changed(s, since_us, e);
    runas_leave(&as);
    return -1;
}

int stages_keys(const struct job_spec *s, int64_t owner_uid, struct stagekey *keys, int *n,
                struct dha_err *e)
{
    uid_t user = runas_user(owner_uid);
    struct runas as;
    if (enter_as(&as, user, e) != 0) {
        return -1;
    }
    int rc = stagekey_job(s, keys, n, e);
    runas_leave(&as);
    /* Another user's results are not this one's to read. */
    for (int i = 0; i < *n && rc == 0 && user != RUNAS_SELF; i++) {
        char text[STAGEKEY_SIZE + 32];
        snprintf(text, sizeof text, "uid %lu %s", (unsigned long)user, keys[i].key);
        rc = stagekey_digest(text, keys[i].key, e);
    }
    return rc;
}

int stages_retry(struct daemon *d, int64_t job, struct dha_err *e)
{
    struct store_job j;
    struct store_stages l = {0};
    if (store_job_brief(d->store, job, &j, e) != 0) {
        return -1;
    }
    int rc = -1;
    if (j.state != JOB_FAILED && j.state != JOB_CANCELLED) {
        conflict(&j, "retried", e);
        dha_err_hint(e, "only failed and cancelled jobs can");
        goto out;
    }
    if (runas_user(j.owner_uid) != RUNAS_SELF && runas_lacks()[0]) {
        runas_refuse(e);
        goto out;
    }
    if (store_queue_check(d->store, j.owner_uid, d->settings.queue_per_user, 1, e) != 0 ||
        move_job(d, job, j.state, JOB_QUEUED, "retried by a user", NULL, e) != 0 ||
        store_stages_of_job(d->store, job, &l, e) != 0) {
        goto out;
    }
    for (size_t i = 0; i < l.n; i++) {
        if ((l.at[i].state == STAGE_FAILED || l.at[i].state == STAGE_CANCELLED) &&
            put_back(d, &l.at[i], "retried by a user", e) != 0) {
            goto out;
        }
    }
    rc = stages_advance(d, job, e);
out:
    store_stages_finish(&l);
    store_job_finish(&j);
    return rc;
}

/* ---- cancel ---- */

int stages_cancel(struct daemon *d, int64_t job, const char *reason, bool now, struct dha_err *e)
{
    struct store_job j;
    bool changed;
    if (knows_what_runs(d, e) != 0 || store_job_brief(d->store, job, &j, e) != 0) {
        return -1;
    }
    int rc = 0;
    if (job_state_final(j.state)) {
        rc = conflict(&j, "cancelled", e);
    } else {
        rc = store_job_cancel(d->store, job, reason, now, now_us(), &changed, e);
    }
    if (rc == 0 && attempts_of_job(d, job)) {
        attempts_stop(d, job, now || j.cancel_now ? 0 : CANCEL_GRACE_MS);
    } else if (rc == 0) {
        rc = stages_cancelled(d, job, e);
    }
    store_job_finish(&j);
    return rc;
}

int stages_cancelled(struct daemon *d, int64_t job, struct dha_err *e)
{
    struct store_job j;
    struct store_stages l = {0};
    if (store_job_brief(d->store, job, &j, e) != 0) {
        return -1;
    }
    int rc = -1;
    if (job_state_final(j.state)) {
        rc = 0;
        goto out;
    }
    if (store_stages_of_job(d->store, job, &l, e) != 0) {
        goto out;
    }
    for (size_t i = 0; i < l.n; i++) {
        bool changed;
        struct store_stage_move m = {.stage = l.at[i].id,
                                     .from = l.at[i].state,
                                     .to = STAGE_CANCELLED,
                                     .attempt = l.at[i].attempt,
                                     .reason = j.cancel_reason,
                                     .now_us = now_us()};
        if (!stage_state_final(l.at[i].state) &&
            store_stage_transition(d->store, &m, &changed, e) != 0) {
            goto out;
        }
    }
    struct dha_err why = {0};
    if (j.cancel_reason && j.cancel_reason[0]) {
        dha_fail(&why, DHA_E_CANCELLED, "cancelled: %s", j.cancel_reason);
    } else {
        dha_fail(&why, DHA_E_CANCELLED, "cancelled by a user");
    }
    if (move_job(d, job, j.state, JOB_CANCELLED, j.cancel_reason, &why, e) != 0) {
        goto out;
    }
    log_info("job %lld: cancelled", (long long)job);
    d->want_pass = true;
    rc = 0;
out:
    store_stages_finish(&l);
    store_job_finish(&j);
    return rc;
}
