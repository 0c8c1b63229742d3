/* mask.c: effective weights between original and merged heads, and their gradients. The formulas are in mask.h. */
#include "worker/model/mask.h"

#include <math.h>
#include <stdlib.h>

#include "worker/model/oper_impl.h"

/* One head of one entry: its own weights (and bias) and those of its group. */
struct head {
    size_t n, eff, merged; /* elements; offsets in eff and merged */
    const struct param *w; /* of all heads */
    struct kern_view own;  /* this head's */
    size_t grad;           /* its offset in the parameters */
    struct kern_buf *eff_buf, *deff_buf;
};

static struct head head_of(const struct model *m, int entry, int h, bool bias)
{
    const struct model_oper *o = m->oper;
    struct oper_sizes s = oper_sizes(m);
    const struct param *w = model_param(
        m, entry / 2, bias ? (entry % 2 ? P_V_BIAS : P_K_BIAS) : (entry % 2 ? P_V : P_K));
    size_t all = bias ? s.bias : s.weight, n = all / (size_t)o->heads;
    size_t g = (size_t)o->group_of[entry * o->heads + h];
    const size_t *at = bias ? o->mask->bias_at : o->mask->at;
    return (struct head){.n = n,
                         .eff = (size_t)entry * all + (size_t)h * n,
                         .merged = at[entry] + g * n,
                         .w = w,
                         .own = kern_plus(model_view(m, w), (size_t)h * n),
                         .grad = w->off + (size_t)h * n,
                         .eff_buf = bias ? o->eff_bias : o->eff,
                         .deff_buf = bias ? o->deff_bias : o->deff};
}

typedef void each_head(struct model *m, int entry, int h, const struct head *a, void *arg);

static void for_each_head(struct model *m, each_head *f, void *arg)
{
    for (int i = 0; i < 2 * m->oper->layers; i++)
        for (int h = 0; h < m->oper->heads; h++)
            for (int bias = 0; bias <= (int)m->cfg.attn_bias; bias++) {
                struct head a = head_of(m, i, h, bias);
                f(m, i, h, &a, arg);
            }
}

static void apply(struct model *m, int entry, int h, const struct head *a, void *arg)
{
    const struct kern_ops *ops = m->k->ops;
    struct model_mask *mask = m->oper->mask;
    float z = mask->z[entry / 2 * m->oper->heads + h];
    struct kern_view eff = kern_at(a->eff_buf, a->eff);
    (void)arg;
    /* the parameter that no longer counts is not read: it may grow without bound */
    if (z == 0) {
        ops->copy(m->k, eff, kern_at(mask->merged, a->merged), a->n);
        return;
    }
    ops->copy(m->k, eff, a->own, a->n);
    if (z == 1)
        return;
    ops->scale(m->k, eff, z, a->n);
    ops->axpy(m->k, eff, 1.0f - z, kern_at(mask->merged, a->merged), a->n);
}

void oper_mask_apply(struct model *m)
{
    for_each_head(m, apply, NULL);
}

static void backward(struct model *m, int entry, int h, const struct head *a, void *arg)
{
    const struct kern_ops *ops = m->k->ops;
    struct kern_buf *grads = arg;
    struct model_mask *mask = m->oper->mask;
    size_t i = (size_t)(entry / 2 * m->oper->heads + h);
    float z = mask->z[i];
    struct kern_view deff = kern_at(a->deff_buf, a->eff), merged = kern_at(mask->merged, a->merged);
    ops->axpy(m->k, kern_at(grads, a->grad), z, deff, a->n);
    ops->axpy(m->k, kern_at(mask->dmerged, a->merged), 1.0f - z, deff, a->n);
    mask->dz[i] += ops->dot(m->k, deff, a->own, a->n) - ops->dot(m->k, deff, merged, a->n);
}

void oper_mask_backward(struct model *m, struct kern_buf *grads)
{
    struct model_oper *o = m->oper;
    for (int i = 0; i < o->layers * o->heads; i++)
        o->mask->dz[i] = 0;
    for_each_head(m, backward, grads);
}

/* ---- set-up --------------------------------------------------------------------------------------- */

