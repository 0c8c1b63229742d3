/* What makes two stages equal, and what does not. */
#include "cmocka_all.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/stagekey.h"

static char dir[64];

static void put(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/dha-key-XXXXXX");
    assert_non_null(mkdtemp(dir));
    put("config.json", "{}");
    put("model.safetensors", "weights");
    put("README.md", "about");
    put("train.u16", "tokens");
    put("valid.u16", "more tokens");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

struct keys {
    struct stagekey at[STAGE_KINDS];
    int n;
};

/* Keys of the base spec with `change` (path=value) applied; NULL = as it is. */
static struct keys keys_of(const char *change)
{
    char text[512];
    struct keys k;
    struct job_spec spec;
    struct spec_errors errs;
    struct dha_err e = {0};
    int n = snprintf(text, sizeof text,
                     "{\"model\":\"%s\",\"data\":{\"train\":[\"%s/train.u16\"],"
                     "\"valid\":\"%s/valid.u16\",\"seq_len\":8}}",
                     dir, dir, dir);
    cJSON *doc = json_parse(text, (size_t)n, NULL, &e);
    assert_non_null(doc);
    if (change) {
        assert_int_equal(spec_set(doc, change, &e), 0);
    }
    if (spec_parse(doc, NULL, &spec, &errs) != 0) {
        fail_msg("%s %s", errs.at[0].path, errs.at[0].msg);
    }
    if (stagekey_job(&spec, k.at, &k.n, &e) != 0) {
        fail_msg("%s", e.msg);
    }
    spec_finish(&spec);
    cJSON_Delete(doc);
    return k;
}

/* Which stages' keys differ, as letters of search, fuse, train, eval, eXport. */
static const char *differ(const struct keys *a, const struct keys *b)
{
    static const char letters[] = "sftex";
    static char out[8];
    size_t n = 0;
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++) {
        assert_int_equal(a->at[i].kind, b->at[i].kind);
        if (strcmp(a->at[i].key, b->at[i].key) != 0) {
            out[n++] = letters[a->at[i].kind];
        }
    }
    out[n] = '\0';
    return out;
}

static void a_key_is_a_sha256_and_each_stage_has_its_own(void **state)
{
    (void)state;
    struct keys k = keys_of(NULL);
    assert_int_equal(k.n, 5);
    for (int i = 0; i < k.n; i++) {
        assert_int_equal(strspn(k.at[i].key, "0123456789abcdef"), 64);
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(k.at[i].key, k.at[j].key);
        }
    }
}

static void equal_specs_have_equal_keys(void **state)
{
    (void)state;
    struct keys a = keys_of(NULL), b = keys_of(NULL);
    assert_string_equal(differ(&a, &b), "");
    b = keys_of("seed=1"); /* the default, written out */
    assert_string_equal(differ(&a, &b), "");
}

static void what_a_stage_does_not_read_does_not_change_its_key(void **state)
{
    (void)state;
    static const char *const changes[][2] = {
        {"name=other", ""},           {"priority=7", ""},         {"resources.walltime=\"1h\"", ""},
        {"tokens.train=5000", "tex"}, {"export.format=dha", "x"}, {"eval.windows=3", "ftex"},
        {"budget=0.5", "ftex"},       {"seed=2", "sftex"},
    };
    struct keys a = keys_of(NULL);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct keys b = keys_of(changes[i][0]);
        const char *d = differ(&a, &b);
        if (strcmp(d, changes[i][1]) != 0) {
            fail_msg("%s changes \"%s\", not \"%s\"", changes[i][0], d, changes[i][1]);
        }
    }
}

