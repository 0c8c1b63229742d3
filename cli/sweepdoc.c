#include "cli/sweepdoc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Sum of what is finite, to become a mean. */
struct mean {
    double sum, squares;
    int n;
};

static void mean_add(struct mean *m, double v)
{
    if (isfinite(v)) {
        m->sum += v;
        m->squares += v * v;
        m->n++;
    }
}

static double mean_of(const struct mean *m)
{
    return m->n ? m->sum / m->n : NAN;
}

static double spread_of(const struct mean *m)
{
    if (m->n < 2) {
        return NAN;
    }
    double mean = mean_of(m);
    double var = (m->squares - m->n * mean * mean) / (m->n - 1);
    return var > 0 ? sqrt(var) : 0;
}

static double kv_of(const cJSON *job)
{
    int64_t kv = json_int(json_at(job, "result.kv_bytes_per_token"), "converted", -1);

    return kv > 0 ? (double)kv : NAN;
}

static double final_of(const cJSON *job)
{
    return json_num(json_at(job, "result.loss"), "final", NAN);
}

static bool in_cell(const struct sweep_cell *c, const cJSON *job)
{
    return !strcmp(c->method, json_str(job, "method", "?")) &&
           c->budget == json_num(job, "budget", NAN);
}

/* "dominated by job 7: ..." is worth saying in the table; other ends are states. */
static void state_of(const cJSON *job, char *buf, size_t cap)
{
    const char *reason = json_str(job, "cancel_reason", "");

    if (!strcmp(json_str(job, "state", "?"), "cancelled") && !strncmp(reason, "dominated", 9)) {
        snprintf(buf, cap, "%.*s", (int)strcspn(reason, ":"), reason);
    } else {
        snprintf(buf, cap, "%s", json_str(job, "state", "?"));
    }
}

static void add_text(char *buf, size_t cap, const char *sep, const char *text)
{
    size_t n = strlen(buf);

    snprintf(buf + n, cap - n, "%s%.60s", n ? sep : "", text);
}

static void states(struct sweep_cell *c, const cJSON *jobs)
{
    char seen[16][48];
    int count[16] = {0};
    int n = 0;
    const cJSON *j;

    cJSON_ArrayForEach(j, jobs)
    {
        char state[48];
        int k = 0;
        if (!in_cell(c, j)) {
            continue;
        }
        state_of(j, state, sizeof state);
        while (k < n && strcmp(seen[k], state)) {
            k++;
        }
        if (k == 16) {
            continue;
        }
        if (k == n) {
            memcpy(seen[n++], state, sizeof state);
        }
        count[k]++;
    }
    for (int k = 0; k < n; k++) {
        char text[64];
        snprintf(text, sizeof text, "%d %.47s", count[k], seen[k]);
        add_text(c->state, sizeof c->state, ", ", n == 1 ? seen[k] : text);
    }
}

/* Points by tokens; those that all have in common are averaged by adding where tokens agree. */
static int add_curve_point(struct plot_series *s, int *counts, size_t cap, double tokens,
                           double loss)
{
    size_t k = 0;

    if (!isfinite(tokens) || !isfinite(loss)) {
        return 0;
    }
    while (k < s->n && s->x[k] < tokens) {
        k++;
    }
    if (k < s->n && s->x[k] == tokens) {
        counts[k]++;
        s->y[k] += (loss - s->y[k]) / counts[k];
        return 0;
    }
    if (s->n == cap) {
        return 0; /* enough to see */
    }
    if (plot_add(s, 0, 0)) {
        return -1;
    }
    for (size_t i = s->n - 1; i > k; i--) {
        s->x[i] = s->x[i - 1];
        s->y[i] = s->y[i - 1];
        counts[i] = counts[i - 1];
    }
    s->x[k] = tokens;
    s->y[k] = loss;
    counts[k] = 1;
    return 0;
}

#define CURVE_MAX 4096

