/* attempt_end.c: an attempt is over and nothing of it runs any more. One turn: the rest of its journal,
 * its verdict (verdict.h), its slots free, its stage moved on, its job moved on. */
#include "daemon/attempt.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/log.h"
#include "daemon/runas.h"
#include "daemon/verdict.h"

/* So often a file that is there but cannot be read is tried again (TROUBLE_MS apart). */
enum { UNREAD_MAX = 15 };

/* A small JSON file of the attempt; NULL if it is not there. A damaged one is set aside and counts as
 * not there. -1: it cannot be read now (no descriptor, no memory), which says nothing about it. */
static int read_doc(struct attempt *a, const char *name, cJSON **out, struct dha_err *why)
{
    char path[4200];
    struct stat st;
    struct dha_err e = {0};
    *out = NULL;
    snprintf(path, sizeof path, "%.4000s/%s", a->dir, name);
    if (a->foreign || runas_stat(path, &st) != 0) {
        return 0;
    }
    cJSON *doc = runas_json(path, 65536, &e);
    if (doc && cJSON_IsObject(doc)) {
        *out = doc;
        return 0;
    }
    cJSON_Delete(doc);
    if ((e.code == DHA_E_IO || e.code == DHA_E_NO_MEMORY) && a->unread++ < UNREAD_MAX) {
        *why = e;
        return -1;
    }
    char content[1024];
    int fd = runas_open(path, O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, content, sizeof content) : 0;
    if (fd >= 0) {
        close(fd);
    }
    log_warn("%s is damaged and set aside: %s", path, e.msg);
    struct dha_err ignored = {0};
    if (store_lost_found_add(a->d->store, path, content, n > 0 ? (size_t)n : 0,
                             e.msg[0] ? e.msg : "not an object", now_us(), &ignored) != 0) {
        log_fail("lost_found", &ignored);
    }
    return 0;
}

static int read_status(struct attempt *a, struct verdict_facts *f, struct dha_err *e)
{
    const char *code;
    struct dha_err bad = {0};
    cJSON *doc;
    if (read_doc(a, "status.json", &doc, e) != 0) {
        return -1;
    }
    if (doc && json_need_str(doc, "code", &code, &bad) == 0 &&
        dha_code_from_name(code) != DHA_E_COUNT) {
        f->has_status = true;
        f->status.code = dha_code_from_name(code);
        snprintf(f->status.msg, sizeof f->status.msg, "%s", json_str(doc, "message", ""));
        snprintf(f->status.hint, sizeof f->status.hint, "%s", json_str(doc, "hint", ""));
        if (f->status.code != DHA_E_OK && !f->status.msg[0]) {
            snprintf(f->status.msg, sizeof f->status.msg, "%s", dha_code_meaning(f->status.code));
        }
    }
    cJSON_Delete(doc);
    return 0;
}

static int read_exit(struct attempt *a, struct verdict_facts *f, struct dha_err *e)
{
    cJSON *doc;
    if (read_doc(a, "exit.json", &doc, e) != 0) {
        return -1;
    }
    int64_t exited = json_int(doc, "exited", -1), sig = json_int(doc, "signal", 0);
    bool by_status = exited >= 0 && exited < 256;
    if (doc && (by_status || (sig > 0 && sig < 128))) {
        f->has_exit = true;
        f->exited = by_status ? (int)exited : -1;
        f->signal = by_status ? 0 : (int)sig;
    }
    cJSON_Delete(doc);
    return 0;
}

static void read_record(const struct store_attempt *row, struct verdict_facts *f)
{
    enum dha_code code = row->error.code[0] ? dha_code_from_name(row->error.code) : DHA_E_COUNT;
    if (code != DHA_E_COUNT && code != DHA_E_OK) {
        f->has_record = true;
        f->record.code = code;
        snprintf(f->record.msg, sizeof f->record.msg, "%s", row->error.message);
        snprintf(f->record.hint, sizeof f->record.hint, "%s", row->error.hint);
    }
}

