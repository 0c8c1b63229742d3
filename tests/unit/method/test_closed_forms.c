/* The closed forms of METHODS section 6 on small random layers: against a direct SVD, against brute-force optimisation,
 * and on heads that are exact images of one another.
 */
#include "tests/unit/method/fixtures.h"

#include <lapacke.h>

#include "worker/method/linalg.h"
#include "worker/method/spectral.h"

enum { H = 4, DIM = 4, WIDTH = 12, HD = H * DIM, PLANES = DIM / 2 };

static void random_layer(struct attn_layer *a, bool bias)
{
    *a = (struct attn_layer){.heads = H, .dim = DIM, .width = WIDTH, .bias = bias};
    a->block = calloc(layer_numbers(a), sizeof *a->block);
    assert_non_null(a->block);
    a->q = a->block;
    a->k = a->q + HD * WIDTH;
    a->v = a->k + HD * WIDTH;
    a->o = a->v + HD * WIDTH;
    double *next = a->o + HD * WIDTH;
    for (double *x = a->q; x < next; x++)
        *x = normal();
    if (bias) {
        a->bq = next;
        a->bk = a->bq + HD;
        a->bv = a->bk + HD;
        a->bo = a->bv + HD;
        for (double *x = a->bq; x < a->bo + WIDTH; x++)
            *x = normal();
    }
}

/* A random second moment of full rank; with a constant 1 in the last dimension if ext > WIDTH. */
static void random_moment(double *c, int ext)
{
    enum { SAMPLES = 40 };
    double x[WIDTH + 1];
    memset(c, 0, sizeof *c * (size_t)(ext * ext));
    for (int s = 0; s < SAMPLES; s++) {
        for (int i = 0; i < ext; i++)
            x[i] = i == WIDTH ? 1.0 : normal() * (1.0 + i) + 0.3;
        for (int i = 0; i < ext; i++)
            for (int j = 0; j < ext; j++)
                c[i * ext + j] += x[i] * x[j] / SAMPLES;
    }
}

static void random_calib(struct calib_layer *c, bool bias)
{
    *c = (struct calib_layer){
        .heads = H, .dim = DIM, .width = WIDTH, .ext = WIDTH + (bias ? 1 : 0)};
    c->c = malloc(sizeof(double) * (size_t)(c->ext * c->ext));
    c->c_head = calloc(H, sizeof *c->c_head);
    c->energy = malloc(sizeof(double) * H * PLANES);
    c->angle = malloc(sizeof(double) * PLANES);
    assert_true(c->c && c->c_head && c->energy && c->angle);
    for (int p = 0; p < PLANES; p++)
        c->angle[p] = pow(10.0, -p - 1);
    random_moment(c->c, c->ext);
    for (int h = 0; h < H; h++) {
        c->c_head[h] = malloc(sizeof(double) * WIDTH * WIDTH);
        assert_non_null(c->c_head[h]);
        random_moment(c->c_head[h], WIDTH);
    }
    for (int i = 0; i < H * PLANES; i++)
        c->energy[i] = 0.2 + uniform();
}

/* --- values --------------------------------------------------------------------------------------- */

/* sum_h || S (W_v^h o_h - W_v'^h o'_h) ||^2 with S^2 = c: trace of E c E^T for E = o (V rows) differences. */
static double value_error(const struct attn_layer *a, const struct attn_layer *b, const double *c,
                          const int *members, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        int h = members[i];
        double e[WIDTH][WIDTH]; /* [out, in] */
        for (int r = 0; r < WIDTH; r++)
            for (int s = 0; s < WIDTH; s++) {
                e[r][s] = 0.0;
                for (int k = 0; k < DIM; k++)
                    e[r][s] += a->o[r * HD + h * DIM + k] * a->v[(h * DIM + k) * WIDTH + s] -
                               b->o[r * HD + h * DIM + k] * b->v[(h * DIM + k) * WIDTH + s];
            }
        for (int r = 0; r < WIDTH; r++)
            for (int s = 0; s < WIDTH; s++)
                for (int t = 0; t < WIDTH; t++)
                    sum += e[r][s] * c[s * WIDTH + t] * e[r][t];
    }
    return sum;
}

