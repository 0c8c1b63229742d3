/* A sweep's document as cells, charts and a choice. */
#include "tests/unit/cli/capture.h"

#include <math.h>

#include "cli/sweep_view.h"

#define JOB(id, method, budget, seed, state, kv, final)                                            \
    "{\"id\":\"" id "\",\"name\":\"n\",\"method\":\"" method "\",\"budget\":" budget               \
    ",\"seed\":" seed ",\"state\":\"" state "\",\"result\":{\"loss\":{\"parent\":3,\"converted\""  \
    ":5,\"final\":" final "},\"tokens_spent\":100,\"kv_bytes_per_token\":{\"parent\":\"4096\","    \
    "\"converted\":" kv "},\"checkpoint\":\"/out/" id "\",\"curve\":[{\"stage\":\"train\","        \
    "\"tokens\":50,\"loss\":4.5}]}}"

static const char sweep[] = "{\"id\":\"1\",\"name\":\"s\",\"jobs\":[" JOB(
    "1", "gqa", "0.5", "1", "done", "\"2048\"",
    "4.0") "," JOB("2", "gqa", "0.5", "2", "done", "\"2048\"",
                   "4.2") "," JOB("3", "spectral", "0.5", "1", "done", "\"2048\"",
                                  "3.5") "," JOB("4", "spectral", "0.25", "1", "done", "\"1024\"",
                                                 "3.9") "," JOB("5", "gqa", "0.25", "1", "running",
                                                                "null", "null") "]}";

static cJSON *doc(const char *text)
{
    struct dha_err e = {0};
    cJSON *j = json_parse(text, strlen(text), NULL, &e);
    if (!j) {
        fail_msg("%s", e.msg);
    }
    return j;
}

static void seeds_become_a_mean_and_a_standard_deviation(void **state)
{
    (void)state;
    struct dha_err e;
    struct sweep_cells c;
    cJSON *j = doc(sweep);
    assert_int_equal(sweep_cells_read(j, &c, &e), 0);
    assert_int_equal(c.n, 4);
    assert_string_equal(c.at[0].method, "gqa"); /* the larger budget first */
    assert_true(fabs(c.at[0].final_loss - 4.1) < 1e-12);
    assert_true(fabs(c.at[0].spread - 0.1414213562) < 1e-9); /* sqrt(2 * 0.1^2 / (2 - 1)) */
    assert_string_equal(c.at[0].ids, "1,2");
    assert_true(isnan(c.at[1].spread));
    assert_false(c.at[0].best);
    assert_true(c.at[1].best && c.at[1].front && c.at[3].front);
    assert_false(c.at[0].front);
    assert_string_equal(c.at[2].state, "running");
    assert_true(isnan(c.at[2].final_loss) && c.at[2].parent == 3);
    assert_int_equal(c.at[0].curve.n, 2); /* an evaluation and the end, each the mean of two */
    assert_true(c.at[0].curve.y[0] == 4.5 && fabs(c.at[0].curve.y[1] - 4.1) < 1e-12);
    sweep_cells_finish(&c);
    cJSON_Delete(j);
}

