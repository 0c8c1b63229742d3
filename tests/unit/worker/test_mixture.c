/* Mixtures of corpora, and instruct data as rows of whole examples. */
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
#include "worker/data/corpus.h"

#define TOKENIZER DHA_DEMO "/hf/tokenizer.model"
#define BOS       1
#define EOS       2

static void put_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static struct corpus *open_one(const char *path, const struct corpus_options *o)
{
    struct dha_err e = {0};
    struct corpus *c;
    char *p = (char *)(uintptr_t)path;
    if (corpus_open(&c, &p, 1, o, &e) < 0)
        fail_msg("%s", e.msg);
    return c;
}

/* ---- mixtures ---- */

/* n tokens, all `token`. */
static struct corpus *constant(const char *name, uint16_t token, int n)
{
    const struct corpus_options o = {.format = "u16", .vocab = 512, .bos = -1};
    uint16_t t[512];
    for (int i = 0; i < n; i++)
        t[i] = token;
    put_file(scratch(name), t, (size_t)n * sizeof t[0]);
    return open_one(scratch(name), &o);
}

static struct corpus *three(void)
{
    struct dha_err e = {0};
    struct corpus *c;
    struct corpus_domain d[] = {{"a", 0.1, constant("a.u16", 10, 50)},
                                {"b", 0.2, constant("b.u16", 20, 60)},
                                {"c", 0.7, constant("c.u16", 30, 70)}};
    assert_int_equal(corpus_mix(&c, d, 3, &e), 0);
    return c;
}

static void domains_are_drawn_by_their_weights(void **state)
{
    (void)state;
    enum { N = 20000 };
    struct corpus *c = three();
    struct dha_err e;
    int32_t ids[4], targets[4];
    int count[4] = {0};
    for (int i = 0; i < N; i++) {
        assert_int_equal(corpus_draw(c, 3, STREAM_TRAIN, i / 50, i % 50, 4, ids, targets, &e), 0);
        for (int t = 1; t < 4; t++) /* a sequence is of one domain */
            assert_int_equal(ids[t], ids[0]);
        count[ids[0] / 10]++;
    }
    static const double weight[] = {0, 0.1, 0.2, 0.7};
    for (int d = 1; d <= 3; d++) { /* five standard deviations of a binomial share */
        double p = weight[d], slack = 5 * sqrt(p * (1 - p) / N);
        assert_true(fabs((double)count[d] / N - p) < slack);
    }
    assert_int_equal(corpus_tokens(c), 180);
    assert_int_equal(corpus_windows(c, 4), 0);
    assert_int_equal(corpus_domains(c), 3);
    assert_string_equal(corpus_domain_at(c, 1).name, "b");
    assert_true(fabs(corpus_domain_at(c, 1).weight - 0.2) < 1e-12);
    assert_int_equal(corpus_windows(corpus_domain_at(c, 1).corpus, 4), 14);
    corpus_close(c);
}

static void a_draw_is_the_same_whoever_asks_and_when(void **state)
{
    (void)state;
    struct corpus *c = three(), *again = three();
    struct dha_err e;
    int32_t a[4], b[4], t[4];
    int same = 0;
    for (int step = 0; step < 40; step++) {
        for (int i = 7; i >= 0; i--) { /* in any order */
            corpus_draw(c, 1, STREAM_TRAIN, step, i, 4, a, t, &e);
            corpus_draw(again, 1, STREAM_TRAIN, step, i, 4, b, t, &e);
            assert_memory_equal(a, b, sizeof a);
            corpus_draw(again, 2, STREAM_TRAIN, step, i, 4, b, t, &e);
            same += a[0] == b[0];
        }
    }
    assert_true(same < 320); /* another seed, another order */
    corpus_close(again);
    corpus_close(c);
}

static void a_place_in_a_domain_is_what_the_domain_alone_would_draw(void **state)
{
    (void)state;
    const struct corpus_options o = {.format = "u16", .vocab = 512, .bos = -1};
    uint16_t tokens[400];
    struct dha_err e;
    struct corpus *c;
    int32_t a[8], b[8], t[8];
    for (int i = 0; i < 400; i++)
        tokens[i] = (uint16_t)i;
    put_file(scratch("count.u16"), tokens, sizeof tokens);
    struct corpus_domain d[] = {{"only", 1, open_one(scratch("count.u16"), &o)}};
    struct corpus *alone = open_one(scratch("count.u16"), &o);
    assert_int_equal(corpus_mix(&c, d, 1, &e), 0);
    for (int i = 0; i < 50; i++) {
        corpus_draw(c, 5, STREAM_SEARCH, 2, i, 8, a, t, &e);
        corpus_draw(alone, 5, STREAM_SEARCH, 2, i, 8, b, t, &e);
        assert_memory_equal(a, b, sizeof a);
    }
    corpus_close(alone);
    corpus_close(c);
}

