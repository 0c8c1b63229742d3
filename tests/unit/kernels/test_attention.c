/* Attention under arbitrary head maps against reference.
 * Scores are sums of dim products, times 1/sqrt(dim): off by about sqrt(dim) roundings of their size;
 * exp turns that into a relative error of p. Sums over T keys or rows add T roundings at most. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct shape {
    int batch, seq, heads, key_heads, value_heads, dim;
    size_t pad; /* of every row distance */
};

static const struct shape shapes[] = {
    {1, 1, 1, 1, 1, 8, 0},     /* one token */
    {2, 5, 3, 3, 3, 16, 3},    /* MHA, shorter than any block */
    {1, 33, 4, 1, 1, 32, 0},   /* MQA, one row over a block */
    {2, 64, 8, 2, 2, 48, 7},   /* GQA */
    {2, 100, 7, 3, 2, 24, 1},  /* unequal groups, fewer value heads */
    {1, 131, 6, 2, 5, 20, 4},  /* fewer key heads, a dim that no vector divides */
    {3, 49, 5, 5, 1, 64, 0},   /* keys apart, one value head */
    {1, 257, 2, 2, 2, 128, 2}, /* several blocks of keys */
    {1, 450, 3, 2, 3, 8, 0},   /* over one forward block of keys */
    {2, 70, 3, 2, 2, 13, 5},   /* an odd dim */
    {1, 40, 4, 4, 3, 100, 0},
};

struct tensors {
    struct arr q, k, v, o, lse, dout, dq, dk, dv;
    struct kern_attn a[BACKENDS];
};

static struct tensors make(struct duo *d, const struct shape *s, uint32_t seed, bool unused_heads)
{
    int key_of[16], value_of[16];
    scattered_map(key_of, s->heads, s->key_heads, seed);
    scattered_map(value_of, s->heads, s->value_heads, seed + 1);
    for (int h = 0; unused_heads && h < s->heads; h++)
        key_of[h] = value_of[h] = 0;
    size_t rows = (size_t)(s->batch * s->seq), dim = (size_t)s->dim;
    size_t ldq = (size_t)s->heads * dim + s->pad, ldk = (size_t)s->key_heads * dim + s->pad;
    size_t ldv = (size_t)s->value_heads * dim + s->pad, ldo = (size_t)s->heads * dim + 2 * s->pad;
    struct tensors t = {
        .q = arr_random(d, rows * ldq, 1, 2, 0),
        .k = arr_random(d, rows * ldk, 2, 2, 0),
        .v = arr_random(d, rows * ldv, 3, 1, 0),
        .o = arr_random(d, rows * ldo, 4, 1, 0),
        .lse = arr_random(d, rows * (size_t)s->heads, 5, 1, 0),
        .dout = arr_random(d, rows * ldo, 6, 1, 0),
        .dq = arr_random(d, rows * ldq, 7, 1, 0),
        .dk = arr_random(d, rows * ldk, 8, 1, 0),
        .dv = arr_random(d, rows * ldv, 9, 1, 0),
    };
    for (int i = 0; i < BACKENDS; i++)
        t.a[i] = (struct kern_attn){
            .batch = s->batch,
            .seq = s->seq,
            .heads = s->heads,
            .key_heads = s->key_heads,
            .value_heads = s->value_heads,
            .dim = s->dim,
            .scale = 1.0F / sqrtf((float)s->dim),
            .ldq = ldq,
            .ldk = ldk,
            .ldv = ldv,
            .ldo = ldo,
            .maps = d->k[i]->ops->maps_new(d->k[i], s->heads, key_of, value_of)};
    return t;
}

