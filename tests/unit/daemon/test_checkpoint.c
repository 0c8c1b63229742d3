/* Which checkpoints stay, when one counts as whole, and how one goes: never half. */
#include "cmocka_all.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/checkpoint.h"
#include "daemon/files.h"

/* Steps 10, 20 .. of one series, losses as given; what stays, as a string of 0 and 1. */
static const char *chosen(struct checkpoint_policy policy, const double *loss, size_t n)
{
    static char out[16];
    struct store_checkpoint c[16] = {0};
    bool keep[16];
    double none[16] = {0};
    for (size_t i = 0; i < n; i++) {
        c[i].id = (int64_t)i + 1;
        c[i].step = 10 * ((int64_t)i + 1);
        none[i] = NAN;
        snprintf(c[i].path, sizeof c[i].path, "/j/train/out/ckpt/step-%d", (int)c[i].step);
    }
    checkpoint_choose(&policy, c, loss ? loss : none, n, keep);
    for (size_t i = 0; i < n; i++) {
        out[i] = keep[i] ? '1' : '0';
    }
    out[n] = '\0';
    return out;
}

static void test_the_newest_the_best_and_every_nth_stay(void **state)
{
    (void)state;
    const double loss[] = {5, 1, NAN, 1, 2};
    assert_string_equal(chosen((struct checkpoint_policy){.last = 2}, NULL, 5), "00011");
    assert_string_equal(chosen((struct checkpoint_policy){.last = 9}, NULL, 5), "11111");
    assert_string_equal(chosen((struct checkpoint_policy){.last = 1, .best = true}, loss, 5),
                        "01001"); /* of equals the first */
    assert_string_equal(chosen((struct checkpoint_policy){.last = 1, .best = true}, NULL, 5),
                        "00001");
    assert_string_equal(chosen((struct checkpoint_policy){.every = 20}, NULL, 5), "01010");
}

static void test_the_newest_of_a_job_that_may_go_on_stays_in_any_case(void **state)
{
    (void)state;
    assert_string_equal(chosen((struct checkpoint_policy){0}, NULL, 3), "000");
    assert_string_equal(chosen((struct checkpoint_policy){.spare = true}, NULL, 3), "001");
    assert_string_equal(chosen((struct checkpoint_policy){.spare = true}, NULL, 0), "");
}

static void test_each_directory_is_a_series_of_its_own(void **state)
{
    (void)state;
    struct store_checkpoint c[3] = {{.id = 1, .step = 10, .path = "/out/level-1/ckpt/step-10"},
                                    {.id = 2, .step = 20, .path = "/out/level-1/ckpt/step-20"},
                                    {.id = 3, .step = 5, .path = "/out/level-2/ckpt/step-5"}};
    const double loss[3] = {NAN, NAN, NAN};
    const struct checkpoint_policy policy = {.last = 1};
    bool keep[3];
    checkpoint_choose(&policy, c, loss, 3, keep);
    assert_false(keep[0]);
    assert_true(keep[1] && keep[2]);
}

/* ---- on disk ---- */

static struct store_checkpoint ck;
static char root[64];

