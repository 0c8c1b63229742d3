/* pool.c: mean pooling of the key and value projections in each group (METHODS 3.1): the baselines gqa and mqa. */
#include <math.h>

#include "worker/method/layer.h"
#include "worker/method/method.h"
#include "worker/method/spectral.h"

/* Mean Frobenius norm of the members over that of their mean (METHODS 2.9); rows [heads * each]. */
static double norm_ratio(const double *rows, size_t each, const int *members, int n)
{
    double norms = 0.0, of_mean = 0.0;
    for (int i = 0; i < n; i++) {
        double sum = 0.0;
        for (size_t c = 0; c < each; c++)
            sum += rows[(size_t)members[i] * each + c] * rows[(size_t)members[i] * each + c];
        norms += sqrt(sum) / n;
    }
    for (size_t c = 0; c < each; c++) {
        double mean = 0.0;
        for (int i = 0; i < n; i++)
            mean += rows[(size_t)members[i] * each + c] / n;
        of_mean += mean * mean;
    }
    return of_mean > 0.0 && norms > 0.0 ? norms / sqrt(of_mean) : 1.0;
}

/* Every member's rows (of `each` numbers) become `scale` times the mean of the members'. */
static void pool_rows(double *rows, size_t each, const int *members, int n, double scale)
{
    for (size_t c = 0; c < each; c++) {
        double sum = 0.0;
        for (int i = 0; i < n; i++)
            sum += rows[(size_t)members[i] * each + c];
        for (int i = 0; i < n; i++)
            rows[(size_t)members[i] * each + c] = scale * sum / n;
    }
}

static void pool_layer(struct attn_layer *a, const int *group_of, double *weight, double *bias,
                       bool norm_restore)
{
    int members[MODEL_MAX_HEADS];
    for (int g = 0; g < a->heads; g++) {
        int n = group_members(group_of, a->heads, g, members);
        if (n < 2)
            continue;
        size_t each = (size_t)a->dim * (size_t)a->width;
        double scale = norm_restore ? norm_ratio(weight, each, members, n) : 1.0;
        pool_rows(weight, each, members, n, scale);
        if (bias)
            pool_rows(bias, (size_t)a->dim, members, n, scale);
    }
}

struct pool {
    const int *group_of;
    bool norm_restore;
};

static int pool_both(void *arg, int layer, struct attn_layer *a, struct dha_err *e)
{
    const struct pool *p = arg;
    const int *keys = p->group_of + 2 * layer * a->heads;
    (void)e;
    pool_layer(a, keys, a->k, a->bk, p->norm_restore);
    pool_layer(a, keys + a->heads, a->v, a->bv, p->norm_restore);
    return 0;
}

int meanpool_merge(const struct method_env *env, const int *group_of, struct model **out,
                   struct dha_err *e)
{
    struct pool p = {group_of, env->method->norm_restore};
    int rc = method_rebuild(env->parent, group_of, pool_both, &p, out, e);
    return rc ? dha_err_context(e, "mean pooling") : 0;
}
