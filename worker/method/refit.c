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

#include "worker/method/layer.h"
#include "worker/method/linalg.h"
#include "worker/method/walk.h"

#define RIDGE 1e-2

struct refit {
    struct walk parent; /* owns the sequences and the parent's residual stream */
    struct run *merged; /* the merged layer on the same inputs */
    int hd, width;
    double *a, *x;  /* E[y'^T y'], E[y^T y'] [H*d, H*d] */
    float *host;    /* [rows, H*d] */
    double *y, *y2; /* [rows, H*d] */
};

static int refit_open(struct refit *r, const struct method_env *env, struct model *mha,
                      struct model *merged, int total, struct dha_err *e)
{
    int64_t first;
    int mine = rank_share(env->comm, total, &first);
    *r = (struct refit){.hd = mha->cfg.heads * mha->cfg.head_dim, .width = mha->cfg.hidden};
    if (walk_open(&r->parent, env, mha, STREAM_REFIT, first, mine, e))
        return -1;
    size_t square = (size_t)r->hd * (size_t)r->hd;
    size_t cells = (size_t)r->parent.batch * (size_t)env->seq * (size_t)r->hd;
    r->a = la_alloc(square, sizeof *r->a, "a refit", e);
    r->x = la_alloc(square, sizeof *r->x, "a refit", e);
    r->host = la_alloc(cells, sizeof *r->host, "a refit", e);
    r->y = la_alloc(cells, sizeof *r->y, "a refit", e);
    r->y2 = la_alloc(cells, sizeof *r->y2, "a refit", e);
    if (!r->a || !r->x || !r->host || !r->y || !r->y2)
        return -1;
    return mine ? run_new(&r->merged, merged, r->parent.batch, env->seq, RUN_INFER, e) : 0;
}

static void refit_close(struct refit *r)
{
    run_free(r->merged);
    free(r->y2);
    free(r->y);
    free(r->host);
    free(r->x);
    free(r->a);
    walk_close(&r->parent);
}

static void get_outputs(struct refit *r, struct run *run, size_t rows, double *dst)
{
    struct kern *k = r->parent.m->k;
    size_t n = rows * (size_t)r->hd;
    k->ops->download(k, r->host, run_attn_out(run), n);
    for (size_t i = 0; i < n; i++)
        dst[i] = (double)r->host[i];
}

/* Adds this rank's sequences; moves the parent's residual stream behind the layer. bias: value biases that the
 * merged layer does not have any more [H*d], or NULL. */
static int gather(struct refit *r, int layer, const double *bias, struct dha_err *e)
{
    struct walk *w = &r->parent;
    size_t hd = (size_t)r->hd;
    memset(r->a, 0, hd * hd * sizeof *r->a);
    memset(r->x, 0, hd * hd * sizeof *r->x);
    for (int c = 0; c < w->chunks; c++) {
        size_t rows = (size_t)walk_valid(w, c) * (size_t)w->seq;
        walk_load(w, c);
        run_set_residual(r->merged, run_residual(w->run));
        run_attention_only(r->merged, layer);
        get_outputs(r, r->merged, rows, r->y2);
        run_layer(w->run, layer);
        get_outputs(r, w->run, rows, r->y);
        walk_save(w, c);
        for (size_t i = 0; bias && i < rows * hd; i++)
            r->y[i] -= bias[i % hd];
        la_gram_add((int)rows, r->hd, r->y2, r->a);
        la_gemm(true, false, r->hd, r->hd, (int)rows, 1.0, r->y, r->hd, r->y2, r->hd, 1.0, r->x,
                r->hd);
    }
    return method_sync(w->m->k, "gathering attention outputs", e);
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

static int refit_layer(struct refit *r, const struct method_env *env, struct model *mha,
                       struct model *merged, int l, struct dha_err *e)
{
    struct attn_layer parent = {0}, child = {0};
    size_t hd = (size_t)r->hd;
    int rc = layer_load(&parent, mha, l, e);
    if (rc == 0)
        rc = layer_load(&child, merged, l, e);
    if (rc == 0) {
        double *folded = parent.bv; /* of this copy: made into what the merge moved away */
        for (size_t i = 0; parent.bias && i < hd; i++)
            folded[i] -= child.bv[i];
        rc = gather(r, l, parent.bias ? folded : NULL, e);
    }
    if (comm_agree(env->comm, rc, e)) {
        rc = -1;
        goto out;
    }
    comm_sum_f64(env->comm, r->a, hd * hd);
    comm_sum_f64(env->comm, r->x, hd * hd);
    rc = comm_agree(env->comm, solve(r, parent.o, child.o, e), e);
    if (rc)
        goto out;
    /* One answer for all ranks, whatever their LAPACK does. */
    comm_bcast(env->comm, child.o, hd * (size_t)r->width * sizeof *child.o, 0);
    rc = comm_agree(env->comm, layer_store(&child, merged, l, e), e);
out:
    layer_finish(&child);
    layer_finish(&parent);
    return rc ? dha_err_context(e, "refitting layer %d", l) : 0;
}

int refit_outputs(const struct method_env *env, struct model *mha, struct model *merged,
                  struct dha_err *e)
{
    struct refit r = {0};
    int layers = mha->cfg.layers;
    int rc = refit_open(&r, env, mha, merged, calib_split(env).refit, e);
    rc = comm_agree(env->comm, rc, e);
    for (int l = 0; l < layers && rc == 0; l++) {
        rc = refit_layer(&r, env, mha, merged, l, e);
        if (rc == 0)
            rc = method_progress(env, "refit", l + 1, layers, e);
    }
    refit_close(&r);
    return rc;
}
