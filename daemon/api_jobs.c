/* api_jobs.c: submitting and showing jobs. */
#include "daemon/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/doc.h"
#include "daemon/stagekey.h"

enum { LIST_MAX = 1000, KEY_MAX = 128 };

static cJSON *errors_doc(const struct spec_errors *errs)
{
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; list && i < errs->n && (size_t)i < sizeof errs->at / sizeof *errs->at; i++) {
        cJSON *one = cJSON_CreateObject();
        if (!one || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            break;
        }
        if (json_put_str(one, "path", errs->at[i].path) != 0 ||
            json_put_str(one, "message", errs->at[i].msg) != 0 ||
            json_put_str(one, "hint", errs->at[i].hint) != 0) {
            break; /* what is there is still an answer */
        }
    }
    return list;
}

static char *path_of(const cJSON *obj, const char *key)
{
    const cJSON *v = json_get(obj, key);
    return cJSON_IsString(v) && v->valuestring[0] ? v->valuestring : NULL;
}

/* A spec with errors may name files that are not there as well: said in the same answer, as far as its paths
 * can be read. */
static void check_files_of(const cJSON *doc, struct spec_errors *errs)
{
    const cJSON *data = json_get(doc, "data"), *train = json_get(data, "train"), *f;
    struct job_spec paths = {.model = path_of(doc, "model"),
                             .data = {.valid = path_of(data, "valid"),
                                      .tokenizer = path_of(data, "tokenizer")}}; /* all borrowed */
    int n = cJSON_IsArray(train) ? cJSON_GetArraySize(train) : 0;
    paths.data.train = calloc((size_t)n + 1, sizeof *paths.data.train);
    if (!cJSON_IsArray(train) || !paths.data.train) {
        train = NULL;
    }
    cJSON_ArrayForEach(f, train)
    {
        if (!cJSON_IsString(f) || !f->valuestring[0]) {
            paths.data.n_train = 0;
            break;
        }
        paths.data.train[paths.data.n_train++] = f->valuestring;
    }
    stagekey_check_files(&paths, errs);
    free(paths.data.train);
}

int api_check_spec(struct api_call *c, const cJSON *doc, struct job_spec *spec)
{
    struct spec_errors errs = {0};
    if (spec_parse(doc, NULL, spec, &errs) == 0) {
        if (stagekey_check_files(spec, &errs) == 0) {
            return 0;
        }
        spec_finish(spec);
    } else {
        check_files_of(doc, &errs);
    }
    cJSON_Delete(c->errors);
    c->errors = errors_doc(&errs);
    dha_fail(&c->e, DHA_E_SPEC, "the spec has %d error%s: %s: %s%s", errs.n, errs.n == 1 ? "" : "s",
             errs.at[0].path, errs.at[0].msg, errs.n > 1 ? " (and more)" : "");
    if (errs.at[0].hint[0]) {
        dha_err_hint(&c->e, "%s", errs.at[0].hint);
    }
    snprintf(c->e.path, sizeof c->e.path, "%s", errs.at[0].path);
    return -1;
}

int api_submit_spec(struct api_call *c, const struct job_spec *spec, int64_t sweep,
                    const char *idempotency_key, int64_t *id, bool *existed)
{
    struct stagekey keys[STAGE_KINDS];
    struct store_new_stage stages[STAGE_KINDS];
    int n = 0, rc = -1;
    char *text = NULL;
    cJSON *doc = spec_to_json(spec);
    if (!doc || !(text = json_text(doc))) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    if (stagekey_job(spec, keys, &n, &c->e) != 0) {
        goto out;
    }
    for (int i = 0; i < n; i++) {
        stages[i] = (struct store_new_stage){.kind = keys[i].kind, .key = keys[i].key};
    }
    struct store_new_job j = {.name = spec->name,
                              .spec = text,
                              .method = spec->method.name,
                              .budget = spec->budget,
                              .priority = spec->priority,
                              .slots = plan_slots_needed(spec),
                              .device = spec->resources.device,
                              .owner_uid = (int64_t)c->rq->peer_uid,
                              .sweep = sweep,
                              .seed = spec->seed,
                              .idempotency_key = idempotency_key,
                              .stages = stages,
                              .n_stages = n,
                              .now_us = now_us()};
    if (store_job_submit(c->d->store, &j, id, existed, &c->e) != 0) {
        goto out;
    }
    rc = *existed ? 0 : stages_advance(c->d, *id, &c->e);
out:
    free(text);
    cJSON_Delete(doc);
    return rc;
}

static cJSON *plan_doc(struct api_call *c, const struct job_spec *spec)
{
    struct stagekey keys[STAGE_KINDS];
    int n = 0;
    if (stagekey_job(spec, keys, &n, &c->e) != 0) {
        return NULL;
    }
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; list && i < n; i++) {
        struct store_stage done;
        bool found;
        if (stages_find_done(c->d, keys[i].key, &done, &found, &c->e) != 0) {
            cJSON_Delete(list);
            return NULL;
        }
        cJSON *one = cJSON_CreateObject(),
              *from = found ? cJSON_CreateObject() : cJSON_CreateNull();
        int rc = !one || !from ? -1
                               : json_put_str(one, "kind", stage_kind_name(keys[i].kind)) |
                                     json_put_str(one, "key", keys[i].key);
        if (found) {
            rc |= !from || json_put_id(from, "job", done.job) | json_put_id(from, "stage", done.id);
            store_stage_finish(&done);
        }
        rc |= !one || json_put(one, "reused_from", from);
        if (rc != 0 || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            return doc_oom(NULL, &c->e);
        }
    }
    return list ? list : doc_oom(NULL, &c->e);
}

