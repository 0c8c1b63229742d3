/* The vector exp of one instruction set against the C library's in double, over the whole range. */
#include "kernels/cpu/isa/vec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka needs the above first */
#include <cmocka.h>

static float exp_of(float x)
{
    float lane[V];
    v_write(lane, v_exp(v_set(x)));
    return lane[V - 1];
}

static void exp_is_within_two_ulp(void **state)
{
    (void)state;
    double worst = 0;
    for (double x = -87.29; x < 88.29; x += 0.00037) {
        double exact = exp((double)(float)x);
        double off = fabs((double)exp_of((float)x) - exact) / exact;
        worst = off > worst ? off : worst;
    }
    print_message("largest relative error %.3g\n", worst);
    assert_true(worst < 2.4e-7); /* 2 ulp at the low end of a binade */
}

static void exp_ends_well(void **state)
{
    (void)state;
    assert_true(exp_of(0) == 1.0F);
    assert_true(exp_of(-88) == 0.0F);
    assert_true(exp_of(-INFINITY) == 0.0F);
    assert_true(exp_of(INFINITY) > 2e38F);
    assert_true(exp_of(1000) > 2e38F);
    assert_true(isnan(exp_of(NAN)));
}

static void masks_touch_only_their_lanes(void **state)
{
    (void)state;
    float from[V], to[V];
    for (size_t n = 0; n <= V; n++) {
        for (size_t i = 0; i < V; i++) {
            from[i] = (float)i + 1;
            to[i] = -1;
        }
        v_store(v_first(n), to, v_load(v_first(n), from));
        float sum = v_sum(v_load(v_first(n), from));
        for (size_t i = 0; i < V; i++)
            assert_true(to[i] == (i < n ? from[i] : -1));
        assert_true(sum == (float)(n * (n + 1) / 2));
        float top = v_top(v_pick(v_first(n), v_set(5), v_set(2)));
        assert_true(top == (n ? 5 : 2));
    }
}

int main(void)
{
#if defined(ISA_avx512)
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq"))
        return 77;
#elif defined(ISA_avx2)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 77;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_two_ulp),
        cmocka_unit_test(exp_ends_well),
        cmocka_unit_test(masks_touch_only_their_lanes),
    };
    return cmocka_run_group_tests_name("kernels: exp", tests, NULL, NULL);
}
