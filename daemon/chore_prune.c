/* chore_prune.c: checkpoints of jobs that have ended, and the points of old series. First what would go is listed; applied,
 * it goes in slices: a checkpoint is taken out of use (checkpoint_retire()) and recorded as deleted in one turn, what
 * is left of its directory is removed in the thread afterwards. Dying between leaves a ".del" directory for fsck. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/chores.h"
#include "daemon/failpoint.h"
#include "daemon/files.h"
#include "daemon/grow.h"
#include "daemon/log.h"
#include "daemon/tmpdir.h"

/* THIN: points that go in one turn; as many rows as a turn with many records writes. */
enum { SLICE = 16, BUCKETS = 100, THIN = 20000 };

struct prune {
    struct prune_what what;
    struct victim {
        struct store_checkpoint c;
        int64_t job;
        bool gone;
    } * victims;
    struct series {
        int64_t job, points, thinned; /* of all its series */
        struct store_long_series *of; /* those to thin */
        size_t n, next;
        int bucket;
        int64_t gone;
    } * series;
    size_t n_victims, n_series, at;
    int64_t skipped, bytes, kept, points_gone;
};

/* ---- planning, in the thread ---- */

/* The validation loss at each checkpoint's step. */
static int find_losses(struct store *s, int64_t stage, const struct store_checkpoint *c, size_t n,
                       double *loss, struct dha_err *e)
{
    struct store_eval *ev;
    size_t n_ev;
    if (store_evals(s, stage, &ev, &n_ev, e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        loss[i] = NAN;
        for (size_t k = 0; k < n_ev; k++) {
            if (strcmp(ev[k].name, "valid") == 0 && ev[k].step == c[i].step) {
                loss[i] = ev[k].loss;
            }
        }
    }
    free(ev);
    return 0;
}

static int plan_stage(struct prune *k, struct store *s, const struct store_job *job,
                      const struct store_stage *st, struct dha_err *e)
{
    struct store_checkpoint *c;
    size_t n, m = 0;
    int rc = -1;
    if (store_checkpoints(s, 0, st->id, &c, &n, e) != 0) {
        return -1;
    }
    double *loss = calloc(n + 1, sizeof *loss);
    bool *keep = calloc(n + 1, sizeof *keep);
    if (!loss || !keep) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(c[i].state, "complete") == 0) {
            c[m++] = c[i];
        }
    }
    struct checkpoint_policy policy = k->what.policy;
    policy.spare = job->state != JOB_DONE; /* failed and cancelled ones may be told to go on */
    if (find_losses(s, st->id, c, m, loss, e) != 0) {
        goto out;
    }
    checkpoint_choose(&policy, c, loss, m, keep);
    for (size_t i = 0; i < m; i++) {
        struct victim *v = keep[i] ? NULL : grow(&k->victims, &k->n_victims, sizeof *v);
        if (v) {
            *v = (struct victim){.c = c[i], .job = job->id};
        } else if (!keep[i]) {
            dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
            goto out;
        }
        k->kept += keep[i];
    }
    rc = 0;
out:
    free(keep);
    free(loss);
    free(c);
    return rc;
}

static int plan_series(struct prune *k, struct store *s, int64_t job, struct dha_err *e)
{
    struct series p = {.job = job};
    size_t n;
    if (store_metric_series(s, job, &p.of, &n, e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        bool is_long = p.of[i].points > (int64_t)4 * BUCKETS;
        p.points += p.of[i].points;
        p.thinned += is_long ? (int64_t)4 * BUCKETS : p.of[i].points;
        if (is_long) {
            p.of[p.n++] = p.of[i];
        }
    }
    struct series *to = p.n ? grow(&k->series, &k->n_series, sizeof *to) : NULL;
    if (to) {
        *to = p;
        return 0;
    }
    free(p.of);
    return p.n ? dha_fail(e, DHA_E_NO_MEMORY, "out of memory") : 0;
}

static int plan_job(struct prune *k, struct store *s, const struct store_job *job,
                    struct dha_err *e)
{
    struct store_stages l;
    if (k->what.metrics_before_us && job->ended_us < k->what.metrics_before_us &&
        plan_series(k, s, job->id, e) != 0) {
        return -1;
    }
    if (!k->what.checkpoints) {
        return 0;
    }
    if (store_stages_of_job(s, job->id, &l, e) != 0) {
        return -1;
    }
    int rc = 0;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        rc = plan_stage(k, s, job, &l.at[i], e);
    }
    store_stages_finish(&l);
    return rc;
}

