/* The demo's report is made of the jobs' documents and nothing else. */
#include "tests/unit/cli/capture.h"

#include <math.h>

#include "cli/demo_report.h"

static const char *const texts[] = {
    "{\"id\":\"1\",\"state\":\"done\",\"spec\":{\"method\":\"gqa\",\"tokens\":{\"search\":0,"
    "\"fuse\":0,\"train\":200}},"
    "\"stages\":[{\"kind\":\"fuse\",\"state\":\"done\",\"seconds\":1},{\"kind\":\"train\","
    "\"state\":\"done\",\"seconds\":3}],"
    "\"result\":{\"loss\":{\"parent\":2.5,\"converted\":4.5,\"final\":2.9},"
    "\"kv_bytes_per_token\":{\"parent\":\"2048\",\"converted\":\"512\"},\"tokens_spent\":200,"
    "\"checkpoint\":\"/c/1\","
    "\"curve\":[{\"stage\":\"train\",\"trained_tokens\":100,\"loss\":3.0},{\"stage\":\"train\","
    "\"trained_tokens\":200,\"loss\":2.9}]}}",
    "{\"id\":\"2\",\"state\":\"done\",\"spec\":{\"method\":\"dha\",\"tokens\":{\"search\":20,"
    "\"fuse\":80,\"train\":100}},"
    "\"stages\":[{\"kind\":\"search\",\"state\":\"reused\",\"reused_from\":{\"job\":\"9\"},"
    "\"seconds\":2},"
    "{\"kind\":\"fuse\",\"state\":\"done\",\"seconds\":2}],"
    "\"result\":{\"loss\":{\"parent\":2.5,\"converted\":3.1,\"final\":2.7},"
    "\"kv_bytes_per_token\":{\"parent\":\"2048\",\"converted\":\"512\"},\"tokens_spent\":200,"
    "\"key_of\":[[0,0,1,1]],\"value_of\":[[0,1,0,1]],\"checkpoint\":\"/c/2\","
    "\"curve\":[{\"stage\":\"fuse\",\"trained_tokens\":80,\"loss\":2.6},{\"stage\":\"train\","
    "\"trained_tokens\":100,\"loss\":2.7}]}}",
    "{\"id\":\"3\",\"state\":\"failed\",\"spec\":{\"method\":\"spectral\",\"tokens\":{\"search\":"
    "30,\"fuse\":0,\"train\":200}},"
    "\"stages\":[],\"result\":null}",
    "{\"id\":\"4\",\"state\":\"done\",\"spec\":{\"method\":\"spectral-gqa\",\"tokens\":{"
    "\"search\":30,\"train\":200}},\"stages\":[],\"result\":{\"tokens_spent\":220}}"};
#define N_TEXTS ((int)(sizeof texts / sizeof *texts))

static cJSON *jobs[N_TEXTS];

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < N_TEXTS; i++) {
        jobs[i] = json_parse(texts[i], strlen(texts[i]), NULL, NULL);
        if (!jobs[i]) {
            return -1;
        }
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < N_TEXTS; i++) {
        cJSON_Delete(jobs[i]);
    }
    return 0;
}

static void only_training_counts_as_training_tokens(void **state)
{
    (void)state;
    assert_int_equal(demo_tokens_before(jobs[0], "train"), 0);
    assert_int_equal(demo_tokens_before(jobs[1], "search"), 0);
    assert_int_equal(demo_tokens_before(jobs[1], "fuse"), 20);
    assert_int_equal(demo_tokens_before(jobs[1], "train"), 100);
    assert_int_equal(demo_tokens_before(jobs[2], "train"), 0);
}

static void the_conversion_stands_on_the_curve_where_it_happened(void **state)
{
    (void)state;
    struct plot_series s[3] = {0};
    struct dha_err e = {0};
    assert_int_equal(demo_curves(jobs, 3, s, &e), 0);
    assert_int_equal(s[0].n, 3);
    assert_float_equal(s[0].x[0], 0, 0);
    assert_float_equal(s[0].y[0], 4.5, 0);
    assert_float_equal(s[0].x[2], 200, 0);
    assert_int_equal(s[1].n, 3);
    assert_float_equal(s[1].x[0], 100, 0);
    assert_float_equal(s[1].y[0], 2.6, 0);
    assert_float_equal(s[1].x[1], 100, 0);
    assert_float_equal(s[1].y[1], 3.1, 0);
    assert_float_equal(s[1].x[2], 200, 0);
    assert_int_equal(s[2].n, 0);
    for (int i = 0; i < 3; i++) {
        plot_series_finish(&s[i]);
    }
}