/* Sum of the squared singular values of S [W_v^1 o_1, ...] beyond the first DIM, by a direct SVD. */
static double svd_residual(const struct attn_layer *a, const double *c, const int *members, int n)
{
    static double s[WIDTH * WIDTH], f[WIDTH * WIDTH * H], sigma[WIDTH], work[WIDTH];
    struct dha_err e;
    assert_int_equal(la_sqrt(WIDTH, c, s, NULL, &e), 0);
    int cols = n * WIDTH;
    for (int i = 0; i < n; i++) {
        double wo[WIDTH * WIDTH]; /* [in, out] */
        la_gemm(true, true, WIDTH, WIDTH, DIM, 1.0, a->v + members[i] * DIM * WIDTH, WIDTH,
                a->o + members[i] * DIM, HD, 0.0, wo, WIDTH);
        la_gemm(false, false, WIDTH, WIDTH, WIDTH, 1.0, s, WIDTH, wo, WIDTH, 0.0, f + i * WIDTH,
                cols);
    }
    assert_int_equal(LAPACKE_dgesvd(LAPACK_ROW_MAJOR, 'N', 'N', WIDTH, cols, f, cols, sigma, NULL,
                                    1, NULL, 1, work),
                     0);
    double sum = 0.0;
    for (int r = DIM; r < WIDTH; r++)
        sum += sigma[r] * sigma[r];
    return sum;
}

static void value_residual_is_that_of_a_direct_svd(void **state)
{
    (void)state;
    static const int groups[][H] = {{0, 1}, {1, 3}, {0, 2, 3}, {0, 1, 2, 3}};
    static const int size[] = {2, 2, 3, 4};
    for (int g = 0; g < 4; g++) { /* the last two have n*DIM >= WIDTH */
        struct attn_layer a, merged;
        struct calib_layer c;
        struct value_blocks b;
        struct dha_err e = {0};
        double mean[WIDTH * WIDTH] = {0}, residual;
        random_layer(&a, false);
        random_calib(&c, false);
        for (int i = 0; i < size[g]; i++)
            for (int j = 0; j < WIDTH * WIDTH; j++)
                mean[j] += c.c_head[groups[g][i]][j] / size[g];
        assert_int_equal(value_blocks_make(&b, &a, &c, &e), 0);
        assert_int_equal(value_residual(&b, groups[g], size[g], &residual, &e), 0);
        double want = svd_residual(&a, mean, groups[g], size[g]);
        assert_close(residual, want, 1e-8 * (1.0 + want));

        assert_int_equal(layer_copy(&merged, &a, &e), 0);
        assert_int_equal(value_merge(&merged, &b, groups[g], size[g], &e), 0);
        double err = value_error(&a, &merged, mean, groups[g], size[g]);
        assert_close(err, residual, 1e-8 * (1.0 + want));
        for (int i = 1; i < size[g]; i++) /* one shared head */
            assert_memory_equal(merged.v + groups[g][0] * DIM * WIDTH,
                                merged.v + groups[g][i] * DIM * WIDTH,
                                sizeof(double) * DIM * WIDTH);

        /* No perturbation of the shared rows or of anybody's o does better. */
        for (int trial = 0; trial < 200; trial++) {
            struct attn_layer p;
            assert_int_equal(layer_copy(&p, &merged, &e), 0);
            double step = pow(10.0, -1.0 - 4.0 * uniform()), d[DIM * WIDTH];
            for (int j = 0; j < DIM * WIDTH; j++)
                d[j] = step * normal();
            for (int i = 0; i < size[g]; i++)
                for (int j = 0; j < DIM * WIDTH; j++) {
                    p.v[groups[g][i] * DIM * WIDTH + j] += d[j];
                    if (trial % 2)
                        p.o[j % WIDTH * HD + groups[g][i] * DIM + j / WIDTH] += step * normal();
                }
            assert_true(value_error(&a, &p, mean, groups[g], size[g]) >= err * (1.0 - 1e-9));
            layer_finish(&p);
        }
        layer_finish(&merged);
        value_blocks_finish(&b);
        calib_layer_finish(&c);
        layer_finish(&a);
    }
}

