/* What the end of an attempt means. */
#include "cmocka_all.h"

#include <stdio.h>
#include <string.h>

#include "daemon/verdict.h"

static struct verdict_facts said(enum dha_code code)
{
    struct verdict_facts f = {.has_status = true, .exited = 1, .has_exit = true};
    f.status.code = code;
    snprintf(f.status.msg, sizeof f.status.msg, "said so");
    return f;
}

static struct verdict_facts exited(int rc)
{
    return (struct verdict_facts){.has_exit = true, .exited = rc};
}

static void the_workers_word_goes_before_the_launchers(void **state)
{
    (void)state;
    struct verdict_facts f = said(DHA_E_OK);
    f.exited = 1; /* mpirun says 1 for many reasons */
    assert_int_equal(verdict_of(&f).kind, VERDICT_DONE);
    f = said(DHA_E_INPUT);
    f.exited = 0;
    struct verdict v = verdict_of(&f);
    assert_int_equal(v.kind, VERDICT_FAILED);
    assert_int_equal(v.error.code, DHA_E_INPUT);
    assert_string_equal(v.error.msg, "said so");
}

static void files_that_do_not_answer_are_waited_for_without_counting(void **state)
{
    (void)state;
    struct verdict_facts f = {.has_launch = true, .files_hang = true, .retries = VERDICT_RETRIES};
    f.launch.code = DHA_E_TRANSIENT;
    struct verdict v = verdict_of(&f);
    assert_int_equal(v.kind, VERDICT_AGAIN);
    assert_false(v.count_retry);
    assert_int_equal(v.backoff_us, VERDICT_HANG_US);
    f.cancel = true;
    assert_int_equal(verdict_of(&f).kind, VERDICT_CANCELLED);
    f = (struct verdict_facts){.has_launch = true, .retries = VERDICT_RETRIES};
    f.launch.code = DHA_E_TRANSIENT;
    assert_int_equal(verdict_of(&f).kind, VERDICT_FAILED);
}

static void every_code_of_the_table_is_judged_by_its_class(void **state)
{
    (void)state;
    for (int c = 1; c < DHA_E_COUNT; c++) {
        struct verdict_facts f = said((enum dha_code)c);
        struct verdict v = verdict_of(&f);
        assert_int_equal(v.error.code, c);
        switch (dha_code_retry((enum dha_code)c)) {
        case DHA_RETRY_USER: assert_int_equal(v.kind, VERDICT_FAILED); break;
        case DHA_RETRY_INFRA:
            assert_int_equal(v.kind, VERDICT_AGAIN);
            assert_true(v.count_retry);
            break;
        case DHA_RETRY_FREE:
            assert_int_equal(v.kind, VERDICT_AGAIN);
            assert_false(v.count_retry);
            break;
        case DHA_RETRY_NONE: fail_msg("code %d has no class", c); break;
        }
    }
}

static void infrastructure_faults_back_off_1_2_4_s_and_then_fail(void **state)
{
    (void)state;
    struct verdict_facts f = said(DHA_E_IO);
    static const int64_t wait[] = {1000000, 2000000, 4000000};
    for (f.retries = 0; f.retries < 3; f.retries++) {
        assert_int_equal(verdict_of(&f).backoff_us, wait[f.retries]);
    }
    assert_int_equal(verdict_of(&f).kind, VERDICT_FAILED);
    assert_int_equal(verdict_of(&f).error.code, DHA_E_IO);
}

static void the_journals_error_counts_where_the_status_is_missing(void **state)
{
    (void)state;
    struct verdict_facts f = exited(1);
    f.has_record = true;
    f.record.code = DHA_E_DIVERGED;
    assert_int_equal(verdict_of(&f).error.code, DHA_E_DIVERGED);
    assert_int_equal(verdict_of(&f).kind, VERDICT_FAILED);
}

