/* cmd_sweep.c: dha sweep create | show | best | list */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/follow.h"
#include "cli/interrupt.h"
#include "cli/precheck.h"
#include "cli/specfile.h"
#include "cli/sweep_view.h"
#include "cli/view.h"

static const struct cli_opt opts[] = {
    {"budget", 'b', "A,B,...", "shares of the heads to keep (create)"},
    {"method", 'm', "X,Y,...", "methods (create; default: the spec's)"},
    {"seed", 0, "N,M,...", "seeds, each a job a point (create; default: the spec's)"},
    {"name", 0, "NAME", "a name for the sweep (create): the same command again is the same sweep"},
    {"set", 0, "PATH=VALUE", "change a field of the spec (create)"},
    {"skip-impossible", 0, NULL,
     "leave out budgets that a method cannot meet on this model (create)"},
    {"stop-dominated", 0, NULL,
     "cancel a job in training that is worse than another at no more bytes and tokens (create)"},
    {"margin", 0, "SHARE", "by how much worse that must be (create; default 0.02 of the loss)"},
    {"idempotency-key", 0, "KEY", "the same key again is the same sweep (create)"},
    {"dry-run", 0, NULL, "only say which jobs there would be (create)"},
    {"wait", 0, NULL, "follow all jobs to their end, then show the table (create)"},
    PRECHECK_OPT,
    {"svg", 0, "FILE", "also write both plots as an SVG file (show)"},
    {"csv", 0, NULL, "one line a job, for spreadsheets (show)"},
    {"under", 0, "LOSS|BYTES",
     "3.80: cheapest under a loss; 512B, 1.5KiB: best under a size (best)"},
    {"best-under", 0, "LOSS|BYTES", "the same as `best --under` (show, best)"},
    {NULL, 0, NULL, NULL},
};

#define MAX_VALUES 64

/* "a,b,c" -> array, each item made by `number` (up to `most`) or as a string. */
static int split(const char *what, const char *text, bool number, double most, cJSON *list,
                 struct dha_err *e)
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
        if (number && parse_num(what, word, 0, most, &v, e)) {
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

/* The sweep with that id, or else of that name. */
static int fetch(struct client *c, const char *text, cJSON **doc, struct dha_err *e)
{
    char *word = client_escape(c, text);
    cJSON *found = NULL;
    const char *id = text;
    int rc = word ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "asking for a sweep");

    *doc = NULL;
    if (!rc && (!*text || strspn(text, "0123456789") != strlen(text))) {
        rc = client_get(c, &found, e, "/v1/sweeps?limit=1&name=%s", word);
        id = json_str(json_at(found, "sweeps.0"), "id", NULL);
        if (!rc && (!*text || !id)) {
            rc = dha_fail(e, DHA_E_NOT_FOUND, "there is no sweep '%s'", text);
            dha_err_hint(e, "dha sweep list shows those there are");
        }
    }
    if (!rc) {
        rc = client_get(c, doc, e, "/v1/sweeps/%s", id);
    }
    cJSON_Delete(found);
    free(word);
    return rc;
}

static int print_best(const cJSON *sweep, const struct args *a, struct dha_err *e)
{
    const char *text = arg_value(a, "under") ? arg_value(a, "under") : arg_value(a, "best-under");
    struct sweep_limit limit;
    const cJSON *job;

    if (!text) {
        dha_fail(e, DHA_E_USAGE, "`dha sweep best` needs --under LOSS or --under BYTES");
        return dha_err_hint(e, "dha sweep best NAME --under 3.80   or   --under 512B");
    }
    if (sweep_limit_parse(text, &limit, e)) {
        return -1;
    }
    job = sweep_best(sweep, &limit, e);
    if (!job) {
        return -1;
    }
    if (arg_flag(a, "json")) {
        return cli_print_json(job, e);
    }
    sweep_best_view(stdout, job);
    return 0;
}