static int curve_of(struct sweep_cell *c, const cJSON *jobs, int *counts)
{
    const cJSON *j;
    const cJSON *p;

    cJSON_ArrayForEach(j, jobs)
    {
        const cJSON *r = json_get(j, "result");
        if (!in_cell(c, j)) {
            continue;
        }
        cJSON_ArrayForEach(p, json_get(r, "curve"))
        {
            if (!strcmp(json_str(p, "stage", ""), "train") &&
                add_curve_point(&c->curve, counts, CURVE_MAX, json_num(p, "tokens", NAN),
                                json_num(p, "loss", NAN))) {
                return -1;
            }
        }
        if (isfinite(final_of(j)) &&
            add_curve_point(&c->curve, counts, CURVE_MAX, json_num(r, "tokens_spent", NAN),
                            final_of(j))) {
            return -1;
        }
    }
    return 0;
}

static int fill(struct sweep_cell *c, const cJSON *jobs)
{
    struct mean parent = {0};
    struct mean converted = {0};
    struct mean final = {0};
    struct mean kv = {0};
    struct mean tokens = {0};
    struct mean heads = {0};
    const cJSON *j;

    cJSON_ArrayForEach(j, jobs)
    {
        const cJSON *r = json_get(j, "result");
        const cJSON *loss = json_get(r, "loss");
        if (!in_cell(c, j)) {
            continue;
        }
        c->jobs++;
        mean_add(&parent, json_num(loss, "parent", NAN));
        mean_add(&converted, json_num(loss, "converted", NAN));
        mean_add(&final, final_of(j));
        mean_add(&kv, kv_of(j));
        mean_add(&tokens, json_num(r, "tokens_spent", NAN));
        mean_add(&heads, json_num(r, "head_budget", NAN));
        add_text(c->ids, sizeof c->ids, ",", json_str(j, "id", "?"));
    }
    c->measured = final.n;
    c->parent = mean_of(&parent);
    c->converted = mean_of(&converted);
    c->final_loss = mean_of(&final);
    c->spread = spread_of(&final);
    c->kv_bytes = mean_of(&kv);
    c->tokens = mean_of(&tokens);
    c->head_budget = mean_of(&heads);
    states(c, jobs);
    int *counts = calloc(CURVE_MAX, sizeof *counts);
    int rc = counts ? curve_of(c, jobs, counts) : -1;
    free(counts);
    return rc;
}

static int by_budget(const void *a, const void *b)
{
    const struct sweep_cell *x = a;
    const struct sweep_cell *y = b;

    if (x->budget != y->budget) {
        return x->budget < y->budget ? 1 : -1;
    }
    return x->group - y->group;
}

static int group_of(struct sweep_cells *c, const char *method)
{
    for (int i = 0; i < c->n_methods; i++) {
        if (!strcmp(c->methods[i], method)) {
            return i;
        }
    }
    if (c->n_methods == CHART_GROUPS) {
        return CHART_GROUPS - 1;
    }
    c->methods[c->n_methods] = method;
    return c->n_methods++;
}

static void mark(struct sweep_cells *c)
{
    for (int i = 0; i < c->n; i++) {
        struct sweep_cell *me = &c->at[i];
        me->best = isfinite(me->final_loss);
        me->front = me->best && isfinite(me->kv_bytes);
        for (int k = 0; k < c->n; k++) {
            const struct sweep_cell *o = &c->at[k];
            if (!isfinite(o->final_loss)) {
                continue;
            }
            if (o->budget == me->budget && o->final_loss < me->final_loss) {
                me->best = false;
            }
            if (o->final_loss <= me->final_loss && o->kv_bytes <= me->kv_bytes &&
                (o->final_loss < me->final_loss || o->kv_bytes < me->kv_bytes)) {
                me->front = false;
            }
        }
    }
}

