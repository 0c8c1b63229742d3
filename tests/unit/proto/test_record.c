/* Journal records: written and read back, bit for bit; what is no record is refused. */
#include <math.h>

#include "proto/record.h"
#include "unit.h"

static const struct record all[] = {
    {.type = REC_HELLO,
     .time = 1700000000.123456,
     .hello = {.stage = "fuse",
               .backend = "cpu \"avx512\"\n",
               .version = "0.1.0",
               .host = "n\xc3\xa4",
               .attempt = 3,
               .ranks = 2,
               .threads = 1,
               .pid = 4242,
               .steps = 60,
               .resumed_from = -1}},
    {.type = REC_PHASE, .time = 2, .phase = {.name = "costs", .done = 7, .total = 56}},
    {.type = REC_PROGRESS,
     .time = 3,
     .progress = {.step = 12,
                  .steps = 60,
                  .tokens = 49152,
                  .loss = 0.1 + 0.2,
                  .lm = 1.0 / 3,
                  .kl = 5e-324,
                  .lr = 2.9999999999999997e-4,
                  .grad_norm = 1e300,
                  .tokens_per_s = 1234.5,
                  .comm_ms = 0,
                  .eta_s = 9,
                  .fusion_loss = NAN,
                  .lambda = NAN,
                  .threshold = NAN}},
    {.type = REC_PROGRESS,
     .time = 3,
     .progress = {.step = 1, .loss = 2, .fusion_loss = 0.5, .lambda = 1, .threshold = 0.98}},
    {.type = REC_HEAD_BUDGET,
     .time = 4,
     .head_budget =
         {.layer = 3, .kind = "value", .heads = 2, .n_map = 8, .map = {0, 1, 0, 1, 1, 1, 0, 0}}},
    {.type = REC_CHECKPOINT,
     .time = 5,
     .checkpoint = {.step = 30,
                    .bytes = INT64_C(1) << 60,
                    .path = "/o/ckpt/step-30",
                    .digest = "ab12",
                    .valid_loss = 3.7352}},
    {.type = REC_CHECKPOINT,
     .time = 5,
     .checkpoint = {.step = 31, .path = "/o/ckpt/step-31", .digest = "ab13", .valid_loss = NAN}},
    {.type = REC_EVAL,
     .time = 6,
     .eval = {.name = "valid",
              .loss = 3.7352,
              .tokens = 65536,
              .windows = 256,
              .step = 30,
              .trained_tokens = 122880}},
    {.type = REC_ERROR,
     .time = 7,
     .error = {.code = "diverged", .message = "loss is nan\tat step 3", .hint = "lower \\lr"}},
    {.type = REC_TASK,
     .time = 9,
     .task = {.model = "final",
              .task = "arc-e",
              .questions = 570,
              .acc = 1.0 / 3,
              .acc_stderr = 0.0197,
              .acc_norm = NAN,
              .acc_norm_stderr = NAN,
              .exact_match = 0}},
    {.type = REC_BYE,
     .time = 8,
     .bye = {.code = "ok",
             .tokens = 245760,
             .seconds = 12.25,
             .peak_rss = 1 << 28,
             .kv_parent = 4096,
             .kv_converted = 1024,
             .output = "/o/model"}},
    {.type = REC_LAYER,
     .time = 8,
     .layer = {.name = "fusion_loss", .layer = 3, .kind = "key", .step = 12, .value = 1.0 / 3}},
    {.type = REC_UNKNOWN, .time = 9},
};

static void every_record_reads_back_as_it_was_written(void **state)
{
    (void)state;
    bool seen[REC_UNKNOWN + 1] = {false};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char a[RECORD_MAX], b[RECORD_MAX];
        struct record r;
        struct dha_err e = {0};
        int n = record_format(&all[i], a, sizeof a);
        assert_true(n > 0 && a[n - 1] == '\n' && a[n] == '\0');
        assert_ptr_equal(strchr(a, '\n'), a + n - 1); /* one line, whatever the texts hold */
        if (record_parse(a, (size_t)n - 1, &r, &e) != 0)
            fail_msg("%s%s", a, e.msg);
        assert_int_equal(r.type, all[i].type);
        assert_int_equal(record_format(&r, b, sizeof b), n);
        assert_string_equal(a, b);
        seen[r.type] = true;
    }
    for (int i = 0; i <= REC_UNKNOWN; i++)
        assert_true(seen[i]);
}

