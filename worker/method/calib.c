/* calib.c: second moments of what a layer's heads read and attend to.
 *
 * Products run in f32 on the backend, sums in float64 on the host: per chunk C takes one rank-k update of [rows, D];
 * per sequence and head, C_h takes one of A_h x [T, D]. For rp4m (D = 256, H = 8, T = 256, 64 sequences) that is
 * 64 * 8 * (T T D 2 + T D D) = 26 GFLOP a layer.
 */
#include "worker/method/calib.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"

struct gather {
    struct walk *w;
    struct calib_layer *out;
    const bool *need;
    struct kern_buf *p, *ax; /* [T,T] attention matrix, [T,D] attended inputs */
    float *host;             /* [max(T*D, rows*D, rows*(H+nk+nv)*d)] staging */
    double *wide;            /* [rows * ext] the same in float64 */
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int gather_open(struct gather *g, struct walk *w, struct calib_layer *out, const bool *need,
                       size_t ld_qkv, struct dha_err *e)
{
    struct kern *k = w->m->k;
    size_t seq = (size_t)w->seq, width = (size_t)out->width, rows = (size_t)w->batch * seq;
    *g = (struct gather){.w = w, .out = out, .need = need};
    g->host = la_alloc(rows * max_size(width, ld_qkv), sizeof *g->host, "calibration", e);
    g->wide = la_alloc(rows * (size_t)out->ext, sizeof *g->wide, "calibration", e);
    if (!g->host || !g->wide)
        return -1;
    g->p = k->ops->alloc(k, KERN_F32, seq * seq);
    g->ax = k->ops->alloc(k, KERN_F32, seq * width);
    return method_sync(k, "calibration", e);
}

static void gather_close(struct gather *g)
{
    if (g->w) {
        struct kern *k = g->w->m->k;
        k->ops->free(k, g->ax);
        k->ops->free(k, g->p);
    }
    free(g->wide);
    free(g->host);
}

/* C += [x 1]^T [x 1] over the chunk's valid rows. */
static void add_inputs(struct gather *g, size_t rows)
{
    struct calib_layer *out = g->out;
    struct kern *k = g->w->m->k;
    size_t width = (size_t)out->width, ext = (size_t)out->ext;
    k->ops->download(k, g->host, run_attn_input(g->w->run), rows * width);
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < width; c++)
            g->wide[r * ext + c] = (double)g->host[r * width + c];
        if (ext > width)
            g->wide[r * ext + width] = 1.0;
    }
    la_gram_add((int)rows, (int)ext, g->wide, out->c);
}

/* w_{h,p} += |q_{h,p}|^2; RoPE does not change it. */
static void add_energy(struct gather *g, size_t rows)
{
    struct calib_layer *out = g->out;
    struct kern *k = g->w->m->k;
    size_t ld, planes = (size_t)out->dim / 2;
    struct kern_view qkv = run_qkv(g->w->run, &ld);
    k->ops->download(k, g->host, qkv, rows * ld);
    for (size_t r = 0; r < rows; r++)
        for (size_t h = 0; h < (size_t)out->heads; h++)
            for (size_t p = 0; p < planes; p++) {
                const float *q = g->host + r * ld + h * (size_t)out->dim + p;
                double re = (double)q[0], im = (double)q[planes];
                out->energy[h * planes + p] += re * re + im * im;
            }
}

/* C_h += (A_h x)^T (A_h x) for one sequence of the chunk and every head asked for. */
static void add_attended(struct gather *g, int layer, int b)
{
    struct calib_layer *out = g->out;
    struct kern *k = g->w->m->k;
    size_t ld, seq = (size_t)g->w->seq, width = (size_t)out->width;
    size_t hd = (size_t)out->heads * (size_t)out->dim;
    struct kern_view qkv = run_qkv(g->w->run, &ld), x = run_attn_input(g->w->run);
    struct kern_attn attn = {.batch = g->w->batch,
                             .seq = g->w->seq,
                             .heads = out->heads,
                             .key_heads = out->heads,
                             .value_heads = out->heads,
                             .dim = out->dim,
                             .scale = 1.0f / sqrtf((float)out->dim),
                             .ldq = ld,
                             .ldk = ld,
                             .ldv = ld,
                             .ldo = hd,
                             .maps = g->w->m->maps[layer]};
    for (int h = 0; h < out->heads; h++) {
        if (!out->c_head[h])
            continue;
        k->ops->attn_weights(k, kern_at(g->p, 0), qkv, kern_plus(qkv, hd), &attn, b, h);
        k->ops->gemm(k, false, false, seq, width, seq, 1.0f, kern_at(g->p, 0), seq,
                     kern_plus(x, (size_t)b * seq * width), width, 0.0f, kern_at(g->ax, 0), width);
        k->ops->download(k, g->host, kern_at(g->ax, 0), seq * width);
        for (size_t i = 0; i < seq * width; i++)
            g->wide[i] = (double)g->host[i];
        la_gram_add((int)seq, (int)width, g->wide, out->c_head[h]);
    }
}