static void an_exit_status_of_our_table_is_understood(void **state)
{
    (void)state;
    struct verdict_facts f = exited(dha_code_exit(DHA_E_INPUT));
    assert_int_equal(verdict_of(&f).error.code, DHA_E_INPUT);
    assert_int_equal(verdict_of(&f).kind, VERDICT_FAILED);
    f = exited(dha_code_exit(DHA_E_STOPPED));
    assert_int_equal(verdict_of(&f).kind, VERDICT_AGAIN);
}

static void what_says_nothing_is_lost_and_tried_again(void **state)
{
    (void)state;
    static const int silent[] = {0, 1, 2, 3, 110, 127, 134, 137, 139, 205};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) {
        struct verdict_facts f = exited(silent[i]);
        struct verdict v = verdict_of(&f);
        assert_int_equal(v.error.code, DHA_E_LOST);
        assert_int_equal(v.kind, VERDICT_AGAIN);
        assert_true(v.error.msg[0] != '\0');
    }
    struct verdict_facts f = {.has_exit = true, .exited = -1, .signal = 9};
    assert_non_null(strstr(verdict_of(&f).error.msg, "signal 9"));
    f = (struct verdict_facts){0};
    assert_int_equal(verdict_of(&f).error.code, DHA_E_LOST);
}

static void a_cancel_turns_every_end_but_success_into_cancelled(void **state)
{
    (void)state;
    for (int c = 1; c < DHA_E_COUNT; c++) {
        struct verdict_facts f = said((enum dha_code)c);
        f.cancel = true;
        assert_int_equal(verdict_of(&f).kind, VERDICT_CANCELLED);
    }
    struct verdict_facts f = said(DHA_E_OK);
    f.cancel = true;
    assert_int_equal(verdict_of(&f).kind, VERDICT_DONE);
    f = exited(137);
    f.cancel = true;
    assert_int_equal(verdict_of(&f).kind, VERDICT_CANCELLED);
}

static void a_stop_that_was_asked_for_costs_no_retry(void **state)
{
    (void)state;
    struct verdict_facts f = exited(128 + 12); /* SIGUSR2 before the worker could listen */
    f.asked = true;
    f.retries = 3;
    struct verdict v = verdict_of(&f);
    assert_int_equal(v.kind, VERDICT_AGAIN);
    assert_false(v.count_retry);
    assert_int_equal(v.backoff_us, 0);
    f = said(DHA_E_INPUT); /* but the user's fault stays one */
    f.asked = true;
    assert_int_equal(verdict_of(&f).kind, VERDICT_FAILED);
}

static void a_worker_that_stops_on_its_own_does_not_spin(void **state)
{
    (void)state;
    struct verdict_facts f = said(DHA_E_STOPPED);
    assert_true(verdict_of(&f).backoff_us > 0);
}

static void over_its_walltime_a_stage_fails_unless_it_made_it(void **state)
{
    (void)state;
    struct verdict_facts f = said(DHA_E_STOPPED);
    f.over_time = true;
    f.walltime_s = 60;
    struct verdict v = verdict_of(&f);
    assert_int_equal(v.kind, VERDICT_FAILED);
    assert_int_equal(v.error.code, DHA_E_TIMEOUT);
    assert_non_null(strstr(v.error.msg, "60 s"));
    f = said(DHA_E_OK);
    f.over_time = true;
    assert_int_equal(verdict_of(&f).kind, VERDICT_DONE);
}

static void what_got_further_begins_its_count_anew(void **state)
{
    (void)state;
    struct verdict_facts f = exited(137);
    f.retries = VERDICT_RETRIES;
    assert_int_equal(verdict_of(&f).kind, VERDICT_FAILED);
    f.got_further = true;
    struct verdict v = verdict_of(&f);
    assert_int_equal(v.kind, VERDICT_AGAIN);
    assert_true(v.count_retry && v.renew_retries);
    assert_int_equal(v.backoff_us, VERDICT_BACKOFF_US);
    f.retries = 0;
    f.got_further = false;
    assert_false(verdict_of(&f).renew_retries);
}