static int show(struct client *c, const char *id, const struct args *a, struct dha_err *e)
{
    struct fmt f = fmt_for(stdout);
    const char *svg = arg_value(a, "svg");
    const cJSON *sweep;
    cJSON *doc;
    int ret = 0;

    if (fetch(c, id, &doc, e)) {
        return -1;
    }
    sweep = json_get(doc, "sweep");
    if (svg) {
        ret = sweep_svg(svg, sweep, e);
    }
    if (ret) {
        /* said */
    } else if (arg_value(a, "best-under")) {
        ret = print_best(sweep, a, e);
    } else if (arg_flag(a, "json")) {
        ret = cli_print_json(sweep, e);
    } else if (arg_flag(a, "csv")) {
        sweep_csv(stdout, sweep);
    } else {
        ret = sweep_view(stdout, &f, sweep, e);
    }
    cJSON_Delete(doc);
    return ret;
}

static int best(struct client *c, const char *id, const struct args *a, struct dha_err *e)
{
    cJSON *doc;
    int ret;

    if (fetch(c, id, &doc, e)) {
        return -1;
    }
    ret = print_best(json_get(doc, "sweep"), a, e);
    cJSON_Delete(doc);
    return ret;
}

static int list(struct client *c, bool as_json, struct dha_err *e)
{
    static const char *const heads[] = {"SWEEP", "NAME", "CREATED", "JOBS", "DONE"};
    static const enum fmt_align align[] = {FMT_RIGHT, FMT_LEFT, FMT_LEFT, FMT_RIGHT, FMT_RIGHT};
    struct fmt f = fmt_for(stdout);
    struct table *t;
    const cJSON *s;
    const cJSON *j;
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
    t = table_create(5, heads, align);
    cJSON_ArrayForEach(s, json_get(doc, "sweeps"))
    {
        int done = 0;
        cJSON_ArrayForEach(j, json_get(s, "jobs"))
        {
            done += !strcmp(json_str(j, "state", ""), "done");
        }
        table_cell(t, "%s", json_str(s, "id", "?"));
        table_cell(t, "%s", json_str(s, "name", ""));
        table_cell(t, "%s", fmt_time(a, json_int(s, "created_us", 0)));
        table_cell(t, "%d", cJSON_GetArraySize(json_get(s, "jobs")));
        table_cell(t, "%d", done);
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    cJSON_Delete(doc);
    return ret;
}

/* Jobs that were stopped as dominated ended as they should. */
static int outcomes(cJSON *const *docs, int n, struct dha_err *e)
{
    cJSON **rest = calloc((size_t)n + 1, sizeof *rest);
    int k = 0;

    if (!rest) {
        return dha_fail(e, DHA_E_NO_MEMORY, "following a sweep");
    }
    for (int i = 0; i < n; i++) {
        if (strncmp(json_str(docs[i], "cancel_reason", ""), "dominated by", 12)) {
            rest[k++] = docs[i];
        }
    }
    int rc = view_outcomes(rest, k, e);
    free(rest);
    return rc;
}

static int wait_all(struct client *c, const struct args *a, const cJSON *jobs, const char *sweep,
                    struct dha_err *e)
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
        ret = show(c, sweep, a, e);
        ret = ret ? ret : outcomes(docs, n, e);
    }
out:
    for (int i = 0; docs && i < n; i++) {
        cJSON_Delete(docs[i]);
    }
    free(docs);
    free(ids);
    return ret;
}