/* Did it leave a checkpoint beyond the one that it went on from? */
static int got_further(struct attempt *a, const struct store_attempt *row, bool *out,
                       struct dha_err *e)
{
    struct store_checkpoint *ck;
    size_t n;
    *out = false;
    if (store_checkpoints(a->d->store, 0, a->stage, &ck, &n, e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        *out |= ck[i].attempt == a->number && ck[i].step > row->resumed_from;
    }
    free(ck);
    return 0;
}

static int gather(struct attempt *a, struct verdict_facts *f, struct dha_err *e)
{
    struct store_attempt row = {0};
    struct store_stage st = {0};
    struct store_job job = {0};
    int rc = -1;
    if (store_attempt_get(a->d->store, a->id, &row, e) != 0 ||
        store_stage_get(a->d->store, a->stage, &st, e) != 0 ||
        store_job_get(a->d->store, a->job, &job, e) != 0) {
        goto out;
    }
    *f = (struct verdict_facts){.exited = -1,
                                .has_launch = a->launch_failed,
                                .launch = a->launch_error,
                                .files_hang = a->launch_failed && a->files_hang,
                                .cancel = job.cancel,
                                .asked = a->stop != STOP_NONE && !a->over_time && !a->stalled &&
                                         !a->gone,
                                .over_time = a->over_time,
                                .walltime_s = a->walltime_s,
                                .stalled = a->stalled,
                                .stalled_why = a->stalled_why,
                                .gone = a->gone,
                                .gone_why = a->gone_why,
                                .retries = st.retries};
    read_record(&row, f);
    rc = got_further(a, &row, &f->got_further, e) == 0 && read_status(a, f, e) == 0 &&
                 read_exit(a, f, e) == 0
             ? 0
             : -1;
out:
    store_job_finish(&job);
    store_stage_finish(&st);
    store_attempt_finish(&row);
    return rc;
}

static int move_stage(struct attempt *a, const struct verdict *v, bool *changed, struct dha_err *e)
{
    static const enum stage_state to[] = {[VERDICT_DONE] = STAGE_DONE,
                                          [VERDICT_AGAIN] = STAGE_READY,
                                          [VERDICT_FAILED] = STAGE_FAILED,
                                          [VERDICT_CANCELLED] = STAGE_CANCELLED};
    int64_t now = now_us();
    struct store_stage_move m = {.stage = a->stage,
                                 .from = STAGE_RUNNING,
                                 .to = to[v->kind],
                                 .attempt = a->number,
                                 .error = v->error.code != DHA_E_OK ? &v->error : NULL,
                                 .count_retry = v->count_retry,
                                 .renew_retries = v->renew_retries,
                                 .not_before_us = v->backoff_us ? now + v->backoff_us : 0,
                                 .now_us = now};
    return store_stage_transition(a->d->store, &m, changed, e);
}

static int fail_job(struct attempt *a, const struct dha_err *why, struct dha_err *e)
{
    struct store_job job;
    bool changed;
    if (store_job_get(a->d->store, a->job, &job, e) != 0) {
        return -1;
    }
    struct store_job_move m = {
        .job = a->job, .from = job.state, .to = JOB_FAILED, .error = why, .now_us = now_us()};
    int rc = job_state_final(job.state) ? 0
             : stages_job_ended(a->d, a->job, e) != 0
                 ? -1
                 : store_job_transition(a->d->store, &m, &changed, e);
    store_job_finish(&job);
    return rc;
}

/* Jobs that waited for this very key may take the result now. */
static int wake_equal(struct attempt *a, struct dha_err *e)
{
    struct store_stage st;
    int64_t *jobs = NULL;
    size_t n = 0;
    if (store_stage_get(a->d->store, a->stage, &st, e) != 0) {
        return -1;
    }
    int rc = store_jobs_ready_for(a->d->store, st.key, &jobs, &n, e);
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = stages_advance(a->d, jobs[i], e);
    }
    free(jobs);
    store_stage_finish(&st);
    return rc;
}

static int move_on(struct attempt *a, const struct verdict *v, struct dha_err *e)
{
    switch (v->kind) {
    case VERDICT_DONE:
        if (stages_advance(a->d, a->job, e) != 0 || wake_equal(a, e) != 0) {
            return -1;
        }
        break;
    case VERDICT_FAILED:
        if (fail_job(a, &v->error, e) != 0) {
            return -1;
        }
        break;
    case VERDICT_CANCELLED:
    case VERDICT_AGAIN: break;
    }
    struct store_job job;
    if (store_job_get(a->d->store, a->job, &job, e) != 0) {
        return -1;
    }
    /* A stage may finish while its job is being cancelled: the rest of the job is cancelled all the same. */
    int rc = job.cancel && !job_state_final(job.state) ? stages_cancelled(a->d, a->job, e) : 0;
    store_job_finish(&job);
    return rc;
}

/* All of it or nothing: an ended attempt whose stage still runs would be nobody's any more. */
static int take_down(struct attempt *a, const struct verdict *v, int exit_code, struct dha_err *e)
{
    struct store_mark mark;
    bool ended, changed;
    if (store_mark(a->d->store, &mark, e) != 0) {
        return -1;
    }
    if (store_attempt_end(a->d->store, a->id, exit_code,
                          v->error.code != DHA_E_OK ? &v->error : NULL, now_us(), &ended, e) != 0 ||
        move_stage(a, v, &changed, e) != 0 ||
        /* Nothing changed: the end was taken down before (a restart between two commits). */
        (changed && move_on(a, v, e) != 0)) {
        store_undo(a->d->store, &mark);
        return -1;
    }
    return store_keep(a->d->store, &mark, e);
}

/* Another attempt on the same full disk will not help: where there must be room, of what, and how little there was. */
static void say_space(const struct attempt *a, struct dha_err *why)
{
    char said[sizeof why->hint], words[sizeof why->hint];
    struct statvfs fs;
    if (why->code != DHA_E_NO_SPACE || statvfs(a->dir, &fs) != 0) {
        return;
    }
    memcpy(said, why->hint, sizeof said);
    dha_space_words(&fs, a->dir, words, sizeof words);
    dha_err_hint(why, "%.220s when it ended%s%.80s", words, said[0] ? "; " : "", said);
}

int attempt_conclude(struct attempt *a, struct dha_err *e)
{
    struct verdict_facts f;
    static const char *const words[] = {[VERDICT_DONE] = "done",
                                        [VERDICT_AGAIN] = "will go on with another attempt",
                                        [VERDICT_FAILED] = "failed",
                                        [VERDICT_CANCELLED] = "cancelled"};
    int rc = ingest_journal(a->d, &a->in, true, e);
    if (rc != 0 || (rc = gather(a, &f, e)) != 0) {
        return rc;
    }
    FAILPOINT(ingest_final);
    struct verdict v = verdict_of(&f);
    say_space(a, &v.error);
    FAILPOINT(finish_before_commit);
    int exit_code = !f.has_exit ? -1 : f.exited >= 0 ? f.exited : 128 + f.signal;
    if (take_down(a, &v, exit_code, e) != 0) {
        return -1;
    }
    FAILPOINT(finish_before_turn_end);
    log_info("job %lld: attempt %d of stage %lld over (launcher %d), %s%s%s", (long long)a->job,
             a->number, (long long)a->stage, exit_code, words[v.kind], v.error.msg[0] ? ": " : "",
             v.error.msg);
    a->d->want_pass = true;
    return 0;
}