static double squared(const double *x, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

static void value_rows_get_the_members_mean_norm(void **state)
{
    (void)state;
    struct attn_layer a;
    struct calib_layer c;
    struct value_blocks b;
    struct dha_err e = {0};
    static const int members[] = {0, 2};
    double want = 0.0;
    random_layer(&a, false);
    random_calib(&c, false);
    assert_int_equal(value_blocks_make(&b, &a, &c, &e), 0);
    for (int i = 0; i < 2; i++)
        for (int r = 0; r < DIM; r++)
            want += sqrt(squared(a.v + (members[i] * DIM + r) * WIDTH, WIDTH)) / (2 * DIM);
    assert_int_equal(value_merge(&a, &b, members, 2, &e), 0);
    for (int r = 0; r < DIM; r++)
        assert_close(sqrt(squared(a.v + r * WIDTH, WIDTH)), want, 1e-9);
    value_blocks_finish(&b);
    calib_layer_finish(&c);
    layer_finish(&a);
}

/* Wide models have one second moment for all heads: the same as H equal ones. */
static void one_moment_for_all_heads_is_as_many_equal_ones(void **state)
{
    (void)state;
    struct attn_layer a;
    struct calib_layer c, one;
    struct value_blocks many, common;
    struct dha_err e = {0};
    int members[] = {0, 2};
    double x, y;
    random_layer(&a, false);
    random_calib(&c, false);
    random_calib(&one, false);
    memcpy(one.c, c.c, (size_t)(c.ext * c.ext) * sizeof *c.c);
    one.plain = true;
    for (int h = 0; h < c.heads; h++) {
        memcpy(c.c_head[h], c.c, (size_t)(c.ext * c.ext) * sizeof *c.c);
        free(one.c_head[h]);
        one.c_head[h] = NULL;
    }
    if (value_blocks_make(&many, &a, &c, &e) || value_blocks_make(&common, &a, &one, &e) ||
        value_residual(&many, members, 2, &x, &e) || value_residual(&common, members, 2, &y, &e))
        fail_msg("%s", e.msg);
    assert_true(x > 0.0);
    assert_close(x, y, 1e-10 * x);
    value_blocks_finish(&common);
    value_blocks_finish(&many);
    layer_finish(&a);
    calib_layer_finish(&one);
    calib_layer_finish(&c);
}

/* Head 2 computes with head 0's values seen through an invertible matrix: sharing costs nothing. */
static void values_that_are_images_merge_without_loss(void **state)
{
    (void)state;
    struct attn_layer a, before;
    struct calib_layer c;
    struct value_blocks b;
    struct dha_err e = {0};
    static const int members[] = {0, 2};
    double m[DIM * DIM], residual, eye[WIDTH * WIDTH] = {0};
    random_layer(&a, true);
    for (int i = 0; i < DIM * DIM; i++)
        m[i] = normal() + (i % (DIM + 1) == 0 ? 2.0 : 0.0);
    la_gemm(false, false, DIM, WIDTH, DIM, 1.0, m, DIM, a.v, WIDTH, 0.0, a.v + 2 * DIM * WIDTH,
            WIDTH);
    random_calib(&c, true);
    assert_int_equal(layer_copy(&before, &a, &e), 0);
    assert_int_equal(value_blocks_make(&b, &a, &c, &e), 0);
    assert_int_equal(value_residual(&b, members, 2, &residual, &e), 0);
    assert_close(residual, 0.0, 1e-8);
    assert_int_equal(value_merge(&a, &b, members, 2, &e), 0);
    for (int i = 0; i < WIDTH; i++)
        eye[i * WIDTH + i] = 1.0;
    assert_close(value_error(&before, &a, eye, members, 2), 0.0, 1e-12);
    /* The value biases have moved into o's: sum_h o_h b_h is what it was. */
    for (int i = 0; i < WIDTH; i++) {
        double was = before.bo[i], is = a.bo[i];
        for (int r = 0; r < HD; r++) {
            was += before.o[i * HD + r] * before.bv[r];
            is += a.o[i * HD + r] * a.bv[r];
        }
        assert_close(is, was, 1e-10);
    }
    value_blocks_finish(&b);
    calib_layer_finish(&c);
    layer_finish(&before);
    layer_finish(&a);
}

static void a_head_without_output_costs_nothing(void **state)
{
    (void)state;
    struct attn_layer a;
    struct calib_layer c;
    struct value_blocks b;
    struct dha_err e = {0};
    static const int members[] = {1, 3};
    double residual;
    random_layer(&a, false);
    for (int i = 0; i < WIDTH; i++)
        for (int r = 0; r < DIM; r++)
            a.o[i * HD + DIM + r] = 0.0;
    random_calib(&c, false);
    assert_int_equal(value_blocks_make(&b, &a, &c, &e), 0);
    assert_int_equal(value_residual(&b, members, 2, &residual, &e), 0);
    assert_close(residual, 0.0, 1e-8);
    assert_int_equal(value_merge(&a, &b, members, 2, &e), 0);
    for (int i = 0; i < HD * WIDTH; i++)
        assert_true(isfinite(a.v[i]) && isfinite(a.o[i]));
    value_blocks_finish(&b);
    calib_layer_finish(&c);
    layer_finish(&a);
}

/* --- keys ----------------------------------------------------------------------------------------- */

/* kappa_{h,p}, extended by its bias when c is. */
static void kappa(const struct attn_layer *a, const struct calib_layer *c, int h, int p,
                  double complex *z)
{
    int re = h * DIM + p, im = re + PLANES;
    for (int i = 0; i < WIDTH; i++)
        z[i] = CMPLX(a->k[re * WIDTH + i], a->k[im * WIDTH + i]);
    if (c->ext > WIDTH)
        z[WIDTH] = CMPLX(a->bk[re], a->bk[im]);
}

static double norm_in(const double *c, int ext, const double complex *z)
{
    double complex sum = 0.0;
    for (int i = 0; i < ext; i++)
        for (int j = 0; j < ext; j++)
            sum += conj(z[i]) * c[i * ext + j] * z[j];
    return creal(sum);
}

/* sum_h w_h E|k_h - f_h k|^2 for one plane, f and the mixture given. */
static double key_error(const struct attn_layer *a, const struct calib_layer *c, int p,
                        const int *members, int n, const double complex *shared,
                        const double complex *factor)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        double complex z[WIDTH + 1];
        kappa(a, c, members[i], p, z);
        for (int j = 0; j < c->ext; j++)
            z[j] -= factor[i] * shared[j];
        sum += c->energy[members[i] * PLANES + p] * norm_in(c->c, c->ext, z);
    }
    return sum;
}

