/* What `dha-worker check` says becomes the command's own error. */
#include "tests/unit/cli/capture.h"

#include "cli/precheck.h"

static void the_message_the_hint_and_the_code_are_the_workers(void **state)
{
    (void)state;
    struct dha_err e = {0};
    assert_int_equal(precheck_error("a warning\ndha-worker check: data.valid: no such file\nin /x\n"
                                    "  hint: name one\n  hint: or leave it out\n",
                                    65, &e),
                     -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_string_equal(e.msg, "data.valid: no such file\nin /x");
    assert_string_equal(e.hint, "name one\nor leave it out");
}

static void a_worker_that_breaks_is_said_with_the_way_around_it(void **state)
{
    (void)state;
    struct dha_err e = {0};
    assert_int_equal(precheck_error("", 139, &e), -1);
    assert_non_null(strstr(e.msg, "signal 11"));
    assert_non_null(strstr(e.hint, "--no-check"));
    precheck_error("nothing that we know", 65, &e);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_non_null(strstr(e.hint, "--no-check"));
}

static void what_is_longer_than_an_error_is_cut(void **state)
{
    (void)state;
    struct dha_err e = {0};
    char text[4096] = "dha-worker check: ";
    memset(text + strlen(text), 'x', 3000);
    assert_int_equal(precheck_error(text, 65, &e), -1);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_message_the_hint_and_the_code_are_the_workers),
        cmocka_unit_test(a_worker_that_breaks_is_said_with_the_way_around_it),
        cmocka_unit_test(what_is_longer_than_an_error_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
