/* spectral_value.c: shared values (METHODS section 6, "Values").
 *
 * Head h contributes A_h x W_v^h o_h (row convention: W_v^h [D,d], o_h [d,D]); any invertible d x d matrix may stand
 * between the two. The best W_v for a group, each member with an o'_h of its own, minimises
 *     sum_h || S (W_v^h o_h - W_v o'_h) ||_F^2,     S^2 = C = mean of C_h over the group,
 * a rank-d approximation of F = S [W_v^1 o_1, ..., W_v^g o_g]. We never form S. With R_h = sqrt(o_h o_h^T) and
 * o_h = R_h T_h (polar form, T_h has orthonormal rows) the D x gD matrix F has the singular values of
 *     F' = S [P_1^T, ..., P_g^T],  P_h = R_h (W_v^h)^T  [d,D],
 * whose Gram matrix M = F'^T F' has the blocks P_i C P_j^T. From M v_r = lambda_r v_r, r = 1..d leading,
 *     row r of W_v^T = sum_h v_{r,h}^T P_h / sqrt(lambda_r),     row r of o'_h = sqrt(lambda_r) v_{r,h}^T T_h,
 * which are S^-1 U and U^T S W_v^h o_h without a root or an inverse of C: the form stays sound when fewer tokens
 * than D were seen and C is singular. It is the small problem too: g*d <= D in all models with H*d = D; where
 * head_dim is set apart (H*d > D) it costs at most (g*d/D)^3 of the other form and is as exact.
 */
#include "worker/method/spectral.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"

/* Components below this share of the leading one are rounding of the eigenproblem, not signal: dropped. */
#define RANK_FLOOR 1e-13

void value_blocks_finish(struct value_blocks *b)
{
    if (b->m)
        for (int h = 0; h < b->heads; h++)
            free(b->m[h]);
    free(b->m);
    free(b->common);
    free(b->p);
    free(b->t);
    memset(b, 0, sizeof *b);
}

/* P_h and T_h of one head. o is [D, H*d], so o_h^T = columns h*d.. of it. A head with o_h = 0 gets P = T = 0. */
static int head_factors(struct value_blocks *b, const struct attn_layer *a, int h, double *scratch,
                        struct dha_err *e)
{
    int d = a->dim, width = a->width, hd = a->heads * d;
    size_t at = (size_t)(h * d) * (size_t)width;
    const double *o = a->o + h * d;
    double *oo = scratch, *root = oo + d * d, *inverse = root + d * d, energy = 0.0;
    la_gemm(true, false, d, d, width, 1.0, o, hd, o, hd, 0.0, oo, d);
    for (int i = 0; i < d; i++)
        energy += oo[i * d + i];
    if (energy == 0.0)
        return 0;
    if (la_sqrt(d, oo, root, inverse, e))
        return -1;
    la_gemm(false, false, d, width, d, 1.0, root, d, a->v + at, width, 0.0, b->p + at, width);
    la_gemm(false, true, d, width, d, 1.0, inverse, d, o, hd, 0.0, b->t + at, width);
    return 0;
}

double *value_block_matrix(const struct value_blocks *b, const double *c, int ld, struct dha_err *e)
{
    int hd = b->heads * b->dim, width = b->width;
    double *m = la_alloc((size_t)hd * (size_t)hd, sizeof *m, "blocks of all pairs of heads", e);
    double *pc = la_alloc((size_t)hd * (size_t)width, sizeof *pc, "blocks of all pairs of heads",
                          e);
    if (m && pc) {
        la_gemm(false, false, hd, width, width, 1.0, b->p, width, c, ld, 0.0, pc, width);
        la_gemm(false, true, hd, hd, width, 1.0, pc, width, b->p, width, 0.0, m, hd);
    } else {
        free(m);
        m = NULL;
    }
    free(pc);
    return m;
}

