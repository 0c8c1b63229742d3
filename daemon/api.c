/* api.c: the routes, and what all answers have in common. */
#include "daemon/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"

struct route {
    const char *method;
    const char *path;  /* ID = a decimal id, NAME = any one part */
    const char *query; /* names it knows, blank-separated */
    const char *body;  /* members it knows; NULL = it takes no body */
    api_handler *handler;
    enum access_need need;
};

static const struct route routes[] = {
    {"GET", "/v1/version", "", NULL, api_version, ACCESS_READ},
    {"GET", "/livez", "", NULL, api_alive, ACCESS_READ},
    {"GET", "/readyz", "", NULL, api_ready, ACCESS_READ},
    {"GET", "/metrics", "", NULL, api_prometheus, ACCESS_READ},
    {"POST", "/v1/shutdown", "", "", api_shutdown, ACCESS_ADMIN},
    {"POST", "/v1/jobs", "", "spec dry_run hold after", api_job_submit, ACCESS_SUBMIT},
    {"GET", "/v1/jobs", "state name limit before", NULL, api_job_list, ACCESS_READ},
    {"GET", "/v1/jobs/ID", "", NULL, api_job_get, ACCESS_READ},
    {"POST", "/v1/jobs/ID/cancel", "", "reason now", api_job_cancel, ACCESS_JOB},
    {"POST", "/v1/jobs/ID/hold", "", "", api_job_hold, ACCESS_JOB},
    {"POST", "/v1/jobs/ID/release", "", "", api_job_release, ACCESS_JOB},
    {"POST", "/v1/jobs/ID/retry", "", "", api_job_retry, ACCESS_JOB},
    {"POST", "/v1/jobs/ID/priority", "", "priority", api_job_priority, ACCESS_JOB},
    {"GET", "/v1/jobs/ID/explain", "", NULL, api_job_explain, ACCESS_READ},
    {"GET", "/v1/jobs/ID/metrics", "stage name after_step limit", NULL, api_job_metrics,
     ACCESS_READ},
    {"GET", "/v1/jobs/ID/metrics/names", "stage", NULL, api_job_metric_names, ACCESS_READ},
    {"GET", "/v1/jobs/ID/checkpoints", "limit after", NULL, api_job_checkpoints, ACCESS_READ},
    {"GET", "/v1/jobs/ID/logs", "stage attempt stream rank offset", NULL, api_job_logs,
     ACCESS_LOGS},
    {"GET", "/v1/events", "after limit wait job type", NULL, api_events, ACCESS_READ},
    {"GET", "/v1/nodes", "", NULL, api_nodes, ACCESS_READ},
    {"POST", "/v1/nodes/NAME/drain", "", "reason", api_node_drain, ACCESS_ADMIN},
    {"POST", "/v1/nodes/NAME/resume", "", "", api_node_resume, ACCESS_ADMIN},
    {"POST", "/v1/sweeps", "",
     "spec budgets methods seeds name dry_run skip_impossible stop_dominated margin", api_sweep_new,
     ACCESS_SUBMIT},
    {"GET", "/v1/sweeps", "limit before name", NULL, api_sweep_list, ACCESS_READ},
    {"GET", "/v1/sweeps/ID", "", NULL, api_sweep_get, ACCESS_READ},
    {"POST", "/v1/admin/fsck", "", "deep", api_admin_fsck, ACCESS_ADMIN},
    {"POST", "/v1/admin/backup", "", "file", api_admin_backup, ACCESS_ADMIN},
    {"POST", "/v1/admin/export", "", "job out", api_admin_export, ACCESS_ADMIN},
    {"POST", "/v1/admin/import", "", "dir", api_admin_import, ACCESS_ADMIN},
    {"POST", "/v1/admin/prune", "", "keep_last keep_every keep_best metrics_older_than_s",
     api_admin_prune, ACCESS_ADMIN},
    {"POST", "/v1/admin/tokens", "", "name role uid", api_token_new, ACCESS_ADMIN},
    {"GET", "/v1/admin/tokens", "", NULL, api_token_list, ACCESS_ADMIN},
    {"POST", "/v1/admin/tokens/NAME/revoke", "", "", api_token_revoke, ACCESS_ADMIN},
    {"GET", "/v1/admin/chores/ID", "wait", NULL, api_admin_chore, ACCESS_ADMIN},
    {"POST", "/v1/admin/chores/ID/apply", "", "", api_admin_apply, ACCESS_ADMIN},
};

