/* api_admin.c: what an administrator asks for: long work is started here, looked at and, where it was planned
 * first, gone on with (chore.h). */
#include "daemon/api.h"

#include "daemon/chores.h"

enum { WAIT_MAX_S = 60 };

static enum api_outcome answer(struct api_call *c, int rc)
{
    if (rc != 0) {
        return API_FAIL;
    }
    c->status = 202;
    c->d->chore->by = (int64_t)c->rq->peer_uid;
    return api_answer(c, "chore", chore_doc(c->d, c->d->chore->id, &c->e));
}

/* A path in the body: the daemon's directory is not the caller's. */
static int need_path(struct api_call *c, const char *key, const char **out)
{
    if (json_need_str(c->body, key, out, &c->e) != 0) {
        c->e.code = DHA_E_USAGE;
        return -1;
    }
    if ((*out)[0] != '/') {
        return dha_fail(&c->e, DHA_E_USAGE, "\"%s\" is \"%.200s\": an absolute path is wanted", key,
                        *out);
    }
    return 0;
}

static int flag(struct api_call *c, const char *key, bool *out)
{
    const cJSON *v = json_get(c->body, key);
    *out = cJSON_IsTrue(v);
    return !v || cJSON_IsBool(v) ? 0 : dha_fail(&c->e, DHA_E_USAGE, "\"%s\" is true or false", key);
}

/* What looks at the files of jobs, or changes them, needs them. */
static int need_files(struct api_call *c)
{
    char text[400];
    return c->d->no_jobs && turn_trouble(c->d, text, sizeof text)
               ? dha_fail(&c->e, DHA_E_TRANSIENT, "%s", text)
               : 0;
}

enum api_outcome api_admin_fsck(struct api_call *c)
{
    bool deep;
    return flag(c, "deep", &deep) != 0 || need_files(c) != 0
               ? API_FAIL
               : answer(c, chore_fsck(c->d, deep, &c->e));
}

enum api_outcome api_admin_backup(struct api_call *c)
{
    const char *file;
    return need_path(c, "file", &file) != 0 ? API_FAIL : answer(c, chore_backup(c->d, file, &c->e));
}

enum api_outcome api_admin_export(struct api_call *c)
{
    const char *out;
    int64_t job;
    if (json_need_int(c->body, "job", &job, &c->e) != 0) {
        c->e.code = DHA_E_USAGE;
        return API_FAIL;
    }
    if (job < 1) {
        dha_fail(&c->e, DHA_E_USAGE, "\"job\" is %lld, and no job has that id", (long long)job);
        return API_FAIL;
    }
    return need_path(c, "out", &out) != 0 ? API_FAIL
                                          : answer(c, chore_export(c->d, job, out, &c->e));
}

enum api_outcome api_admin_import(struct api_call *c)
{
    const char *dir;
    return need_path(c, "dir", &dir) != 0 || need_files(c) != 0
               ? API_FAIL
               : answer(c, chore_import(c->d, dir, (int64_t)c->rq->peer_uid, &c->e));
}

/* A member that may be absent (*there = false). */
static int optional_int(struct api_call *c, const char *key, int64_t lo, int64_t hi, int64_t *out,
                        bool *there)
{
    *there = json_get(c->body, key) != NULL;
    *out = 0;
    if (*there && (json_need_int(c->body, key, out, &c->e) != 0 || *out < lo || *out > hi)) {
        return dha_fail(&c->e, DHA_E_USAGE, "\"%s\" is a whole number from %lld to %lld", key,
                        (long long)lo, (long long)hi);
    }
    return 0;
}

enum api_outcome api_admin_prune(struct api_call *c)
{
    struct prune_what w = {0};
    int64_t last, age;
    bool every, metrics;
    if (optional_int(c, "keep_last", 0, 1000000, &last, &w.checkpoints) != 0 ||
        optional_int(c, "keep_every", 1, INT64_MAX, &w.policy.every, &every) != 0 ||
        flag(c, "keep_best", &w.policy.best) != 0 ||
        optional_int(c, "metrics_older_than_s", 0, INT64_C(1) << 40, &age, &metrics) != 0) {
        return API_FAIL;
    }
    if (!w.checkpoints && (every || w.policy.best)) {
        dha_fail(&c->e, DHA_E_USAGE, "keep_every and keep_best go with keep_last");
        return API_FAIL;
    }
    if (!w.checkpoints && !metrics) {
        dha_fail(&c->e, DHA_E_USAGE, "neither keep_last nor metrics_older_than_s: nothing to do");
        return API_FAIL;
    }
    w.policy.last = (int)last;
    w.metrics_before_us = metrics ? now_us() - age * 1000000 : 0;
    if (need_files(c) != 0) {
        return API_FAIL;
    }
    return answer(c, chore_prune(c->d, &w, &c->e));
}

enum api_outcome api_admin_apply(struct api_call *c)
{
    return need_files(c) != 0 ? API_FAIL : answer(c, chore_apply(c->d, c->id, &c->e));
}

enum api_outcome api_admin_chore(struct api_call *c)
{
    int64_t wait;
    cJSON *doc;
    if (api_query_int(c, "wait", 0, WAIT_MAX_S, 0, &wait) != 0 ||
        !(doc = chore_doc(c->d, c->id, &c->e))) {
        return API_FAIL;
    }
    if (!chore_rests(c->d) && wait > 0 && !c->rq->expired) {
        if (c->rq->deadline_ms == 0) {
            c->rq->deadline_ms = uv_now(&c->d->loop) + (uint64_t)wait * 1000;
        }
        cJSON_Delete(doc);
        return API_WAIT;
    }
    return api_answer(c, "chore", doc);
}
