#include "cli/sweep_view.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 9 };

static void row(struct table *t, const struct sweep_cell *c)
{
    char a[FMT_BUF];

    table_cell(t, "%s", fmt_percent(a, c->budget));
    table_cell(t, "%s%s", c->method, c->best ? " *" : "");
    table_cell(t, isfinite(c->kv_bytes) ? "%.0f" : "-", c->kv_bytes);
    table_cell(t, "%s", fmt_loss(a, c->converted));
    if (isfinite(c->spread)) {
        table_cell(t, "%.4f +- %.4f", c->final_loss, c->spread);
    } else {
        table_cell(t, "%s", fmt_loss(a, c->final_loss));
    }
    table_cell(t, isfinite(c->final_loss - c->parent) ? "%+.4f" : "-", c->final_loss - c->parent);
    table_cell(t, isfinite(c->tokens) ? "%.0f" : "-", c->tokens);
    table_cell(t, "%s", c->state);
    table_cell(t, "%s", c->ids);
}

void sweep_left_out(FILE *out, const char *who, const cJSON *sweep)
{
    const cJSON *s;

    cJSON_ArrayForEach(s, json_get(sweep, "skipped"))
    {
        fprintf(out, "%sleft out: %s at %.4g %%: %s\n", who, json_str(s, "method", "?"),
                json_num(s, "budget", NAN) * 100, json_str(s, "message", ""));
    }
}

/* "job 4: search (job 3), fuse (job 3)" */
static void reused(FILE *out, const cJSON *sweep)
{
    const cJSON *j;
    const cJSON *r;
    bool any = false;

    cJSON_ArrayForEach(j, json_get(sweep, "jobs"))
    {
        const char *sep = "";
        if (cJSON_GetArraySize(json_get(j, "reused")) == 0) {
            continue;
        }
        fprintf(out, "%sjob %s: ", any ? "" : "reused stages:\n", json_str(j, "id", "?"));
        cJSON_ArrayForEach(r, json_get(j, "reused"))
        {
            fprintf(out, "%s%s (job %s)", sep, json_str(r, "kind", "?"), json_str(r, "job", "?"));
            sep = ", ";
        }
        fputc('\n', out);
        any = true;
    }
}

struct charts {
    struct chart of[2]; /* loss against bytes, against tokens */
    struct plot_series *cache, *tokens;
    int *cache_group, *tokens_group;
};

static void charts_finish(struct charts *h, const struct sweep_cells *c)
{
    for (int i = 0; h->cache && i < c->n_methods; i++) {
        plot_series_finish(&h->cache[i]);
    }
    free(h->cache);
    free(h->tokens); /* its points are the cells' */
    free(h->cache_group);
    free(h->tokens_group);
}

static int charts_make(struct charts *h, const struct sweep_cells *c, struct dha_err *e)
{
    *h = (struct charts){0};
    h->cache = calloc((size_t)c->n_methods + 1, sizeof *h->cache);
    h->cache_group = calloc((size_t)c->n_methods + 1, sizeof *h->cache_group);
    h->tokens = calloc((size_t)c->n + 1, sizeof *h->tokens);
    h->tokens_group = calloc((size_t)c->n + 1, sizeof *h->tokens_group);
    int rc = h->cache && h->cache_group && h->tokens && h->tokens_group ? 0 : -1;
    for (int m = 0; m < c->n_methods && !rc; m++) {
        h->cache_group[m] = m;
    }
    for (int i = c->n; i-- > 0 && !rc;) { /* small caches first */
        const struct sweep_cell *cell = &c->at[i];
        if (isfinite(cell->kv_bytes) && isfinite(cell->final_loss)) {
            rc = plot_add(&h->cache[cell->group], cell->kv_bytes, cell->final_loss);
        }
        h->tokens[i] = cell->curve;
        h->tokens_group[i] = cell->group;
        snprintf(h->tokens[i].title, sizeof h->tokens[i].title, "%.4g %%", cell->budget * 100);
    }
    h->of[0] = (struct chart){.title = "Loss against the cache",
                              .x_label = "KV bytes a token",
                              .y_label = "loss",
                              .series = h->cache,
                              .group = h->cache_group,
                              .n = c->n_methods,
                              .names = c->methods,
                              .n_names = c->n_methods,
                              .level = c->parent,
                              .level_title = "parent"};
    h->of[1] = h->of[0];
    h->of[1].title = "Loss against tokens read";
    h->of[1].x_label = "tokens";
    h->of[1].series = h->tokens;
    h->of[1].group = h->tokens_group;
    h->of[1].n = c->n;
    if (rc) {
        charts_finish(h, c);
        return dha_fail(e, DHA_E_NO_MEMORY, "drawing a sweep");
    }
    return 0;
}

