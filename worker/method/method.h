/* method.h: the mathematics of a conversion (METHODS.md), apart from training.
 *
 * Everything here is a function of its inputs: model weights, calibration tokens, a seed. Work is split
 * over the ranks of `comm`; every rank returns the same result. float64 for all closed forms.
 *
 * The result of a search is a `struct plan`: for every entry (layer, kind) and every allowed number of heads n the
 * best groups and what they cost. It does not depend on the budget. plan_choose() is the knapsack.
 */
#ifndef DHA_WORKER_METHOD_H
#define DHA_WORKER_METHOD_H

#include "proto/spec.h"
#include "worker/comm.h"
#include "worker/data/corpus.h"
#include "worker/model/model.h"

/* A partition of the H heads: group_of[h] in 0..n-1, groups numbered by their smallest head. */
struct choice {
    int n;
    double cost;   /* unit depends on the method; see plan.cost_unit */
    int *group_of; /* [heads] */
};
struct plan_entry { /* entry 2*layer + (0 key | 1 value) */
    int n_choices;
    struct choice *choices; /* ascending n */
    double
        left; /* share of the closed form's cost that regression leaves: a factor of all costs; 0 = unknown */
};
struct plan {
    char method[32];
    char cost_unit[24]; /* "nats" (measured loss), "distance" (learned) */
    int layers, heads;
    struct plan_entry *entries; /* [2*layers] */
    double *distance;           /* learned: [2*layers][heads*heads], or NULL */
};
void plan_finish(struct plan *p);
int plan_alloc(struct plan *p, int layers, int heads,
               struct dha_err *e); /* entries without choices */
/* Adds a copy of one choice; keeps ascending n; replaces one with the same n. */
int plan_add(struct plan *p, int entry, int n, double cost, const int *group_of, struct dha_err *e);
cJSON *plan_to_json(const struct plan *p);
int plan_from_json(const cJSON *j, struct plan *p, struct dha_err *e);

/* What every step below needs. */
struct method_env {
    struct model *parent;
    const struct corpus *train;
    struct comm *comm;
    const struct method *method;
    int seq;
    int64_t seed;
    int64_t calib_tokens; /* tokens.search */
    /* Called now and then (may be NULL): phase name, done, total. Non-zero stops the function with DHA_E_STOPPED. Every
     * rank calls it equally often, so it may be a collective, and all ranks must get the same answer. */
    int (*progress)(void *arg, const char *phase, int64_t done, int64_t total);
    /* A number of one layer ("regression_error" of a "block"), for whoever keeps metrics (may be NULL). */
    void (*layer)(void *arg, const char *name, const char *kind, int layer, int64_t step,
                  double value);
    void *arg;
};

/* --- groups.c: grouping, pure ------------------------------------------------------------------- */
/* cost[mask] for every non-empty subset of `heads` <= 12 heads: best partition into n groups, for every n of 1..heads.
 * equal: groups of equal size only (n must divide heads; others get cost INFINITY).
 * best_cost[n-1], group_of[(n-1)*heads + h]. Exact, by dynamic programming over subsets. */
int groups_exact(int heads, const double *cost, bool equal, double *best_cost, int *group_of,
                 struct dha_err *e);
/* Pair distances [heads*heads] -> partition into n groups minimising the sum of within-group pair distances.
 * Exact for heads <= 12, else restarts + swaps (+ moves unless equal). */
int groups_pairwise(int heads, const double *distance, int n, bool equal, int64_t seed,
                    int *group_of, double *cost, struct dha_err *e);
/* The annealing of paper 1's appendix B.3 as printed, on -distance (METHODS 1.6.4): equal groups, 110 swaps. It is close to
 * a random grouping; to compare with. */
int groups_anneal(int heads, const double *distance, int n, int64_t seed, int *group_of,
                  double *cost, struct dha_err *e);
void groups_adjacent(int heads, int n, int *group_of); /* n need not divide heads */
/* Renumber so that groups are in order of their smallest head; returns their number. */
int groups_canonical(int heads, int *group_of);

/* --- allocate.c: pure ---------------------------------------------------------------------------- */
/* Exact knapsack: pick one choice an entry, sum of n <= total, least sum of cost. pick[entry] = index of the choice.
 * Fails with DHA_E_INPUT if even the smallest choices do not fit (msg says the least budget that does). */
int plan_choose(const struct plan *p, int total, int *pick, double *cost, struct dha_err *e);
/* The greedy of paper 1's appendix B.4 (METHODS 1.6.5), likewise: every entry at least H/8 heads; the entries whose heads
 * differ most at H/2; what is left one step at a time to the entry with the largest loss a head. */
int plan_choose_greedy(const struct plan *p, int total, int *pick, double *cost, struct dha_err *e);
/* round(budget * 2 L H), at least 2 L. */
int plan_total(double budget, int layers, int heads);

/* Slow planes that the method merges as one block: 0 without the flag, and where there is only one (docs/METHOD.md). */
int method_slow_planes(const struct method_env *env);

/* --- spectral*.c: METHODS section 6 --------------------------------------------------------------- */
/* Calibration + costs + groups for every n; with method->uniform only the adjacent groups. */
int spectral_plan(const struct method_env *env, struct plan *out, struct dha_err *e);
/* The merge (and the refit, if method->refit) for group_of [2*layers*heads]: a new model with the maps. */
int spectral_merge(const struct method_env *env, const int *group_of, struct model **out,
                   struct dha_err *e);

/* --- pool.c, fusion.c ------------------------------------------------------------------------------ */
/* Mean pooling of K and V projections in each group (gqa, mqa). */
int meanpool_merge(const struct method_env *env, const int *group_of, struct model **out,
                   struct dha_err *e);
/* Learned distances from a model whose operators span the whole layer (METHODS 1.6): plan with divisors of H
 * (or any n with method->any_count). */
int fusion_plan(const struct method_env *env, const struct model *with_oper, struct plan *out,
                struct dha_err *e);
/* End of fusion (METHODS 1.7): mean rows of omega, new heads, operators dropped: a new model with the maps of the
 * operator's groups and the other parameters of `with_oper`. */
int fusion_fuse(struct model *with_oper, struct model **out, struct dha_err *e);

#endif