/* The request: only what was given. */
static int make_request(const struct args *a, cJSON *body, struct dha_err *e)
{
    cJSON *budgets = cJSON_AddArrayToObject(body, "budgets");
    cJSON *methods = cJSON_AddArrayToObject(body, "methods");
    const char *method = arg_value(a, "method");
    const char *seeds = arg_value(a, "seed");
    const char *name = arg_value(a, "name");
    cJSON *spec = NULL;
    double margin;

    if (!arg_value(a, "budget")) {
        dha_fail(e, DHA_E_USAGE, "`dha sweep create` needs --budget A,B,...");
        return dha_err_hint(e,
                            "dha sweep create spec.json --budget 0.5,0.25 --method gqa,spectral");
    }
    if (specfile_read(a->pos[1], a, &spec, e)) {
        return -1;
    }
    const cJSON *own = json_get(spec, "method");
    int bad = !budgets || !methods;
    if (!method && cJSON_IsObject(own)) {
        bad = bad || !cJSON_AddItemToArray(methods, cJSON_Duplicate(own, true));
    } else if (split("--method", method ? method : json_str(spec, "method", "spectral"), false, 0,
                     methods, e)) {
        cJSON_Delete(spec);
        return -1;
    }
    bad = json_put(body, "spec", spec) || bad;
    if (split("--budget", arg_value(a, "budget"), true, 1, budgets, e) ||
        arg_num(a, "margin", 0, 10, 0.02, &margin, e)) {
        return -1;
    }
    if (seeds) {
        cJSON *list = cJSON_AddArrayToObject(body, "seeds");
        if (split("--seed", seeds, true, 9007199254740992.0, list, e)) {
            return -1;
        }
    }
    bad = bad || (name && json_put_str(body, "name", name)) ||
          (arg_flag(a, "skip-impossible") && json_put_bool(body, "skip_impossible", true)) ||
          (arg_flag(a, "stop-dominated") && json_put_bool(body, "stop_dominated", true)) ||
          (arg_value(a, "margin") && json_put_num(body, "margin", margin));
    return bad ? dha_fail(e, DHA_E_NO_MEMORY, "creating a sweep") : 0;
}

static bool hint_is_said(const cJSON *error, const char *hint)
{
    const cJSON *err;

    cJSON_ArrayForEach(err, json_get(error, "errors"))
    {
        if (!strcmp(json_str(err, "hint", ""), hint)) {
            return true;
        }
    }
    return false;
}

static int post(struct client *c, const cJSON *body, const char *key, cJSON **doc,
                struct dha_err *e)
{
    struct dha_err why = {0};

    if (!client_post(c, "/v1/sweeps", body, key, doc, &why)) {
        return 0;
    }
    *e = why;
    if (why.code == DHA_E_SPEC && specfile_print_errors(stderr, "the sweep", client_errors(c))) {
        dha_fail(e, why.code, "nothing was submitted");
        if (!hint_is_said(client_errors(c), why.hint)) {
            dha_err_hint(e, "%s", why.hint);
        }
    }
    return -1;
}

/* Model and data by dha-worker: one look a method and budget; the seed changes nothing there. */
static int check_points(struct client *c, const struct args *a, const cJSON *points,
                        struct dha_err *e)
{
    const cJSON *p;
    const cJSON *before = NULL;

    cJSON_ArrayForEach(p, points)
    {
        if (before && json_num(before, "budget", -1) == json_num(p, "budget", -2) &&
            !strcmp(json_str(before, "method", ""), json_str(p, "method", "?"))) {
            continue;
        }
        before = p;
        if (precheck(c, a, json_get(p, "spec"), e)) {
            return dha_err_context(e, "budget %g, method %s", json_num(p, "budget", NAN),
                                   json_str(p, "method", "?"));
        }
    }
    return 0;
}

static int print_plan(const cJSON *plan, bool as_json, struct dha_err *e)
{
    const cJSON *p;

    if (as_json) {
        return cli_print_json(plan, e);
    }
    cJSON_ArrayForEach(p, json_get(plan, "points"))
    {
        printf("%s  %s at %.4g %%, seed %lld\n", json_str(p, "name", "?"),
               json_str(p, "method", "?"), json_num(p, "budget", NAN) * 100,
               (long long)json_int(p, "seed", 0));
    }
    return 0;
}

/* The jobs of a sweep ask for the same place: one of them speaks for all. */
static void say_if_blocked(struct client *c, const cJSON *jobs)
{
    const cJSON *j;

    cJSON_ArrayForEach(j, jobs)
    {
        if (!strcmp(json_str(j, "state", ""), "queued")) {
            specfile_say_if_blocked(c, json_str(j, "id", ""));
            return;
        }
    }
}