int api_to_int(const char *text, int64_t *out)
{
    char *end;
    if (!text || !*text || strspn(text, "-0123456789") != strlen(text)) {
        return -1;
    }
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || *end) {
        return -1;
    }
    *out = v;
    return 0;
}

/* Does the path fit the pattern? Takes out ID and NAME (into name[256]). */
static bool match(const char *pattern, const char *path, int64_t *id, char *name)
{
    while (*pattern) {
        size_t n = strcspn(path, "/");
        if (strncmp(pattern, "ID", 2) == 0) {
            char digits[24];
            if (n == 0 || n >= sizeof digits) {
                return false;
            }
            memcpy(digits, path, n);
            digits[n] = '\0';
            if (api_to_int(digits, id) != 0 || *id <= 0) {
                return false;
            }
            pattern += 2;
            path += n;
        } else if (strncmp(pattern, "NAME", 4) == 0) {
            if (n == 0 || n >= 256) {
                return false;
            }
            memcpy(name, path, n);
            name[n] = '\0';
            pattern += 4;
            path += n;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

static bool in_list(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; n && (p = strstr(p, word)); p += n) {
        if ((p == list || p[-1] == ' ') && (p[n] == '\0' || p[n] == ' ')) {
            return true;
        }
    }
    return false;
}

struct query_check {
    const struct route *route;
    struct dha_err *e;
    int rc;
};

static bool check_argument(void *ctx, const char *name, const char *value)
{
    struct query_check *q = ctx;
    (void)value;
    if (!in_list(q->route->query, name)) {
        q->rc = dha_fail(q->e, DHA_E_USAGE, "%s knows no argument \"%.60s\"", q->route->path, name);
        dha_err_hint(q->e, "it knows: %s", q->route->query[0] ? q->route->query : "none");
    }
    return q->rc == 0;
}

static int check_query(struct api_call *c, const struct route *r)
{
    struct query_check q = {r, &c->e, 0};
    server_query_each(c->rq, check_argument, &q);
    return q.rc;
}

static int parse_body(struct api_call *c, const struct route *r)
{
    const struct server_request *rq = c->rq;
    struct draft *draft = rq->own;
    if (rq->too_large) {
        dha_fail(&c->e, DHA_E_TOO_LARGE, "the request's body is over %d bytes", SERVER_BODY_MAX);
        return dha_err_hint(&c->e, "name files instead of sending what is in them; ask in parts");
    }
    if (rq->body_len == 0) {
        c->body = cJSON_CreateObject();
        return c->body ? 0 : dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
    }
    if (!r->body) {
        return dha_fail(&c->e, DHA_E_USAGE, "GET %s takes no body", r->path);
    }
    if (draft) {
        c->body = draft->body;
        c->e = draft->body_e;
        draft->body = NULL;
    } else if (!(c->body = json_parse(rq->body, rq->body_len, NULL, &c->e))) {
        dha_err_context(&c->e, "the request's body");
    }
    if (!c->body) {
        return -1;
    }
    if (!cJSON_IsObject(c->body)) {
        return dha_fail(&c->e, DHA_E_USAGE, "the request's body is not a JSON object");
    }
    for (const cJSON *m = c->body->child; m; m = m->next) {
        if (!in_list(r->body, m->string)) {
            dha_fail(&c->e, DHA_E_USAGE, "%s knows no member \"%.60s\"", r->path, m->string);
            snprintf(c->e.path, sizeof c->e.path, "$.%.60s", m->string);
            return dha_err_hint(&c->e, "it knows: %s", r->body[0] ? r->body : "none");
        }
    }
    return 0;
}

int api_query_int(struct api_call *c, const char *name, int64_t lo, int64_t hi, int64_t dflt,
                  int64_t *out)
{
    const char *text = server_query(c->rq, name);
    *out = dflt;
    if (!text) {
        return 0;
    }
    if (api_to_int(text, out) != 0 || *out < lo || *out > hi) {
        return dha_fail(&c->e, DHA_E_USAGE, "%s=%.40s is not a whole number from %lld to %lld",
                        name, text, (long long)lo, (long long)hi);
    }
    return 0;
}

enum api_outcome api_answer(struct api_call *c, const char *key, cJSON *value)
{
    if (!value) {
        if (c->e.code == DHA_E_OK) {
            dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        }
        return API_FAIL;
    }
    cJSON_Delete(c->doc);
    c->doc = cJSON_CreateObject();
    if (json_put(c->doc, key, value) != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        return API_FAIL;
    }
    return API_OK;
}

enum api_outcome api_answer_next(struct api_call *c, int64_t next)
{
    if ((next ? json_put_id(c->doc, "next", next) : json_put(c->doc, "next", cJSON_CreateNull())) !=
        0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        return API_FAIL;
    }
    return API_OK;
}

static void reply_doc(struct api_call *c)
{
    struct server_reply *rp = &c->rq->reply;
    if (rp->body || rp->stream.read) {
        return; /* the handler has made the reply */
    }
    rp->status = c->status;
    rp->content_type = "application/json";
    if (c->doc && json_put_int(c->doc, "api", 1) == 0) {
        rp->body = json_text(c->doc);
    }
    if (!rp->body) {
        struct dha_err e = {0};
        dha_fail(&e, DHA_E_NO_MEMORY, "out of memory");
        server_reply_error(c->rq, &e);
        return;
    }
    rp->len = strlen(rp->body);
}

/* The methods that the path answers to. */
static void say_allowed(struct api_call *c)
{
    char allow[32] = "", name[256];
    int64_t id;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        size_t n = strlen(allow);
        if (match(routes[i].path, c->rq->path, &id, name)) {
            snprintf(allow + n, sizeof allow - n, "%s%s", n ? ", " : "", routes[i].method);
        }
    }
    server_reply_header(c->rq, "Allow", "%s", allow);
}

static void reply_error(struct api_call *c)
{
    if (dha_code_http(c->e.code) >= 500) {
        log_warn("%s %s: %s", c->rq->method, c->rq->path, c->e.msg);
    }
    server_reply_error(c->rq, &c->e);
    if (c->e.code == DHA_E_METHOD) {
        say_allowed(c);
    }
    if (c->e.code == DHA_E_UNAUTHENTICATED) {
        server_reply_header(c->rq, "WWW-Authenticate", "Bearer");
    }
    struct server_reply *rp = &c->rq->reply;
    if (!c->errors || !rp->body) {
        return;
    }
    cJSON *doc = json_parse(rp->body, rp->len, NULL, NULL);
    cJSON *err = doc ? cJSON_GetObjectItemCaseSensitive(doc, "error") : NULL;
    if (err) {
        int rc = json_put(err, "errors", c->errors);
        c->errors = NULL;
        char *text = rc == 0 ? json_text(doc) : NULL;
        if (text) {
            free(rp->body);
            rp->body = text;
            rp->len = strlen(text);
        }
    }
    cJSON_Delete(doc);
}

static const struct route *find_route(struct api_call *c, char *name)
{
    bool path_known = false;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (match(routes[i].path, c->rq->path, &c->id, name)) {
            path_known = true;
            if (strcmp(routes[i].method, c->rq->method) == 0) {
                return &routes[i];
            }
        }
    }
    if (path_known) {
        dha_fail(&c->e, DHA_E_METHOD, "%.100s does not answer to this method", c->rq->path);
        dha_err_hint(&c->e, "the answer's header Allow names those that it answers to");
    } else {
        dha_fail(&c->e, DHA_E_NOT_FOUND, "there is no %.100s", c->rq->path);
        dha_err_hint(&c->e, "see proto/openapi.yaml");
    }
    return NULL;
}

