/* Benchmark lines as text, their tokens, and scores. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/worker/scratch.h"
#include "tests/unit/worker/small_model.h"
#include "worker/eval/tasks.h"

#define TOKENIZER DHA_DEMO "/hf/tokenizer.model"

static cJSON *line(const char *text)
{
    struct dha_err e = {0};
    cJSON *j = json_parse(text, strlen(text), NULL, &e);
    if (!j)
        fail_msg("%s", e.msg);
    return j;
}

static const struct {
    const char *task, *line;
    int n, gold;
    const char *context, *continuation; /* of the first choice */
    const char *ask, *reply;
    bool norm;
} forms[] = {
    {"arc-e",
     "{\"input_question\":\"Why?\",\"options\":[\"so\",\"no\",\"\\u00e9t\\u00e9\"],\"answer\":"
     "\"no\"}",
     3, 1, "Question: Why?\nAnswer:", " so", "Question: Why?\nAnswer:", " no", true},
    {"openbookqa",
     "{\"input_question\":\"Ice is\",\"options\":[\"cold\",\"hot\"],\"answer\":\"cold\"}", 2, 0,
     "Ice is", " cold", "Ice is", " cold", true},
    {"piqa", "{\"goal\":\"dresser\",\"sol1\":\"a \",\"sol2\":\"b\",\"answer\":\"b\"}", 2, 1,
     "Question: dresser\nAnswer:", " a ", "Question: dresser\nAnswer:", " b", true},
    {"siqa",
     "{\"context\":\"Al "
     "ran.\",\"question\":\"Why?\",\"answerA\":\"x\",\"answerB\":\"y\",\"answerC\":\"y\","
     "\"answer\":\"y\"}",
     3, 1, "Q: Al ran. Why?\nA:", " x", "Q: Al ran. Why?\nA:", " y", false},
    {"winogrande",
     "{\"sentence\":\"Al met Bo, so _ left. "
     "\",\"option1\":\"Al\",\"option2\":\"Bo\",\"answerKey\":\"Bo\"}",
     2, 1, "Al met Bo, so Al", " left.",
     "Al met Bo, so _ left. \nQuestion: Does _ stand for Al or Bo?\nAnswer:", " Bo", false},
    {"boolq", "{\"passage\":\"P.\",\"question\":\"is it\",\"labelKey\":\"true\"}", 2, 1,
     "P.\nQuestion: is it?\nAnswer:", " no", "P.\nQuestion: is it?\nAnswer:", " yes", false},
};

static void lines_are_worded_as_the_harness_words_them(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct question q;
        struct dha_err e = {0};
        enum task t;
        cJSON *j = line(forms[i].line);
        assert_int_equal(task_from_name(forms[i].task, &t, &e), 0);
        assert_string_equal(task_name(t), forms[i].task);
        assert_int_equal(task_has_norm(t), forms[i].norm);
        if (question_parse(j, t, &q, &e) != 0)
            fail_msg("%s", e.msg);
        assert_int_equal(q.n, forms[i].n);
        assert_int_equal(q.gold, forms[i].gold);
        assert_string_equal(q.context[0], forms[i].context);
        assert_string_equal(q.continuation[0], forms[i].continuation);
        assert_string_equal(question_ask(&q), forms[i].ask);
        assert_string_equal(question_reply(&q), forms[i].reply);
        question_finish(&q);
        cJSON_Delete(j);
    }
    struct question q;
    struct dha_err e;
    cJSON *j = line(forms[0].line);
    assert_int_equal(question_parse(j, TASK_ARC_E, &q, &e), 0);
    assert_int_equal(q.characters[0], 2);
    assert_int_equal(q.characters[2], 3); /* characters, not its five bytes */
    question_finish(&q);
    cJSON_Delete(j);
}

