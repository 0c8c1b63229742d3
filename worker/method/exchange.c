/* exchange.c: see exchange.h.
 *
 * A layer's merge and refit use nothing but the parent's activations, so a layer merged for given choices of its two
 * entries (a "variant") is the same whatever the others do: it is made once and kept, as f32. A round
 *   1. makes the variants one choice up or down from the present pick and measures each alone: loss of the whole model with
 *      this one layer exchanged. These moves leave the budget; they are the local costs;
 *   2. takes the knapsack of the local costs, and if its loss is not lower, the best few pairs of one entry down and
 *      one up. The first that lowers the measured loss becomes the pick.
 * It ends when nothing helps or the evaluations are used up.
 *
 * Ranks share the tokens of every sum and every loss, so all hold the same variants and take the same decisions.
 * Memory: the variants, 4 D*H*d f32 numbers each, at most MAX_BYTES beside those of the present pick and one round; and of
 * one layer at a time what merging it takes.
 */
#include "worker/method/exchange.h"

#include <stdlib.h>
#include <string.h>

#include "worker/method/calib.h"
#include "worker/method/linalg.h"
#include "worker/method/refit.h"

#define MAX_EVALUATIONS 64
#define MAX_SINGLES     16 /* of each direction a round */
#define MAX_PAIRS       4  /* tried a round */
#define MAX_BYTES       ((size_t)2 << 30)

struct variant {
    int layer, pick[2]; /* choices of its key and value entries */
    float *w;           /* a layer's block; NULL: not made yet */
};

struct move {
    int entry, step; /* to choice pick[entry] + step */
    double cost;     /* predicted, then measured: rise of the loss a head, then in all */
};

struct exchange {
    const struct method_env *env;
    const struct plan *p;
    struct model *m, *work; /* the parent as MHA; a copy whose attention holds variants */
    int *shown;             /* [layers] variant that work's layer holds, -1: none */
    struct variant *variants;
    int n_variants;
    size_t numbers; /* of a block */
    int *pick, total;
    double loss; /* of pick, summed */
    struct exchange_report *report;
};

static int exchange_open(struct exchange *x, bool *owned, struct dha_err *e)
{
    const struct method_env *env = x->env;
    int heads = env->parent->cfg.heads, layers = env->parent->cfg.layers;
    int *identity = la_alloc((size_t)(2 * layers * heads), sizeof *identity, "exchanges", e);
    int rc = -1;
    for (int i = 0; identity && i < 2 * layers * heads; i++)
        identity[i] = i % heads;
    x->shown = la_alloc((size_t)layers, sizeof *x->shown, "exchanges", e);
    for (int l = 0; x->shown && l < layers; l++)
        x->shown[l] = -1;
    if (identity && x->shown && method_expand(env->parent, &x->m, owned, e) == 0)
        rc = method_with_maps(x->m, identity, &x->work, e);
    free(identity);
    return rc;
}

static void exchange_close(struct exchange *x, bool owned)
{
    for (int i = 0; i < x->n_variants; i++)
        free(x->variants[i].w);
    free(x->variants);
    free(x->shown);
    model_free(x->work);
    if (owned)
        model_free(x->m);
}

/* ---- variants ----------------------------------------------------------------------------------- */

/* Index of the variant of a layer for these choices; entered as one to be made if it is new. -1: no memory. */
static int want(struct exchange *x, int layer, int key, int value, struct dha_err *e)
{
    for (int i = 0; i < x->n_variants; i++) {
        const struct variant *v = &x->variants[i];
        if (v->layer == layer && v->pick[0] == key && v->pick[1] == value)
            return i;
    }
    struct variant *grown = realloc(x->variants, ((size_t)x->n_variants + 1) * sizeof *x->variants);
    if (!grown)
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory for exchanges");
    x->variants = grown;
    grown[x->n_variants] = (struct variant){.layer = layer, .pick = {key, value}};
    return x->n_variants++;
}

static int want_pick(struct exchange *x, const int *pick, struct dha_err *e)
{
    for (int l = 0; l < x->p->layers; l++)
        if (want(x, l, pick[2 * l], pick[2 * l + 1], e) < 0)
            return -1;
    return 0;
}