static void drop(struct duo *d, struct tensors *t)
{
    struct arr *all[] = {&t->q, &t->k, &t->v, &t->o, &t->lse, &t->dout, &t->dq, &t->dk, &t->dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        arr_free(d, all[i]);
    for (int i = 0; i < BACKENDS; i++)
        d->k[i]->ops->maps_free(d->k[i], (struct kern_maps *)(uintptr_t)t->a[i].maps);
}

static void run(struct duo *d, struct tensors *t)
{
    for (int i = 0; i < BACKENDS; i++) {
        struct kern *k = d->k[i];
        k->ops->attn_fwd(k, t->o.v[i], t->lse.v[i], t->q.v[i], t->k.v[i], t->v.v[i], &t->a[i]);
        k->ops->attn_bwd(k, t->dq.v[i], t->dk.v[i], t->dv.v[i], t->dout.v[i], t->q.v[i], t->k.v[i],
                         t->v.v[i], t->o.v[i], t->lse.v[i], &t->a[i]);
    }
}

static void compare(struct duo *d, struct tensors *t, const struct shape *s)
{
    char what[128];
    snprintf(what, sizeof what, "attention b%d t%d h%d/%d/%d d%d", s->batch, s->seq, s->heads,
             s->key_heads, s->value_heads, s->dim);
    double p = ROUNDING * (8 + 4 * sqrt((double)s->dim)); /* relative error of a p */
    double users = s->heads; /* a K or V head's gradient is a sum over at most all query heads */
    arr_same(d, &t->lse, p, p, what);
    arr_same(d, &t->o, 2 * p, 2 * p, what);
    /* |ds| sums to at most 2 |dp| <= 2 sqrt(dim) over a row; times |k| <= 2 */
    arr_same(d, &t->dq, 8 * sqrt((double)s->dim) * p, p, what);
    arr_same(d, &t->dv, users * 8 * p, 8 * p, what);
    arr_same(d, &t->dk, users * 8 * sqrt((double)s->dim) * p, 8 * p, what);
}

static void check_shapes(struct duo *d)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct tensors t = make(d, &shapes[i], (uint32_t)i, false);
        run(d, &t);
        compare(d, &t, &shapes[i]);
        drop(d, &t);
    }
}

static void check_unused_heads(struct duo *d)
{
    static const struct shape s = {2, 20, 4, 3, 2, 16, 1};
    struct tensors t = make(d, &s, 1, true);
    run(d, &t);
    compare(d, &t, &s); /* dk, dv of heads that no query head reads are 0, not old contents */
    drop(d, &t);
}

static void check_weights(struct duo *d)
{
    static const struct shape weighed[] = {
        {2, 37, 4, 2, 2, 16, 3}, {1, 130, 3, 3, 1, 48, 0}, {1, 1, 1, 1, 1, 8, 0}};
    for (size_t w = 0; w < 3; w++) {
        const struct shape *s = &weighed[w];
        struct tensors t = make(d, s, 5, false);
        size_t T = (size_t)s->seq;
        struct arr p = arr_random(d, T * T, 10, 1, 0);
        for (int h = 0; h < s->heads; h++) {
            for (int i = 0; i < BACKENDS; i++)
                d->k[i]->ops->attn_weights(d->k[i], p.v[i], t.q.v[i], t.k.v[i], &t.a[i],
                                           s->batch - 1, h);
            arr_same(d, &p, 1e-6, 0, "attn_weights");
            float *x = arr_get(d, &p, CPU);
            for (size_t i = 0; i < T; i++) {
                double sum = 0;
                for (size_t j = 0; j < T; j++) {
                    assert_true(j <= i || x[i * T + j] == 0);
                    sum += (double)x[i * T + j];
                }
                assert_true(fabs(sum - 1) < 1e-5);
            }
            free(x);
        }
        arr_free(d, &p);
        drop(d, &t);
    }
}

/* A query far from all keys but one: p is 1 there and 0 elsewhere, and nothing overflows. */
static void check_large_scores(struct duo *d)
{
    static const struct shape s = {1, 60, 2, 1, 2, 16, 0};
    struct tensors t = make(d, &s, 3, false);
    for (int i = 0; i < BACKENDS; i++) {
        d->k[i]->ops->scale(d->k[i], t.q.v[i], 30, t.q.n);
        d->k[i]->ops->scale(d->k[i], t.k.v[i], 30, t.k.n);
    }
    run(d, &t);
    float *o = arr_get(d, &t.o, CPU), *dk = arr_get(d, &t.dk, CPU);
    for (size_t i = 0; i < t.o.n; i++)
        assert_true(fabsf(o[i]) <= 1.0F);
    for (size_t i = 0; i < t.dk.n; i++)
        assert_true(isfinite(dk[i]));
    free(o);
    free(dk);
    drop(d, &t);
}

