/* spectral_plan.c: the search of METHODS section 6: the best groups of every layer, kind and number of heads, and how much
 * the loss rises when only that entry is merged.
 *
 * One walk through the layers, from the first to the last. At layer l there are, for this layer only: its calibration sums,
 * the blocks of all pairs of heads, and up to four residual streams of the parent (moments: split over the ranks; key
 * errors and costs: the same on every rank; fits: on the ranks that fit). The layer's entries are then measured: each is merged into the parent
 * itself (layer_store() of an MHA layout: equal rows instead of a head map, the same function), the cost
 * sequences run on from layer l, and the layer's weights are put back, bit for bit. So no second model and no
 * layer before l is ever computed for a trial. The parent is as before when spectral_plan() returns, also on failure.
 *
 * If the conversion will end with the layer-local regression (regress.h), what the closed forms lose is not what will be
 * lost: it repairs shared keys far better than shared values. Then one trial of each entry, of about a quarter of the
 * heads, is made once more with the layer fitted to what it gave before (layer_fit.h), and the share of the
 * cost that is left is a factor of all costs of the entry.
 *
 * Results do not depend on the number of ranks beyond the rounding of the calibration sums: every group and every
 * entry is evaluated whole by one rank.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/calib.h"
#include "worker/method/key_error.h"
#include "worker/method/layer_fit.h"
#include "worker/method/linalg.h"
#include "worker/method/search_groups.h"

/* Of the fits that tell how much of an entry's cost the regression will repair: docs/METHOD.md has the table. */
#define FIT_STEPS  64
#define FIT_PASSES 8
#define LEAST_LEFT 0.1 /* losses on few tokens can fall: 0.14 to 1 was measured */

struct search {
    const struct method_env *env;
    struct model *m; /* the parent, or its expansion to MHA */
    struct calib_split split;
    struct walk moments, costs;
    /* only if trials are fitted */
    struct comm alone; /* a trial is of one rank */
    struct layer_fit fit;
    struct walk fit_walk;
    struct kern_buf *fit_target;
    struct layer_fit_data fit_data; /* of the present layer */
    struct key_error key_error;     /* not opened for uniform groups */
    int n_counts, counts[MODEL_MAX_HEADS];
    int *groups[2]; /* of the present layer: [n_counts * heads] for keys, for values */
    /* summed losses: of the present layer's trials, then of its fitted ones [2 * n_counts + 2] */
    double *loss;
    int fit_at;     /* index into counts of the trials that are also fitted */
    double *fitted; /* [2 * layers] summed losses of those */
    /* the present layer */
    struct attn_layer weights;
    struct key_blocks keys;
    struct value_blocks values;
};

static int key_cost(void *arg, const int *members, int n, double *cost, struct dha_err *e)
{
    struct search *s = arg;
    return key_error_group(&s->key_error, &s->keys, members, n, cost, e);
}

static int value_cost(void *arg, const int *members, int n, double *cost, struct dha_err *e)
{
    struct search *s = arg;
    return value_residual(&s->values, members, n, cost, e);
}

/* Trials are numbered 2*i + kind for counts[i]; the last count is heads, which changes nothing. Behind them, if there are
 * any, are the fitted ones of keys and values. */
static int trials(const struct search *s)
{
    return 2 * (s->n_counts - 1);
}

static bool fits(const struct search *s)
{
    return s->split.cost_fit > 0 && trials(s) > 0;
}

/* Which rank fits the keys (0) and the values (1): only these hold what it takes. */
static bool fits_here(const struct search *s, int kind)
{
    return fits(s) && s->env->comm->rank == kind % s->env->comm->size;
}