static void a_domain_that_is_too_short_is_named(void **state)
{
    (void)state;
    struct corpus *c = three();
    struct dha_err e = {0};
    assert_int_equal(corpus_check(c, 49, &e), 0);
    assert_int_equal(corpus_check(c, 55, &e), -1);
    assert_non_null(strstr(e.msg, "domain a"));
    corpus_close(c);
}

/* ---- instruct data ---- */

static struct corpus_options instruct(void)
{
    static char cache[512];
    snprintf(cache, sizeof cache, "%s/cache", scratch_dir());
    return (struct corpus_options){.format = "instruct",
                                   .tokenizer = TOKENIZER,
                                   .cache_dir = cache,
                                   .vocab = 512,
                                   .bos = BOS,
                                   .eos = EOS};
}

static struct corpus *examples(const char *lines)
{
    struct corpus_options o = instruct();
    put_file(scratch("i.jsonl"), lines, strlen(lines));
    return open_one(scratch("i.jsonl"), &o);
}

/* BOS prompt answer EOS of one example, and how many of them are the prompt (with BOS). */
static size_t tokens_of(const char *prompt, const char *text, int32_t *out, size_t *n_prompt)
{
    struct dha_err e;
    struct spm *s;
    int32_t *ids, *before;
    size_t n;
    assert_int_equal(spm_open(&s, TOKENIZER, &e), 0);
    assert_int_equal(spm_encode(s, text, strlen(text), &ids, &n, &e), 0);
    assert_int_equal(spm_encode(s, prompt, strlen(prompt), &before, n_prompt, &e), 0);
    out[0] = BOS;
    memcpy(out + 1, ids, n * sizeof *ids);
    out[n + 1] = EOS;
    *n_prompt += 1;
    free(ids);
    free(before);
    spm_close(s);
    return n + 2;
}

static void rows_are_made_of_whole_examples(void **state)
{
    (void)state;
    struct corpus *c = examples("{\"prompt\":\"The cat\",\"answer\":\"sat down.\"}\n"
                                "{\"prompt\":\"A dog \",\"answer\":\"ran\"}\n");
    int32_t one[64], two[64], row[129];
    size_t p1, p2, n1 = tokens_of("The cat", "The cat sat down.", one, &p1);
    size_t n2 = tokens_of("A dog", "A dog ran", two, &p2); /* the space is the answer's */
    assert_true(corpus_has_classes(c));
    assert_int_equal(corpus_tokens(c), n1 + n2);

    /* both fit, and then a part of the first one again */
    int seq = (int)(n1 + n2) + 2;
    int32_t ids[128], targets[128];
    uint8_t classes[128];
    struct dha_err e;
    bool seen[2] = {false};
    for (int i = 0; i < 8; i++) {
        assert_int_equal(corpus_draw(c, 1, STREAM_TRAIN, 0, i, seq, ids, targets, &e), 0);
        assert_int_equal(corpus_draw_classes(c, 1, STREAM_TRAIN, 0, i, seq, classes, &e), 0);
        bool first = memcmp(ids, one, n1 * sizeof *one) == 0;
        seen[first] = true;
        const int32_t *a = first ? one : two, *b = first ? two : one;
        size_t na = first ? n1 : n2, nb = first ? n2 : n1, pa = first ? p1 : p2;
        size_t pb = first ? p2 : p1;
        memcpy(row, a, na * sizeof *a);
        memcpy(row + na, b, nb * sizeof *b);
        memcpy(row + na + nb, a, 3 * sizeof *a);
        for (int t = 0; t < seq; t++) {
            size_t next = (size_t)t + 1;
            bool in_a = next<na, in_b = next> na && next < na + nb;
            int class = in_a   ? (next < pa ? CORPUS_PROMPT : CORPUS_ANSWER)
                        : in_b ? (next - na < pb ? CORPUS_PROMPT : CORPUS_ANSWER)
                               : CORPUS_TEXT;
            assert_int_equal(ids[t], row[t]);
            assert_int_equal(classes[t], class);
            assert_int_equal(targets[t], class == CORPUS_TEXT ? -1 : row[next]);
        }
    }
    assert_true(seen[0] && seen[1]);
    corpus_close(c);
}

static void evaluation_counts_every_answer_once(void **state)
{
    (void)state;
    struct corpus *c = examples("{\"prompt\":\"One\",\"answer\":\"two\"}\n"
                                "{\"prompt\":\"Three four\",\"answer\":\"five\"}\n"
                                "{\"prompt\":\"Six\",\"answer\":\"seven eight\"}\n");
    static const char *const prompts[] = {"One", "Three four", "Six"};
    static const char *const texts[] = {"One two", "Three four five", "Six seven eight"};
    struct dha_err e;
    int32_t ids[64], targets[64], tokens[64];
    size_t answers = 0, prompt;
    for (int i = 0; i < 3; i++) {
        size_t n = tokens_of(prompts[i], texts[i], tokens, &prompt);
        answers += n - prompt;
    }
    for (int seq = 24; seq <= 64; seq += 8) {
        size_t counted = 0;
        for (int64_t i = 0; i < corpus_windows(c, seq); i++) {
            assert_int_equal(corpus_window(c, i, seq, ids, targets, &e), 0);
            for (int t = 0; t < seq; t++)
                counted += targets[t] >= 0;
        }
        assert_int_equal(corpus_overlong(c, seq), 0);
        assert_int_equal(counted, answers);
    }
    assert_int_equal(corpus_window(c, corpus_windows(c, 24), 24, ids, targets, &e), -1);
    corpus_close(c);
}

