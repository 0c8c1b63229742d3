#include "worker/method/layer.h"

#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"
#include "worker/method/method.h"
#include "worker/model/expand.h"

size_t layer_numbers(const struct attn_layer *a)
{
    size_t rows = (size_t)a->heads * (size_t)a->dim, width = (size_t)a->width;
    return 4 * rows * width + 3 * rows + width;
}

static int layer_alloc(struct attn_layer *a, int heads, int dim, int width, bool bias,
                       struct dha_err *e)
{
    size_t rows = (size_t)heads * (size_t)dim, mat = rows * (size_t)width;
    *a = (struct attn_layer){.heads = heads, .dim = dim, .width = width, .bias = bias};
    a->block = la_alloc(layer_numbers(a), sizeof(double), "a layer's attention weights", e);
    if (!a->block)
        return -1;
    a->q = a->block;
    a->k = a->q + mat;
    a->v = a->k + mat;
    a->o = a->v + mat;
    if (bias) {
        a->bq = a->o + mat;
        a->bk = a->bq + rows;
        a->bv = a->bk + rows;
        a->bo = a->bv + rows;
    }
    return 0;
}

void layer_finish(struct attn_layer *a)
{
    free(a->block);
    memset(a, 0, sizeof *a);
}

int layer_copy(struct attn_layer *to, const struct attn_layer *from, struct dha_err *e)
{
    if (layer_alloc(to, from->heads, from->dim, from->width, from->bias, e))
        return -1;
    memcpy(to->block, from->block, layer_numbers(from) * sizeof *to->block);
    return 0;
}

/* One parameter of n_heads heads of `each` numbers: dst head h = src head map[h]; NULL map: as it is. */
static int get_heads(struct model *m, int layer, enum layer_param which, double *dst, size_t each,
                     int heads, const int *map, struct dha_err *e)
{
    const struct param *p = model_param(m, layer, which);
    float *tmp = la_alloc(p->n, sizeof *tmp, p->name, e);
    if (!tmp)
        return -1;
    model_get(m, p, tmp);
    for (int h = 0; h < heads; h++) {
        const float *src = tmp + (size_t)(map ? map[h] : h) * each;
        for (size_t i = 0; i < each; i++)
            dst[(size_t)h * each + i] = (double)src[i];
    }
    free(tmp);
    return 0;
}

int layer_load(struct attn_layer *a, struct model *m, int layer, struct dha_err *e)
{
    const struct model_config *c = &m->cfg;
    const int *key_of = c->key_of + (size_t)layer * (size_t)c->heads;
    const int *value_of = c->value_of + (size_t)layer * (size_t)c->heads;
    size_t d = (size_t)c->head_dim, each = d * (size_t)c->hidden;
    /* config.h promises all four together; value biases are folded into o's, so it must not be absent. */
    if (c->attn_bias && !(model_param(m, layer, P_Q_BIAS) && model_param(m, layer, P_K_BIAS) &&
                          model_param(m, layer, P_V_BIAS) && model_param(m, layer, P_O_BIAS)))
        return dha_fail(e, DHA_E_INPUT,
                        "layer %d has only some of the four attention biases (q, k, v, o)", layer);
    if (layer_alloc(a, c->heads, c->head_dim, c->hidden, c->attn_bias, e))
        return -1;
    /* o_proj is [D, H*d]: one "head" of everything. */
    if (get_heads(m, layer, P_Q, a->q, each, c->heads, NULL, e) ||
        get_heads(m, layer, P_K, a->k, each, c->heads, key_of, e) ||
        get_heads(m, layer, P_V, a->v, each, c->heads, value_of, e) ||
        get_heads(m, layer, P_O, a->o, each * (size_t)c->heads, 1, NULL, e))
        goto fail;
    if (c->attn_bias && (get_heads(m, layer, P_Q_BIAS, a->bq, d, c->heads, NULL, e) ||
                         get_heads(m, layer, P_K_BIAS, a->bk, d, c->heads, key_of, e) ||
                         get_heads(m, layer, P_V_BIAS, a->bv, d, c->heads, value_of, e) ||
                         get_heads(m, layer, P_O_BIAS, a->bo, (size_t)c->hidden, 1, NULL, e)))
        goto fail;
    if (method_sync(m->k, "reading a layer's weights", e))
        goto fail;
    return 0;
fail:
    layer_finish(a);
    return -1;
}

/* The inverse: kept head k of the destination = head of src of the first h with map[h] == k. */
static int set_heads(struct model *m, int layer, enum layer_param which, const double *src,
                     size_t each, int heads, const int *map, struct dha_err *e)
{
    const struct param *p = model_param(m, layer, which);
    float *tmp = la_alloc(p->n, sizeof *tmp, p->name, e);
    if (!tmp)
        return -1;
    for (int h = heads - 1; h >= 0; h--) {
        float *dst = tmp + (size_t)(map ? map[h] : h) * each;
        for (size_t i = 0; i < each; i++)
            dst[i] = (float)src[(size_t)h * each + i];
    }
    model_set(m, p, tmp);
    free(tmp);
    return 0;
}

