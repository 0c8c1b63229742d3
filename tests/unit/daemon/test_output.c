/* When what a finished stage left counts as whole, and what is taken away before it runs again. */
#include "cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/output.h"

static char dir[64];

static const char *at(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(at(name), "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void list(const char *files)
{
    char text[512];
    snprintf(text, sizeof text, "{\"format\":\"dha-output-1\",\"files\":[%s]}", files);
    put("output.json", text);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/dha-out-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(mkdir(at("model"), 0700), 0);
    put("model/config.json", "{}");
    put("model/model.safetensors", "weights");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

#define DIGEST_OF_BRACES "dc7048f8f8747f561349cde127705c16"
#define WEIGHTS(bytes)   "{\"path\":\"model/model.safetensors\",\"bytes\":\"" bytes "\"}"

static void test_without_a_list_the_main_file_decides(void **state)
{
    (void)state;
    struct dha_err e = {0};
    assert_int_equal(output_check(STAGE_FUSE, dir, &e), 0);
    assert_int_equal(output_check(STAGE_EVAL, dir, &e), -1);
    assert_string_equal(e.path, at("eval.json"));
    put("model/config.json", "");
    assert_int_equal(output_check(STAGE_FUSE, dir, &e), -1);
    assert_int_equal(output_check(STAGE_FUSE, NULL, &e), -1);
}

static void test_listed_files_must_be_there_with_their_sizes(void **state)
{
    (void)state;
    struct dha_err e = {0};
    list(WEIGHTS("7"));
    assert_int_equal(output_check(STAGE_FUSE, dir, &e), 0);
    list(WEIGHTS("8"));
    assert_int_equal(output_check(STAGE_FUSE, dir, &e), -1);
    assert_non_null(strstr(e.msg, "has 7 bytes; it had 8"));
    assert_string_equal(e.path, at("model/model.safetensors"));
    list(WEIGHTS("7") ",{\"path\":\"model/tokenizer.json\",\"bytes\":\"3\"}");
    assert_int_equal(output_check(STAGE_FUSE, dir, &e), -1);
    assert_string_equal(e.path, at("model/tokenizer.json"));
}

static void test_a_damaged_list_is_damage(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "{\"format\":\"dha-output-2\",\"files\":[]}",
                                      "{\"format\":\"dha-output-1\"}",
                                      "{\"format\":\"dha-output-1\",\"files\":[{}]}",
                                      "{\"format\":\"dha-output-1\",\"files\":[5]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dha_err e = {0};
        put("output.json", bad[i]);
        assert_int_equal(output_check(STAGE_FUSE, dir, &e), -1);
        assert_string_equal(e.path, at("output.json"));
        assert_non_null(strstr(e.msg, "is damaged"));
    }
    struct dha_err e = {0};
    list(WEIGHTS("-1"));
    assert_int_equal(output_check(STAGE_FUSE, dir, &e), -1);
}

static void test_contents_are_compared_where_there_is_a_digest(void **state)
{
    (void)state;
    struct dha_err e = {0};
    struct progress p = {0};
    assert_int_equal(output_compare(dir, &p, &e), 0); /* no list */
    list(WEIGHTS("7"));
    assert_int_equal(output_compare(dir, &p, &e), 0); /* of a worker that left no digests */
    list("{\"path\":\"model/config.json\",\"bytes\":\"2\","
         "\"xxh3_128\":\"" DIGEST_OF_BRACES "\"}");
    assert_int_equal(output_compare(dir, &p, &e), 0);
    assert_int_equal(atomic_load(&p.done), 2);
    put("model/config.json", "[]");
    assert_int_equal(output_check(STAGE_FUSE, dir, &e), 0);
    assert_int_equal(output_compare(dir, &p, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_string_equal(e.path, at("model/config.json"));
    atomic_store(&p.stop, true);
    assert_int_equal(output_compare(dir, &p, &e), -1);
    assert_int_equal(e.code, DHA_E_STOPPED);
}

static void test_only_a_finished_and_damaged_output_is_cleared(void **state)
{
    (void)state;
    struct dha_err e = {0};
    put("model/config.json", ""); /* not finished: there is no list */
    assert_int_equal(output_clear_damaged(STAGE_FUSE, dir, &e), 0);
    assert_int_equal(access(at("model"), F_OK), 0);
    put("model/config.json", "{}");
    list(WEIGHTS("7"));
    assert_int_equal(output_clear_damaged(STAGE_FUSE, dir, &e), 0);
    assert_int_equal(access(at("model"), F_OK), 0);
    list(WEIGHTS("8"));
    assert_int_equal(output_clear_damaged(STAGE_FUSE, dir, &e), 0);
    assert_int_equal(access(dir, F_OK), -1);
    assert_int_equal(output_clear_damaged(STAGE_FUSE, dir, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_without_a_list_the_main_file_decides, setup, teardown),
        cmocka_unit_test_setup_teardown(test_listed_files_must_be_there_with_their_sizes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_damaged_list_is_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_contents_are_compared_where_there_is_a_digest, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_only_a_finished_and_damaged_output_is_cleared, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