static int refuse(struct api_call *c, enum access_need need, bool others_job)
{
    static const char *const doing[ACCESS_NEEDS] = {[ACCESS_ADMIN] = "administer this daemon",
                                                    [ACCESS_READ] = "read here",
                                                    [ACCESS_LOGS] = "read a job's logs",
                                                    [ACCESS_SUBMIT] = "submit jobs",
                                                    [ACCESS_JOB] = "change jobs"};
    long uid = (long)c->rq->peer_uid, owner = (long)geteuid();
    if (c->rq->peer_uid == SERVER_NOBODY) {
        dha_fail(&c->e, DHA_E_UNAUTHENTICATED, "nobody may %s without a token", doing[need]);
        return dha_err_hint(&c->e, "send \"Authorization: Bearer TOKEN\" with one of `dha admin "
                                   "token create`");
    }
    if (others_job) {
        dha_fail(&c->e, DHA_E_FORBIDDEN, "job %lld is not yours: you are uid %ld", (long long)c->id,
                 uid);
        return dha_err_hint(&c->e, "its owner may do that, and uid %ld, who runs this daemon",
                            owner);
    }
    dha_fail(&c->e, DHA_E_FORBIDDEN, "uid %ld may not %s: this daemon is uid %ld's, and you are %s",
             uid, doing[need], owner,
             c->role == ACCESS_NONE     ? "nobody to it"
             : c->role == ACCESS_VIEWER ? "a viewer"
                                        : "an operator");
    if (c->rq->tcp) {
        return dha_err_hint(&c->e,
                            "that takes a token of another role: `dha admin token create "
                            "--role` of uid %ld",
                            owner);
    }
    return need == ACCESS_ADMIN
               ? dha_err_hint(&c->e, "ask uid %ld to do it", owner)
               : dha_err_hint(&c->e,
                              "uid %ld can let you in: settings \"group\" and \"others\" "
                              "(dhad --help)",
                              owner);
}