int sweep_view(FILE *out, const struct fmt *f, const cJSON *sweep, struct dha_err *e)
{
    static const char *const heads[COLUMNS] = {"BUDGET",    "METHOD", "KV B/TOKEN",
                                               "CONVERTED", "FINAL",  "ABOVE PARENT",
                                               "TOKENS",    "STATE",  "JOBS"};
    static const enum fmt_align align[COLUMNS] = {FMT_RIGHT, FMT_LEFT,  FMT_RIGHT,
                                                  FMT_RIGHT, FMT_RIGHT, FMT_RIGHT,
                                                  FMT_RIGHT, FMT_LEFT,  FMT_LEFT};
    struct sweep_cells c;
    struct charts h;
    char a[FMT_BUF];
    bool seeds = false;

    if (sweep_cells_read(sweep, &c, e)) {
        return -1;
    }
    struct table *t = table_create(COLUMNS, heads, align);
    fprintf(out, "sweep %s  %s  parent %s%s\n", json_str(sweep, "id", "?"),
            json_str(sweep, "name", ""), fmt_loss(a, c.parent),
            json_bool(sweep, "stop_dominated", false) ? "  (dominated jobs are stopped)" : "");
    for (int i = 0; i < c.n; i++) {
        row(t, &c.at[i]);
        seeds = seeds || c.at[i].jobs > 1;
    }
    table_print(t, out, f, "");
    table_destroy(t);
    fprintf(out, "* lowest final loss at its budget%s\n",
            seeds ? "; means over the seeds, +- their standard deviation" : "");
    sweep_left_out(out, "", sweep);
    reused(out, sweep);
    if (charts_make(&h, &c, e)) {
        sweep_cells_finish(&c);
        return -1;
    }
    chart_text(out, f, &h.of[0]);
    chart_text(out, f, &h.of[1]);
    charts_finish(&h, &c);
    sweep_cells_finish(&c);
    return 0;
}

/* RFC 4180: a field with a comma, quote or line break in quotes, quotes doubled. */
static void csv_text(FILE *out, const char *s)
{
    if (!strpbrk(s, ",\"\r\n")) {
        fputs(s, out);
        return;
    }
    fputc('"', out);
    for (; *s; s++) {
        if (*s == '"') {
            fputc('"', out);
        }
        fputc(*s, out);
    }
    fputc('"', out);
}

static void csv_num(FILE *out, double v)
{
    if (isfinite(v)) {
        fprintf(out, ",%.17g", v);
    } else {
        fputc(',', out);
    }
}

void sweep_csv(FILE *out, const cJSON *sweep)
{
    const cJSON *j;

    fputs("job,name,method,budget,seed,state,kv_bytes_per_token,loss_parent,loss_converted,"
          "loss_final,tokens_spent,reason,checkpoint\n",
          out);
    cJSON_ArrayForEach(j, json_get(sweep, "jobs"))
    {
        const cJSON *r = json_get(j, "result");
        const cJSON *loss = json_get(r, "loss");
        int64_t kv = json_int(json_get(r, "kv_bytes_per_token"), "converted", 0);
        fprintf(out, "%s,", json_str(j, "id", "?"));
        csv_text(out, json_str(j, "name", ""));
        fputc(',', out);
        csv_text(out, json_str(j, "method", ""));
        csv_num(out, json_num(j, "budget", NAN));
        fprintf(out, ",%lld,%s", (long long)json_int(j, "seed", 0), json_str(j, "state", "?"));
        csv_num(out, kv > 0 ? (double)kv : NAN);
        csv_num(out, json_num(loss, "parent", NAN));
        csv_num(out, json_num(loss, "converted", NAN));
        csv_num(out, json_num(loss, "final", NAN));
        csv_num(out, json_num(r, "tokens_spent", NAN));
        fputc(',', out);
        csv_text(out, json_str(j, "cancel_reason", json_str(json_get(j, "error"), "message", "")));
        fputc(',', out);
        csv_text(out, json_str(r, "checkpoint", ""));
        fputc('\n', out);
    }
}

int sweep_svg(const char *file, const cJSON *sweep, struct dha_err *e)
{
    struct sweep_cells c;
    struct charts h;
    char heading[120];
    int rc = 0;

    if (sweep_cells_read(sweep, &c, e)) {
        return -1;
    }
    if (charts_make(&h, &c, e)) {
        sweep_cells_finish(&c);
        return -1;
    }
    snprintf(heading, sizeof heading, "sweep %.20s %.80s", json_str(sweep, "id", "?"),
             json_str(sweep, "name", ""));
    FILE *out = fopen(file, "we");
    if (!out) {
        rc = dha_fail_errno(e, errno, "cannot write %s", file);
    } else {
        chart_svg(out, h.of, 2, heading);
        bool bad = ferror(out);
        if (fclose(out) || bad) {
            rc = dha_fail_errno(e, errno, "cannot write %s", file);
        }
    }
    charts_finish(&h, &c);
    sweep_cells_finish(&c);
    return rc;
}

void sweep_best_view(FILE *out, const cJSON *job)
{
    const cJSON *r = json_get(job, "result");
    const cJSON *loss = json_get(r, "loss");
    const cJSON *kv = json_get(r, "kv_bytes_per_token");
    double final = json_num(loss, "final", NAN);
    char a[FMT_BUF];

    fprintf(out, "job %s  %s  %s at %.4g %% of the cache, seed %lld\n", json_str(job, "id", "?"),
            json_str(job, "name", ""), json_str(job, "method", "?"),
            json_num(job, "budget", NAN) * 100, (long long)json_int(job, "seed", 0));
    fprintf(out, "  loss               %s", fmt_loss(a, final));
    fprintf(out, "  (%+.4f over the parent)\n", final - json_num(loss, "parent", NAN));
    fprintf(out, "  KV cache           %lld bytes a token, was %lld\n",
            (long long)json_int(kv, "converted", 0), (long long)json_int(kv, "parent", 0));
    fprintf(out, "  tokens spent       %lld\n", (long long)json_int(r, "tokens_spent", 0));
    fprintf(out, "  checkpoint         %s\n", json_str(r, "checkpoint", "-"));
    fprintf(out, "take it:  dha export %s --out DIR\n", json_str(job, "id", "?"));
}
