/* sweep_watch.c: see sweep_watch.h. */
#include "daemon/sweep_watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/dominate.h"
#include "daemon/log.h"

static int add_point(struct dominate_job *j, int64_t tokens, double loss, struct dha_err *e)
{
    struct dominate_point *at = realloc(j->at, (j->n + 1) * sizeof *at);
    if (!at) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    j->at = at;
    size_t k = j->n++;
    for (; k > 0 && at[k - 1].tokens > tokens; k--) { /* they come nearly sorted */
        at[k] = at[k - 1];
    }
    at[k] = (struct dominate_point){tokens, loss};
    return 0;
}

/* The evaluations of the model on its way, by the tokens that it had read by then. While operators or masks train, the fuse
 * stage evaluates a model that is still the parent with all its heads: only what it leaves counts. */
static int take_points(struct daemon *d, struct dominate_job *j, const struct store_stage *st,
                       int64_t before, struct dha_err *e)
{
    struct store_eval *ev = NULL;
    size_t n = 0;
    int rc = store_evals(d->store, st->reused_from ? st->reused_from : st->id, &ev, &n, e);
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (st->kind == STAGE_TRAIN && strcmp(ev[i].name, "valid") == 0) {
            rc = add_point(j, before + ev[i].trained_tokens, ev[i].loss, e);
        } else if (strcmp(ev[i].name, "final") == 0) {
            rc = add_point(j, before + st->tokens, ev[i].loss, e);
        }
    }
    free(ev);
    return rc;
}

static int take_job(struct daemon *d, const struct store_job *job, struct dominate_job *j,
                    struct dha_err *e)
{
    struct store_stages l;
    int64_t tokens = 0;
    *j = (struct dominate_job){.id = job->id, .seed = job->seed};
    if (store_stages_of_job(d->store, job->id, &l, e) != 0) {
        return -1;
    }
    int rc = 0;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        const struct store_stage *st = &l.at[i];
        size_t before = j->n;
        rc = take_points(d, j, st, tokens, e);
        tokens += st->tokens;
        j->kv_bytes = st->kv_converted ? st->kv_converted : j->kv_bytes;
        j->training |= st->kind == STAGE_TRAIN && st->state == STAGE_RUNNING && j->n > before;
    }
    j->training = j->training && job->state == JOB_RUNNING && !job->cancel && !job->spared;
    if (job->cancel || job->state == JOB_CANCELLED || job->state == JOB_FAILED) {
        j->kv_bytes = 0; /* what is given up takes nobody with it */
    }
    store_stages_finish(&l);
    return rc;
}

static int stop_dominated(struct daemon *d, const struct store_sweep *w, struct dominate_job *jobs,
                          size_t n, struct dha_err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        struct dominate_verdict v;
        char reason[160];
        if (!dominate(jobs, n, i, w->margin, &v)) {
            continue;
        }
        snprintf(reason, sizeof reason,
                 "dominated by job %lld: loss %.4f after %lld tokens, against %.4f after %lld",
                 (long long)jobs[v.by].id, v.mine.loss, (long long)v.mine.tokens, v.theirs.loss,
                 (long long)v.theirs.tokens);
        log_info("job %lld of sweep %lld: %s", (long long)jobs[i].id, (long long)w->id, reason);
        rc = stages_cancel(d, jobs[i].id, reason, false, e);
        jobs[i].kv_bytes = 0; /* so of two at most one is stopped */
    }
    return rc;
}

static int watch_one(struct daemon *d, const struct store_sweep *w, struct dha_err *e)
{
    struct store_jobs l;
    struct store_job_filter f = {.sweep = w->id, .limit = 10000};
    if (store_jobs_list(d->store, &f, &l, e) != 0) {
        return -1;
    }
    size_t n = 0;
    struct dominate_job *jobs = calloc(l.n + 1, sizeof *jobs);
    int rc = jobs ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    while (rc == 0 && n < l.n) {
        rc = take_job(d, &l.at[n], &jobs[n], e);
        n++;
    }
    rc = rc == 0 ? stop_dominated(d, w, jobs, n, e) : rc;
    for (size_t i = 0; i < n; i++) {
        free(jobs[i].at);
    }
    free(jobs);
    store_jobs_finish(&l);
    return rc;
}

int sweep_watch(struct daemon *d, struct dha_err *e)
{
    struct store_sweeps l;
    struct store_sweep_filter f = {.to_watch = true, .limit = 10000};
    if (store_sweeps_list(d->store, &f, &l, e) != 0) {
        return -1;
    }
    int rc = 0;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        rc = watch_one(d, &l.at[i], e);
    }
    store_sweeps_finish(&l);
    return rc;
}
