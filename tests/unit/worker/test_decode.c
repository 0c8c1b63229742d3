/* A sequence fed through the KV cache in any pieces has the logits of one run over the whole; and what is generated from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/unit/worker/small_model.h"
#include "worker/generate/generate.h"

enum { VOCAB = 37, LONG = 24 };

static struct dha_err err;

static void tokens(int32_t *ids, int n)
{
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(corpus_random(5, 0, 0, i, 0) % VOCAB);
}

/* One run over the whole: [n, VOCAB], malloc'ed. */
static float *whole(struct model *m, const int32_t *ids, int n)
{
    struct run *r;
    size_t all = (size_t)n * VOCAB;
    float *x = malloc(all * sizeof *x);
    struct kern_buf *b = m->k->ops->alloc(m->k, KERN_F32, all);
    assert_non_null(x);
    assert_int_equal(run_new(&r, m, 1, n, RUN_INFER, &err), 0);
    run_forward(r, ids);
    run_logits(r, 0, (size_t)n, kern_at(b, 0));
    m->k->ops->download(m->k, x, kern_at(b, 0), all);
    m->k->ops->free(m->k, b);
    run_free(r);
    return x;
}

static void check_pieces(const char *extra, int n, const int *pieces, int n_pieces)
{
    struct model *m = small_model(extra);
    struct decode *d;
    int32_t ids[400];
    int at = 0;
    m->cfg.max_positions = 512;
    tokens(ids, n);
    float *want = whole(m, ids, n), *have = malloc((size_t)n * VOCAB * sizeof *have);
    assert_non_null(have);
    assert_int_equal(decode_new(&d, m, n + 3, &err), 0);
    for (int round = 0; round < 2; round++, decode_reset(d)) { /* also after a reset */
        for (at = 0; at < n;) {
            int piece = pieces[at % n_pieces] < n - at ? pieces[at % n_pieces] : n - at;
            assert_int_equal(
                decode_feed(d, ids + at, piece, have + (size_t)at * VOCAB, piece, &err), 0);
            at += piece;
            assert_int_equal(decode_length(d), at);
        }
        for (size_t i = 0; i < (size_t)n * VOCAB; i++)
            if (!(fabsf(want[i] - have[i]) < 2e-5F))
                fail_msg("%s: logit %zu of token %zu: %g, %g", extra, i % VOCAB, i / VOCAB,
                         (double)want[i], (double)have[i]);
        memset(have, 0, (size_t)n * VOCAB * sizeof *have);
    }
    decode_free(d);
    model_free(m);
    free(want);
    free(have);
}

static const char *const kinds[] = {
    "",
    ",\"num_key_value_heads\":2",
    ",\"num_key_value_heads\":1,\"attention_bias\":true",
    ",\"attention_bias\":true,\"rope_theta\":500.0",
    ",\"model_type\":\"dha\",\"key_of\":[[0,1,0,2],[0,0,0,0]],\"value_of\":[[0,0,1,1],[2,1,0,3]]",
    ",\"model_type\":\"dha\",\"attention_bias\":true,\"key_of\":[[1,0,0,1],[0,1,2,2]],\"value_of\":"
    "[[0,"
    "0,0,0],[1,0,1,0]]",
};
#define KINDS (sizeof kinds / sizeof *kinds)

static void any_pieces_give_the_logits_of_the_whole(void **state)
{
    (void)state;
    static const int one[] = {1}, all[] = {LONG}, mixed[] = {5, 1, 1, 3, 7, 2};
    for (size_t i = 0; i < KINDS; i++) {
        check_pieces(kinds[i], LONG, one, 1);
        check_pieces(kinds[i], LONG, all, 1);
        check_pieces(kinds[i], LONG, mixed, 6);
    }
    /* long prompts go through a model in several pieces of its own */
    static const int longs[] = {330, 1};
    check_pieces(kinds[4], 331, longs, 2);
}

static void the_cache_has_the_promised_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < KINDS; i++) {
        struct model *m = small_model(kinds[i]);
        struct decode *d;
        assert_int_equal(decode_new(&d, m, 10, &err), 0);
        assert_int_equal(decode_cache_bytes(d), 10 * model_config_kv_bytes(&m->cfg, 4));
        decode_free(d);
        model_free(m);
    }
}

static void what_does_not_fit_is_an_error_and_changes_nothing(void **state)
{
    (void)state;
    struct model *m = small_model("");
    struct decode *d;
    int32_t ids[8], bad = VOCAB;
    float a[VOCAB], b[VOCAB];
    tokens(ids, 8);
    assert_int_equal(decode_new(&d, m, 65, &err), -1); /* the model has 64 positions */
    assert_int_equal(decode_new(&d, m, 6, &err), 0);
    assert_int_equal(decode_feed(d, ids, 7, a, 1, &err), -1);
    assert_int_equal(decode_feed(d, &bad, 1, a, 1, &err), -1);
    assert_int_equal(decode_length(d), 0);
    assert_int_equal(decode_feed(d, ids, 5, a, 1, &err), 0);
    assert_int_equal(decode_feed(d, ids + 5, 2, a, 1, &err), -1);
    assert_int_equal(decode_feed(d, ids + 5, 1, a, 1, &err), 0);
    decode_reset(d);
    assert_int_equal(decode_feed(d, ids, 6, b, 1, &err), 0);
    assert_true(small_distance(a, b, VOCAB) < 2e-6);
    decode_free(d);
    model_free(m);
}

