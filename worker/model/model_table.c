/* model_table.c: the parameter table of a config, and the rotary table. */
#include "worker/model/model_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int add(struct model *m, int64_t rows, int64_t cols, int n_dims, const char *name)
{
    struct param *p = &m->table[m->n_table];
    *p = (struct param){.off = m->n_params,
                        .n = (size_t)rows * (size_t)cols,
                        .rows = rows,
                        .cols = cols,
                        .n_dims = n_dims};
    snprintf(p->name, sizeof p->name, "%s", name);
    m->n_params += p->n;
    return m->n_table++;
}

static void add_layer(struct model *m, int l)
{
    const struct model_config *c = &m->cfg;
    int64_t hidden = c->hidden, ffn = c->ffn, dim = c->head_dim;
    int64_t q = c->heads * dim, k = c->n_key[l] * dim, v = c->n_value[l] * dim;
    const struct {
        enum layer_param p;
        const char *name;
        int64_t rows, cols;
        int n_dims;
        bool there;
    } part[] = {
        /* the order in the arena: model.h */
        {P_ATTN_NORM, "input_layernorm.weight", hidden, 1, 1, true},
        {P_Q, "self_attn.q_proj.weight", q, hidden, 2, true},
        {P_K, "self_attn.k_proj.weight", k, hidden, 2, true},
        {P_V, "self_attn.v_proj.weight", v, hidden, 2, true},
        {P_O, "self_attn.o_proj.weight", hidden, q, 2, true},
        {P_Q_BIAS, "self_attn.q_proj.bias", q, 1, 1, c->attn_bias},
        {P_K_BIAS, "self_attn.k_proj.bias", k, 1, 1, c->attn_bias},
        {P_V_BIAS, "self_attn.v_proj.bias", v, 1, 1, c->attn_bias},
        {P_O_BIAS, "self_attn.o_proj.bias", hidden, 1, 1, c->attn_bias},
        {P_MLP_NORM, "post_attention_layernorm.weight", hidden, 1, 1, true},
        {P_GATE, "mlp.gate_proj.weight", ffn, hidden, 2, true},
        {P_UP, "mlp.up_proj.weight", ffn, hidden, 2, true},
        {P_DOWN, "mlp.down_proj.weight", hidden, ffn, 2, true},
    };
    _Static_assert(sizeof part / sizeof *part == P_COUNT, "a row for every layer_param");
    for (size_t i = 0; i < P_COUNT; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.%s", l, part[i].name);
        m->layer[part[i].p][l] = part[i].there
                                     ? add(m, part[i].rows, part[i].cols, part[i].n_dims, name)
                                     : -1;
    }
}

int model_table_build(struct model *m, struct dha_err *e)
{
    const struct model_config *c = &m->cfg;
    m->table = calloc((size_t)c->layers * P_COUNT + 3, sizeof *m->table);
    bool missing = !m->table;
    for (int p = 0; p < P_COUNT; p++) {
        m->layer[p] = calloc((size_t)c->layers, sizeof *m->layer[p]);
        missing = missing || !m->layer[p];
    }
    if (missing)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a parameter table");
    m->embed = add(m, c->vocab, c->hidden, 2, "model.embed_tokens.weight");
    for (int l = 0; l < c->layers; l++)
        add_layer(m, l);
    m->norm = add(m, c->hidden, 1, 1, "model.norm.weight");
    m->head = c->tied ? m->embed : add(m, c->vocab, c->hidden, 2, "lm_head.weight");
    return 0;
}

/* The angle a position, of plane i. llama3 (transformers' modeling_rope_utils): planes whose wave is longer than the
 * original context are slowed down by `factor`, those well inside it are left alone, linear in between. */
double model_rope_angle(const struct model_config *c, int i)
{
    double inv = pow(c->rope_theta, -2.0 * i / c->head_dim);
    if (c->rope == ROPE_LINEAR)
        return inv / c->rope_factor;
    if (c->rope == ROPE_DEFAULT)
        return inv;
    double turns = c->rope_original_positions * inv / (2 * acos(-1)); /* in the original context */
    if (turns < c->rope_low_freq)
        return inv / c->rope_factor;
    if (turns > c->rope_high_freq)
        return inv;
    double keep = (turns - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return (1 - keep) * inv / c->rope_factor + keep * inv;
}

int model_slow_planes(const struct model_config *c)
{
    int planes = c->head_dim / 2, n = 0;
    while (n < planes && model_rope_angle(c, planes - 1 - n) * c->max_positions <= 1.0)
        n++;
    return n;
}

void model_rope_table(const struct model_config *c, int positions, float *out)
{
    int half = c->head_dim / 2;
    for (int i = 0; i < half; i++) {
        double inv = model_rope_angle(c, i);
        for (int t = 0; t < positions; t++) {
            float *row = out + (size_t)t * (size_t)c->head_dim;
            row[i] = (float)cos(t * inv);
            row[half + i] = (float)sin(t * inv);
        }
    }
}

/* The table grows with the longest run: published configs allow 131072 positions and more (64 MiB a table at
 * head_dim 128), most runs need a few thousand. */
int model_rope_need(struct model *m, int positions, struct dha_err *e)
{
    if (positions <= m->rope_rows)
        return 0;
    size_t n = (size_t)positions * (size_t)m->cfg.head_dim;
    float *host = malloc(n * sizeof *host);
    struct kern_buf *rope = NULL;
    struct kern_err err;
    int rc = -1;
    if (!host) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for %d positions of rotary embedding", positions);
        goto done;
    }
    model_rope_table(&m->cfg, positions, host);
    rope = m->k->ops->alloc(m->k, KERN_F32, n);
    if (!rope) {
        model_fail_kern(&m->k->err, "allocating the rotary table", e);
        goto done;
    }
    m->k->ops->upload(m->k, kern_at(rope, 0), host, n);
    /* nothing that is under way may still read the old table; the upload has its source until here */
    if (kern_sync(m->k, &err) < 0) {
        model_fail_kern(&err, "uploading the rotary table", e);
        goto done;
    }
    m->k->ops->free(m->k, m->rope);
    m->rope = rope;
    m->rope_rows = positions;
    rope = NULL;
    rc = 0;
done:
    m->k->ops->free(m->k, rope);
    free(host);
    return rc;
}

int model_fail_kern(const struct kern_err *k, const char *doing, struct dha_err *e)
{
    enum dha_code code = k->code == KERN_E_NOMEM         ? DHA_E_NO_MEMORY
                         : k->code == KERN_E_UNSUPPORTED ? DHA_E_INPUT
                                                         : DHA_E_INTERNAL;
    return dha_fail(e, code, "%s: %s", doing, k->msg[0] ? k->msg : "the compute backend failed");
}

int model_check(struct kern *k, const char *doing, struct dha_err *e)
{
    struct kern_err err;
    return kern_sync(k, &err) < 0 ? model_fail_kern(&err, doing, e) : 0;
}
