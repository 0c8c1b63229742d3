/* A job document as lines for people. */
#include "tests/unit/cli/capture.h"

#include "cli/view.h"

static cJSON *doc(const char *text)
{
    struct dha_err e = {0};
    cJSON *j = json_parse(text, strlen(text), NULL, &e);
    if (!j) {
        fail_msg("%s", e.msg);
    }
    return j;
}

static const char running[] =
    "{\"id\":\"7\",\"name\":\"try\",\"state\":\"running\",\"dir\":\"/s/jobs/7\","
    "\"spec\":{\"model\":\"/m\",\"method\":\"spectral\",\"budget\":0.25},\"stages\":["
    "{\"kind\":\"search\",\"state\":\"reused\",\"reused_from\":{\"job\":\"3\",\"stage\":\"11\"},"
    "\"progress\":{}},"
    "{\"kind\":\"fuse\",\"state\":\"done\",\"seconds\":2.5,\"progress\":{\"phase\":\"refit\","
    "\"done\":3,\"total\":4}},"
    "{\"kind\":\"train\",\"state\":\"running\",\"attempt\":2,\"progress\":{\"step\":32,\"steps\":"
    "60,\"loss\":2.71,"
    "\"tokens_per_s\":45200,\"eta_s\":12}},"
    "{\"kind\":\"eval\",\"state\":\"pending\",\"progress\":{}}],\"result\":null}";

static const char failed[] =
    "{\"id\":\"8\",\"name\":\"bad\",\"state\":\"failed\",\"dir\":\"/s/jobs/8\",\"stages\":["
    "{\"kind\":\"train\",\"state\":\"failed\",\"dir\":\"/s/jobs/8/train\",\"progress\":{},"
    "\"error\":{\"code\":\"diverged\",\"message\":\"the loss is NaN at step 12\",\"hint\":\"lower "
    "optim.lr\"}}],"
    "\"result\":{\"error\":null}}";

static void the_watch_view_has_a_line_a_stage(void **state)
{
    (void)state;
    static const double losses[] = {3, 2.71};
    cJSON *job = doc(running);
    struct capture c;
    capture_begin(&c);
    view_watch(c.out, &ascii, job, losses, 2);
    capture_is(&c, "job 7  try  spectral at 25 % of the cache  running\n"
                   "  search  reused    from job 3\n"
                   "  fuse    done      [####################]   2.5 s\n"
                   "  train   running   [##########..........] 32/60 steps  loss 2.7100  45.2k "
                   "tok/s  eta 12 s  attempt 2\n"
                   "  eval    pending   \n"
                   "  loss    #_  3.0000 -> 2.7100\n");
    cJSON_Delete(job);
}

static void the_plain_line_says_what_runs(void **state)
{
    (void)state;
    cJSON *job = doc(running);
    struct capture c;
    capture_begin(&c);
    view_plain_line(c.out, job);
    capture_is(&c, "job 7 try: running  train 32/60 steps  loss 2.7100  45.2k tok/s  eta 12 s\n");
    cJSON_Delete(job);
}

static void a_job_whose_stages_all_wait_says_so(void **state)
{
    (void)state;
    cJSON *job = doc("{\"id\":\"5\",\"name\":\"n\",\"state\":\"running\",\"stages\":["
                     "{\"kind\":\"fuse\",\"state\":\"done\",\"progress\":{\"step\":4,\"steps\":4}},"
                     "{\"kind\":\"train\",\"state\":\"ready\",\"progress\":{}}]}");
    struct capture c;
    capture_begin(&c);
    view_plain_line(c.out, job);
    capture_is(&c, "job 5 n: running  waiting for slots\n");
    cJSON_Delete(job);
    job = doc("{\"id\":\"5\",\"name\":\"n\",\"state\":\"running\",\"stages\":["
              "{\"kind\":\"train\",\"state\":\"ready\",\"waits_for\":\"3\"}]}");
    capture_begin(&c);
    view_plain_line(c.out, job);
    capture_is(&c, "job 5 n: running  train waits for the same stage of job 3\n");
    cJSON_Delete(job);
}

static void distillation_is_not_called_a_loss(void **state)
{
    (void)state;
    cJSON *job = doc(
        "{\"id\":\"5\",\"name\":\"n\",\"state\":\"running\","
        "\"spec\":{\"recovery\":{\"kl\":1,\"lm\":0}},\"stages\":[{\"kind\":\"train\","
        "\"state\":\"running\",\"progress\":{\"step\":1,\"steps\":4,\"loss\":0.0776}}]}");
    struct capture c;
    capture_begin(&c);
    view_plain_line(c.out, job);
    capture_is(&c, "job 5 n: running  train 1/4 steps  kl 0.0776\n");
    cJSON_Delete(job);
}