/* Before a round: what the pick does not use goes when there is much of it. */
static void drop_unused(struct exchange *x)
{
    int kept = 0;
    if ((size_t)x->n_variants * x->numbers * sizeof(float) <= MAX_BYTES)
        return;
    for (int i = 0; i < x->n_variants; i++) {
        struct variant *v = &x->variants[i];
        if (v->pick[0] == x->pick[2 * v->layer] && v->pick[1] == x->pick[2 * v->layer + 1])
            x->variants[kept++] = *v;
        else
            free(v->w);
    }
    x->n_variants = kept;
    for (int l = 0; l < x->p->layers; l++)
        x->shown[l] = -1;
}

static int keep_weights(struct exchange *x, struct variant *v, struct dha_err *e)
{
    struct attn_layer a;
    if (layer_load(&a, x->work, v->layer, e))
        return -1;
    v->w = la_alloc(x->numbers, sizeof *v->w, "a merged layer", e);
    for (size_t i = 0; v->w && i < x->numbers; i++)
        v->w[i] = (float)a.block[i]; /* exact: work holds f32 */
    layer_finish(&a);
    return v->w ? 0 : -1;
}

static const int *groups_of(const struct exchange *x, const struct variant *v, int kind)
{
    return x->p->entries[2 * v->layer + kind].choices[v->pick[kind]].group_of;
}

static int make_variant(struct exchange *x, struct variant *v, const struct attn_layer *weights,
                        const struct key_blocks *keys, const struct value_blocks *values,
                        struct refit *refit, struct dha_err *e)
{
    struct comm *comm = x->env->comm;
    struct attn_layer a = {0};
    int rc = layer_copy(&a, weights, e);
    if (rc == 0)
        rc = spectral_merge_keys(&a, keys, groups_of(x, v, 0), e);
    if (rc == 0)
        rc = spectral_merge_values(&a, values, groups_of(x, v, 1), e);
    rc = comm_agree(comm, rc, e);
    if (rc == 0) {
        comm_bcast(comm, a.block, x->numbers * sizeof *a.block, 0);
        x->shown[v->layer] = -1;
        rc = comm_agree(comm, layer_store(&a, x->work, v->layer, e), e);
    }
    layer_finish(&a);
    if (rc == 0 && x->env->method->refit)
        rc = refit_solve(refit, e);
    return rc ? -1 : comm_agree(comm, keep_weights(x, v, e), e);
}

/* The missing variants of one layer. Both walks stand before the layer, and behind it afterwards. */
static int make_layer(struct exchange *x, int l, struct walk *moments, struct refit *refit,
                      struct dha_err *e)
{
    struct comm *comm = x->env->comm;
    int heads = x->p->heads, members[MODEL_MAX_HEADS], missing = 0;
    bool shared[MODEL_MAX_HEADS] = {false};
    struct calib_layer c;
    struct attn_layer weights = {0};
    struct key_blocks keys = {0};
    struct value_blocks values = {0};
    for (int i = 0; i < x->n_variants; i++) {
        const struct variant *v = &x->variants[i];
        if (v->layer != l || v->w)
            continue;
        const int *group_of = groups_of(x, v, 1);
        missing++;
        for (int h = 0; h < heads; h++)
            shared[h] |= group_members(group_of, heads, group_of[h], members) > 1;
    }
    if (missing == 0)
        return comm_agree(
            comm, walk_advance(moments, l, e) || walk_advance(&refit->parent, l, e) ? -1 : 0, e);
    if (calib_layer(&c, moments, comm, l, calib_split(x->env).moments, shared, e))
        return -1;
    c.slow = method_slow_planes(x->env);
    int rc = layer_load(&weights, x->m, l, e);
    if (rc == 0)
        rc = key_blocks_make(&keys, &weights, &c, e);
    if (rc == 0)
        rc = value_blocks_make(&values, &weights, &c, e);
    if (rc == 0)
        rc = refit_layer_open(refit, l, e);
    rc = comm_agree(comm, rc, e);
    calib_layer_finish(&c);
    for (int i = 0; i < x->n_variants && rc == 0; i++)
        if (x->variants[i].layer == l && !x->variants[i].w)
            rc = make_variant(x, &x->variants[i], &weights, &keys, &values, refit, e);
    if (rc == 0)
        rc = comm_agree(comm, refit_layer_close(refit, e), e);
    value_blocks_finish(&values);
    key_blocks_finish(&keys);
    layer_finish(&weights);
    return rc ? dha_err_context(e, "merging layer %d for an exchange", l) : 0;
}

