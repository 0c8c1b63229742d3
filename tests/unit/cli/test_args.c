/* A command line against a command's option table. */
#include "tests/unit/cli/capture.h"

#include "cli/cli.h"

static const struct cli_opt opts[] = {{"set", 0, "PATH=VALUE", ""},
                                      {"limit", 'n', "N", ""},
                                      {"wait", 0, NULL, ""},
                                      {NULL, 0, NULL, NULL}};

static const struct command cmd = {
    .name = "try", .args = "SPEC", .min_pos = 1, .max_pos = 1, .json = true, .opts = opts};
static const struct command no_json = {.name = "plain", .args = "", .max_pos = 0};

#define PARSE(command, ...)                                                                        \
    char *argv[] = {(char[]){"try"}, __VA_ARGS__, NULL};                                           \
    struct args a;                                                                                 \
    struct dha_err e = {0};                                                                        \
    int rc = args_parse(&command, (int)(sizeof argv / sizeof *argv) - 1, argv, &a, &e)
#define W(s) ((char[]){s})

static void options_may_stand_before_and_after_the_argument(void **state)
{
    (void)state;
    PARSE(cmd, W("--wait"), W("spec.json"), W("-n"), W("5"), W("--json"));
    int64_t n;
    assert_int_equal(rc, 0);
    assert_int_equal(a.n_pos, 1);
    assert_string_equal(a.pos[0], "spec.json");
    assert_true(arg_flag(&a, "wait"));
    assert_true(arg_flag(&a, "json"));
    assert_int_equal(arg_int(&a, "limit", 1, 10, 3, &n, &e), 0);
    assert_int_equal(n, 5);
}

static void a_repeated_option_keeps_all_its_values_in_order(void **state)
{
    (void)state;
    PARSE(cmd, W("--set=a=1"), W("s"), W("--set"), W("b=2"));
    assert_int_equal(rc, 0);
    assert_string_equal(arg_nth(&a, "set", 0), "a=1");
    assert_string_equal(arg_nth(&a, "set", 1), "b=2");
    assert_null(arg_nth(&a, "set", 2));
    assert_string_equal(arg_value(&a, "set"), "b=2");
}

static void a_lone_dash_is_an_argument(void **state)
{
    (void)state;
    PARSE(cmd, W("-"));
    assert_int_equal(rc, 0);
    assert_string_equal(a.pos[0], "-");
}

static void two_dashes_end_the_options(void **state)
{
    (void)state;
    PARSE(cmd, W("--"), W("--wait"));
    assert_int_equal(rc, 0);
    assert_string_equal(a.pos[0], "--wait");
    assert_false(arg_flag(&a, "wait"));
}

static void an_unknown_option_is_refused_with_the_likely_one(void **state)
{
    (void)state;
    PARSE(cmd, W("--wiat"), W("spec.json"));
    assert_int_equal(rc, -1);
    assert_int_equal(e.code, DHA_E_USAGE);
    assert_non_null(strstr(e.msg, "--wiat"));
    assert_non_null(strstr(e.hint, "--wait"));
}

static void an_unknown_letter_is_refused(void **state)
{
    (void)state;
    PARSE(cmd, W("-z"), W("spec.json"));
    assert_int_equal(rc, -1);
    assert_non_null(strstr(e.msg, "'-z'"));
}

static void an_option_without_its_value_is_refused(void **state)
{
    (void)state;
    PARSE(cmd, W("spec.json"), W("--limit"));
    assert_int_equal(rc, -1);
    assert_non_null(strstr(e.msg, "--limit"));
}

static void a_missing_argument_is_refused(void **state)
{
    (void)state;
    PARSE(cmd, W("--wait"));
    assert_int_equal(rc, -1);
    assert_non_null(strstr(e.msg, "SPEC"));
}

static void one_argument_too_many_is_refused(void **state)
{
    (void)state;
    PARSE(cmd, W("a"), W("b"));
    assert_int_equal(rc, -1);
    assert_non_null(strstr(e.msg, "'b'"));
}

static void help_needs_no_arguments(void **state)
{
    (void)state;
    PARSE(cmd, W("--help"));
    assert_int_equal(rc, 0);
    assert_true(arg_flag(&a, "help"));
}

static void json_is_refused_where_there_are_no_facts(void **state)
{
    (void)state;
    PARSE(no_json, W("--json"));
    assert_int_equal(rc, -1);
    assert_non_null(strstr(e.msg, "--json"));
}

static void numbers_are_whole_in_range_and_may_have_a_suffix(void **state)
{
    (void)state;
    static const char *const bad[] = {"",           "x", "1x", "1.5", "9k9", "99999999999999999999",
                                      "9300000000G"};
    struct dha_err e = {0};
    int64_t n;

    assert_int_equal(parse_int("n", "5M", 0, INT64_MAX, &n, &e), 0);
    assert_int_equal(n, 5000000);
    assert_int_equal(parse_int("n", "-3", -5, 5, &n, &e), 0);
    assert_int_equal(n, -3);
    assert_int_equal(parse_int("n", "6", -5, 5, &n, &e), -1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        e.code = DHA_E_OK;
        assert_int_equal(parse_int("n", bad[i], INT64_MIN, INT64_MAX, &n, &e), -1);
        assert_int_equal(e.code, DHA_E_USAGE);
    }
}

static void shares_are_numbers_between_their_bounds(void **state)
{
    (void)state;
    struct dha_err e = {0};
    double v;

    assert_int_equal(parse_num("b", "0.25", 0, 1, &v, &e), 0);
    assert_float_equal(v, 0.25, 0);
    assert_int_equal(parse_num("b", "1.5", 0, 1, &v, &e), -1);
    assert_int_equal(parse_num("b", "nan", 0, 1, &v, &e), -1);
    assert_int_equal(parse_num("b", "a quarter", 0, 1, &v, &e), -1);
}

static void every_command_has_help_and_an_example_that_begins_with_its_name(void **state)
{
    (void)state;
    for (int i = 0; commands[i]; i++) {
        const struct command *c = commands[i];
        assert_non_null(c->run);
        assert_true(strlen(c->summary) >= 10);
        assert_true(c->summary[strlen(c->summary) - 1] != '.');
        assert_true(strlen(c->help) > 10);
        assert_non_null(strstr(c->example, c->name));
        assert_ptr_equal(command_find(c->name), c);
        assert_true(c->max_pos < 0 || c->min_pos <= c->max_pos);
        for (const struct cli_opt *o = c->opts; o && o->name; o++) {
            for (const struct cli_opt *common = common_opts; common->name; common++) {
                assert_string_not_equal(o->name, common->name);
            }
        }
    }
    assert_null(command_find("nothing"));
    assert_string_equal(command_nearest("submti"), "submit");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_may_stand_before_and_after_the_argument),
        cmocka_unit_test(a_repeated_option_keeps_all_its_values_in_order),
        cmocka_unit_test(a_lone_dash_is_an_argument),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(an_unknown_option_is_refused_with_the_likely_one),
        cmocka_unit_test(an_unknown_letter_is_refused),
        cmocka_unit_test(an_option_without_its_value_is_refused),
        cmocka_unit_test(a_missing_argument_is_refused),
        cmocka_unit_test(one_argument_too_many_is_refused),
        cmocka_unit_test(help_needs_no_arguments),
        cmocka_unit_test(json_is_refused_where_there_are_no_facts),
        cmocka_unit_test(numbers_are_whole_in_range_and_may_have_a_suffix),
        cmocka_unit_test(shares_are_numbers_between_their_bounds),
        cmocka_unit_test(every_command_has_help_and_an_example_that_begins_with_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
