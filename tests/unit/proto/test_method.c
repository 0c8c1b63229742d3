/* Methods: presets, overrides, and combinations that are refused with their reason. */
#include "unit.h"

static int read_method(const char *method, struct method *m, struct spec_errors *errs)
{
    char text[320];
    struct job_spec s;
    snprintf(text, sizeof text, "{'model':'/m','data':{'train':['/a.u16']},'method':%s}", method);
    cJSON *j = parse_quoted(text);
    int rc = spec_parse(j, NULL, &s, errs);
    *m = s.method;
    spec_finish(&s);
    cJSON_Delete(j);
    return rc;
}

static void presets_are_those_of_the_methods_page(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct method m;
    } want[] = {
        {"gqa", {.name = "gqa", .uniform = true}},
        {"mqa", {.name = "mqa", .grouping = GROUP_ONE, .uniform = true}},
        {"dha",
         {.name = "dha",
          .grouping = GROUP_LEARNED,
          .budget = BUDGET_ADAPTIVE,
          .merge = MERGE_FUSION}},
        {"align-gqa",
         {.name = "align-gqa",
          .alignment = ALIGN_PROCRUSTES,
          .merge = MERGE_MASKS,
          .uniform = true,
          .norm_restore = true}},
        {"aligned-dha",
         {.name = "aligned-dha",
          .grouping = GROUP_LEARNED,
          .alignment = ALIGN_PROCRUSTES,
          .budget = BUDGET_ADAPTIVE,
          .merge = MERGE_FUSION,
          .tie = TIE_CONTRACT,
          .norm_restore = true}},
        {"spectral",
         {.name = "spectral",
          .grouping = GROUP_CLOSED_FORM,
          .budget = BUDGET_MEASURED,
          .merge = MERGE_SPECTRAL,
          .refit = true,
          .any_count = true}},
        {"spectral-gqa",
         {.name = "spectral-gqa", .merge = MERGE_SPECTRAL, .uniform = true, .refit = true}},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct method m = {0};
        assert_int_equal(method_preset(want[i].name, &m), 0);
        assert_string_equal(m.name, want[i].m.name);
        assert_int_equal(m.grouping, want[i].m.grouping);
        assert_int_equal(m.budget, want[i].m.budget);
        assert_int_equal(m.merge, want[i].m.merge);
        assert_int_equal(m.uniform, want[i].m.uniform);
        assert_int_equal(m.refit, want[i].m.refit);
        assert_int_equal(m.any_count, want[i].m.any_count);
        assert_int_equal(m.alignment, want[i].m.alignment);
        assert_int_equal(m.tie, want[i].m.tie);
        assert_int_equal(m.masks, want[i].m.masks);
        assert_int_equal(m.norm_restore, want[i].m.norm_restore);
        assert_non_null(strstr(method_names(), want[i].name));
    }
    struct method m;
    assert_int_equal(method_preset("align-mqa", &m), -1);
}

static void what_was_not_said_follows_from_what_was(void **state)
{
    (void)state;
    struct method m;
    struct spec_errors e;
    assert_int_equal(read_method("{'preset':'spectral','uniform':true}", &m, &e), 0);
    assert_true(m.uniform && m.refit && !m.any_count);
    assert_int_equal(m.grouping, GROUP_ADJACENT);
    assert_int_equal(m.budget, BUDGET_UNIFORM);
    assert_int_equal(read_method("{'preset':'gqa','merge':'spectral'}", &m, &e), 0);
    assert_true(m.uniform && !m.refit);
    assert_int_equal(read_method("{'preset':'spectral-gqa','budget':'measured'}", &m, &e), 0);
    assert_false(m.uniform);
    assert_int_equal(read_method("{'preset':'spectral-gqa','merge':'mean'}", &m, &e), 0);
    assert_false(m.refit);
    assert_int_equal(read_method("{'preset':'dha','budget':'uniform','scalar_omega':true}", &m, &e),
                     0);
    assert_true(m.scalar_omega);
    assert_int_equal(read_method("{'preset':'dha','merge':'mean'}", &m, &e), 0);
    assert_int_equal(read_method("{'refit':false}", &m, &e), 0);
    assert_string_equal(m.name, "spectral"); /* the default preset */
    assert_false(m.refit);
    assert_int_equal(read_method("{'preset':'mqa','uniform':true}", &m, &e), 0);
    assert_int_equal(m.grouping, GROUP_ONE);
}

static void what_makes_no_sense_is_refused_with_the_reason(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path, *says;
    } cases[] = {
        {"{'preset':'spectral','uniform':true,'grouping':'closed-form'}", "$.method", "equal"},
        {"{'preset':'spectral-gqa','uniform':true,'budget':'measured'}", "$.method", "every layer"},
        {"{'preset':'gqa','uniform':true,'any_count':true}", "$.method", "unequal"},
        {"{'preset':'mqa','budget':'measured','merge':'spectral'}", "$.method", "one group"},
        {"{'preset':'gqa','refit':true}", "$.method", "refit"},
        {"{'preset':'gqa','scalar_omega':true}", "$.method", "fusion operator"},
        {"{'preset':'spectral','merge':'mean','budget':'uniform'}", "$.method", "closed-form"},
        {"{'preset':'gqa','budget':'measured'}", "$.method", "measured"},
        {"{'preset':'spectral','budget':'adaptive'}", "$.method", "adaptive"},
        {"{'preset':'nope'}", "$.method.preset", "no method"},
        {"{'preset':7}", "$.method.preset", "string"},
        {"{'grouping':'closed_form'}", "$.method.grouping", "not a choice"},
        {"{'merge':1}", "$.method.merge", "string"},
        {"{'refit':1}", "$.method.refit", "true or false"},
        {"{'anycount':true}", "$.method.anycount", "unknown"},
        {"[]", "$.method", "preset"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct method m;
        struct spec_errors e;
        assert_int_equal(read_method(cases[i].method, &m, &e), -1);
        if (strcmp(e.at[0].path, cases[i].path) != 0 || !strstr(e.at[0].msg, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].method, e.at[0].path, e.at[0].msg);
    }
    struct method m;
    struct spec_errors e;
    read_method("'specral'", &m, &e);
    assert_non_null(strstr(e.at[0].hint, "\"spectral\""));
    read_method("{'grouping':'closed_form'}", &m, &e);
    assert_non_null(strstr(e.at[0].hint, "\"closed-form\""));
    read_method("{'anycount':true}", &m, &e);
    assert_non_null(strstr(e.at[0].hint, "\"any_count\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_are_those_of_the_methods_page),
        cmocka_unit_test(what_was_not_said_follows_from_what_was),
        cmocka_unit_test(what_makes_no_sense_is_refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
