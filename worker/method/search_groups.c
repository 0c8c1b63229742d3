#include "worker/method/search_groups.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"
#include "worker/method/walk.h"

/* Above 12 heads, for each number of groups: rounds of refinement, and candidates judged a round (two groups each). */
#define REFINE_ROUNDS     12
#define REFINE_CANDIDATES 16
/* Groups evaluated by each rank between two progress reports. */
#define PROGRESS_EVERY 64

int search_counts(const struct method *method, int heads, int *counts)
{
    int n = 0;
    bool ladder = heads > SEARCH_EXACT_HEADS && !method->uniform;
    for (int c = 1; c <= heads; c++) {
        int odd = c; /* the ladder is 1, 2^k and 3*2^k */
        while (odd % 2 == 0)
            odd /= 2;
        bool divides = heads % c == 0, offered = divides || !ladder || odd == 1 || odd == 3;
        if ((method->uniform || !method->any_count) && !divides)
            offered = false;
        if (offered || c == heads)
            counts[n++] = c;
    }
    return n;
}

/* Group i of a list to evaluate. */
struct task {
    int n;
    int members[MODEL_MAX_HEADS];
};
typedef void task_fn(const void *from, int i, struct task *t);

/* cost[i] of tasks 0..n-1, each evaluated by one rank. A rank that fails goes on to the end without work, so that all
 * ranks make the same collective calls. */
static int evaluate(const struct method_env *env, const char *phase, group_cost_fn *fn, void *arg,
                    task_fn *task, const void *from, int n, double *cost, struct dha_err *e)
{
    int rc = 0, size = env->comm->size, every = PROGRESS_EVERY * size;
    memset(cost, 0, (size_t)n * sizeof *cost);
    for (int first = 0; first < n; first += every) {
        for (int i = first + env->comm->rank; i < n && i < first + every && rc == 0; i += size) {
            struct task t;
            task(from, i, &t);
            if (t.n > 1)
                rc = fn(arg, t.members, t.n, &cost[i], e);
        }
        /* also on a rank that has failed: ranks agree in there on whether to stop */
        if (n > every && method_progress(env, phase, first, n, rc ? NULL : e))
            return -1;
    }
    if (comm_agree(env->comm, rc, e))
        return -1;
    comm_sum_f64(env->comm, cost, (size_t)n);
    return 0;
}

/* --- at most 12 heads: all subsets ---------------------------------------------------------------- */

struct subsets {
    int heads;
    const unsigned short *mask; /* by falling size, so that dealing in turn is fair */
};

static void subset_task(const void *from, int i, struct task *t)
{
    const struct subsets *s = from;
    t->n = 0;
    for (int h = 0; h < s->heads; h++)
        if (s->mask[i] >> h & 1)
            t->members[t->n++] = h;
}

static int search_exact(const struct method_env *env, const char *phase, int heads,
                        group_cost_fn *fn, void *arg, const int *counts, int n_counts,
                        int *group_of, struct dha_err *e)
{
    int masks = 1 << heads, n = 0, rc = -1;
    size_t h = (size_t)heads;
    unsigned short *order = la_alloc((size_t)masks, sizeof *order, "grouping", e);
    double *by_order = la_alloc(2 * (size_t)masks + h, sizeof *by_order, "grouping", e);
    int *all = la_alloc(h * h, sizeof *all, "grouping", e);
    if (!order || !by_order || !all)
        goto out;
    double *by_mask = by_order + masks, *best = by_mask + masks;
    for (int size = heads; size > 1; size--)
        for (int mask = 1; mask < masks; mask++)
            if (__builtin_popcount((unsigned)mask) == size)
                order[n++] = (unsigned short)mask;
    struct subsets s = {.heads = heads, .mask = order};
    if (evaluate(env, phase, fn, arg, subset_task, &s, n, by_order, e))
        goto out;
    for (int i = 0; i < n; i++)
        by_mask[order[i]] = by_order[i];
    if (groups_exact(heads, by_mask, false, best, all, e))
        goto out;
    for (int i = 0; i < n_counts; i++)
        memcpy(group_of + (size_t)i * h, all + (size_t)(counts[i] - 1) * h, h * sizeof *all);
    rc = 0;
out:
    free(all);
    free(by_order);
    free(order);
    return rc;
}

/* --- more heads: pair costs, then refinement -------------------------------------------------------- */

struct pairs {
    int heads;
};

static void pair_task(const void *from, int i, struct task *t)
{
    const struct pairs *p = from;
    int a = i / p->heads, b = i % p->heads;
    t->n = a < b ? 2 : 0;
    t->members[0] = a;
    t->members[1] = b;
}

/* A change of a partition: head h goes to group `to`; with other >= 0, that head comes back to h's group. */
struct change {
    int h, other, to;
    double gain; /* by the pair costs: what it is ranked by */
};

/* Task 2*i and 2*i+1: the two groups that change i would leave behind. */
struct changes {
    int heads;
    const int *group_of;
    const struct change *list;
};

static void change_task(const void *from, int i, struct task *t)
{
    const struct changes *s = from;
    const struct change *c = &s->list[i / 2];
    int group = i % 2 ? c->to : s->group_of[c->h];
    t->n = 0;
    for (int h = 0; h < s->heads; h++) {
        int now = h == c->h ? c->to : h == c->other ? s->group_of[c->h] : s->group_of[h];
        if (now == group)
            t->members[t->n++] = h;
    }
}

struct whole {
    int heads;
    const int *group_of;
};

static void whole_task(const void *from, int i, struct task *t)
{
    const struct whole *w = from;
    t->n = 0;
    for (int h = 0; h < w->heads; h++)
        if (w->group_of[h] == i)
            t->members[t->n++] = h;
}

