/* spectral_key.c: shared keys (METHODS section 6, "Keys").
 *
 * RoPE turns plane p (dims p and p + d/2) of every key and query by an angle that depends on the position: a
 * multiplication by a complex number of modulus one. So the only maps between heads that leave the logits alone at
 * every distance are complex numbers c, one a plane: key plane times c, query plane times 1/conj(c).
 * With kappa_{h,p} = W_k[p] + i W_k[p + d/2] the best shared key plane of a group is the leading eigenvector of a
 * g x g Hermitian matrix. Planes that hardly turn may be merged better: "slow planes" below.
 */
#include "worker/method/spectral.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"

/* A plane whose queries carry less than this share of the mean energy is weighted as if it carried that much: its logits
 * do not count, and 1 / sqrt(w) must stay finite. */
#define ENERGY_FLOOR 1e-9
/* Where complex numbers leave no more than this share, they are exact, at every distance: the slow planes stay planes. */
#define EXACT 1e-6

void calib_layer_finish(struct calib_layer *c)
{
    if (c->c_head)
        for (int h = 0; h < c->heads; h++)
            free(c->c_head[h]);
    free(c->c_head);
    free(c->c);
    free(c->energy);
    free(c->angle);
    memset(c, 0, sizeof *c);
}

void key_blocks_finish(struct key_blocks *b)
{
    free(b->gram);
    free(b->flat);
    free(b->root);
    value_blocks_finish(&b->block);
    free(b->turn);
    free(b->angle);
    memset(b, 0, sizeof *b);
}

/* gram_p[i,j] = sum over a,b of conj(kappa_i[a]) c[a,b] kappa_j[b] for one plane, from rows re(kappa_0..),
 * im(kappa_0..) in z [2H, ext] and z c in zc. real [2H, 2H] is scratch. */
static void plane_gram(int heads, int ext, const double *z, const double *zc, double *real,
                       double complex *gram)
{
    int n = 2 * heads;
    la_gemm(false, true, n, n, ext, 1.0, z, ext, zc, ext, 0.0, real, n);
    for (int i = 0; i < heads; i++) {
        for (int j = 0; j < heads; j++) {
            double rr = real[i * n + j], ii = real[(heads + i) * n + heads + j];
            double ri = real[i * n + heads + j], ir = real[(heads + i) * n + j];
            gram[i * heads + j] = CMPLX(rr + ii, ri - ir);
        }
    }
}

/* --- slow planes ------------------------------------------------------------------------------------
 *
 * A plane that turns by at most one radian within the context is nearly not turned at all. Where no plane turns, logits are
 * x_q W_q^T W_k x_k, and any invertible matrix may stand between queries and keys of the slow planes, not one
 * complex number a plane: the products of the group's heads share one factor by joint low rank, in the metric of the
 * inputs on both sides. It is the problem of the values (spectral_value.c), with R_h = sqrt(W_q C W_q^T).
 *
 * RoPE goes on turning the new rows. Which two of them make a plane, in which order and at which speed is free, and is
 * chosen by the first order of the turn. Over a distance of delta the members' logits change by delta times
 *     W_q^T Omega W_k,   Omega[p, p + m] = angle_p = -Omega[p + m, p]   (rows of the block; up to one common sign),
 * and those of the merged heads by the same with their own rows and angles. With sigma_r U_r the shared rows in the metric of
 * C (orthonormal U, sigma_r = scale_r sqrt(lambda_r)) and
 *     X_rs = sqrt(lambda_r lambda_s) sum_h v_{r,h}^T R_h Omega R_h^-1 v_{s,h},
 * a plane of the rows r, s and angle t adds to the squared error of that term, summed over the group,
 *     -2 t (X_rs sigma_s / sigma_r - X_sr sigma_r / sigma_s)
 *         + t^2 (lambda_r sigma_s^2 / sigma_r^2 + lambda_s sigma_r^2 / sigma_s^2).
 * From the fastest plane on, each takes what adds least of the rows that are left. The signs of the eigenvectors cancel.
 */

/* Dim of row r of the block: as in a head, first halves of the planes before the second ones. */
static int slow_dim(const struct key_blocks *b, int r)
{
    int first = b->planes - b->slow;
    return r < b->slow ? first + r : b->planes + first + r - b->slow;
}