static int plan(struct chore *c, struct dha_err *e)
{
    struct prune *k = c->arg;
    struct store_job_filter f = {.limit = 500,
                                 .states = 1u << JOB_DONE | 1u << JOB_FAILED | 1u << JOB_CANCELLED};
    struct store *s;
    size_t n = 1;
    int rc = 0;
    if (store_open_reader(c->state_dir, &s, e) != 0) {
        return -1;
    }
    store_interrupt(s, progress_stopped, &c->progress);
    progress_phase(&c->progress, "looking at jobs", 0);
    while (n > 0 && rc == 0) {
        struct store_jobs l = {0};
        rc = store_jobs_list(s, &f, &l, e);
        n = l.n;
        for (size_t i = 0; i < n && rc == 0; i++) {
            f.before = l.at[i].id;
            rc = plan_job(k, s, &l.at[i], e) != 0 ? -1 : progress_add(&c->progress, 1, e);
        }
        store_jobs_finish(&l);
    }
    store_close(s);
    return rc;
}

/* ---- applying ---- */

/* Still of a job that has ended, still complete? */
static int still_to_go(struct store *s, const struct victim *v, bool *so, struct dha_err *e)
{
    struct store_job job;
    struct store_checkpoint *c;
    size_t n;
    *so = false;
    if (store_job_get(s, v->job, &job, e) != 0) {
        return -1;
    }
    bool final = job_state_final(job.state);
    store_job_finish(&job);
    if (store_checkpoints(s, 0, v->c.stage, &c, &n, e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        *so |= final && c[i].id == v->c.id && strcmp(c[i].state, "complete") == 0 &&
               c[i].created_us == v->c.created_us;
    }
    free(c);
    return 0;
}

static int retire(struct chore *c, struct prune *k, struct victim *v, struct dha_err *e)
{
    bool so;
    if (still_to_go(c->d->store, v, &so, e) != 0) {
        return -1;
    }
    if (!so) {
        k->skipped++;
        return 0;
    }
    if (checkpoint_retire(v->c.path, e) != 0 ||
        store_checkpoint_mark(c->d->store, v->c.id, "deleted", now_us(), e) != 0) {
        return -1;
    }
    v->gone = true;
    k->bytes += v->c.bytes;
    return 0;
}

static int say_thinned(struct chore *c, const struct series *p, struct dha_err *e)
{
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_int(data, "before", p->points) |
             json_put_int(data, "after", p->points - p->gone);
    char *text = rc == 0 ? json_text(data) : NULL;
    rc = text ? store_event_add(c->d->store, "metrics.thin", p->job, 0, 0, text, now_us(), NULL, e)
              : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    free(text);
    cJSON_Delete(data);
    return rc;
}

/* A slice; *over: of this job nothing is left to do. It may have been told to go on: then its series grow again. */
static int thin(struct chore *c, struct prune *k, struct series *p, bool *over, struct dha_err *e)
{
    struct store_job job;
    int64_t gone = 0;
    *over = true;
    if (store_job_get(c->d->store, p->job, &job, e) != 0) {
        return -1;
    }
    bool final = job_state_final(job.state);
    store_job_finish(&job);
    if (!final) {
        k->skipped++;
        return 0;
    }
    if (store_metric_thin(c->d->store, &p->of[p->next], BUCKETS, &p->bucket, THIN, &gone, e) != 0) {
        return -1;
    }
    p->gone += gone;
    k->points_gone += gone;
    if (p->bucket >= BUCKETS) {
        p->bucket = 0;
        p->next++;
    }
    *over = p->next == p->n;
    return *over && p->gone ? say_thinned(c, p, e) : 0;
}

static int finish(struct chore *c, struct dha_err *e)
{
    struct prune *k = c->arg;
    int64_t freed = 0;
    for (size_t i = 0; i < k->n_victims; i++) {
        freed += k->victims[i].gone;
    }
    return (json_put_int(c->result, "removed", freed) | json_put_id(c->result, "freed", k->bytes) |
            json_put_int(c->result, "points_removed", k->points_gone) |
            json_put_int(c->result, "skipped", k->skipped)) == 0
               ? 0
               : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static int apply(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    struct prune *k = c->arg;
    size_t all = k->n_victims + k->n_series;
    if (k->at > all) { /* the thread has removed what was taken out of use */
        *next = CHORE_DONE;
        return finish(c, e);
    }
    for (int i = 0; i < SLICE && k->at < k->n_victims; i++, k->at++) {
        struct dha_err why = {0};
        if (retire(c, k, &k->victims[k->at], &why) != 0) { /* the others can go all the same */
            log_fail("prune", &why);
            k->skipped++;
        }
    }
    if (k->at >= k->n_victims && k->at < all) {
        bool over;
        if (thin(c, k, &k->series[k->at - k->n_victims], &over, e) != 0) {
            return -1;
        }
        k->at += over;
    }
    atomic_store(&c->progress.total, (int64_t)all);
    atomic_store(&c->progress.done, (int64_t)k->at);
    *next = CHORE_AGAIN;
    if (k->at == all) {
        k->at++;
        *next = CHORE_WORK;
    }
    return 0;
}

static int remove_trees(struct chore *c, struct dha_err *e)
{
    struct prune *k = c->arg;
    progress_phase(&c->progress, "removing", (int64_t)k->n_victims);
    FAILPOINT(admin_prune_before_remove);
    for (size_t i = 0; i < k->n_victims; i++) {
        char path[FILES_PATH];
        if (k->victims[i].gone && (files_path(path, e, "%s.del", k->victims[i].c.path) != 0 ||
                                   checkpoint_remove(path) != 0)) {
            log_warn("prune: %s could not be removed to the end", path);
        }
        if (progress_add(&c->progress, 1, e) != 0) {
            return -1;
        }
    }
    return 0;
}

static int work(struct chore *c, struct dha_err *e)
{
    return c->apply ? remove_trees(c, e) : plan(c, e);
}

/* ---- telling ---- */

static cJSON *plan_doc(const struct prune *k)
{
    cJSON *doc = cJSON_CreateObject(), *gone = cJSON_CreateArray(),
          *thin_list = cJSON_CreateArray();
    int64_t bytes = 0;
    int rc = gone && thin_list ? 0 : -1;
    for (size_t i = 0; i < k->n_victims && rc == 0; i++) {
        const struct victim *v = &k->victims[i];
        cJSON *one = cJSON_CreateObject();
        bytes += v->c.bytes;
        rc = json_put_id(one, "job", v->job) | json_put_id(one, "checkpoint", v->c.id) |
             json_put_int(one, "step", v->c.step) | json_put_str(one, "path", v->c.path) |
             json_put_id(one, "bytes", v->c.bytes);
        rc |= cJSON_AddItemToArray(gone, one) ? 0 : -1;
    }
    for (size_t i = 0; i < k->n_series && rc == 0; i++) {
        cJSON *one = cJSON_CreateObject();
        rc = json_put_id(one, "job", k->series[i].job) |
             json_put_int(one, "points", k->series[i].points) |
             json_put_int(one, "left", k->series[i].thinned);
        rc |= cJSON_AddItemToArray(thin_list, one) ? 0 : -1;
    }
    rc |= json_put(doc, "checkpoints", gone) | json_put(doc, "metrics", thin_list) |
          json_put_int(doc, "kept", k->kept) | json_put_id(doc, "bytes", bytes);
    if (rc != 0) {
        cJSON_Delete(doc);
        return NULL;
    }
    return doc;
}

static int step(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    struct prune *k = c->arg;
    if (c->apply) {
        return apply(c, next, e);
    }
    *next = k->n_victims + k->n_series ? CHORE_PLANNED : CHORE_DONE;
    c->result = plan_doc(k);
    return c->result ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static void destroy(void *arg)
{
    struct prune *k = arg;
    free(k->victims);
    for (size_t i = 0; i < k->n_series; i++) {
        free(k->series[i].of);
    }
    free(k->series);
    free(k);
}

static const struct chore_ops ops = {
    .name = "prune", .work = work, .step = step, .destroy = destroy};

static int start(struct daemon *d, const struct prune_what *what,
                 int (*with)(struct daemon *, const struct chore_ops *, void *, struct dha_err *),
                 struct dha_err *e)
{
    struct prune *k = calloc(1, sizeof *k);
    if (!k) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    k->what = *what;
    return with(d, &ops, k, e);
}

int chore_prune(struct daemon *d, const struct prune_what *what, struct dha_err *e)
{
    return start(d, what, chore_start, e);
}

int chore_prune_own(struct daemon *d, const struct prune_what *what, struct dha_err *e)
{
    return start(d, what, chore_start_own, e);
}
