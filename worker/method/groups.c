/* groups.c: partitions of a layer's heads (METHODS 1.6, D5 and section 6, "Groups"). Pure: functions of their
 * arguments, the seed included. Exact for at most 12 heads, where all subsets can be listed; above that a
 * descent over moves and swaps from many starts. The paper's annealing is there to compare with.
 */
#include "worker/method/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"

#define EXACT_HEADS 12
#define RESTARTS    64

void groups_adjacent(int heads, int n, int *group_of)
{
    for (int h = 0; h < heads; h++)
        group_of[h] = (int)((int64_t)h * n / heads);
}

int groups_canonical(int heads, int *group_of)
{
    int n = 0;
    int number[MODEL_MAX_HEADS]; /* old name -> new number */
    for (int g = 0; g < MODEL_MAX_HEADS; g++)
        number[g] = -1;
    for (int h = 0; h < heads; h++) {
        int *at = &number[group_of[h]];
        if (*at < 0)
            *at = n++;
        group_of[h] = *at;
    }
    return n;
}

static bool size_allowed(unsigned mask, int heads, int n, bool equal)
{
    return !equal || __builtin_popcount(mask) * n == heads;
}

/* f[n][mask] = least cost of splitting the heads of mask into n groups. The group that holds mask's lowest
 * head is tried in all its forms, so each partition is seen once: 3^heads / 2 steps for each n. With equal
 * groups the size depends on n, the number of groups of the whole layer, hence the outer loop over `parts`. */
struct exact {
    int heads;
    const double *cost;
    double *f;            /* [(heads+1) << heads] */
    unsigned short *last; /* same shape: the group of mask's lowest head */
};

static void exact_fill(struct exact *x, int parts, bool equal)
{
    size_t masks = (size_t)1 << x->heads;
    for (size_t i = 0; i < ((size_t)x->heads + 1) * masks; i++)
        x->f[i] = INFINITY;
    x->f[0] = 0.0;
    for (int n = 1; n <= parts; n++) {
        double *now = x->f + (size_t)n * masks;
        const double *before = now - masks;
        for (unsigned mask = 1; mask < masks; mask++) {
            unsigned low = mask & -mask, rest = mask ^ low;
            for (unsigned sub = rest;; sub = (sub - 1) & rest) {
                unsigned group = sub | low;
                double v = before[mask ^ group] + x->cost[group];
                if (v < now[mask] && size_allowed(group, x->heads, parts, equal)) {
                    now[mask] = v;
                    x->last[(size_t)n * masks + mask] = (unsigned short)group;
                }
                if (sub == 0)
                    break;
            }
        }
    }
}

static double exact_read(const struct exact *x, int n, int *group_of)
{
    size_t masks = (size_t)1 << x->heads;
    unsigned mask = (unsigned)masks - 1;
    double cost = x->f[(size_t)n * masks + mask];
    for (int h = 0; h < x->heads; h++)
        group_of[h] = 0;
    if (isinf(cost))
        return cost;
    for (int k = n; k > 0; k--) {
        unsigned group = x->last[(size_t)k * masks + mask];
        for (int h = 0; h < x->heads; h++)
            if (group >> h & 1)
                group_of[h] = k;
        mask ^= group;
    }
    groups_canonical(x->heads, group_of);
    return cost;
}

static int exact_open(struct exact *x, int heads, const double *cost, struct dha_err *e)
{
    if (heads < 1 || heads > EXACT_HEADS)
        return dha_fail(e, DHA_E_INTERNAL, "exact grouping of %d heads; it serves 1 to %d", heads,
                        EXACT_HEADS);
    size_t masks = (size_t)1 << heads, n = ((size_t)heads + 1) * masks;
    for (size_t mask = 1; mask < masks; mask++)
        if (isnan(cost[mask]))
            return dha_fail(e, DHA_E_INTERNAL, "the cost of head group 0x%zx is not a number",
                            mask);
    x->heads = heads;
    x->cost = cost;
    x->f = la_alloc(n, sizeof *x->f, "grouping", e);
    x->last = la_alloc(n, sizeof *x->last, "grouping", e);
    if (x->f && x->last)
        return 0;
    free(x->f);
    free(x->last);
    return -1;
}

static void exact_close(struct exact *x)
{
    free(x->last);
    free(x->f);
}

int groups_exact(int heads, const double *cost, bool equal, double *best_cost, int *group_of,
                 struct dha_err *e)
{
    struct exact x;
    if (exact_open(&x, heads, cost, e))
        return -1;
    if (!equal)
        exact_fill(&x, heads, false);
    for (int n = 1; n <= heads; n++) {
        if (equal)
            exact_fill(&x, n, true);
        best_cost[n - 1] = exact_read(&x, n, group_of + (size_t)(n - 1) * (size_t)heads);
    }
    exact_close(&x);
    return 0;
}

