/* oper.c: operators on a model: what both kinds share, and fusion operators (METHODS 1.3, D2): effective K and V weights are
 * mixed once a step, so the cost of an operator does not grow with the number of tokens. Attention biases of K and V are
 * mixed in the same way: at delta the model is exactly the MHA model, bias or not. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/model/mask.h"
#include "worker/model/oper_impl.h"

struct oper_sizes oper_sizes(const struct model *m)
{
    size_t h = (size_t)m->cfg.heads, d = (size_t)m->cfg.head_dim;
    return (struct oper_sizes){h * h * d, h * d * (size_t)m->cfg.hidden, h * d};
}

static bool is_mha(const struct model_config *c)
{
    return model_config_is_plain_gqa(c) && c->n_key[0] == c->heads;
}

static int write_delta(struct model *m, struct model_oper *o, struct dha_err *e)
{
    size_t n = oper_sizes(m).omega, d = (size_t)o->dim, h = (size_t)o->heads;
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

static int buffers_build(struct model *m, struct model_oper *o, bool fusion, struct dha_err *e)
{
    struct oper_sizes s = oper_sizes(m);
    size_t entries = 2 * (size_t)o->layers, bias = m->cfg.attn_bias ? s.bias : 0;
    struct {
        struct kern_buf **buf;
        size_t each;
    } need[] = {{&o->eff, s.weight},
                {&o->deff, s.weight},
                {&o->eff_bias, bias},
                {&o->deff_bias, bias},
                {&o->omega, fusion ? s.omega : 0},
                {&o->domega, fusion ? s.omega : 0},
                {&o->tied, fusion ? s.omega : 0},
                {&o->dtied, fusion ? s.omega : 0}};
    for (size_t i = 0; i < sizeof need / sizeof *need; i++) {
        if (need[i].each == 0)
            continue;
        *need[i].buf = m->k->ops->alloc(m->k, KERN_F32, entries * need[i].each);
        if (!*need[i].buf)
            return model_fail_kern(&m->k->err, "allocating operators", e);
    }
    return 0;
}

static int restore_build(struct model_oper *o, struct dha_err *e)
{
    size_t n = 2 * (size_t)o->layers * (size_t)o->heads;
    o->restore = malloc(n * sizeof *o->restore);
    if (!o->restore)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for fusion operators");
    for (size_t i = 0; i < n; i++)
        o->restore[i] = 1.0f;
    return 0;
}

int oper_begin(struct model *m, const int *group_of, bool fusion, struct dha_err *e)
{
    if (m->oper)
        return dha_fail(e, DHA_E_INTERNAL, "the model has operators already");
    if (!is_mha(&m->cfg)) {
        dha_fail(e, DHA_E_INPUT,
                 "fusion operators and masks need a model with one key and one value head a "
                 "query head");
        return dha_err_hint(e, "use the method \"spectral\", or expand the model first");
    }
    struct model_oper *o = calloc(1, sizeof *o);
    if (!o)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for operators");
    m->oper = o;
    o->heads = m->cfg.heads;
    o->dim = m->cfg.head_dim;
    o->layers = m->cfg.layers;
    o->share[0] = o->share[1] = 1;
    if (groups_build(m, o, group_of, e) < 0 || buffers_build(m, o, fusion, e) < 0 ||
        restore_build(o, e) < 0) {
        model_oper_detach(m);
        return -1;
    }
    return 0;
}

int model_oper_attach(struct model *m, const int *group_of, struct dha_err *e)
{
    if (oper_begin(m, group_of, true, e) < 0)
        return -1;
    if (write_delta(m, m->oper, e) < 0) {
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
    model_mask_free(m, o->mask);
    struct kern_buf *bufs[] = {o->omega, o->domega, o->tied,     o->dtied,
                               o->eff,   o->deff,   o->eff_bias, o->deff_bias};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        m->k->ops->free(m->k, bufs[i]);
    free(o->groups);
    free(o->group_of);
    free(o->restore);
    free(o);
    m->oper = NULL;
}

void model_oper_share(struct model *m, bool scalar, bool rope_tied)
{
    m->oper->share[0] = scalar ? m->oper->dim : rope_tied ? 2 : 1;
    m->oper->share[1] = scalar ? m->oper->dim : 1;
}

/* Frobenius norm of the mean of a group's heads, and the mean of their norms; w [heads * each]. */
static int group_norms(struct model *m, struct kern_view w, size_t each, const int *group_of, int g,
                       double *of_mean, double *mean, struct dha_err *e)
{
    const struct kern_ops *ops = m->k->ops;
    struct kern_buf *sum = ops->alloc(m->k, KERN_F32, each);
    int n = 0;
    *mean = 0;
    if (!sum)
        return model_fail_kern(&m->k->err, "measuring the norms of heads", e);
    for (int h = 0; h < m->cfg.heads; h++) {
        if (group_of[h] != g)
            continue;
        n++;
        ops->axpy(m->k, kern_at(sum, 0), 1.0f, kern_plus(w, (size_t)h * each), each);
        *mean += sqrt(ops->sumsq(m->k, kern_plus(w, (size_t)h * each), each));
    }
    *of_mean = n ? sqrt(ops->sumsq(m->k, kern_at(sum, 0), each)) / n : 0;
    *mean /= n ? n : 1;
    ops->free(m->k, sum);
    return model_check(m->k, "measuring the norms of heads", e);
}

