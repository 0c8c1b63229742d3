#include "worker/train/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void optim_init(struct optim *o, struct kern *k, struct comm *comm, double clip)
{
    /* betas and eps: METHODS 1.9, the papers' code base */
    *o = (struct optim){
        .k = k, .comm = comm, .clip = clip, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
}

int optim_add(struct optim *o, struct kern_buf *params, struct kern_buf *grads, size_t n, double lr,
              const struct optim_span *spans, int n_spans, struct dha_err *e)
{
    struct optim_group *g = &o->group[o->n_groups];
    size_t size = (size_t)o->comm->size, rank = (size_t)o->comm->rank;
    /* pieces are multiples of 16 floats, so that every rank's piece starts on a cache line */
    size_t chunk = ((n + size - 1) / size + 15) / 16 * 16;
    *g = (struct optim_group){.params = params, .grads = grads, .n = n, .chunk = chunk, .lr = lr};
    g->own = rank * chunk >= n ? 0 : (n - rank * chunk < chunk ? n - rank * chunk : chunk);
    g->m = o->k->ops->alloc(o->k, KERN_F32, g->own ? g->own : 1);
    g->v = o->k->ops->alloc(o->k, KERN_F32, g->own ? g->own : 1);
    g->spans = calloc((size_t)n_spans, sizeof *spans);
    o->n_groups++;
    if (!g->m || !g->v || !g->spans)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for the optimiser state (%zu values)",
                        2 * g->own);
    memcpy(g->spans, spans, (size_t)n_spans * sizeof *spans);
    g->n_spans = n_spans;
    return 0;
}

void optim_apart(struct optim *o)
{
    o->group[o->n_groups - 1].apart = true;
}

/* Host address of a whole buffer. The CPU backends have one; a device backend brings collectives of its own. */
static float *host_of(struct optim *o, struct kern_buf *b)
{
    return o->k->ops->host(o->k, kern_at(b, 0));
}

int optim_reduce(struct optim *o, double *norm, struct dha_err *e)
{
    double sum = 0;
    if (kern_sync(o->k, NULL))
        return dha_fail(e, DHA_E_INTERNAL, "backend: %s", o->k->err.msg);
    for (int i = 0; i < o->n_groups; i++) {
        struct optim_group *g = &o->group[i];
        if (o->comm->size > 1) {
            float *x = host_of(o, g->grads);
            if (!x)
                return dha_fail(e, DHA_E_INTERNAL,
                                "backend %s has no host memory and no collectives",
                                o->k->ops->name);
            comm_reduce_scatter_f32(o->comm, x, g->n, g->chunk);
        }
        size_t at = (size_t)o->comm->rank * g->chunk;
        if (g->own && !g->apart)
            sum += o->k->ops->sumsq(o->k, kern_at(g->grads, at), g->own);
    }
    comm_sum_f64(o->comm, &sum, 1);
    *norm = sqrt(sum);
    return 0;
}

static void update_own(struct optim *o, struct optim_group *g, struct kern_adamw a)
{
    size_t at = (size_t)o->comm->rank * g->chunk, end = at + g->own;
    const float lr = a.lr;
    for (int i = 0; i < g->n_spans; i++) {
        size_t from = g->spans[i].from > at ? g->spans[i].from : at;
        size_t to = g->spans[i].to < end ? g->spans[i].to : end;
        if (from >= to)
            continue;
        a.weight_decay = g->spans[i].weight_decay;
        a.lr = lr * g->spans[i].rate;
        o->k->ops->adamw(o->k, kern_at(g->params, from), kern_at(g->grads, from),
                         kern_at(g->m, from - at), kern_at(g->v, from - at), to - from, &a);
    }
}

int optim_update(struct optim *o, int64_t t, double factor, double norm, struct dha_err *e)
{
    struct kern_adamw a = {
        .beta1 = (float)o->beta1,
        .beta2 = (float)o->beta2,
        .eps = (float)o->eps,
        .bias1 = (float)(1.0 - pow(o->beta1, (double)t)),
        .bias2 = (float)(1.0 - pow(o->beta2, (double)t)),
        .grad_scale = 1.0f,
    };
    /* as torch.nn.utils.clip_grad_norm_: factor clip / (norm + 1e-6), at most 1 */
    if (o->clip > 0 && norm > o->clip)
        a.grad_scale = (float)(o->clip / (norm + 1e-6));
    for (int i = 0; i < o->n_groups; i++) {
        struct optim_group *g = &o->group[i];
        struct kern_adamw own = a;
        own.lr = (float)(g->lr * factor);
        if (g->apart)
            own.grad_scale = 1.0f;
        update_own(o, g, own);
        o->k->ops->zero(o->k, kern_at(g->grads, 0), g->n);
    }
    if (kern_sync(o->k, NULL))
        return dha_fail(e, DHA_E_INTERNAL, "backend: %s", o->k->err.msg);
    for (int i = 0; i < o->n_groups && o->comm->size > 1; i++)
        comm_all_gather_f32(o->comm, host_of(o, o->group[i].params), o->group[i].n,
                            o->group[i].chunk);
    return 0;
}

void optim_finish(struct optim *o)
{
    for (int i = 0; i < o->n_groups; i++) {
        free(o->group[i].spans);
        o->k->ops->free(o->k, o->group[i].v);
        o->k->ops->free(o->k, o->group[i].m);
    }
    o->n_groups = 0;
}
