/* doc.c: see doc.h. */
#include "daemon/doc.h"
#include "daemon/remote.h"
#include "daemon/runas.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

cJSON *doc_oom(cJSON *j, struct dha_err *e)
{
    cJSON_Delete(j);
    dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    return NULL;
}

int doc_put_null(cJSON *obj, const char *key)
{
    return json_put(obj, key, cJSON_CreateNull());
}

int doc_put_text(cJSON *obj, const char *key, const char *text)
{
    return text ? json_put_str(obj, key, text) : doc_put_null(obj, key);
}

int doc_put_notice(cJSON *obj, const struct daemon *d)
{
    char text[sizeof d->upkeep.failed.msg + 64];
    if (d->notice[0]) {
        return json_put_str(obj, "notice", d->notice);
    }
    struct dha_err cannot = {0};
    if (d->access.has_group && runas_lacks()[0]) {
        runas_refuse(&cannot);
        return json_put_str(obj, "notice", cannot.msg);
    }
    if (d->upkeep.failed.code == DHA_E_OK) {
        return doc_put_null(obj, "notice");
    }
    snprintf(text, sizeof text, "the last backup failed: %s", d->upkeep.failed.msg);
    return doc_put_text(obj, "notice", text);
}

int doc_put_trouble(cJSON *obj, const struct daemon *d)
{
    char text[400];
    return doc_put_text(obj, "trouble", turn_trouble(d, text, sizeof text) ? text : NULL);
}

int doc_put_time(cJSON *obj, const char *key, int64_t us)
{
    return us ? json_put_id(obj, key, us) : doc_put_null(obj, key);
}

int doc_put_error(cJSON *obj, const char *key, const struct store_error *err)
{
    if (!err->code[0]) {
        return doc_put_null(obj, key);
    }
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "code", err->code) | json_put_str(j, "message", err->message) |
             json_put_str(j, "hint", err->hint);
    if (!j || rc != 0) {
        cJSON_Delete(j);
        return -1;
    }
    return json_put(obj, key, j);
}