/* The cache of a sequence has `room` rows, its first past + seq filled; the rest is random and must not be read. */
static void check_cached(struct duo *d)
{
    static const struct {
        struct shape s; /* seq: new positions */
        int past, slack;
    } cases[] = {
        {{1, 1, 1, 1, 1, 8, 0}, 0, 0},     /* the first token */
        {{2, 1, 4, 2, 1, 16, 3}, 12, 5},   /* one token a sequence */
        {{1, 7, 6, 2, 5, 20, 4}, 30, 0},   /* several against a past */
        {{2, 33, 7, 3, 2, 24, 1}, 0, 9},   /* a prompt */
        {{1, 1, 3, 3, 3, 128, 0}, 700, 1}, /* a long past */
        {{3, 5, 2, 1, 2, 13, 2}, 17, 3},   /* an odd dim */
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const struct shape *s = &cases[c].s;
        struct tensors t = make(d, s, (uint32_t)c, false);
        int room = cases[c].past + s->seq + cases[c].slack;
        size_t rows = (size_t)(s->batch * room);
        struct arr k = arr_random(d, rows * t.a[0].ldk, 11, 2, 0),
                   v = arr_random(d, rows * t.a[0].ldv, 12, 1, 0);
        for (int i = 0; i < BACKENDS; i++)
            d->k[i]->ops->attn_cached(d->k[i], t.o.v[i], t.q.v[i], k.v[i], v.v[i], &t.a[i],
                                      cases[c].past, room);
        double p = ROUNDING * (8 + 4 * sqrt((double)s->dim));
        arr_same(d, &t.o, 2 * p, 2 * p, "attn_cached");
        arr_free(d, &k);
        arr_free(d, &v);
        drop(d, &t);
    }
}

/* A sequence cut into a past and the rest is the sequence: attn_cached on the rest gives attn_fwd's rows, on both
 * backends. */
static void check_cached_is_attention(struct duo *d)
{
    static const struct shape s = {1, 45, 5, 3, 2, 16, 1};
    for (int past = 0; past < s.seq; past += 11) {
        struct tensors t = make(d, &s, 7, false);
        struct arr o = arr_random(d, t.o.n, 13, 1, 0);
        size_t skip = (size_t)past * t.a[0].ldo;
        for (int i = 0; i < BACKENDS; i++) {
            struct kern *k = d->k[i];
            struct kern_attn rest = t.a[i];
            rest.seq = s.seq - past;
            k->ops->attn_fwd(k, t.o.v[i], t.lse.v[i], t.q.v[i], t.k.v[i], t.v.v[i], &t.a[i]);
            k->ops->attn_cached(k, kern_plus(o.v[i], skip),
                                kern_plus(t.q.v[i], (size_t)past * rest.ldq), t.k.v[i], t.v.v[i],
                                &rest, past, s.seq);
            float *want = arr_get(d, &t.o, i), *have = arr_get(d, &o, i);
            for (int row = past; row < s.seq; row++)
                for (int c = 0; c < s.heads * s.dim; c++) {
                    size_t at = (size_t)row * rest.ldo + (size_t)c;
                    assert_true(fabsf(want[at] - have[at]) < 2e-6F);
                }
            free(want);
            free(have);
        }
        arr_free(d, &o);
        drop(d, &t);
    }
}

static void attention_agrees_with_reference_for_any_maps_and_sizes(void **state)
{
    (void)state;
    with_every_cpu(check_shapes);
}
static void heads_that_nobody_reads_get_zero_gradient(void **state)
{
    (void)state;
    with_every_cpu(check_unused_heads);
}
static void attention_weights_agree_with_reference_and_sum_to_one(void **state)
{
    (void)state;
    with_every_cpu(check_weights);
}
static void large_scores_do_not_overflow(void **state)
{
    (void)state;
    with_every_cpu(check_large_scores);
}
static void cached_attention_agrees_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check_cached);
}
static void attention_against_a_cache_is_attention(void **state)
{
    (void)state;
    with_every_cpu(check_cached_is_attention);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_agrees_with_reference_for_any_maps_and_sizes),
        cmocka_unit_test(heads_that_nobody_reads_get_zero_gradient),
        cmocka_unit_test(attention_weights_agree_with_reference_and_sum_to_one),
        cmocka_unit_test(large_scores_do_not_overflow),
        cmocka_unit_test(cached_attention_agrees_with_reference),
        cmocka_unit_test(attention_against_a_cache_is_attention),
    };
    return cmocka_run_group_tests_name("kernels: attention", tests, NULL, NULL);
}