/* ---- sampling -------------------------------------------------------------------------------------- */

static int32_t draw(const struct sampler *s, const float *z, int n, int64_t index)
{
    int32_t t = -1;
    assert_int_equal(sample(s, z, n, index, &t, &err), 0);
    assert_in_range(t, 0, n - 1);
    return t;
}

static void temperature_zero_takes_the_first_of_the_largest(void **state)
{
    (void)state;
    struct sampler s = {.top_p = 1};
    assert_int_equal(draw(&s, (float[]){1, 3, 2, 3}, 4, 0), 1);
}

/* Frequencies over 20000 draws against softmax: off by less than five standard deviations (at most 0.0036 each). */
static void check_shares(const struct sampler *s, const float *z, int n, const double *want)
{
    int count[8] = {0};
    for (int i = 0; i < 20000; i++)
        count[draw(s, z, n, i)]++;
    for (int i = 0; i < n; i++) {
        double have = count[i] / 20000.0;
        if (want[i] == 0 ? count[i] != 0 : fabs(have - want[i]) > 0.018)
            fail_msg("token %d: %g of draws, should be %g", i, have, want[i]);
    }
}

static void draws_follow_softmax_cut_by_top_k_and_top_p(void **state)
{
    (void)state;
    /* probabilities 0.1 0.4 0.2 0.3 */
    const float z[] = {logf(0.1F), logf(0.4F), logf(0.2F), logf(0.3F)};
    struct sampler s = {.temperature = 1, .top_p = 1, .seed = 3};
    check_shares(&s, z, 4, (double[]){0.1, 0.4, 0.2, 0.3});
    s.top_k = 2;
    check_shares(&s, z, 4, (double[]){0, 4 / 7.0, 0, 3 / 7.0});
    s.top_k = 0;
    s.top_p = 0.75; /* 0.4 + 0.3 is too little: the third is in */
    check_shares(&s, z, 4, (double[]){0, 4 / 9.0, 2 / 9.0, 3 / 9.0});
    s.top_p = 1e-9; /* at least one */
    check_shares(&s, z, 4, (double[]){0, 1, 0, 0});
    s.top_p = 1;
    s.temperature = 0.5; /* squares */
    check_shares(&s, z, 4, (double[]){1 / 30.0, 16 / 30.0, 4 / 30.0, 9 / 30.0});
}

static void a_seed_is_a_text_and_another_seed_another(void **state)
{
    (void)state;
    struct sampler s = {.temperature = 1, .top_p = 1, .seed = 3}, t = s;
    float z[32] = {0};
    int same = 0;
    t.seed = 4;
    for (int i = 0; i < 64; i++) {
        assert_int_equal(draw(&s, z, 32, i), draw(&s, z, 32, i));
        same += draw(&s, z, 32, i) == draw(&t, z, 32, i);
    }
    assert_true(same < 20);
}

