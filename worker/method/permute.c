#include "worker/method/permute.h"

#include <string.h>

#include "worker/method/layer.h"

void permute_order(int heads, const int *group_of, int *order)
{
    int n = 0;
    for (int g = 0; g < heads; g++)
        for (int h = 0; h < heads; h++)
            if (group_of[h] == g)
                order[n++] = h;
}

/* to [rows, heads*each] <- from, blocks of `each` numbers of every row in the new order */
static void reorder(const double *from, double *to, size_t rows, int heads, size_t each,
                    const int *order)
{
    size_t width = (size_t)heads * each;
    for (size_t r = 0; r < rows; r++)
        for (int h = 0; h < heads; h++)
            memcpy(to + r * width + (size_t)h * each, from + r * width + (size_t)order[h] * each,
                   each * sizeof *to);
}

static int permute_layer(struct model *from, struct model *to, int layer, const int *order,
                         struct dha_err *e)
{
    struct attn_layer a = {0}, b = {0};
    int rc = -1;
    if (layer_load(&a, from, layer, e) || layer_copy(&b, &a, e))
        goto out;
    size_t d = (size_t)a.dim, each = d * (size_t)a.width;
    reorder(a.q, b.q, 1, a.heads, each, order);
    reorder(a.k, b.k, 1, a.heads, each, order);
    reorder(a.v, b.v, 1, a.heads, each, order);
    reorder(a.o, b.o, (size_t)a.width, a.heads, d, order);
    if (a.bias) { /* o's bias belongs to no head */
        reorder(a.bq, b.bq, 1, a.heads, d, order);
        reorder(a.bk, b.bk, 1, a.heads, d, order);
        reorder(a.bv, b.bv, 1, a.heads, d, order);
    }
    rc = layer_store(&b, to, layer, e);
out:
    layer_finish(&b);
    layer_finish(&a);
    return rc;
}

int permute_heads(struct model *from, int *group_of, struct model **out, struct dha_err *e)
{
    int layers = from->cfg.layers, heads = from->cfg.heads, order[MODEL_MAX_HEADS];
    size_t bytes = (size_t)heads * sizeof *group_of;
    struct model *m = NULL;
    *out = NULL;
    if (method_check_groups(group_of, layers, heads, e) || model_clone(&m, from, e))
        goto fail;
    for (int l = 0; l < layers; l++) {
        int *keys = group_of + 2 * l * heads, *values = keys + heads, now[MODEL_MAX_HEADS];
        if (memcmp(keys, values, bytes) != 0) {
            dha_fail(e, DHA_E_INTERNAL,
                     "keys and values of layer %d have different groups: no order makes both "
                     "contiguous",
                     l);
            goto fail;
        }
        permute_order(heads, keys, order);
        if (permute_layer(from, m, l, order, e))
            goto fail;
        for (int i = 0; i < heads; i++)
            now[i] = keys[order[i]];
        memcpy(keys, now, bytes);
        memcpy(values, now, bytes);
    }
    *out = m;
    return 0;
fail:
    model_free(m);
    return dha_err_context(e, "putting the heads into the groups' order");
}