/* The best rank one for two heads, by brute force over the factors' ratio (one complex number; the shared key is then a
 * weighted least-squares mean): a grid over modulus and phase, refined. */
static double brute_pair(const struct attn_layer *a, const struct calib_layer *c, int p,
                         const int *members)
{
    double complex z0[WIDTH + 1], z1[WIDTH + 1], shared[WIDTH + 1];
    double w0 = c->energy[members[0] * PLANES + p], w1 = c->energy[members[1] * PLANES + p];
    double best = INFINITY, at_log = 0.0, at_phase = 0.0, span_log = 4.0, span_phase = 3.15;
    kappa(a, c, members[0], p, z0);
    kappa(a, c, members[1], p, z1);
    for (int level = 0; level < 12; level++) {
        double from_log = at_log, from_phase = at_phase;
        for (int i = -20; i <= 20; i++)
            for (int j = -20; j <= 20; j++) {
                double lg = from_log + span_log * i / 20, ph = from_phase + span_phase * j / 20;
                double complex f[2] = {1.0, exp(lg) * cexp(CMPLX(0.0, ph))};
                double norm = w0 + w1 * exp(2 * lg);
                for (int x = 0; x < c->ext; x++)
                    shared[x] = (w0 * z0[x] + w1 * conj(f[1]) * z1[x]) / norm;
                double err = key_error(a, c, p, members, 2, shared, f);
                if (err < best) {
                    best = err;
                    at_log = lg;
                    at_phase = ph;
                }
            }
        span_log /= 5;
        span_phase /= 5;
    }
    return best;
}

static void shared_keys_equal_brute_force_over_phase_and_magnitude(void **state)
{
    (void)state;
    static const int members[] = {1, 3};
    for (int bias = 0; bias < 2; bias++) {
        struct attn_layer a;
        struct calib_layer c;
        struct key_blocks b;
        struct dha_err e = {0};
        double complex mix[2 * PLANES], factor[2 * PLANES];
        double residual, sum = 0.0, brute = 0.0;
        random_layer(&a, bias);
        random_calib(&c, bias);
        assert_int_equal(key_blocks_make(&b, &a, &c, &e), 0);
        assert_int_equal(key_solve(&b, members, 2, mix, factor, &residual, &e), 0);
        for (int p = 0; p < PLANES; p++) {
            double complex shared[WIDTH + 1] = {0}, f[2];
            for (int i = 0; i < 2; i++) {
                double complex z[WIDTH + 1];
                kappa(&a, &c, members[i], p, z);
                for (int x = 0; x < c.ext; x++)
                    shared[x] += mix[i * PLANES + p] * z[x];
                f[i] = factor[i * PLANES + p];
            }
            sum += key_error(&a, &c, p, members, 2, shared, f);
            brute += brute_pair(&a, &c, p, members);
        }
        assert_close(sum, residual, 1e-9 * (1.0 + residual));
        assert_true(sum <= brute + 1e-9 * brute);
        assert_close(sum, brute, 1e-6 * brute); /* the grid's last step is 1e-8 wide */
        key_blocks_finish(&b);
        calib_layer_finish(&c);
        layer_finish(&a);
    }
}