static int gather_local(struct calib_layer *out, struct walk *w, int layer, const bool *need,
                        struct dha_err *e)
{
    struct gather g = {0};
    size_t ld, seq = (size_t)w->seq;
    int rc = -1;
    if (w->n == 0)
        return 0;
    run_qkv(w->run, &ld);
    if (gather_open(&g, w, out, need, ld, e))
        goto out;
    for (int c = 0; c < w->chunks; c++) {
        size_t rows = (size_t)walk_valid(w, c) * seq;
        walk_load(w, c);
        run_layer(w->run, layer);
        add_inputs(&g, rows);
        add_energy(&g, rows);
        for (int b = 0; b < walk_valid(w, c); b++)
            add_attended(&g, layer, b);
        walk_save(w, c);
    }
    rc = method_sync(w->m->k, "calibration", e);
out:
    gather_close(&g);
    return rc;
}

static int calib_alloc(struct calib_layer *out, const struct model_config *cfg, const bool *need,
                       struct dha_err *e)
{
    int ext = cfg->hidden + (cfg->attn_bias ? 1 : 0);
    *out = (struct calib_layer){.heads = cfg->heads,
                                .dim = cfg->head_dim,
                                .width = cfg->hidden,
                                .ext = ext,
                                .plain = cfg->hidden > CALIB_ATTENDED_WIDTH};
    size_t square = (size_t)cfg->hidden * (size_t)cfg->hidden;
    out->c = la_alloc((size_t)ext * (size_t)ext, sizeof *out->c, "second moments", e);
    out->energy = la_alloc((size_t)cfg->heads * (size_t)cfg->head_dim / 2, sizeof *out->energy,
                           "query energies", e);
    out->angle = la_alloc((size_t)cfg->head_dim / 2, sizeof *out->angle, "angles", e);
    out->c_head = la_alloc((size_t)cfg->heads, sizeof *out->c_head, "second moments", e);
    if (!out->c || !out->energy || !out->angle || !out->c_head)
        return -1;
    for (int p = 0; p < cfg->head_dim / 2; p++)
        out->angle[p] = model_rope_angle(cfg, p);
    for (int h = 0; h < cfg->heads; h++) {
        if (out->plain || (need && !need[h]))
            continue;
        out->c_head[h] = la_alloc(square, sizeof **out->c_head, "second moments", e);
        if (!out->c_head[h])
            return -1;
    }
    return 0;
}

static int sum_and_scale(struct comm *comm, double *x, size_t n, double scale)
{
    int finite = 1;
    comm_sum_f64(comm, x, n);
    for (size_t i = 0; i < n; i++) {
        x[i] *= scale;
        finite &= isfinite(x[i]) != 0;
    }
    return finite;
}

int calib_layer(struct calib_layer *out, struct walk *w, struct comm *comm, int layer,
                int total_seqs, const bool *need, struct dha_err *e)
{
    const struct model_config *cfg = &w->m->cfg;
    size_t square = (size_t)cfg->hidden * (size_t)cfg->hidden;
    int rc = calib_alloc(out, cfg, need, e);
    if (rc == 0)
        rc = gather_local(out, w, layer, need, e);
    if (comm_agree(comm, rc, e))
        goto fail;
    double scale = 1.0 / ((double)total_seqs * w->seq);
    int finite = sum_and_scale(comm, out->c, (size_t)out->ext * (size_t)out->ext, scale) &
                 sum_and_scale(comm, out->energy, (size_t)out->heads * (size_t)out->dim / 2, scale);
    la_mirror(out->ext, out->c);
    for (int h = 0; h < out->heads; h++) {
        if (!out->c_head[h])
            continue;
        finite &= sum_and_scale(comm, out->c_head[h], square, scale);
        la_mirror(out->width, out->c_head[h]);
    }
    if (!finite) { /* the same on every rank: the sums are */
        dha_fail(e, DHA_E_INPUT, "the activations of layer %d are not finite on calibration tokens",
                 layer);
        dha_err_hint(e, "the checkpoint's weights hold NaN or overflow in f32");
        goto fail;
    }
    return 0;
fail:
    calib_layer_finish(out);
    return dha_err_context(e, "calibrating layer %d", layer);
}
