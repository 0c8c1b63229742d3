/* oper.c: fusion operators on a model (METHODS 1.3, D2): effective K and V weights are mixed once a step, so
 * the cost of an operator does not grow with the number of tokens. Attention biases of K and V are
 * mixed in the same way: at delta the model is exactly the MHA model, bias or not. */
#include <stdlib.h>
#include <string.h>

#include "worker/model/model_impl.h"

struct sizes {
    size_t omega, weight, bias; /* of one entry */
};

static struct sizes sizes_of(const struct model *m)
{
    size_t h = (size_t)m->cfg.heads, d = (size_t)m->cfg.head_dim;
    return (struct sizes){h * h * d, h * d * (size_t)m->cfg.hidden, h * d};
}

static bool is_mha(const struct model_config *c)
{
    return model_config_is_plain_gqa(c) && c->n_key[0] == c->heads;
}

static int write_delta(struct model *m, struct model_oper *o, struct dha_err *e)
{
    size_t n = sizes_of(m).omega, d = (size_t)o->dim, h = (size_t)o->heads;
    float *host = calloc(n, sizeof *host);
    if (!host)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for fusion operators");
    for (size_t i = 0; i < h; i++)
        for (size_t c = 0; c < d; c++)
            host[(i * h + i) * d + c] = 1.0f;
    for (int entry = 0; entry < 2 * o->layers; entry++)
        m->k->ops->upload(m->k, kern_at(o->omega, (size_t)entry * n), host, n);
    int rc = model_check(m->k, "setting up fusion operators", e);
    free(host);
    return rc;
}

static int groups_build(struct model *m, struct model_oper *o, const int *group_of,
                        struct dha_err *e)
{
    size_t entries = 2 * (size_t)o->layers, cells = entries * (size_t)o->heads;
    o->groups = calloc(entries, sizeof *o->groups);
    o->group_of = malloc(cells * sizeof *o->group_of);
    if (!o->groups || !o->group_of)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for fusion operators");
    memcpy(o->group_of, group_of, cells * sizeof *group_of);
    for (size_t i = 0; i < entries; i++) {
        o->groups[i] = m->k->ops->groups_new(m->k, o->heads, group_of + i * (size_t)o->heads);
        if (!o->groups[i])
            return model_fail_kern(&m->k->err, "setting up fusion operators", e);
    }
    return 0;
}

static int buffers_build(struct model *m, struct model_oper *o, struct dha_err *e)
{
    struct sizes s = sizes_of(m);
    size_t entries = 2 * (size_t)o->layers;
    struct kern_buf **bufs[] = {&o->omega, &o->domega,   &o->eff,
                                &o->deff,  &o->eff_bias, &o->deff_bias};
    size_t each[] = {s.omega, s.omega, s.weight, s.weight, s.bias, s.bias};
    for (int i = 0; i < (m->cfg.attn_bias ? 6 : 4); i++) {
        *bufs[i] = m->k->ops->alloc(m->k, KERN_F32, entries * each[i]);
        if (!*bufs[i])
            return model_fail_kern(&m->k->err, "allocating fusion operators", e);
    }
    return 0;
}

int model_oper_attach(struct model *m, const int *group_of, struct dha_err *e)
{
    if (m->oper)
        return dha_fail(e, DHA_E_INTERNAL, "the model has fusion operators already");
    if (!is_mha(&m->cfg)) {
        dha_fail(e, DHA_E_INPUT,
                 "fusion operators need a model with one key and one value head a "
                 "query head");
        return dha_err_hint(e, "use the method \"spectral\", or expand the model first");
    }
    struct model_oper *o = calloc(1, sizeof *o);
    if (!o)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for fusion operators");
    m->oper = o;
    o->heads = m->cfg.heads;
    o->dim = m->cfg.head_dim;
    o->layers = m->cfg.layers;
    if (groups_build(m, o, group_of, e) < 0 || buffers_build(m, o, e) < 0 ||
        write_delta(m, o, e) < 0) {
        model_oper_detach(m);
        return -1;
    }
    model_oper_apply(m);
    return 0;
}

void model_oper_detach(struct model *m)
{
    struct model_oper *o = m->oper;
    if (!o)
        return;
    for (int i = 0; o->groups && i < 2 * o->layers; i++)
        if (o->groups[i])
            m->k->ops->groups_free(m->k, o->groups[i]);
    struct kern_buf *bufs[] = {o->omega, o->domega, o->eff, o->deff, o->eff_bias, o->deff_bias};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        m->k->ops->free(m->k, bufs[i]);
    free(o->groups);
    free(o->group_of);
    free(o);
    m->oper = NULL;
}

void model_oper_apply(struct model *m)
{
    struct model_oper *o = m->oper;
    const struct kern_ops *ops = m->k->ops;
    struct sizes s = sizes_of(m);
    for (int i = 0; i < 2 * o->layers; i++) {
        size_t at = (size_t)i;
        const struct param *w = model_param(m, i / 2, i % 2 ? P_V : P_K);
        const struct param *b = model_param(m, i / 2, i % 2 ? P_V_BIAS : P_K_BIAS);
        ops->fusion_fwd(m->k, kern_at(o->eff, at * s.weight), kern_at(o->omega, at * s.omega),
                        model_view(m, w), o->groups[i], o->heads, o->dim, (size_t)m->cfg.hidden);
        if (b)
            ops->fusion_fwd(m->k, kern_at(o->eff_bias, at * s.bias),
                            kern_at(o->omega, at * s.omega), model_view(m, b), o->groups[i],
                            o->heads, o->dim, 1);
    }
    ops->zero(m->k, kern_at(o->deff, 0), 2 * (size_t)o->layers * s.weight);
    if (o->deff_bias)
        ops->zero(m->k, kern_at(o->deff_bias, 0), 2 * (size_t)o->layers * s.bias);
}

void model_oper_backward(struct model *m, struct kern_buf *grads)
{
    struct model_oper *o = m->oper;
    const struct kern_ops *ops = m->k->ops;
    struct sizes s = sizes_of(m);
    for (int i = 0; i < 2 * o->layers; i++) {
        size_t at = (size_t)i;
        const struct param *w = model_param(m, i / 2, i % 2 ? P_V : P_K);
        const struct param *b = model_param(m, i / 2, i % 2 ? P_V_BIAS : P_K_BIAS);
        struct kern_view omega = kern_at(o->omega, at * s.omega);
        struct kern_view domega = kern_at(o->domega, at * s.omega);
        ops->fusion_bwd(m->k, kern_at(grads, w->off), domega, kern_at(o->deff, at * s.weight),
                        omega, model_view(m, w), o->groups[i], o->heads, o->dim,
                        (size_t)m->cfg.hidden);
        if (b)
            ops->fusion_bwd(m->k, kern_at(grads, b->off), domega,
                            kern_at(o->deff_bias, at * s.bias), omega, model_view(m, b),
                            o->groups[i], o->heads, o->dim, 1);
    }
}