static void lines_that_are_no_questions_say_why(void **state)
{
    (void)state;
    static const struct {
        enum task task;
        const char *line, *says;
    } bad[] = {
        {TASK_ARC_E, "[]", "not an object"},
        {TASK_ARC_E, "{}", "\"answer\""},
        {TASK_ARC_E, "{\"input_question\":\"q\",\"answer\":\"a\",\"options\":[\"a\"]}", "2 to 8"},
        {TASK_ARC_E, "{\"input_question\":\"q\",\"answer\":\"a\",\"options\":[\"a\",1]}",
         "no string"},
        {TASK_ARC_E, "{\"input_question\":\"q\",\"answer\":\"c\",\"options\":[\"a\",\"b\"]}",
         "\"c\" is none of its options"},
        {TASK_BOOLQ, "{\"passage\":\"p\",\"question\":\"q\",\"labelKey\":\"maybe\"}",
         "neither true nor"},
        {TASK_WINOGRANDE,
         "{\"sentence\":\"no blank\",\"option1\":\"a\",\"option2\":\"b\",\"answerKey\":\"a\"}",
         "no _"},
        {TASK_WINOGRANDE,
         "{\"sentence\":\"_\",\"option1\":\"a\",\"option2\":\"b\",\"answerKey\":\"c\"}",
         "neither option1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct question q;
        struct dha_err e = {0};
        cJSON *j = line(bad[i].line);
        assert_int_equal(question_parse(j, bad[i].task, &q, &e), -1);
        assert_int_equal(e.code, DHA_E_INPUT);
        assert_int_equal(q.n, 0);
        if (!strstr(e.msg, bad[i].says))
            fail_msg("\"%s\" does not say %s", e.msg, bad[i].says);
        cJSON_Delete(j);
    }
    struct dha_err e = {0};
    enum task t;
    assert_int_equal(task_from_name("arc_e", &t, &e), -1);
    assert_non_null(strstr(e.hint, "did you mean \"arc-"));
}

static void examples_come_from_every_form(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct dha_err e = {0};
        char *text;
        size_t prompt;
        cJSON *j = line(forms[i].line);
        if (strcmp(forms[i].task, "openbookqa") == 0) /* told from ARC by its name only */
            json_put_str(j, "task_name", "openbookqa");
        if (question_example(j, &text, &prompt, &e) != 0)
            fail_msg("%s: %s", forms[i].line, e.msg);
        assert_int_equal(prompt, strlen(forms[i].ask));
        assert_memory_equal(text, forms[i].ask, prompt);
        assert_string_equal(text + prompt, forms[i].reply);
        free(text);
        cJSON_Delete(j);
    }
}

static void white_space_before_the_border_belongs_to_the_continuation(void **state)
{
    (void)state;
    assert_int_equal(question_context_end("a b"), 3);
    assert_int_equal(question_context_end("a \t\n"), 1);
    assert_int_equal(question_context_end("a\xc2\xa0\xe2\x80\x83"), 1); /* NBSP, em space */
    assert_int_equal(question_context_end("\xc3\xa9"), 2);
    assert_int_equal(question_context_end("  "), 0);
    assert_int_equal(question_context_end(""), 0);
}

static struct spm *tokenizer(void)
{
    struct dha_err e;
    struct spm *s;
    assert_int_equal(spm_open(&s, TOKENIZER, &e), 0);
    return s;
}

static void the_continuation_is_what_lies_behind_the_context_s_tokens(void **state)
{
    (void)state;
    struct spm *s = tokenizer();
    struct request_options o = {.positions = 64, .start = -1, .start_empty = 1};
    struct request r, shifted, cut;
    struct dha_err e = {0};
    int32_t *all, *before;
    size_t n, k;
    spm_encode(s, "The cat sat down", 16, &all, &n, &e);
    spm_encode(s, "The cat", 7, &before, &k, &e);
    assert_int_equal(request_make(s, "The cat", " sat down", &o, &r, &e), 0);
    assert_int_equal(r.n, n);
    assert_int_equal(r.n_cont, n - k);
    assert_memory_equal(r.tokens, all, n * sizeof *all);
    assert_false(r.cut);
    /* the space moves */
    assert_int_equal(request_make(s, "The cat ", "sat down", &o, &shifted, &e), 0);
    assert_int_equal(shifted.n_cont, r.n_cont);
    assert_memory_equal(shifted.tokens, r.tokens, n * sizeof *all);
    request_finish(&shifted);
    /* with BOS */
    o.start = 1;
    assert_int_equal(request_make(s, "The cat", " sat down", &o, &shifted, &e), 0);
    assert_int_equal(shifted.n, n + 1);
    assert_int_equal(shifted.tokens[0], 1);
    assert_int_equal(shifted.n_cont, r.n_cont);
    request_finish(&shifted);
    /* too long: the end is kept */
    o = (struct request_options){.positions = (int)n - 2, .start = -1, .start_empty = 1};
    assert_int_equal(request_make(s, "The cat", " sat down", &o, &cut, &e), 0);
    assert_int_equal(cut.n, n - 1);
    assert_true(cut.cut);
    assert_memory_equal(cut.tokens, all + 1, (n - 1) * sizeof *all);
    request_finish(&cut);
    o.positions = 1; /* not even the continuation */
    assert_int_equal(request_make(s, "The cat", " sat down", &o, &cut, &e), 0);
    assert_int_equal(cut.n, 2);
    assert_int_equal(cut.n_cont, 1);
    request_finish(&cut);
    /* an empty context begins with BOS, and without one there is none */
    o = (struct request_options){.positions = 64, .start = -1, .start_empty = 1};
    assert_int_equal(request_make(s, "", "The cat", &o, &cut, &e), 0);
    assert_int_equal(cut.n, k + 1);
    assert_int_equal(cut.n_cont, k);
    assert_int_equal(cut.tokens[0], 1);
    request_finish(&cut);
    o.start_empty = -1;
    assert_int_equal(request_make(s, "", "The cat", &o, &cut, &e), -1);
    request_finish(&r);
    free(before);
    free(all);
    spm_close(s);
}

