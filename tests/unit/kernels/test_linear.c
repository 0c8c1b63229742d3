/* GEMM, vector sums, biases. A sum of n products of numbers below 1 is off by at most n roundings. */
#include "support.h"

#include <math.h>
#include <stdlib.h>

struct shape {
    size_t m, n, kk, pad; /* pad: leading dimensions are this much larger than the widths */
};

static void check_gemm(struct duo *d)
{
    static const struct shape shapes[] = {
        {1, 1, 1, 0},
        {3, 5, 7, 2},
        {17, 33, 65, 0},
        {64, 48, 31, 5},
        {2, 129, 9, 1},
        {130, 2, 77, 3},
        {1030, 19, 23, 4},
        /* large enough for our own product with A transposed: every kind of edge */
        {1024, 16, 16, 0},
        {1025, 780, 17, 3},
        {1100, 17, 290, 1},
        {2049, 48, 33, 0},
    };
    static const float factors[][2] = {{1, 0}, {1, 1}, {0.5F, 0}, {-2, 0.25F}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int t = 0; t < 4; t++)
            for (size_t f = 0; f < 4; f++) {
                const struct shape *p = &shapes[s];
                if (p->m > 1000 && (f > 1 || t != 1))
                    continue; /* the same road as a small one, and slow for the reference */
                bool ta = (t & 1) != 0, tb = (t & 2) != 0;
                size_t lda = (ta ? p->m : p->kk) + p->pad, ldb = (tb ? p->kk : p->n) + p->pad,
                       ldc = p->n + p->pad;
                struct arr a = arr_random(d, (ta ? p->kk : p->m) * lda, 1, 1, 0);
                struct arr b = arr_random(d, (tb ? p->n : p->kk) * ldb, 2, 1, 0);
                struct arr c = arr_random(d, p->m * ldc, 3, 1, 0);
                for (int i = 0; i < BACKENDS; i++)
                    d->k[i]->ops->gemm(d->k[i], ta, tb, p->m, p->n, p->kk, factors[f][0], a.v[i],
                                       lda, b.v[i], ldb, factors[f][1], c.v[i], ldc);
                arr_same(d, &c, 3 * ROUNDING * (double)(p->kk + 1), 0, "gemm");
                arr_free(d, &a);
                arr_free(d, &b);
                arr_free(d, &c);
            }
}

static void check_gemm_ignores_old_c(struct duo *d)
{
    for (size_t m = 8; m <= 1032; m += 1024) { /* oneDNN's product, then ours */
        size_t n = 50, kk = 30;
        float *nan = malloc(m * n * sizeof *nan);
        for (size_t i = 0; i < m * n; i++)
            nan[i] = NAN;
        struct arr a = arr_random(d, m * kk, 1, 1, 0), b = arr_random(d, kk * n, 2, 1, 0);
        struct arr c = arr_from(d, nan, m * n);
        for (int i = 0; i < BACKENDS; i++)
            d->k[i]->ops->gemm(d->k[i], true, false, m, n, kk, 1, a.v[i], m, b.v[i], n, 0, c.v[i],
                               n);
        float *x = arr_get(d, &c, CPU);
        for (size_t i = 0; i < m * n; i++)
            assert_true(!isnan(x[i]));
        arr_same(d, &c, 1e-5, 0, "gemm over NaN");
        free(x);
        free(nan);
        arr_free(d, &a);
        arr_free(d, &b);
        arr_free(d, &c);
    }
}

static void check_empty_gemm(struct duo *d)
{
    struct arr c = arr_random(d, 12, 3, 1, 0);
    for (int i = 0; i < BACKENDS; i++) {
        struct kern *k = d->k[i];
        k->ops->gemm(k, false, false, 0, 4, 5, 1, c.v[i], 5, c.v[i], 4, 0, c.v[i], 4);
        k->ops->gemm(k, false, false, 3, 4, 0, 1, c.v[i], 1, c.v[i], 4, 0.5F, c.v[i], 4);
    }
    arr_same(d, &c, 0, 0, "gemm of an empty sum");
    arr_free(d, &c);
}

static void check_vectors(struct duo *d)
{
    static const size_t sizes[] = {1, 15, 16, 17, 1000, 70001};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct arr x = arr_random(d, sizes[s], 1, 1, 0), y = arr_random(d, sizes[s], 2, 1, 0);
        for (int i = 0; i < BACKENDS; i++) {
            d->k[i]->ops->axpy(d->k[i], y.v[i], -0.7F, x.v[i], sizes[s]);
            d->k[i]->ops->scale(d->k[i], x.v[i], 1.3F, sizes[s]);
        }
        arr_same(d, &y, 4 * ROUNDING, 0, "axpy");
        arr_same(d, &x, 0, 0, "scale"); /* one rounding on both */
        for (int i = 0; i < BACKENDS; i++)
            d->k[i]->ops->zero(d->k[i], kern_plus(x.v[i], sizes[s] / 3), sizes[s] / 2);
        arr_same(d, &x, 0, 0, "zero");
        arr_free(d, &x);
        arr_free(d, &y);
    }
}

static void check_bias(struct duo *d)
{
    static const size_t shapes[][3] = {{1, 1, 1}, {5, 7, 9}, {33, 130, 130}, {257, 67, 80}};
    for (size_t s = 0; s < 4; s++) {
        size_t rows = shapes[s][0], cols = shapes[s][1], ld = shapes[s][2];
        struct arr y = arr_random(d, rows * ld, 1, 1, 0), b = arr_random(d, cols, 2, 1, 0);
        for (int i = 0; i < BACKENDS; i++)
            d->k[i]->ops->bias_add(d->k[i], y.v[i], ld, b.v[i], rows, cols);
        arr_same(d, &y, 0, 0, "bias_add"); /* one rounding on both */
        for (int i = 0; i < BACKENDS; i++)
            d->k[i]->ops->bias_grad(d->k[i], b.v[i], y.v[i], ld, rows, cols);
        /* sums stay below 2 * 257; each addition rounds by half an ulp of that, and they average out */
        arr_same(d, &b, 512 * ROUNDING * sqrt((double)rows), 0, "bias_grad");
        arr_free(d, &y);
        arr_free(d, &b);
    }
}

static void gemm_agrees_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check_gemm);
}
static void gemm_with_beta_zero_does_not_read_c(void **state)
{
    (void)state;
    with_every_cpu(check_gemm_ignores_old_c);
}
static void gemm_of_nothing_scales_c(void **state)
{
    (void)state;
    with_every_cpu(check_empty_gemm);
}
static void axpy_and_scale_agree_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check_vectors);
}
static void biases_agree_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check_bias);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_agrees_with_reference),
        cmocka_unit_test(gemm_with_beta_zero_does_not_read_c),
        cmocka_unit_test(gemm_of_nothing_scales_c),
        cmocka_unit_test(axpy_and_scale_agree_with_reference),
        cmocka_unit_test(biases_agree_with_reference),
    };
    return cmocka_run_group_tests_name("kernels: linear", tests, NULL, NULL);
}
