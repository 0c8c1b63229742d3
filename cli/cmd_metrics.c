/* cmd_metrics.c: dha metrics */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/fmt.h"
#include "cli/plot.h"

static const struct cli_opt opts[] = {
    {"name", 0, "NAME", "one of those that `dha metrics ID` lists (plots: loss by default)"},
    {"stage", 0, "KIND", "only this stage (default: all)"},
    {"plot", 0, "FILE", "a picture: FILE.png, or - for the terminal"},
    {"limit", 'n', "N", "at most N points (default 10000)"},
    {NULL, 0, NULL, NULL},
};

#define MAX_SERIES 8

/* One curve a stage. A newer attempt that went back replaces what it repeats. */
static int collect(const cJSON *points, const char *name, struct plot_series *series, int *n)
{
    const cJSON *p;

    cJSON_ArrayForEach(p, points)
    {
        const char *stage = json_str(p, "stage", "?");
        double x = (double)json_int(p, "tokens", 0);
        struct plot_series *s = NULL;
        for (int i = 0; i < *n; i++) {
            if (!strncmp(series[i].title, stage, strlen(stage)) &&
                series[i].title[strlen(stage)] == ':') {
                s = &series[i];
            }
        }
        if (!s) {
            if (*n == MAX_SERIES) {
                continue;
            }
            s = &series[(*n)++];
            snprintf(s->title, sizeof s->title, "%s: %s", stage, name);
        }
        while (s->n && s->x[s->n - 1] >= x) {
            s->n--;
        }
        if (plot_add(s, x, json_num(p, "value", NAN))) {
            return -1;
        }
    }
    return 0;
}

static int draw(const cJSON *doc, const char *id, const char *name, const char *file,
                struct dha_err *e)
{
    struct plot_series series[MAX_SERIES] = {0};
    char title[64];
    struct plot p = {.title = title, .x_label = "tokens", .y_label = name, .series = series};
    struct fmt f = fmt_for(stdout);
    int rc;

    snprintf(title, sizeof title, "job %s", id);
    if (collect(json_get(doc, "points"), name, series, &p.n)) {
        rc = dha_fail(e, DHA_E_NO_MEMORY, "plotting");
    } else {
        rc = plot_draw(&p, file, &f, e);
    }
    for (int i = 0; i < p.n; i++) {
        plot_series_finish(&series[i]);
    }
    if (!rc && strcmp(file, "-")) {
        puts(file);
    }
    return rc;
}