static void no_perturbation_of_shared_keys_does_better(void **state)
{
    (void)state;
    static const int members[] = {0, 1, 3};
    struct attn_layer a;
    struct calib_layer c;
    struct key_blocks b;
    struct dha_err e = {0};
    double complex mix[3 * PLANES], factor[3 * PLANES];
    double residual;
    random_layer(&a, false);
    random_calib(&c, false);
    assert_int_equal(key_blocks_make(&b, &a, &c, &e), 0);
    assert_int_equal(key_solve(&b, members, 3, mix, factor, &residual, &e), 0);
    for (int trial = 0; trial < 300; trial++) {
        double sum = 0.0, step = trial ? pow(10.0, -1.0 - 4.0 * uniform()) : 0.0;
        for (int p = 0; p < PLANES; p++) {
            double complex shared[WIDTH + 1] = {0}, f[3];
            for (int i = 0; i < 3; i++) {
                double complex z[WIDTH + 1];
                kappa(&a, &c, members[i], p, z);
                for (int x = 0; x < WIDTH; x++)
                    shared[x] += mix[i * PLANES + p] * z[x];
                f[i] = factor[i * PLANES + p] + step * CMPLX(normal(), normal());
            }
            for (int x = 0; x < WIDTH; x++)
                shared[x] += step * CMPLX(normal(), normal());
            sum += key_error(&a, &c, p, members, 3, shared, f);
        }
        assert_true(sum >= residual * (1.0 - 1e-9));
        if (trial == 0)
            assert_close(sum, residual, 1e-9 * residual);
    }
    key_blocks_finish(&b);
    calib_layer_finish(&c);
    layer_finish(&a);
}

/* Head 2's key planes are head 0's times complex numbers: the merge costs nothing, and every logit q . k at every
 * distance stays: conj(q) k of each plane, biases included. */
static void images_merge_without_loss(int slow)
{
    static const int members[] = {0, 2};
    struct attn_layer a, before;
    struct calib_layer c;
    struct key_blocks b;
    struct dha_err e = {0};
    double complex unused[4 * PLANES];
    double residual;
    random_layer(&a, true);
    random_calib(&c, true);
    c.slow = slow;
    for (int p = 0; p < PLANES; p++) {
        double complex f = CMPLX(normal(), normal());
        for (int x = 0; x <= WIDTH; x++) {
            double *re = x < WIDTH ? a.k + p * WIDTH + x : a.bk + p;
            double *im = x < WIDTH ? re + PLANES * WIDTH : re + PLANES;
            double complex z = f * CMPLX(*re, *im);
            re[x < WIDTH ? 2 * DIM * WIDTH : 2 * DIM] = creal(z);
            im[x < WIDTH ? 2 * DIM * WIDTH : 2 * DIM] = cimag(z);
        }
    }
    assert_int_equal(layer_copy(&before, &a, &e), 0);
    assert_int_equal(key_blocks_make(&b, &a, &c, &e), 0);
    assert_int_equal(key_solve(&b, members, 2, unused, unused + 2 * PLANES, &residual, &e), 0);
    assert_close(residual, 0.0, 1e-8);
    assert_int_equal(key_merge(&a, &b, members, 2, &e), 0);
    assert_memory_equal(a.k, a.k + 2 * DIM * WIDTH, sizeof(double) * DIM * WIDTH);
    assert_memory_equal(a.bk, a.bk + 2 * DIM, sizeof(double) * DIM);
    for (int trial = 0; trial < 20; trial++) {
        double xq[WIDTH], xk[WIDTH];
        for (int i = 0; i < WIDTH; i++) {
            xq[i] = normal();
            xk[i] = normal();
        }
        for (int i = 0; i < 2; i++)
            for (int p = 0; p < PLANES; p++) {
                double complex was, is;
                for (int side = 0; side < 2; side++) {
                    const struct attn_layer *l = side ? &a : &before;
                    int re = members[i] * DIM + p, im = re + PLANES;
                    double complex q = CMPLX(l->bq[re], l->bq[im]), k = CMPLX(l->bk[re], l->bk[im]);
                    for (int x = 0; x < WIDTH; x++) {
                        q += xq[x] * CMPLX(l->q[re * WIDTH + x], l->q[im * WIDTH + x]);
                        k += xk[x] * CMPLX(l->k[re * WIDTH + x], l->k[im * WIDTH + x]);
                    }
                    *(side ? &is : &was) = conj(q) * k;
                }
                assert_close(cabs(is - was), 0.0, 1e-9 * (1.0 + cabs(was)));
            }
    }
    key_blocks_finish(&b);
    calib_layer_finish(&c);
    layer_finish(&before);
    layer_finish(&a);
}

