/* jobdoc.c: see jobdoc.h. One table a row's struct drives both directions. */
#include "daemon/jobdoc.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/grow.h"

#define FORMAT "dha-job-1"

/* ---- tables ---- */

enum field_type { INT64, INT, REAL, BOOL, CHARS, TEXT };
struct field {
    const char *name;
    enum field_type type;
    size_t at, size;
};
#define F(type, row, member)                                                                       \
    {                                                                                              \
#member, type, offsetof(struct row, member), sizeof(((struct row *)0)->member)             \
    }
#define ERROR_FIELDS(row)                                                                          \
    F(CHARS, row, error.code), F(CHARS, row, error.message), F(CHARS, row, error.hint)
#define END                                                                                        \
    {                                                                                              \
        0                                                                                          \
    }

static const struct field job_fields[] = {
    F(INT64, store_job, id),           F(TEXT, store_job, name),
    F(TEXT, store_job, method),        F(REAL, store_job, budget),
    F(INT, store_job, priority),       F(INT, store_job, slots),
    F(CHARS, store_job, device),       F(INT64, store_job, submitted_us),
    F(INT64, store_job, started_us),   F(INT64, store_job, ended_us),
    F(TEXT, store_job, cancel_reason), F(INT64, store_job, seed),
    ERROR_FIELDS(store_job),           END};
static const struct field stage_fields[] = {F(CHARS, store_stage, key),
                                            F(INT, store_stage, attempt),
                                            F(TEXT, store_stage, out_dir),
                                            F(TEXT, store_stage, output),
                                            F(INT64, store_stage, started_us),
                                            F(INT64, store_stage, ended_us),
                                            F(INT64, store_stage, progress.step),
                                            F(INT64, store_stage, progress.steps),
                                            F(INT64, store_stage, progress.tokens),
                                            F(REAL, store_stage, progress.loss),
                                            F(REAL, store_stage, progress.lm),
                                            F(REAL, store_stage, progress.kl),
                                            F(INT64, store_stage, tokens),
                                            F(REAL, store_stage, seconds),
                                            F(INT64, store_stage, peak_rss),
                                            F(INT64, store_stage, kv_parent),
                                            F(INT64, store_stage, kv_converted),
                                            ERROR_FIELDS(store_stage),
                                            END};
static const struct field attempt_fields[] = {F(INT, store_attempt, number),
                                              F(TEXT, store_attempt, dir),
                                              F(CHARS, store_attempt, host),
                                              F(CHARS, store_attempt, backend),
                                              F(INT, store_attempt, ranks),
                                              F(INT64, store_attempt, steps),
                                              F(INT64, store_attempt, resumed_from),
                                              F(INT64, store_attempt, started_us),
                                              F(INT64, store_attempt, hello_us),
                                              F(INT64, store_attempt, ended_us),
                                              F(INT, store_attempt, exit_code),
                                              ERROR_FIELDS(store_attempt),
                                              END};
static const struct field eval_fields[] = {
    F(INT, store_eval, attempt),          F(CHARS, store_eval, name),    F(REAL, store_eval, loss),
    F(INT64, store_eval, tokens),         F(INT64, store_eval, windows), F(INT64, store_eval, step),
    F(INT64, store_eval, trained_tokens), F(INT64, store_eval, time_us), END};
static const struct field head_fields[] = {F(INT, store_head_budget, layer),
                                           F(BOOL, store_head_budget, value),
                                           F(INT, store_head_budget, heads), END};
static const struct field checkpoint_fields[] = {
    F(INT64, store_checkpoint, attempt), F(INT64, store_checkpoint, step),
    F(INT64, store_checkpoint, bytes),   F(INT64, store_checkpoint, created_us),
    F(CHARS, store_checkpoint, path),    F(CHARS, store_checkpoint, digest),
    F(CHARS, store_checkpoint, state),   END};
static const struct field point_fields[] = {
    F(INT, store_point, attempt),  F(CHARS, store_point, name), F(INT64, store_point, step),
    F(INT64, store_point, tokens), F(REAL, store_point, value), END};