static cJSON *progress(const struct store_stage *st)
{
    cJSON *j = cJSON_CreateObject();
    if (!j) {
        return NULL;
    }
    int rc = json_put_str(j, "phase", st->progress.phase) |
             json_put_int(j, "done", st->progress.done) |
             json_put_int(j, "total", st->progress.total) |
             json_put_int(j, "step", st->progress.step) |
             json_put_int(j, "steps", st->progress.steps) |
             json_put_int(j, "tokens", st->progress.tokens) |
             json_put_num(j, "tokens_per_s", st->progress.tokens_per_s) |
             json_put_num(j, "loss", st->progress.loss) | json_put_num(j, "lm", st->progress.lm) |
             json_put_num(j, "kl", st->progress.kl) |
             json_put_num(j, "fusion_loss", st->progress.fusion_loss) |
             json_put_num(j, "eta_s", st->progress.eta_s);
    if (rc != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

static cJSON *reused_from(const struct store_stage *st)
{
    if (!st->reused_from) {
        return cJSON_CreateNull();
    }
    cJSON *j = cJSON_CreateObject();
    if (j && (json_put_id(j, "job", st->reused_job) != 0 ||
              json_put_id(j, "stage", st->reused_from) != 0)) {
        cJSON_Delete(j);
        j = NULL;
    }
    return j;
}

/* The job that runs an equal stage while this one waits for it; null if none. */
static int put_waits_for(struct daemon *d, cJSON *j, const struct store_stage *st)
{
    struct store_stage other;
    struct dha_err ignored = {0};
    if (st->state != STAGE_READY ||
        store_stage_running_by_key(d->store, st->key, &other, &ignored) != 0) {
        return doc_put_null(j, "waits_for");
    }
    int rc = json_put_id(j, "waits_for", other.job);
    store_stage_finish(&other);
    return rc;
}

static cJSON *stage_doc(struct daemon *d, const struct store_stage *st)
{
    char *dir = NULL;
    cJSON *j = cJSON_CreateObject();
    if (!j || asprintf(&dir, "%s/jobs/%lld/%s", d->state_dir, (long long)st->job,
                       stage_kind_name(st->kind)) < 0) {
        cJSON_Delete(j);
        return NULL;
    }
    int rc = json_put_id(j, "id", st->id) | json_put_str(j, "kind", stage_kind_name(st->kind)) |
             json_put_str(j, "key", st->key) |
             json_put_str(j, "state", stage_state_name(st->state)) |
             json_put_int(j, "attempt", st->attempt) | json_put_int(j, "attempts", st->attempt) |
             json_put(j, "reused_from", reused_from(st)) | json_put_str(j, "dir", dir) |
             doc_put_text(j, "out_dir", st->out_dir) | doc_put_text(j, "output", st->output) |
             doc_put_time(j, "started_us", st->started_us) |
             doc_put_time(j, "ended_us", st->ended_us) | json_put_int(j, "tokens", st->tokens) |
             json_put_num(j, "seconds", st->seconds) | doc_put_error(j, "error", &st->error) |
             put_waits_for(d, j, st) | json_put(j, "progress", progress(st));
    free(dir);
    if (rc != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

/* What both documents of a job begin with. */
static int put_job_head(cJSON *j, const struct store_job *job)
{
    return json_put_id(j, "id", job->id) | json_put_str(j, "name", job->name) |
           json_put_str(j, "state", job_state_name(job->state)) |
           json_put_int(j, "priority", job->priority) | json_put_str(j, "method", job->method) |
           json_put_num(j, "budget", job->budget) | json_put_int(j, "seed", job->seed) |
           doc_put_time(j, "submitted_us", job->submitted_us) |
           doc_put_time(j, "started_us", job->started_us) |
           doc_put_time(j, "ended_us", job->ended_us);
}

/* The stage that a reader wants to hear of: the running one, else the next, else where it failed. */
static const struct store_stage *active_stage(const struct store_job *job,
                                              const struct store_stages *l)
{
    if (job_state_final(job->state)) {
        return NULL;
    }
    for (size_t i = 0; i < l->n; i++) {
        if (l->at[i].state == STAGE_RUNNING) {
            return &l->at[i];
        }
    }
    for (size_t i = 0; i < l->n; i++) {
        if (!stage_state_final(l->at[i].state)) {
            return &l->at[i];
        }
    }
    return NULL;
}

/* The result as far as rows that are at hand tell it: losses, tokens, bytes a token. null until anything is known. */
static cJSON *short_result(const struct store_job *job, const struct store_stages *l)
{
    int64_t tokens = 0, parent = 0, converted = 0;
    bool known = isfinite(job->loss_parent) || isfinite(job->loss_converted) ||
                 isfinite(job->loss_final);
    for (size_t i = 0; i < l->n; i++) {
        tokens += l->at[i].tokens;
        parent = l->at[i].kv_parent ? l->at[i].kv_parent : parent;
        converted = l->at[i].kv_converted ? l->at[i].kv_converted : converted;
    }
    if (!known && tokens == 0 && parent == 0) {
        return cJSON_CreateNull();
    }
    cJSON *j = cJSON_CreateObject(), *loss = cJSON_CreateObject(), *kv = cJSON_CreateObject();
    int rc = json_put_num(loss, "parent", job->loss_parent) |
             json_put_num(loss, "converted", job->loss_converted) |
             json_put_num(loss, "final", job->loss_final);
    rc |= (parent ? json_put_id(kv, "parent", parent) : doc_put_null(kv, "parent")) |
          (converted ? json_put_id(kv, "converted", converted) : doc_put_null(kv, "converted"));
    rc |= json_put(j, "loss", loss);
    rc |= json_put(j, "kv_bytes_per_token", kv) | json_put_int(j, "tokens_spent", tokens);
    if (rc != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

/* Which stages were taken from other jobs. */
static cJSON *reused_list(const struct store_stages *l)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list && i < l->n; i++) {
        if (l->at[i].state != STAGE_REUSED) {
            continue;
        }
        cJSON *one = cJSON_CreateObject();
        if (json_put_str(one, "kind", stage_kind_name(l->at[i].kind)) != 0 ||
            json_put_id(one, "job", l->at[i].reused_job) != 0 || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}

cJSON *doc_job_short(struct daemon *d, const struct store_job *job, struct dha_err *e)
{
    struct store_stages l;
    if (store_stages_of_job(d->store, job->id, &l, e) != 0) {
        return NULL;
    }
    const struct store_stage *st = active_stage(job, &l);
    cJSON *j = cJSON_CreateObject();
    int rc = !j;
    if (j) {
        rc = put_job_head(j, job) |
             doc_put_text(j, "stage", st ? stage_kind_name(st->kind) : NULL) |
             json_put(j, "progress", st ? progress(st) : cJSON_CreateNull()) |
             doc_put_error(j, "error", &job->error) |
             doc_put_text(j, "cancel_reason", job->cancel_reason) |
             json_put(j, "reused", reused_list(&l)) | json_put(j, "result", short_result(job, &l));
    }
    store_stages_finish(&l);
    return rc == 0 ? j : doc_oom(j, e);
}

static cJSON *stages_doc(struct daemon *d, const struct store_stages *l)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list && i < l->n; i++) {
        cJSON *st = stage_doc(d, &l->at[i]);
        if (!st || !cJSON_AddItemToArray(list, st)) {
            cJSON_Delete(st);
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}

/* What the job waits for, or waited for: [{job, when, state}]. */
static cJSON *after_doc(struct daemon *d, int64_t job, struct dha_err *e)
{
    struct store_dependency *l;
    size_t n;
    if (store_dependencies(d->store, job, &l, &n, e) != 0) {
        return NULL;
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list && i < n; i++) {
        cJSON *one = cJSON_CreateObject();
        if (json_put_id(one, "job", l[i].job) != 0 ||
            json_put_str(one, "when", l[i].any ? "any" : "ok") != 0 ||
            json_put_str(one, "state", job_state_name(l[i].state)) != 0 ||
            !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            list = NULL;
        }
    }
    free(l);
    return list ? list : doc_oom(NULL, e);
}

cJSON *doc_job(struct daemon *d, int64_t id, struct dha_err *e)
{
    struct store_job job = {0};
    struct store_stages l = {0};
    cJSON *j = NULL, *result = NULL, *after = NULL;
    char *dir = NULL;
    if (store_job_get(d->store, id, &job, e) != 0) {
        return NULL;
    }
    if (store_stages_of_job(d->store, id, &l, e) != 0 || !(result = doc_result(d, &job, &l, e)) ||
        !(after = after_doc(d, id, e))) {
        goto out;
    }
    j = cJSON_CreateObject();
    if (!j || asprintf(&dir, "%s/jobs/%lld", d->state_dir, (long long)id) < 0) {
        j = doc_oom(j, e);
        goto out;
    }
    int rc = put_job_head(j, &job) | json_put_id(j, "owner_uid", job.owner_uid) |
             json_put_bool(j, "cancelling", job.cancel && !job_state_final(job.state)) |
             doc_put_text(j, "cancel_reason", job.cancel_reason) |
             (job.sweep ? json_put_id(j, "sweep", job.sweep) : doc_put_null(j, "sweep")) |
             json_put_str(j, "dir", dir) | doc_put_error(j, "error", &job.error) |
             (job_state_final(job.state) ? doc_put_null(j, "trouble") : doc_put_trouble(j, d)) |
             json_put(j, "stages", stages_doc(d, &l));
    rc |= json_put(j, "spec", cJSON_CreateRaw(job.spec)); /* the store has looked at it */
    rc |= json_put(j, "result", result);
    result = NULL;
    rc |= json_put(j, "after", after);
    after = NULL;
    if (rc != 0) {
        j = doc_oom(j, e);
    }
out:
    free(dir);
    cJSON_Delete(result);
    cJSON_Delete(after);
    store_stages_finish(&l);
    store_job_finish(&job);
    return j;
}

int doc_job_tag(const cJSON *job, char tag[DOC_TAG_SIZE], char **whole, struct dha_err *e)
{
    static const char *const moving[] = {"progress", "wall_s", "trouble", NULL};
    char *text = json_text_less(job, moving, whole);
    if (!text) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    XXH128_hash_t x = XXH3_128bits(text, strlen(text));
    snprintf(tag, DOC_TAG_SIZE, "\"%016llx%016llx\"", (unsigned long long)x.high64,
             (unsigned long long)x.low64);
    free(text);
    return 0;
}

cJSON *doc_node(struct daemon *d, const struct store_node *n, const struct store_slot *slots,
                size_t n_slots, struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject(), *list = cJSON_CreateArray();
    if (!j || !list) {
        cJSON_Delete(list);
        return doc_oom(j, e);
    }
    int rc = json_put_id(j, "id", n->id) | json_put_str(j, "name", n->name) |
             json_put_str(j, "state",
                          n->gone                        ? "gone"
                          : n->drained                   ? "drained"
                          : remote_is_silent(d, n->name) ? "unreachable"
                                                         : "up") |
             json_put_str(j, "reason", n->reason) |
             doc_put_text(j, "address", n->address[0] ? n->address : NULL);
    for (size_t i = 0; i < n_slots && rc == 0; i++) {
        if (slots[i].node != n->id) {
            continue;
        }
        cJSON *s = cJSON_CreateObject();
        if (!s || !cJSON_AddItemToArray(list, s)) {
            cJSON_Delete(s);
            rc = -1;
            break;
        }
        rc = json_put_id(s, "id", slots[i].id) | json_put_str(s, "name", slots[i].name) |
             json_put_str(s, "device", slots[i].device) |
             json_put_id(s, "memory", slots[i].memory) |
             doc_put_text(s, "cores", slots[i].cores[0] ? slots[i].cores : NULL) |
             doc_put_text(s, "gpu", slots[i].uuid[0] ? slots[i].uuid : NULL) |
             (slots[i].attempt ? json_put_id(s, "attempt", slots[i].attempt)
                               : doc_put_null(s, "attempt")) |
             (slots[i].job ? json_put_id(s, "job", slots[i].job) : doc_put_null(s, "job"));
    }
    rc |= json_put(j, "slots", list);
    return rc == 0 ? j : doc_oom(j, e);
}

cJSON *doc_event(const struct store_event *ev, struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject();
    cJSON *data = ev->data ? json_parse(ev->data, strlen(ev->data), NULL, NULL) : NULL;
    if (!data) {
        data = cJSON_CreateObject();
    }
    if (!j) {
        cJSON_Delete(data);
        return doc_oom(j, e);
    }
    int rc = json_put_id(j, "seq", ev->seq) | json_put_id(j, "time_us", ev->time_us) |
             json_put_str(j, "type", ev->type) |
             (ev->job ? json_put_id(j, "job", ev->job) : doc_put_null(j, "job")) |
             (ev->stage ? json_put_id(j, "stage", ev->stage) : doc_put_null(j, "stage")) |
             (ev->attempt ? json_put_int(j, "attempt", ev->attempt) : doc_put_null(j, "attempt"));
    rc |= json_put(j, "data", data);
    return rc == 0 ? j : doc_oom(j, e);
}

static cJSON *sweep_job(struct daemon *d, const struct store_job *job, bool with_result,
                        struct dha_err *e)
{
    cJSON *j = doc_job_short(d, job, e);
    if (!j || !with_result) {
        return j;
    }
    struct store_stages l;
    if (store_stages_of_job(d->store, job->id, &l, e) != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    cJSON *result = doc_result(d, job, &l, e);
    store_stages_finish(&l);
    if (!result) {
        cJSON_Delete(j);
        return NULL;
    }
    return json_put(j, "result", result) == 0 ? j : doc_oom(j, e);
}

static int put_skipped(cJSON *j, const struct store_sweep *w)
{
    cJSON *list = json_parse(w->skipped, strlen(w->skipped), NULL, NULL);
    return json_put(j, "skipped", list ? list : cJSON_CreateArray());
}

cJSON *doc_sweep(struct daemon *d, const struct store_sweep *w, bool with_results,
                 struct dha_err *e)
{
    struct store_jobs jobs;
    struct store_job_filter f = {.sweep = w->id, .limit = 10000};
    if (store_jobs_list(d->store, &f, &jobs, e) != 0) {
        return NULL;
    }
    cJSON *j = cJSON_CreateObject(), *list = cJSON_CreateArray();
    int rc = !j || !list ? -1
                         : json_put_id(j, "id", w->id) | json_put_str(j, "name", w->name) |
                               json_put_id(j, "created_us", w->created_us) |
                               json_put_bool(j, "stop_dominated", w->stop_dominated) |
                               json_put_num(j, "margin", w->margin) | put_skipped(j, w);
    for (size_t i = jobs.n; i-- > 0 && rc == 0;) { /* in the order of submission */
        cJSON *one = sweep_job(d, &jobs.at[i], with_results, e);
        if (!one) {
            store_jobs_finish(&jobs);
            cJSON_Delete(list);
            cJSON_Delete(j);
            return NULL;
        }
        rc = cJSON_AddItemToArray(list, one) ? 0 : -1;
    }
    store_jobs_finish(&jobs);
    if (rc != 0) {
        cJSON_Delete(list);
        return doc_oom(j, e);
    }
    return json_put(j, "jobs", list) == 0 ? j : doc_oom(j, e);
}