static void a_limit_is_a_loss_or_bytes(void **state)
{
    (void)state;
    struct sweep_limit l;
    struct dha_err e;
    static const struct {
        const char *text;
        bool bytes;
        double value;
    } good[] = {{"3.80", false, 3.8}, {"512B", true, 512},      {"1.5KiB", true, 1536},
                {"2KB", true, 2000},  {"1 MiB", true, 1048576}, {"1kib", true, 1024}};
    static const char *const bad[] = {"", "B", "-1", "0", "nan", "inf", "3 apples", "1e400"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(sweep_limit_parse(good[i].text, &l, &e), 0);
        assert_true(l.bytes == good[i].bytes && l.value == good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(sweep_limit_parse(bad[i], &l, &e), -1);
        assert_int_equal(e.code, DHA_E_USAGE);
    }
}

static void the_best_is_the_cheapest_under_a_loss_and_the_lowest_under_bytes(void **state)
{
    (void)state;
    struct dha_err e;
    cJSON *j = doc(sweep);
    const struct {
        struct sweep_limit limit;
        const char *id; /* NULL: none */
    } cases[] = {{{false, 4.0}, "4"},  {{false, 3.9}, "4"}, {{false, 3.8}, "3"},
                 {{false, 3.4}, NULL}, {{true, 4096}, "3"}, {{true, 2047}, "4"},
                 {{true, 1024}, "4"},  {{true, 1023}, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const cJSON *best = sweep_best(j, &cases[i].limit, &e);
        if (cases[i].id) {
            assert_non_null(best);
            assert_string_equal(json_str(best, "id", ""), cases[i].id);
        } else {
            assert_null(best);
            assert_int_equal(e.code, DHA_E_FAILED);
        }
    }
    cJSON_Delete(j);
    j = doc("{\"jobs\":[]}");
    assert_null(sweep_best(j, &cases[0].limit, &e));
    assert_non_null(strstr(e.msg, "done yet"));
    cJSON_Delete(j);
}

static void csv_has_a_line_a_job_and_quotes_what_needs_it(void **state)
{
    (void)state;
    cJSON *j = doc(
        "{\"jobs\":[{\"id\":\"7\",\"name\":\"a,\\\"b\\\"\",\"method\":\"gqa\",\"budget\":0.5,"
        "\"seed\":3,\"state\":\"queued\",\"result\":null}]}");
    struct capture c;
    capture_begin(&c);
    sweep_csv(c.out, j);
    capture_is(&c, "job,name,method,budget,seed,state,kv_bytes_per_token,loss_parent,"
                   "loss_converted,loss_final,tokens_spent,reason,checkpoint\n"
                   "7,\"a,\"\"b\"\"\",gqa,0.5,3,queued,,,,,,,\n");
    cJSON_Delete(j);
}

static void points_on_the_front_are_capitals_and_rings(void **state)
{
    (void)state;
    double ax[] = {1, 2}, ay[] = {4, 3}, bx[] = {2, 3}, by[] = {3.5, NAN};
    struct plot_series s[] = {{.title = "25 %", .x = ax, .y = ay, .n = 2},
                              {.title = "<&\">", .x = bx, .y = by, .n = 2}};
    const int group[] = {0, 1};
    const char *const names[] = {"one", "t<w>o"};
    struct chart chart = {.title = "T",
                          .x_label = "x",
                          .y_label = "loss",
                          .series = s,
                          .group = group,
                          .n = 2,
                          .names = names,
                          .n_names = 2,
                          .level = NAN};
    assert_true(chart_on_front(&chart, 1, 4) && chart_on_front(&chart, 2, 3));
    assert_false(chart_on_front(&chart, 2, 3.5));
    struct capture c;
    capture_begin(&c);
    chart_text(c.out, &(struct fmt){.width = 60}, &chart);
    fflush(c.out);
    assert_non_null(strchr(c.text, 'A'));
    assert_non_null(strstr(c.text, "b t<w>o"));
    fclose(c.out);
    free(c.text);
    capture_begin(&c);
    chart_svg(c.out, &chart, 1, "h & i");
    fflush(c.out);
    assert_non_null(strstr(c.text, "h &amp; i"));
    assert_non_null(strstr(c.text, "t&lt;w&gt;o"));
    assert_non_null(strstr(c.text, "class='front'"));
    assert_null(strstr(c.text, "nan"));
    fclose(c.out);
    free(c.text);
}

static void charts_without_points_or_with_one_are_drawn_too(void **state)
{
    (void)state;
    double x[] = {5}, y[] = {2};
    struct plot_series s = {.x = x, .y = y, .n = 0};
    const int group[] = {0};
    const char *const names[] = {"m"};
    struct chart chart = {.title = "T",
                          .x_label = "x",
                          .y_label = "y",
                          .series = &s,
                          .group = group,
                          .n = 1,
                          .names = names,
                          .n_names = 1,
                          .level = NAN};
    struct capture c;
    capture_begin(&c);
    chart_text(c.out, &(struct fmt){.width = 60}, &chart);
    capture_is(&c, "");
    s.n = 1;
    capture_begin(&c);
    chart_text(c.out, &(struct fmt){.width = 10}, &chart);
    chart_svg(c.out, &chart, 1, "");
    fflush(c.out);
    assert_non_null(strchr(c.text, 'A'));
    assert_null(strstr(c.text, "nan"));
    assert_null(strstr(c.text, "inf"));
    fclose(c.out);
    free(c.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_become_a_mean_and_a_standard_deviation),
        cmocka_unit_test(a_limit_is_a_loss_or_bytes),
        cmocka_unit_test(the_best_is_the_cheapest_under_a_loss_and_the_lowest_under_bytes),
        cmocka_unit_test(csv_has_a_line_a_job_and_quotes_what_needs_it),
        cmocka_unit_test(points_on_the_front_are_capitals_and_rings),
        cmocka_unit_test(charts_without_points_or_with_one_are_drawn_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
