/* api_sweeps.c: one spec, many methods, budgets and seeds: one job each, submitted in one transaction;
 * a point that repeats another is left out. That the jobs share what they have in common is not done here: it
 * follows from equal stage keys.
 *
 * A point whose budget its method cannot meet on this model (proto/budget.h) refuses the whole sweep, with all such points in one
 * answer; or is left out, where the request says "skip_impossible". A request that repeats another (by its
 * Idempotency-Key, or by the sweep's name) gets that sweep; one that differs is refused. */
#include "daemon/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/doc.h"
#include "daemon/patience.h"
#include "daemon/runas.h"
#include "daemon/dominate.h"
#include "proto/budget.h"

enum { POINTS_MAX = 256, LIST_MAX = 1000 };

struct point {
    const cJSON *method, *budget, *seed; /* NULL = the spec's own */
};

struct sweep_request {
    const cJSON *base, *methods, *budgets, *seeds;
    const char *name;
    bool dry_run, skip_impossible, stop_dominated;
    double margin;
    int layers, heads; /* of the model; 0 = its config.json does not say: the worker will */
    struct draft *points;
    int n, n_points;
    cJSON *impossible; /* [{method, budget, message, hint}] */
};

/* A non-empty array (or absent) of the right type. */
static int check_axis(struct api_call *c, const char *key, bool numbers)
{
    const cJSON *a = json_get(c->body, key), *v;
    if (!a) {
        return 0;
    }
    if (!cJSON_IsArray(a) || cJSON_GetArraySize(a) == 0) {
        return dha_fail(&c->e, DHA_E_USAGE, "\"%s\" is not an array with members", key);
    }
    cJSON_ArrayForEach(v, a)
    {
        if (numbers ? !cJSON_IsNumber(v) : !cJSON_IsString(v) && !cJSON_IsObject(v)) {
            return dha_fail(&c->e, DHA_E_USAGE, "\"%s\" has a member that is not a %s", key,
                            numbers ? "number" : "method");
        }
    }
    return 0;
}

static int count_of(const cJSON *a)
{
    return a ? cJSON_GetArraySize(a) : 1;
}

/* The spec of one point: the sweep's with its budget, method, seed and a name that tells them apart. */
static cJSON *point_spec(struct api_call *c, const struct sweep_request *q, const struct point *p)
{
    cJSON *doc = cJSON_Duplicate(q->base, true);
    char name[160];
    const char *method = p->method && cJSON_IsString(p->method) ? p->method->valuestring : NULL;
    int rc = doc ? 0 : -1;
    if (p->method) {
        rc |= json_put(doc, "method", cJSON_Duplicate(p->method, true));
    }
    if (p->budget) {
        rc |= json_put_num(doc, "budget", p->budget->valuedouble);
    }
    if (p->seed) {
        rc |= json_put(doc, "seed", cJSON_Duplicate(p->seed, true));
    }
    const char *own = *q->name ? q->name : json_str(q->base, "name", NULL);
    if (own || p->seed) { /* else the default name has method and budget in it */
        int n = snprintf(name, sizeof name, "%.80s", own ? own : "sweep");
        if (method) {
            n += snprintf(name + n, sizeof name - (size_t)n, "-%.30s", method);
        }
        if (p->budget) {
            n += snprintf(name + n, sizeof name - (size_t)n, "-%.3g", 100 * p->budget->valuedouble);
        }
        if (p->seed) {
            snprintf(name + n, sizeof name - (size_t)n, "-s%.0f", p->seed->valuedouble);
        }
        rc |= json_put_str(doc, "name", name);
    }
    return rc == 0 ? doc : doc_oom(doc, &c->e);
}

struct shape {
    char path[4200]; /* of config.json */
    uid_t user;
    int layers, heads;
};