static const char *at(const char *name)
{
    static char path[700];
    snprintf(path, sizeof path, "%s/%s", ck.path, name);
    return path;
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(at(name), "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
    struct progress p = {0};
    struct files_seen seen;
    struct dha_err e = {0};
    char text[256];
    (void)state;
    ck = (struct store_checkpoint){.step = 7};
    snprintf(root, sizeof root, "/tmp/dha-ckpt-XXXXXX");
    assert_non_null(mkdtemp(root));
    snprintf(ck.path, sizeof ck.path, "%s/step-7", root);
    assert_int_equal(mkdir(ck.path, 0700), 0);
    put("shard-0000.bin", "weights");
    assert_int_equal(files_digest(at("shard-0000.bin"), &p, &seen, &e), 0);
    snprintf(text, sizeof text,
             "{\"shards\":[{\"file\":\"shard-0000.bin\",\"bytes\":7,\"xxh3_128\":\"%s\"}]}",
             seen.xxh3);
    put("manifest.json", text);
    assert_int_equal(files_digest(at("manifest.json"), &p, &seen, &e), 0);
    memcpy(ck.digest, seen.sha256, sizeof seen.sha256);
    return 0;
}

static int teardown(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static void assert_found(enum checkpoint_found want, bool deep, const char *text)
{
    struct progress p = {0};
    struct dha_err why = {0};
    assert_int_equal(checkpoint_check(&ck, deep, &p, &why), want);
    if (!strstr(why.msg, text)) {
        fail_msg("\"%s\" does not say \"%s\"", why.msg, text);
    }
}

static void test_damage_of_each_file_is_told(void **state)
{
    (void)state;
    assert_found(CHECKPOINT_WHOLE, true, "");
    put("shard-0000.bin", "Weights");
    assert_found(CHECKPOINT_WHOLE, false, ""); /* only its digest tells */
    assert_found(CHECKPOINT_DAMAGED, true, "does not have the digest");
    put("shard-0000.bin", "weight");
    assert_found(CHECKPOINT_DAMAGED, false, "has 6 bytes, its manifest says 7");
    unlink(at("shard-0000.bin"));
    assert_found(CHECKPOINT_DAMAGED, false, "shard-0000.bin");
    assert_int_equal(mkfifo(at("shard-0000.bin"), 0600), 0); /* nobody waits for a writer */
    assert_found(CHECKPOINT_DAMAGED, true, "bytes");
    put("manifest.json", "{}");
    assert_found(CHECKPOINT_DAMAGED, false, "digest that was recorded");
    unlink(at("manifest.json"));
    assert_found(CHECKPOINT_DAMAGED, false, "has no manifest.json");
    snprintf(ck.path, sizeof ck.path, "%s/step-8", root);
    assert_found(CHECKPOINT_GONE, false, "is not there");
}

static void test_a_manifest_may_not_name_files_elsewhere(void **state)
{
    struct progress p = {0};
    struct dha_err why = {0};
    (void)state;
    put("manifest.json", "{\"shards\":[{\"file\":\"../x\",\"bytes\":1,\"xxh3_128\":\"\"}]}");
    assert_int_equal(checkpoint_check_path(ck.path, false, &p, &why), CHECKPOINT_DAMAGED);
    assert_non_null(strstr(why.msg, "names the file"));
    put("manifest.json", "[]");
    assert_int_equal(checkpoint_check_path(ck.path, false, &p, &why), CHECKPOINT_DAMAGED);
    put("manifest.json", "{\"shards\":[");
    assert_int_equal(checkpoint_check_path(ck.path, false, &p, &why), CHECKPOINT_DAMAGED);
}

static void test_reading_stops_when_told_to(void **state)
{
    struct progress p = {.stop = true};
    struct dha_err why = {0};
    (void)state;
    assert_int_equal(checkpoint_check(&ck, true, &p, &why), CHECKPOINT_UNREAD);
    assert_int_equal(why.code, DHA_E_STOPPED);
}

static void test_what_cannot_be_read_now_is_not_damaged(void **state)
{
    struct progress p = {0};
    struct dha_err why = {0};
    struct rlimit all, none;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &all), 0);
    none = all;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    enum checkpoint_found found = checkpoint_check(&ck, true, &p, &why);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &all), 0);
    assert_int_equal(found, CHECKPOINT_UNREAD);
    assert_found(CHECKPOINT_WHOLE, true, "");
}

static void test_a_retired_one_has_no_manifest_and_another_name(void **state)
{
    struct dha_err e = {0};
    char gone[FILES_PATH];
    (void)state;
    assert_int_equal(checkpoint_retire(ck.path, &e), 0);
    assert_found(CHECKPOINT_GONE, false, "is not there");
    assert_int_equal(files_path(gone, &e, "%s.del/shard-0000.bin", ck.path), 0);
    assert_true(files_there(gone));
    assert_int_equal(files_path(gone, &e, "%s.del/manifest.json", ck.path), 0);
    assert_false(files_there(gone));
    assert_int_equal(checkpoint_retire(ck.path, &e), 0); /* again, after a crash */
}

static void test_a_disabled_one_keeps_everything(void **state)
{
    struct dha_err e = {0};
    (void)state;
    assert_int_equal(checkpoint_disable(ck.path, &e), 0);
    assert_found(CHECKPOINT_DAMAGED, false, "has no manifest.json");
    assert_true(files_there(at("manifest.json.bad")) && files_there(at("shard-0000.bin")));
    assert_int_equal(checkpoint_disable(ck.path, &e), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_newest_the_best_and_every_nth_stay),
        cmocka_unit_test(test_the_newest_of_a_job_that_may_go_on_stays_in_any_case),
        cmocka_unit_test(test_each_directory_is_a_series_of_its_own),
        T(test_damage_of_each_file_is_told),
        T(test_a_manifest_may_not_name_files_elsewhere),
        T(test_reading_stops_when_told_to),
        T(test_what_cannot_be_read_now_is_not_damaged),
        T(test_a_retired_one_has_no_manifest_and_another_name),
        T(test_a_disabled_one_keeps_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