int value_blocks_make(struct value_blocks *b, const struct attn_layer *a, struct calib_layer *c,
                      struct dha_err *e)
{
    int hd = a->heads * a->dim, width = a->width, rc = -1;
    size_t mat = (size_t)hd * (size_t)width;
    *b = (struct value_blocks){.heads = a->heads, .dim = a->dim, .width = width};
    double *small = la_alloc(3 * (size_t)(a->dim * a->dim), sizeof *small, "value blocks", e);
    b->p = la_alloc(mat, sizeof *b->p, "value blocks", e);
    b->t = la_alloc(mat, sizeof *b->t, "value blocks", e);
    b->m = la_alloc((size_t)a->heads, sizeof *b->m, "value blocks", e);
    if (!small || !b->p || !b->t || !b->m)
        goto out;
    for (int h = 0; h < a->heads; h++)
        if (head_factors(b, a, h, small, e))
            goto out;
    if (c->plain && !(b->common = value_block_matrix(b, c->c, c->ext, e)))
        goto out;
    for (int h = 0; h < a->heads; h++) {
        if (!c->c_head[h])
            continue;
        b->m[h] = value_block_matrix(b, c->c_head[h], width, e);
        if (!b->m[h])
            goto out;
        free(c->c_head[h]);
        c->c_head[h] = NULL;
    }
    rc = 0;
out:
    free(small);
    if (rc)
        value_blocks_finish(b);
    return rc;
}

/* M [n*d, n*d] of a group: rows and columns of its members in the mean of their M_h. */
static double *group_gram(const struct value_blocks *b, const int *members, int n,
                          struct dha_err *e)
{
    size_t d = (size_t)b->dim, hd = (size_t)b->heads * d, gd = (size_t)n * d;
    double *m = la_alloc(gd * gd, sizeof *m, "a value group", e);
    if (!m)
        return NULL;
    for (int k = 0; k < n; k++) {
        const double *mh = b->common ? b->common : b->m[members[k]];
        if (!mh) {
            dha_fail(e, DHA_E_INTERNAL, "no second moment was gathered for value head %d",
                     members[k]);
            free(m);
            return NULL;
        }
        for (int i = 0; i < n; i++)
            for (size_t r = 0; r < d; r++)
                for (int j = 0; j < n; j++) {
                    const double *src = mh + ((size_t)members[i] * d + r) * hd +
                                        (size_t)members[j] * d;
                    double *dst = m + ((size_t)i * d + r) * gd + (size_t)j * d;
                    for (size_t s = 0; s < d; s++)
                        dst[s] += b->common ? src[s] : src[s] / n;
                }
        if (b->common)
            break; /* the mean of equal matrices */
    }
    return m;
}

int value_residual(const struct value_blocks *b, const int *members, int n, double *residual,
                   struct dha_err *e)
{
    int gd = n * b->dim, rc = -1;
    double left = 0.0;
    double *w = la_alloc((size_t)gd, sizeof *w, "a value group", e);
    double *m = group_gram(b, members, n, e);
    if (!w || !m || la_eig_sym(gd, m, w, false, e))
        goto out;
    for (int r = 0; r < gd - b->dim; r++)
        left += fmax(w[r], 0.0);
    *residual = left;
    rc = 0;
out:
    free(m);
    free(w);
    return rc;
}

/* Mean norm of the members' d rows of W_v: what each component's row is scaled to. */
static double mean_row_norm(const struct attn_layer *a, const int *members, int n)
{
    double sum = 0.0;
    size_t width = (size_t)a->width;
    for (int i = 0; i < n; i++)
        for (int r = 0; r < a->dim; r++) {
            const double *row = a->v + (size_t)(members[i] * a->dim + r) * width;
            double s = 0.0;
            for (size_t c = 0; c < width; c++)
                s += row[c] * row[c];
            sum += sqrt(s);
        }
    return sum / (n * a->dim);
}

/* A value bias b_h adds b_h o_h to every token's output, whatever the attention: it moves into o's bias. */
static void fold_value_bias(struct attn_layer *a, int h)
{
    int hd = a->heads * a->dim;
    for (int i = 0; i < a->width; i++)
        for (int r = 0; r < a->dim; r++)
            a->bo[i] += a->o[(size_t)i * (size_t)hd + (size_t)(h * a->dim + r)] *
                        a->bv[h * a->dim + r];
    for (int r = 0; r < a->dim; r++)
        a->bv[h * a->dim + r] = 0.0;
}