/* Log-likelihoods against the loss of one row at a time. */
static void likelihoods_are_sums_of_token_losses(void **state)
{
    (void)state;
    enum { N = 40 };
    struct model *m = small_model("");
    struct comm alone;
    struct dha_err e = {0};
    struct request r[N];
    struct loglik got[N];
    int32_t tokens[N][64];
    comm_alone(&alone);
    for (int i = 0; i < N; i++) {
        int n = 2 + (i * 7) % 60;
        for (int t = 0; t < n; t++)
            tokens[i][t] = (int32_t)(corpus_random(1, 0, i, t, 0) % 37);
        r[i] = (struct request){tokens[i], n, 1 + i % (n - 1), false};
    }
    if (loglik_all(m, r, N, &alone, got, &e) != 0)
        fail_msg("%s", e.msg);
    for (int i = 0; i < N; i++) {
        struct run *run;
        float loss[64];
        int32_t targets[64];
        double sum = 0;
        assert_int_equal(run_new(&run, m, 1, r[i].n - 1, RUN_INFER, &e), 0);
        for (int t = 0; t < r[i].n - 1; t++)
            targets[t] = t + 1 >= r[i].n - r[i].n_cont ? tokens[i][t + 1] : -1;
        run_forward(run, tokens[i]);
        assert_int_equal(run_token_losses(run, targets, loss, &e), 0);
        for (int t = 0; t < r[i].n_cont; t++)
            sum -= (double)loss[t];
        assert_true(fabs(sum - got[i].sum) < 1e-4 * (1 + fabs(sum)));
        run_free(run);
    }
    model_free(m);
}

/* " yes" and " no" after one context are read from the same logits: the same numbers as one at a time. */
static void choices_of_one_token_share_their_context(void **state)
{
    (void)state;
    enum { N = 6 };
    struct model *m = small_model("");
    struct comm alone;
    struct dha_err e = {0};
    int32_t tokens[N][9];
    struct request r[N];
    struct loglik together[N], one;
    comm_alone(&alone);
    for (int i = 0; i < N; i++) {
        for (int t = 0; t < 9; t++)
            tokens[i][t] = t == 8 ? i : t + (i < 3 ? 0 : 9); /* two contexts of three choices */
        r[i] = (struct request){tokens[i], 9, 1, false};
    }
    assert_int_equal(loglik_all(m, r, N, &alone, together, &e), 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(loglik_all(m, &r[i], 1, &alone, &one, &e), 0);
        assert_true(fabs(one.sum - together[i].sum) < 1e-6);
        assert_int_equal(one.greedy, together[i].greedy);
        for (int k = 0; k < i; k++)
            assert_true(fabs(together[k].sum - together[i].sum) > 1e-6);
    }
    model_free(m);
}

/* Greedy decoding, then the same tokens as a continuation: each is the most likely; with one changed, not. */
static void greedy_means_that_decoding_gives_it(void **state)
{
    (void)state;
    struct model *m = small_model("");
    struct comm alone;
    struct dha_err e = {0};
    int32_t tokens[2][12] = {{3, 5, 7}};
    comm_alone(&alone);
    for (int n = 3; n < 12; n++) {
        double best = -INFINITY;
        for (int32_t v = 0; v < 37; v++) {
            struct loglik l;
            tokens[1][n] = v;
            memcpy(tokens[1], tokens[0], (size_t)n * sizeof tokens[0][0]);
            struct request one = {tokens[1], n + 1, 1, false};
            assert_int_equal(loglik_all(m, &one, 1, &alone, &l, &e), 0);
            if (l.sum > best) {
                best = l.sum;
                tokens[0][n] = v;
            }
        }
    }
    memcpy(tokens[1], tokens[0], sizeof tokens[0]);
    tokens[1][8] = (tokens[1][8] + 1) % 37;
    struct request two[2] = {{tokens[0], 12, 9, false}, {tokens[1], 12, 9, false}};
    struct loglik l[2];
    assert_int_equal(loglik_all(m, two, 2, &alone, l, &e), 0);
    assert_true(l[0].greedy);
    assert_false(l[1].greedy);
    model_free(m);
}

