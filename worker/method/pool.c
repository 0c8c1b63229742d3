/* pool.c: mean pooling of the key and value projections in each group (METHODS 3.1): the baselines gqa and mqa. */
#include "worker/method/layer.h"
#include "worker/method/method.h"
#include "worker/method/spectral.h"

/* Every member's rows (of `each` numbers) become the mean of the members'. */
static void pool_rows(double *rows, size_t each, const int *members, int n)
{
    for (size_t c = 0; c < each; c++) {
        double sum = 0.0;
        for (int i = 0; i < n; i++)
            sum += rows[(size_t)members[i] * each + c];
        for (int i = 0; i < n; i++)
            rows[(size_t)members[i] * each + c] = sum / n;
    }
}

static void pool_layer(struct attn_layer *a, const int *group_of, double *weight, double *bias)
{
    int members[MODEL_MAX_HEADS];
    for (int g = 0; g < a->heads; g++) {
        int n = group_members(group_of, a->heads, g, members);
        if (n < 2)
            continue;
        pool_rows(weight, (size_t)a->dim * (size_t)a->width, members, n);
        if (bias)
            pool_rows(bias, (size_t)a->dim, members, n);
    }
}

int meanpool_merge(const struct method_env *env, const int *group_of, struct model **out,
                   struct dha_err *e)
{
    struct model *from = env->parent, *m = NULL;
    int heads = from->cfg.heads, layers = from->cfg.layers;
    *out = NULL;
    if (method_check_groups(group_of, layers, heads, e) || method_with_maps(from, group_of, &m, e))
        return dha_err_context(e, "mean pooling");
    for (int l = 0; l < layers; l++) {
        struct attn_layer a; /* shared heads of a GQA input are repeated by layer_load() */
        if (layer_load(&a, from, l, e))
            goto fail;
        pool_layer(&a, group_of + 2 * l * heads, a.k, a.bk);
        pool_layer(&a, group_of + (2 * l + 1) * heads, a.v, a.bv);
        int rc = layer_store(&a, m, l, e);
        layer_finish(&a);
        if (rc)
            goto fail;
    }
    *out = m;
    return 0;
fail:
    model_free(m);
    return dha_err_context(e, "mean pooling");
}