static int make_missing(struct exchange *x, struct dha_err *e)
{
    struct calib_split split = calib_split(x->env);
    struct walk moments = {0};
    struct refit refit = {0};
    int64_t first;
    int last = -1;
    for (int i = 0; i < x->n_variants; i++)
        if (!x->variants[i].w && x->variants[i].layer > last)
            last = x->variants[i].layer;
    if (last < 0)
        return 0;
    int mine = rank_share(x->env->comm, split.moments, &first);
    int rc = walk_open(&moments, x->env, x->m, STREAM_CALIB, first, mine, e);
    if (rc == 0)
        rc = refit_open(&refit, x->env, x->m, x->work, split.refit, e);
    rc = comm_agree(x->env->comm, rc, e);
    for (int l = 0; l <= last && rc == 0; l++) {
        rc = make_layer(x, l, &moments, &refit, e);
        if (rc == 0)
            rc = method_progress(x->env, "exchange layers", l + 1, last + 1, e);
    }
    refit_close(&refit);
    walk_close(&moments);
    return rc;
}

/* ---- losses ------------------------------------------------------------------------------------- */

static int show(struct exchange *x, int at, struct dha_err *e)
{
    const struct variant *v = &x->variants[at];
    struct attn_layer a;
    if (x->shown[v->layer] == at)
        return 0;
    if (layer_load(&a, x->work, v->layer, e)) /* for its shape */
        return -1;
    for (size_t i = 0; i < x->numbers; i++)
        a.block[i] = (double)v->w[i];
    x->shown[v->layer] = -1;
    int rc = layer_store(&a, x->work, v->layer, e);
    if (rc == 0)
        x->shown[v->layer] = at;
    layer_finish(&a);
    return rc;
}

static int show_layer(struct exchange *x, int l, const int *pick, struct dha_err *e)
{
    int at = want(x, l, pick[2 * l], pick[2 * l + 1], e);
    return at < 0 ? -1 : show(x, at, e);
}

static int open_costs(struct exchange *x, struct walk *w, struct model *m, struct dha_err *e)
{
    int64_t first;
    int mine = rank_share(x->env->comm, calib_split(x->env).costs, &first);
    return walk_open(w, x->env, m, STREAM_COST, first, mine, e);
}

/* The sum over all ranks; counts as an evaluation. rc: of what came before, on this rank. */
static int sum_loss(struct exchange *x, int rc, struct walk *w, int from, double *sum,
                    struct dha_err *e)
{
    *sum = 0.0;
    if (rc == 0)
        rc = walk_loss(w, from, sum, e);
    if (comm_agree(x->env->comm, rc, e))
        return -1;
    comm_sum_f64(x->env->comm, sum, 1);
    x->report->evaluations++;
    return method_progress(x->env, "exchange", x->report->evaluations, MAX_EVALUATIONS, e);
}

static int loss_of_model(struct exchange *x, struct model *m, double *sum, struct dha_err *e)
{
    struct walk w = {0};
    int rc = open_costs(x, &w, m, e);
    rc = sum_loss(x, rc, &w, 0, sum, e);
    walk_close(&w);
    return rc;
}

static int loss_of_pick(struct exchange *x, const int *pick, double *sum, struct dha_err *e)
{
    int rc = comm_agree(x->env->comm, want_pick(x, pick, e), e);
    if (rc == 0)
        rc = make_missing(x, e);
    if (rc)
        return -1;
    for (int l = 0; l < x->p->layers && rc == 0; l++)
        rc = show_layer(x, l, pick, e);
    return comm_agree(x->env->comm, rc, e) ? -1 : loss_of_model(x, x->work, sum, e);
}

/* ---- moves -------------------------------------------------------------------------------------- */

static const struct choice *choice_at(const struct exchange *x, const int *pick, int entry)
{
    return &x->p->entries[entry].choices[pick[entry]];
}

static int heads_of(const struct exchange *x, const int *pick)
{
    int sum = 0;
    for (int i = 0; i < 2 * x->p->layers; i++)
        sum += choice_at(x, pick, i)->n;
    return sum;
}

static int cheaper(const void *a, const void *b)
{
    const struct move *x = a, *y = b;
    if (x->cost != y->cost)
        return x->cost < y->cost ? -1 : 1;
    return x->entry - y->entry;
}