static void shape_work(void *arg)
{
    struct shape *shape = arg;
    struct runas as;
    struct dha_err ignored;
    if (runas_enter(&as, shape->user) != 0) {
        return;
    }
    cJSON *doc = json_parse_file(shape->path, 1 << 20, &ignored);
    runas_leave(&as);
    int64_t layers = json_int(doc, "num_hidden_layers", 0);
    int64_t heads = json_int(doc, "num_attention_heads", 0);
    if (layers > 0 && layers < 100000 && heads > 0 && heads < 100000) {
        shape->layers = (int)layers;
        shape->heads = (int)heads;
    }
    cJSON_Delete(doc);
}

/* The model's shape, as far as its config.json can be read here: what is wrong with it the worker says better. -1: it does
 * not answer. */
static int read_shape(struct sweep_request *q, int64_t owner_uid, struct dha_err *e)
{
    const char *model = json_str(q->base, "model", "");
    struct shape *shape = calloc(1, sizeof *shape);
    if (!shape) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    snprintf(shape->path, sizeof shape->path, "%.4000s/config.json", model);
    shape->user = runas_user(owner_uid);
    if (model[0] == '/' && patience_run(shape_work, free, shape, owner_uid, model, e) != 0) {
        return -1;
    }
    q->layers = shape->layers;
    q->heads = shape->heads;
    free(shape);
    return 0;
}

