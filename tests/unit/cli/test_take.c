/* A damaged checkpoint is not handed over. */
#include "tests/unit/cli/capture.h"

#include <sys/stat.h>
#include <unistd.h>

#include "cli/take.h"

static char base[] = "/tmp/dha-take-XXXXXX";

static const char *at(const char *name)
{
    static char paths[4][256];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, 256, "%s/%s", base, name);
    return p;
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(at(name), "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static const char list[] =
    "{\"format\":\"dha-output-1\",\"files\":[{\"path\":\"model/w\",\"bytes\":\"5\"}]}";

static void what_the_list_says_is_there(void **state)
{
    (void)state;
    struct dha_err e = {0};
    put("model/w", "12345");
    put("output.json", list);
    assert_int_equal(take_verify(at("model"), &e), 0);
    assert_int_equal(take_verify(at("model/"), &e), 0);
}

static void a_file_that_is_short_or_missing_is_named(void **state)
{
    (void)state;
    struct dha_err e = {0};
    put("output.json", list);
    put("model/w", "123");
    assert_int_equal(take_verify(at("model"), &e), -1);
    assert_int_equal(e.code, DHA_E_CHECKPOINT);
    assert_non_null(strstr(e.msg, "model/w"));
    assert_non_null(strstr(e.msg, "3 bytes, 5"));
    assert_non_null(strstr(e.hint, "submit the job again"));
    unlink(at("model/w"));
    assert_int_equal(take_verify(at("model"), &e), -1);
    assert_int_equal(e.code, DHA_E_CHECKPOINT);
    assert_non_null(strstr(e.msg, "missing"));
}

static void a_list_that_does_not_parse_is_damage_too(void **state)
{
    (void)state;
    struct dha_err e = {0};
    put("output.json", "{\"format\":\"dha-out");
    assert_int_equal(take_verify(at("model"), &e), -1);
    assert_int_equal(e.code, DHA_E_CHECKPOINT);
}

static void without_a_list_nothing_is_checked(void **state)
{
    (void)state;
    struct dha_err e = {0};
    unlink(at("output.json"));
    assert_int_equal(take_verify(at("model"), &e), 0);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(base) && !mkdir(at("model"), 0700) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    unlink(at("model/w"));
    unlink(at("output.json"));
    return rmdir(at("model")) || rmdir(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_list_says_is_there),
        cmocka_unit_test(a_file_that_is_short_or_missing_is_named),
        cmocka_unit_test(a_list_that_does_not_parse_is_damage_too),
        cmocka_unit_test(without_a_list_nothing_is_checked),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