/* The demo model on two lines: scores add up, details say the same. */
static void scores_add_up(void **state)
{
    (void)state;
    struct kern_err ke;
    struct kern *k = kern_open("cpu", 1, &ke);
    struct model *m;
    struct dha_err e = {0};
    struct comm alone;
    struct task_score v;
    char *text = NULL;
    size_t size;
    FILE *f = fopen(scratch("q.jsonl"), "w");
    fprintf(
        f, "%s\n\n%s\n%s", forms[0].line, forms[0].line,
        "{\"input_question\":\"Who?\",\"options\":[\"he\",\"zzqx vvv\"],\"answer\":\"zzqx vvv\"}");
    fclose(f);
    comm_alone(&alone);
    assert_non_null(k);
    assert_int_equal(model_load(&m, k, DHA_DEMO "/hf", &e), 0);
    struct spm *s = tokenizer();
    struct task_options o = {.details = open_memstream(&text, &size), .model = "demo"};
    if (task_run(m, s, TASK_ARC_C, scratch("q.jsonl"), &o, &alone, &v, &e) != 0)
        fail_msg("%s", e.msg);
    fclose(o.details);
    assert_int_equal(v.questions, 3);
    int64_t right = 0, right_norm = 0;
    double first = 0;
    char *at = text;
    for (int i = 0; i < 3; i++) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        *end = '\0';
        cJSON *j = line(at);
        const cJSON *sums = json_get(j, "loglik");
        double a = cJSON_GetArrayItem(sums, 0)->valuedouble;
        if (i == 0)
            first = a;
        if (i == 1) /* the same question scores the same */
            assert_true(fabs(a - first) < 1e-9);
        assert_int_equal(json_int(j, "question", -1), i);
        right += json_int(j, "pick", -1) == json_int(j, "gold", -2);
        right_norm += json_int(j, "pick_norm", -1) == json_int(j, "gold", -2);
        cJSON_Delete(j);
        at = end + 1;
    }
    assert_true(fabs(v.acc - (double)right / 3) < 1e-12);
    assert_true(fabs(v.acc_norm - (double)right_norm / 3) < 1e-12);
    assert_true(fabs(v.acc_stderr - sqrt(v.acc * (1 - v.acc) / 2)) < 1e-12);
    /* one question has no standard error; a limit of one reads no more */
    o = (struct task_options){.limit = 1};
    assert_int_equal(task_run(m, s, TASK_ARC_C, scratch("q.jsonl"), &o, &alone, &v, &e), 0);
    assert_int_equal(v.questions, 1);
    assert_true(isnan(v.acc_stderr));
    /* shots change the context, so the scores; the file of another task is told */
    o = (struct task_options){.shots = 1};
    assert_int_equal(task_run(m, s, TASK_ARC_C, scratch("q.jsonl"), &o, &alone, &v, &e), 0);
    assert_int_equal(task_run(m, s, TASK_BOOLQ, scratch("q.jsonl"), &o, &alone, &v, &e), -1);
    assert_non_null(strstr(e.msg, "line 1"));
    assert_non_null(strstr(e.hint, "boolq"));
    free(text);
    spm_close(s);
    model_free(m);
    kern_close(k);
}

static void a_tokenizer_of_a_bigger_model_is_refused(void **state)
{
    (void)state;
    struct spm *s;
    struct dha_err e = {0};
    assert_int_equal(task_tokenizer(DHA_DEMO "/hf", NULL, 512, &s, &e), 0);
    spm_close(s);
    assert_int_equal(task_tokenizer("/nowhere", TOKENIZER, 511, &s, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_non_null(strstr(e.msg, "512 tokens"));
    spm_close(s);
    assert_int_equal(task_tokenizer(scratch_dir(), NULL, 512, &s, &e), -1);
    assert_non_null(strstr(e.msg, "tokenizer.model"));
}

static int set_up(void **state)
{
    return scratch_make(state) || small_open(state);
}

static int tear_down(void **state)
{
    return small_close(state) || scratch_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_worded_as_the_harness_words_them),
        cmocka_unit_test(lines_that_are_no_questions_say_why),
        cmocka_unit_test(examples_come_from_every_form),
        cmocka_unit_test(white_space_before_the_border_belongs_to_the_continuation),
        cmocka_unit_test(the_continuation_is_what_lies_behind_the_context_s_tokens),
        cmocka_unit_test(likelihoods_are_sums_of_token_losses),
        cmocka_unit_test(choices_of_one_token_share_their_context),
        cmocka_unit_test(greedy_means_that_decoding_gives_it),
        cmocka_unit_test(scores_add_up),
        cmocka_unit_test(a_tokenizer_of_a_bigger_model_is_refused),
    };
    return cmocka_run_group_tests_name("tasks", tests, set_up, tear_down);
}
