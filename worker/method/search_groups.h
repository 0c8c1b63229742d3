/* search_groups.h: the best groups of one layer's heads for a cost that is expensive to evaluate and known only group by
 * group (the output error of shared keys, the residual of shared values). Evaluations are dealt out to the ranks; every
 * rank gets the same groups, whatever the number of ranks.
 */
#ifndef DHA_WORKER_METHOD_SEARCH_GROUPS_H
#define DHA_WORKER_METHOD_SEARCH_GROUPS_H

#include "worker/method/method.h"

#define SEARCH_EXACT_HEADS 12

/* Cost of one group of n >= 2 heads, members ascending. A group of one costs nothing. */
typedef int group_cost_fn(void *arg, const int *members, int n, double *cost, struct dha_err *e);

/* Numbers of groups that a plan offers, ascending, heads included: all of 1..heads for at most 12 heads, above that a
 * ladder {1,2,3,4,6,8,12,16,24,...} and the divisors of heads; only divisors for uniform methods and where any_count is off.
 * counts has room for `heads`; returns their number. */
int search_counts(const struct method *method, int heads, int *counts);

/* group_of[i*heads + h] for counts[i]. Up to 12 heads: exact (all 2^H - H - 1 groups are evaluated). Above: from the sum of
 * pair costs, then moves and swaps judged by the cost itself. */
int search_groups(const struct method_env *env, const char *phase, int heads, group_cost_fn *cost,
                  void *arg, const int *counts, int n_counts, int *group_of, struct dha_err *e);

/* The other way to groups, from pairwise distances: out->distance of the entry [heads * heads] gives a choice for each count. */
int search_distances(const struct method_env *env, struct plan *out, int entry, const int *counts,
                     int n_counts, struct dha_err *e);

#endif