/* --- pair distances ------------------------------------------------------------------------------ */

static int pairwise_exact(int heads, const double *distance, int n, bool equal, int *group_of,
                          double *cost, struct dha_err *e)
{
    size_t masks = (size_t)1 << heads;
    struct exact x;
    double *subset = la_alloc(masks, sizeof *subset, "grouping", e);
    if (!subset)
        return -1;
    for (unsigned mask = 1; mask < masks; mask++) {
        int low = __builtin_ctz(mask);
        subset[mask] = subset[mask & (mask - 1)];
        for (int h = low + 1; h < heads; h++)
            if (mask >> h & 1)
                subset[mask] += distance[low * heads + h];
    }
    int rc = exact_open(&x, heads, subset, e);
    if (rc == 0) {
        exact_fill(&x, n, equal);
        *cost = exact_read(&x, n, group_of);
        exact_close(&x);
    }
    free(subset);
    return rc;
}

/* Descent state: to[h*n + g] = sum of distances from head h to the heads of group g, so that a move or a
 * swap is judged in O(1) and carried out in O(heads). */
struct descent {
    int heads, n;
    const double *d;
    int *group_of, *size;
    double *to;
};

static void descent_start(struct descent *s)
{
    memset(s->size, 0, (size_t)s->n * sizeof *s->size);
    memset(s->to, 0, (size_t)s->heads * (size_t)s->n * sizeof *s->to);
    for (int h = 0; h < s->heads; h++) {
        s->size[s->group_of[h]]++;
        for (int j = 0; j < s->heads; j++)
            if (j != h)
                s->to[h * s->n + s->group_of[j]] += s->d[h * s->heads + j];
    }
}

static void move_head(struct descent *s, int h, int group)
{
    int from = s->group_of[h];
    s->group_of[h] = group;
    s->size[from]--;
    s->size[group]++;
    for (int j = 0; j < s->heads; j++) {
        if (j == h)
            continue;
        s->to[j * s->n + from] -= s->d[j * s->heads + h];
        s->to[j * s->n + group] += s->d[j * s->heads + h];
    }
}

/* Gains below this share of the distances are rounding; taking them could cycle for ever. */
static double least_gain(int heads, const double *d)
{
    double sum = 0.0;
    for (int i = 0; i < heads * heads; i++)
        sum += fabs(d[i]);
    return 1e-12 * sum / heads;
}

static bool improve_by_moves(struct descent *s, double eps)
{
    bool any = false;
    for (int h = 0; h < s->heads; h++) {
        int a = s->group_of[h], best = a;
        if (s->size[a] == 1)
            continue; /* a group is never left empty */
        for (int b = 0; b < s->n; b++)
            if (s->to[h * s->n + b] < s->to[h * s->n + best] - eps)
                best = b;
        if (best != a) {
            move_head(s, h, best);
            any = true;
        }
    }
    return any;
}

static bool improve_by_swaps(struct descent *s, double eps)
{
    bool any = false;
    for (int h = 0; h < s->heads; h++) {
        for (int k = h + 1; k < s->heads; k++) {
            int a = s->group_of[h], b = s->group_of[k];
            if (a == b)
                continue;
            double delta = s->to[h * s->n + b] - s->to[h * s->n + a] + s->to[k * s->n + a] -
                           s->to[k * s->n + b] - 2.0 * s->d[h * s->heads + k];
            if (delta < -eps) {
                move_head(s, h, b);
                move_head(s, k, a);
                any = true;
            }
        }
    }
    return any;
}

static double within(const struct descent *s)
{
    double sum = 0.0;
    for (int h = 0; h < s->heads; h++)
        for (int j = h + 1; j < s->heads; j++)
            if (s->group_of[h] == s->group_of[j])
                sum += s->d[h * s->heads + j];
    return sum;
}

/* splitmix64: one step of the state, 64 mixed bits. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Adjacent groups with the heads in random order: sizes differ by at most one. */
static void random_start(int heads, int n, uint64_t *state, int *group_of)
{
    groups_adjacent(heads, n, group_of);
    for (int h = heads - 1; h > 0; h--) {
        int j = (int)(next_random(state) % ((uint64_t)h + 1));
        int t = group_of[h];
        group_of[h] = group_of[j];
        group_of[j] = t;
    }
}

