/* AdamW (a dozen roundings a step) and the sum of squares (double on both: 1e-12). */
#include "support.h"

#include <math.h>
#include <stdlib.h>

static void check_adamw(struct duo *d)
{
    static const size_t sizes[] = {1, 17, 1000, 40003};
    for (size_t s = 0; s < 4; s++) {
        size_t n = sizes[s];
        struct arr p = arr_random(d, n, 1, 1, 0), m = arr_random(d, n, 3, 0, 0);
        struct arr v = arr_random(d, n, 4, 0, 0);
        for (uint32_t step = 1; step <= 5; step++) {
            struct arr g = arr_random(d, n, 10 + step, 3, 0);
            struct kern_adamw a = {.lr = 1e-2F,
                                   .beta1 = 0.9F,
                                   .beta2 = 0.95F,
                                   .eps = 1e-8F,
                                   .weight_decay = 0.1F,
                                   .bias1 = 1 - powf(0.9F, (float)step),
                                   .bias2 = 1 - powf(0.95F, (float)step),
                                   .grad_scale = 0.5F};
            for (int i = 0; i < BACKENDS; i++)
                d->k[i]->ops->adamw(d->k[i], p.v[i], g.v[i], m.v[i], v.v[i], n, &a);
            arr_free(d, &g);
        }
        arr_same(d, &p, 1e-6, 0, "adamw p"); /* 5 steps of size 1e-2, weights below 1 */
        arr_same(d, &m, 20 * ROUNDING, 20 * ROUNDING, "adamw m");
        arr_same(d, &v, 20 * ROUNDING, 20 * ROUNDING, "adamw v");
        arr_free(d, &p);
        arr_free(d, &m);
        arr_free(d, &v);
    }
}

/* The moments of a parameter that gets no gradient any more end at 0, not at the smallest denormal,
 * which is 1e-45 for ever and a hundred times slower. */
static void check_adamw_decay(struct duo *d)
{
    struct arr p = arr_random(d, 50, 1, 1, 0), g = arr_random(d, 50, 2, 0, 0);
    struct arr m = arr_random(d, 50, 3, 1e-36F, 0), v = arr_random(d, 50, 4, 0, 1e-37F);
    struct kern_adamw a = {.lr = 1e-2F,
                           .beta1 = 0.9F,
                           .beta2 = 0.9F,
                           .eps = 1e-8F,
                           .weight_decay = 0,
                           .bias1 = 1,
                           .bias2 = 1,
                           .grad_scale = 1};
    for (int step = 0; step < 100; step++)
        d->k[CPU]->ops->adamw(d->k[CPU], p.v[CPU], g.v[CPU], m.v[CPU], v.v[CPU], 50, &a);
    float *first = arr_get(d, &m, CPU), *second = arr_get(d, &v, CPU);
    for (size_t i = 0; i < 50; i++)
        assert_true(first[i] == 0 && second[i] == 0);
    volatile float smallest = 0x1p-149F; /* and the caller's arithmetic is as it was */
    assert_true(smallest * 1.0F > 0);
    free(first);
    free(second);
    arr_free(d, &p);
    arr_free(d, &g);
    arr_free(d, &m);
    arr_free(d, &v);
}

static void check_sumsq(struct duo *d)
{
    static const size_t sizes[] = {1, 15, 255, 4097, 300007};
    for (size_t s = 0; s < 5; s++) {
        struct arr x = arr_random(d, sizes[s], 1, 1e-3F, 1);
        double sum[BACKENDS];
        for (int i = 0; i < BACKENDS; i++)
            sum[i] = d->k[i]->ops->sumsq(d->k[i], x.v[i], sizes[s]);
        assert_true(fabs(sum[CPU] - sum[REF]) <= 1e-12 * sum[REF]);
        arr_free(d, &x);
    }
}

static void check_dot(struct duo *d)
{
    static const size_t sizes[] = {1, 15, 255, 4097, 300007};
    for (size_t s = 0; s < 5; s++) {
        struct arr x = arr_random(d, sizes[s], 1, 1, 0), y = arr_random(d, sizes[s], 2, 1, 0);
        double sum[BACKENDS];
        for (int i = 0; i < BACKENDS; i++)
            sum[i] = d->k[i]->ops->dot(d->k[i], x.v[i], y.v[i], sizes[s]);
        assert_true(fabs(sum[CPU] - sum[REF]) <= 1e-14 * (double)sizes[s]);
        assert_true(sum[REF] != 0);
        arr_free(d, &x);
        arr_free(d, &y);
    }
}

static void check_sumsq_nan(struct duo *d)
{
    enum { N = 1000 };
    float x[N];
    for (size_t at = 0; at < N; at += 37) {
        fill_random(x, N, 1, 1, 0);
        x[at] = NAN;
        struct arr a = arr_from(d, x, N);
        x[at] = INFINITY;
        struct arr b = arr_from(d, x, N);
        x[at] = 1e30F; /* its square is beyond float, not beyond double */
        struct arr c = arr_from(d, x, N);
        for (int i = 0; i < BACKENDS; i++) {
            assert_true(isnan(d->k[i]->ops->sumsq(d->k[i], a.v[i], N)));
            assert_true(isinf(d->k[i]->ops->sumsq(d->k[i], b.v[i], N)));
            assert_true(isfinite(d->k[i]->ops->sumsq(d->k[i], c.v[i], N)));
        }
        arr_free(d, &a);
        arr_free(d, &b);
        arr_free(d, &c);
    }
}

static void adamw_agrees_with_reference_over_five_steps(void **state)
{
    (void)state;
    with_every_cpu(check_adamw);
}
static void moments_without_gradient_end_at_zero(void **state)
{
    (void)state;
#ifdef __SSE2__
    with_every_cpu(check_adamw_decay);
#else
    (void)check_adamw_decay;
    skip();
#endif
}
static void sum_of_squares_agrees_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check_sumsq);
}
static void dot_product_agrees_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check_dot);
}
static void sum_of_squares_shows_nan_and_inf(void **state)
{
    (void)state;
    with_every_cpu(check_sumsq_nan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_agrees_with_reference_over_five_steps),
        cmocka_unit_test(moments_without_gradient_end_at_zero),
        cmocka_unit_test(sum_of_squares_agrees_with_reference),
        cmocka_unit_test(dot_product_agrees_with_reference),
        cmocka_unit_test(sum_of_squares_shows_nan_and_inf),
    };
    return cmocka_run_group_tests_name("kernels: optimiser", tests, NULL, NULL);
}