static void numbers_come_back_bit_for_bit(void **state)
{
    (void)state;
    char line[RECORD_MAX];
    struct record r;
    struct dha_err e = {0};
    int n = record_format(&all[2], line, sizeof line);
    assert_int_equal(record_parse(line, (size_t)n, &r, &e), 0); /* the newline is white space */
    assert_memory_equal(&r.progress.loss, &all[2].progress.loss, sizeof(double));
    assert_memory_equal(&r.progress.lm, &all[2].progress.lm, sizeof(double));
    assert_memory_equal(&r.progress.kl, &all[2].progress.kl, sizeof(double));
    assert_memory_equal(&r.progress.lr, &all[2].progress.lr, sizeof(double));
    assert_memory_equal(&r.time, &all[2].time, sizeof(double));
    assert_true(isnan(r.progress.fusion_loss));
    assert_null(strstr(line, "fusion_loss"));
    n = record_format(&all[5], line, sizeof line);
    assert_int_equal(record_parse(line, (size_t)n - 1, &r, &e), 0);
    assert_int_equal(r.checkpoint.bytes, INT64_C(1) << 60);
    n = record_format(&all[4], line, sizeof line);
    assert_int_equal(record_parse(line, (size_t)n - 1, &r, &e), 0);
    assert_int_equal(r.head_budget.n_map, 8);
    assert_memory_equal(r.head_budget.map, all[4].head_budget.map, 8 * sizeof(int));
}

static void a_loss_that_is_not_finite_is_null_and_comes_back_as_not_a_number(void **state)
{
    (void)state;
    char line[RECORD_MAX];
    struct record r = {.type = REC_PROGRESS,
                       .time = INFINITY,
                       .progress = {.step = 1, .loss = INFINITY, .lm = NAN, .fusion_loss = NAN}};
    int n = record_format(&r, line, sizeof line);
    assert_non_null(strstr(line, "\"loss\":null"));
    assert_int_equal(record_parse(line, (size_t)n - 1, &r, NULL), 0);
    assert_true(isnan(r.progress.loss) && isnan(r.progress.lm));
}

static void optional_fields_have_their_defaults(void **state)
{
    (void)state;
    struct record r;
    const char *line = "{\"t\":\"progress\",\"time\":1,\"step\":5,\"new_field\":[1]}";
    assert_int_equal(record_parse(line, strlen(line), &r, NULL), 0);
    assert_int_equal(r.progress.step, 5);
    assert_int_equal(r.progress.tokens, 0);
    assert_true(r.progress.loss == 0 && isnan(r.progress.lambda));
    line = "{\"t\":\"of_the_future\",\"time\":1,\"x\":{\"y\":1}}";
    assert_int_equal(record_parse(line, strlen(line), &r, NULL), 0);
    assert_int_equal(r.type, REC_UNKNOWN);
    assert_string_equal(record_type_name(REC_BYE), "bye");
    assert_string_equal(record_type_name((enum record_type)99), "unknown");
}