static void keys_that_are_images_merge_without_loss(void **state)
{
    (void)state;
    for (int slow = 0; slow <= PLANES; slow++) /* exact planes stay planes */
        images_merge_without_loss(slow);
}

/* --- slow planes ---------------------------------------------------------------------------------- */

/* Row r of the slow planes' rows of head h, with the bias: [ext]. */
static void slow_row(const struct attn_layer *a, const double *w, const double *bias, int h, int r,
                     int slow, double *out)
{
    int first = PLANES - slow, dim = r < slow ? first + r : PLANES + first + r - slow;
    memcpy(out, w + (h * DIM + dim) * WIDTH, WIDTH * sizeof *out);
    if (a->bias)
        out[WIDTH] = bias[h * DIM + dim];
}

/* W_q^T W_k of head h over the slow planes [ext, ext]: x_q that x_k is their share of a logit if nothing turns. */
static void slow_product(const struct attn_layer *a, int ext, int h, int slow, double *out)
{
    double q[WIDTH + 1], k[WIDTH + 1];
    memset(out, 0, (size_t)(ext * ext) * sizeof *out);
    for (int r = 0; r < 2 * slow; r++) {
        slow_row(a, a->q, a->bq, h, r, slow, q);
        slow_row(a, a->k, a->bk, h, r, slow, k);
        for (int i = 0; i < ext; i++)
            for (int j = 0; j < ext; j++)
                out[i * ext + j] += q[i] * k[j];
    }
}

/* What the merge leaves of S M_h S summed over the group, S = C^1/2, against the D x D eigenproblem; and keys are equal. */
static void slow_planes_are_the_best_joint_low_rank(void **state)
{
    (void)state;
    static const int members[] = {0, 1, 3};
    for (int bias = 0; bias < 2; bias++)
        for (int slow = 1; slow <= PLANES; slow++) {
            struct attn_layer a, old;
            struct calib_layer c;
            struct key_blocks b;
            struct dha_err e = {0};
            enum { EXT = WIDTH + 1, N = EXT * EXT };
            double s[N], inverse[N], m[N], m2[N], t[N], gram[N] = {0}, values[EXT];
            double want = 0, got = 0;
            random_layer(&a, bias);
            random_calib(&c, bias);
            c.slow = slow;
            int ext = c.ext;
            assert_int_equal(layer_copy(&old, &a, &e), 0);
            assert_int_equal(key_blocks_make(&b, &a, &c, &e), 0);
            assert_int_equal(key_merge(&a, &b, members, 3, &e), 0);
            assert_int_equal(la_sqrt(ext, c.c, s, inverse, &e), 0);
            for (int i = 0; i < 3; i++) {
                slow_product(&old, ext, members[i], slow, m);
                slow_product(&a, ext, members[i], slow, m2);
                la_gemm(false, false, ext, ext, ext, 1, s, ext, m, ext, 0, t, ext);
                la_gemm(false, false, ext, ext, ext, 1, t, ext, s, ext, 0, m, ext);
                la_gemm(true, false, ext, ext, ext, 1, m, ext, m, ext, 1, gram, ext);
                la_gemm(false, false, ext, ext, ext, 1, s, ext, m2, ext, 0, t, ext);
                la_gemm(false, false, ext, ext, ext, 1, t, ext, s, ext, 0, m2, ext);
                for (int x = 0; x < ext * ext; x++)
                    got += (m[x] - m2[x]) * (m[x] - m2[x]);
                for (int r = 0; r < DIM; r++) {
                    int row = members[i] * DIM + r;
                    assert_memory_equal(a.k + row * WIDTH, a.k + r * WIDTH, WIDTH * sizeof *a.k);
                    if (bias)
                        assert_true(a.bk[row] == a.bk[r]);
                    /* turning planes are merged as without the block: not looked at here */
                }
            }
            assert_int_equal(la_eig_sym(ext, gram, values, false, &e), 0);
            for (int r = 0; r < ext - 2 * slow; r++)
                want += fmax(values[r], 0.0);
            assert_true(want > 1.0);
            assert_close(got, want, 1e-7 * want);
            key_blocks_finish(&b);
            calib_layer_finish(&c);
            layer_finish(&old);
            layer_finish(&a);
        }
}