/* The most promising single moves in one direction by the plan's costs a head. */
static int list_moves(const struct exchange *x, int step, struct move *out)
{
    int n = 0;
    for (int i = 0; i < 2 * x->p->layers; i++) {
        const struct plan_entry *en = &x->p->entries[i];
        int to = x->pick[i] + step;
        if (to < 0 || to >= en->n_choices)
            continue;
        const struct choice *is = &en->choices[x->pick[i]], *then = &en->choices[to];
        out[n++] = (struct move){i, step, (then->cost - is->cost) / abs(then->n - is->n)};
    }
    qsort(out, (size_t)n, sizeof *out, cheaper);
    return n < MAX_SINGLES ? n : MAX_SINGLES;
}

/* Makes and measures every single move; moves[].cost = its rise of the summed loss. */
static int measure_moves(struct exchange *x, struct move *moves, int n, struct dha_err *e)
{
    struct walk w = {0};
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        int pick[2], l = moves[i].entry / 2;
        memcpy(pick, x->pick + 2 * l, sizeof pick);
        pick[moves[i].entry % 2] += moves[i].step;
        rc = want(x, l, pick[0], pick[1], e) < 0 ? -1 : 0;
    }
    if (comm_agree(x->env->comm, rc, e) || make_missing(x, e))
        return -1;
    for (int l = 0; l < x->p->layers && rc == 0; l++)
        rc = show_layer(x, l, x->pick, e);
    if (rc == 0)
        rc = open_costs(x, &w, x->work, e);
    rc = comm_agree(x->env->comm, rc, e);
    for (int l = 0; l < x->p->layers && rc == 0; l++) {
        for (int i = 0; i < n && rc == 0; i++) {
            if (moves[i].entry / 2 != l)
                continue;
            double sum;
            x->pick[moves[i].entry] += moves[i].step;
            rc = show_layer(x, l, x->pick, e);
            x->pick[moves[i].entry] -= moves[i].step;
            rc = sum_loss(x, rc, &w, l, &sum, e);
            moves[i].cost = sum - x->loss;
        }
        if (rc == 0)
            rc = show_layer(x, l, x->pick, e) || walk_advance(&w, l, e) ? -1 : 0;
        rc = comm_agree(x->env->comm, rc, e);
    }
    walk_close(&w);
    return rc;
}

/* Takes the pick `to` if its loss is lower. Returns 1 if so, 0 if not, -1 on error. */
static int attempt(struct exchange *x, const int *to, struct dha_err *e)
{
    double sum;
    if (loss_of_pick(x, to, &sum, e))
        return -1;
    if (sum >= x->loss)
        return 0;
    x->loss = sum;
    memcpy(x->pick, to, 2 * (size_t)x->p->layers * sizeof *to);
    x->report->moves++;
    return 1;
}

/* The knapsack of the measured moves -> to. */
static int local_knapsack(const struct exchange *x, const struct move *moves, int n, int *to,
                          struct dha_err *e)
{
    struct plan local;
    int entries = 2 * x->p->layers, rc = plan_alloc(&local, x->p->layers, x->p->heads, e);
    if (rc)
        return -1;
    for (int i = 0; i < entries && rc == 0; i++) {
        const struct choice *c = choice_at(x, x->pick, i);
        rc = plan_add(&local, i, c->n, 0.0, c->group_of, e);
    }
    for (int i = 0; i < n && rc == 0; i++) {
        const struct choice *c = choice_at(x, x->pick, moves[i].entry) + moves[i].step;
        rc = plan_add(&local, moves[i].entry, c->n, moves[i].cost, c->group_of, e);
    }
    if (rc == 0)
        rc = plan_choose(&local, x->total, to, NULL, e);
    for (int i = 0; i < entries && rc == 0; i++) { /* from choices of `local` to those of p */
        int heads = local.entries[i].choices[to[i]].n, is = choice_at(x, x->pick, i)->n;
        to[i] = x->pick[i] + (heads > is) - (heads < is);
    }
    plan_finish(&local);
    return rc;
}