/* Sum of pair costs from head h to the heads of a group other than h. */
static double to_group(int heads, const double *pair, const int *group_of, int h, int group)
{
    double sum = 0.0;
    for (int j = 0; j < heads; j++)
        if (j != h && group_of[j] == group)
            sum += pair[h * heads + j];
    return sum;
}

static void keep_best(struct change *list, int *n, struct change c)
{
    int at = *n;
    if (at == REFINE_CANDIDATES) {
        if (c.gain <= list[at - 1].gain)
            return;
        at--;
    } else {
        (*n)++;
    }
    while (at > 0 && list[at - 1].gain < c.gain) {
        list[at] = list[at - 1];
        at--;
    }
    list[at] = c;
}

static int best_changes(int heads, int n, const double *pair, const int *group_of,
                        struct change *list)
{
    int found = 0, size[MODEL_MAX_HEADS] = {0};
    for (int h = 0; h < heads; h++)
        size[group_of[h]]++;
    for (int h = 0; h < heads; h++) {
        double here = to_group(heads, pair, group_of, h, group_of[h]);
        for (int g = 0; g < n && size[group_of[h]] > 1; g++)
            if (g != group_of[h])
                keep_best(list, &found,
                          (struct change){.h = h,
                                          .other = -1,
                                          .to = g,
                                          .gain = here - to_group(heads, pair, group_of, h, g)});
        for (int k = h + 1; k < heads; k++) {
            if (group_of[k] == group_of[h])
                continue;
            double gain = here + to_group(heads, pair, group_of, k, group_of[k]) -
                          to_group(heads, pair, group_of, h, group_of[k]) -
                          to_group(heads, pair, group_of, k, group_of[h]) +
                          2.0 * pair[h * heads + k];
            keep_best(list, &found,
                      (struct change){.h = h, .other = k, .to = group_of[k], .gain = gain});
        }
    }
    return found;
}

static int refine(const struct method_env *env, const char *phase, int heads, group_cost_fn *fn,
                  void *arg, const double *pair, int n, int *group_of, struct dha_err *e)
{
    struct change list[REFINE_CANDIDATES];
    double cost[MODEL_MAX_HEADS], after[2 * REFINE_CANDIDATES];
    struct whole w = {.heads = heads, .group_of = group_of};
    if (n == 1 || n == heads)
        return 0;
    if (evaluate(env, phase, fn, arg, whole_task, &w, n, cost, e))
        return -1;
    for (int round = 0; round < REFINE_ROUNDS; round++) {
        int found = best_changes(heads, n, pair, group_of, list), best = -1;
        struct changes s = {.heads = heads, .group_of = group_of, .list = list};
        if (evaluate(env, phase, fn, arg, change_task, &s, 2 * found, after, e))
            return -1;
        double gain = 0.0;
        for (int i = 0; i < found; i++) {
            double g = cost[group_of[list[i].h]] + cost[list[i].to] - after[2 * i] -
                       after[2 * i + 1];
            if (g > gain) {
                gain = g;
                best = i;
            }
        }
        if (best < 0)
            break;
        int from = group_of[list[best].h];
        cost[from] = after[2 * best];
        cost[list[best].to] = after[2 * best + 1];
        group_of[list[best].h] = list[best].to;
        if (list[best].other >= 0)
            group_of[list[best].other] = from;
    }
    groups_canonical(heads, group_of);
    return 0;
}

static int search_descent(const struct method_env *env, const char *phase, int heads,
                          group_cost_fn *fn, void *arg, const int *counts, int n_counts,
                          int *group_of, struct dha_err *e)
{
    int rc = -1;
    struct pairs p = {.heads = heads};
    double *pair = la_alloc((size_t)heads * (size_t)heads, sizeof *pair, "grouping", e), sum;
    if (!pair || evaluate(env, phase, fn, arg, pair_task, &p, heads * heads, pair, e))
        goto out;
    for (int a = 0; a < heads; a++)
        for (int b = 0; b < a; b++)
            pair[a * heads + b] = pair[b * heads + a];
    for (int i = 0; i < n_counts; i++) {
        int *g = group_of + (size_t)i * (size_t)heads;
        if (groups_pairwise(heads, pair, counts[i], false, env->seed, g, &sum, e) ||
            refine(env, phase, heads, fn, arg, pair, counts[i], g, e))
            goto out;
    }
    rc = 0;
out:
    free(pair);
    return rc;
}

int search_groups(const struct method_env *env, const char *phase, int heads, group_cost_fn *cost,
                  void *arg, const int *counts, int n_counts, int *group_of, struct dha_err *e)
{
    return heads <= SEARCH_EXACT_HEADS
               ? search_exact(env, phase, heads, cost, arg, counts, n_counts, group_of, e)
               : search_descent(env, phase, heads, cost, arg, counts, n_counts, group_of, e);
}

int search_distances(const struct method_env *env, struct plan *out, int entry, const int *counts,
                     int n_counts, struct dha_err *e)
{
    int heads = out->heads, group_of[MODEL_MAX_HEADS];
    const double *d = out->distance + (size_t)entry * (size_t)(heads * heads);
    for (int i = 0; i < n_counts; i++) {
        double cost;
        if ((env->method->annealing
                 ? groups_anneal(heads, d, counts[i], env->seed, group_of, &cost, e)
                 : groups_pairwise(heads, d, counts[i], !env->method->any_count, env->seed,
                                   group_of, &cost, e)) ||
            plan_add(out, entry, counts[i], cost, group_of, e))
            return -1;
    }
    return 0;
}
