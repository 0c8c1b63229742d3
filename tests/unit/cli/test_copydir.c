/* A checkpoint is handed over whole or not at all. */
#include "tests/unit/cli/capture.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/copydir.h"

static char base[64];

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

static void holds(const char *name, const char *text)
{
    char buf[256] = "";
    FILE *f = fopen(at(name), "r");
    assert_non_null(f);
    assert_int_equal(fread(buf, 1, sizeof buf - 1, f), strlen(text));
    fclose(f);
    assert_string_equal(buf, text);
}

static int entries(const char *name)
{
    DIR *d = opendir(at(name));
    int n = 0;
    assert_non_null(d);
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n - 2;
}

static int setup(void **state)
{
    (void)state;
    strcpy(base, "/tmp/dha-copydir-XXXXXX");
    if (!mkdtemp(base)) {
        return -1;
    }
    mkdir(at("model"), 0700);
    mkdir(at("model/sub"), 0700);
    put("model/config.json", "{}");
    put("model/sub/file", "below");
    return 0;
}

static int teardown(void **state)
{
    char line[128];
    (void)state;
    snprintf(line, sizeof line, "rm -r '%s'", base);
    return system(line);
}

static void files_and_folders_arrive(void **state)
{
    (void)state;
    struct dha_err e = {0};
    assert_int_equal(copydir(at("model"), at("a/b/out"), &e), 0);
    holds("a/b/out/config.json", "{}");
    holds("a/b/out/sub/file", "below");
    assert_int_equal(entries("a/b"), 1);
}

static void an_empty_directory_may_be_filled(void **state)
{
    (void)state;
    struct dha_err e = {0};
    mkdir(at("empty"), 0700);
    assert_int_equal(copydir_check(at("empty"), &e), 0);
    assert_int_equal(copydir(at("model"), at("empty/"), &e), 0);
    holds("empty/config.json", "{}");
}

static void nothing_that_exists_is_overwritten(void **state)
{
    (void)state;
    struct dha_err e = {0};
    mkdir(at("full"), 0700);
    put("full/mine", "keep");
    put("file", "keep");
    assert_int_equal(copydir(at("model"), at("full"), &e), -1);
    assert_int_equal(e.code, DHA_E_CONFLICT);
    assert_int_equal(copydir(at("model"), at("file"), &e), -1);
    assert_int_equal(e.code, DHA_E_CONFLICT);
    holds("full/mine", "keep");
    holds("file", "keep");
    assert_int_equal(entries("full"), 1);
}

static void a_copy_that_fails_leaves_nothing_behind(void **state)
{
    (void)state;
    struct dha_err e = {0};
    assert_int_equal(symlink("/etc/passwd", at("model/link")), 0);
    int before = entries("");
    assert_int_equal(copydir(at("model"), at("out"), &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_non_null(strstr(e.msg, "link"));
    assert_int_equal(access(at("out"), F_OK), -1);
    assert_int_equal(entries(""), before);
    assert_int_equal(copydir(at("absent"), at("out"), &e), -1);
    assert_int_equal(e.code, DHA_E_NOT_FOUND);
    assert_int_equal(entries(""), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_and_folders_arrive, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_directory_may_be_filled, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_that_exists_is_overwritten, setup, teardown),
        cmocka_unit_test_setup_teardown(a_copy_that_fails_leaves_nothing_behind, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
