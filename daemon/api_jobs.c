/* api_jobs.c: submitting and showing jobs. */
#include "daemon/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "daemon/doc.h"
#include "daemon/draft.h"

enum { LIST_MAX = 1000, KEY_MAX = 128, AFTER_MAX = 64 };

int api_may_priority(struct api_call *c, int64_t priority)
{
    long max = c->d->settings.priority_max;
    if (c->role == ACCESS_OWNER || priority <= max) {
        return 0;
    }
    dha_fail(&c->e, DHA_E_FORBIDDEN, "an operator may give priorities up to %ld, not %lld", max,
             (long long)priority);
    return dha_err_hint(&c->e,
                        "uid %ld, who runs this daemon, may: dha prio; or its setting"
                        " priority_max",
                        (long)geteuid());
}

/* What the draft says of its spec becomes the call's. 0 / -1. */
static int judge(struct api_call *c, struct draft *draft)
{
    if (draft->e.code != DHA_E_OK) {
        c->e = draft->e;
        cJSON_Delete(c->errors);
        c->errors = draft->errors;
        draft->errors = NULL;
        return -1;
    }
    return api_may_priority(c, draft->spec.priority);
}

int api_check_spec(struct api_call *c, const cJSON *doc, struct draft *draft)
{
    draft_now(draft, doc, (int64_t)c->rq->peer_uid);
    int rc = judge(c, draft);
    if (rc != 0) {
        draft_finish(draft);
    }
    return rc;
}

int api_submit_draft(struct api_call *c, const struct draft *draft, const struct api_submission *s,
                     int64_t *id, bool *existed)
{
    const struct job_spec *spec = &draft->spec;
    struct store_new_stage stages[STAGE_KINDS];
    for (int i = 0; i < draft->n_keys; i++) {
        stages[i] = (struct store_new_stage){.kind = draft->keys[i].kind,
                                             .key = draft->keys[i].key};
    }
    struct store_new_job j = {.name = spec->name,
                              .spec = draft->text,
                              .method = spec->method.name,
                              .budget = spec->budget,
                              .priority = spec->priority,
                              .slots = plan_slots_needed(spec),
                              .nodes = spec->resources.nodes,
                              .slot_memory = spec_slot_memory(spec),
                              .node_names = draft->node_names,
                              .device = spec->resources.device,
                              .owner_uid = (int64_t)c->rq->peer_uid,
                              .sweep = s->sweep,
                              .seed = spec->seed,
                              .walltime_s = spec->resources.walltime_s,
                              .hold = s->hold,
                              .after = s->after,
                              .n_after = s->n_after,
                              .idempotency_key = s->idempotency_key,
                              .queue_limit = c->d->settings.queue_per_user,
                              .stages = stages,
                              .n_stages = draft->n_keys,
                              .now_us = now_us()};
    if (store_job_submit(c->d->store, &j, id, existed, &c->e) != 0) {
        return -1;
    }
    return *existed ? 0 : stages_begin(c->d, *id, draft->keys[0].key, &c->e);
}

