/* Methods: presets, overrides, and combinations that are refused with their reason. */
#include "proto/budget.h"
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
          .regress = true,
          .slow_planes = true,
          .any_count = true}},
        {"spectral-gqa",
         {.name = "spectral-gqa",
          .merge = MERGE_SPECTRAL,
          .uniform = true,
          .refit = true,
          .regress = true,
          .slow_planes = true}},
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
        assert_int_equal(m.regress, want[i].m.regress);
        assert_int_equal(m.slow_planes, want[i].m.slow_planes);
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
    /* heads are put into the groups' order, so the result stays plain GQA */
    assert_int_equal(
        read_method("{'preset':'align-gqa','grouping':'aligned-value','criterion':'cos'}", &m, &e),
        0);
    assert_true(m.uniform && m.criterion == CRITERION_COS);
    assert_int_equal(
        read_method("{'preset':'spectral','grouping':'aligned-key','budget':'uniform'}", &m, &e),
        0);
    assert_false(m.any_count);
    /* keys and values apart: an adaptive budget may tell them apart, plain GQA cannot hold them */
    assert_int_equal(read_method("{'preset':'aligned-dha','grouping':'aligned'}", &m, &e), 0);
    assert_true(m.budget == BUDGET_ADAPTIVE && !m.uniform && !m.any_count);
    assert_int_equal(
        read_method("{'preset':'align-gqa','grouping':'aligned','any_count':true}", &m, &e), 0);
    assert_true(m.any_count && !m.uniform);
    assert_int_equal(read_method("{'preset':'dha','allocation':'greedy','annealing':true}", &m, &e),
                     0);
    assert_true(m.annealing && m.allocation == ALLOCATE_GREEDY);
    assert_int_equal(read_method("{'preset':'aligned-dha','budget':'uniform'}", &m, &e), 0);
    assert_int_equal(m.allocation, ALLOCATE_KNAPSACK);
}

/* Every part and flag survives being stored. */
static void a_method_reads_back_as_it_was_written(void **state)
{
    (void)state;
    static const char *const methods[] = {
        "{'preset':'align-gqa','grouping':'aligned-key','criterion':'cos','annealing':true,"
        "'masks':'released','norm_restore':false}",
        "{'preset':'dha','allocation':'greedy','tie':'contract','rope_tied':true,"
        "'progressive':true}",
        "{'preset':'aligned-dha','scalar_omega':true,'any_count':true}",
    };
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        char text[320];
        struct job_spec s, back;
        struct spec_errors e;
        snprintf(text, sizeof text, "{'model':'/m','data':{'train':['/a.u16']},'method':%s}",
                 methods[i]);
        cJSON *doc = parse_quoted(text);
        assert_int_equal(spec_parse(doc, NULL, &s, &e), 0);
        cJSON *j = spec_to_json(&s);
        assert_int_equal(spec_parse(j, NULL, &back, &e), 0);
        assert_memory_equal(&back.method, &s.method, /* all but the padding at the end */
                            offsetof(struct method, norm_restore) + sizeof(bool));
        cJSON_Delete(j);
        cJSON_Delete(doc);
        spec_finish(&back);
        spec_finish(&s);
    }
}

/* A sweep over budgets, merges and allocations compares the heads once. */
static void the_similarity_search_depends_on_what_it_compares_only(void **state)
{
    (void)state;
    static const struct {
        const char *method;
        bool same;
    } cases[] = {
        {"{'preset':'align-gqa','grouping':'aligned-value','merge':'mean'}", true},
        {"{'preset':'align-gqa','grouping':'aligned-value','norm_restore':false}", true},
        {"{'preset':'align-gqa','grouping':'aligned-value','masks':'released'}", true},
        {"{'preset':'align-gqa','grouping':'aligned-value','criterion':'cos'}", false},
        {"{'preset':'align-gqa','grouping':'aligned-key'}", false},
        {"{'preset':'align-gqa','grouping':'aligned-value','annealing':true}", false},
        {"{'preset':'align-gqa','grouping':'aligned-value','uniform':false}", true},
        {"{'preset':'spectral','grouping':'aligned-value','budget':'uniform'}", true},
    };
    char *want = NULL;
    for (size_t i = 0; i < 1 + sizeof cases / sizeof *cases; i++) {
        char text[320];
        struct job_spec s;
        struct spec_errors e;
        snprintf(text, sizeof text, "{'model':'/m','data':{'train':['/a.u16']},'method':%s}",
                 i ? cases[i - 1].method : "{'preset':'align-gqa','grouping':'aligned-value'}");
        cJSON *doc = parse_quoted(text);
        assert_int_equal(spec_parse(doc, NULL, &s, &e), 0);
        cJSON *j = spec_stage_inputs(&s, STAGE_SEARCH);
        char *got = json_text(j);
        if (i && (strcmp(got, want) == 0) != cases[i - 1].same)
            fail_msg("%s: %s against %s", cases[i - 1].method, got, want);
        if (!i)
            want = got;
        else
            free(got);
        cJSON_Delete(j);
        cJSON_Delete(doc);
        spec_finish(&s);
    }
    free(want);
}