static void what_is_no_record_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"", "not valid JSON"},
        {"hello", "not valid JSON"},
        {"{\"t\":\"phase\",\"time\":1,\"name\":\"x\"", "not valid JSON"},
        {"[]", "\"t\" is missing"},
        {"{\"time\":1}", "\"t\" is missing"},
        {"{\"t\":1,\"time\":1}", "\"t\" is not a string"},
        {"{\"t\":\"phase\",\"name\":\"x\"}", "\"time\" is missing"},
        {"{\"t\":\"phase\",\"time\":1}", "phase record: \"name\" is missing"},
        {"{\"t\":\"phase\",\"time\":1,\"name\":3}", "\"name\" is not a string"},
        {"{\"t\":\"progress\",\"time\":1}", "\"step\" is missing"},
        {"{\"t\":\"progress\",\"time\":1,\"step\":1.5}", "\"step\" is not a whole number"},
        {"{\"t\":\"progress\",\"time\":1,\"step\":-1}", "negative"},
        {"{\"t\":\"progress\",\"time\":1,\"step\":1,\"loss\":\"x\"}", "\"loss\" is not a number"},
        {"{\"t\":\"hello\",\"time\":1,\"stage\":\"s\",\"attempt\":1e12}", "out of range"},
        {"{\"t\":\"head_budget\",\"time\":1,\"layer\":0,\"kind\":\"query\",\"heads\":1}", "kind"},
        {"{\"t\":\"head_budget\",\"time\":1,\"layer\":-1,\"kind\":\"key\",\"heads\":1}", "layer"},
        {"{\"t\":\"head_budget\",\"time\":1,\"layer\":0,\"kind\":\"key\",\"heads\":1,\"map\":[1]}",
         "none of the kept heads"},
        {"{\"t\":\"head_budget\",\"time\":1,\"layer\":0,\"kind\":\"key\",\"heads\":1,\"map\":3}",
         "not a list"},
        {"{\"t\":\"eval\",\"time\":1,\"name\":\"a-name-that-is-quite-a-bit-longer-than-its-field\","
         "\"loss\":1}",
         "too long"},
        {"{\"t\":\"phase\",\"time\":1,\"name\":[[[[[[[[[1]]]]]]]]]}", "levels of nesting"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct record r;
        struct dha_err e = {0};
        assert_int_equal(record_parse(bad[i].line, strlen(bad[i].line), &r, &e), -1);
        assert_int_equal(e.code, DHA_E_PROTOCOL);
        if (!strstr(e.msg, bad[i].says))
            fail_msg("%s: %s", bad[i].line, e.msg);
    }
    char *big = malloc(RECORD_MAX + 2);
    assert_non_null(big);
    memset(big, ' ', RECORD_MAX + 2);
    struct record r;
    struct dha_err e = {0};
    assert_int_equal(record_parse(big, RECORD_MAX + 1, &r, &e), -1);
    assert_int_equal(e.code, DHA_E_PROTOCOL);
    free(big);
}

static void long_messages_are_cut_and_long_paths_are_not(void **state)
{
    (void)state;
    char line[4096], text[1001];
    struct record r;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    snprintf(line, sizeof line,
             "{\"t\":\"error\",\"time\":1,\"code\":\"io_error\",\"message\":\"%s\"}", text);
    assert_int_equal(record_parse(line, strlen(line), &r, NULL), 0);
    assert_int_equal(strlen(r.error.message), sizeof r.error.message - 1);
    snprintf(line, sizeof line,
             "{\"t\":\"checkpoint\",\"time\":1,\"step\":1,\"digest\":\"d\",\"path\":\"/%s\"}",
             text);
    assert_int_equal(record_parse(line, strlen(line), &r, NULL), -1); /* half a path is a lie */
}

static void a_line_that_does_not_fit_is_not_written(void **state)
{
    (void)state;
    char line[RECORD_MAX], small[64];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        int n = record_format(&all[i], line, sizeof line);
        for (size_t cap = 1; cap <= (size_t)n && cap <= sizeof small; cap++)
            assert_int_equal(record_format(&all[i], small, cap), -1);
        assert_int_equal(record_format(&all[i], line, (size_t)n), -1); /* no room for the NUL */
        assert_int_equal(record_format(&all[i], line, (size_t)n + 1), n);
    }
    struct record r = {.type = (enum record_type)99};
    assert_int_equal(record_format(&r, line, sizeof line), -1);
    /* bytes that are no text become '?': the line stays a record */
    r = (struct record){.type = REC_ERROR,
                        .time = 1,
                        .error = {.code = "x",
                                  .message = "a\xff"
                                             "b"}};
    int n = record_format(&r, line, sizeof line);
    assert_int_equal(record_parse(line, (size_t)n - 1, &r, NULL), 0);
    assert_string_equal(r.error.message, "a?b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_record_reads_back_as_it_was_written),
        cmocka_unit_test(numbers_come_back_bit_for_bit),
        cmocka_unit_test(a_loss_that_is_not_finite_is_null_and_comes_back_as_not_a_number),
        cmocka_unit_test(optional_fields_have_their_defaults),
        cmocka_unit_test(what_is_no_record_is_refused),
        cmocka_unit_test(long_messages_are_cut_and_long_paths_are_not),
        cmocka_unit_test(a_line_that_does_not_fit_is_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