static int dry_run(struct client *c, const struct args *a, const cJSON *plan, struct dha_err *e)
{
    const cJSON *spec = json_at(plan, "points.0.spec");
    struct submission s = {.dry_run = true};
    cJSON *one = NULL;
    int ret = spec ? specfile_post(c, spec, &s, &one, e) : 0;

    if (!ret) {
        specfile_say_blocked("the sweep", json_get(one, "now"));
        ret = print_plan(plan, arg_flag(a, "json"), e);
    }
    cJSON_Delete(one);
    return ret;
}

static int create(struct client *c, const struct args *a, struct dha_err *e)
{
    cJSON *body = cJSON_CreateObject();
    cJSON *plan = NULL;
    cJSON *doc = NULL;
    const char *id;
    int ret = -1;

    if (make_request(a, body, e)) {
        goto out;
    }
    if (json_put_bool(body, "dry_run", true)) {
        dha_fail(e, DHA_E_NO_MEMORY, "creating a sweep");
        goto out;
    }
    if (post(c, body, NULL, &plan, e) || check_points(c, a, json_get(plan, "points"), e)) {
        goto out;
    }
    sweep_left_out(stderr, "dha: ", plan);
    if (arg_flag(a, "dry-run")) {
        ret = dry_run(c, a, plan, e);
        goto out;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(body, "dry_run");
    if (post(c, body, arg_value(a, "idempotency-key"), &doc, e)) {
        goto out;
    }
    id = json_str(json_get(doc, "sweep"), "id", "");
    say_if_blocked(c, json_at(doc, "sweep.jobs"));
    if (arg_flag(a, "json")) {
        ret = cli_print_json(json_get(doc, "sweep"), e);
    } else {
        puts(id);
        fflush(stdout);
        ret = arg_flag(a, "wait") ? wait_all(c, a, json_at(doc, "sweep.jobs"), id, e) : 0;
    }
out:
    cJSON_Delete(plan);
    cJSON_Delete(doc);
    cJSON_Delete(body);
    return ret;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    static const struct {
        const char *verb;
        int pos; /* with the verb */
    } verbs[] = {{"create", 2}, {"show", 2}, {"best", 2}, {"list", 1}};
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
        return dha_err_hint(e, "dha sweep create SPEC --budget A,B | dha sweep show NAME | dha "
                               "sweep best NAME --under LOSS | dha sweep list");
    }
    c = client_open(cli, e);
    if (!c) {
        return -1;
    }
    switch (v) {
    case 0: ret = create(c, a, e); break;
    case 1: ret = show(c, a->pos[1], a, e); break;
    case 2: ret = best(c, a->pos[1], a, e); break;
    default: ret = list(c, arg_flag(a, "json"), e);
    }
    client_close(c);
    return ret;
}

const struct command cmd_sweep = {
    .name = "sweep",
    .args = "create SPEC --budget A,B [--method X,Y] [--seed N,M] [--wait] | show NAME | "
            "best NAME --under LOSS|BYTES | list",
    .summary = "Many budgets, methods and seeds from one spec, compared in a table and in plots",
    .help =
        "`create` makes one job for each method, budget and seed and prints the sweep's id alone. "
        "Jobs share every stage\n"
        "whose inputs are equal: a sweep over budgets searches once. A sweep that has a name is "
        "made once: the same\n"
        "command again is answered with it, another one of that name is refused.\n"
        "`show` has a line a budget and method (mean and standard deviation over the seeds) and "
        "plots the loss against\n"
        "KV bytes a token and against tokens. `best` prints the cheapest finished job under a "
        "loss, or the best one under\n"
        "so many KV bytes a token, and where its checkpoint is; exit status 1 where none "
        "qualifies. NAME may be the id.",
    .example = "dha sweep create spec.json --name s1 --budget 0.5,0.25,0.125 --method gqa,spectral "
               "--seed 1,2,3 --wait\n"
               "dha sweep show s1 --svg s1.svg\n"
               "dha sweep best s1 --under 3.80",
    .group = "Sweeps",
    .min_pos = 1,
    .max_pos = 2,
    .json = true,
    .opts = opts,
    .run = run,
};
