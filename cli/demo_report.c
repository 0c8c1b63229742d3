#include "cli/demo_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/headmap.h"
#include "cli/view.h"

static const char *method_name(const cJSON *job)
{
    const cJSON *m = json_at(job, "spec.method");

    return cJSON_IsString(m) ? m->valuestring : json_str(m, "preset", "?");
}

static bool search_trains(const cJSON *job)
{
    /* The learned grouping of `dha` trains in its search; a closed form only calibrates. */
    return !strcmp(method_name(job), "dha") ||
           !strcmp(json_str(json_at(job, "spec.method"), "grouping", ""), "learned");
}

static double loss_of(const cJSON *job, const char *which)
{
    return json_num(json_at(job, "result.loss"), which, NAN);
}

int64_t demo_tokens_before(const cJSON *job, const char *kind)
{
    const cJSON *tokens = json_at(job, "spec.tokens");
    int64_t n = 0;

    if (!strcmp(kind, "search")) {
        return 0;
    }
    if (search_trains(job)) {
        n += json_int(tokens, "search", 0);
    }
    return strcmp(kind, "fuse") ? n + json_int(tokens, "fuse", 0) : n;
}

int demo_curves(cJSON *const *jobs, int n, struct plot_series *series, struct dha_err *e)
{
    for (int i = 0; i < n; i++) {
        const cJSON *p;
        double at = (double)demo_tokens_before(jobs[i], "train");
        double converted = loss_of(jobs[i], "converted");
        bool placed = !isfinite(converted);

        snprintf(series[i].title, sizeof series[i].title, "%s", method_name(jobs[i]));
        cJSON_ArrayForEach(p, json_at(jobs[i], "result.curve"))
        {
            const char *kind = json_str(p, "stage", "");
            double x = (double)(demo_tokens_before(jobs[i], kind) +
                                json_int(p, "trained_tokens", 0));
            /* The conversion lies between the fusion's last point and the training's first one. */
            if (!placed && !strcmp(kind, "train")) {
                if (plot_add(&series[i], at, converted)) {
                    goto memory;
                }
                placed = true;
            }
            if (plot_add(&series[i], x, json_num(p, "loss", NAN))) {
                goto memory;
            }
        }
        if (!placed && plot_add(&series[i], at, converted)) {
            goto memory;
        }
    }
    return 0;
memory:
    return dha_fail(e, DHA_E_NO_MEMORY, "drawing the curves");
}

bool demo_jump(cJSON *const *jobs, int n, double *tokens, double *loss)
{
    for (int i = 0; i < n; i++) {
        *tokens = (double)demo_tokens_before(jobs[i], "train");
        *loss = loss_of(jobs[i], "converted");
        if (*tokens > 0 && isfinite(*loss)) {
            return true;
        }
    }
    return false;
}

/* Tokens that a closed form's job read to calibrate: as a finished job says, else what it was given for it. */
static int64_t tokens_only_read(const cJSON *job)
{
    const cJSON *tokens = json_at(job, "spec.tokens");
    int64_t spent = json_int(json_get(job, "result"), "tokens_spent", -1);

    if (search_trains(job)) {
        return 0;
    }
    return spent >= 0 ? spent - json_int(tokens, "train", 0) : json_int(tokens, "search", 0);
}

/* What the columns mean, with the numbers of these jobs. */
static void legend(FILE *out, cJSON *const *jobs, int n)
{
    int64_t trained = 0;
    bool any = false;
    char a[FMT_BUF];

    for (int i = 0; i < n; i++) {
        int64_t before = demo_tokens_before(jobs[i], "train");
        trained = before > trained ? before : trained;
    }
    fputs(
        "\n  Losses are nats a token on held-out text. converted: right after the last structural "
        "change",
        out);
    if (trained > 0) {
        fprintf(out, "\n  (dha: after %s tokens of search and fusion)",
                fmt_count(a, (double)trained));
    }
    fputs(". tokens spent: training", out);
    for (int i = 0; i < n; i++) {
        int64_t read = tokens_only_read(jobs[i]);
        if (read > 0) {
            fprintf(out, "%s %s %lld",
                    any ? "," : ",\n  and what the calibration only reads:", method_name(jobs[i]),
                    (long long)read);
            any = true;
        }
    }
    fputs(".\n", out);
}

int demo_best(cJSON *const *jobs, int n)
{
    int best = -1;

    for (int i = 0; i < n; i++) {
        double final = loss_of(jobs[i], "final");
        if (isfinite(final) && (best < 0 || final < loss_of(jobs[best], "final"))) {
            best = i;
        }
    }
    return best;
}