int oper_norm_ratio(struct model *m, int entry, int g, double *ratio, struct dha_err *e)
{
    double of_mean = 0, mean = 0;
    const struct param *w = model_param(m, entry / 2, entry % 2 ? P_V : P_K);
    if (group_norms(m, model_view(m, w), w->n / (size_t)m->cfg.heads,
                    m->oper->group_of + (size_t)entry * (size_t)m->cfg.heads, g, &of_mean, &mean,
                    e))
        return -1;
    /* heads that cancel, or a number that has no head: nothing to restore */
    *ratio = of_mean > 0 && mean > 0 ? mean / of_mean : 1.0;
    return 0;
}

int model_oper_restore_norms(struct model *m, struct dha_err *e)
{
    struct model_oper *o = m->oper;
    for (int i = 0; i < 2 * o->layers; i++)
        for (int g = 0; g < o->heads; g++) {
            double ratio;
            if (oper_norm_ratio(m, i, g, &ratio, e))
                return -1;
            o->restore[i * o->heads + g] = (float)ratio;
        }
    return 0;
}

/* to += the tied form of from, for all entries; the same for gradients, whose map is the transpose and that is itself. */
static void tie(struct model *m, struct kern_buf *to, struct kern_buf *from)
{
    struct model_oper *o = m->oper;
    size_t n = oper_sizes(m).omega;
    float pull[MODEL_MAX_HEADS];
    for (int i = 0; i < 2 * o->layers; i++) {
        for (int g = 0; g < o->heads; g++)
            pull[g] = (float)(o->contract * (double)o->restore[i * o->heads + g]);
        m->k->ops->fusion_tie(m->k, kern_at(to, (size_t)i * n), kern_at(from, (size_t)i * n),
                              o->groups[i], o->heads, o->dim, o->share[i % 2],
                              (float)(1.0 - o->contract), pull);
    }
}

void model_oper_settle(struct model *m)
{
    struct model_oper *o = m->oper;
    size_t n = 2 * (size_t)o->layers * oper_sizes(m).omega;
    m->k->ops->zero(m->k, kern_at(o->tied, 0), n);
    tie(m, o->tied, o->omega);
    m->k->ops->copy(m->k, kern_at(o->omega, 0), kern_at(o->tied, 0), n);
    o->contract = 0;
    for (int i = 0; i < 2 * o->layers * o->heads; i++)
        o->restore[i] = 1.0f;
}

static void fusion_apply(struct model *m)
{
    struct model_oper *o = m->oper;
    const struct kern_ops *ops = m->k->ops;
    struct oper_sizes s = oper_sizes(m);
    ops->zero(m->k, kern_at(o->tied, 0), 2 * (size_t)o->layers * s.omega);
    tie(m, o->tied, o->omega);
    for (int i = 0; i < 2 * o->layers; i++) {
        size_t at = (size_t)i;
        const struct param *w = model_param(m, i / 2, i % 2 ? P_V : P_K);
        const struct param *b = model_param(m, i / 2, i % 2 ? P_V_BIAS : P_K_BIAS);
        struct kern_view omega = kern_at(o->tied, at * s.omega);
        ops->fusion_fwd(m->k, kern_at(o->eff, at * s.weight), omega, model_view(m, w), o->groups[i],
                        o->heads, o->dim, (size_t)m->cfg.hidden);
        if (b)
            ops->fusion_fwd(m->k, kern_at(o->eff_bias, at * s.bias), omega, model_view(m, b),
                            o->groups[i], o->heads, o->dim, 1);
    }
}

static void fusion_backward(struct model *m, struct kern_buf *grads)
{
    struct model_oper *o = m->oper;
    const struct kern_ops *ops = m->k->ops;
    struct oper_sizes s = oper_sizes(m);
    ops->zero(m->k, kern_at(o->dtied, 0), 2 * (size_t)o->layers * s.omega);
    for (int i = 0; i < 2 * o->layers; i++) {
        size_t at = (size_t)i;
        const struct param *w = model_param(m, i / 2, i % 2 ? P_V : P_K);
        const struct param *b = model_param(m, i / 2, i % 2 ? P_V_BIAS : P_K_BIAS);
        struct kern_view omega = kern_at(o->tied, at * s.omega);
        struct kern_view domega = kern_at(o->dtied, at * s.omega);
        ops->fusion_bwd(m->k, kern_at(grads, w->off), domega, kern_at(o->deff, at * s.weight),
                        omega, model_view(m, w), o->groups[i], o->heads, o->dim,
                        (size_t)m->cfg.hidden);
        if (b)
            ops->fusion_bwd(m->k, kern_at(grads, b->off), domega,
                            kern_at(o->deff_bias, at * s.bias), omega, model_view(m, b),
                            o->groups[i], o->heads, o->dim, 1);
    }
    tie(m, o->domega, o->dtied);
}

void model_oper_apply(struct model *m)
{
    struct model_oper *o = m->oper;
    struct oper_sizes s = oper_sizes(m);
    if (o->mask)
        oper_mask_apply(m);
    else
        fusion_apply(m);
    m->k->ops->zero(m->k, kern_at(o->deff, 0), 2 * (size_t)o->layers * s.weight);
    if (o->deff_bias)
        m->k->ops->zero(m->k, kern_at(o->deff_bias, 0), 2 * (size_t)o->layers * s.bias);
}

void model_oper_backward(struct model *m, struct kern_buf *grads)
{
    if (m->oper->mask)
        oper_mask_backward(m, grads);
    else
        fusion_backward(m, grads);
}