/* Rows of head h in the slow planes [2*slow, ext], with the bias as last column. */
static void slow_rows(const struct key_blocks *b, const struct attn_layer *a, const double *w,
                      const double *bias, int h, double *out)
{
    int ext = b->block.width, width = a->width;
    for (int r = 0; r < 2 * b->slow; r++) {
        int dim = h * a->dim + slow_dim(b, r);
        double *row = out + (size_t)r * (size_t)ext;
        memcpy(row, w + (size_t)dim * (size_t)width, (size_t)width * sizeof *row);
        if (ext > width)
            row[width] = bias[dim];
    }
}

static int slow_block_make(struct key_blocks *b, const struct attn_layer *a,
                           const struct calib_layer *c, struct dha_err *e)
{
    int d = 2 * c->slow, ext = c->ext, rc = -1;
    size_t rows = (size_t)d * (size_t)ext, small = (size_t)d * (size_t)d;
    b->slow = c->slow;
    b->block = (struct value_blocks){.heads = a->heads, .dim = d, .width = ext};
    b->block.p = la_alloc((size_t)a->heads * rows, sizeof *b->block.p, "key blocks", e);
    b->block.t = la_alloc((size_t)a->heads * rows, sizeof *b->block.t, "key blocks", e);
    b->turn = la_alloc((size_t)a->heads * small, sizeof *b->turn, "key blocks", e);
    b->angle = la_alloc((size_t)c->slow, sizeof *b->angle, "key blocks", e);
    double *q = la_alloc(3 * rows + 4 * small, sizeof *q, "key blocks", e);
    if (!b->block.p || !b->block.t || !b->turn || !b->angle || !q)
        goto out;
    memcpy(b->angle, c->angle + b->planes - c->slow, (size_t)c->slow * sizeof *b->angle);
    double *k = q + rows, *qc = k + rows, *energy = qc + rows, *root = energy + small;
    double *inverse = root + small, *turned = inverse + small;
    for (int h = 0; h < a->heads; h++) {
        double trace = 0.0;
        slow_rows(b, a, a->q, a->bq, h, q);
        slow_rows(b, a, a->k, a->bk, h, k);
        la_gemm(false, false, d, ext, ext, 1.0, q, ext, c->c, ext, 0.0, qc, ext);
        la_gemm(false, true, d, d, ext, 1.0, qc, ext, q, ext, 0.0, energy, d);
        for (int i = 0; i < d; i++)
            trace += energy[i * d + i];
        if (trace == 0.0)
            continue; /* no query ever looks: P = T = 0 */
        if (la_sqrt(d, energy, root, inverse, e))
            goto out;
        la_gemm(false, false, d, ext, d, 1.0, root, d, k, ext, 0.0, b->block.p + (size_t)h * rows,
                ext);
        la_gemm(false, false, d, ext, d, 1.0, inverse, d, q, ext, 0.0,
                b->block.t + (size_t)h * rows, ext);
        for (int r = 0; r < d; r++) /* Omega R_h^-1 */
            for (int x = 0; x < d; x++)
                turned[r * d + x] = r < b->slow
                                        ? b->angle[r] * inverse[(r + b->slow) * d + x]
                                        : -b->angle[r - b->slow] * inverse[(r - b->slow) * d + x];
        la_gemm(false, false, d, d, d, 1.0, root, d, turned, d, 0.0, b->turn + (size_t)h * small,
                d);
    }
    b->block.common = value_block_matrix(&b->block, c->c, ext, e);
    rc = b->block.common ? 0 : -1;
out:
    free(q);
    return rc;
}

/* Mean norm of the members' key rows in the slow planes. */
static double slow_target(const struct key_blocks *b, const struct attn_layer *a,
                          const int *members, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        for (int r = 0; r < 2 * b->slow; r++) {
            const double *row = a->k +
                                (size_t)(members[i] * a->dim + slow_dim(b, r)) * (size_t)a->width;
            double s = 0.0;
            for (int c = 0; c < a->width; c++)
                s += row[c] * row[c];
            sum += sqrt(s);
        }
    return sum / (n * 2 * b->slow);
}

static void put_row(const struct attn_layer *a, double *w, double *bias, int row,
                    const double *from)
{
    memcpy(w + (size_t)row * (size_t)a->width, from, (size_t)a->width * sizeof *w);
    if (a->bias)
        bias[row] = from[a->width];
}