double demo_seconds(const cJSON *job)
{
    const cJSON *s;
    double sum = 0;
    bool any = false;

    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        double seconds = json_num(s, "seconds", NAN);
        if (isfinite(seconds)) {
            sum += seconds;
            any = true;
        }
    }
    return any ? sum : -1;
}

static double parent_loss(cJSON *const *jobs, int n)
{
    for (int i = 0; i < n; i++) {
        if (isfinite(loss_of(jobs[i], "parent"))) {
            return loss_of(jobs[i], "parent");
        }
    }
    return NAN;
}

static int64_t parent_kv(cJSON *const *jobs, int n)
{
    for (int i = 0; i < n; i++) {
        int64_t kv = json_int(json_at(jobs[i], "result.kv_bytes_per_token"), "parent", -1);
        if (kv > 0) {
            return kv;
        }
    }
    return -1;
}

static void whole(struct table *t, int64_t v)
{
    if (v < 0) {
        table_cell(t, "-");
    } else {
        table_cell(t, "%lld", (long long)v);
    }
}

static void signed_loss(struct table *t, double v)
{
    if (isfinite(v)) {
        table_cell(t, "%+.4f", v);
    } else {
        table_cell(t, "-");
    }
}

void demo_table(FILE *out, const struct fmt *f, cJSON *const *jobs, int n)
{
    static const char *const heads[] = {"",      "KV bytes/token", "of MHA",       "converted",
                                        "final", "above parent",   "tokens spent", "time"};
    static const enum fmt_align align[] = {FMT_LEFT,  FMT_RIGHT, FMT_RIGHT, FMT_RIGHT,
                                           FMT_RIGHT, FMT_RIGHT, FMT_RIGHT, FMT_RIGHT};
    struct table *t = table_create(8, heads, align);
    double parent = parent_loss(jobs, n);
    int64_t kv = parent_kv(jobs, n);
    int best = demo_best(jobs, n);
    char a[FMT_BUF];

    table_cell(t, "MHA parent");
    whole(t, kv);
    table_cell(t, "%s", kv > 0 ? fmt_percent(a, 1) : "-");
    table_cell(t, "-");
    table_cell(t, "%s", fmt_loss(a, parent));
    table_cell(t, "-");
    table_cell(t, "-");
    table_cell(t, "-");
    for (int i = 0; i < n; i++) {
        int64_t own = json_int(json_at(jobs[i], "result.kv_bytes_per_token"), "converted", -1);
        const char *state = json_str(jobs[i], "state", "?");
        double final = loss_of(jobs[i], "final");
        table_cell(t, "%s%s%s%s", i == best ? fmt_on(f, FMT_GREEN) : "", method_name(jobs[i]),
                   i == best ? " *" : "", i == best ? fmt_off(f) : "");
        whole(t, own);
        table_cell(t, "%s", kv > 0 && own > 0 ? fmt_percent(a, (double)own / (double)kv) : "-");
        table_cell(t, "%s", fmt_loss(a, loss_of(jobs[i], "converted")));
        if (strcmp(state, "done")) {
            table_cell(t, "%s", state);
        } else {
            table_cell(t, "%s", fmt_loss(a, final));
        }
        signed_loss(t, final - parent);
        whole(t, json_int(json_get(jobs[i], "result"), "tokens_spent", -1));
        table_cell(t, "%s", fmt_seconds(a, demo_seconds(jobs[i])));
    }
    table_print(t, out, f, "  ");
    table_destroy(t);
    legend(out, jobs, n);
    if (best >= 0) {
        fputs("  * lowest final loss at this cache size.\n", out);
    }
}

void demo_maps(FILE *out, const struct fmt *f, cJSON *const *jobs, int n)
{
    for (int i = 0; i < n; i++) {
        const char *m = method_name(jobs[i]);
        const cJSON *r = json_get(jobs[i], "result");
        if ((strcmp(m, "dha") && strcmp(m, "spectral")) ||
            cJSON_GetArraySize(json_get(r, "key_of")) == 0) {
            continue;
        }
        fprintf(out, "  %s%s%s\n", fmt_on(f, FMT_BOLD), m, fmt_off(f));
        headmap_print(out, f, r, "    ");
    }
}

/* The job that every stage was taken over from, or NULL where there is no such one. */
static const char *wholly_from(const cJSON *job)
{
    const char *from = NULL;
    const cJSON *s;

    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        const char *here = json_str(json_get(s, "reused_from"), "job", NULL);
        if (strcmp(json_str(s, "state", ""), "reused") || !here || (from && strcmp(from, here))) {
            return NULL;
        }
        from = here;
    }
    return from;
}