/* W_q^T Omega W_k of head h [ext, ext]: what a logit changes by over a distance of one, to first order. */
static void slow_turn(const struct attn_layer *a, const struct calib_layer *c, int h, double *out)
{
    double q[2][WIDTH + 1], k[2][WIDTH + 1];
    int ext = c->ext, slow = c->slow;
    memset(out, 0, (size_t)(ext * ext) * sizeof *out);
    for (int p = 0; p < slow; p++) {
        for (int half = 0; half < 2; half++) {
            slow_row(a, a->q, a->bq, h, p + half * slow, slow, q[half]);
            slow_row(a, a->k, a->bk, h, p + half * slow, slow, k[half]);
        }
        for (int i = 0; i < ext; i++)
            for (int j = 0; j < ext; j++)
                out[i * ext + j] += c->angle[PLANES - slow + p] *
                                    (q[0][i] * k[1][j] - q[1][i] * k[0][j]);
    }
}

static double turn_error(const struct attn_layer *old, const struct attn_layer *a,
                         const struct calib_layer *c, const int *members, int n)
{
    enum { EXT = WIDTH + 1, N = EXT * EXT };
    double s[N], inverse[N], m[N], m2[N], t[N], sum = 0;
    struct dha_err e = {0};
    int ext = c->ext;
    assert_int_equal(la_sqrt(ext, c->c, s, inverse, &e), 0);
    for (int i = 0; i < n; i++) {
        slow_turn(old, c, members[i], m);
        slow_turn(a, c, members[i], m2);
        for (int x = 0; x < ext * ext; x++)
            m[x] -= m2[x];
        la_gemm(false, false, ext, ext, ext, 1, s, ext, m, ext, 0, t, ext);
        la_gemm(false, false, ext, ext, ext, 1, t, ext, s, ext, 0, m, ext);
        for (int x = 0; x < ext * ext; x++)
            sum += m[x] * m[x];
    }
    return sum;
}

/* Swaps two dims of every head's queries and keys: unrotated logits stay. */
static void swap_dims(struct attn_layer *a, int x, int y)
{
    for (int h = 0; h < H; h++)
        for (int which = 0; which < 2; which++) {
            double *w = which ? a->k : a->q, *b = which ? a->bk : a->bq, t;
            for (int c = 0; c < WIDTH; c++) {
                t = w[(h * DIM + x) * WIDTH + c];
                w[(h * DIM + x) * WIDTH + c] = w[(h * DIM + y) * WIDTH + c];
                w[(h * DIM + y) * WIDTH + c] = t;
            }
            if (a->bias) {
                t = b[h * DIM + x];
                b[h * DIM + x] = b[h * DIM + y];
                b[h * DIM + y] = t;
            }
        }
}

/* Which of two rows is the first of its plane: turned the other way, the first order of the turn fits worse. */
static void slow_planes_turn_as_the_members_did(void **state)
{
    (void)state;
    static const int members[] = {0, 1, 2, 3};
    for (int trial = 0; trial < 20; trial++)
        for (int slow = 1; slow <= PLANES; slow++) {
            struct attn_layer a, old;
            struct calib_layer c;
            struct key_blocks b;
            struct dha_err e = {0};
            random_layer(&a, trial % 2);
            random_calib(&c, trial % 2);
            c.slow = slow;
            assert_int_equal(layer_copy(&old, &a, &e), 0);
            assert_int_equal(key_blocks_make(&b, &a, &c, &e), 0);
            assert_int_equal(key_merge(&a, &b, members, 2 + trial % 3, &e), 0);
            double as_is = turn_error(&old, &a, &c, members, 2 + trial % 3);
            for (int p = PLANES - slow; p < PLANES; p++) {
                swap_dims(&a, p, p + PLANES); /* the plane turns the other way */
                assert_true(turn_error(&old, &a, &c, members, 2 + trial % 3) > as_is * (1 - 1e-12));
                swap_dims(&a, p, p + PLANES);
            }
            assert_close(turn_error(&old, &a, &c, members, 2 + trial % 3), as_is, 1e-9 * as_is);
            key_blocks_finish(&b);
            calib_layer_finish(&c);
            layer_finish(&old);
            layer_finish(&a);
        }
}