static void no_progress_is_an_infrastructure_fault_whatever_it_says_when_stopped(void **state)
{
    (void)state;
    struct verdict_facts f = said(DHA_E_STOPPED);
    f.stalled = true;
    f.stalled_why = "step 3 of 9 made no progress for 60 s";
    struct verdict v = verdict_of(&f);
    assert_int_equal(v.kind, VERDICT_AGAIN);
    assert_true(v.count_retry);
    assert_int_equal(v.error.code, DHA_E_TIMEOUT);
    assert_string_equal(v.error.msg, "step 3 of 9 made no progress for 60 s");
    f = exited(137);
    f.stalled = true;
    f.stalled_why = "its start made no progress for 60 s";
    assert_int_equal(verdict_of(&f).error.code, DHA_E_TIMEOUT);
    f = said(DHA_E_OK);
    f.stalled = true;
    assert_int_equal(verdict_of(&f).kind, VERDICT_DONE);
    f = said(DHA_E_INPUT);
    f.stalled = true;
    f.stalled_why = "";
    assert_int_equal(verdict_of(&f).error.code, DHA_E_INPUT);
}

static void a_directory_that_was_removed_is_an_infrastructure_fault_that_counts(void **state)
{
    (void)state;
    struct verdict_facts f = said(DHA_E_STOPPED); /* told to, for that */
    f.gone = true;
    f.gone_why = "a1 was removed";
    struct verdict v = verdict_of(&f);
    assert_int_equal(v.kind, VERDICT_AGAIN);
    assert_true(v.count_retry);
    assert_int_equal(v.error.code, DHA_E_LOST);
    assert_string_equal(v.error.msg, "a1 was removed");
    f = said(DHA_E_IO);
    f.gone = true;
    f.gone_why = "a1 was removed";
    f.retries = VERDICT_RETRIES;
    assert_int_equal(verdict_of(&f).kind, VERDICT_FAILED);
    assert_int_equal(verdict_of(&f).error.code, DHA_E_LOST);
    f = said(DHA_E_OK);
    f.gone = true;
    assert_int_equal(verdict_of(&f).kind, VERDICT_DONE);
    f = said(DHA_E_INPUT);
    f.gone = true;
    assert_int_equal(verdict_of(&f).error.code, DHA_E_INPUT);
}

static void a_launch_that_failed_says_why(void **state)
{
    (void)state;
    struct verdict_facts f = {.has_launch = true};
    f.launch.code = DHA_E_NO_SPACE;
    assert_int_equal(verdict_of(&f).error.code, DHA_E_NO_SPACE);
    assert_int_equal(verdict_of(&f).kind, VERDICT_AGAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_workers_word_goes_before_the_launchers),
        cmocka_unit_test(files_that_do_not_answer_are_waited_for_without_counting),
        cmocka_unit_test(every_code_of_the_table_is_judged_by_its_class),
        cmocka_unit_test(infrastructure_faults_back_off_1_2_4_s_and_then_fail),
        cmocka_unit_test(the_journals_error_counts_where_the_status_is_missing),
        cmocka_unit_test(an_exit_status_of_our_table_is_understood),
        cmocka_unit_test(what_says_nothing_is_lost_and_tried_again),
        cmocka_unit_test(a_cancel_turns_every_end_but_success_into_cancelled),
        cmocka_unit_test(a_stop_that_was_asked_for_costs_no_retry),
        cmocka_unit_test(a_worker_that_stops_on_its_own_does_not_spin),
        cmocka_unit_test(over_its_walltime_a_stage_fails_unless_it_made_it),
        cmocka_unit_test(what_got_further_begins_its_count_anew),
        cmocka_unit_test(no_progress_is_an_infrastructure_fault_whatever_it_says_when_stopped),
        cmocka_unit_test(a_directory_that_was_removed_is_an_infrastructure_fault_that_counts),
        cmocka_unit_test(a_launch_that_failed_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