static int fit_open(struct search *s, struct dha_err *e)
{
    struct kern *k = s->m->k;
    comm_alone(&s->alone);
    if (layer_fit_open(&s->fit, &s->alone, s->m, s->split.cost_fit, s->env->seq, e) ||
        walk_open(&s->fit_walk, s->env, s->m, STREAM_REFIT, 0, s->fit.mine, e))
        return -1;
    size_t padded = (size_t)s->fit_walk.chunks * (size_t)s->fit_walk.batch;
    s->fit_target = k->ops->alloc(k, KERN_F32, padded * s->fit.each);
    return method_sync(k, "the fits of a search", e);
}

static void fit_close(struct search *s)
{
    if (s->fit_target)
        s->m->k->ops->free(s->m->k, s->fit_target);
    walk_close(&s->fit_walk);
    layer_fit_close(&s->fit);
}

/* What layer l gives as it is: the targets of its trials. */
static int fit_layer_open(struct search *s, int l, struct dha_err *e)
{
    struct walk *w = &s->fit_walk;
    struct kern *k = s->m->k;
    size_t chunk = (size_t)w->batch * s->fit.each;
    s->fit_data = (struct layer_fit_data){.input = w->residual, .target = s->fit_target};
    for (int c = 0; c < w->chunks; c++) {
        struct kern_view t = kern_at(s->fit_target, (size_t)c * chunk);
        walk_attention(w, c, l, t);
        s->fit_data.energy += k->ops->sumsq(k, t, (size_t)walk_valid(w, c) * s->fit.each);
    }
    return method_sync(k, "a layer's outputs", e);
}

static int search_open(struct search *s, const struct method_env *env, struct model *m,
                       struct dha_err *e)
{
    int64_t first;
    int heads = m->cfg.heads, mine;
    s->env = env;
    s->m = m;
    s->split = calib_split(env);
    s->n_counts = search_counts(env->method, heads, s->counts);
    size_t cells = (size_t)s->n_counts * (size_t)heads;
    s->groups[0] = la_alloc(cells, sizeof(int), "a search", e);
    s->groups[1] = la_alloc(cells, sizeof(int), "a search", e);
    s->loss = la_alloc(2 * (size_t)s->n_counts + 2, sizeof *s->loss, "a search", e);
    s->fitted = la_alloc(2 * (size_t)m->cfg.layers, sizeof *s->fitted, "a search", e);
    if (!s->groups[0] || !s->groups[1] || !s->loss || !s->fitted)
        return -1;
    /* a quarter of the heads is what is asked for most; the factor varies little with the count */
    while (s->fit_at + 2 < s->n_counts && 4 * s->counts[s->fit_at + 1] <= heads)
        s->fit_at++;
    mine = rank_share(env->comm, s->split.moments, &first);
    if (walk_open(&s->moments, env, m, STREAM_CALIB, first, mine, e) ||
        walk_open(&s->costs, env, m, STREAM_COST, 0, s->split.costs, e))
        return -1;
    if ((fits_here(s, 0) || fits_here(s, 1)) && fit_open(s, e))
        return -1;
    return env->method->uniform ? 0 : key_error_open(&s->key_error, env, m, s->split.key_error, e);
}

static void layer_close(struct search *s)
{
    value_blocks_finish(&s->values);
    key_blocks_finish(&s->keys);
    layer_finish(&s->weights);
}

static void search_close(struct search *s)
{
    layer_close(s);
    key_error_close(&s->key_error);
    fit_close(s);
    walk_close(&s->costs);
    walk_close(&s->moments);
    free(s->fitted);
    free(s->loss);
    free(s->groups[1]);
    free(s->groups[0]);
}

/* Weights, calibration sums and blocks of layer l; all walks but the costs' and the fits' stand behind it then. */
static int layer_open(struct search *s, int l, struct dha_err *e)
{
    struct calib_layer c;
    if (calib_layer(&c, &s->moments, s->env->comm, l, s->split.moments, NULL, e))
        return -1;
    c.slow = method_slow_planes(s->env);
    int rc = layer_load(&s->weights, s->m, l, e);
    if (rc == 0)
        rc = key_blocks_make(&s->keys, &s->weights, &c, e);
    if (rc == 0)
        rc = value_blocks_make(&s->values, &s->weights, &c, e);
    if (rc == 0 && !s->env->method->uniform)
        rc = key_error_load(&s->key_error, &s->weights, l, e);
    if (rc == 0 && s->fit_target)
        rc = fit_layer_open(s, l, e);
    calib_layer_finish(&c);
    return comm_agree(s->env->comm, rc, e);
}

