/* RMSNorm, RoPE, SwiGLU, embedding. Numbers are about 1 in size: a result of a few roundings is off
 * by a few 6e-8; a sum of n of them by n at most; exp by 2 ulp (test_exp.c). */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check_rmsnorm(struct duo *d)
{
    static const size_t shapes[][2] = {{1, 1}, {3, 7}, {9, 64}, {257, 129}, {130, 288}};
    for (size_t s = 0; s < 5; s++) {
        size_t rows = shapes[s][0], dim = shapes[s][1], n = rows * dim;
        struct arr x = arr_random(d, n, 1, 1, 0.1F), w = arr_random(d, dim, 2, 0.5F, 1);
        struct arr y = arr_random(d, n, 3, 1, 0), rstd = arr_random(d, rows, 4, 1, 0);
        struct arr dx = arr_random(d, n, 5, 1, 0), dw = arr_random(d, dim, 6, 1, 0);
        for (int i = 0; i < BACKENDS; i++) {
            struct kern *k = d->k[i];
            k->ops->rmsnorm_fwd(k, y.v[i], rstd.v[i], x.v[i], w.v[i], rows, dim, 1e-5F);
            k->ops->rmsnorm_bwd(k, dx.v[i], dw.v[i], y.v[i], x.v[i], w.v[i], rstd.v[i], rows, dim);
        }
        /* rstd carries the sum's error: dim/2 roundings at the very most, some lanes' in fact */
        double r = ROUNDING * (8 + (double)dim / 4);
        arr_same(d, &y, 0, r, "rmsnorm y");
        arr_same(d, &rstd, 0, r, "rmsnorm rstd");
        arr_same(d, &dx, 4 * r, 4 * r, "rmsnorm dx");
        arr_same(d, &dw, 4 * ROUNDING * (double)(rows + 8), 4 * r, "rmsnorm dw");
        arr_free(d, &x);
        arr_free(d, &w);
        arr_free(d, &y);
        arr_free(d, &rstd);
        arr_free(d, &dx);
        arr_free(d, &dw);
    }
}

static void check_rmsnorm_nan(struct duo *d)
{
    float x[40];
    fill_random(x, 40, 1, 1, 0);
    x[27] = NAN;
    struct arr in = arr_from(d, x, 40), w = arr_random(d, 20, 2, 1, 0);
    struct arr y = arr_random(d, 40, 3, 1, 0), rstd = arr_random(d, 2, 4, 1, 0);
    for (int i = 0; i < BACKENDS; i++)
        d->k[i]->ops->rmsnorm_fwd(d->k[i], y.v[i], rstd.v[i], in.v[i], w.v[i], 2, 20, 1e-5F);
    float *got = arr_get(d, &y, CPU);
    for (size_t i = 0; i < 40; i++)
        assert_int_equal(isnan(got[i]), i >= 20); /* the row that has it, no other */
    free(got);
    arr_free(d, &in);
    arr_free(d, &w);
    arr_free(d, &y);
    arr_free(d, &rstd);
}

static void check_rope(struct duo *d)
{
    static const int shapes[][5] = {/* rows, seq, heads, dim, padding of ld */
                                    {1, 1, 1, 2, 0},
                                    {14, 7, 3, 10, 5},
                                    {64, 32, 6, 48, 0},
                                    {66, 33, 5, 128, 9}};
    for (size_t s = 0; s < 4; s++) {
        size_t rows = (size_t)shapes[s][0], ld;
        int seq = shapes[s][1], heads = shapes[s][2], dim = shapes[s][3];
        ld = (size_t)(heads * dim + shapes[s][4]);
        float *cs = malloc((size_t)(seq * dim) * sizeof *cs);
        for (int t = 0; t < seq; t++)
            for (int i = 0; i < dim / 2; i++) {
                double angle = t * pow(10000.0, -2.0 * i / dim);
                cs[t * dim + i] = (float)cos(angle);
                cs[t * dim + dim / 2 + i] = (float)sin(angle);
            }
        struct arr x = arr_random(d, rows * ld, 1, 1, 0),
                   table = arr_from(d, cs, (size_t)(seq * dim));
        float *before = arr_get(d, &x, CPU);
        for (int i = 0; i < BACKENDS; i++)
            d->k[i]->ops->rope(d->k[i], x.v[i], ld, table.v[i], rows, seq, heads, dim, false);
        arr_same(d, &x, 4 * ROUNDING, 0, "rope");
        for (int i = 0; i < BACKENDS; i++)
            d->k[i]->ops->rope(d->k[i], x.v[i], ld, table.v[i], rows, seq, heads, dim, true);
        arr_same(d, &x, 8 * ROUNDING, 0, "rope and back");
        float *after = arr_get(d, &x, CPU);
        for (size_t i = 0; i < rows * ld; i++)
            assert_true(fabsf(after[i] - before[i]) < 1e-6F);
        free(before);
        free(after);
        free(cs);
        arr_free(d, &x);
        arr_free(d, &table);
    }
}