/* Each method and budget once, whatever the seeds. */
static int add_impossible(struct sweep_request *q, const struct job_spec *s,
                          const struct dha_err *why, struct dha_err *e)
{
    const cJSON *old;
    cJSON_ArrayForEach(old, q->impossible)
    {
        if (strcmp(json_str(old, "method", ""), s->method.name) == 0 &&
            json_num(old, "budget", -1) == s->budget) {
            return 0;
        }
    }
    cJSON *one = cJSON_CreateObject();
    if (json_put_str(one, "method", s->method.name) != 0 ||
        json_put_num(one, "budget", s->budget) != 0 ||
        json_put_str(one, "message", why->msg) != 0 || json_put_str(one, "hint", why->hint) != 0 ||
        !cJSON_AddItemToArray(q->impossible, one)) {
        cJSON_Delete(one);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return 0;
}

/* Everything of a spec but its name, as text (free() it). One head a layer is one budget, whatever the spec says. */
static char *work_of(const struct job_spec *s)
{
    cJSON *doc = spec_to_json(s);
    cJSON_DeleteItemFromObjectCaseSensitive(doc, "name");
    if (s->method.grouping == GROUP_ONE) {
        cJSON_DeleteItemFromObjectCaseSensitive(doc, "budget");
    }
    char *text = doc ? json_text(doc) : NULL;
    cJSON_Delete(doc);
    return text;
}

/* Is the last of the n points the same work as one before it? Budgets may be given twice, and some methods have
 * only one. */
static int is_repeated(const struct draft *points, int n, bool *repeated, struct dha_err *e)
{
    const struct job_spec *newest = &points[n - 1].spec;
    char *last = work_of(newest);
    int rc = last ? 0 : -1;
    *repeated = false;
    for (int i = 0; i < n - 1 && rc == 0 && !*repeated; i++) {
        const struct job_spec *s = &points[i].spec;
        if ((s->budget != newest->budget && newest->method.grouping != GROUP_ONE) ||
            strcmp(s->method.name, newest->method.name) != 0) {
            continue; /* cheap, and nearly always the answer */
        }
        char *text = work_of(s);
        rc = text ? 0 : -1;
        *repeated = text && strcmp(text, last) == 0;
        free(text);
    }
    free(last);
    return rc == 0 ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

/* One point into q->points, unless it repeats another or cannot be. */
static int parse_point(struct api_call *c, struct sweep_request *q, const struct point *p)
{
    struct draft *draft = &q->points[q->n];
    const struct job_spec *s = &draft->spec;
    struct dha_err why = {0};
    bool repeated = false;
    cJSON *doc = point_spec(c, q, p);
    int rc = doc ? api_check_spec(c, doc, draft) : -1;
    cJSON_Delete(doc);
    if (rc != 0) {
        return -1;
    }
    q->n++;
    bool possible = !q->heads || budget_check(s, q->layers, q->heads, &why) == 0;
    rc = possible ? plan_fits(c->d, s, &c->e) : add_impossible(q, s, &why, &c->e);
    if (rc == 0 && possible) {
        rc = is_repeated(q->points, q->n, &repeated, &c->e);
    }
    if (!possible || repeated) {
        draft_finish(&q->points[--q->n]);
    }
    return rc;
}

static int parse_points(struct api_call *c, struct sweep_request *q)
{
    int n_m = count_of(q->methods), n_b = count_of(q->budgets), n_s = count_of(q->seeds);
    q->n_points = n_m * n_b * n_s;
    if (n_m > POINTS_MAX || n_b > POINTS_MAX || n_s > POINTS_MAX || q->n_points > POINTS_MAX) {
        return dha_fail(&c->e, DHA_E_USAGE, "a sweep has at most %d points; this one has %d",
                        POINTS_MAX, q->n_points);
    }
    for (int i = 0; i < q->n_points; i++) {
        int m = i / (n_b * n_s), b = i / n_s % n_b, k = i % n_s;
        struct point p = {q->methods ? cJSON_GetArrayItem(q->methods, m) : NULL,
                          q->budgets ? cJSON_GetArrayItem(q->budgets, b) : NULL,
                          q->seeds ? cJSON_GetArrayItem(q->seeds, k) : NULL};
        if (parse_point(c, q, &p) != 0) {
            return dha_err_context(&c->e, "point %d of %d", i + 1, q->n_points);
        }
    }
    return 0;
}

/* The points that cannot be, as the errors of the answer. */
static int refuse_impossible(struct api_call *c, const struct sweep_request *q)
{
    const cJSON *one;
    int n = cJSON_GetArraySize(q->impossible);
    if (n == 0 || (q->skip_impossible && q->n > 0)) {
        return 0;
    }
    c->errors = cJSON_CreateArray();
    cJSON_ArrayForEach(one, q->impossible)
    {
        cJSON *err = cJSON_CreateObject();
        char path[96];
        snprintf(path, sizeof path, "%.40s at %.6g", json_str(one, "method", "?"),
                 json_num(one, "budget", 0));
        if (json_put_str(err, "path", path) != 0 ||
            json_put_str(err, "message", json_str(one, "message", "")) != 0 ||
            json_put_str(err, "hint", json_str(one, "hint", "")) != 0 ||
            !cJSON_AddItemToArray(c->errors, err)) {
            cJSON_Delete(err);
            break; /* what is there is still an answer */
        }
    }
    dha_fail(&c->e, DHA_E_SPEC, "%d of the sweep's points cannot be: %s", n,
             json_str(q->impossible->child, "message", ""));
    return dha_err_hint(&c->e, q->n > 0 ? "skip_impossible (dha sweep create --skip-impossible) "
                                          "leaves them out; or change the budgets"
                                        : "choose other budgets: none of the points can be");
}

static enum api_outcome answer_sweep(struct api_call *c, int64_t id)
{
    struct store_sweep w;
    if (store_sweep_get(c->d->store, id, &w, &c->e) != 0) {
        return API_FAIL;
    }
    enum api_outcome out = api_answer(c, "sweep", doc_sweep(c->d, &w, true, &c->e));
    store_sweep_finish(&w);
    return out;
}

static bool wrong_type(const cJSON *v, bool ok)
{
    return v && !ok;
}

static int read_request(struct api_call *c, struct sweep_request *q)
{
    const cJSON *name = json_get(c->body, "name"), *dry = json_get(c->body, "dry_run"),
                *skip = json_get(c->body, "skip_impossible"),
                *stop = json_get(c->body, "stop_dominated"), *margin = json_get(c->body, "margin");
    q->base = json_get(c->body, "spec");
    q->methods = json_get(c->body, "methods");
    q->budgets = json_get(c->body, "budgets");
    q->seeds = json_get(c->body, "seeds");
    if (!cJSON_IsObject(q->base)) {
        return dha_fail(&c->e, DHA_E_USAGE, "\"spec\" is missing or no object");
    }
    if (check_axis(c, "budgets", true) != 0 || check_axis(c, "methods", false) != 0 ||
        check_axis(c, "seeds", true) != 0) {
        return -1;
    }
    if (wrong_type(name, cJSON_IsString(name)) || wrong_type(dry, cJSON_IsBool(dry)) ||
        wrong_type(skip, cJSON_IsBool(skip)) || wrong_type(stop, cJSON_IsBool(stop)) ||
        wrong_type(margin, cJSON_IsNumber(margin))) {
        dha_fail(&c->e, DHA_E_USAGE, "a member of the sweep is of the wrong type");
        return dha_err_hint(&c->e, "name is a string, margin a number; dry_run, skip_impossible "
                                   "and stop_dominated are true or false");
    }
    q->name = name ? name->valuestring : "";
    q->dry_run = cJSON_IsTrue(dry);
    q->skip_impossible = cJSON_IsTrue(skip);
    q->stop_dominated = cJSON_IsTrue(stop);
    q->margin = margin ? margin->valuedouble : DOMINATE_MARGIN;
    if (!(q->margin >= 0 && q->margin <= 10)) {
        return dha_fail(&c->e, DHA_E_USAGE, "margin is a share of the loss, from 0 to 10");
    }
    if (margin && !q->stop_dominated) {
        dha_fail(&c->e, DHA_E_USAGE, "a margin says when a dominated job is stopped; none is");
        return dha_err_hint(&c->e, "give stop_dominated (--stop-dominated) too, or leave it out");
    }
    if (*q->name && strspn(q->name, "0123456789") == strlen(q->name)) {
        return dha_fail(&c->e, DHA_E_USAGE, "a sweep's name is not a number: those are ids");
    }
    return 0;
}

/* Is this the request that made the sweep? *id stays 0 where no sweep has its key or name. */
static int find_same(struct api_call *c, const struct sweep_request *q, const char *key,
                     int64_t *id)
{
    struct store_sweep w;
    if (store_sweep_find(c->d->store, (int64_t)c->rq->peer_uid, key, q->name, id, &c->e) != 0) {
        return -1;
    }
    if (*id == 0) {
        return 0;
    }
    if (store_sweep_get(c->d->store, *id, &w, &c->e) != 0) {
        return -1;
    }
    cJSON *made_by = json_parse(w.spec, strlen(w.spec), NULL, NULL);
    bool same = made_by && cJSON_Compare(made_by, c->body, true);
    cJSON_Delete(made_by);
    if (!same) {
        dha_fail(&c->e, DHA_E_CONFLICT, "sweep %lld (%.80s) was made by another request",
                 (long long)*id, w.name);
        dha_err_hint(&c->e, "use another name, and another Idempotency-Key");
    }
    store_sweep_finish(&w);
    return same ? 0 : -1;
}

static enum api_outcome answer_plan(struct api_call *c, struct sweep_request *q)
{
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; list && i < q->n; i++) {
        cJSON *one = cJSON_CreateObject();
        if ((json_put_str(one, "name", q->points[i].spec.name) |
             json_put_str(one, "method", q->points[i].spec.method.name) |
             json_put_num(one, "budget", q->points[i].spec.budget) |
             json_put_int(one, "seed", q->points[i].spec.seed) |
             json_put(one, "spec", spec_to_json(&q->points[i].spec))) != 0 ||
            !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            list = NULL;
        }
    }
    if (api_answer(c, "points", list) != API_OK) {
        return API_FAIL;
    }
    if (json_put(c->doc, "skipped", cJSON_Duplicate(q->impossible, true)) != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        return API_FAIL;
    }
    return API_OK;
}

static int submit_all(struct api_call *c, const struct sweep_request *q, const char *key,
                      int64_t *sweep)
{
    char *text = json_text(c->body), *skipped = json_text(q->impossible);
    struct store_new_sweep w = {.name = q->name,
                                .spec = text,
                                .skipped = skipped,
                                .owner_uid = (int64_t)c->rq->peer_uid,
                                .stop_dominated = q->stop_dominated,
                                .margin = q->margin,
                                .idempotency_key = key,
                                .now_us = now_us()};
    /* all of them or none: said before the first is made */
    int rc = store_queue_check(c->d->store, w.owner_uid, c->d->settings.queue_per_user, q->n,
                               &c->e);
    rc = rc != 0           ? rc
         : text && skipped ? store_sweep_new(c->d->store, &w, sweep, &c->e)
                           : dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
    for (int i = 0; i < q->n && rc == 0; i++) {
        int64_t id;
        bool existed;
        struct api_submission s = {.sweep = *sweep};
        rc = api_submit_draft(c, &q->points[i], &s, &id, &existed);
    }
    free(skipped);
    free(text);
    return rc;
}

enum api_outcome api_sweep_new(struct api_call *c)
{
    struct sweep_request q = {0};
    const char *key;
    int64_t sweep = 0;
    enum api_outcome out = API_FAIL;
    if (read_request(c, &q) != 0 || api_idempotency_key(c, &key) != 0 ||
        (!q.dry_run && find_same(c, &q, key, &sweep) != 0)) {
        return API_FAIL;
    }
    if (sweep) {
        return answer_sweep(c, sweep);
    }
    q.points = calloc(POINTS_MAX + 1, sizeof *q.points);
    q.impossible = cJSON_CreateArray();
    if (!q.points || !q.impossible) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    /* Every point is checked before the first is submitted. */
    if (read_shape(&q, (int64_t)c->rq->peer_uid, &c->e) != 0 || parse_points(c, &q) != 0 ||
        refuse_impossible(c, &q) != 0) {
        goto out;
    }
    if (q.dry_run) {
        out = answer_plan(c, &q);
    } else if (submit_all(c, &q, key, &sweep) == 0) {
        c->status = 201;
        out = answer_sweep(c, sweep);
    }
out:
    for (int i = 0; q.points && i < q.n; i++) {
        draft_finish(&q.points[i]);
    }
    free(q.points);
    cJSON_Delete(q.impossible);
    return out;
}

enum api_outcome api_sweep_get(struct api_call *c)
{
    return answer_sweep(c, c->id);
}

enum api_outcome api_sweep_list(struct api_call *c)
{
    struct store_sweeps l;
    struct store_sweep_filter f = {.name = server_query(c->rq, "name")};
    int64_t limit;
    if (f.name && !*f.name) {
        f.name = NULL;
    }
    if (api_query_int(c, "limit", 1, LIST_MAX, 100, &limit) != 0 ||
        api_query_int(c, "before", 0, INT64_MAX, 0, &f.before) != 0) {
        return API_FAIL;
    }
    f.limit = (int)limit + 1; /* one more tells whether there is a next page */
    if (store_sweeps_list(c->d->store, &f, &l, &c->e) != 0) {
        return API_FAIL;
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list && i < l.n && i < (size_t)limit; i++) {
        cJSON *one = doc_sweep(c->d, &l.at[i], false, &c->e);
        if (!one || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            list = NULL;
        }
    }
    int64_t next = l.n > (size_t)limit ? l.at[limit - 1].id : 0;
    store_sweeps_finish(&l);
    return api_answer(c, "sweeps", list) == API_OK ? api_answer_next(c, next) : API_FAIL;
}