static int choose_groups(struct search *s, struct dha_err *e)
{
    int heads = s->m->cfg.heads;
    if (s->env->method->uniform) {
        for (int i = 0; i < s->n_counts; i++)
            for (int kind = 0; kind < 2; kind++)
                groups_adjacent(heads, s->counts[i], s->groups[kind] + i * heads);
        return 0;
    }
    return search_groups(s->env, "key groups", heads, key_cost, s, s->counts, s->n_counts,
                         s->groups[0], e) ||
                   search_groups(s->env, "value groups", heads, value_cost, s, s->counts,
                                 s->n_counts, s->groups[1], e)
               ? -1
               : 0;
}

static int trial(struct search *s, int l, int number, struct dha_err *e)
{
    struct attn_layer merged;
    bool fit = number >= trials(s), diverged = false;
    const int *group_of = s->groups[number % 2] + (fit ? s->fit_at : number / 2) * s->m->cfg.heads;
    if (layer_copy(&merged, &s->weights, e))
        return -1;
    int rc = number % 2 ? spectral_merge_values(&merged, &s->values, group_of, e)
                        : spectral_merge_keys(&merged, &s->keys, group_of, e);
    if (rc == 0)
        rc = layer_store(&merged, s->m, l, e);
    if (rc == 0 && fit) {
        struct layer_fit_report report;
        struct layer_fit_options o = {.steps = FIT_STEPS, .passes = FIT_PASSES};
        *(number % 2 ? &o.values : &o.keys) = group_of;
        rc = layer_fit(&s->fit, l, &s->fit_data, &o, &report, e);
        diverged = rc != 0 && e && e->code == DHA_E_DIVERGED;
    }
    if (diverged) { /* then nothing is known to be repaired: left_by_fit() */
        s->loss[number] = NAN;
        rc = 0;
    } else if (rc == 0) {
        rc = walk_loss(&s->costs, l, &s->loss[number], e);
    }
    layer_finish(&merged);
    /* The way back must work although something failed, hence its own error. */
    struct dha_err lost;
    if (layer_store(&s->weights, s->m, l, &lost) && rc == 0) {
        rc = -1;
        if (e)
            *e = lost;
    }
    return rc;
}

/* A round of trials is over on all ranks. */
static int round_done(struct search *s, int l, int done, int all, int rc, struct dha_err *e)
{
    if (comm_agree(s->env->comm, rc, e))
        return dha_err_context(e, "measuring the cost of merging in layer %d", l);
    return method_progress(s->env, "costs", (int64_t)l * all + done,
                           (int64_t)all * s->m->cfg.layers, e);
}

/* Deals the layer's trials out, one a rank and round; those that are fitted have ranks of their own. */
static int measure(struct search *s, int l, struct dha_err *e)
{
    struct comm *comm = s->env->comm;
    int n = trials(s), all = n + (fits(s) ? 2 : 0), rc = 0;
    memset(s->loss, 0, (2 * (size_t)s->n_counts + 2) * sizeof *s->loss);
    for (int first = 0; first < n; first += comm->size) {
        int number = first + comm->rank;
        if (number < n)
            rc = trial(s, l, number, e);
        if (round_done(s, l, first, all, rc, e))
            return -1;
    }
    for (int kind = 0; kind < 2 && rc == 0; kind++)
        if (fits_here(s, kind))
            rc = trial(s, l, n + kind, e);
    if (fits(s) && round_done(s, l, all, all, rc, e))
        return -1;
    comm_sum_f64(comm, s->loss, (size_t)all);
    for (int kind = 0; kind < 2 && fits(s); kind++)
        s->fitted[2 * l + kind] = s->loss[n + kind];
    return 0;
}

