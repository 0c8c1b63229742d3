/* spectral_plan.c: the search of METHODS section 6: the best groups of every layer, kind and number of heads, and how much
 * the loss rises when only that entry is merged.
 *
 * One walk through the layers, from the first to the last. At layer l there are, for this layer only: its calibration sums,
 * the blocks of all pairs of heads, and three residual streams of the parent (moments: split over the ranks; key
 * errors and costs: the same on every rank). The layer's entries are then measured: each is merged into the parent
 * itself (layer_store() of an MHA layout: equal rows instead of a head map, the same function), the cost
 * sequences run on from layer l, and the layer's weights are put back, bit for bit. So no second model and no
 * layer before l is ever computed for a trial. The parent is as before when spectral_plan() returns, also on failure.
 *
 * Results do not depend on the number of ranks beyond the rounding of the calibration sums: every group and every
 * entry is evaluated whole by one rank.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/calib.h"
#include "worker/method/key_error.h"
#include "worker/method/linalg.h"
#include "worker/method/search_groups.h"

struct search {
    const struct method_env *env;
    struct model *m; /* the parent, or its expansion to MHA */
    struct calib_split split;
    struct walk moments, costs;
    struct key_error key_error; /* not opened for uniform groups */
    int n_counts, counts[MODEL_MAX_HEADS];
    int *groups[2]; /* of the present layer: [n_counts * heads] for keys, for values */
    double *loss;   /* [2 * n_counts] summed losses of the present layer's trials */
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

/* Trials are numbered 2*i + kind for counts[i]; the last count is heads, which changes nothing. */
static int trials(const struct search *s)
{
    return 2 * (s->n_counts - 1);
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
    s->loss = la_alloc(2 * (size_t)s->n_counts, sizeof *s->loss, "a search", e);
    if (!s->groups[0] || !s->groups[1] || !s->loss)
        return -1;
    mine = rank_share(env->comm, s->split.moments, &first);
    if (walk_open(&s->moments, env, m, STREAM_CALIB, first, mine, e) ||
        walk_open(&s->costs, env, m, STREAM_COST, 0, s->split.costs, e))
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
    walk_close(&s->costs);
    walk_close(&s->moments);
    free(s->loss);
    free(s->groups[1]);
    free(s->groups[0]);
}

/* Weights, calibration sums and blocks of layer l; all walks but the costs' stand behind it then. */
static int layer_open(struct search *s, int l, struct dha_err *e)
{
    struct calib_layer c;
    if (calib_layer(&c, &s->moments, s->env->comm, l, s->split.moments, NULL, e))
        return -1;
    int rc = layer_load(&s->weights, s->m, l, e);
    if (rc == 0)
        rc = key_blocks_make(&s->keys, &s->weights, &c, e);
    if (rc == 0)
        rc = value_blocks_make(&s->values, &s->weights, &c, e);
    if (rc == 0 && !s->env->method->uniform)
        rc = key_error_load(&s->key_error, &s->weights, l, e);
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
    const int *group_of = s->groups[number % 2] + number / 2 * s->m->cfg.heads;
    if (layer_copy(&merged, &s->weights, e))
        return -1;
    int rc = number % 2 ? spectral_merge_values(&merged, &s->values, group_of, e)
                        : spectral_merge_keys(&merged, &s->keys, group_of, e);
    if (rc == 0)
        rc = layer_store(&merged, s->m, l, e);
    if (rc == 0)
        rc = walk_loss(&s->costs, l, &s->loss[number], e);
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

/* Deals the layer's trials out; a rank that fails goes on without work so that all make the same calls. */
static int measure(struct search *s, int l, struct dha_err *e)
{
    struct comm *comm = s->env->comm;
    int n = trials(s), rc = 0;
    memset(s->loss, 0, 2 * (size_t)s->n_counts * sizeof *s->loss);
    for (int first = 0; first < n; first += comm->size) {
        int number = first + comm->rank;
        if (rc == 0 && number < n)
            rc = trial(s, l, number, e);
        if (comm_agree(comm, rc, e))
            return dha_err_context(e, "measuring the cost of merging in layer %d", l);
        if (method_progress(s->env, "costs", (int64_t)l * n + first, (int64_t)n * s->m->cfg.layers,
                            e))
            return -1;
    }
    comm_sum_f64(comm, s->loss, (size_t)n);
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

static int search_layer(struct search *s, int l, struct plan *out, struct dha_err *e)
{
    int rc = -1;
    if (layer_open(s, l, e) == 0 && choose_groups(s, e) == 0 && measure(s, l, e) == 0 &&
        comm_agree(s->env->comm, add_choices(s, l, out, e), e) == 0)
        rc = comm_agree(s->env->comm, walk_advance(&s->costs, l, e), e);
    layer_close(s);
    return rc;
}

/* From summed losses to the rise over the parent's, in nats a token. Keeping all heads costs nothing. */
static int finish_costs(struct search *s, struct plan *out, struct dha_err *e)
{
    double base = 0.0, tokens = (double)s->split.costs * s->env->seq;
    int rc = s->env->comm->rank == 0 ? walk_loss(&s->costs, s->m->cfg.layers, &base, e) : 0;
    if (comm_agree(s->env->comm, rc, e))
        return -1;
    comm_bcast(s->env->comm, &base, sizeof base, 0);
    for (int i = 0; i < 2 * out->layers; i++)
        for (int c = 0; c < out->entries[i].n_choices; c++) {
            struct choice *choice = &out->entries[i].choices[c];
            choice->cost = choice->n == out->heads ? 0.0 : (choice->cost - base) / tokens;
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
