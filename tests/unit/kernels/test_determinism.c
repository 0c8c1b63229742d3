/* The same inputs and number of threads give the same bits; where a sum has one owner whatever the
 * number of threads (attention, embedding, bias, sumsq, fusion), one and two threads agree too. */
#include "support.h"

#include <stdlib.h>
#include <string.h>

enum { B = 3, T = 150, H = 6, KH = 4, VH = 2, D = 48, ROWS = B * T, DIM = H * D, VOCAB = 5000 };

struct outputs {
    float *x[13];
    size_t n[13];
    int used;
    double sumsq;
};

static struct kern_buf *random_buf(struct kern *k, size_t n, uint32_t seed)
{
    float *x = malloc(n * sizeof *x);
    fill_random(x, n, seed, 1, 0);
    struct kern_buf *b = k->ops->alloc(k, KERN_F32, n);
    assert_non_null(b);
    k->ops->upload(k, kern_at(b, 0), x, n);
    free(x);
    return b;
}

static void take(struct kern *k, struct outputs *o, struct kern_buf *b, size_t n)
{
    o->x[o->used] = malloc(n * sizeof(float));
    o->n[o->used] = n;
    k->ops->download(k, o->x[o->used], kern_at(b, 0), n);
    o->used++;
}

/* One of each operation that adds things up; the first `ANY_THREADS` outputs may not depend on the
 * number of threads. */
enum { ANY_THREADS = 8 };

static struct outputs work(int threads)
{
    struct outputs out = {.used = 0};
    struct kern *k = kern_open("cpu", threads, NULL);
    assert_non_null(k);
    int key_of[H], value_of[H], group_of[H] = {0, 0, 1, 0, 1, 1};
    scattered_map(key_of, H, KH, 1);
    scattered_map(value_of, H, VH, 2);
    struct kern_maps *maps = k->ops->maps_new(k, H, key_of, value_of);
    struct kern_groups *groups = k->ops->groups_new(k, H, group_of);
    int32_t ids[ROWS];
    for (int i = 0; i < ROWS; i++)
        ids[i] = i * 7 % 11;
    struct kern_buf *id = k->ops->alloc(k, KERN_I32, ROWS);
    k->ops->upload(k, kern_at(id, 0), ids, ROWS);

