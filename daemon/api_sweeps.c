/* api_sweeps.c: one spec, many budgets and methods: one job each, submitted in one transaction;
 * a point that repeats another is left out. That the jobs share what they have in common is not done here: it
 * follows from equal stage keys. */
#include "daemon/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string.h>

#include "daemon/doc.h"

enum { POINTS_MAX = 256 };

struct point {
    const cJSON *method, *budget; /* NULL = the spec's own */
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

/* The spec of one point: the sweep's with its budget, method and a name that tells them apart. */
static cJSON *point_spec(struct api_call *c, const cJSON *base, const struct point *p,
                         const char *sweep_name)
{
    cJSON *doc = cJSON_Duplicate(base, true);
    char name[160];
    const char *method = p->method && cJSON_IsString(p->method) ? p->method->valuestring : NULL;
    int rc = doc ? 0 : -1;
    if (p->method) {
        rc |= json_put(doc, "method", cJSON_Duplicate(p->method, true));
    }
    if (p->budget) {
        rc |= json_put_num(doc, "budget", p->budget->valuedouble);
    }
    const char *own = *sweep_name ? sweep_name : json_str(base, "name", NULL);
    if (own) { /* else the default name has method and budget in it */
        int n = snprintf(name, sizeof name, "%.80s", own);
        if (method) {
            n += snprintf(name + n, sizeof name - (size_t)n, "-%.30s", method);
        }
        if (p->budget) {
            snprintf(name + n, sizeof name - (size_t)n, "-%.3g", 100 * p->budget->valuedouble);
        }
        rc |= json_put_str(doc, "name", name);
    }
    return rc == 0 ? doc : doc_oom(doc, &c->e);
}

/* Everything of a spec but its name, as text (free() it). */
static char *work_of(const struct job_spec *s)
{
    cJSON *doc = spec_to_json(s);
    cJSON_DeleteItemFromObjectCaseSensitive(doc, "name");
    char *text = doc ? json_text(doc) : NULL;
    cJSON_Delete(doc);
    return text;
}

/* Is the last of the n specs the same work as one before it? Budgets may be given twice, and some methods have
 * only one. */
static int is_repeated(const struct job_spec *specs, int n, bool *repeated, struct dha_err *e)
{
    char *last = work_of(&specs[n - 1]);
    int rc = last ? 0 : -1;
    *repeated = false;
    for (int i = 0; i < n - 1 && rc == 0 && !*repeated; i++) {
        if (specs[i].budget != specs[n - 1].budget ||
            strcmp(specs[i].method.name, specs[n - 1].method.name) != 0) {
            continue; /* cheap, and nearly always the answer */
        }
        char *text = work_of(&specs[i]);
        rc = text ? 0 : -1;
        *repeated = text && strcmp(text, last) == 0;
        free(text);
    }
    free(last);
    return rc == 0 ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static int parse_points(struct api_call *c, const cJSON *base, const char *name,
                        struct job_spec *specs, int *n)
{
    const cJSON *methods = json_get(c->body, "methods"), *budgets = json_get(c->body, "budgets");
    int n_m = count_of(methods), n_b = count_of(budgets);
    if (n_m * n_b > POINTS_MAX) {
        return dha_fail(&c->e, DHA_E_USAGE, "a sweep has at most %d points; this one has %d",
                        POINTS_MAX, n_m * n_b);
    }
    for (int m = 0; m < n_m; m++) {
        for (int b = 0; b < n_b; b++) {
            struct point p = {methods ? cJSON_GetArrayItem(methods, m) : NULL,
                              budgets ? cJSON_GetArrayItem(budgets, b) : NULL};
            cJSON *doc = point_spec(c, base, &p, name);
            int rc = doc ? api_check_spec(c, doc, &specs[*n]) : -1;
            cJSON_Delete(doc);
            *n += rc == 0;
            if (rc == 0) {
                rc = plan_fits(c->d, &specs[*n - 1], &c->e);
            }
            bool repeated = false;
            if (rc == 0) {
                rc = is_repeated(specs, *n, &repeated, &c->e);
            }
            if (repeated) {
                spec_finish(&specs[--*n]);
            }
            if (rc != 0) {
                return dha_err_context(&c->e, "point %d of %d", m * n_b + b + 1, n_m * n_b);
            }
        }
    }
    return 0;
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

enum api_outcome api_sweep_new(struct api_call *c)
{
    const cJSON *base = json_get(c->body, "spec"), *jname = json_get(c->body, "name");
    if (!cJSON_IsObject(base)) {
        dha_fail(&c->e, DHA_E_USAGE, "\"spec\" is missing or no object");
        return API_FAIL;
    }
    if ((jname && !cJSON_IsString(jname)) || check_axis(c, "budgets", true) != 0 ||
        check_axis(c, "methods", false) != 0) {
        if (c->e.code == DHA_E_OK) {
            dha_fail(&c->e, DHA_E_USAGE, "\"name\" is not a string");
        }
        return API_FAIL;
    }
    const char *name = jname ? jname->valuestring : "";
    struct job_spec *specs = calloc(POINTS_MAX, sizeof *specs);
    char *text = json_text(c->body);
    enum api_outcome out = API_FAIL;
    int n = 0;
    int64_t sweep = 0;
    if (!specs || !text) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    /* Every point is checked before the first is submitted. */
    if (parse_points(c, base, name, specs, &n) != 0 ||
        store_sweep_new(c->d->store, name, text, (int64_t)c->rq->peer_uid, now_us(), &sweep,
                        &c->e) != 0) {
        goto out;
    }
    for (int i = 0; i < n; i++) {
        int64_t id;
        bool existed;
        if (api_submit_spec(c, &specs[i], sweep, NULL, &id, &existed) != 0) {
            goto out;
        }
    }
    c->status = 201;
    out = answer_sweep(c, sweep);
out:
    for (int i = 0; specs && i < n; i++) {
        spec_finish(&specs[i]);
    }
    free(specs);
    free(text);
    return out;
}

enum api_outcome api_sweep_get(struct api_call *c)
{
    return answer_sweep(c, c->id);
}

enum api_outcome api_sweep_list(struct api_call *c)
{
    struct store_sweeps l;
    int64_t limit;
    if (api_query_int(c, "limit", 1, 1000, 100, &limit) != 0 ||
        store_sweeps_list(c->d->store, (int)limit, &l, &c->e) != 0) {
        return API_FAIL;
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list && i < l.n; i++) {
        cJSON *one = doc_sweep(c->d, &l.at[i], false, &c->e);
        if (!one || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            list = NULL;
        }
    }
    store_sweeps_finish(&l);
    return api_answer(c, "sweeps", list);
}