static void an_example_that_is_too_long_keeps_its_end(void **state)
{
    (void)state;
    struct corpus *c = examples("{\"prompt\":\"A long prompt about nothing in particular\","
                                "\"answer\":\"yes\"}\n");
    int32_t all[64], ids[8], targets[8];
    uint8_t classes[8];
    size_t p, n = tokens_of("A long prompt about nothing in particular",
                            "A long prompt about nothing in particular yes", all, &p);
    struct dha_err e;
    assert_true(n > 9);
    assert_int_equal(corpus_overlong(c, 8), 1);
    assert_int_equal(corpus_draw(c, 1, STREAM_TRAIN, 0, 0, 8, ids, targets, &e), 0);
    assert_int_equal(corpus_draw_classes(c, 1, STREAM_TRAIN, 0, 0, 8, classes, &e), 0);
    for (int t = 0; t < 8; t++) {
        assert_int_equal(ids[t], all[n - 9 + (size_t)t]);
        assert_int_equal(targets[t], all[n - 8 + (size_t)t]);
        assert_int_equal(classes[t], n - 8 + (size_t)t < p ? CORPUS_PROMPT : CORPUS_ANSWER);
    }
    corpus_close(c);
}

static void held_out_examples_are_whole_and_no_longer_drawn(void **state)
{
    (void)state;
    char lines[2048], *at = lines;
    struct corpus *tail;
    struct dha_err e = {0};
    int32_t ids[32], targets[32];
    for (int i = 0; i < 20; i++)
        at += sprintf(at, "{\"prompt\":\"go %c\",\"answer\":\"%c\"}\n", 'A' + i, 'A' + i);
    struct corpus *c = examples(lines);
    int64_t all = corpus_tokens(c);
    assert_int_equal(corpus_hold_out(c, all / 4, &tail, &e), 0);
    assert_int_equal(corpus_tokens(c) + corpus_tokens(tail), all);
    assert_int_equal(corpus_window(tail, 0, 16, ids, targets, &e), 0);
    assert_int_equal(ids[0], BOS);
    int32_t first_held = -1;
    for (int t = 1; t < 16 && first_held < 0; t++)
        if (targets[t] == EOS)
            first_held = targets[t - 1]; /* the letter of its answer */
    assert_true(first_held >= 0);
    for (int i = 0; i < 200; i++) { /* in the other part, no row counts that answer */
        corpus_draw(c, 1, STREAM_TRAIN, i, 0, 16, ids, targets, &e);
        for (int t = 0; t < 16; t++)
            assert_int_not_equal(targets[t], first_held);
    }
    corpus_close(tail);
    corpus_close(c);
}

static void bad_examples_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"{\"prompt\":\"x\"}", "\"answer\""},
        {"{\"prompt\":3,\"answer\":\"y\"}", "\"prompt\""},
        {"{\"prompt\":\"x\",\"answer\":\" \\n\"}", "empty"},
        {"{\"question\":\"x\"}", "no known task"},
        {"[]", "not an object"},
        {"{\"prompt\":", "JSON"},
    };
    struct corpus_options o = instruct();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[256];
        struct dha_err e = {0};
        struct corpus *c;
        char *path = (char *)(uintptr_t)scratch("bad.jsonl");
        snprintf(text, sizeof text, "{\"prompt\":\"a\",\"answer\":\"b\"}\n\n%s\n", bad[i].line);
        put_file(path, text, strlen(text));
        assert_int_equal(corpus_open(&c, &path, 1, &o, &e), -1);
        assert_int_equal(e.code, DHA_E_INPUT);
        if (!strstr(e.msg, "line 3") || !strstr(e.msg, bad[i].says))
            fail_msg("\"%s\" does not say line 3 and %s", e.msg, bad[i].says);
        assert_non_null(strstr(e.hint, "prompt"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(domains_are_drawn_by_their_weights),
        cmocka_unit_test(a_draw_is_the_same_whoever_asks_and_when),
        cmocka_unit_test(a_place_in_a_domain_is_what_the_domain_alone_would_draw),
        cmocka_unit_test(a_domain_that_is_too_short_is_named),
        cmocka_unit_test(rows_are_made_of_whole_examples),
        cmocka_unit_test(evaluation_counts_every_answer_once),
        cmocka_unit_test(an_example_that_is_too_long_keeps_its_end),
        cmocka_unit_test(held_out_examples_are_whole_and_no_longer_drawn),
        cmocka_unit_test(bad_examples_are_named),
    };
    return cmocka_run_group_tests_name("mixture", tests, scratch_make, scratch_remove);
}
