/* refit.c: see refit.h. For each layer, with rows as tokens, y the heads' outputs of the parent and y' those of the
 * merged layer on the parent's inputs to that layer (both [T, H*d]), W the o_proj weights [D, H*d]:
 *     min_o E || y' o^T - y W^T ||^2 + lambda || o - W' ||^2,   lambda = 1e-2 of the mean diagonal of E[y'^T y']
 *     o = (W E[y^T y'] + lambda W') (E[y'^T y'] + lambda)^-1
 * Output biases are the same on both sides; what a merge moved from v's bias into o's is a constant and is part of
 * neither y' nor o, so it is taken out of y too: y counts without the value biases that were folded.
 */
#include "worker/method/refit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"

#define RIDGE 1e-2

int refit_open(struct refit *r, const struct method_env *env, struct model *mha, struct model *to,
               int total, struct dha_err *e)
{
    int64_t first;
    int mine = rank_share(env->comm, total, &first);
    *r = (struct refit){.comm = env->comm,
                        .to = to,
                        .hd = mha->cfg.heads * mha->cfg.head_dim,
                        .width = mha->cfg.hidden};
    if (walk_open(&r->parent, env, mha, STREAM_REFIT, first, mine, e))
        return -1;
    size_t hd = (size_t)r->hd, cells = (size_t)r->parent.batch * (size_t)env->seq * hd;
    r->a = la_alloc(hd * hd, sizeof *r->a, "a refit", e);
    r->x = la_alloc(hd * hd, sizeof *r->x, "a refit", e);
    r->y = la_alloc((size_t)mine * (size_t)env->seq * hd, sizeof *r->y, "a refit", e);
    r->host = la_alloc(cells, sizeof *r->host, "a refit", e);
    r->wide = la_alloc(cells, sizeof *r->wide, "a refit", e);
    r->wide2 = la_alloc(cells, sizeof *r->wide2, "a refit", e);
    if (!r->a || !r->x || !r->y || !r->host || !r->wide || !r->wide2)
        goto fail;
    if (mine && run_new(&r->merged, to, r->parent.batch, env->seq, RUN_INFER, e))
        goto fail;
    return 0;
fail:
    refit_close(r);
    return -1;
}

void refit_close(struct refit *r)
{
    run_free(r->merged);
    layer_finish(&r->original);
    free(r->wide2);
    free(r->wide);
    free(r->host);
    free(r->y);
    free(r->x);
    free(r->a);
    walk_close(&r->parent);
    memset(r, 0, sizeof *r);
}

static size_t chunk_cells(const struct refit *r, int chunk)
{
    return (size_t)walk_valid(&r->parent, chunk) * (size_t)r->parent.seq * (size_t)r->hd;
}

int refit_layer_open(struct refit *r, int layer, struct dha_err *e)
{
    struct walk *w = &r->parent;
    struct kern *k = r->to->k;
    float *at = r->y;
    r->layer = layer;
    for (int c = 0; c < w->chunks; c++) {
        walk_load(w, c);
        run_attention_only(w->run, layer);
        k->ops->download(k, at, run_attn_out(w->run), chunk_cells(r, c));
        at += chunk_cells(r, c);
    }
    if (method_sync(k, "the parent's attention outputs", e))
        return -1;
    return layer_load(&r->original, w->m, layer, e);
}