static cJSON *plan_doc(struct api_call *c, const struct draft *draft)
{
    const struct stagekey *keys = draft->keys;
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; list && i < draft->n_keys; i++) {
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

/* Who may do what the advice says, where the caller may not: a viewer, or an operator about another's job. */
static int say_who_may(struct api_call *c, const struct plan_explanation *x, char *text,
                       size_t size)
{
    struct store_job job = {0};
    long owner = (long)geteuid();
    enum access_answer may = access_may(c->role, x->need);
    text[0] = '\0';
    if (x->need_job && store_job_brief(c->d->store, x->need_job, &job, &c->e) != 0) {
        return -1;
    }
    bool mine = job.owner_uid == (int64_t)c->rq->peer_uid;
    if (may == ACCESS_YES || (may == ACCESS_OWN && mine)) {
        if (x->need_priority && c->role != ACCESS_OWNER &&
            job.priority >= c->d->settings.priority_max) {
            snprintf(text, size, " (over %ld only uid %ld may give, who runs this daemon)",
                     c->d->settings.priority_max, owner);
        }
    } else if (x->need == ACCESS_SUBMIT) {
        snprintf(text, size, " (you may not; uid %ld, who runs this daemon, can let you in)",
                 owner);
    } else if (x->need_job && job.owner_uid != owner) {
        snprintf(text, size,
                 " (only uid %lld, whose job %lld is, and uid %ld, who runs this daemon, may)",
                 (long long)job.owner_uid, (long long)x->need_job, owner);
    } else {
        snprintf(text, size, " (only uid %ld, who runs this daemon, may)", owner);
    }
    store_job_finish(&job);
    return 0;
}

/* verdict, reason, unblock, starts_by_us and walltime_to_start_s of an explanation. */
static int put_explanation(struct api_call *c, cJSON *j, const struct plan_explanation *x)
{
    char who[160], unblock[sizeof x->unblock + sizeof who];
    if (say_who_may(c, x, who, sizeof who) != 0) {
        return -1;
    }
    snprintf(unblock, sizeof unblock, "%s%s", x->unblock, who);
    return doc_put_text(j, "verdict", x->verdict) | json_put_str(j, "reason", x->reason) |
           json_put_str(j, "unblock", unblock) |
           (x->start_us ? json_put_id(j, "starts_by_us", x->start_us)
                        : doc_put_null(j, "starts_by_us")) |
           (x->walltime_s > 0 ? json_put_int(j, "walltime_to_start_s", x->walltime_s)
                              : doc_put_null(j, "walltime_to_start_s"));
}

/* Names of the slots that it would start on. */
static cJSON *slot_names(struct api_call *c, const struct plan_explanation *x)
{
    struct store_slot *slots;
    size_t n;
    cJSON *list = cJSON_CreateArray();
    if (store_slots(c->d->store, &slots, &n, &c->e) != 0) {
        cJSON_Delete(list);
        return NULL;
    }
    for (size_t i = 0; list && i < x->n_slots; i++) {
        for (size_t k = 0; k < n; k++) {
            cJSON *name = slots[k].id == x->slots[i] ? cJSON_CreateString(slots[k].name) : NULL;
            if (name && !cJSON_AddItemToArray(list, name)) {
                cJSON_Delete(name);
            }
        }
    }
    free(slots);
    return list;
}

/* What the scheduler would do with it now. NULL: call->e is set. */
static cJSON *preview_doc(struct api_call *c, const struct job_spec *spec,
                          const struct api_submission *s)
{
    struct plan_explanation x;
    if (plan_preview(c->d, spec, s->after, s->n_after, &x, &c->e) != 0) {
        return NULL;
    }
    cJSON *j = cJSON_CreateObject(), *names = slot_names(c, &x);
    int rc = !j || !names ? -1 : put_explanation(c, j, &x) | json_put(j, "slots", names);
    free(x.slots);
    if (rc != 0 && c->e.code != DHA_E_OK) {
        cJSON_Delete(j);
        return NULL;
    }
    return rc == 0 ? j : doc_oom(j, &c->e);
}

static enum api_outcome dry_run(struct api_call *c, const struct draft *draft,
                                const struct api_submission *s)
{
    const struct job_spec *spec = &draft->spec;
    struct dha_err why = {0};
    struct statvfs fs;
    cJSON *preview = preview_doc(c, spec, s);
    if (!preview) {
        return API_FAIL;
    }
    bool fits = plan_fits(c->d, spec, &why) == 0;
    cJSON *stages = plan_doc(c, draft);
    if (!stages || api_answer(c, "stages", stages) != API_OK) {
        cJSON_Delete(preview);
        return API_FAIL;
    }
    if (json_put(c->doc, "now", preview) != 0 ||
        json_put(c->doc, "spec", spec_to_json(spec)) != 0 ||
        json_put_int(c->doc, "slots", plan_slots_needed(spec)) != 0 ||
        (statvfs(c->d->state_dir, &fs) == 0
             ? json_put_id(c->doc, "disk_free", (int64_t)fs.f_bavail * (int64_t)fs.f_frsize)
             : doc_put_null(c->doc, "disk_free")) != 0 ||
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

/* "after": ["ok:12", "any:13"]. At most AFTER_MAX into `out`. */
static int parse_after(struct api_call *c, struct store_dependency *out, size_t *n)
{
    const cJSON *list = json_get(c->body, "after"), *item;
    *n = 0;
    if (list && (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > AFTER_MAX)) {
        return dha_fail(&c->e, DHA_E_USAGE, "\"after\" is a list of at most %d conditions",
                        AFTER_MAX);
    }
    cJSON_ArrayForEach(item, list)
    {
        const char *text = cJSON_IsString(item) ? item->valuestring : "";
        bool any = strncmp(text, "any:", 4) == 0;
        struct store_dependency *d = &out[(*n)++];
        *d = (struct store_dependency){.any = any};
        if ((!any && strncmp(text, "ok:", 3) != 0) || api_to_int(strchr(text, ':') + 1, &d->job) ||
            d->job < 1) {
            dha_fail(&c->e, DHA_E_USAGE, "\"%.40s\" is no condition on another job", text);
            return dha_err_hint(&c->e, "ok:ID = when job ID is done; any:ID = when it has ended");
        }
    }
    return 0;
}

/* Every job that is named and not there, in one answer. */
static int check_after(struct api_call *c, const struct api_submission *s)
{
    struct spec_errors errs;
    errs.n = 0;
    for (size_t i = 0; i < s->n_after; i++) {
        struct store_job job;
        struct dha_err e = {0};
        if (store_job_brief(c->d->store, s->after[i].job, &job, &e) == 0) {
            store_job_finish(&job);
        } else if (e.code != DHA_E_NOT_FOUND) {
            c->e = e;
            return -1;
        } else if ((size_t)errs.n < sizeof errs.at / sizeof *errs.at) {
            int k = errs.n++;
            snprintf(errs.at[k].path, sizeof errs.at[k].path, "$.after[%zu]", i);
            snprintf(errs.at[k].msg, sizeof errs.at[k].msg, "%.200s", e.msg);
            snprintf(errs.at[k].hint, sizeof errs.at[k].hint, "%.150s", e.hint);
        }
    }
    if (errs.n == 0) {
        return 0;
    }
    cJSON_Delete(c->errors);
    c->errors = draft_errors(&errs);
    dha_fail(&c->e, DHA_E_NOT_FOUND, "%s%s", errs.at[0].msg, errs.n > 1 ? " (and more)" : "");
    snprintf(c->e.path, sizeof c->e.path, "%s", errs.at[0].path);
    return dha_err_hint(&c->e, "`dha list` shows the jobs that can be waited for");
}

static int parse_flag(struct api_call *c, const char *name, bool *out)
{
    const cJSON *v = json_get(c->body, name);
    *out = cJSON_IsTrue(v);
    return v && !cJSON_IsBool(v) ? dha_fail(&c->e, DHA_E_USAGE, "\"%s\" is not true or false", name)
                                 : 0;
}

static const char *skip_blanks(const char *p)
{
    return p + strspn(p, " \t");
}

/* Does the client prefer a short answer? RFC 7240: NAME [= VALUE or "VALUE"] [; PARAMETERS], ...; the first of a name counts. */
static bool wants_minimal(const struct api_call *c)
{
    const char *p = server_header(c->rq, "Prefer");
    while (p && *p) {
        p += strspn(p, " \t,");
        size_t n = strcspn(p, ",;= \t");
        bool named = n == strlen("return") && strncasecmp(p, "return", n) == 0;
        p = skip_blanks(p + n);
        if (named) {
            p = *p == '=' ? skip_blanks(p + 1) : "";
            p += *p == '"';
            n = strcspn(p, ",; \t\"");
            return n == strlen("minimal") && strncasecmp(p, "minimal", n) == 0;
        }
        p += strcspn(p, ",");
    }
    return false;
}

static enum api_outcome answer_submitted(struct api_call *c, int64_t id, bool existed)
{
    char text[24];
    c->status = existed ? 200 : 201;
    server_reply_header(c->rq, "Location", "/v1/jobs/%lld", (long long)id);
    if (!wants_minimal(c)) {
        return api_answer_job(c, id);
    }
    server_reply_header(c->rq, "Preference-Applied", "return=minimal");
    snprintf(text, sizeof text, "%lld", (long long)id);
    return api_answer(c, "job_id", cJSON_CreateString(text));
}

enum api_outcome api_job_submit(struct api_call *c)
{
    struct draft *draft = c->rq->own;
    struct store_dependency after[AFTER_MAX];
    struct api_submission s = {.after = after};
    bool dry, existed = false;
    int64_t id = 0;
    if (!draft || !json_get(c->body, "spec")) {
        dha_fail(&c->e, DHA_E_USAGE, "\"spec\" is missing");
        dha_err_hint(&c->e, "{\"spec\": {...}}");
        return API_FAIL;
    }
    if (parse_flag(c, "dry_run", &dry) != 0 || parse_flag(c, "hold", &s.hold) != 0 ||
        parse_after(c, after, &s.n_after) != 0 || api_idempotency_key(c, &s.idempotency_key) != 0 ||
        check_after(c, &s) != 0 || judge(c, draft) != 0) {
        return API_FAIL;
    }
    if (dry) {
        return dry_run(c, draft, &s);
    }
    if (plan_fits(c->d, &draft->spec, &c->e) != 0 ||
        api_submit_draft(c, draft, &s, &id, &existed) != 0) {
        return API_FAIL;
    }
    return answer_submitted(c, id, existed);
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
    if (out == API_OK && (doc_put_trouble(c->doc, c->d) | doc_put_notice(c->doc, c->d)) != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        out = API_FAIL;
    }
    return out == API_OK ? api_answer_next(c, next) : out;
}

/* The document's text is there already, of which the tag was made: around it goes what reply_doc() would put there. */
enum api_outcome api_answer_job(struct api_call *c, int64_t id)
{
    struct server_reply *rp = &c->rq->reply;
    char tag[DOC_TAG_SIZE], *text = NULL;
    cJSON *job = doc_job(c->d, id, &c->e);
    int rc = job ? doc_job_tag(job, tag, &text, &c->e) : -1;
    cJSON_Delete(job);
    int n = rc == 0 ? asprintf(&rp->body, "{\"job\":%s,\"api\":1}", text) : -1;
    free(text);
    if (n < 0) {
        rp->body = NULL;
        if (rc == 0) {
            dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        }
        return API_FAIL;
    }
    rp->len = (size_t)n;
    rp->status = c->status;
    rp->content_type = "application/json";
    server_reply_header(c->rq, "ETag", "%s", tag);
    return API_OK;
}

/* Is it "*", or a list of tags in quotes? */
static bool is_tag_list(const char *p)
{
    bool tag = false;
    if (strcmp(p, "*") == 0) {
        return true;
    }
    while (*p) {
        p += strspn(p, " \t,");
        p += strncmp(p, "W/", 2) == 0 ? 2 : 0;
        const char *end = *p == '"' ? strchr(p + 1, '"') : NULL;
        if (!end) {
            return false;
        }
        tag = true;
        p = end + 1;
        p += strspn(p, " \t");
        if (*p && *p != ',') {
            return false;
        }
    }
    return tag;
}

/* Is the tag in the header's list? "*" is any; weak ones (W/) never fit. */
static bool names_tag(const char *list, const char *tag)
{
    const char *p = strstr(list, tag);
    return strcmp(list, "*") == 0 || (p && (p == list || p[-1] == ' ' || p[-1] == ','));
}

int api_if_match(struct api_call *c)
{
    const char *wanted = server_header(c->rq, "If-Match");
    char tag[DOC_TAG_SIZE];
    if (!wanted) {
        return 0;
    }
    if (!is_tag_list(wanted)) {
        dha_fail(&c->e, DHA_E_USAGE, "If-Match: %.80s is no list of tags", wanted);
        return dha_err_hint(&c->e, "send the ETag of GET /v1/jobs/ID as it came, with its quotes");
    }
    cJSON *job = doc_job(c->d, c->id, &c->e);
    int rc = job ? doc_job_tag(job, tag, NULL, &c->e) : -1;
    cJSON_Delete(job);
    if (rc != 0 || names_tag(wanted, tag)) {
        return rc;
    }
    dha_fail(&c->e, DHA_E_PRECONDITION, "job %lld has changed: it is %s now, not %.60s",
             (long long)c->id, tag, wanted);
    return dha_err_hint(&c->e,
                        "look at it again (GET /v1/jobs/%lld), then decide; or leave If-Match "
                        "out",
                        (long long)c->id);
}

enum api_outcome api_job_get(struct api_call *c)
{
    return api_answer_job(c, c->id);
}

enum api_outcome api_job_explain(struct api_call *c)
{
    struct store_job job;
    struct plan_explanation x;
    if (store_job_brief(c->d->store, c->id, &job, &c->e) != 0) {
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
                          put_explanation(c, c->doc, &x)) != 0) {
        if (c->e.code == DHA_E_OK) {
            dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        }
        out = API_FAIL;
    }
    store_job_finish(&job);
    return out;
}
