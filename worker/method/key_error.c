/* key_error.c: see key_error.h.
 *
 * A complex factor on a plane commutes with RoPE, so nothing is projected again: merged queries and keys are small
 * linear maps of the queries and keys that RoPE has turned already, q'_h = q_h J(conj c_h), k' = sum_h k_h J(mix_h)
 * with J(z) the real d x d matrix of "multiply plane p by z_p". One attention call serves the whole group.
 */
#include "worker/method/key_error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"

int key_error_open(struct key_error *x, const struct method_env *env, struct model *mha, int n,
                   struct dha_err *e)
{
    const struct model_config *c = &mha->cfg;
    struct kern *k = mha->k;
    size_t d = (size_t)c->head_dim, h = (size_t)c->heads, width = (size_t)c->hidden;
    *x = (struct key_error){.heads = c->heads, .dim = c->head_dim, .width = c->hidden};
    if (walk_open(&x->walk, env, mha, STREAM_CALIB, 0, n, e))
        return -1;
    x->rows = (size_t)n * (size_t)env->seq;
    run_qkv(x->walk.run, &x->ld);
    struct {
        struct kern_buf **buf;
        size_t n;
    } want[] = {{&x->qkv, x->rows * x->ld}, {&x->y, x->rows * h * d},
                {&x->o, h * d * width},     {&x->q, x->rows * h * d},
                {&x->k, x->rows * d},       {&x->y2, x->rows * h * d},
                {&x->o2, h * d * width},    {&x->out, x->rows * width},
                {&x->lse, x->rows * h},     {&x->turn, (2 * h + 1) * d * d}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        *want[i].buf = k->ops->alloc(k, KERN_F32, want[i].n);
    x->turn_host = la_alloc((2 * h + 1) * d * d, sizeof *x->turn_host, "key errors", e);
    if (!x->turn_host)
        goto fail;
    for (size_t i = 0; i < d; i++)
        x->turn_host[2 * h * d * d + i * d + i] = 1.0f;
    if (method_sync(k, "memory for key errors", e))
        goto fail;
    return 0;
fail:
    key_error_close(x);
    return -1;
}

void key_error_close(struct key_error *x)
{
    if (x->walk.m) {
        struct kern *k = x->walk.m->k;
        struct kern_buf *all[] = {x->qkv, x->y,  x->o,   x->q,   x->k,
                                  x->y2,  x->o2, x->out, x->lse, x->turn};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            k->ops->free(k, all[i]);
    }
    free(x->turn_host);
    walk_close(&x->walk);
    memset(x, 0, sizeof *x);
}

int key_error_load(struct key_error *x, const struct attn_layer *a, int layer, struct dha_err *e)
{
    struct walk *w = &x->walk;
    struct kern *k = w->m->k;
    size_t hd = (size_t)x->heads * (size_t)x->dim, width = (size_t)x->width;
    float *o = la_alloc(hd * width, sizeof *o, "key errors", e);
    if (!o)
        return -1;
    for (size_t r = 0; r < width; r++)
        for (size_t c = 0; c < hd; c++)
            o[c * width + r] = (float)a->o[r * hd + c];
    k->ops->upload(k, kern_at(x->o, 0), o, hd * width);
    free(o);
    for (int c = 0; c < w->chunks; c++) {
        size_t first = (size_t)c * (size_t)w->batch * (size_t)w->seq, ld;
        size_t rows = (size_t)walk_valid(w, c) * (size_t)w->seq;
        walk_load(w, c);
        run_layer(w->run, layer);
        k->ops->copy(k, kern_at(x->qkv, first * x->ld), run_qkv(w->run, &ld), rows * x->ld);
        k->ops->copy(k, kern_at(x->y, first * hd), run_attn_out(w->run), rows * hd);
        walk_save(w, c);
    }
    return method_sync(k, "a layer's queries and keys", e);
}

/* J(z) for row vectors: (re, im) J = re and im of (re + i im) z, plane by plane. */
static void turn_matrix(float *j, int dim, const double complex *z)
{
    int planes = dim / 2;
    memset(j, 0, (size_t)(dim * dim) * sizeof *j);
    for (int p = 0; p < planes; p++) {
        int q = p + planes;
        j[p * dim + p] = j[q * dim + q] = (float)creal(z[p]);
        j[p * dim + q] = (float)cimag(z[p]);
        j[q * dim + p] = -(float)cimag(z[p]);
    }
}

static void attend(struct key_error *x, const int *members, int n)
{
    struct kern *k = x->walk.m->k;
    int zeros[MODEL_MAX_HEADS] = {0};
    size_t hd = (size_t)x->heads * (size_t)x->dim, gd = (size_t)n * (size_t)x->dim;
    struct kern_maps *maps = k->ops->maps_new(k, n, zeros, members);
    if (!maps)
        return; /* the queue remembers */
    struct kern_attn attn = {.batch = x->walk.n,
                             .seq = x->walk.seq,
                             .heads = n,
                             .key_heads = 1,
                             .value_heads = members[n - 1] + 1,
                             .dim = x->dim,
                             .scale = 1.0f / sqrtf((float)x->dim),
                             .ldq = gd,
                             .ldk = (size_t)x->dim,
                             .ldv = x->ld,
                             .ldo = gd,
                             .maps = maps};
    k->ops->attn_fwd(k, kern_at(x->y2, 0), kern_at(x->lse, 0), kern_at(x->q, 0), kern_at(x->k, 0),
                     kern_at(x->qkv, 2 * hd), &attn);
    k->ops->maps_free(k, maps);
}

int key_error_group(struct key_error *x, const struct key_blocks *b, const int *members, int n,
                    double *error, struct dha_err *e)
{
    struct kern *k = x->walk.m->k;
    size_t d = (size_t)x->dim, hd = (size_t)x->heads * d, gd = (size_t)n * d;
    size_t width = (size_t)x->width, numbers = (size_t)(n * b->planes);
    double complex *mix = la_alloc(2 * numbers, sizeof *mix, "a key group", e);
    if (!mix)
        return -1;
    double complex *factor = mix + numbers;
    if (key_solve(b, members, n, mix, factor, NULL, e)) {
        free(mix);
        return -1;
    }
    for (size_t i = 0; i < numbers; i++)
        factor[i] = conj(factor[i]); /* what queries are multiplied by */
    for (int i = 0; i < n; i++) {
        turn_matrix(x->turn_host + (size_t)i * d * d, x->dim, factor + i * b->planes);
        turn_matrix(x->turn_host + (size_t)(x->heads + i) * d * d, x->dim, mix + i * b->planes);
    }
    free(mix);
    k->ops->upload(k, kern_at(x->turn, 0), x->turn_host, (2 * (size_t)x->heads + 1) * d * d);

    for (int i = 0; i < n; i++) {
        size_t h = (size_t)members[i], at = (size_t)i;
        k->ops->gemm(k, false, false, x->rows, d, d, 1.0f, kern_at(x->qkv, h * d), x->ld,
                     kern_at(x->turn, at * d * d), d, 0.0f, kern_at(x->q, at * d), gd);
        k->ops->gemm(k, false, false, x->rows, d, d, 1.0f, kern_at(x->qkv, hd + h * d), x->ld,
                     kern_at(x->turn, ((size_t)x->heads + at) * d * d), d, i > 0 ? 1.0f : 0.0f,
                     kern_at(x->k, 0), d);
        k->ops->copy(k, kern_at(x->o2, at * d * width), kern_at(x->o, h * d * width), d * width);
    }
    attend(x, members, n);
    for (int i = 0; i < n; i++) /* y2 -= y, by a product with 1: columns of y are not contiguous */
        k->ops->gemm(k, false, false, x->rows, d, d, -1.0f, kern_at(x->y, (size_t)members[i] * d),
                     hd, kern_at(x->turn, 2 * (size_t)x->heads * d * d), d, 1.0f,
                     kern_at(x->y2, (size_t)i * d), gd);
    k->ops->gemm(k, false, false, x->rows, width, gd, 1.0f, kern_at(x->y2, 0), gd,
                 kern_at(x->o2, 0), width, 0.0f, kern_at(x->out, 0), width);
    *error = k->ops->sumsq(k, kern_at(x->out, 0), x->rows * width) / (double)x->rows;
    if (method_sync(k, "the output error of a key group", e))
        return -1;
    return isfinite(*error) ? 0
                            : dha_fail(e, DHA_E_INPUT,
                                       "the output error of a key group is not "
                                       "finite: weights or activations overflow");
}