static void a_file_that_was_rewritten_changes_the_keys_of_its_readers(void **state)
{
    (void)state;
    struct keys a = keys_of(NULL);
    put("train.u16", "longer tokens");
    struct keys b = keys_of(NULL);
    assert_string_equal(differ(&a, &b), "sftex");
    put("valid.u16", "other tokens than those");
    struct keys c = keys_of(NULL);
    assert_null(strchr(differ(&b, &c), 's')); /* search reads no validation data */
    assert_non_null(strchr(differ(&b, &c), 'e'));
    put("model.safetensors", "other weights");
    struct keys d = keys_of(NULL);
    assert_string_equal(differ(&c, &d), "sftex");
}

static void only_the_time_of_a_file_changing_is_a_change(void **state)
{
    (void)state;
    char path[128];
    struct keys a = keys_of(NULL);
    struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000, .tv_nsec = 1}};
    snprintf(path, sizeof path, "%s/train.u16", dir);
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
    struct keys b = keys_of(NULL);
    assert_string_equal(differ(&a, &b), "sftex");
    t[1].tv_nsec = 2; /* nanoseconds count */
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
    struct keys c = keys_of(NULL);
    assert_string_equal(differ(&b, &c), "sftex");
}

static void files_of_the_model_that_no_worker_reads_do_not_count(void **state)
{
    (void)state;
    struct keys a = keys_of(NULL);
    put("README.md", "more about it");
    put(".gitattributes", "x");
    struct keys b = keys_of(NULL);
    assert_string_equal(differ(&a, &b), "");
    put("tokenizer.json", "{}");
    struct keys c = keys_of(NULL);
    assert_string_equal(differ(&b, &c), "sftex");
}

static void files_of_domains_and_tasks_count_for_their_readers(void **state)
{
    (void)state;
    char change[256];
    put("wiki.u16", "wiki");
    put("book.u16", "book");
    put("q.jsonl", "{}");
    snprintf(change, sizeof change, "eval.tasks=[{\"task\":\"piqa\",\"path\":\"%s/q.jsonl\"}]",
             dir);
    struct keys a = keys_of(change);
    put("q.jsonl", "{ }");
    struct keys b = keys_of(change);
    assert_string_equal(differ(&a, &b), "e");
    snprintf(change, sizeof change,
             "data={\"mixture\":[{\"domain\":\"w\",\"weight\":0.5,\"train\":[\"%s/wiki.u16\"]},"
             "{\"domain\":\"b\",\"weight\":0.5,\"train\":[\"%s/book.u16\"]}]}",
             dir, dir);
    a = keys_of(change);
    put("book.u16", "another book");
    b = keys_of(change);
    assert_string_equal(differ(&a, &b), "sftex");
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    struct job_spec spec = {0};
    struct stagekey out[STAGE_KINDS];
    struct spec_errors errs = {0};
    struct dha_err e = {0};
    char text[256];
    int count, n = snprintf(text, sizeof text,
                            "{\"model\":\"%s\",\"data\":{\"train\":[\"/nowhere/t.u16\"],"
                            "\"seq_len\":8}}",
                            dir);
    cJSON *doc = json_parse(text, (size_t)n, NULL, &e);
    assert_int_equal(spec_parse(doc, NULL, &spec, &errs), 0);
    assert_int_equal(stagekey_job(&spec, out, &count, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_non_null(strstr(e.msg, "/nowhere/t.u16"));
    assert_int_equal(stagekey_check_files(&spec, &errs), 1);
    assert_string_equal(errs.at[0].path, "$.data.train[0]");
    spec_finish(&spec);
    cJSON_Delete(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_is_a_sha256_and_each_stage_has_its_own),
        cmocka_unit_test(equal_specs_have_equal_keys),
        cmocka_unit_test(what_a_stage_does_not_read_does_not_change_its_key),
        cmocka_unit_test(a_file_that_was_rewritten_changes_the_keys_of_its_readers),
        cmocka_unit_test(only_the_time_of_a_file_changing_is_a_change),
        cmocka_unit_test(files_of_the_model_that_no_worker_reads_do_not_count),
        cmocka_unit_test(files_of_domains_and_tasks_count_for_their_readers),
        cmocka_unit_test(a_missing_file_is_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