/* Before any work: an eighth of 16 heads is 2 and of 24 is 3; 3 does not divide 20, so it is 4 there. */
static void a_greedy_allocation_needs_an_eighth_of_the_heads(void **state)
{
    (void)state;
    static const struct {
        int heads;
        double budget;
        bool fits;
    } cases[] = {{16, 0.12, false}, {16, 0.125, true}, {24, 0.12, false}, {24, 0.125, true},
                 {20, 0.19, false}, {20, 0.2, true},   {8, 0.125, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_spec s = {.budget = cases[i].budget};
        struct dha_err e = {0};
        assert_int_equal(method_preset("dha", &s.method), 0);
        assert_int_equal(budget_check(&s, 4, cases[i].heads, &e), 0); /* the knapsack goes below */
        s.method.allocation = ALLOCATE_GREEDY;
        assert_int_equal(budget_check(&s, 4, cases[i].heads, &e), cases[i].fits ? 0 : -1);
        if (!cases[i].fits)
            assert_true(strstr(e.msg, "greedy") && strstr(e.hint, "smallest budget"));
    }
}

static void a_budget_that_cannot_be_met_says_which_can(void **state)
{
    (void)state;
    static const struct {
        double budget;
        const char *says;
    } cases[] = {{0.375, "no divisor of them"},
                 {0.3, "no whole number"},
                 {0.001, "no whole number"},
                 {1e-300, "no whole number"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_spec s = {.budget = cases[i].budget};
        struct dha_err e = {0};
        assert_int_equal(method_preset("gqa", &s.method), 0);
        assert_int_equal(budget_check(&s, 4, 8, &e), -1);
        assert_non_null(strstr(e.msg, cases[i].says));
        assert_non_null(strstr(e.hint, "method spectral, which takes any from 0.125 on"));
    }
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
        {"{'grouping':'aligned-value','budget':'adaptive','merge':'fusion'}", "$.method",
         "one grouping for K and V"},
        {"{'preset':'align-gqa','grouping':'aligned-key','any_count':true,'uniform':false}",
         "$.method", "equal size"},
        {"{'preset':'align-gqa','grouping':'aligned','uniform':true}", "$.method", "equal"},
        {"{'preset':'spectral','exchange':true}", "$.method", "before the regression"},
        {"{'preset':'gqa','criterion':'cos'}", "$.method", "compare"},
        {"{'preset':'gqa','allocation':'greedy'}", "$.method", "adaptive budget"},
        {"{'preset':'gqa','annealing':true}", "$.method", "distances"},
        {"{'preset':'dha','annealing':true,'any_count':true}", "$.method", "unequal"},
        {"{'preset':'spectral','alignment':'procrustes'}", "$.method", "rotations"},
        {"{'preset':'gqa','masks':'released'}", "$.method", "masks"},
        {"{'preset':'align-gqa','tie':'contract'}", "$.method", "fusion operator"},
        {"{'preset':'dha','rope_tied':true,'scalar_omega':true}", "$.method", "share omega"},
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
        cmocka_unit_test(a_method_reads_back_as_it_was_written),
        cmocka_unit_test(the_similarity_search_depends_on_what_it_compares_only),
        cmocka_unit_test(a_greedy_allocation_needs_an_eighth_of_the_heads),
        cmocka_unit_test(a_budget_that_cannot_be_met_says_which_can),
        cmocka_unit_test(what_makes_no_sense_is_refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