static void the_reused_stages_are_named_with_their_job(void **state)
{
    (void)state;
    cJSON *job = doc(running);
    struct capture c;
    capture_begin(&c);
    assert_true(view_reused(c.out, job));
    capture_is(&c, "search (job 3)");
    cJSON_Delete(job);
}

static void a_failed_job_ends_with_its_error_and_where_to_look(void **state)
{
    (void)state;
    cJSON *job = doc(failed);
    struct dha_err e = {0};
    assert_int_equal(view_outcome(job, &e), -1);
    assert_int_equal(e.code, DHA_E_DIVERGED);
    assert_non_null(strstr(e.msg, "train"));
    assert_non_null(strstr(e.msg, "NaN at step 12"));
    assert_non_null(strstr(e.hint, "lower optim.lr"));
    assert_non_null(strstr(e.hint, "dha logs 8"));
    assert_null(strstr(e.hint, "dha retry"));
    assert_non_null(strstr(e.hint, "/s/jobs/8/train"));
    cJSON_Delete(job);
}

static void a_cancelled_job_is_no_success(void **state)
{
    (void)state;
    cJSON *job = doc(
        "{\"id\":\"9\",\"state\":\"cancelled\",\"cancel_reason\":\"wrong corpus\",\"stages\":[]}");
    struct dha_err e = {0};
    assert_int_equal(view_outcome(job, &e), -1);
    assert_int_equal(e.code, DHA_E_CANCELLED);
    assert_non_null(strstr(e.msg, "wrong corpus"));
    cJSON_Delete(job);
    job = doc("{\"id\":\"9\",\"state\":\"done\",\"stages\":[]}");
    assert_int_equal(view_outcome(job, &e), 0);
    cJSON_Delete(job);
}

static void the_result_shows_only_what_is_known(void **state)
{
    (void)state;
    cJSON *job = doc(
        "{\"result\":{\"loss\":{\"parent\":2.5,\"converted\":3.5,\"final\":null},"
        "\"kv_bytes_per_token\":{\"parent\":\"2048\",\"converted\":\"512\"},\"tokens_spent\":1000,"
        "\"key_heads\":[2,1],\"key_of\":null,\"checkpoint\":null,\"head_budget\":0.25}}");
    struct capture c;
    capture_begin(&c);
    view_result(c.out, &ascii, job);
    capture_has(&c, "parent 2.5000");
    capture_has(&c, "3.5000  (+1.0000)");
    capture_has(&c, "512 bytes a token, was 2048: 25.0 %");
    capture_has(&c, "key heads          2 1  (per layer)");
    capture_has_not(&c, "final");
    capture_has_not(&c, "checkpoint");
    capture_has_not(&c, "share");
    capture_end(&c);
    cJSON_Delete(job);
}

static void what_runs_has_spent_tokens_too(void **state)
{
    (void)state;
    cJSON *job = doc("{\"state\":\"running\",\"stages\":["
                     "{\"kind\":\"fuse\",\"state\":\"done\",\"tokens\":100},"
                     "{\"kind\":\"train\",\"state\":\"running\",\"tokens\":0,"
                     "\"progress\":{\"tokens\":4096}}],"
                     "\"result\":{\"tokens_spent\":100}}");
    struct capture c;
    capture_begin(&c);
    view_result(c.out, &ascii, job);
    capture_is(&c, "  tokens spent       4196\n");
    cJSON_Delete(job);
}

static void documents_with_nothing_in_them_are_shown_too(void **state)
{
    (void)state;
    static const char *const odd[] = {
        "{}", "{\"stages\":null,\"result\":5}",
        "{\"stages\":[{}],\"state\":\"running\",\"result\":{}}",
        "{\"stages\":[5],\"state\":\"failed\",\"result\":{\"error\":{}}}"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        cJSON *job = doc(odd[i]);
        struct dha_err e = {0};
        struct capture c;
        capture_begin(&c);
        view_show(c.out, &utf8, job);
        view_watch(c.out, &colour, job, NULL, 0);
        view_job_line(c.out, &ascii, job, 5);
        view_plain_line(c.out, job);
        capture_has(&c, "job ?");
        capture_end(&c);
        assert_int_equal(view_outcome(job, &e), -1);
        cJSON_Delete(job);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_watch_view_has_a_line_a_stage),
        cmocka_unit_test(the_plain_line_says_what_runs),
        cmocka_unit_test(a_job_whose_stages_all_wait_says_so),
        cmocka_unit_test(distillation_is_not_called_a_loss),
        cmocka_unit_test(the_reused_stages_are_named_with_their_job),
        cmocka_unit_test(a_failed_job_ends_with_its_error_and_where_to_look),
        cmocka_unit_test(a_cancelled_job_is_no_success),
        cmocka_unit_test(the_result_shows_only_what_is_known),
        cmocka_unit_test(what_runs_has_spent_tokens_too),
        cmocka_unit_test(documents_with_nothing_in_them_are_shown_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