static void check_swiglu(struct duo *d)
{
    static const size_t shapes[][2] = {{1, 1}, {3, 5}, {17, 64}, {65, 771}};
    for (size_t s = 0; s < 4; s++) {
        size_t rows = shapes[s][0], ffn = shapes[s][1], n = rows * ffn;
        struct arr gu = arr_random(d, 2 * n, 1, 9, 0), dy = arr_random(d, n, 2, 1, 0);
        struct arr y = arr_random(d, n, 3, 1, 0), dgu = arr_random(d, 2 * n, 4, 1, 0);
        for (int i = 0; i < BACKENDS; i++) {
            struct kern *k = d->k[i];
            k->ops->swiglu_fwd(k, y.v[i], gu.v[i], rows, ffn);
            k->ops->swiglu_bwd(k, dgu.v[i], dy.v[i], gu.v[i], rows, ffn);
        }
        arr_same(d, &y, 1e-6, 10 * ROUNDING, "swiglu y");
        /* 1 + g (1 - sig) cancels for negative g: absolute, |g u| <= 81 */
        arr_same(d, &dgu, 81 * 8 * ROUNDING, 10 * ROUNDING, "swiglu dgu");
        for (int i = 0; i < BACKENDS; i++) /* in place */
            d->k[i]->ops->swiglu_bwd(d->k[i], gu.v[i], dy.v[i], gu.v[i], rows, ffn);
        float *apart = arr_get(d, &dgu, CPU), *in_place = arr_get(d, &gu, CPU);
        assert_memory_equal(apart, in_place, 2 * n * sizeof *apart);
        free(apart);
        free(in_place);
        arr_free(d, &gu);
        arr_free(d, &dy);
        arr_free(d, &y);
        arr_free(d, &dgu);
    }
}

static void check_swiglu_extremes(struct duo *d)
{
    const float gu[] = {-1000, -90, -30, 0, 30, 90, 1000, -INFINITY, 1, 1, 1, 1, 1, 1, 1, 1};
    struct arr in = arr_from(d, gu, 16), y = arr_random(d, 8, 1, 1, 0);
    for (int i = 0; i < BACKENDS; i++)
        d->k[i]->ops->swiglu_fwd(d->k[i], y.v[i], in.v[i], 1, 7);
    /* ffn = 7: gate = -1000 .. 1000, up = -inf, 1 ...: the first is -0 * -inf = NaN in both or tiny */
    float *got = arr_get(d, &y, CPU);
    assert_true(got[3] == 0 && fabsf(got[4] - 30) < 1e-5F && fabsf(got[5] - 90) < 1e-5F);
    assert_true(fabsf(got[1]) < 1e-30F && fabsf(got[2]) < 1e-11F && got[6] == 1000);
    free(got);
    arr_free(d, &in);
    arr_free(d, &y);
}

static void check_embedding(struct duo *d)
{
    static const size_t shapes[][3] = {{1, 1, 1}, {40, 5, 7}, {300, 11, 129}, {200, 50, 288}};
    for (size_t s = 0; s < 4; s++) {
        size_t rows = shapes[s][0], vocab = shapes[s][1], dim = shapes[s][2];
        int32_t *ids = malloc(rows * sizeof *ids);
        uint32_t state = 7;
        for (size_t r = 0; r < rows; r++)
            ids[r] = (int32_t)(next_random(&state) % vocab);
        struct arr id = arr_ints(d, ids, rows), w = arr_random(d, vocab * dim, 1, 1, 0);
        struct arr y = arr_random(d, rows * dim, 2, 1, 0), dy = arr_random(d, rows * dim, 3, 1, 0);
        for (int i = 0; i < BACKENDS; i++) {
            struct kern *k = d->k[i];
            k->ops->embed_fwd(k, y.v[i], w.v[i], id.v[i], rows, dim);
            k->ops->embed_bwd(k, w.v[i], dy.v[i], id.v[i], rows, dim);
        }
        arr_same(d, &y, 0, 0, "embed_fwd");
        arr_same(d, &w, 0, 0, "embed_bwd"); /* the same sums in the same order */
        free(ids);
        arr_free(d, &id);
        arr_free(d, &w);
        arr_free(d, &y);
        arr_free(d, &dy);
    }
}

static void rmsnorm_agrees_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check_rmsnorm);
}
static void rmsnorm_keeps_nan_in_its_row(void **state)
{
    (void)state;
    with_every_cpu(check_rmsnorm_nan);
}
static void rope_agrees_with_reference_and_inverts(void **state)
{
    (void)state;
    with_every_cpu(check_rope);
}
static void swiglu_agrees_with_reference_also_in_place(void **state)
{
    (void)state;
    with_every_cpu(check_swiglu);
}
static void swiglu_saturates_without_nan(void **state)
{
    (void)state;
    with_every_cpu(check_swiglu_extremes);
}
static void embedding_agrees_with_reference_bit_for_bit(void **state)
{
    (void)state;
    with_every_cpu(check_embedding);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_agrees_with_reference),
        cmocka_unit_test(rmsnorm_keeps_nan_in_its_row),
        cmocka_unit_test(rope_agrees_with_reference_and_inverts),
        cmocka_unit_test(swiglu_agrees_with_reference_also_in_place),
        cmocka_unit_test(swiglu_saturates_without_nan),
        cmocka_unit_test(embedding_agrees_with_reference_bit_for_bit),
    };
    return cmocka_run_group_tests_name("kernels: rows", tests, NULL, NULL);
}
