/* align.c: generalised Procrustes inside the groups of a layer. Activations are never kept: with C the second moment of the
 * layer's inputs, X_i^T X_j = W_i C W_j^T (METHODS 2.1), so the iteration runs on d x D weights. Biases turn with their rows but
 * do not count in the criterion.
 */
#include "worker/method/align.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/calib.h"
#include "worker/method/linalg.h"

enum { ROUNDS = 100 };
#define ENOUGH                                                                                     \
    1e-8 /* relative gain of the fit in a round; it converges slowly, and a round is cheap */

typedef int solve_fn(int d, const double *m, double *q, struct dha_err *e);

/* Q = U V^T of M = U S V^T. */
int align_orthogonal(int d, const double *m, double *q, struct dha_err *e)
{
    size_t n = (size_t)d * (size_t)d;
    double *block = la_alloc(3 * n + (size_t)d, sizeof *block, "an alignment", e);
    if (!block)
        return -1;
    double *a = block, *u = a + n, *vt = u + n, *s = vt + n;
    memcpy(a, m, n * sizeof *a);
    int info = LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'A', d, d, a, d, s, u, d, vt, d);
    if (info == 0)
        la_gemm(false, false, d, d, d, 1.0, u, d, vt, d, 0.0, q, d);
    free(block);
    return info == 0 ? 0
                     : dha_fail(e, DHA_E_INTERNAL,
                                "the singular values of a pair of heads did not "
                                "converge");
}

/* Dims p and p + d/2 are one plane (the layout of Hugging Face). */
int align_planar(int d, const double *m, double *q, struct dha_err *e)
{
    int half = d / 2;
    (void)e;
    memset(q, 0, (size_t)d * (size_t)d * sizeof *q);
    for (int p = 0; p < half; p++) {
        int r = p + half;
        double alpha = m[p * d + p] + m[r * d + r], beta = m[p * d + r] - m[r * d + p];
        double phi = atan2(beta, alpha);
        q[p * d + p] = q[r * d + r] = cos(phi);
        q[p * d + r] = sin(phi);
        q[r * d + p] = -sin(phi);
    }
    return 0;
}

/* One group while it is aligned. */
struct group {
    int n, d, width;
    double *own;    /* [n][d, width] W_i as it was */
    double *seen;   /* [n][d, width] W_i C */
    double *q;      /* [n][d, d] */
    double *target; /* [d, width] */
    double *m;      /* [d, d] */
};

static double fit(const struct group *g, int i)
{
    double sum = 0;
    for (int x = 0; x < g->d * g->d; x++)
        sum += g->q[i * g->d * g->d + x] * g->m[x];
    return sum;
}

/* Q_i of every member for the present target; returns the sum of fits through *sum. */
static int turn_all(struct group *g, solve_fn *solve, double *sum, struct dha_err *e)
{
    size_t each = (size_t)g->d * (size_t)g->width, square = (size_t)g->d * (size_t)g->d;
    *sum = 0;
    for (int i = 0; i < g->n; i++) {
        la_gemm(false, true, g->d, g->d, g->width, 1.0, g->seen + (size_t)i * each, g->width,
                g->target, g->width, 0.0, g->m, g->d);
        if (solve(g->d, g->m, g->q + (size_t)i * square, e))
            return -1;
        *sum += fit(g, i);
    }
    return 0;
}

/* target = mean of Q_i^T W_i */
static void mean_target(struct group *g)
{
    size_t each = (size_t)g->d * (size_t)g->width, square = (size_t)g->d * (size_t)g->d;
    for (int i = 0; i < g->n; i++)
        la_gemm(true, false, g->d, g->width, g->d, 1.0 / g->n, g->q + (size_t)i * square, g->d,
                g->own + (size_t)i * each, g->width, i ? 1.0 : 0.0, g->target, g->width);
}

/* METHODS 2.5: towards member 0, then towards the mean until that gains nothing. */
static int procrustes(struct group *g, solve_fn *solve, struct dha_err *e)
{
    double before, now;
    memcpy(g->target, g->own, (size_t)g->d * (size_t)g->width * sizeof *g->own);
    if (turn_all(g, solve, &before, e))
        return -1;
    for (int x = 0; x < g->d * g->d; x++) /* member 0 is the target: exactly as it is */
        g->q[x] = x % (g->d + 1) == 0;
    before = 0;
    for (int round = 0; g->n > 2 && round < ROUNDS; round++) {
        mean_target(g);
        if (turn_all(g, solve, &now, e))
            return -1;
        if (now - before < ENOUGH * fabs(now))
            break;
        before = now;
    }
    return 0;
}

/* rows [d, cols] <- Q^T rows */
static void turn_rows(const double *q, int d, double *rows, int cols, double *scratch)
{
    la_gemm(true, false, d, cols, d, 1.0, q, d, rows, cols, 0.0, scratch, cols);
    memcpy(rows, scratch, (size_t)d * (size_t)cols * sizeof *rows);
}