int value_share(const struct value_blocks *b, const int *members, int n, double target, int cols,
                double *shared, double *own, struct value_lead *kept, struct dha_err *e)
{
    int d = b->dim, gd = n * d, width = b->width, rc = -1;
    size_t mat = (size_t)d * (size_t)width;
    double *w = la_alloc((size_t)gd, sizeof *w, "a group of heads", e);
    double *m = group_gram(b, members, n, e);
    if (!w || !m || la_eig_sym(gd, m, w, true, e))
        goto out;
    const double *lead = m + (size_t)(gd - d) * (size_t)gd; /* rows v_r, r ascending */
    for (int i = 0; i < n; i++)
        la_gemm(false, false, d, width, d, 1.0, lead + i * d, gd,
                b->p + (size_t)(members[i] * d) * (size_t)width, width, i > 0 ? 1.0 : 0.0, shared,
                width);
    /* scale[r]: from v^T P to the row that is kept; its inverse goes to o'. w becomes o's factor. */
    for (int r = 0; r < d; r++) {
        double *row = shared + (size_t)r * (size_t)width, norm = 0.0;
        double lambda = w[gd - d + r];
        for (int c = 0; c < cols; c++)
            norm += row[c] * row[c];
        norm = sqrt(norm);
        bool dead = !(lambda > RANK_FLOOR * w[gd - 1]) || norm == 0.0 || target == 0.0;
        double scale = dead ? 0.0 : target / norm;
        for (int c = 0; c < width; c++)
            row[c] *= scale;
        /* v^T P / sqrt(lambda) times s has norm target, so o' = sqrt(lambda)/s v^T T = norm/target v^T T. */
        w[r] = dead ? 0.0 : norm / target;
        if (kept) {
            kept->lambda[r] = lambda;
            kept->scale[r] = scale;
        }
    }
    if (kept)
        memcpy(kept->v, lead, (size_t)d * (size_t)gd * sizeof *lead);
    for (int i = 0; i < n; i++) {
        double *out = own + (size_t)i * mat;
        la_gemm(false, false, d, width, d, 1.0, lead + i * d, gd,
                b->t + (size_t)(members[i] * d) * (size_t)width, width, 0.0, out, width);
        for (int r = 0; r < d; r++)
            for (int c = 0; c < width; c++)
                out[(size_t)r * (size_t)width + (size_t)c] *= w[r];
    }
    rc = 0;
out:
    free(m);
    free(w);
    return rc;
}

int value_merge(struct attn_layer *a, const struct value_blocks *b, const int *members, int n,
                struct dha_err *e)
{
    int d = a->dim, hd = a->heads * d, width = a->width;
    size_t mat = (size_t)d * (size_t)width;
    double *shared = la_alloc(((size_t)n + 1) * mat, sizeof *shared, "a value group", e);
    if (!shared)
        return -1;
    int rc = value_share(b, members, n, mean_row_norm(a, members, n), width, shared, shared + mat,
                         NULL, e);
    for (int i = 0; i < n && rc == 0; i++) {
        int h = members[i];
        const double *own = shared + ((size_t)i + 1) * mat;
        if (a->bias)
            fold_value_bias(a, h);
        memcpy(a->v + (size_t)(h * d) * (size_t)width, shared, mat * sizeof *shared);
        for (int r = 0; r < d; r++)
            for (int c = 0; c < width; c++)
                a->o[(size_t)c * (size_t)hd + (size_t)(h * d + r)] =
                    own[(size_t)r * (size_t)width + (size_t)c];
    }
    free(shared);
    return rc;
}

int spectral_merge_values(struct attn_layer *a, const struct value_blocks *b, const int *group_of,
                          struct dha_err *e)
{
    int members[MODEL_MAX_HEADS];
    for (int g = 0; g < a->heads; g++) {
        int n = group_members(group_of, a->heads, g, members);
        if (n > 1 && value_merge(a, b, members, n, e))
            return -1;
    }
    return 0;
}
