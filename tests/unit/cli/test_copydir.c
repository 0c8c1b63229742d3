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

/* base stands for a stage's output directory. */
static int take(const char *model, const char *list, const char *out, struct dha_err *e)
{
    struct result_dir r;
    cJSON *files = NULL;
    int ret;
    memset(e, 0, sizeof *e);
    if (result_dir_open(&r, at(model), e)) {
        return -1;
    }
    if (list) {
        files = json_parse(list, strlen(list), NULL, NULL);
        assert_non_null(files);
    }
    ret = copydir(&r, files, out, e);
    cJSON_Delete(files);
    result_dir_close(&r);
    return ret;
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
    assert_int_equal(take("model", NULL, at("a/b/out"), &e), 0);
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
    assert_int_equal(take("model", NULL, at("empty/"), &e), 0);
    holds("empty/config.json", "{}");
}

static void nothing_that_exists_is_overwritten(void **state)
{
    (void)state;
    struct dha_err e = {0};
    mkdir(at("full"), 0700);
    put("full/mine", "keep");
    put("file", "keep");
    assert_int_equal(take("model", NULL, at("full"), &e), -1);
    assert_int_equal(e.code, DHA_E_CONFLICT);
    assert_int_equal(take("model", NULL, at("file"), &e), -1);
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
    assert_int_equal(take("model", NULL, at("out"), &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_non_null(strstr(e.msg, "link"));
    assert_int_equal(access(at("out"), F_OK), -1);
    assert_int_equal(entries(""), before);
    assert_int_equal(take("absent", NULL, at("out"), &e), -1);
    assert_int_equal(e.code, DHA_E_NOT_FOUND);
    assert_int_equal(entries(""), before);
}

#define CONFIG "{\"path\":\"model/config.json\"}"

static void what_the_list_does_not_name_is_not_copied(void **state)
{
    (void)state;
    struct dha_err e;
    put("model/extra", "not mine");
    put("model/sub/extra", "not mine");
    put("beside", "not mine");
    assert_int_equal(take("model",
                          "[" CONFIG ",{\"path\":\"model/sub/file\"},{\"path\":\"beside\"}]",
                          at("out"), &e),
                     0);
    holds("out/config.json", "{}");
    holds("out/sub/file", "below");
    assert_int_equal(entries("out"), 2);
    assert_int_equal(entries("out/sub"), 1);
}

static void refuses(const char *list, const char *said)
{
    struct dha_err e;
    assert_int_equal(take("model", list, at("out"), &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    if (!strstr(e.msg, said)) {
        fail_msg("%s: not about %s", e.msg, said);
    }
    assert_int_equal(access(at("out"), F_OK), -1);
}

static void no_path_of_the_list_leads_out(void **state)
{
    (void)state;
    put("beside", "not mine");
    refuses("[{\"path\":\"model/../beside\"}]", "no path below");
    refuses("[{\"path\":\"model/./config.json\"}]", "no path below");
    refuses("[{\"path\":\"model//config.json\"}]", "no path below");
    refuses("[{\"path\":\"model/\"}]", "no path below");
    refuses("[{\"path\":\"model/sub\"}]", "no file");
}

static void no_link_is_followed(void **state)
{
    (void)state;
    mkdir(at("closed"), 0700);
    put("closed/config.json", "secret");
    put("closed/file", "secret");
    assert_int_equal(rename(at("model/sub"), at("was")), 0);
    assert_int_equal(symlink(at("closed"), at("model/sub")), 0);
    refuses(NULL, "sub");
    refuses("[{\"path\":\"model/sub/file\"}]", "sub");
    assert_int_equal(rename(at("model"), at("model.bak")), 0);
    assert_int_equal(symlink(at("closed"), at("model")), 0);
    refuses(NULL, "model");
    refuses("[" CONFIG "]", "model");
}

static void no_link_leads_to_the_output(void **state)
{
    (void)state;
    struct result_dir r;
    struct dha_err e = {0};
    mkdir(at("job"), 0700);
    mkdir(at("job/stage"), 0700);
    assert_int_equal(symlink(base, at("job/stage/out")), 0);
    assert_int_equal(result_dir_open(&r, at("job/stage/out/model"), &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_int_equal(symlink(at("job/stage"), at("job/other")), 0);
    assert_int_equal(result_dir_open(&r, at("job/other/out/model"), &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
}

static void a_pipe_is_refused_at_once(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(at("model/pipe"), 0600), 0);
    refuses(NULL, "pipe");
    refuses("[{\"path\":\"model/pipe\"}]", "pipe");
}

static void what_is_anothers_is_refused(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        skip(); /* only root makes files another's */
    }
    put("theirs", "secret");
    assert_int_equal(chown(at("theirs"), 12345, 12345), 0);
    assert_int_equal(link(at("theirs"), at("model/hard")), 0);
    refuses(NULL, "does not belong");
    refuses("[{\"path\":\"model/hard\"}]", "does not belong");
    unlink(at("model/hard"));
    assert_int_equal(chown(at("model/sub"), 12345, 12345), 0);
    refuses(NULL, "does not belong");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_and_folders_arrive, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_directory_may_be_filled, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_that_exists_is_overwritten, setup, teardown),
        cmocka_unit_test_setup_teardown(a_copy_that_fails_leaves_nothing_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_list_does_not_name_is_not_copied, setup, teardown),
        cmocka_unit_test_setup_teardown(no_path_of_the_list_leads_out, setup, teardown),
        cmocka_unit_test_setup_teardown(no_link_is_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(no_link_leads_to_the_output, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pipe_is_refused_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_anothers_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
