#include "worker/method/similarity.h"

#include <lapacke.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/layer.h"
#include "worker/method/linalg.h"
#include "worker/method/search_groups.h"
#include "worker/method/walk.h"

/* ---- pairs ---------------------------------------------------------------------------------------- */

static int nuclear_norm(int d, const double *m, double *norm, struct dha_err *e)
{
    size_t n = (size_t)d * (size_t)d;
    double *a = la_alloc(n + (size_t)d, sizeof *a, "a pair of heads", e), none;
    if (!a)
        return -1;
    double *s = a + n;
    memcpy(a, m, n * sizeof *a);
    /* read as columns it is the transpose, of the same singular values */
    int info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'N', d, d, a, d, s, &none, 1, &none, 1);
    *norm = 0;
    for (int i = 0; i < d; i++)
        *norm += s[i];
    free(a);
    return info == 0 ? 0
                     : dha_fail(e, DHA_E_INTERNAL,
                                "the singular values of a pair of heads did not converge");
}

int similarity_fit(bool values, int d, const double *m, double *fit, struct dha_err *e)
{
    int half = d / 2;
    if (values)
        return nuclear_norm(d, m, fit, e);
    *fit = 0;
    for (int p = 0, r = half; p < half; p++, r++) /* dims p and p + d/2 are one plane */
        *fit += hypot(m[p * d + p] + m[r * d + r], m[p * d + r] - m[r * d + p]);
    return 0;
}

static double trace(const double *moments, int rows, int d, int h)
{
    double sum = 0;
    for (int c = h * d; c < (h + 1) * d; c++)
        sum += moments[(size_t)c * (size_t)rows + (size_t)c];
    return sum;
}

static void block(const double *moments, int rows, int d, int i, int j, double *m)
{
    for (int r = 0; r < d; r++)
        memcpy(m + r * d, moments + (size_t)(i * d + r) * (size_t)rows + (size_t)(j * d),
               (size_t)d * sizeof *m);
}

int similarity_distance(struct comm *comm, bool values, enum method_criterion criterion, int heads,
                        int d, const double *moments, double *distance, struct dha_err *e)
{
    int rows = heads * d, rc = 0;
    size_t n = (size_t)heads * (size_t)heads;
    double *m = la_alloc((size_t)d * (size_t)d, sizeof *m, "a pair of heads", e);
    if (!m)
        rc = -1;
    memset(distance, 0, n * sizeof *distance);
    for (int i = 0, turn = 0; i < heads; i++)
        for (int j = i + 1; j < heads; j++, turn++) {
            double fit;
            if (rc || turn % comm->size != comm->rank)
                continue;
            block(moments, rows, d, i, j, m);
            rc = similarity_fit(values, d, m, &fit, e);
            double far = criterion == CRITERION_COS
                             ? 1.0 - fit
                             : trace(moments, rows, d, i) + trace(moments, rows, d, j) - 2.0 * fit;
            distance[i * heads + j] = distance[j * heads + i] = far;
        }
    free(m);
    if (comm_agree(comm, rc, e))
        return -1;
    comm_sum_f64(comm, distance, n);
    return 0;
}

/* ---- moments -------------------------------------------------------------------------------------- */

struct sums {
    struct walk *w;
    bool unit;          /* every token's vector of a head has length 1 (criterion cos) */
    float *host;        /* [rows, ld] */
    double *wide;       /* [rows, H*d] */
    double *moments[2]; /* of keys, of values [H*d, H*d]; NULL: not compared */
};

static void to_unit(double *x, int d)
{
    double norm = 0;
    for (int c = 0; c < d; c++)
        norm += x[c] * x[c];
    norm = sqrt(norm);
    for (int c = 0; c < d && norm > 0; c++) /* a vector of zeros is like no other */
        x[c] /= norm;
}

static void add_kind(struct sums *s, int kind, size_t rows, size_t ld)
{
    const struct model_config *cfg = &s->w->m->cfg;
    size_t hd = (size_t)cfg->heads * (size_t)cfg->head_dim, at = kind ? 2 * hd : hd;
    for (size_t r = 0; r < rows; r++) {
        double *x = s->wide + r * hd;
        for (size_t c = 0; c < hd; c++)
            x[c] = (double)s->host[r * ld + at + c];
        for (int h = 0; s->unit && h < cfg->heads; h++)
            to_unit(x + h * cfg->head_dim, cfg->head_dim);
    }
    la_gram_add((int)rows, (int)hd, s->wide, s->moments[kind]);
}

static void add_rows(struct sums *s, size_t rows)
{
    size_t ld;
    struct kern *k = s->w->m->k;
    struct kern_view qkv = run_qkv(s->w->run, &ld);
    k->ops->download(k, s->host, qkv, rows * ld);
    for (int kind = 0; kind < 2; kind++)
        if (s->moments[kind])
            add_kind(s, kind, rows, ld);
}

/* Advances the walk by one layer; sums over this rank's sequences. */
static int gather(struct sums *s, int layer, struct dha_err *e)
{
    const struct model_config *cfg = &s->w->m->cfg;
    size_t ld, rows = (size_t)s->w->batch * (size_t)s->w->seq;
    size_t hd = (size_t)cfg->heads * (size_t)cfg->head_dim;
    int rc = -1;
    if (s->w->n == 0)
        return 0;
    run_qkv(s->w->run, &ld);
    s->host = la_alloc(rows * ld, sizeof *s->host, "the heads' moments", e);
    s->wide = la_alloc(rows * hd, sizeof *s->wide, "the heads' moments", e);
    if (!s->host || !s->wide)
        goto out;
    for (int c = 0; c < s->w->chunks; c++) {
        walk_load(s->w, c);
        run_layer(s->w->run, layer);
        add_rows(s, (size_t)walk_valid(s->w, c) * (size_t)s->w->seq);
        walk_save(s->w, c);
    }
    rc = method_sync(s->w->m->k, "comparing heads", e);
out:
    free(s->wide);
    free(s->host);
    return rc;
}