static void the_jump_of_the_curve_is_where_the_heads_are_tied(void **state)
{
    (void)state;
    double x = 0;
    double y = 0;
    assert_true(demo_jump(jobs, 3, &x, &y));
    assert_float_equal(x, 100, 0);
    assert_float_equal(y, 3.1, 0);
    assert_false(demo_jump(jobs, 1, &x, &y));
}

static void the_lowest_final_loss_is_marked(void **state)
{
    (void)state;
    struct capture c;
    assert_int_equal(demo_best(jobs, 3), 1);
    capture_begin(&c);
    demo_table(c.out, &ascii, jobs, N_TEXTS);
    capture_has(&c, "MHA parent");
    capture_has(&c, "dha *");
    capture_has(&c, "+0.2000");
    capture_has(&c, "25.0 %");
    capture_has(&c, "(dha: after 100 tokens of search and fusion)");
    capture_has(&c, "what the calibration only reads: spectral 30, spectral-gqa 20.");
    capture_has(&c, "failed");
    capture_has_not(&c, "gqa *");
    capture_end(&c);
}

static void maps_and_reuse_are_drawn_from_the_documents(void **state)
{
    (void)state;
    struct capture c;
    capture_begin(&c);
    demo_maps(c.out, &ascii, jobs, 3);
    capture_is(&c, "  dha\n    layer 0   K  a a b b   2 of 4\n              V  a b a b   2 of 4\n");
    capture_begin(&c);
    assert_true(demo_reuse(c.out, jobs, 3));
    capture_is(&c, "  job 2 (dha) reused search (job 9)\n");
    cJSON_DeleteItemFromArray(cJSON_GetObjectItem(jobs[1], "stages"), 1);
    capture_begin(&c);
    assert_true(demo_reuse(c.out, jobs, 3));
    capture_is(&c, "  job 2 (dha) reused every stage of job 9\n");
    capture_begin(&c);
    assert_false(demo_reuse(c.out, jobs, 1));
    capture_is(&c, "");
    capture_begin(&c);
    demo_next_steps(c.out, jobs, 3, "/demo");
    capture_has(&c, "dha export 2 --out my-model");
    capture_has(&c, "/c/1");
    capture_end(&c);
}

static void the_json_report_has_every_method_and_the_best(void **state)
{
    (void)state;
    cJSON *doc = demo_json(jobs, 3, "/p.png");
    assert_non_null(doc);
    assert_string_equal(json_str(doc, "best", ""), "dha");
    assert_string_equal(json_str(doc, "plot", ""), "/p.png");
    assert_float_equal(json_num(json_get(doc, "parent"), "loss", NAN), 2.5, 0);
    assert_int_equal(cJSON_GetArraySize(json_get(doc, "methods")), 3);
    assert_float_equal(json_num(json_at(doc, "methods.0"), "above_parent", NAN), 0.4, 1e-12);
    assert_string_equal(json_at(doc, "methods.1.reused.0")->valuestring, "search");
    assert_true(cJSON_IsNull(json_at(doc, "methods.2.loss")));
    cJSON_Delete(doc);
}

static void gnuplots_script_holds_the_data_and_survives_quotes(void **state)
{
    (void)state;
    double x[] = {0, 100};
    double y[] = {4.5, NAN};
    struct plot_series s = {.title = "it's", .x = x, .y = y, .n = 2};
    struct plot p = {.title = "t",
                     .x_label = "x",
                     .y_label = "y",
                     .series = &s,
                     .n = 1,
                     .level = true,
                     .level_at = 2.5,
                     .level_title = "parent",
                     .note = "it's here",
                     .note_x = 50,
                     .note_y = 3};
    struct capture c;
    capture_begin(&c);
    plot_script(c.out, &p, "a'b.png", &ascii);
    capture_has(&c, "set output 'a''b.png'\n");
    capture_has(&c, "title 'it''s'");
    capture_has(&c, "set label 'it''s here' at 50,3 ");
    capture_has(&c, "$d0 << EOD\n0 4.5\nEOD\n");
    capture_has(&c, "2.5 with lines dt 2 lw 2 lc rgb '#202020' title 'parent'");
    capture_end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_training_counts_as_training_tokens),
        cmocka_unit_test(the_conversion_stands_on_the_curve_where_it_happened),
        cmocka_unit_test(the_jump_of_the_curve_is_where_the_heads_are_tied),
        cmocka_unit_test(the_lowest_final_loss_is_marked),
        cmocka_unit_test(maps_and_reuse_are_drawn_from_the_documents),
        cmocka_unit_test(the_json_report_has_every_method_and_the_best),
        cmocka_unit_test(gnuplots_script_holds_the_data_and_survives_quotes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