static void bad_samplers_and_bad_logits_are_errors(void **state)
{
    (void)state;
    static const struct sampler bad[] = {
        {.temperature = -1, .top_p = 1},  {.temperature = 1, .top_p = 0},
        {.temperature = 1, .top_p = 1.5}, {.temperature = 1, .top_p = 1, .top_k = -1},
        {.temperature = 0, .top_p = 0.5}, {.temperature = 0, .top_p = 1, .top_k = 3}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(sampler_check(&bad[i], &err), -1);
    struct sampler s = {.temperature = 1, .top_p = 1}, nan_t = s;
    nan_t.temperature = NAN;
    assert_int_equal(sampler_check(&nan_t, &err), -1);
    assert_int_equal(sampler_check(&s, &err), 0);
    int32_t t;
    assert_int_equal(sample(&s, (float[]){1, NAN}, 2, 0, &t, &err), -1);
    s.temperature = 0;
    assert_int_equal(sample(&s, (float[]){INFINITY, 1}, 2, 0, &t, &err), -1);
}

/* ---- generation ------------------------------------------------------------------------------------ */

static int count_tokens(void *arg, int32_t token, struct dha_err *e)
{
    (void)token;
    (void)e;
    return --*(int *)arg == 0;
}

/* Greedy by whole runs: what a cache must not change. */
static void slow_greedy(struct model *m, const int32_t *prompt, int n, int more, int32_t *out)
{
    int32_t ids[64];
    memcpy(ids, prompt, (size_t)n * sizeof *ids);
    for (int i = 0; i < more; i++) {
        float *z = whole(m, ids, n + i);
        struct sampler s = {.top_p = 1};
        out[i] = ids[n + i] = draw(&s, z + (size_t)(n + i - 1) * VOCAB, VOCAB, 0);
        free(z);
    }
}

static void generation_ends_where_it_should(void **state)
{
    (void)state;
    struct model *m = small_model(kinds[4]);
    struct decode *d;
    struct generation g;
    struct sampler s = {.top_p = 1};
    int32_t ids[6], want[12];
    int few = 2, at = 0;
    tokens(ids, 6);
    slow_greedy(m, ids, 6, 12, want);
    assert_int_equal(decode_new(&d, m, 12, &err), 0);

    assert_int_equal(generate(d, ids, 6, &s, 5, -1, NULL, NULL, &g, &err), 0);
    assert_int_equal(g.end, END_TOKENS);
    assert_int_equal(g.n, 5);
    assert_memory_equal(g.tokens, want, 5 * sizeof *want);
    free(g.tokens);

    /* a cache of 12: the prompt, six more, and the token after those */
    assert_int_equal(generate(d, ids, 6, &s, 50, -1, NULL, NULL, &g, &err), 0);
    assert_int_equal(g.end, END_CONTEXT);
    assert_int_equal(g.n, 7);
    assert_memory_equal(g.tokens, want, 7 * sizeof *want);
    free(g.tokens);

    while (at < 4 && want[at] != want[3])
        at++;
    assert_int_equal(generate(d, ids, 6, &s, 5, want[3], NULL, NULL, &g, &err), 0);
    assert_int_equal(g.end, END_EOS);
    assert_int_equal(g.n, at);
    free(g.tokens);

    assert_int_equal(generate(d, ids, 6, &s, 5, -1, count_tokens, &few, &g, &err), 0);
    assert_int_equal(g.end, END_STOPPED);
    assert_int_equal(g.n, 2);
    free(g.tokens);

    assert_int_equal(generate(d, ids, 0, &s, 5, -1, NULL, NULL, &g, &err), -1);
    decode_free(d);
    assert_int_equal(decode_new(&d, m, 4, &err), 0);
    assert_int_equal(generate(d, ids, 6, &s, 5, -1, NULL, NULL, &g, &err), -1); /* too long */
    decode_free(d);
    model_free(m);
}

/* ---- text ------------------------------------------------------------------------------------------ */

static void text_comes_in_whole_characters_and_adds_up(void **state)
{
    (void)state;
    static const char text[] =
        "Once upon a time, caf\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x99\x82 end";
    struct spm *spm;
    struct stream t;
    int32_t *ids;
    size_t n;
    char so_far[512] = "", *piece, *all;
    int held = 0;
    assert_int_equal(spm_open(&spm, DHA_DEMO "/hf/tokenizer.model", &err), 0);
    assert_int_equal(spm_encode(spm, text, strlen(text), &ids, &n, &err), 0);
    assert_true(n > 8);
    assert_int_equal(stream_begin(&t, spm, ids, 2, &err), 0);
    for (size_t i = 2; i < n; i++) {
        assert_int_equal(stream_token(&t, ids[i], &piece, &err), 0);
        held += !*piece;
        assert_null(strstr(piece, "\xEF\xBF\xBD"));
        strcat(so_far, piece);
        free(piece);
    }
    assert_int_equal(stream_last(&t, &piece, &err), 0);
    strcat(so_far, piece);
    free(piece);
    assert_int_equal(stream_text(&t, &all, &err), 0);
    assert_string_equal(so_far, all);
    assert_string_equal(so_far, text + strlen(text) - strlen(so_far)); /* blanks, too */
    assert_true(held > 0); /* characters that no piece of this tokenizer has came byte by byte */
    stream_end(&t);
    free(all);
    free(ids);

    /* a text that ends inside a character gives what there is */
    assert_int_equal(spm_encode(spm, "\xF0\x9F\x99\x82", 4, &ids, &n, &err), 0);
    assert_int_equal(stream_begin(&t, spm, ids, 0, &err), 0);
    for (size_t i = 0; i + 1 < n; i++) {
        assert_int_equal(stream_token(&t, ids[i], &piece, &err), 0);
        assert_string_equal(piece, "");
        free(piece);
    }
    assert_int_equal(stream_last(&t, &piece, &err), 0);
    assert_non_null(strstr(piece, "\xEF\xBF\xBD"));
    free(piece);
    stream_end(&t);
    free(ids);
    spm_close(spm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_pieces_give_the_logits_of_the_whole),
        cmocka_unit_test(the_cache_has_the_promised_bytes),
        cmocka_unit_test(what_does_not_fit_is_an_error_and_changes_nothing),
        cmocka_unit_test(temperature_zero_takes_the_first_of_the_largest),
        cmocka_unit_test(draws_follow_softmax_cut_by_top_k_and_top_p),
        cmocka_unit_test(a_seed_is_a_text_and_another_seed_another),
        cmocka_unit_test(bad_samplers_and_bad_logits_are_errors),
        cmocka_unit_test(generation_ends_where_it_should),
        cmocka_unit_test(text_comes_in_whole_characters_and_adds_up),
    };
    return cmocka_run_group_tests_name("decode", tests, small_open, small_close);
}
