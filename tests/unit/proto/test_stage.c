/* The spec.json of an attempt. */
#include "proto/stage.h"
#include "unit.h"

#define SPEC "'spec':{'model':'/m','data':{'train':['/a.u16']}}"
#define GOOD                                                                                       \
    "{'format':'dha-stage-1','job':'12','stage':'34','attempt':2,'uuid':'u-1','kind':'fuse',"      \
    "'dir':'/d','out':'/o','cache':'/c'," SPEC ",'inputs':{'search':'/s'}}"

static void ranks_are_told_their_places(void **state)
{
    (void)state;
    struct stage_spec s;
    struct dha_err e = {0};
    char text[1024];
    static const char head[] = "{'format':'dha-stage-1','job':'12','stage':'34','attempt':2,"
                               "'uuid':'u-1','kind':'fuse','dir':'/d','out':'/o','cache':'/c'," SPEC
                               ",'inputs':{},'places':";
    snprintf(text, sizeof text,
             "%s[{'node':'a','cores':'0-3','gpu':''},{'node':'b','cores':'','gpu':'GPU-1'}]}",
             head);
    cJSON *j = parse_quoted(text);
    assert_int_equal(stage_spec_parse(j, &s, &e), 0);
    cJSON_Delete(j);
    assert_int_equal(s.n_places, 2);
    j = stage_spec_to_json(&s);
    stage_spec_finish(&s);
    assert_int_equal(stage_spec_parse(j, &s, &e), 0);
    cJSON_Delete(j);
    assert_string_equal(s.places[0].cores, "0-3");
    assert_string_equal(s.places[1].node, "b");
    assert_string_equal(s.places[1].gpu, "GPU-1");
    stage_spec_finish(&s);
    static const char *const bad[] = {
        "7",
        "[]",
        "[{'node':'a','cores':'','gpu':''}]",
        "[3,4]",
        "[{'node':'a','cores':'','gpu':''},{'node':'a','cores':''}]",
        "[{'node':'a','cores':'','gpu':''},{'node':'a','cores':'3-1','gpu':''}]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, "%s%s}", head, bad[i]);
        j = parse_quoted(text);
        assert_int_equal(stage_spec_parse(j, &s, &e), -1);
        cJSON_Delete(j);
    }
}

static void a_stage_file_reads_back_as_it_was_written(void **state)
{
    (void)state;
    struct stage_spec s, again;
    struct dha_err e = {0};
    cJSON *j = parse_quoted(GOOD);
    assert_int_equal(stage_spec_parse(j, &s, &e), 0);
    assert_int_equal(s.job, 12);
    assert_int_equal(s.stage, 34);
    assert_int_equal(s.attempt, 2);
    assert_string_equal(s.uuid, "u-1");
    assert_int_equal(s.kind, STAGE_FUSE);
    assert_string_equal(s.dir, "/d");
    assert_string_equal(s.out, "/o");
    assert_string_equal(s.cache, "/c");
    assert_string_equal(s.spec.model, "/m");
    assert_string_equal(s.inputs[STAGE_SEARCH], "/s");
    assert_null(s.inputs[STAGE_TRAIN]);
    cJSON *k = stage_spec_to_json(&s);
    assert_int_equal(stage_spec_parse(k, &again, &e), 0);
    cJSON *l = stage_spec_to_json(&again);
    assert_true(cJSON_Compare(k, l, true));
    assert_string_equal(json_str(k, "job", ""), "12"); /* ids are strings */
    cJSON_Delete(l);
    cJSON_Delete(k);
    cJSON_Delete(j);
    stage_spec_finish(&again);
    stage_spec_finish(&s);
    stage_spec_finish(&s);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *set; /* path=value on the good one */
        enum dha_code code;
        const char *says;
    } cases[] = {
        {"format=dha-stage-2", DHA_E_VERSION, "dha-stage-2"},
        {"format=7", DHA_E_PROTOCOL, "format"},
        {"extra=1", DHA_E_PROTOCOL, "extra"},
        {"job=x", DHA_E_PROTOCOL, "job"},
        {"job=-1", DHA_E_PROTOCOL, "negative"},
        {"attempt=1e10", DHA_E_PROTOCOL, "attempt"},
        {"attempt=null", DHA_E_PROTOCOL, "attempt"},
        {"uuid=0123456789012345678901234567890123456789", DHA_E_PROTOCOL, "uuid"},
        {"kind=fusion", DHA_E_PROTOCOL, "fusion"},
        {"dir=relative", DHA_E_PROTOCOL, "absolute"},
        {"out=", DHA_E_PROTOCOL, "absolute"},
        {"cache=7", DHA_E_PROTOCOL, "cache"},
        {"inputs=[]", DHA_E_PROTOCOL, "inputs"},
        {"inputs.serach=/x", DHA_E_PROTOCOL, "serach"},
        {"inputs.train=x", DHA_E_PROTOCOL, "absolute"},
        {"spec.model=m", DHA_E_PROTOCOL, "spec.model"},
        {"spec.data.valid=v.u16", DHA_E_PROTOCOL, "spec.data.valid"},
        {"spec.budget=7", DHA_E_SPEC, "$.budget"},
        {"spec={}", DHA_E_SPEC, "2 errors"},
        {"spec=null", DHA_E_SPEC, "spec"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct stage_spec s;
        struct dha_err e = {0};
        cJSON *j = parse_quoted(GOOD);
        assert_int_equal(spec_set(j, cases[i].set, &e), 0);
        assert_int_equal(stage_spec_parse(j, &s, &e), -1);
        if (e.code != cases[i].code || !strstr(e.msg, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].set, dha_code_name(e.code), e.msg);
        assert_null(s.dir);
        cJSON_Delete(j);
    }
    struct stage_spec s;
    struct dha_err e = {0};
    assert_int_equal(stage_spec_parse(NULL, &s, &e), -1);
    static const char *const required[] = {"format", "job", "stage", "attempt", "uuid",
                                           "kind",   "dir", "out",   "cache",   "spec"};
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        cJSON *j = parse_quoted(GOOD);
        cJSON_DeleteItemFromObjectCaseSensitive(j, required[i]);
        assert_int_equal(stage_spec_parse(j, &s, &e), -1);
        assert_non_null(strstr(e.msg, required[i]));
        cJSON_Delete(j);
    }
}

static void stage_kinds_have_names(void **state)
{
    (void)state;
    enum stage_kind k;
    for (int i = 0; i < STAGE_KINDS; i++) {
        assert_int_equal(stage_kind_from_name(stage_kind_name((enum stage_kind)i), &k), 0);
        assert_int_equal(k, i);
    }
    assert_int_equal(stage_kind_from_name("Fuse", &k), -1);
    assert_int_equal(stage_kind_from_name(NULL, &k), -1);
    assert_string_equal(stage_kind_name(STAGE_KINDS), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stage_file_reads_back_as_it_was_written),
        cmocka_unit_test(ranks_are_told_their_places),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(stage_kinds_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
