/* expand.c: see expand.h. Copies stay on the device. */
#include "worker/model/expand.h"

static int identity_config(const struct model_config *from, struct model_config *c,
                           struct dha_err *e)
{
    int straight[MODEL_MAX_HEADS];
    if (model_config_copy(from, c, e) < 0)
        return -1;
    for (int h = 0; h < c->heads; h++)
        straight[h] = h;
    for (int l = 0; l < c->layers; l++)
        if (model_config_set_map(c, l, false, straight, e) < 0 ||
            model_config_set_map(c, l, true, straight, e) < 0) {
            model_config_finish(c);
            return -1;
        }
    return 0;
}

static void repeat_heads(struct model *to, const struct model *from, int layer, enum layer_param p,
                         const int *map)
{
    const struct param *dst = model_param(to, layer, p), *src = model_param(from, layer, p);
    if (!dst)
        return;
    size_t head = (size_t)from->cfg.head_dim * (size_t)src->cols;
    for (int h = 0; h < from->cfg.heads; h++)
        to->k->ops->copy(to->k, kern_plus(model_view(to, dst), (size_t)h * head),
                         kern_plus(model_view(from, src), (size_t)map[h] * head), head);
}

int model_expand(struct model **out, struct model *from, struct dha_err *e)
{
    struct model_config c;
    *out = NULL;
    if (identity_config(&from->cfg, &c, e) < 0)
        return -1;
    int rc = model_create(out, from->k, &c, e);
    model_config_finish(&c);
    if (rc < 0)
        return -1;
    struct model *to = *out;
    for (int i = 0; i < 3; i++) {
        int a = (int[]){from->embed, from->norm, from->head}[i];
        int b = (int[]){to->embed, to->norm, to->head}[i];
        to->k->ops->copy(to->k, model_view(to, &to->table[b]), model_view(from, &from->table[a]),
                         from->table[a].n);
    }
    for (int l = 0; l < from->cfg.layers; l++) {
        const int *key = from->cfg.key_of + l * from->cfg.heads;
        const int *value = from->cfg.value_of + l * from->cfg.heads;
        for (int p = 0; p < P_COUNT; p++) {
            if (p == P_K || p == P_K_BIAS) {
                repeat_heads(to, from, l, (enum layer_param)p, key);
            } else if (p == P_V || p == P_V_BIAS) {
                repeat_heads(to, from, l, (enum layer_param)p, value);
            } else {
                const struct param *src = model_param(from, l, (enum layer_param)p);
                if (src)
                    to->k->ops->copy(to->k, model_view(to, model_param(to, l, (enum layer_param)p)),
                                     model_view(from, src), src->n);
            }
        }
    }
    return 0;
}