static int print(const cJSON *doc, struct dha_err *e)
{
    static const char *const heads[] = {"STAGE", "ATTEMPT", "STEP", "TOKENS", "NAME", "VALUE"};
    static const enum fmt_align align[] = {FMT_LEFT,  FMT_RIGHT, FMT_RIGHT,
                                           FMT_RIGHT, FMT_LEFT,  FMT_RIGHT};
    struct fmt f = fmt_for(stdout);
    struct table *t = table_create(6, heads, align);
    const cJSON *p;

    if (!t) {
        return dha_fail(e, DHA_E_NO_MEMORY, "listing metrics");
    }
    cJSON_ArrayForEach(p, json_get(doc, "points"))
    {
        table_cell(t, "%s", json_str(p, "stage", "?"));
        table_cell(t, "%lld", (long long)json_int(p, "attempt", 0));
        table_cell(t, "%lld", (long long)json_int(p, "step", 0));
        table_cell(t, "%lld", (long long)json_int(p, "tokens", 0));
        table_cell(t, "%s", json_str(p, "name", "?"));
        table_cell(t, "%.6g", json_num(p, "value", NAN));
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    return 0;
}

static int print_names(const cJSON *doc, struct dha_err *e)
{
    static const char *const heads[] = {"STAGE", "NAME", "POINTS", "LAST STEP", "LAST"};
    static const enum fmt_align align[] = {FMT_LEFT, FMT_LEFT, FMT_RIGHT, FMT_RIGHT, FMT_RIGHT};
    struct fmt f = fmt_for(stdout);
    struct table *t = table_create(5, heads, align);
    const cJSON *s;

    if (!t) {
        return dha_fail(e, DHA_E_NO_MEMORY, "listing metrics");
    }
    cJSON_ArrayForEach(s, json_get(doc, "names"))
    {
        table_cell(t, "%s", json_str(s, "stage", "?"));
        table_cell(t, "%s", json_str(s, "name", "?"));
        table_cell(t, "%lld", (long long)json_int(s, "points", 0));
        table_cell(t, "%lld", (long long)json_int(s, "last_step", 0));
        table_cell(t, "%.6g", json_num(s, "last", NAN));
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    return 0;
}

static bool has_name(const cJSON *names, const char *name)
{
    const cJSON *s;

    cJSON_ArrayForEach(s, json_get(names, "names"))
    {
        if (!strcmp(json_str(s, "name", ""), name)) {
            return true;
        }
    }
    return false;
}

/* "loss, lm": each once, though several stages have it. */
static void join_names(const cJSON *names, char *buf, size_t cap)
{
    const cJSON *s;
    const cJSON *before;
    size_t n = 0;

    *buf = 0;
    cJSON_ArrayForEach(s, json_get(names, "names"))
    {
        const char *name = json_str(s, "name", "?");
        for (before = json_get(names, "names")->child; before != s; before = before->next) {
            if (!strcmp(json_str(before, "name", ""), name)) {
                break;
            }
        }
        if (before == s && n < cap) {
            n += (size_t)snprintf(buf + n, cap - n, "%s%s", n ? " " : "", name);
        }
    }
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const char *name = arg_value(a, "name") ? arg_value(a, "name") : "loss";
    const char *stage = arg_value(a, "stage") ? arg_value(a, "stage") : "";
    struct client *c = NULL;
    char *q_name = NULL;
    char *q_stage = NULL;
    cJSON *doc = NULL;
    cJSON *names = NULL;
    bool only_names = !arg_value(a, "name") && !arg_value(a, "plot");
    char known[240];
    int64_t limit;
    char id[24];
    int ret = -1;

    if (arg_int(a, "limit", 1, 1000000, 10000, &limit, e)) {
        return -1;
    }
    c = client_open(cli, e);
    if (!c || client_job_id(c, a->pos[0], CLIENT_NEWEST, id, e)) {
        goto out;
    }
    q_name = client_escape(c, name);
    q_stage = client_escape(c, stage);
    if (!q_name || !q_stage) {
        dha_fail(e, DHA_E_NO_MEMORY, "listing metrics");
        goto out;
    }
    if (client_get(c, &names, e, "/v1/jobs/%s/metrics/names%s%s", id, *stage ? "?stage=" : "",
                   q_stage)) {
        goto out;
    }
    if (only_names && !cJSON_GetArraySize(json_get(names, "names"))) {
        cli_say("job %s has no points yet", id);
    }
    if (only_names && !arg_flag(a, "json")) {
        ret = print_names(names, e);
        goto out;
    }
    if (client_get(c, &doc, e, "/v1/jobs/%s/metrics?name=%s&limit=%lld%s%s", id, q_name,
                   (long long)limit, *stage ? "&stage=" : "", q_stage)) {
        goto out;
    }
    if (arg_value(a, "name") && !has_name(names, name)) {
        join_names(names, known, sizeof known);
        dha_fail(e, DHA_E_NOT_FOUND, "job %s has no metric '%s'", id, name);
        dha_err_hint(e, "it has: %s", *known ? known : "none yet");
        goto out;
    }
    if (only_names && json_put(doc, "names", cJSON_Duplicate(json_get(names, "names"), true))) {
        dha_fail(e, DHA_E_NO_MEMORY, "listing metrics");
        goto out;
    }
    if (arg_value(a, "plot")) {
        ret = draw(doc, id, name, arg_value(a, "plot"), e);
    } else if (arg_flag(a, "json")) {
        ret = cli_print_json(doc, e);
    } else {
        ret = print(doc, e);
    }
out:
    cJSON_Delete(doc);
    cJSON_Delete(names);
    free(q_stage);
    free(q_name);
    client_close(c);
    return ret;
}

const struct command cmd_metrics = {
    .name = "metrics",
    .args = "ID [--name NAME] [--stage KIND] [--plot FILE.png|-]",
    .summary = "Losses and rates of a job, as numbers or as a picture",
    .help =
        "Without --name: which metrics there are, by stage. Those of a layer are called like "
        "fusion_loss.3.key; share.5.3.key is how much of layer 3's key heads comes from original "
        "head 5.\n"
        "Plots are made by gnuplot; the x axis is the tokens that the stage has trained on.",
    .example =
        "dha metrics 12 --name eval_valid\ndha metrics 12 --plot loss.png\ndha metrics 12 --plot -",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .opts = opts,
    .run = run,
};