int sweep_cells_read(const cJSON *sweep, struct sweep_cells *out, struct dha_err *e)
{
    const cJSON *jobs = json_get(sweep, "jobs");
    const cJSON *j;
    struct mean parent = {0};
    int rc = 0;

    memset(out, 0, sizeof *out);
    out->at = calloc((size_t)cJSON_GetArraySize(jobs) + 1, sizeof *out->at);
    cJSON_ArrayForEach(j, jobs)
    {
        int k = 0;
        while (out->at && k < out->n && !in_cell(&out->at[k], j)) {
            k++;
        }
        if (!out->at || k < out->n) {
            continue;
        }
        struct sweep_cell *c = &out->at[out->n++];
        snprintf(c->method, sizeof c->method, "%s", json_str(j, "method", "?"));
        c->budget = json_num(j, "budget", NAN);
        c->group = group_of(out, json_str(j, "method", "?"));
        rc |= fill(c, jobs);
        mean_add(&parent, c->parent);
    }
    if (!out->at || rc) {
        sweep_cells_finish(out);
        return dha_fail(e, DHA_E_NO_MEMORY, "reading a sweep");
    }
    out->parent = mean_of(&parent);
    for (int i = 0; i < out->n;
         i++) { /* one model, one validation set: what one job measured holds for all */
        out->at[i].parent = isfinite(out->at[i].parent) ? out->at[i].parent : out->parent;
    }
    mark(out);
    qsort(out->at, (size_t)out->n, sizeof *out->at, by_budget);
    return 0;
}

void sweep_cells_finish(struct sweep_cells *c)
{
    for (int i = 0; c->at && i < c->n; i++) {
        plot_series_finish(&c->at[i].curve);
    }
    free(c->at);
    memset(c, 0, sizeof *c);
}

int sweep_limit_parse(const char *text, struct sweep_limit *out, struct dha_err *e)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 0},     {"B", 1},      {"KB", 1e3},      {"MB", 1e6},
                 {"GB", 1e9}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}};
    char *end;
    double v = strtod(text, &end);

    end += strspn(end, " ");
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++) {
        if (!strcasecmp(end, units[i].unit) && isfinite(v) && v > 0) {
            *out = (struct sweep_limit){i > 0, i > 0 ? v * units[i].bytes : v};
            return 0;
        }
    }
    dha_fail(e, DHA_E_USAGE, "'%s' is neither a loss nor a number of bytes", text);
    return dha_err_hint(e,
                        "--under 3.80 (a loss) or --under 512B, --under 1.5KiB (KV bytes a token)");
}

/* What is limited, and what is then to be small. */
static double limited(const cJSON *job, bool bytes)
{
    return bytes ? kv_of(job) : final_of(job);
}

const cJSON *sweep_best(const cJSON *sweep, const struct sweep_limit *limit, struct dha_err *e)
{
    const cJSON *best = NULL;
    const cJSON *nearest = NULL;
    const cJSON *j;
    int done = 0;

    cJSON_ArrayForEach(j, json_get(sweep, "jobs"))
    {
        double have = limited(j, limit->bytes);
        double price = limited(j, !limit->bytes);
        if (strcmp(json_str(j, "state", ""), "done") || !isfinite(have) || !isfinite(price)) {
            continue;
        }
        done++;
        if (!nearest || have < limited(nearest, limit->bytes)) {
            nearest = j;
        }
        if (have > limit->value) {
            continue;
        }
        double was = best ? limited(best, !limit->bytes) : INFINITY;
        if (price < was || (price == was && have < limited(best, limit->bytes))) {
            best = j;
        }
    }
    if (best) {
        return best;
    }
    if (!nearest) {
        dha_fail(e, DHA_E_FAILED, "no job of the sweep is done yet (of %d)",
                 cJSON_GetArraySize(json_get(sweep, "jobs")));
    } else if (limit->bytes) {
        dha_fail(e, DHA_E_FAILED,
                 "none of the %d finished jobs has %.0f KV bytes a token or fewer: the fewest are "
                 "%.0f (job %s)",
                 done, limit->value, kv_of(nearest), json_str(nearest, "id", "?"));
    } else {
        dha_fail(
            e, DHA_E_FAILED,
            "none of the %d finished jobs has a loss of %g or less: the lowest is %.4f (job %s)",
            done, limit->value, final_of(nearest), json_str(nearest, "id", "?"));
    }
    return NULL;
}
