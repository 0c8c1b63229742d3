/* fusion.c: the two ends of the fusion operator (METHODS 1.6, 1.7): distances learned in search, and the mean of its
 * coefficient rows as the new heads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/layer.h"
#include "worker/method/linalg.h"
#include "worker/method/method.h"
#include "worker/method/search_groups.h"
#include "worker/method/spectral.h"

/* omega of one entry [H, H, d] on the host. */
static int get_omega(const struct model *m, int entry, float *omega, struct dha_err *e)
{
    const struct model_oper *op = m->oper;
    size_t n = (size_t)op->heads * (size_t)op->heads * (size_t)op->dim;
    m->k->ops->download(m->k, omega, kern_at(op->omega, (size_t)entry * n), n);
    return method_sync(m->k, "reading fusion operators", e);
}

/* M[h,h'] = L_head(h,h') = mean over j and c of (omega[h,j,c] - omega[h',j,c])^2, the operator spanning all H heads. */
static void distances(const float *omega, int heads, int dim, double *out)
{
    size_t row = (size_t)heads * (size_t)dim;
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < heads; i++) {
            const float *a = omega + (size_t)h * row, *b = omega + (size_t)i * row;
            double sum = 0.0;
            for (size_t c = 0; c < row; c++)
                sum += ((double)a[c] - (double)b[c]) * ((double)a[c] - (double)b[c]);
            out[h * heads + i] = sum / (double)row;
        }
}

int fusion_plan(const struct method_env *env, const struct model *with_oper, struct plan *out,
                struct dha_err *e)
{
    const struct model_oper *op = with_oper->oper;
    int counts[MODEL_MAX_HEADS], rc = -1;
    memset(out, 0, sizeof *out);
    if (!op)
        return dha_fail(e, DHA_E_INTERNAL, "a learned plan needs a model with fusion operators");
    for (int i = 0; i < 2 * op->layers * op->heads; i++)
        if (op->group_of[i] != 0)
            return dha_fail(e, DHA_E_INTERNAL,
                            "a learned plan needs operators that span the whole layer");
    size_t block = (size_t)op->heads * (size_t)op->heads;
    float *omega = la_alloc(block * (size_t)op->dim, sizeof *omega, "fusion operators", e);
    if (!omega || plan_alloc(out, op->layers, op->heads, e))
        goto out;
    out->distance = la_alloc(2 * (size_t)op->layers * block, sizeof *out->distance, "a plan", e);
    if (!out->distance)
        goto out;
    snprintf(out->method, sizeof out->method, "%s", env->method->name);
    snprintf(out->cost_unit, sizeof out->cost_unit, "distance");
    int n_counts = search_counts(env->method, op->heads, counts);
    for (int i = 0; i < 2 * op->layers; i++) {
        if (get_omega(with_oper, i, omega, e))
            goto out;
        distances(omega, op->heads, op->dim, out->distance + (size_t)i * block);
        if (search_distances(env, out, i, counts, n_counts, e))
            goto out;
    }
    rc = 0;
out:
    free(omega);
    if (rc)
        plan_finish(out);
    return rc;
}

/* --- fusing -------------------------------------------------------------------------------------- */

/* W_new[c,:] = sum_j omega_bar[j,c] W^j[c,:], omega_bar[j] = mean over the members h of omega[h,j]; written to the rows
 * of every member. w [heads*dim, cols], scratch [dim * cols]. */
static void fuse_group(double *w, size_t cols, const float *omega, int heads, int dim,
                       const int *members, int n, double *scratch)
{
    size_t d = (size_t)dim, each = d * cols;
    memset(scratch, 0, each * sizeof *scratch);
    for (int j = 0; j < n; j++)
        for (size_t c = 0; c < d; c++) {
            double bar = 0.0;
            for (int i = 0; i < n; i++)
                bar +=
                    (double)
                        omega[((size_t)members[i] * (size_t)heads + (size_t)members[j]) * d + c] /
                    n;
            const double *row = w + (size_t)members[j] * each + c * cols;
            for (size_t x = 0; x < cols; x++)
                scratch[c * cols + x] += bar * row[x];
        }
    for (int i = 0; i < n; i++)
        memcpy(w + (size_t)members[i] * each, scratch, each * sizeof *scratch);
}

static int fuse_entry(const struct model *m, int entry, struct attn_layer *a, float *omega,
                      double *scratch, struct dha_err *e)
{
    int members[MODEL_MAX_HEADS];
    const int *group_of = m->oper->group_of + (size_t)entry * (size_t)a->heads;
    if (get_omega(m, entry, omega, e))
        return -1;
    for (int g = 0; g < a->heads; g++) {
        int n = group_members(group_of, a->heads, g, members);
        if (n == 0)
            continue; /* a group of one has an operator too: omega may have moved off 1 */
        fuse_group(entry % 2 ? a->v : a->k, (size_t)a->width, omega, a->heads, a->dim, members, n,
                   scratch);
        if (a->bias)
            fuse_group(entry % 2 ? a->bv : a->bk, 1, omega, a->heads, a->dim, members, n, scratch);
    }
    return 0;
}

struct fuse {
    const struct model *m;
    float *omega;    /* [H, H, d] */
    double *scratch; /* [d * D] */
};

static int fuse_layer(void *arg, int layer, struct attn_layer *a, struct dha_err *e)
{
    struct fuse *f = arg;
    return fuse_entry(f->m, 2 * layer, a, f->omega, f->scratch, e) ||
                   fuse_entry(f->m, 2 * layer + 1, a, f->omega, f->scratch, e)
               ? -1
               : 0;
}

int fusion_fuse(struct model *with_oper, struct model **out, struct dha_err *e)
{
    const struct model_oper *op = with_oper->oper;
    struct fuse f = {.m = with_oper};
    int rc = -1;
    *out = NULL;
    if (!op)
        return dha_fail(e, DHA_E_INTERNAL, "nothing to fuse: the model has no fusion operators");
    size_t h = (size_t)op->heads, d = (size_t)op->dim;
    f.omega = la_alloc(h * h * d, sizeof *f.omega, "fusion operators", e);
    f.scratch = la_alloc(d * (size_t)with_oper->cfg.hidden, sizeof *f.scratch, "fusion operators",
                         e);
    if (f.omega && f.scratch)
        rc = method_rebuild(with_oper, op->group_of, fuse_layer, &f, out, e);
    free(f.scratch);
    free(f.omega);
    return rc ? dha_err_context(e, "fusing heads") : 0;
}
