#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#define assert_near(a, b, eps) assert_true(fabs((double)(a) - (double)(b)) <= (eps))

#include "worker/train/schedule.h"

static void lr_warms_up_linearly_then_falls_along_a_cosine_to_the_final_fraction(void **state)
{
    (void)state;
    /* values of shared/oracle conv.py: min(1,(s+1)/warm)*(final+(1-final)*0.5*(1+cos(pi*s/steps))) */
    assert_near(schedule_lr(0, 240, 10, 0.1), 0.1, 1e-12);
    assert_near(schedule_lr(4, 240, 10, 0.1), 0.5 * (0.1 + 0.45 * (1 + cos(M_PI * 4 / 240))),
                1e-12);
    assert_near(schedule_lr(120, 240, 10, 0.1), 0.55, 1e-12);
    assert_true(schedule_lr(239, 240, 10, 0.1) < 0.1001);
    assert_near(schedule_lr(0, 1, 0, 0.1), 1.0, 1e-12);
}

static void a_recovery_rate_grows_with_the_root_of_the_steps_and_falls_with_the_width(void **state)
{
    (void)state;
    assert_near(schedule_recovery_rate(100, 256), 3.1e-4, 1e-12);
    assert_near(schedule_recovery_rate(400, 96), 6.2e-4, 1e-12);
    assert_near(schedule_recovery_rate(1000000, 128), 1e-3, 1e-12);
    assert_near(schedule_recovery_rate(400, 4096), 6.2e-4 / 16, 1e-12);
    assert_near(schedule_recovery_rate(0, 64), 3.1e-5, 1e-12);
}

static void threshold_starts_at_one_is_two_percent_of_its_base_at_k_and_zero_after(void **state)
{
    (void)state;
    assert_near(schedule_threshold(0, 1000), 1.0, 1e-12);
    assert_near(schedule_threshold(400, 1000), sqrt(0.02) * 0.5, 1e-12);
    assert_near(schedule_threshold(800, 1000), 0.0, 0.0);
    assert_near(schedule_threshold(999, 1000), 0.0, 0.0);
    for (int s = 1; s < 1000; s++)
        assert_true(schedule_threshold(s, 1000) <= schedule_threshold(s - 1, 1000));
}

static void contraction_goes_from_zero_to_one_and_stays_for_the_last_fifth(void **state)
{
    (void)state;
    double before = 0;
    assert_true(schedule_contract(0, 50) == 0);
    assert_true(fabs(schedule_contract(20, 50) - 0.5) < 1e-12);
    for (int s = 1; s <= 50; s++) {
        double a = schedule_contract(s, 50);
        assert_true(a >= before && a - before <= 2.0 / 50);
        assert_true(s < 40 ? a < 1 : a == 1);
        before = a;
    }
}

static void short_fusions_take_higher_rates(void **state)
{
    (void)state;
    /* the papers' 1e-2 for the paper's 1,000 steps */
    assert_true(fabs(schedule_omega_rate(1000) - 1e-2) < 1e-12);
    assert_true(fabs(schedule_lambda_rate(1000) - 1e-2) < 1e-12);
    assert_true(schedule_omega_rate(20) > schedule_omega_rate(80));
    assert_true(schedule_lambda_rate(20) > schedule_lambda_rate(80));
    assert_true(schedule_omega_rate(0) <= 0.2 && schedule_lambda_rate(0) <= 5);
}

static void tokens_become_whole_steps_and_never_none(void **state)
{
    (void)state;
    assert_int_equal(schedule_steps(0, 4096), 0);
    assert_int_equal(schedule_steps(1, 4096), 1);
    assert_int_equal(schedule_steps(245760, 4096), 60);
    assert_int_equal(schedule_steps(1000000, 4096), 244);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lr_warms_up_linearly_then_falls_along_a_cosine_to_the_final_fraction),
        cmocka_unit_test(a_recovery_rate_grows_with_the_root_of_the_steps_and_falls_with_the_width),
        cmocka_unit_test(threshold_starts_at_one_is_two_percent_of_its_base_at_k_and_zero_after),
        cmocka_unit_test(contraction_goes_from_zero_to_one_and_stays_for_the_last_fifth),
        cmocka_unit_test(short_fusions_take_higher_rates),
        cmocka_unit_test(tokens_become_whole_steps_and_never_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