static int add_choices(const struct search *s, int l, struct plan *out, struct dha_err *e)
{
    int heads = s->m->cfg.heads;
    for (int kind = 0; kind < 2; kind++)
        for (int i = 0; i < s->n_counts; i++)
            if (plan_add(out, 2 * l + kind, s->counts[i], s->loss[2 * i + kind],
                         s->groups[kind] + i * heads, e))
                return -1;
    return 0;
}

static int search_advance(struct search *s, int l, struct dha_err *e)
{
    if (s->fit_target && walk_advance(&s->fit_walk, l, e))
        return -1;
    return walk_advance(&s->costs, l, e);
}

static int search_layer(struct search *s, int l, struct plan *out, struct dha_err *e)
{
    int rc = -1;
    if (layer_open(s, l, e) == 0 && choose_groups(s, e) == 0 && measure(s, l, e) == 0 &&
        comm_agree(s->env->comm, add_choices(s, l, out, e), e) == 0)
        rc = comm_agree(s->env->comm, search_advance(s, l, e), e);
    layer_close(s);
    return rc;
}

/* What a fit leaves of an entry's cost: of the cost of the trials that were made both ways. 0: no fit was made. */
static double left_by_fit(const struct search *s, const struct plan_entry *entry, double fitted,
                          double base)
{
    if (!fits(s))
        return 0.0;
    double closed = entry->choices[s->fit_at].cost - base, left = (fitted - base) / closed;
    if (!(closed > 0.0) || !(left < 1.0)) /* also a fit that diverged */
        return 1.0;
    return left > LEAST_LEFT ? left : LEAST_LEFT;
}

/* From summed losses to the rise over the parent's, in nats a token. Keeping all heads costs nothing. */
static int finish_costs(struct search *s, struct plan *out, struct dha_err *e)
{
    double base = 0.0, tokens = (double)s->split.costs * s->env->seq;
    int rc = s->env->comm->rank == 0 ? walk_loss(&s->costs, s->m->cfg.layers, &base, e) : 0;
    if (comm_agree(s->env->comm, rc, e))
        return -1;
    comm_bcast(s->env->comm, &base, sizeof base, 0);
    for (int i = 0; i < 2 * out->layers; i++) {
        struct plan_entry *entry = &out->entries[i];
        entry->left = left_by_fit(s, entry, s->fitted[i], base);
        double factor = entry->left > 0.0 ? entry->left : 1.0;
        for (int c = 0; c < entry->n_choices; c++) {
            struct choice *choice = &entry->choices[c];
            choice->cost = choice->n == out->heads ? 0.0 : factor * (choice->cost - base) / tokens;
        }
    }
    return 0;
}

int spectral_plan(const struct method_env *env, struct plan *out, struct dha_err *e)
{
    struct search s = {0};
    struct model *m = NULL;
    bool owned = false;
    int rc = -1;
    memset(out, 0, sizeof *out);
    if (method_check_env(env, e))
        return -1;
    if (comm_agree(env->comm, method_expand(env->parent, &m, &owned, e), e))
        goto out;
    if (comm_agree(env->comm, plan_alloc(out, m->cfg.layers, m->cfg.heads, e), e) ||
        comm_agree(env->comm, search_open(&s, env, m, e), e))
        goto out;
    snprintf(out->method, sizeof out->method, "%s", env->method->name);
    snprintf(out->cost_unit, sizeof out->cost_unit, "nats");
    for (int l = 0; l < m->cfg.layers; l++)
        if (search_layer(&s, l, out, e))
            goto out;
    rc = finish_costs(&s, out, e);
out:
    search_close(&s);
    if (owned)
        model_free(m);
    if (rc) {
        plan_finish(out);
        dha_err_context(e, "spectral search");
    }
    return rc;
}
