/* similarity.h: groups from how alike heads are once they are aligned (METHODS 2.3, 2.4): one grouping for keys and values, or
 * (grouping "aligned", ours) each by their own.
 *
 * The moments of a layer are the cross-Grams of its heads' key or value outputs, E[x_i^T x_j] for all i and j at once. RoPE
 * turns both sides of a plane alike, so that what alignment reads of the keys' moments is the same before and after it.
 */
#ifndef DHA_WORKER_METHOD_SIMILARITY_H
#define DHA_WORKER_METHOD_SIMILARITY_H

#include "worker/method/method.h"

/* What alignment gets out of one pair: max over Q of tr(Q^T M) for M = X_i^T X_j [d,d]. Values, Q orthogonal: the nuclear norm
 * of M. Keys, one rotation a plane: sum over planes of hypot(alpha, beta). */
int similarity_fit(bool values, int d, const double *m, double *fit, struct dha_err *e);

/* distance [heads*heads] from moments [heads*d, heads*d]; symmetric, 0 on the diagonal.
 *   dist   tr G_ii + tr G_jj - 2 fit(G_ij) = mean over tokens of |x_i Q - x_j|^2
 *   cos    1 - fit(G_ij), moments of token vectors of length 1: 1 - the mean row cosine
 * Pairs are dealt out to the ranks; every rank gets the same matrix. */
int similarity_distance(struct comm *comm, bool values, enum method_criterion criterion, int heads,
                        int d, const double *moments, double *distance, struct dha_err *e);

/* Calibration over env->calib_tokens tokens, distances of the item and criterion of env->method, and for each count of
 * search_counts() the groups with the least sum of them (equal ones, unless any_count). Both entries of a layer get the
 * same groups if only keys or values are compared. */
int similarity_plan(const struct method_env *env, struct plan *out, struct dha_err *e);

#endif