    struct kern_buf *q = random_buf(k, ROWS * DIM, 1), *key = random_buf(k, ROWS * KH * D, 2);
    struct kern_buf *v = random_buf(k, ROWS * VH * D, 3), *o = random_buf(k, ROWS * DIM, 4);
    struct kern_buf *lse = random_buf(k, ROWS * H, 5), *dq = random_buf(k, ROWS * DIM, 6);
    struct kern_buf *dk = random_buf(k, ROWS * KH * D, 7), *dv = random_buf(k, ROWS * VH * D, 8);
    struct kern_buf *w = random_buf(k, VOCAB * DIM, 9), *bias = random_buf(k, DIM, 10);
    struct kern_buf *logits = random_buf(k, (size_t)ROWS * VOCAB, 11);
    struct kern_buf *omega = random_buf(k, H * H * D, 12), *domega = random_buf(k, H * H * D, 13);
    struct kern_buf *dw = random_buf(k, VOCAB * DIM, 14), *rows = random_buf(k, 2 * ROWS, 15);
    struct kern_attn a = {.batch = B,
                          .seq = T,
                          .heads = H,
                          .key_heads = KH,
                          .value_heads = VH,
                          .dim = D,
                          .scale = 0.2F,
                          .ldq = DIM,
                          .ldk = KH * D,
                          .ldv = VH * D,
                          .ldo = DIM,
                          .maps = maps};
#define AT(b) kern_at(b, 0)
    k->ops->attn_fwd(k, AT(o), AT(lse), AT(q), AT(key), AT(v), &a);
    k->ops->attn_bwd(k, AT(dq), AT(dk), AT(dv), AT(q), AT(q), AT(key), AT(v), AT(o), AT(lse), &a);
    k->ops->embed_bwd(k, AT(w), AT(q), AT(id), ROWS, DIM);
    k->ops->bias_grad(k, AT(bias), AT(dq), DIM, ROWS, DIM);
    k->ops->fusion_bwd(k, AT(dw), AT(domega), AT(q), AT(omega), AT(w), groups, H, D, 300);
    out.sumsq = k->ops->sumsq(k, AT(w), VOCAB * DIM);
    take(k, &out, o, ROWS * DIM);
    take(k, &out, dq, ROWS * DIM);
    take(k, &out, dk, ROWS * KH * D);
    take(k, &out, dv, ROWS * VH * D);
    take(k, &out, w, VOCAB * DIM);
    take(k, &out, bias, DIM);
    take(k, &out, dw, VOCAB * DIM);
    take(k, &out, domega, H * H * D);
    assert_int_equal(out.used, ANY_THREADS);
    /* the rest may differ between numbers of threads, not between runs */
    k->ops->rmsnorm_fwd(k, AT(o), AT(lse), AT(q), AT(bias), ROWS, DIM, 1e-5F);
    k->ops->rmsnorm_bwd(k, AT(dq), AT(bias), AT(o), AT(q), AT(bias), AT(lse), ROWS, DIM);
    k->ops->gemm(k, false, true, ROWS, VOCAB, DIM, 1, AT(q), DIM, AT(w), DIM, 0, AT(logits), VOCAB);
    k->ops->loss(k, AT(logits), (struct kern_view){NULL, 0}, AT(id), (struct kern_view){NULL, 0},
                 ROWS, VOCAB, 1, 0, 1, true, AT(rows), kern_at(rows, ROWS));
    k->ops->gemm(k, true, false, VOCAB, DIM, ROWS, 1, AT(logits), VOCAB, AT(q), DIM, 1, AT(dw),
                 DIM);
    /* the sum over the vocabulary is long enough to be cut between threads */
    k->ops->gemm(k, false, false, ROWS, DIM, VOCAB, 1, AT(logits), VOCAB, AT(w), DIM, 0, AT(dq),
                 DIM);
    take(k, &out, dq, ROWS * DIM);
    take(k, &out, bias, DIM);
    take(k, &out, logits, (size_t)ROWS * VOCAB);
    take(k, &out, dw, VOCAB * DIM);
    take(k, &out, rows, 2 * ROWS);
    assert_int_equal(kern_sync(k, NULL), 0);
    struct kern_buf *all[] = {id, q, key,  v,      o,     lse,    dq, dk,
                              dv, w, bias, logits, omega, domega, dw, rows};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        k->ops->free(k, all[i]);
    k->ops->maps_free(k, maps);
    k->ops->groups_free(k, groups);
    kern_close(k);
    return out;
}

static void same(const struct outputs *a, const struct outputs *b, int how_many)
{
    assert_true(a->sumsq == b->sumsq);
    for (int i = 0; i < how_many; i++)
        if (memcmp(a->x[i], b->x[i], a->n[i] * sizeof(float)) != 0)
            fail_msg("output %d differs", i);
}

static void drop(struct outputs *o)
{
    for (int i = 0; i < o->used; i++)
        free(o->x[i]);
}

static void two_runs_give_the_same_bits(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 2; threads++) {
        struct outputs a = work(threads), b = work(threads);
        same(&a, &b, a.used);
        drop(&a);
        drop(&b);
    }
}

static void sums_with_one_owner_do_not_depend_on_threads(void **state)
{
    (void)state;
    struct outputs a = work(1), b = work(2), c = work(3);
    same(&a, &b, ANY_THREADS);
    same(&a, &c, ANY_THREADS);
    drop(&a);
    drop(&b);
    drop(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_runs_give_the_same_bits),
        cmocka_unit_test(sums_with_one_owner_do_not_depend_on_threads),
    };
    return cmocka_run_group_tests_name("kernels: determinism", tests, NULL, NULL);
}