static int put_row(cJSON *j, const struct field *f, const void *row)
{
    int rc = j ? 0 : -1;
    for (; f->name && rc == 0; f++) {
        const char *p = (const char *)row + f->at;
        int64_t i64;
        int i;
        double d;
        bool b;
        const char *text;
        switch (f->type) {
        case INT64:
            memcpy(&i64, p, sizeof i64);
            rc = json_put_id(j, f->name, i64);
            break;
        case INT:
            memcpy(&i, p, sizeof i);
            rc = json_put_int(j, f->name, i);
            break;
        case REAL:
            memcpy(&d, p, sizeof d);
            rc = json_put_num(j, f->name, d);
            break;
        case BOOL:
            memcpy(&b, p, sizeof b);
            rc = json_put_bool(j, f->name, b);
            break;
        case CHARS: rc = json_put_str(j, f->name, p); break;
        case TEXT:
            memcpy(&text, p, sizeof text);
            rc = text ? json_put_str(j, f->name, text) : json_put(j, f->name, cJSON_CreateNull());
            break;
        }
    }
    return rc;
}

static int take_field(const cJSON *j, const struct field *f, char *p, struct dha_err *e)
{
    const cJSON *v = json_get(j, f->name);
    int64_t i64;
    double d;
    bool b;
    switch (f->type) {
    case INT64:
        if (json_need_int(j, f->name, &i64, e) != 0) {
            return -1;
        }
        memcpy(p, &i64, sizeof i64);
        return 0;
    case INT:
        if (json_need_int(j, f->name, &i64, e) != 0 || i64 < INT_MIN || i64 > INT_MAX) {
            return dha_fail(e, DHA_E_INPUT, "\"%s\" is not a number that fits", f->name);
        }
        memcpy(p, &(int){(int)i64}, sizeof(int));
        return 0;
    case REAL:
        d = cJSON_IsNumber(v) ? v->valuedouble : NAN;
        memcpy(p, &d, sizeof d);
        return cJSON_IsNumber(v) || cJSON_IsNull(v)
                   ? 0
                   : dha_fail(e, DHA_E_INPUT, "\"%s\" is no number", f->name);
    case BOOL:
        b = cJSON_IsTrue(v);
        memcpy(p, &b, sizeof b);
        return cJSON_IsBool(v) ? 0 : dha_fail(e, DHA_E_INPUT, "\"%s\" is no bool", f->name);
    case CHARS:
        if (!cJSON_IsString(v) || strlen(v->valuestring) >= f->size) {
            return dha_fail(e, DHA_E_INPUT, "\"%s\" is not a text of under %zu bytes", f->name,
                            f->size);
        }
        memcpy(p, v->valuestring, strlen(v->valuestring) + 1);
        return 0;
    case TEXT:
        if (cJSON_IsString(v)) {
            char *copy = strdup(v->valuestring);
            memcpy(p, &copy, sizeof copy);
            return copy ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        }
        return cJSON_IsNull(v) ? 0 : dha_fail(e, DHA_E_INPUT, "\"%s\" is no text", f->name);
    }
    return -1;
}