/* This rank's sums. bias: value biases that the merged layer does not have any more [H*d], or NULL. */
static int gather(struct refit *r, const double *bias, struct dha_err *e)
{
    struct walk *w = &r->parent;
    struct kern *k = r->to->k;
    size_t hd = (size_t)r->hd;
    const float *y = r->y;
    memset(r->a, 0, hd * hd * sizeof *r->a);
    memset(r->x, 0, hd * hd * sizeof *r->x);
    for (int c = 0; c < w->chunks; c++) {
        size_t n = chunk_cells(r, c);
        int rows = (int)(n / hd);
        walk_load(w, c);
        run_set_residual(r->merged, run_residual(w->run));
        run_attention_only(r->merged, r->layer);
        k->ops->download(k, r->host, run_attn_out(r->merged), n);
        for (size_t i = 0; i < n; i++) {
            r->wide[i] = (double)y[i] - (bias ? bias[i % hd] : 0.0);
            r->wide2[i] = (double)r->host[i];
        }
        y += n;
        la_gram_add(rows, r->hd, r->wide2, r->a);
        la_gemm(true, false, r->hd, r->hd, rows, 1.0, r->wide, r->hd, r->wide2, r->hd, 1.0, r->x,
                r->hd);
    }
    return method_sync(k, "gathering attention outputs", e);
}

/* o [D, H*d] of the merged layer from the summed moments. */
static int solve(struct refit *r, const double *parent_o, double *o, struct dha_err *e)
{
    size_t hd = (size_t)r->hd;
    double diagonal = 0.0;
    la_mirror(r->hd, r->a);
    for (size_t i = 0; i < hd; i++)
        diagonal += r->a[i * hd + i] / (double)hd;
    if (!(diagonal > 0.0) || !isfinite(diagonal))
        return dha_fail(e, DHA_E_INPUT, "the heads' outputs are zero or not finite");
    double lambda = RIDGE * diagonal;
    for (size_t i = 0; i < hd; i++)
        r->a[i * hd + i] += lambda;
    la_gemm(false, false, r->width, r->hd, r->hd, 1.0, parent_o, r->hd, r->x, r->hd, lambda, o,
            r->hd);
    return la_solve_spd(r->width, r->hd, r->a, o, e);
}

int refit_solve(struct refit *r, struct dha_err *e)
{
    struct attn_layer child = {0};
    size_t hd = (size_t)r->hd;
    double *folded = NULL; /* what the merge moved from v's bias into o's */
    int rc = layer_load(&child, r->to, r->layer, e);
    if (rc == 0 && child.bias) {
        folded = la_alloc(hd, sizeof *folded, "a refit", e);
        rc = folded ? 0 : -1;
        for (size_t i = 0; folded && i < hd; i++)
            folded[i] = r->original.bv[i] - child.bv[i];
    }
    if (rc == 0)
        rc = gather(r, folded, e);
    if (comm_agree(r->comm, rc, e)) {
        rc = -1;
        goto out;
    }
    comm_sum_f64(r->comm, r->a, hd * hd);
    comm_sum_f64(r->comm, r->x, hd * hd);
    rc = comm_agree(r->comm, solve(r, r->original.o, child.o, e), e);
    if (rc)
        goto out;
    /* One answer for all ranks, whatever their LAPACK does. */
    comm_bcast(r->comm, child.o, hd * (size_t)r->width * sizeof *child.o, 0);
    rc = comm_agree(r->comm, layer_store(&child, r->to, r->layer, e), e);
out:
    free(folded);
    layer_finish(&child);
    return rc ? dha_err_context(e, "refitting layer %d", r->layer) : 0;
}

int refit_layer_close(struct refit *r, struct dha_err *e)
{
    layer_finish(&r->original);
    return walk_advance(&r->parent, r->layer, e);
}

int refit_outputs(const struct method_env *env, struct model *mha, struct model *merged,
                  struct dha_err *e)
{
    struct refit r = {0};
    int layers = mha->cfg.layers;
    int rc = refit_open(&r, env, mha, merged, calib_split(env).refit, e);
    rc = comm_agree(env->comm, rc, e);
    for (int l = 0; l < layers && rc == 0; l++) {
        rc = comm_agree(env->comm, refit_layer_open(&r, l, e), e);
        if (rc == 0)
            rc = refit_solve(&r, e);
        if (rc == 0)
            rc = comm_agree(env->comm, refit_layer_close(&r, e), e);
        if (rc == 0)
            rc = method_progress(env, "refit", l + 1, layers, e);
    }
    refit_close(&r);
    return rc;
}
