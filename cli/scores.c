#include "cli/scores.h"

#include <math.h>
#include <string.h>

#include "cli/fmt.h"

static void show_domains(FILE *out, const cJSON *domains)
{
    const cJSON *d;
    const char *title = "domains";

    cJSON_ArrayForEach(d, domains)
    {
        double parent = json_num(d, "parent", NAN);
        double final = json_num(d, "final", json_num(d, "converted", NAN));
        char a[FMT_BUF], b[FMT_BUF];
        fprintf(out, "  %-18s %-16s parent %s", title, d->string, fmt_loss(a, parent));
        fprintf(out, "  %s  %s", cJSON_HasObjectItem(d, "final") ? "final" : "converted",
                fmt_loss(b, final));
        fprintf(out, isfinite(final - parent) ? "  (%+.4f)\n" : "\n", final - parent);
        title = "";
    }
}

/* The score of the same task of another model, or NULL. */
static const cJSON *score_of(const cJSON *tasks, const char *model, const char *task)
{
    const cJSON *t;

    cJSON_ArrayForEach(t, tasks)
    {
        if (!strcmp(json_str(t, "model", ""), model) && !strcmp(json_str(t, "task", ""), task)) {
            return t;
        }
    }
    return NULL;
}

static void show_share(FILE *out, const char *what, const cJSON *score)
{
    double p = json_num(score, "acc", NAN), err = json_num(score, "acc_stderr", NAN);

    fprintf(out, "%s %.1f %%", what, 100 * p);
    if (isfinite(err)) {
        fprintf(out, " +- %.1f", 100 * err);
    }
}

static void show_tasks(FILE *out, const cJSON *tasks)
{
    const cJSON *t;
    const char *title = "tasks";

    cJSON_ArrayForEach(t, tasks)
    {
        const char *task = json_str(t, "task", "?");
        const cJSON *parent = score_of(tasks, "parent", task);
        if (strcmp(json_str(t, "model", ""), "final") != 0) {
            continue;
        }
        fprintf(out, "  %-18s %-16s ", title, task);
        if (parent) {
            show_share(out, "parent", parent);
            fputs("  ", out);
        }
        show_share(out, "final", t);
        fprintf(out, "  of %lld questions\n", (long long)json_int(t, "questions", 0));
        title = "";
    }
}

void scores_show(FILE *out, const cJSON *result)
{
    show_domains(out, json_get(result, "domains"));
    show_tasks(out, json_get(result, "tasks"));
}