static int lay_out(struct model *m, struct model_mask *mask, struct dha_err *e)
{
    const struct model_oper *o = m->oper;
    struct oper_sizes s = oper_sizes(m);
    size_t entries = 2 * (size_t)o->layers, heads = (size_t)o->heads, z = entries / 2 * heads;
    mask->at = calloc(2 * entries, sizeof *mask->at);
    mask->z = malloc(z * sizeof *mask->z);
    mask->dz = calloc(z, sizeof *mask->dz);
    if (!mask->at || !mask->z || !mask->dz)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for masks");
    mask->bias_at = mask->at + entries;
    for (size_t i = 0; i < z; i++)
        mask->z[i] = 1.0f;
    for (size_t i = 0; i < entries; i++) {
        int groups = 0;
        for (size_t h = 0; h < heads; h++)
            if (o->group_of[i * heads + h] >= groups)
                groups = o->group_of[i * heads + h] + 1;
        mask->at[i] = mask->n;
        mask->n += (size_t)groups * s.weight / heads;
        mask->bias_at[i] = mask->n;
        if (m->cfg.attn_bias)
            mask->n += (size_t)groups * s.bias / heads;
    }
    mask->merged = m->k->ops->alloc(m->k, KERN_F32, mask->n);
    mask->dmerged = m->k->ops->alloc(m->k, KERN_F32, mask->n);
    if (!mask->merged || !mask->dmerged)
        return model_fail_kern(&m->k->err, "allocating merged heads", e);
    return 0;
}

/* Adds a head's share of its group's mean. arg: how much a member of (entry, group) counts. */
static void gather(struct model *m, int entry, int h, const struct head *a, void *arg)
{
    const double *share = arg;
    int heads = m->oper->heads, g = m->oper->group_of[entry * heads + h];
    m->k->ops->axpy(m->k, kern_at(m->oper->mask->merged, a->merged),
                    (float)share[entry * heads + g], a->own, a->n);
}

static int fill_merged(struct model *m, bool norm_restore, struct dha_err *e)
{
    const struct model_oper *o = m->oper;
    int cells = 2 * o->layers * o->heads, rc = -1;
    double *share = calloc((size_t)cells, sizeof *share);
    if (!share)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for masks");
    for (int i = 0; i < cells; i++) /* group sizes */
        share[i - i % o->heads + o->group_of[i]] += 1;
    for (int i = 0; i < cells; i++) {
        double ratio = 1;
        if (!(share[i] > 0))
            continue;
        if (norm_restore && oper_norm_ratio(m, i / o->heads, i % o->heads, &ratio, e))
            goto out;
        share[i] = ratio / share[i];
    }
    for_each_head(m, gather, share);
    rc = model_check(m->k, "merging heads", e);
out:
    free(share);
    return rc;
}

int model_mask_attach(struct model *m, const int *group_of, bool norm_restore, struct dha_err *e)
{
    if (oper_begin(m, group_of, false, e) < 0)
        return -1;
    m->oper->mask = calloc(1, sizeof *m->oper->mask);
    if (!m->oper->mask) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for masks");
        goto fail;
    }
    if (lay_out(m, m->oper->mask, e) || fill_merged(m, norm_restore, e))
        goto fail;
    model_oper_apply(m);
    return 0;
fail:
    model_oper_detach(m);
    return -1;
}

void model_mask_free(struct model *m, struct model_mask *mask)
{
    if (!mask)
        return;
    m->k->ops->free(m->k, mask->merged);
    m->k->ops->free(m->k, mask->dmerged);
    free(mask->at);
    free(mask->z);
    free(mask->dz);
    free(mask);
}

int model_mask_similarity(struct model *m, int layer, int h, double *cosine, struct dha_err *e)
{
    const struct kern_ops *ops = m->k->ops;
    double both = 0, own = 0, merged = 0;
    for (int entry = 2 * layer; entry < 2 * layer + 2; entry++) {
        struct head a = head_of(m, entry, h, false);
        struct kern_view w = kern_at(m->oper->mask->merged, a.merged);
        both += ops->dot(m->k, a.own, w, a.n);
        own += ops->sumsq(m->k, a.own, a.n);
        merged += ops->sumsq(m->k, w, a.n);
    }
    *cosine = own > 0 && merged > 0 ? both / sqrt(own * merged) : 0;
    return model_check(m->k, "comparing heads", e);
}