/* columns [rows, d] with row distance ld <- columns Q */
static void turn_columns(const double *q, int d, double *columns, int rows, int ld, double *scratch)
{
    la_gemm(false, false, rows, d, d, 1.0, columns, ld, q, d, 0.0, scratch, d);
    for (int r = 0; r < rows; r++)
        memcpy(columns + (size_t)r * (size_t)ld, scratch + (size_t)r * (size_t)d,
               (size_t)d * sizeof *columns);
}

static void fold(struct attn_layer *a, bool values, int h, const double *q, double *scratch)
{
    size_t d = (size_t)a->dim, at = (size_t)h * d, each = at * (size_t)a->width;
    turn_rows(q, a->dim, (values ? a->v : a->k) + each, a->width, scratch);
    if (a->bias)
        turn_rows(q, a->dim, (values ? a->bv : a->bk) + at, 1, scratch);
    if (values) {
        turn_columns(q, a->dim, a->o + at, a->width, a->heads * a->dim, scratch);
        return;
    }
    turn_rows(q, a->dim, a->q + each, a->width, scratch);
    if (a->bias)
        turn_rows(q, a->dim, a->bq + at, 1, scratch);
}

static int align_group(struct attn_layer *a, const struct calib_layer *c, bool values,
                       const int *members, int n, struct dha_err *e)
{
    size_t d = (size_t)a->dim, each = d * (size_t)a->width, square = d * d;
    size_t all = (2 * (size_t)n + 2) * each + ((size_t)n + 1) * square;
    double *block = la_alloc(all, sizeof *block, "an alignment", e);
    if (!block)
        return -1;
    struct group g = {.n = n, .d = a->dim, .width = a->width, .own = block};
    g.seen = g.own + (size_t)n * each;
    g.target = g.seen + (size_t)n * each;
    double *scratch = g.target + each;
    g.q = scratch + each;
    g.m = g.q + (size_t)n * square;
    for (int i = 0; i < n; i++) {
        double *own = g.own + (size_t)i * each;
        memcpy(own, (values ? a->v : a->k) + (size_t)members[i] * each, each * sizeof *own);
        la_gemm(false, false, a->dim, a->width, a->width, 1.0, own, a->width, c->c, c->ext, 0.0,
                g.seen + (size_t)i * each, a->width);
    }
    int rc = procrustes(&g, values ? align_orthogonal : align_planar, e);
    for (int i = 0; rc == 0 && i < n; i++)
        fold(a, values, members[i], g.q + (size_t)i * square, scratch);
    free(block);
    return rc;
}

static int sequences(const struct method_env *env)
{
    int64_t n = env->calib_tokens / env->seq;
    return n > 0 ? (int)n : 1;
}

static int align_layer(const struct method_env *env, struct walk *w, int l, const int *group_of,
                       struct model *out, struct dha_err *e)
{
    const bool need[MODEL_MAX_HEADS] = {false};
    int heads = out->cfg.heads, members[MODEL_MAX_HEADS];
    struct calib_layer c;
    struct attn_layer a = {0};
    if (calib_layer(&c, w, env->comm, l, sequences(env), need, e))
        return -1;
    int rc = layer_load(&a, w->m, l, e);
    for (int kind = 0; rc == 0 && kind < 2; kind++)
        for (int g = 0; rc == 0 && g < heads; g++) {
            int n = group_members(group_of + (2 * l + kind) * heads, heads, g, members);
            if (n > 1)
                rc = align_group(&a, &c, kind == 1, members, n, e);
        }
    rc = comm_agree(env->comm, rc, e);
    if (rc == 0) {
        comm_bcast(env->comm, a.block, layer_numbers(&a) * sizeof *a.block, 0);
        rc = comm_agree(env->comm, layer_store(&a, out, l, e), e);
    }
    layer_finish(&a);
    calib_layer_finish(&c);
    return rc;
}

int align_apply(const struct method_env *env, const int *group_of, struct model **out,
                struct dha_err *e)
{
    const struct model_config *cfg = &env->parent->cfg;
    struct model *m = NULL;
    struct walk w = {0};
    int64_t first;
    int rc = -1;
    *out = NULL;
    if (method_check_env(env, e) || method_check_groups(group_of, cfg->layers, cfg->heads, e))
        return -1;
    int mine = rank_share(env->comm, sequences(env), &first);
    if (comm_agree(env->comm, model_clone(&m, env->parent, e), e) ||
        comm_agree(env->comm, walk_open(&w, env, env->parent, STREAM_CALIB, first, mine, e), e))
        goto out;
    for (int l = 0; l < cfg->layers; l++)
        if (align_layer(env, &w, l, group_of, m, e) ||
            method_progress(env, "align", l + 1, cfg->layers, e))
            goto out;
    *out = m;
    m = NULL;
    rc = 0;
out:
    walk_close(&w);
    model_free(m);
    return rc ? dha_err_context(e, "aligning heads") : 0;
}