/* --- linear algebra ------------------------------------------------------------------------------- */

static void square_roots_multiply_back(void **state)
{
    (void)state;
    double c[WIDTH * WIDTH], s[WIDTH * WIDTH], i[WIDTH * WIDTH], t[WIDTH * WIDTH], u[WIDTH * WIDTH];
    struct dha_err e = {0};
    random_moment(c, WIDTH);
    assert_int_equal(la_sqrt(WIDTH, c, s, i, &e), 0);
    la_gemm(false, false, WIDTH, WIDTH, WIDTH, 1.0, s, WIDTH, s, WIDTH, 0.0, t, WIDTH);
    la_gemm(false, false, WIDTH, WIDTH, WIDTH, 1.0, s, WIDTH, i, WIDTH, 0.0, u, WIDTH);
    for (int r = 0; r < WIDTH; r++)
        for (int k = 0; k < WIDTH; k++) {
            assert_close(t[r * WIDTH + k], c[r * WIDTH + k], 1e-9);
            assert_close(u[r * WIDTH + k], r == k ? 1.0 : 0.0, 1e-9);
        }
    memset(c, 0, sizeof c);
    assert_int_equal(la_sqrt(WIDTH, c, s, i, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    c[5] = NAN;
    assert_int_equal(la_eig_sym(WIDTH, c, t, false, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
}

static void hermitian_eigenvectors_satisfy_their_equation(void **state)
{
    (void)state;
    enum { N = 5 };
    double complex a[N * N], v[N * N];
    double w[N];
    struct dha_err e = {0};
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++) {
            a[i * N + j] = CMPLX(normal(), i == j ? 0.0 : normal());
            a[j * N + i] = conj(a[i * N + j]);
        }
    memcpy(v, a, sizeof a);
    assert_int_equal(la_eig_herm(N, v, w, &e), 0);
    for (int r = 0; r < N; r++)
        for (int i = 0; i < N; i++) {
            double complex sum = 0.0;
            for (int j = 0; j < N; j++)
                sum += a[i * N + j] * v[r * N + j];
            assert_close(cabs(sum - w[r] * v[r * N + i]), 0.0, 1e-10);
        }
}

static void spd_solve_solves(void **state)
{
    (void)state;
    double a[WIDTH * WIDTH], copy[WIDTH * WIDTH], x[3 * WIDTH], b[3 * WIDTH];
    struct dha_err e = {0};
    random_moment(a, WIDTH);
    memcpy(copy, a, sizeof a);
    for (int i = 0; i < 3 * WIDTH; i++)
        x[i] = normal();
    la_gemm(false, false, 3, WIDTH, WIDTH, 1.0, x, WIDTH, a, WIDTH, 0.0, b, WIDTH);
    assert_int_equal(la_solve_spd(3, WIDTH, copy, b, &e), 0);
    for (int i = 0; i < 3 * WIDTH; i++)
        assert_close(b[i], x[i], 1e-8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(value_residual_is_that_of_a_direct_svd),
        cmocka_unit_test(value_rows_get_the_members_mean_norm),
        cmocka_unit_test(one_moment_for_all_heads_is_as_many_equal_ones),
        cmocka_unit_test(values_that_are_images_merge_without_loss),
        cmocka_unit_test(a_head_without_output_costs_nothing),
        cmocka_unit_test(shared_keys_equal_brute_force_over_phase_and_magnitude),
        cmocka_unit_test(no_perturbation_of_shared_keys_does_better),
        cmocka_unit_test(keys_that_are_images_merge_without_loss),
        cmocka_unit_test(slow_planes_are_the_best_joint_low_rank),
        cmocka_unit_test(slow_planes_turn_as_the_members_did),
        cmocka_unit_test(square_roots_multiply_back),
        cmocka_unit_test(hermitian_eigenvectors_satisfy_their_equation),
        cmocka_unit_test(spd_solve_solves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
