/* cmd_sweep.c: dha sweep create | show | list */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/follow.h"
#include "cli/interrupt.h"
#include "cli/precheck.h"
#include "cli/specfile.h"
#include "cli/view.h"

static const struct cli_opt opts[] = {
    {"budget", 'b', "A,B,...", "shares of the heads to keep (create)"},
    {"method", 'm', "X,Y,...", "methods (create; default: the spec's)"},
    {"name", 0, "NAME", "a name for the sweep (create)"},
    {"set", 0, "PATH=VALUE", "change a field of the spec (create)"},
    {"wait", 0, NULL, "follow all jobs to their end, then show the table (create)"},
    PRECHECK_OPT,
    {NULL, 0, NULL, NULL},
};

#define MAX_VALUES 64

/* "a,b,c" -> array, each item made by `number` or as a string. */
static int split(const char *what, const char *text, bool number, cJSON *list, struct dha_err *e)
{
    while (text && *text) {
        char word[64];
        size_t len = strcspn(text, ",");
        double v;
        cJSON *item;
        if (len == 0 || len >= sizeof word || cJSON_GetArraySize(list) == MAX_VALUES) {
            return dha_fail(e, DHA_E_USAGE, "%s: '%s' is not a list like a,b,c", what, text);
        }
        memcpy(word, text, len);
        word[len] = 0;
        if (number && parse_num(what, word, 0, 1, &v, e)) {
            return -1;
        }
        item = number ? cJSON_CreateNumber(v) : cJSON_CreateString(word);
        if (!cJSON_AddItemToArray(list, item)) {
            return dha_fail(e, DHA_E_NO_MEMORY, "reading %s", what);
        }
        text += len + (text[len] == ',');
    }
    return 0;
}

/* The job with the lowest final loss at each requested budget. */
static bool is_best(const cJSON *jobs, const cJSON *job)
{
    double mine = json_num(json_at(job, "result.loss"), "final", NAN);
    double budget = json_num(job, "budget", NAN);
    const cJSON *other;

    if (!isfinite(mine)) {
        return false;
    }
    cJSON_ArrayForEach(other, jobs)
    {
        double theirs = json_num(json_at(other, "result.loss"), "final", NAN);
        if (json_num(other, "budget", NAN) == budget && isfinite(theirs) && theirs < mine) {
            return false;
        }
    }
    return true;
}

static void row(struct table *t, const struct fmt *f, const cJSON *jobs, const cJSON *j)
{
    const cJSON *r = json_get(j, "result");
    const cJSON *loss = json_get(r, "loss");
    const char *state = json_str(j, "state", "?");
    double parent = json_num(loss, "parent", NAN);
    double final = json_num(loss, "final", NAN);
    int64_t kv = json_int(json_get(r, "kv_bytes_per_token"), "converted", -1);
    int64_t tokens = json_int(r, "tokens_spent", -1);
    char a[FMT_BUF];

    table_cell(t, "%s", json_str(j, "id", "?"));
    table_cell(t, "%s%s", json_str(j, "method", "?"), is_best(jobs, j) ? " *" : "");
    table_cell(t, "%s", fmt_percent(a, json_num(j, "budget", NAN)));
    table_cell(t, "%s", fmt_percent(a, json_num(r, "head_budget", NAN)));
    table_cell(t, kv < 0 ? "-" : "%lld", (long long)kv);
    table_cell(t, "%s", fmt_loss(a, json_num(loss, "converted", NAN)));
    table_cell(t, "%s", fmt_loss(a, final));
    table_cell(t, isfinite(final - parent) ? "%+.4f" : "-", final - parent);
    table_cell(t, tokens < 0 ? "-" : "%lld", (long long)tokens);
    table_cell(t, "%s%s%s", fmt_on(f, view_state_colour(state)), state, fmt_off(f));
}

/* What the jobs took from one another: that needs each job's whole document. */
static int print_shared(struct client *c, const cJSON *jobs, struct dha_err *e)
{
    const cJSON *j;
    bool any = false;

    cJSON_ArrayForEach(j, jobs)
    {
        cJSON *job;
        char *text = NULL;
        size_t len;
        FILE *mem;
        if (client_job(c, json_str(j, "id", ""), &job, e)) {
            return -1;
        }
        mem = open_memstream(&text, &len);
        bool here = mem && view_reused(mem, job);
        if (mem) {
            fclose(mem);
        }
        if (here) {
            printf("%sjob %s: %s\n", any ? "" : "reused stages:\n", json_str(job, "id", "?"), text);
            any = true;
        }
        free(text);
        cJSON_Delete(job);
    }
    return 0;
}