/* X [2*slow, 2*slow] of a group. */
static void group_turn(const struct key_blocks *b, const int *members, int n,
                       const struct value_lead *lead, double *part, double *x)
{
    int d = 2 * b->slow, gd = n * d;
    for (int i = 0; i < n; i++) {
        const double *v = lead->v + i * d; /* rows v_r, columns of member i */
        la_gemm(false, false, d, d, d, 1.0, v, gd, b->turn + (size_t)members[i] * (size_t)(d * d),
                d, 0.0, part, d);
        la_gemm(false, true, d, d, d, 1.0, part, d, v, gd, i > 0 ? 1.0 : 0.0, x, d);
    }
    for (int r = 0; r < d; r++)
        for (int s = 0; s < d; s++)
            x[r * d + s] *= sqrt(fmax(lead->lambda[r], 0.0) * fmax(lead->lambda[s], 0.0));
}

/* What a plane of rows r (first) and s adds at this angle: the formula above. Rows without signal add nothing. */
static double plane_error(const struct value_lead *lead, const double *x, int d, int r, int s,
                          double angle)
{
    if (lead->scale[r] == 0.0 || lead->scale[s] == 0.0)
        return 0.0;
    double lr = lead->lambda[r], ls = lead->lambda[s];
    double ratio = lead->scale[s] * sqrt(ls) / (lead->scale[r] * sqrt(lr));
    return -2.0 * angle * (x[r * d + s] * ratio - x[s * d + r] / ratio) +
           angle * angle * (lr * ratio * ratio + ls / (ratio * ratio));
}

/* row_of[row of the block]: which merged row goes there. used [2*slow], all false. */
static void choose_planes(const struct key_blocks *b, const struct value_lead *lead,
                          const double *x, int *row_of, bool *used)
{
    int d = 2 * b->slow;
    for (int p = 0; p < b->slow; p++) {
        int first = -1, second = -1;
        double least = 0.0;
        for (int r = 0; r < d; r++)
            for (int s = 0; s < d; s++) {
                if (r == s || used[r] || used[s])
                    continue;
                double v = plane_error(lead, x, d, r, s, b->angle[p]);
                if (first < 0 || v < least) {
                    first = r;
                    second = s;
                    least = v;
                }
            }
        used[first] = used[second] = true;
        row_of[p] = first;
        row_of[b->slow + p] = second;
    }
}

static int slow_merge(struct attn_layer *a, const struct key_blocks *b, const int *members, int n,
                      struct dha_err *e)
{
    size_t d = 2 * (size_t)b->slow, ext = (size_t)b->block.width, rows = d * ext;
    double *shared = la_alloc(((size_t)n + 1) * rows, sizeof *shared, "a key group", e);
    double *lead = la_alloc(((size_t)n + 2) * d * d + 2 * d, sizeof *lead, "a key group", e);
    int *row_of = la_alloc(d, sizeof *row_of, "a key group", e), rc = -1;
    bool *used = la_alloc(d, sizeof *used, "a key group", e);
    if (!shared || !lead || !row_of || !used)
        goto out;
    double *x = lead + (size_t)n * d * d, *part = x + d * d;
    struct value_lead l = {.v = lead, .lambda = part + d * d, .scale = part + d * d + d};
    if (value_share(&b->block, members, n, slow_target(b, a, members, n), a->width, shared,
                    shared + rows, &l, e))
        goto out;
    group_turn(b, members, n, &l, part, x);
    choose_planes(b, &l, x, row_of, used);
    for (int i = 0; i < n; i++)
        for (size_t r = 0; r < d; r++) {
            int row = members[i] * a->dim + slow_dim(b, (int)r);
            size_t at = (size_t)row_of[r] * ext;
            put_row(a, a->k, a->bk, row, shared + at);
            put_row(a, a->q, a->bq, row, shared + ((size_t)i + 1) * rows + at);
        }
    rc = 0;
out:
    free(used);
    free(row_of);
    free(lead);
    free(shared);
    return rc;
}

