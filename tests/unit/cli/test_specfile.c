/* Specs as users write them: paths become absolute, errors are listed. */
#include "tests/unit/cli/capture.h"

#include <unistd.h>

#include "cli/locate.h"
#include "cli/specfile.h"

static cJSON *doc(const char *text)
{
    cJSON *j = json_parse(text, strlen(text), NULL, NULL);
    assert_non_null(j);
    return j;
}

static void relative_paths_are_relative_to_the_given_directory(void **state)
{
    (void)state;
    cJSON *spec = doc("{\"model\":\"m\",\"name\":\"m\",\"data\":{\"train\":[\"a.txt\",\"/abs/"
                      "b.txt\",\"./c/../d.txt\"],"
                      "\"valid\":\"v.txt\",\"tokenizer\":\"../t.model\"}}");
    struct dha_err e = {0};
    assert_int_equal(specfile_absolute(spec, "/base/dir", &e), 0);
    assert_string_equal(json_str(spec, "model", ""), "/base/dir/m");
    assert_string_equal(json_str(spec, "name", ""), "m");
    assert_string_equal(json_at(spec, "data.train.0")->valuestring, "/base/dir/a.txt");
    assert_string_equal(json_at(spec, "data.train.1")->valuestring, "/abs/b.txt");
    assert_string_equal(json_at(spec, "data.train.2")->valuestring, "/base/dir/c/../d.txt");
    assert_string_equal(json_str(json_get(spec, "data"), "valid", ""), "/base/dir/v.txt");
    assert_string_equal(json_str(json_get(spec, "data"), "tokenizer", ""), "/base/dir/../t.model");
    cJSON_Delete(spec);
}

static void what_is_no_path_is_left_for_the_daemon_to_refuse(void **state)
{
    (void)state;
    static const char *const odd[] = {"{}", "[]", "{\"model\":5,\"data\":[]}",
                                      "{\"model\":\"\",\"data\":{\"train\":\"a\",\"valid\":null}}",
                                      "{\"data\":{\"train\":[1,{}]}}"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        cJSON *spec = doc(odd[i]);
        cJSON *before = cJSON_Duplicate(spec, true);
        struct dha_err e = {0};
        assert_int_equal(specfile_absolute(spec, "/b", &e), 0);
        assert_true(cJSON_Compare(spec, before, true));
        cJSON_Delete(before);
        cJSON_Delete(spec);
    }
}

static void a_path_is_made_absolute_without_touching_links_or_parents(void **state)
{
    (void)state;
    struct dha_err e = {0};
    char out[LOCATE_MAX];
    char cwd[LOCATE_MAX];
    assert_int_equal(locate_absolute("/a//b/", "./x//y", out, sizeof out, &e), 0);
    assert_string_equal(out, "/a/b/x/y");
    assert_int_equal(locate_absolute("/a", "/", out, sizeof out, &e), 0);
    assert_string_equal(out, "/");
    assert_non_null(getcwd(cwd, sizeof cwd));
    assert_int_equal(locate_absolute(NULL, "z", out, sizeof out, &e), 0);
    assert_memory_equal(out, cwd, strlen(cwd));
    assert_string_equal(out + strlen(cwd), "/z");
    assert_int_equal(locate_absolute("/a", "long", out, 5, &e), -1);
    assert_int_equal(e.code, DHA_E_USAGE);
}

static void errors_of_a_spec_are_listed_with_path_and_hint(void **state)
{
    (void)state;
    cJSON *error = doc("{\"code\":\"invalid_spec\",\"errors\":[{\"path\":\"$.budget\",\"message\":"
                       "\"must be in (0,1]\","
                       "\"hint\":\"\"},{\"path\":\"$.bugdet\",\"message\":\"unknown "
                       "field\",\"hint\":\"did you mean budget?\"}]}");
    struct capture c;
    capture_begin(&c);
    assert_int_equal(specfile_print_errors(c.out, "the spec", error), 2);
    capture_has(&c, "dha: the spec has 2 errors:\n");
    capture_has(&c, "  $.budget                 must be in (0,1]\n");
    capture_has(&c, "  $.bugdet                 unknown field\n                           did you "
                    "mean budget?\n");
    capture_end(&c);
    cJSON_Delete(error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(relative_paths_are_relative_to_the_given_directory),
        cmocka_unit_test(what_is_no_path_is_left_for_the_daemon_to_refuse),
        cmocka_unit_test(a_path_is_made_absolute_without_touching_links_or_parents),
        cmocka_unit_test(errors_of_a_spec_are_listed_with_path_and_hint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