bool demo_reuse(FILE *out, cJSON *const *jobs, int n)
{
    bool any = false;

    for (int i = 0; i < n; i++) {
        const char *whole_job = wholly_from(jobs[i]);
        char *text = NULL;
        size_t len;
        FILE *mem;
        if (whole_job) {
            fprintf(out, "  job %s (%s) reused every stage of job %s\n",
                    json_str(jobs[i], "id", "?"), method_name(jobs[i]), whole_job);
            any = true;
            continue;
        }
        mem = open_memstream(&text, &len);
        if (!mem) {
            return any;
        }
        bool here = view_reused(mem, jobs[i]);
        fclose(mem);
        if (here) {
            fprintf(out, "  job %s (%s) reused %s\n", json_str(jobs[i], "id", "?"),
                    method_name(jobs[i]), text);
            any = true;
        }
        free(text);
    }
    return any;
}

void demo_next_steps(FILE *out, cJSON *const *jobs, int n, const char *demo_dir)
{
    int best = demo_best(jobs, n);
    const char *id;

    for (int i = 0; i < n; i++) {
        const char *dir = json_str(json_get(jobs[i], "result"), "checkpoint", NULL);
        if (dir) {
            fprintf(out, "  %-13s %s\n", method_name(jobs[i]), dir);
        }
    }
    if (best < 0) {
        return;
    }
    id = json_str(jobs[best], "id", "?");
    fprintf(
        out,
        "\n  Take one away, check it against its parent, look at how it went:\n"
        "    dha export %s --out my-model\n"
        "    dha compare %s/hf my-model --data %s/valid.txt\n"
        "    dha show %s\n"
        "  Use it from Python:\n"
        "    from transformers import AutoModelForCausalLM\n"
        "    model = AutoModelForCausalLM.from_pretrained(\"my-model\", trust_remote_code=True)\n"
        "  Convert your own:\n"
        "    dha convert MODEL --data corpus.txt --budget 0.25 --out my-model-25\n",
        id, demo_dir, demo_dir, id);
}

static int add_job(cJSON *list, const cJSON *job, double parent)
{
    const cJSON *r = json_get(job, "result");
    cJSON *o = cJSON_CreateObject();
    cJSON *reused = o ? cJSON_AddArrayToObject(o, "reused") : NULL;
    static const char *const copy[] = {
        "loss",   "kv_bytes_per_token", "head_budget", "tokens_spent", "key_heads", "value_heads",
        "key_of", "value_of",           "curve",       "checkpoint",   "error"};
    const cJSON *s;
    int bad;

    if (!o || !cJSON_AddItemToArray(list, o)) {
        cJSON_Delete(o);
        return -1;
    }
    bad = !reused || json_put_str(o, "method", method_name(job)) ||
          json_put_str(o, "job", json_str(job, "id", "?")) ||
          json_put_str(o, "state", json_str(job, "state", "?")) ||
          json_put_num(o, "above_parent", loss_of(job, "final") - parent) ||
          json_put_num(o, "seconds", demo_seconds(job));
    for (size_t i = 0; !bad && i < sizeof copy / sizeof *copy; i++) {
        const cJSON *v = json_get(r, copy[i]);
        bad = json_put(o, copy[i], v ? cJSON_Duplicate(v, true) : cJSON_CreateNull());
    }
    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        if (!bad && !strcmp(json_str(s, "state", ""), "reused")) {
            bad = !cJSON_AddItemToArray(reused, cJSON_CreateString(json_str(s, "kind", "?")));
        }
    }
    return bad ? -1 : 0;
}

cJSON *demo_json(cJSON *const *jobs, int n, const char *plot_file)
{
    cJSON *doc = cJSON_CreateObject();
    cJSON *parent = doc ? cJSON_AddObjectToObject(doc, "parent") : NULL;
    cJSON *list = doc ? cJSON_AddArrayToObject(doc, "methods") : NULL;
    double loss = parent_loss(jobs, n);
    int best = demo_best(jobs, n);
    int bad = !parent || !list || json_put_num(parent, "loss", loss) ||
              json_put_id(parent, "kv_bytes_per_token", parent_kv(jobs, n));

    for (int i = 0; i < n && !bad; i++) {
        bad = add_job(list, jobs[i], loss);
    }
    bad = bad ||
          json_put(doc, "best",
                   best < 0 ? cJSON_CreateNull() : cJSON_CreateString(method_name(jobs[best])));
    bad = bad ||
          json_put(doc, "plot", plot_file ? cJSON_CreateString(plot_file) : cJSON_CreateNull());
    if (bad) {
        cJSON_Delete(doc);
        return NULL;
    }
    return doc;
}