int key_blocks_make(struct key_blocks *b, const struct attn_layer *a, const struct calib_layer *c,
                    struct dha_err *e)
{
    int heads = a->heads, planes = a->dim / 2, ext = c->ext, n = 2 * heads, rc = -1;
    size_t pairs = (size_t)heads * (size_t)heads, width = (size_t)a->width;
    *b = (struct key_blocks){.heads = heads, .planes = planes};
    b->gram = la_alloc((size_t)planes * pairs, sizeof *b->gram, "key blocks", e);
    b->flat = la_alloc((size_t)planes * pairs, sizeof *b->flat, "key blocks", e);
    b->root = la_alloc((size_t)(heads * planes), sizeof *b->root, "key blocks", e);
    double *z = la_alloc(2 * (size_t)n * (size_t)ext + (size_t)(n * n), sizeof *z, "key blocks", e);
    if (!b->gram || !b->flat || !b->root || !z)
        goto out;
    double *zc = z + (size_t)n * (size_t)ext, *real = zc + (size_t)n * (size_t)ext;

    double mean = 0.0;
    for (int i = 0; i < heads * planes; i++)
        mean += c->energy[i] / (heads * planes);
    double floor = mean > 0.0 ? ENERGY_FLOOR * mean : 1.0;
    for (int i = 0; i < heads * planes; i++)
        b->root[i] = sqrt(fmax(c->energy[i], floor));

    for (int p = 0; p < planes; p++) {
        for (int r = 0; r < n; r++) { /* re rows of all heads, then im rows */
            int row = r < heads ? r * a->dim + p : (r - heads) * a->dim + p + planes;
            double *dst = z + (size_t)r * (size_t)ext;
            memcpy(dst, a->k + (size_t)row * width, width * sizeof *dst);
            if (ext > a->width)
                dst[width] = 0.0;
        }
        plane_gram(heads, ext, z, z, real, b->flat + (size_t)p * pairs);
        for (int r = 0; ext > a->width && r < n; r++) {
            int row = r < heads ? r * a->dim + p : (r - heads) * a->dim + p + planes;
            z[(size_t)r * (size_t)ext + width] = a->bk[row];
        }
        la_gemm(false, false, n, ext, ext, 1.0, z, ext, c->c, ext, 0.0, zc, ext);
        plane_gram(heads, ext, z, zc, real, b->gram + (size_t)p * pairs);
    }
    rc = c->slow > 0 ? slow_block_make(b, a, c, e) : 0;
out:
    free(z);
    if (rc)
        key_blocks_finish(b);
    return rc;
}

/* An eigenvector is unique up to a phase: make its largest component real and positive, so that the result does not
 * depend on the library. */
static void fix_phase(int n, double complex *u)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        if (cabs(u[i]) > cabs(u[at]) * (1.0 + 1e-9))
            at = i;
    double complex turn = conj(u[at]) / cabs(u[at]);
    for (int i = 0; i < n; i++)
        u[i] *= turn;
}

/* slow: the share of their own sum that rank one leaves in the slow planes. */
static int solve_planes(const struct key_blocks *b, const int *members, int n, double complex *mix,
                        double complex *factor, double *residual, double *slow, struct dha_err *e)
{
    int heads = b->heads, planes = b->planes, rc = -1;
    double left = 0.0, slow_left = 0.0, slow_sum = 0.0;
    double complex *g = la_alloc((size_t)(n * n), sizeof *g, "a key group", e);
    double *w = la_alloc((size_t)n, sizeof *w, "a key group", e);
    if (!g || !w)
        goto out;
    for (int p = 0; p < planes; p++) {
        const double complex *gram = b->gram + (size_t)p * (size_t)(heads * heads);
        const double complex *flat = b->flat + (size_t)p * (size_t)(heads * heads);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                g[i * n + j] = b->root[members[i] * planes + p] * b->root[members[j] * planes + p] *
                               gram[members[i] * heads + members[j]];
        if (la_eig_herm(n, g, w, e))
            goto out;
        double lost = 0.0;
        for (int r = 0; r < n - 1; r++)
            lost += fmax(w[r], 0.0);
        left += lost;
        if (p >= planes - b->slow) {
            slow_left += lost;
            slow_sum += lost + w[n - 1];
        }
        double complex *u = g + (size_t)(n - 1) * (size_t)n;
        fix_phase(n, u);

        /* Scale the plane to the members' mean norm, the inverse into the factors. */
        double target = 0.0;
        double complex norm2 = 0.0;
        for (int i = 0; i < n; i++) {
            const double complex *row = flat + members[i] * heads;
            double complex mi = u[i] * b->root[members[i] * planes + p];
            target += sqrt(creal(row[members[i]])) / n;
            for (int j = 0; j < n; j++)
                norm2 += conj(mi) * u[j] * b->root[members[j] * planes + p] * row[members[j]];
        }
        double norm = sqrt(fmax(creal(norm2), 0.0));
        double scale = norm > 0.0 && target > 0.0 ? target / norm : 1.0;
        for (int i = 0; i < n; i++) {
            double root = b->root[members[i] * planes + p];
            mix[i * planes + p] = scale * root * u[i];
            factor[i * planes + p] = conj(u[i]) / (root * scale);
        }
    }
    *residual = left;
    *slow = slow_sum > 0.0 ? slow_left / slow_sum : 0.0;
    rc = 0;
out:
    free(w);
    free(g);
    return rc;
}