/* Before anything is said about what there is: whose request is this? */
static int identify(struct api_call *c)
{
    const struct server_request *rq = c->rq;
    if (rq->tcp) {
        return api_token_check(c);
    }
    c->role = access_role(&c->d->access, rq->peer_uid, rq->peer_groups, rq->n_peer_groups);
    return 0;
}

static int check_access(struct api_call *c, const struct route *r)
{
    const struct server_request *rq = c->rq;
    enum access_answer may = access_may(c->role, r->need);
    if (may == ACCESS_OWN) {
        struct store_job job;
        if (store_job_brief(c->d->store, c->id, &job, &c->e) != 0) {
            return -1;
        }
        may = job.owner_uid == (int64_t)rq->peer_uid ? ACCESS_YES : ACCESS_OWN;
        store_job_finish(&job);
    }
    if (may != ACCESS_YES) {
        return refuse(c, r->need, may == ACCESS_OWN);
    }
    return r->need == ACCESS_SUBMIT ? daemon_may_run(c->d, (int64_t)rq->peer_uid, &c->e) : 0;
}

/* What is done to a job may say how the job must be (If-Match). */
static bool acts_on_job(const struct route *r)
{
    return strcmp(r->method, "POST") == 0 && strncmp(r->path, "/v1/jobs/ID/", 12) == 0;
}

/* Stopping must not need a database that works. */
static bool changes(const struct route *r)
{
    return strcmp(r->method, "GET") != 0 && r->handler != api_shutdown;
}

/* What is refused or fails half-way leaves nothing. */
static enum api_outcome run(struct api_call *c, const struct route *r)
{
    struct store_mark mark;
    if (!changes(r)) {
        return r->handler(c);
    }
    if (store_mark(c->d->store, &mark, &c->e) != 0) {
        return API_FAIL;
    }
    store_set_actor(c->d->store, (int64_t)c->rq->peer_uid);
    enum api_outcome out = r->handler(c);
    store_set_actor(c->d->store, STORE_NO_ACTOR);
    if (out == API_FAIL) {
        store_undo(c->d->store, &mark);
    } else if (store_keep(c->d->store, &mark, &c->e) != 0) {
        out = API_FAIL;
    }
    return out;
}

/* A submission is read by draft.c first, and then comes again. */
static bool is_drafted(const struct api_call *c, const struct route *r)
{
    return r->handler == api_job_submit && !c->rq->own && c->rq->body_len > 0 && !c->rq->too_large;
}

/* Who may not is told so before anything is said of what they sent. */
static enum api_outcome answer(struct api_call *c, const struct route *r)
{
    if (check_access(c, r) != 0 || api_body_type(c) != 0 || check_query(c, r) != 0) {
        return API_FAIL;
    }
    if (is_drafted(c, r)) {
        return drafts_begin(c->d, c->rq, &c->e) == 0 ? API_WAIT : API_FAIL;
    }
    return parse_body(c, r) == 0 && (!acts_on_job(r) || api_if_match(c) == 0) ? run(c, r)
                                                                              : API_FAIL;
}

enum server_outcome api_handle(void *ctx, struct server_request *rq)
{
    char name[256];
    struct api_call c = {.d = ctx, .rq = rq, .status = 200};
    enum api_outcome out = API_FAIL;
    c.d->stat.requests += !rq->own;
    c.name = name;
    const struct route *r = identify(&c) == 0 ? find_route(&c, name) : NULL;
    if (r) {
        out = answer(&c, r);
    }
    if (out == API_OK) {
        reply_doc(&c);
    } else if (out == API_FAIL) {
        reply_error(&c);
    }
    cJSON_Delete(c.body);
    cJSON_Delete(c.doc);
    cJSON_Delete(c.errors);
    return out == API_WAIT ? SERVER_WAIT : SERVER_REPLY;
}
