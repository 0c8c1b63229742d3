/* What a node says that it has. */
#include "proto/probe.h"
#include "unit.h"

static void it_reads_back_as_it_was_written(void **state)
{
    (void)state;
    struct probe p = {.cores = "0-3,8",
                      .n_cores = 5,
                      .memory = 1ll << 40,
                      .cuda = true,
                      .n_gpus = 2},
                 q;
    struct dha_err e = {0};
    snprintf(p.gpu[0].uuid, sizeof p.gpu[0].uuid, "GPU-1");
    snprintf(p.gpu[0].name, sizeof p.gpu[0].name, "NVIDIA H200");
    p.gpu[0].memory = 150ll << 30;
    snprintf(p.gpu[1].uuid, sizeof p.gpu[1].uuid, "GPU-2");
    cJSON *doc = probe_to_json(&p);
    assert_int_equal(probe_parse(doc, &q, &e), 0);
    cJSON_Delete(doc);
    assert_string_equal(q.cores, "0-3,8");
    assert_int_equal(q.n_cores, 5);
    assert_true(q.memory == 1ll << 40 && q.cuda);
    assert_int_equal(q.n_gpus, 2);
    assert_string_equal(q.gpu[0].name, "NVIDIA H200");
    assert_true(q.gpu[0].memory == 150ll << 30);
    assert_string_equal(q.gpu[1].uuid, "GPU-2");
}

static void what_is_none_is_refused_and_leaves_nothing(void **state)
{
    (void)state;
#define HEAD "{'format':'dha-probe-1','n_cores':2,'memory':'5','backends':['cpu'],"
    static const char *const bad[] = {
        "[]",
        "{'format':'dha-probe-2'}",
        HEAD "'cores':'0-3','gpus':[]}",
        HEAD "'cores':'1-0','gpus':[]}",
        HEAD "'cores':'0-1'}",
        HEAD "'cores':'0-1','gpus':[3]}",
        HEAD "'cores':'0-1','gpus':[{'uuid':'a,b','name':'x','memory':'1'}]}",
        HEAD "'cores':'0-1','gpus':[{'uuid':'','name':'x','memory':'1'}]}",
        HEAD "'cores':'0-1','gpus':[{'uuid':'a','name':'x','memory':'-1'}]}",
        HEAD "'cores':'0-1','gpus':[{'uuid':'a','name':'x','memory':'1'},"
             "{'uuid':'a','name':'x','memory':'1'}]}"};
    struct probe p;
    struct dha_err e = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cJSON *doc = parse_quoted(bad[i]);
        if (probe_parse(doc, &p, &e) != -1)
            fail_msg("taken: %s", bad[i]);
        cJSON_Delete(doc);
        assert_int_equal(e.code, DHA_E_PROTOCOL);
        assert_int_equal(p.n_gpus + p.n_cores, 0);
    }
    cJSON *doc = parse_quoted(HEAD "'cores':'','gpus':[]}");
    assert_int_equal(probe_parse(doc, &p, &e), 0);
    cJSON_Delete(doc);
    assert_int_equal(p.n_cores, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_reads_back_as_it_was_written),
        cmocka_unit_test(what_is_none_is_refused_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