int key_solve(const struct key_blocks *b, const int *members, int n, double complex *mix,
              double complex *factor, double *residual, struct dha_err *e)
{
    double left, slow;
    return solve_planes(b, members, n, mix, factor, residual ? residual : &left, &slow, e);
}

/* Row pair (p, p + d/2) of head h in m [heads*dim, cols] as one complex number a column. */
static double complex get_plane(const double *m, const struct attn_layer *a, int h, int p,
                                size_t cols, size_t col)
{
    const double *row = m + (size_t)(h * a->dim + p) * cols + col;
    return CMPLX(row[0], row[(size_t)(a->dim / 2) * cols]);
}

static void set_plane(double *m, const struct attn_layer *a, int h, int p, size_t cols, size_t col,
                      double complex z)
{
    double *row = m + (size_t)(h * a->dim + p) * cols + col;
    row[0] = creal(z);
    row[(size_t)(a->dim / 2) * cols] = cimag(z);
}

static void merge_matrix(const struct attn_layer *a, double *k, double *q, size_t cols,
                         const int *members, int n, int turning, const double complex *mix,
                         const double complex *factor)
{
    int planes = a->dim / 2;
    for (int p = 0; p < turning; p++) {
        for (size_t col = 0; col < cols; col++) {
            double complex shared = 0.0;
            for (int i = 0; i < n; i++)
                shared += mix[i * planes + p] * get_plane(k, a, members[i], p, cols, col);
            for (int i = 0; i < n; i++) {
                double complex qz = get_plane(q, a, members[i], p, cols, col);
                set_plane(k, a, members[i], p, cols, col, shared);
                set_plane(q, a, members[i], p, cols, col, qz * conj(factor[i * planes + p]));
            }
        }
    }
}

int key_merge(struct attn_layer *a, const struct key_blocks *b, const int *members, int n,
              struct dha_err *e)
{
    size_t numbers = (size_t)(n * b->planes);
    double residual, slow;
    double complex *mix = la_alloc(2 * numbers, sizeof *mix, "a key group", e);
    if (!mix)
        return -1;
    int rc = solve_planes(b, members, n, mix, mix + numbers, &residual, &slow, e);
    bool block = b->slow > 0 && slow > EXACT;
    int turning = block ? b->planes - b->slow : b->planes;
    if (rc == 0) {
        merge_matrix(a, a->k, a->q, (size_t)a->width, members, n, turning, mix, mix + numbers);
        if (a->bias)
            merge_matrix(a, a->bk, a->bq, 1, members, n, turning, mix, mix + numbers);
    }
    if (rc == 0 && block)
        rc = slow_merge(a, b, members, n, e);
    free(mix);
    return rc;
}

int group_members(const int *group_of, int heads, int g, int *members)
{
    int n = 0;
    for (int h = 0; h < heads; h++)
        if (group_of[h] == g)
            members[n++] = h;
    return n;
}

int subset_members(unsigned mask, int heads, int *members)
{
    int n = 0;
    for (int h = 0; h < heads; h++)
        if (mask >> h & 1)
            members[n++] = h;
    return n;
}

int spectral_merge_keys(struct attn_layer *a, const struct key_blocks *b, const int *group_of,
                        struct dha_err *e)
{
    int members[MODEL_MAX_HEADS];
    for (int g = 0; g < a->heads; g++) {
        int n = group_members(group_of, a->heads, g, members);
        if (n > 1 && key_merge(a, b, members, n, e))
            return -1;
    }
    return 0;
}