static int show(struct client *c, const char *id, bool as_json, struct dha_err *e)
{
    static const char *const heads[] = {"JOB",        "METHOD",    "BUDGET", "ACHIEVED",
                                        "KV B/TOKEN", "CONVERTED", "FINAL",  "ABOVE PARENT",
                                        "TOKENS",     "STATE"};
    static const enum fmt_align align[] = {FMT_RIGHT, FMT_LEFT,  FMT_RIGHT, FMT_RIGHT, FMT_RIGHT,
                                           FMT_RIGHT, FMT_RIGHT, FMT_RIGHT, FMT_RIGHT, FMT_LEFT};
    struct fmt f = fmt_for(stdout);
    const cJSON *jobs;
    const cJSON *j;
    struct table *t;
    cJSON *doc;
    char *path;
    int ret = -1;

    path = client_escape(c, id);
    if (!path) {
        return dha_fail(e, DHA_E_NO_MEMORY, "asking for a sweep");
    }
    ret = client_get(c, &doc, e, "/v1/sweeps/%s", path);
    free(path);
    if (ret) {
        return -1;
    }
    if (as_json) {
        ret = cli_print_json(json_get(doc, "sweep"), e);
        cJSON_Delete(doc);
        return ret;
    }
    jobs = json_at(doc, "sweep.jobs");
    t = table_create(10, heads, align);
    printf("sweep %s  %s\n", id, json_str(json_get(doc, "sweep"), "name", ""));
    cJSON_ArrayForEach(j, jobs)
    {
        row(t, &f, jobs, j);
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    puts("* lowest final loss at its budget");
    ret = print_shared(c, jobs, e);
    cJSON_Delete(doc);
    return ret;
}

static int list(struct client *c, bool as_json, struct dha_err *e)
{
    static const char *const heads[] = {"SWEEP", "NAME", "CREATED", "JOBS"};
    static const enum fmt_align align[] = {FMT_RIGHT, FMT_LEFT, FMT_LEFT, FMT_RIGHT};
    struct fmt f = fmt_for(stdout);
    struct table *t;
    const cJSON *s;
    char a[FMT_BUF];
    cJSON *doc;
    int ret = 0;

    if (client_get(c, &doc, e, "/v1/sweeps")) {
        return -1;
    }
    if (as_json) {
        ret = cli_print_json(doc, e);
        cJSON_Delete(doc);
        return ret;
    }
    t = table_create(4, heads, align);
    cJSON_ArrayForEach(s, json_get(doc, "sweeps"))
    {
        table_cell(t, "%s", json_str(s, "id", "?"));
        table_cell(t, "%s", json_str(s, "name", ""));
        table_cell(t, "%s", fmt_time(a, json_int(s, "created_us", 0)));
        table_cell(t, "%d", cJSON_GetArraySize(json_get(s, "jobs")));
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    cJSON_Delete(doc);
    return ret;
}

static int wait_all(struct client *c, const cJSON *jobs, const char *sweep, struct dha_err *e)
{
    int n = cJSON_GetArraySize(jobs);
    const char **ids = calloc((size_t)n + 1, sizeof *ids);
    cJSON **docs = calloc((size_t)n + 1, sizeof *docs);
    int ret = -1;
    int end;

    if (!ids || !docs) {
        dha_fail(e, DHA_E_NO_MEMORY, "following a sweep");
        goto out;
    }
    for (int i = 0; i < n; i++) {
        ids[i] = json_str(cJSON_GetArrayItem(jobs, i), "id", "");
    }
    end = n ? follow_jobs(c, ids, n, stderr, docs, e) : FOLLOW_ENDED;
    if (end == FOLLOW_INTERRUPTED) {
        cli_say("the jobs go on; `dha sweep show %s` shows where they are", sweep);
        ret = INTERRUPT_EXIT;
    } else if (end == FOLLOW_ENDED) {
        ret = show(c, sweep, false, e);
        ret = ret ? ret : view_outcomes(docs, n, e);
    }
out:
    for (int i = 0; docs && i < n; i++) {
        cJSON_Delete(docs[i]);
    }
    free(docs);
    free(ids);
    return ret;
}

/* The spec of one point of a sweep, checked for each. */
static int check_points(struct client *c, const struct args *a, const cJSON *spec,
                        const cJSON *budgets, const cJSON *methods, struct dha_err *e)
{
    const cJSON *budget;
    const cJSON *method;

    cJSON_ArrayForEach(method, methods)
    {
        cJSON_ArrayForEach(budget, budgets)
        {
            cJSON *point = cJSON_Duplicate(spec, true);
            int rc;
            cJSON_DeleteItemFromObjectCaseSensitive(point, "budget");
            cJSON_DeleteItemFromObjectCaseSensitive(point, "method");
            if (!point || json_put_num(point, "budget", budget->valuedouble) ||
                json_put_str(point, "method", method->valuestring)) {
                rc = dha_fail(e, DHA_E_NO_MEMORY, "checking a sweep");
            } else {
                rc = precheck(c, a, point, e);
            }
            cJSON_Delete(point);
            if (rc) {
                return dha_err_context(e, "budget %g, method %s", budget->valuedouble,
                                       method->valuestring);
            }
        }
    }
    return 0;
}

static int create(struct client *c, const struct args *a, struct dha_err *e)
{
    cJSON *body = cJSON_CreateObject();
    cJSON *budgets = cJSON_AddArrayToObject(body, "budgets");
    cJSON *methods = cJSON_AddArrayToObject(body, "methods");
    const char *method;
    const char *name = arg_value(a, "name");
    const char *id;
    struct dha_err why = {0};
    cJSON *spec = NULL;
    cJSON *doc = NULL;
    int ret = -1;

    if (!arg_value(a, "budget")) {
        dha_fail(e, DHA_E_USAGE, "`dha sweep create` needs --budget A,B,...");
        dha_err_hint(e, "dha sweep create spec.json --budget 0.5,0.25 --method gqa,spectral");
        goto out;
    }
    if (specfile_read(a->pos[1], a, &spec, e) ||
        split("--budget", arg_value(a, "budget"), true, budgets, e)) {
        goto out;
    }
    method = arg_value(a, "method");
    if (split("--method", method ? method : json_str(spec, "method", "spectral"), false, methods,
              e) ||
        check_points(c, a, spec, budgets, methods, e)) {
        goto out;
    }
    if (!methods || json_put(body, "spec", spec) || (name && json_put_str(body, "name", name))) {
        spec = NULL; /* json_put took it */
        dha_fail(e, DHA_E_NO_MEMORY, "creating a sweep");
        goto out;
    }
    spec = NULL;
    if (client_post(c, "/v1/sweeps", body, NULL, &doc, &why)) {
        *e = why;
        if (why.code == DHA_E_SPEC && specfile_print_errors(stderr, client_errors(c))) {
            dha_fail(e, why.code, "nothing was submitted");
        }
        goto out;
    }
    id = json_str(json_get(doc, "sweep"), "id", "");
    if (arg_flag(a, "json")) {
        ret = cli_print_json(json_get(doc, "sweep"), e);
    } else {
        puts(id);
        fflush(stdout);
        ret = arg_flag(a, "wait") ? wait_all(c, json_at(doc, "sweep.jobs"), id, e) : 0;
    }
out:
    cJSON_Delete(spec);
    cJSON_Delete(doc);
    cJSON_Delete(body);
    return ret;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    static const struct {
        const char *verb;
        int pos; /* with the verb */
    } verbs[] = {{"create", 2}, {"show", 2}, {"list", 1}};
    const char *verb = a->pos[0];
    struct client *c;
    int ret = -1;
    size_t v = 0;

    while (v < sizeof verbs / sizeof *verbs && strcmp(verbs[v].verb, verb)) {
        v++;
    }
    if (v == sizeof verbs / sizeof *verbs || a->n_pos != verbs[v].pos) {
        dha_fail(e, DHA_E_USAGE, "`dha sweep %s` with %d argument%s is not known", verb,
                 a->n_pos - 1, a->n_pos == 2 ? "" : "s");
        return dha_err_hint(
            e, "dha sweep create SPEC --budget A,B | dha sweep show ID | dha sweep list");
    }
    c = client_open(cli, e);
    if (!c) {
        return -1;
    }
    if (v == 0) {
        ret = create(c, a, e);
    } else if (v == 1) {
        ret = show(c, a->pos[1], arg_flag(a, "json"), e);
    } else {
        ret = list(c, arg_flag(a, "json"), e);
    }
    client_close(c);
    return ret;
}

const struct command cmd_sweep = {
    .name = "sweep",
    .args = "create SPEC --budget A,B [--method X,Y] [--wait] | show ID | list",
    .summary = "Many budgets and methods from one spec, compared in a table",
    .help = "`create` makes one job for each budget and method and prints the sweep's id alone. "
            "Jobs share every stage\n"
            "whose inputs are equal: a sweep over budgets searches once.",
    .example = "dha sweep create spec.json --budget 0.5,0.25,0.125 --method gqa,spectral --wait\n"
               "dha sweep show 3",
    .group = "Sweeps",
    .min_pos = 1,
    .max_pos = 2,
    .json = true,
    .opts = opts,
    .run = run,
};