/* ---- plan ----------------------------------------------------------------------------------------- */

static int sequences(const struct method_env *env)
{
    int64_t n = env->calib_tokens / env->seq;
    return n < 1 ? 1 : n > 1 << 24 ? 1 << 24 : (int)n;
}

/* Distances of one kind from this rank's sums. */
static int compare(const struct method_env *env, struct sums *s, int kind, int layer,
                   double *distance, struct dha_err *e)
{
    const struct model_config *cfg = &env->parent->cfg;
    int heads = cfg->heads, dim = cfg->head_dim;
    size_t hd = (size_t)heads * (size_t)dim;
    double scale = 1.0 / ((double)sequences(env) * env->seq), *moments = s->moments[kind];
    comm_sum_f64(env->comm, moments, hd * hd);
    for (size_t i = 0; i < hd * hd; i++)
        moments[i] *= scale;
    la_mirror((int)hd, moments);
    for (size_t c = 0; c < hd; c++)
        if (!isfinite(moments[c * hd + c])) { /* the same on every rank: the sums are */
            dha_fail(e, DHA_E_INPUT, "the %s of layer %d are not finite on calibration tokens",
                     kind ? "values" : "keys", layer);
            return dha_err_hint(e, "the checkpoint's weights hold NaN or overflow in f32");
        }
    return similarity_distance(env->comm, kind == 1, env->method->criterion, heads, dim, moments,
                               distance, e);
}

static int plan_layer(const struct method_env *env, struct sums *s, int layer, struct plan *out,
                      struct dha_err *e)
{
    int heads = out->heads, counts[MODEL_MAX_HEADS], rc = 0;
    int n_counts = search_counts(env->method, heads, counts);
    size_t hd = (size_t)heads * (size_t)env->parent->cfg.head_dim;
    size_t pairs = (size_t)heads * (size_t)heads;
    double *d = out->distance + 2 * (size_t)layer * pairs;
    for (int kind = 0; kind < 2; kind++)
        if (s->moments[kind])
            memset(s->moments[kind], 0, hd * hd * sizeof *s->moments[kind]);
    if (comm_agree(env->comm, gather(s, layer, e), e))
        return -1;
    for (int kind = 0; kind < 2; kind++)
        if (s->moments[kind] && compare(env, s, kind, layer, d + (size_t)kind * pairs, e))
            return -1;
    for (int kind = 0; kind < 2; kind++) /* what is not compared goes by the other */
        if (!s->moments[kind])
            memcpy(d + (size_t)kind * pairs, d + (size_t)(1 - kind) * pairs, pairs * sizeof *d);
    for (int kind = 0; kind < 2 && rc == 0; kind++)
        rc = search_distances(env, out, 2 * layer + kind, counts, n_counts, e);
    return comm_agree(env->comm, rc, e);
}

int similarity_plan(const struct method_env *env, struct plan *out, struct dha_err *e)
{
    const struct model_config *cfg = &env->parent->cfg;
    size_t hd = (size_t)cfg->heads * (size_t)cfg->head_dim;
    struct walk w = {0};
    struct sums s = {.w = &w, .unit = env->method->criterion == CRITERION_COS};
    int64_t first;
    int rc = -1;
    memset(out, 0, sizeof *out);
    if (method_check_env(env, e))
        return -1;
    int mine = rank_share(env->comm, sequences(env), &first), ready = 0;
    bool wanted[2] = {env->method->grouping != GROUP_ALIGNED_VALUE,
                      env->method->grouping != GROUP_ALIGNED_KEY};
    ready = plan_alloc(out, cfg->layers, cfg->heads, e) == 0;
    for (int kind = 0; kind < 2 && ready; kind++) {
        if (wanted[kind])
            s.moments[kind] = la_alloc(hd * hd, sizeof *s.moments[kind], "the heads' moments", e);
        ready = !wanted[kind] || s.moments[kind];
    }
    if (ready)
        out->distance = la_alloc(2 * (size_t)cfg->layers * (size_t)cfg->heads * (size_t)cfg->heads,
                                 sizeof *out->distance, "a plan", e);
    if (comm_agree(env->comm, ready && out->distance ? 0 : -1, e))
        goto out;
    snprintf(out->method, sizeof out->method, "%s", env->method->name);
    snprintf(out->cost_unit, sizeof out->cost_unit, "distance");
    if (comm_agree(env->comm, walk_open(&w, env, env->parent, STREAM_CALIB, first, mine, e), e))
        goto out;
    for (int l = 0; l < cfg->layers; l++)
        if (plan_layer(env, &s, l, out, e) ||
            method_progress(env, "similarity", l + 1, cfg->layers, e))
            goto out;
    rc = 0;
out:
    walk_close(&w);
    free(s.moments[1]);
    free(s.moments[0]);
    if (rc)
        plan_finish(out);
    return rc ? dha_err_context(e, "comparing heads") : 0;
}
