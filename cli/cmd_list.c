/* cmd_list.c: dha list */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/client.h"
#include "cli/fmt.h"
#include "cli/view.h"

static const struct cli_opt opts[] = {
    {"state", 0, "A,B", "only these states: queued held running done failed cancelled"},
    {"name", 0, "NAME", "only jobs of this name"},
    {"limit", 'n', "N", "at most N jobs (default 50)"},
    {NULL, 0, NULL, NULL},
};

/* Held-out loss of what is finished, else what the running stage trains on: "kl" where that is a distance to the
 * parent, which is no loss of the model. */
static void loss_cell(struct table *t, const cJSON *j)
{
    const cJSON *p = json_get(j, "progress");
    double final = json_num(json_at(j, "result.loss"), "final", NAN);
    double loss = json_num(p, "loss", NAN);
    bool kl = isfinite(loss) && json_num(p, "kl", NAN) == loss;
    char a[FMT_BUF];

    if (view_ended(json_str(j, "state", "?"))) {
        table_cell(t, "%s", fmt_loss(a, final));
    } else {
        table_cell(t, "%s%s", kl ? "kl " : "", fmt_loss(a, loss));
    }
}

static void row(struct table *t, const struct fmt *f, const cJSON *j)
{
    const char *state = json_str(j, "state", "?");
    const cJSON *p = json_get(j, "progress");
    double steps = json_num(p, "steps", 0);
    char a[FMT_BUF];
    int64_t began = json_int(j, "started_us", 0);
    int64_t ended = json_int(j, "ended_us", 0);
    int64_t now = (int64_t)time(NULL) * 1000000;

    table_cell(t, "%s", json_str(j, "id", "?"));
    table_cell(t, "%s", json_str(j, "name", ""));
    table_cell(t, "%s", json_str(j, "method", "?"));
    table_cell(t, "%.4g %%", json_num(j, "budget", NAN) * 100);
    table_cell(t, "%s%s%s", fmt_on(f, view_state_colour(state)), state, fmt_off(f));
    const char *reason = json_str(j, "cancel_reason", "");
    if (!strcmp(state, "cancelled") && *reason) { /* the state says already that it is */
        size_t len = strcspn(reason, ":\n");
        table_cell(t, "%.*s", len > 32 ? 32 : (int)len, reason);
    } else if (view_ended(state)) {
        table_cell(t, "%s", json_str(json_get(j, "error"), "code", ""));
    } else if (steps > 0) {
        table_cell(t, "%s %.0f/%.0f", json_str(j, "stage", ""), json_num(p, "step", 0), steps);
    } else {
        table_cell(t, "%s", json_str(j, "stage", ""));
    }
    loss_cell(t, j);
    table_cell(t, "%s",
               fmt_seconds(a, began > 0 ? (double)((ended > 0 ? ended : now) - began) / 1e6 : -1));
}

static int print(const cJSON *doc, struct dha_err *e)
{
    static const char *const heads[] = {"ID",    "NAME",  "METHOD", "BUDGET",
                                        "STATE", "STAGE", "LOSS",   "TIME"};
    static const enum fmt_align align[] = {FMT_RIGHT, FMT_LEFT, FMT_LEFT,  FMT_RIGHT,
                                           FMT_LEFT,  FMT_LEFT, FMT_RIGHT, FMT_RIGHT};
    const cJSON *jobs = json_get(doc, "jobs");
    const char *trouble = json_str(doc, "trouble", NULL);
    const char *notice = json_str(doc, "notice", NULL);
    if (trouble) /* "running" below may be old: the daemon cannot commit */
        fprintf(stderr, "dha: %s\n", trouble);
    if (notice)
        fprintf(stderr, "dha: %s\n", notice);
    struct fmt f = fmt_for(stdout);
    struct table *t;
    const cJSON *j;

    if (cJSON_GetArraySize(jobs) == 0) {
        cli_say("no jobs; `dha submit SPEC` or `dha convert` makes one");
        return 0;
    }
    t = table_create(8, heads, align);
    if (!t) {
        return dha_fail(e, DHA_E_NO_MEMORY, "listing jobs");
    }
    cJSON_ArrayForEach(j, jobs)
    {
        row(t, &f, j);
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    if (f.tty && json_str(doc, "next", NULL)) {
        cli_say("there are older ones; --limit shows more");
    }
    return 0;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const char *want_state = arg_value(a, "state");
    const char *want_name = arg_value(a, "name");
    struct client *c;
    char *state = NULL;
    char *name = NULL;
    cJSON *doc = NULL;
    int64_t limit;
    int ret = -1;

    if (arg_int(a, "limit", 1, 10000, 50, &limit, e)) {
        return -1;
    }
    c = client_open(cli, e);
    if (!c) {
        return -1;
    }
    state = client_escape(c, want_state ? want_state : "");
    name = client_escape(c, want_name ? want_name : "");
    if (!state || !name) {
        dha_fail(e, DHA_E_NO_MEMORY, "listing jobs");
        goto out;
    }
    if (client_get(c, &doc, e, "/v1/jobs?limit=%lld%s%s%s%s", (long long)limit,
                   want_state ? "&state=" : "", state, want_name ? "&name=" : "", name)) {
        goto out;
    }
    ret = arg_flag(a, "json") ? cli_print_json(doc, e) : print(doc, e);
out:
    cJSON_Delete(doc);
    free(name);
    free(state);
    client_close(c);
    return ret;
}

const struct command cmd_list = {
    .name = "list",
    .args = "[--state A,B] [--name NAME] [--limit N]",
    .summary = "List jobs, newest first",
    .help = "One line a job: what it converts, by which method, to which share of the cache, and "
            "where it is. TIME is from the job's start to its end, or to now, as in `dha show`: "
            "what it "
            "waited before is not in it.",
    .example = "dha list --state queued,running",
    .group = "Jobs",
    .json = true,
    .opts = opts,
    .run = run,
};
