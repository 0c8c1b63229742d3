/* When a step that does not end counts as frozen (daemon/stall.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/stall.h"

enum { BOUND = 3600, LEAST = 300 };

/* n steps of `work`, each of ms; the clock and the stamp go on in *now. */
static void steps(struct stall *s, const char *work, int n, uint64_t ms, uint64_t *now)
{
    for (int i = 0; i < n; i++) {
        *now += ms;
        stall_see(s, work, i, 1000, (int64_t)*now, *now);
    }
}

static uint64_t limit_s(const struct stall *s)
{
    return stall_limit(s, BOUND, LEAST).ms / 1000;
}

static void nothing_is_known_at_first_and_the_bound_holds(void **state)
{
    (void)state;
    struct stall s = {0};
    uint64_t now = 5000;
    assert_int_equal(limit_s(&s), BOUND);
    struct stall_limit l = stall_limit(&s, BOUND, LEAST);
    assert_false(stall_frozen(&s, &l, UINT64_C(1) << 40)); /* it was not even looked at */
    steps(&s, "step", STALL_SEEN, 1000, &now);
    assert_int_equal(limit_s(&s), BOUND); /* the first had begun before it was seen */
    steps(&s, "step", 1, 1000, &now);
    assert_int_equal(limit_s(&s), LEAST);
}

static void ten_times_the_longest_step_but_not_under_the_least_nor_over_the_bound(void **state)
{
    (void)state;
    struct stall s = {0};
    uint64_t now = 1;
    steps(&s, "step", 7, 40000, &now);
    struct stall_limit l = stall_limit(&s, BOUND, LEAST);
    assert_int_equal(l.ms, 400000);
    assert_true(l.learned && !l.least);
    assert_false(stall_frozen(&s, &l, now + 400000));
    assert_true(stall_frozen(&s, &l, now + 400001));
    steps(&s, "step", 1, 100000, &now);
    assert_int_equal(limit_s(&s), 1000);
    steps(&s, "step", 20, 1, &now); /* quick ones do not make it forget */
    assert_int_equal(limit_s(&s), 1000);
    steps(&s, "step", 1, 900000, &now);
    l = stall_limit(&s, BOUND, LEAST);
    assert_int_equal(l.ms, BOUND * 1000);
    assert_false(l.learned);
    assert_int_equal(stall_limit(&s, 60, LEAST).ms,
                     60000); /* a bound under the least is what was asked for */
    assert_int_equal(stall_limit(&s, 0, LEAST).ms, 0);
    l = stall_limit(&s, 0, LEAST);
    assert_false(stall_frozen(&s, &l, now + (UINT64_C(1) << 40)));
}

static void a_phase_between_steps_has_a_pace_of_its_own(void **state)
{
    (void)state;
    struct stall s = {0};
    uint64_t now = 1;
    for (int i = 0; i < STALL_SEEN + 1; i++) {
        steps(&s, "step", 3, 1000, &now);
        assert_int_equal(limit_s(&s), i < 1 ? BOUND : LEAST);
        now += 1000;
        stall_see(&s, "save", 0, 0, (int64_t)now, now);
        assert_int_equal(limit_s(&s), i < STALL_SEEN ? BOUND : 1200);
        now += 119000; /* until the next step is done */
    }
    steps(&s, "step", 1, 1000, &now);
    assert_int_equal(limit_s(&s), LEAST);
}

static void the_same_stamp_is_no_move_and_time_spent_looking_counts(void **state)
{
    (void)state;
    struct stall s = {0};
    struct stall_limit l = {.ms = 2000};
    for (uint64_t now = 0; now <= 10000; now += 1000) {
        stall_see(&s, "step", 4, 9, 77, now);
        assert_int_equal(stall_frozen(&s, &l, now), now > 2000);
    }
    stall_see(&s, "step", 5, 9, 76,
              11000); /* the wall clock went back: another stamp all the same */
    assert_false(stall_frozen(&s, &l, 11000));
}

static void what_follows_a_finished_count_is_not_measured_by_it(void **state)
{
    (void)state;
    struct stall s = {0};
    char name[64], text[128];
    uint64_t now = 1;
    steps(&s, "calibrate", 50, 10, &now);
    stall_work_name("calibrate", 49, 50, name, sizeof name);
    assert_string_equal(name, "calibrate");
    stall_work_name("save", 0, 0, name, sizeof name);
    assert_string_equal(name, "save");
    stall_work_name("calibrate", 50, 50, name, sizeof name);
    stall_see(&s, name, 50, 50, 1, now);
    assert_int_equal(limit_s(&s), BOUND);
    stall_work_text(&s, text, sizeof text);
    assert_string_equal(text, "what comes after the phase calibrate");
}

static void more_kinds_of_work_than_rows_keep_the_bound(void **state)
{
    (void)state;
    struct stall s = {0};
    uint64_t now = 1;
    char name[8] = "a";
    for (int i = 0; i < STALL_WORKS + 3; i++, name[0]++) {
        steps(&s, name, STALL_SEEN + 2, 1000, &now);
        assert_int_equal(limit_s(&s), i < STALL_WORKS ? LEAST : BOUND);
    }
    char longer[STALL_NAME + 20];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    stall_see(&s, longer, 0, 0, 5, now);
    assert_int_equal(strlen(s.now), STALL_NAME - 1);
}

static void it_is_said_in_words(void **state)
{
    (void)state;
    struct stall s = {0};
    char text[128];
    uint64_t now = 1;
    stall_see(&s, STALL_START, 0, 0, 1, now);
    stall_work_text(&s, text, sizeof text);
    assert_string_equal(text, "its start");
    struct stall_limit l = stall_limit(&s, BOUND, LEAST);
    stall_limit_text(&l, "stall_train_s", text, sizeof text);
    assert_string_equal(text, "setting stall_train_s");
    steps(&s, STALL_STEP, 7, 50000, &now);
    stall_work_text(&s, text, sizeof text);
    assert_string_equal(text, "step 7 of 1000");
    l = stall_limit(&s, BOUND, LEAST);
    stall_limit_text(&l, "stall_s", text, sizeof text);
    assert_string_equal(text, "10 times the longest before it, 50.0 s");
    l = stall_limit(&s, BOUND, 900);
    stall_limit_text(&l, "stall_s", text, sizeof text);
    assert_string_equal(text, "setting stall_min_s; the longest before it took 50.0 s");
    stall_see(&s, "refit", 3, 32, -1, now);
    stall_work_text(&s, text, sizeof text);
    assert_string_equal(text, "phase refit, 3 of 32 done");
    stall_see(&s, "load", 0, 0, -2, now);
    stall_work_text(&s, text, sizeof text);
    assert_string_equal(text, "phase load");
    stall_see(&s, STALL_STEP, 3, 0, -3, now);
    stall_work_text(&s, text, sizeof text);
    assert_string_equal(text, "step 4");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_at_first_and_the_bound_holds),
        cmocka_unit_test(ten_times_the_longest_step_but_not_under_the_least_nor_over_the_bound),
        cmocka_unit_test(a_phase_between_steps_has_a_pace_of_its_own),
        cmocka_unit_test(the_same_stamp_is_no_move_and_time_spent_looking_counts),
        cmocka_unit_test(what_follows_a_finished_count_is_not_measured_by_it),
        cmocka_unit_test(more_kinds_of_work_than_rows_keep_the_bound),
        cmocka_unit_test(it_is_said_in_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