static int take_row(const cJSON *j, const struct field *f, void *row, struct dha_err *e)
{
    for (; f->name; f++) {
        if (take_field(j, f, (char *)row + f->at, e) != 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- out of a store ---- */

void jobdoc_dirs_finish(struct jobdoc_dirs *d)
{
    for (size_t i = 0; i < d->n; i++) {
        free(d->at[i].from);
        free(d->at[i].to);
    }
    free(d->at);
    memset(d, 0, sizeof *d);
}

static int no_memory(struct dha_err *e)
{
    return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static int add_dir(struct jobdoc_dirs *d, const char *from, const char *to, struct dha_err *e)
{
    struct jobdoc_dir *at = grow(&d->at, &d->n, sizeof *at);
    if (!at) {
        return no_memory(e);
    }
    at->from = strdup(from);
    at->to = strdup(to);
    return at->from && at->to ? 0 : no_memory(e);
}

/* What is below `from` as it will be below `to`; NULL if it is not below. */
static const char *rest(const char *path, const char *from)
{
    size_t n = from ? strlen(from) : 0;
    return from && path && strncmp(path, from, n) == 0 && (path[n] == '/' || !path[n]) ? path + n
                                                                                       : NULL;
}

static int load_attempts(struct store *s, int64_t src, struct store_import_stage *p,
                         struct jobdoc_dirs *dirs, struct dha_err *e)
{
    if (store_attempts_of_stage(s, src, &p->attempts, e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < p->attempts.n; i++) {
        struct store_attempt *a = &p->attempts.at[i];
        char *to = NULL;
        if (!a->dir) {
            continue;
        }
        if (asprintf(&to, "%s/a%d", stage_kind_name(p->stage.kind), a->number) < 0) {
            return no_memory(e);
        }
        int rc = add_dir(dirs, a->dir, to, e);
        free(a->dir);
        a->dir = to;
        if (rc != 0) {
            return -1;
        }
    }
    return 0;
}

/* Those of its own directory: others could not come along. */
static void move_checkpoints(struct store_import_stage *p, const char *from, const char *to)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_checkpoints; i++) {
        struct store_checkpoint c = p->checkpoints[i];
        const char *below = rest(p->checkpoints[i].path, from);
        int len = below ? snprintf(c.path, sizeof c.path, "%s%s", to, below) : -1;
        if (len >= 0 && (size_t)len < sizeof c.path) {
            p->checkpoints[n++] = c;
        }
    }
    p->n_checkpoints = n;
}

static int load_stage(struct store *s, const struct store_stage *st, struct store_import_stage *p,
                      struct jobdoc_dirs *dirs, struct dha_err *e)
{
    int64_t src = st->reused_from ? st->reused_from : st->id;
    char to[40], *output = NULL;
    if (store_stage_get(s, src, &p->stage, e) != 0) {
        return -1;
    }
    p->stage.state = st->state;
    struct store_metric_query q = {.stage = src, .after_step = -1, .limit = INT_MAX};
    if (load_attempts(s, src, p, dirs, e) != 0 ||
        store_evals(s, src, &p->evals, &p->n_evals, e) != 0 ||
        store_head_budgets(s, src, &p->heads, &p->n_heads, e) != 0 ||
        store_checkpoints(s, 0, src, &p->checkpoints, &p->n_checkpoints, e) != 0 ||
        store_metrics(s, &q, &p->points, &p->n_points, e) != 0) {
        return -1;
    }
    snprintf(to, sizeof to, "%s/out", stage_kind_name(st->kind));
    move_checkpoints(p, p->stage.out_dir, to);
    const char *below = rest(p->stage.output, p->stage.out_dir);
    if (below && asprintf(&output, "%s%s", to, below) < 0) {
        return no_memory(e);
    }
    free(p->stage.output);
    p->stage.output = output;
    if (!p->stage.out_dir) {
        return 0;
    }
    int rc = add_dir(dirs, p->stage.out_dir, to, e);
    free(p->stage.out_dir);
    p->stage.out_dir = strdup(to);
    return rc == 0 && !p->stage.out_dir ? no_memory(e) : rc;
}

int jobdoc_load(struct store *s, int64_t job, struct store_import *out, struct jobdoc_dirs *dirs,
                struct dha_err *e)
{
    struct store_stages l = {0};
    memset(out, 0, sizeof *out);
    memset(dirs, 0, sizeof *dirs);
    if (store_job_get(s, job, &out->job, e) != 0) {
        return -1;
    }
    if (!job_state_final(out->job.state)) {
        dha_fail(e, DHA_E_CONFLICT, "job %lld is %s", (long long)job,
                 job_state_name(out->job.state));
        return dha_err_hint(e,
                            "wait for it (dha watch %lld) or cancel it: only a job that has "
                            "ended holds still",
                            (long long)job);
    }
    int rc = store_stages_of_job(s, job, &l, e);
    for (size_t i = 0; i < l.n && i < STAGE_KINDS && rc == 0; i++) {
        out->n_stages++;
        rc = load_stage(s, &l.at[i], &out->stages[i], dirs, e);
    }
    store_stages_finish(&l);
    return rc;
}

/* ---- job.json ---- */

/* Rows as a list; `more` (may be NULL) adds what no table can say. */
static int put_rows(cJSON *j, const char *key, const struct field *f, const void *rows, size_t n,
                    size_t size, int (*more)(cJSON *one, const void *row))
{
    cJSON *list = cJSON_CreateArray();
    int rc = list ? 0 : -1;
    for (size_t i = 0; i < n && rc == 0; i++) {
        const void *row = (const char *)rows + i * size;
        cJSON *one = cJSON_CreateObject();
        rc = put_row(one, f, row) != 0 || (more && more(one, row) != 0) ||
                     !cJSON_AddItemToArray(list, one)
                 ? -1
                 : 0;
        if (rc != 0) {
            cJSON_Delete(one);
        }
    }
    if (rc != 0) {
        cJSON_Delete(list);
        return -1;
    }
    return json_put(j, key, list);
}

static int put_map(cJSON *one, const void *row)
{
    const struct store_head_budget *h = row;
    return json_put(one, "map", cJSON_CreateIntArray(h->map, h->n_map));
}

static int put_stage(cJSON *one, const void *row)
{
    const struct store_import_stage *p = row;
    return json_put_str(one, "kind", stage_kind_name(p->stage.kind)) |
           json_put_str(one, "state", stage_state_name(p->stage.state)) |
           put_row(one, stage_fields, &p->stage) |
           put_rows(one, "attempts", attempt_fields, p->attempts.at, p->attempts.n,
                    sizeof *p->attempts.at, NULL) |
           put_rows(one, "evals", eval_fields, p->evals, p->n_evals, sizeof *p->evals, NULL) |
           put_rows(one, "head_budgets", head_fields, p->heads, p->n_heads, sizeof *p->heads,
                    put_map) |
           put_rows(one, "checkpoints", checkpoint_fields, p->checkpoints, p->n_checkpoints,
                    sizeof *p->checkpoints, NULL);
}

cJSON *jobdoc_to_json(const struct store_import *im)
{
    static const struct field none[] = {END};
    cJSON *doc = cJSON_CreateObject(), *job = cJSON_CreateObject();
    int rc = put_row(job, job_fields, &im->job) |
             json_put_str(job, "state", job_state_name(im->job.state)) |
             json_put(job, "spec", json_parse(im->job.spec, strlen(im->job.spec), NULL, NULL));
    rc |= json_put_str(doc, "format", FORMAT) | json_put_str(doc, "dha", DHA_VERSION);
    rc |= json_put(doc, "job", job) |
          put_rows(doc, "stages", none, im->stages, im->n_stages, sizeof im->stages[0], put_stage);
    if (rc != 0) {
        cJSON_Delete(doc);
        return NULL;
    }
    return doc;
}

/* Takes a list into *rows (free()), each row zeroed first. */
static int take_rows(const cJSON *j, const char *key, const struct field *f, void *rows, size_t *n,
                     size_t size, int (*more)(const cJSON *one, void *row, struct dha_err *e),
                     struct dha_err *e)
{
    const cJSON *list = json_get(j, key), *one;
    if (!cJSON_IsArray(list)) {
        return dha_fail(e, DHA_E_INPUT, "\"%s\" is no list", key);
    }
    char *at = calloc((size_t)cJSON_GetArraySize(list) + 1, size);
    memcpy(rows, &at, sizeof at);
    if (!at) {
        return no_memory(e);
    }
    cJSON_ArrayForEach(one, list)
    {
        void *row = at + (*n)++ * size;
        if (take_row(one, f, row, e) != 0 || (more && more(one, row, e) != 0)) {
            return dha_err_context(e, "%s, number %zu", key, *n);
        }
    }
    return 0;
}

static int take_map(const cJSON *one, void *row, struct dha_err *e)
{
    struct store_head_budget *h = row;
    const cJSON *list = json_get(one, "map"), *v;
    int cap = (int)(sizeof h->map / sizeof h->map[0]);
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > cap) {
        return dha_fail(e, DHA_E_INPUT, "\"map\" is no list of at most %d heads", cap);
    }
    cJSON_ArrayForEach(v, list)
    {
        int64_t head;
        if (!json_to_int(v, &head) || head < 0 || head >= cap) {
            return dha_fail(e, DHA_E_INPUT, "\"map\" has something that is no head");
        }
        h->map[h->n_map++] = (int)head;
    }
    return 0;
}

static int take_stage(const cJSON *one, struct store_import_stage *p, struct dha_err *e)
{
    struct store_stage *st = &p->stage;
    const char *kind, *state;
    if (json_need_str(one, "kind", &kind, e) != 0 || json_need_str(one, "state", &state, e) != 0) {
        return -1;
    }
    if (stage_kind_from_name(kind, &st->kind) != 0 ||
        stage_state_from_name(state, &st->state) != 0) {
        return dha_fail(e, DHA_E_INPUT, "there is no stage \"%.40s\" in state \"%.40s\"", kind,
                        state);
    }
    return take_row(one, stage_fields, st, e) != 0 ||
                   take_rows(one, "attempts", attempt_fields, &p->attempts.at, &p->attempts.n,
                             sizeof *p->attempts.at, NULL, e) != 0 ||
                   take_rows(one, "evals", eval_fields, &p->evals, &p->n_evals, sizeof *p->evals,
                             NULL, e) != 0 ||
                   take_rows(one, "head_budgets", head_fields, &p->heads, &p->n_heads,
                             sizeof *p->heads, take_map, e) != 0 ||
                   take_rows(one, "checkpoints", checkpoint_fields, &p->checkpoints,
                             &p->n_checkpoints, sizeof *p->checkpoints, NULL, e) != 0
               ? dha_err_context(e, "stage %.20s", kind)
               : 0;
}

static int take_job(const cJSON *j, struct store_job *job, struct dha_err *e)
{
    const char *state;
    const cJSON *spec = json_get(j, "spec");
    if (take_row(j, job_fields, job, e) != 0 || json_need_str(j, "state", &state, e) != 0) {
        return -1;
    }
    if (job_state_from_name(state, &job->state) != 0 || !job_state_final(job->state)) {
        return dha_fail(e, DHA_E_INPUT,
                        "\"state\" is \"%.40s\": only a job that has ended can be "
                        "taken in",
                        state);
    }
    if (!cJSON_IsObject(spec) || !job->name || !job->method) {
        return dha_fail(e, DHA_E_INPUT, "its spec, name or method is missing");
    }
    struct job_spec parsed = {0};
    struct spec_errors errs = {0};
    if (spec_parse(spec, NULL, &parsed, &errs) != 0) {
        return dha_fail(e, DHA_E_INPUT, "its spec is not valid here: %s: %s", errs.at[0].path,
                        errs.at[0].msg);
    }
    spec_finish(&parsed);
    job->spec = json_text(spec);
    return job->spec ? 0 : no_memory(e);
}

int jobdoc_parse(const cJSON *doc, struct store_import *out, struct dha_err *e)
{
    const cJSON *stages = json_get(doc, "stages"), *one;
    memset(out, 0, sizeof *out);
    if (strcmp(json_str(doc, "format", ""), FORMAT) != 0 || !cJSON_IsArray(stages)) {
        return dha_fail(e, DHA_E_INPUT, "it is no %s document", FORMAT);
    }
    if (take_job(json_get(doc, "job"), &out->job, e) != 0) {
        return dha_err_context(e, "the job");
    }
    cJSON_ArrayForEach(one, stages)
    {
        if (out->n_stages == STAGE_KINDS) {
            return dha_fail(e, DHA_E_INPUT, "it has more than %d stages", STAGE_KINDS);
        }
        if (take_stage(one, &out->stages[out->n_stages++], e) != 0) {
            return -1;
        }
        for (size_t i = 0; i + 1 < out->n_stages; i++) {
            if (out->stages[i].stage.kind >= out->stages[out->n_stages - 1].stage.kind) {
                return dha_fail(e, DHA_E_INPUT, "its stages are not in order");
            }
        }
    }
    return out->n_stages ? 0 : dha_fail(e, DHA_E_INPUT, "it has no stages");
}

/* ---- metrics.ndjson ---- */

int jobdoc_write_points(const struct store_import *im, FILE *f)
{
    for (size_t i = 0; i < im->n_stages; i++) {
        const struct store_import_stage *p = &im->stages[i];
        for (size_t k = 0; k < p->n_points; k++) {
            cJSON *j = cJSON_CreateObject();
            int rc = json_put_str(j, "stage", stage_kind_name(p->stage.kind)) |
                     put_row(j, point_fields, &p->points[k]);
            char *text = rc == 0 ? json_text(j) : NULL;
            cJSON_Delete(j);
            rc = text && fprintf(f, "%s\n", text) >= 0 ? 0 : -1;
            free(text);
            if (rc != 0) {
                return -1;
            }
        }
    }
    return 0;
}

static int take_point(const char *line, size_t len, struct store_import *im, struct dha_err *e)
{
    cJSON *j = json_parse(line, len, NULL, e);
    const char *kind = json_str(j, "stage", "?");
    struct store_import_stage *p = NULL;
    int rc = -1;
    for (size_t i = 0; i < im->n_stages; i++) {
        if (strcmp(stage_kind_name(im->stages[i].stage.kind), kind) == 0) {
            p = &im->stages[i];
        }
    }
    if (j && !p) {
        dha_fail(e, DHA_E_INPUT, "the job has no stage \"%.40s\"", kind);
    } else if (j) {
        struct store_point *at = grow(&p->points, &p->n_points, sizeof *at);
        rc = at ? take_row(j, point_fields, at, e) : no_memory(e);
    }
    cJSON_Delete(j);
    return rc;
}

int jobdoc_read_points(FILE *f, struct store_import *im, struct dha_err *e)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int rc = 0;
    for (int at = 1; rc == 0 && (n = getline(&line, &cap, f)) > 0; at++) {
        n -= line[n - 1] == '\n';
        if (take_point(line, (size_t)n, im, e) != 0) {
            rc = dha_err_context(e, "line %d", at);
        }
    }
    if (rc == 0 && ferror(f)) {
        rc = dha_fail_errno(e, errno, "reading it");
    }
    free(line);
    return rc;
}