/* The best pairs one after the other until one helps. to [entries] is scratch. Returns as attempt(). */
static int try_pairs(struct exchange *x, const struct move *down, int n_down, const struct move *up,
                     int n_up, const int *tried, int *to, struct dha_err *e)
{
    size_t bytes = 2 * (size_t)x->p->layers * sizeof *to;
    struct move
        pairs[MAX_SINGLES * MAX_SINGLES]; /* entry: index into down * n_up + index into up */
    int n = 0, left = MAX_PAIRS, rc = 0;
    for (int i = 0; i < n_down * n_up; i++) {
        const struct move *a = &down[i / n_up], *b = &up[i % n_up];
        if (a->entry != b->entry && a->cost + b->cost < 0.0)
            pairs[n++] = (struct move){i, 0, a->cost + b->cost};
    }
    qsort(pairs, (size_t)n, sizeof *pairs, cheaper);
    for (int i = 0; i < n && left > 0 && rc == 0; i++) {
        if (x->report->evaluations >= MAX_EVALUATIONS)
            break;
        memcpy(to, x->pick, bytes);
        to[down[pairs[i].entry / n_up].entry]--;
        to[up[pairs[i].entry % n_up].entry]++;
        if (heads_of(x, to) > x->total || memcmp(to, tried, bytes) == 0)
            continue;
        left--;
        rc = attempt(x, to, e);
    }
    return rc;
}

/* Returns as attempt(); 0 ends the search. */
static int one_round(struct exchange *x, struct move *down, struct move *up, int *to, int *scratch,
                     struct dha_err *e)
{
    struct move all[2 * MAX_SINGLES];
    size_t bytes = 2 * (size_t)x->p->layers * sizeof *to;
    int n_down = list_moves(x, -1, down), n_up = list_moves(x, 1, up), n = n_down + n_up;
    if (n_up == 0 || x->report->evaluations + n >= MAX_EVALUATIONS)
        return 0;
    drop_unused(x);
    memcpy(all, down, (size_t)n_down * sizeof *all);
    memcpy(all + n_down, up, (size_t)n_up * sizeof *all);
    if (comm_agree(x->env->comm, want_pick(x, x->pick, e), e) || measure_moves(x, all, n, e))
        return -1;
    memcpy(down, all, (size_t)n_down * sizeof *all);
    memcpy(up, all + n_down, (size_t)n_up * sizeof *all);
    x->report->rounds++;
    if (comm_agree(x->env->comm, local_knapsack(x, all, n, to, e), e))
        return -1;
    if (memcmp(to, x->pick, bytes) == 0)
        return 0;
    int rc = attempt(x, to, e);
    return rc ? rc : try_pairs(x, down, n_down, up, n_up, to, scratch, e);
}

static int search(struct exchange *x, struct dha_err *e)
{
    size_t entries = 2 * (size_t)x->p->layers;
    struct move *moves = la_alloc(2 * entries, sizeof *moves, "exchanges", e);
    int *to = la_alloc(2 * entries, sizeof *to, "exchanges", e);
    int rc = comm_agree(x->env->comm, moves && to ? 0 : -1, e);
    double parent, tokens = (double)calib_split(x->env).costs * x->env->seq;
    if (rc == 0)
        rc = loss_of_model(x, x->m, &parent, e);
    if (rc == 0)
        rc = loss_of_pick(x, x->pick, &x->loss, e);
    if (rc == 0) {
        x->report->sequences = calib_split(x->env).costs;
        x->report->parent = parent / tokens;
        x->report->before = x->loss / tokens;
        do
            rc = one_round(x, moves, moves + entries, to, to + entries, e);
        while (rc > 0);
        x->report->after = x->loss / tokens;
    }
    free(to);
    free(moves);
    return rc;
}

int exchange_improve(const struct method_env *env, const struct plan *p, int total, int *pick,
                     struct exchange_report *report, struct dha_err *e)
{
    struct exchange x = {.env = env, .p = p, .pick = pick, .total = total, .report = report};
    const struct model_config *c = &env->parent->cfg;
    bool owned = false;
    memset(report, 0, sizeof *report);
    if (method_check_env(env, e))
        return -1;
    x.numbers = layer_numbers(
        &(struct attn_layer){.heads = c->heads, .dim = c->head_dim, .width = c->hidden});
    int rc = comm_agree(env->comm, exchange_open(&x, &owned, e), e);
    if (rc == 0)
        rc = search(&x, e);
    exchange_close(&x, owned);
    return rc ? dha_err_context(e, "exchanging head counts") : 0;
}