int layer_store(const struct attn_layer *a, struct model *m, int layer, struct dha_err *e)
{
    const struct model_config *c = &m->cfg;
    const int *key_of = c->key_of + (size_t)layer * (size_t)c->heads;
    const int *value_of = c->value_of + (size_t)layer * (size_t)c->heads;
    size_t d = (size_t)a->dim, each = d * (size_t)a->width;
    if (set_heads(m, layer, P_Q, a->q, each, a->heads, NULL, e) ||
        set_heads(m, layer, P_K, a->k, each, a->heads, key_of, e) ||
        set_heads(m, layer, P_V, a->v, each, a->heads, value_of, e) ||
        set_heads(m, layer, P_O, a->o, each * (size_t)a->heads, 1, NULL, e))
        return -1;
    if (a->bias && (set_heads(m, layer, P_Q_BIAS, a->bq, d, a->heads, NULL, e) ||
                    set_heads(m, layer, P_K_BIAS, a->bk, d, a->heads, key_of, e) ||
                    set_heads(m, layer, P_V_BIAS, a->bv, d, a->heads, value_of, e) ||
                    set_heads(m, layer, P_O_BIAS, a->bo, (size_t)a->width, 1, NULL, e)))
        return -1;
    return method_sync(m->k, "writing a layer's weights", e);
}

int method_rebuild(struct model *from, const int *group_of, layer_change *change, void *arg,
                   struct model **out, struct dha_err *e)
{
    struct model *m = NULL;
    *out = NULL;
    if (method_check_groups(group_of, from->cfg.layers, from->cfg.heads, e) ||
        method_with_maps(from, group_of, &m, e))
        return -1;
    for (int l = 0; l < from->cfg.layers; l++) {
        struct attn_layer a; /* shared heads of a GQA input are repeated by layer_load() */
        int rc = layer_load(&a, from, l, e);
        if (rc == 0) {
            rc = change(arg, l, &a, e) || layer_store(&a, m, l, e) ? -1 : 0;
            layer_finish(&a);
        }
        if (rc) {
            model_free(m);
            return -1;
        }
    }
    *out = m;
    return 0;
}

int method_check_groups(const int *group_of, int layers, int heads, struct dha_err *e)
{
    int canonical[MODEL_MAX_HEADS];
    for (int i = 0; i < 2 * layers; i++) {
        const int *g = group_of + (size_t)i * (size_t)heads;
        for (int h = 0; h < heads; h++) {
            canonical[h] = g[h];
            if (g[h] < 0 || g[h] >= heads)
                return dha_fail(e, DHA_E_INTERNAL,
                                "%s groups of layer %d: head %d is in group %d of at most %d",
                                i % 2 ? "value" : "key", i / 2, h, g[h], heads);
        }
        groups_canonical(heads, canonical);
        if (memcmp(canonical, g, (size_t)heads * sizeof *g) != 0)
            return dha_fail(e, DHA_E_INTERNAL,
                            "%s groups of layer %d are not numbered by their smallest head",
                            i % 2 ? "value" : "key", i / 2);
    }
    return 0;
}

static bool in_attention(const struct model *m, int index)
{
    static const enum layer_param attention[] = {P_Q,      P_K,      P_V,      P_O,
                                                 P_Q_BIAS, P_K_BIAS, P_V_BIAS, P_O_BIAS};
    for (size_t i = 0; i < sizeof attention / sizeof *attention; i++)
        for (int l = 0; l < m->cfg.layers; l++)
            if (m->layer[attention[i]][l] == index)
                return true;
    return false;
}

int method_with_maps(struct model *from, const int *group_of, struct model **out, struct dha_err *e)
{
    struct model_config cfg = {0};
    struct model *m = NULL;
    if (model_config_copy(&from->cfg, &cfg, e))
        return -1;
    for (int l = 0; l < cfg.layers; l++) {
        const int *keys = group_of + (size_t)(2 * l) * (size_t)cfg.heads;
        if (model_config_set_map(&cfg, l, false, keys, e) ||
            model_config_set_map(&cfg, l, true, keys + cfg.heads, e))
            goto fail;
    }
    if (model_create(&m, from->k, &cfg, e))
        goto fail;
    /* Both tables have the same names in the same order; only the sizes of k and v differ. */
    for (int i = 0; i < m->n_table; i++)
        if (!in_attention(m, i))
            m->k->ops->copy(m->k, model_view(m, &m->table[i]), model_view(from, &from->table[i]),
                            m->table[i].n);
    if (method_sync(m->k, "copying parameters", e))
        goto fail;
    model_config_finish(&cfg);
    *out = m;
    return 0;
fail:
    model_free(m);
    model_config_finish(&cfg);
    return -1;
}

int method_expand(struct model *m, struct model **mha, bool *owned, struct dha_err *e)
{
    const struct model_config *c = &m->cfg;
    bool is_mha = true;
    for (int i = 0; i < c->layers * c->heads; i++)
        is_mha &= c->key_of[i] == i % c->heads && c->value_of[i] == i % c->heads;
    *owned = !is_mha;
    *mha = m;
    if (!is_mha && model_expand(mha, m, e))
        return dha_err_context(e, "giving every head its own keys and values");
    return 0;
}

int method_check_env(const struct method_env *env, struct dha_err *e)
{
    if (env->calib_tokens < 1) {
        dha_fail(e, DHA_E_INPUT,
                 "the closed form needs calibration tokens, and tokens.search is %lld",
                 (long long)env->calib_tokens);
        return dha_err_hint(e, "32768 tokens are enough for most models");
    }
    if (env->parent->cfg.head_dim % 2)
        return dha_fail(e, DHA_E_INPUT, "head_dim is %d; RoPE planes need an even number",
                        env->parent->cfg.head_dim);
    return corpus_check(env->train, env->seq, e);
}

int method_sync(struct kern *k, const char *doing, struct dha_err *e)
{
    struct kern_err ke = {0};
    if (kern_sync(k, &ke) == 0)
        return 0;
    return dha_fail(e, ke.code == KERN_E_NOMEM ? DHA_E_NO_MEMORY : DHA_E_INTERNAL, "%s: %s", doing,
                    ke.msg);
}