static int pairwise_descent(int heads, const double *distance, int n, bool equal, int64_t seed,
                            int *group_of, double *cost, struct dha_err *e)
{
    int rc = -1;
    uint64_t state = (uint64_t)seed;
    double eps = least_gain(heads, distance);
    struct descent s = {.heads = heads, .n = n, .d = distance};
    s.group_of = la_alloc((size_t)heads, sizeof *s.group_of, "grouping", e);
    s.size = la_alloc((size_t)n, sizeof *s.size, "grouping", e);
    s.to = la_alloc((size_t)heads * (size_t)n, sizeof *s.to, "grouping", e);
    if (!s.group_of || !s.size || !s.to)
        goto out;
    *cost = INFINITY;
    for (int start = 0; start < RESTARTS; start++) {
        if (start == 0)
            groups_adjacent(heads, n, s.group_of);
        else
            random_start(heads, n, &state, s.group_of);
        descent_start(&s);
        bool better = true;
        while (better) {
            better = !equal && improve_by_moves(&s, eps);
            better |= improve_by_swaps(&s, eps);
        }
        double found = within(&s);
        if (found < *cost) {
            *cost = found;
            memcpy(group_of, s.group_of, (size_t)heads * sizeof *group_of);
        }
    }
    groups_canonical(heads, group_of);
    rc = 0;
out:
    free(s.to);
    free(s.size);
    free(s.group_of);
    return rc;
}

static int check_pairs(int heads, const double *distance, int n, bool equal, struct dha_err *e)
{
    if (n < 1 || n > heads || heads > MODEL_MAX_HEADS || (equal && heads % n))
        return dha_fail(e, DHA_E_INTERNAL, "%d heads cannot be put into %d%s groups", heads, n,
                        equal ? " equal" : "");
    for (int i = 0; i < heads * heads; i++)
        if (!isfinite(distance[i]))
            return dha_fail(e, DHA_E_INTERNAL, "the distance of heads %d and %d is not finite",
                            i / heads, i % heads);
    return 0;
}

int groups_pairwise(int heads, const double *distance, int n, bool equal, int64_t seed,
                    int *group_of, double *cost, struct dha_err *e)
{
    if (check_pairs(heads, distance, n, equal, e))
        return -1;
    if (heads <= EXACT_HEADS)
        return pairwise_exact(heads, distance, n, equal, group_of, cost, e);
    return pairwise_descent(heads, distance, n, equal, seed, group_of, cost, e);
}

/* --- annealing ----------------------------------------------------------------------------------- */

#define HOT     100.0
#define COLD    0.001
#define COOLING 0.9

static double unit_random(uint64_t *state)
{
    return (double)(next_random(state) >> 11) * 0x1p-53;
}

static double pair_sum(int heads, const double *distance, const int *group_of)
{
    double sum = 0.0;
    for (int h = 0; h < heads; h++)
        for (int j = h + 1; j < heads; j++)
            if (group_of[h] == group_of[j])
                sum += distance[h * heads + j];
    return sum;
}

/* What the sum of distances gains when h and k, of different groups, change places. */
static double swap_gain(int heads, const double *distance, const int *group_of, int h, int k)
{
    double gain = 0.0;
    for (int j = 0; j < heads; j++) {
        if (j == h || j == k)
            continue;
        double closer = distance[h * heads + j] - distance[k * heads + j];
        gain += group_of[j] == group_of[h] ? closer : group_of[j] == group_of[k] ? -closer : 0.0;
    }
    return gain;
}

/* Member m of group g, in the order of the heads. */
static int nth_member(int heads, const int *group_of, int g, int m)
{
    int h = 0;
    while (h < heads - 1 && (group_of[h] != g || m-- > 0))
        h++;
    return h;
}

int groups_anneal(int heads, const double *distance, int n, int64_t seed, int *group_of,
                  double *cost, struct dha_err *e)
{
    uint64_t state = (uint64_t)seed;
    if (check_pairs(heads, distance, n, true, e))
        return -1;
    random_start(heads, n, &state, group_of);
    uint64_t size = (uint64_t)(heads / n);
    for (double t = HOT; n > 1 && t > COLD; t *= COOLING) {
        int i = (int)(next_random(&state) % (uint64_t)n);
        int j = (i + 1 + (int)(next_random(&state) % (uint64_t)(n - 1))) % n;
        int a = nth_member(heads, group_of, i, (int)(next_random(&state) % size));
        int b = nth_member(heads, group_of, j, (int)(next_random(&state) % size));
        double gain = swap_gain(heads, distance, group_of, a, b), chance = unit_random(&state);
        if (gain > 0.0 || exp(gain / t) > chance) {
            group_of[a] = j;
            group_of[b] = i;
        }
    }
    *cost = pair_sum(heads, distance, group_of);
    groups_canonical(heads, group_of);
    return 0;
}