static enum api_outcome dry_run(struct api_call *c, const struct job_spec *spec)
{
    struct dha_err why = {0};
    bool fits = plan_fits(c->d, spec, &why) == 0;
    cJSON *stages = plan_doc(c, spec);
    if (!stages || api_answer(c, "stages", stages) != API_OK) {
        return API_FAIL;
    }
    if (json_put(c->doc, "spec", spec_to_json(spec)) != 0 ||
        json_put_int(c->doc, "slots", plan_slots_needed(spec)) != 0 ||
        json_put_bool(c->doc, "fits", fits) != 0 ||
        doc_put_text(c->doc, "reason", fits ? NULL : why.msg) != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        return API_FAIL;
    }
    return API_OK;
}

int api_idempotency_key(struct api_call *c, const char **out)
{
    const char *key = *out = server_header(c->rq, "Idempotency-Key");
    if (key && (!*key || strlen(key) > KEY_MAX)) {
        return dha_fail(&c->e, DHA_E_USAGE, "Idempotency-Key must have 1 to %d characters",
                        KEY_MAX);
    }
    return 0;
}

enum api_outcome api_job_submit(struct api_call *c)
{
    const cJSON *doc = json_get(c->body, "spec"), *dry = json_get(c->body, "dry_run");
    const char *key;
    struct job_spec spec = {0};
    if (!doc) {
        dha_fail(&c->e, DHA_E_USAGE, "\"spec\" is missing");
        dha_err_hint(&c->e, "{\"spec\": {...}}");
        return API_FAIL;
    }
    if (dry && !cJSON_IsBool(dry)) {
        dha_fail(&c->e, DHA_E_USAGE, "\"dry_run\" is not true or false");
        return API_FAIL;
    }
    if (api_idempotency_key(c, &key) != 0 || api_check_spec(c, doc, &spec) != 0) {
        return API_FAIL;
    }
    enum api_outcome out = API_FAIL;
    int64_t id = 0;
    bool existed = false;
    if (cJSON_IsTrue(dry)) {
        out = dry_run(c, &spec);
    } else if (plan_fits(c->d, &spec, &c->e) == 0 &&
               api_submit_spec(c, &spec, 0, key, &id, &existed) == 0) {
        c->status = existed ? 200 : 201;
        out = api_answer(c, "job", doc_job(c->d, id, &c->e));
    }
    spec_finish(&spec);
    return out;
}

static int parse_states(struct api_call *c, unsigned *states)
{
    const char *text = server_query(c->rq, "state");
    char copy[128], *rest = copy;
    *states = 0;
    if (!text || !*text) {
        return 0;
    }
    snprintf(copy, sizeof copy, "%s", text);
    for (char *word; (word = strsep(&rest, ","));) {
        enum job_state st;
        if (job_state_from_name(word, &st) != 0) {
            dha_fail(&c->e, DHA_E_USAGE, "there is no job state \"%.40s\"", word);
            return dha_err_hint(&c->e, "queued, held, running, done, failed, cancelled");
        }
        *states |= 1u << st;
    }
    return 0;
}

enum api_outcome api_job_list(struct api_call *c)
{
    struct store_job_filter f = {.name = server_query(c->rq, "name")};
    struct store_jobs jobs;
    int64_t limit;
    if (f.name && !*f.name) {
        f.name = NULL;
    }
    if (parse_states(c, &f.states) != 0 ||
        api_query_int(c, "limit", 1, LIST_MAX, 100, &limit) != 0 ||
        api_query_int(c, "before", 0, INT64_MAX, 0, &f.before) != 0) {
        return API_FAIL;
    }
    f.limit = (int)limit + 1; /* one more tells whether there is a next page */
    if (store_jobs_list(c->d->store, &f, &jobs, &c->e) != 0) {
        return API_FAIL;
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list && i < jobs.n && i < (size_t)limit; i++) {
        cJSON *one = doc_job_short(c->d, &jobs.at[i], &c->e);
        if (!one || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            list = NULL;
        }
    }
    int64_t next = jobs.n > (size_t)limit ? jobs.at[limit - 1].id : 0;
    store_jobs_finish(&jobs);
    enum api_outcome out = api_answer(c, "jobs", list);
    if (out == API_OK &&
        ((next ? json_put_id(c->doc, "next", next) : doc_put_null(c->doc, "next")) |
         doc_put_trouble(c->doc, c->d)) != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        out = API_FAIL;
    }
    return out;
}

enum api_outcome api_job_get(struct api_call *c)
{
    return api_answer(c, "job", doc_job(c->d, c->id, &c->e));
}

enum api_outcome api_job_explain(struct api_call *c)
{
    struct store_job job;
    struct plan_explanation x;
    if (store_job_get(c->d->store, c->id, &job, &c->e) != 0) {
        return API_FAIL;
    }
    enum api_outcome out = API_FAIL;
    cJSON *id = NULL;
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)c->id);
    if (plan_explain(c->d, &job, &x, &c->e) == 0 && (id = cJSON_CreateString(text))) {
        out = api_answer(c, "job_id", id);
    }
    if (out == API_OK && (json_put_str(c->doc, "state", job_state_name(job.state)) |
                          json_put_str(c->doc, "reason", x.reason) |
                          json_put_str(c->doc, "unblock", x.unblock)) != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        out = API_FAIL;
    }
    store_job_finish(&job);
    return out;
}
