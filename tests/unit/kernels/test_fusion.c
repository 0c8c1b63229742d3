/* Fusion operator and penalty: sums over the heads of a group (at most 8 here), and dot products of
 * `cols` terms below 1. */
#include "support.h"

#include <stdlib.h>

struct shape {
    int heads, groups, dim;
    size_t cols;
};
static const struct shape shapes[] = {{1, 1, 2, 3},    {4, 2, 6, 17}, {6, 1, 48, 70},
                                      {8, 3, 16, 129}, {5, 5, 7, 33}, {7, 3, 9, 64}};

static void check_shape(struct duo *d, const struct shape *s, uint32_t seed)
{
    int group_of[16];
    scattered_map(group_of, s->heads, s->groups, seed);
    size_t rows = (size_t)(s->heads * s->dim), n = rows * s->cols, ho = rows * (size_t)s->heads;
    struct arr w = arr_random(d, n, 1, 1, 0), om = arr_random(d, ho, 2, 1, 0);
    struct arr out = arr_random(d, n, 3, 1, 0), dw = arr_random(d, n, 4, 1, 0);
    struct arr dom = arr_random(d, ho, 5, 1, 0), mse = arr_random(d, (size_t)s->groups, 6, 1, 0);
    struct arr dpen = arr_random(d, ho, 7, 1, 0), far = arr_random(d, ho, 7, 1, 0);
    for (int i = 0; i < BACKENDS; i++) {
        struct kern *k = d->k[i];
        struct kern_groups *g = k->ops->groups_new(k, s->heads, group_of);
        assert_non_null(g);
        k->ops->fusion_fwd(k, out.v[i], om.v[i], w.v[i], g, s->heads, s->dim, s->cols);
        k->ops->fusion_bwd(k, dw.v[i], dom.v[i], out.v[i], om.v[i], w.v[i], g, s->heads, s->dim,
                           s->cols);
        k->ops->fusion_penalty(k, dpen.v[i], mse.v[i], om.v[i], g, s->heads, s->dim, 0.7F, 0.05F);
        /* a threshold nothing reaches: no gradient */
        k->ops->fusion_penalty(k, far.v[i], mse.v[i], om.v[i], g, s->heads, s->dim, 0.7F, 1e6F);
        k->ops->groups_free(k, g);
    }
    double h = s->heads;
    arr_same(d, &out, 2 * ROUNDING * h, 0, "fusion_fwd");
    arr_same(d, &dw, 4 * ROUNDING * h * h, 0, "fusion_bwd dw");
    arr_same(d, &dom, 2 * ROUNDING * (double)s->cols * h, 0, "fusion_bwd domega");
    arr_same(d, &mse, 0, 4 * ROUNDING, "fusion_penalty mse"); /* double on both */
    arr_same(d, &dpen, 4 * ROUNDING, 0, "fusion_penalty gradient");
    float *untouched = arr_get(d, &far, CPU), *start = malloc(ho * sizeof *start);
    fill_random(start, ho, 7, 1, 0);
    assert_memory_equal(untouched, start, ho * sizeof *start);
    free(untouched);
    free(start);
    struct arr *all[] = {&w, &om, &out, &dw, &dom, &mse, &dpen, &far};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        arr_free(d, all[i]);
}

static void check(struct duo *d)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_shape(d, &shapes[i], (uint32_t)i + 1);
}

static void check_tie(struct duo *d)
{
    static const float pull[16] = {0.5F, 1.25F, 0.75F, 2, 0, 1, 1, 1};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        int shares[] = {1, s->dim % 2 ? 1 : 2, s->dim}, group_of[16];
        scattered_map(group_of, s->heads, s->groups, (uint32_t)i + 1);
        for (int v = 0; v < 3; v++) {
            size_t n = (size_t)(s->heads * s->heads * s->dim);
            struct arr in = arr_random(d, n, 1, 1, 0), out = arr_random(d, n, 2, 1, 0);
            for (int b = 0; b < BACKENDS; b++) {
                struct kern_groups *g = d->k[b]->ops->groups_new(d->k[b], s->heads, group_of);
                d->k[b]->ops->fusion_tie(d->k[b], out.v[b], in.v[b], g, s->heads, s->dim, shares[v],
                                         0.25F, pull);
                d->k[b]->ops->groups_free(d->k[b], g);
            }
            arr_same(d, &out, ROUNDING, 2 * ROUNDING, "fusion_tie"); /* double on both */
            arr_free(d, &in);
            arr_free(d, &out);
        }
    }
}

static void tying_agrees_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check_tie);
}

static void fusion_agrees_with_reference(void **state)
{
    (void)state;
    with_every_cpu(check);
}

/* METHODS 1.4: at delta initialisation every pair is 2/g apart. */
static void penalty_at_delta_start_is_two_over_group_size(void **state)
{
    (void)state;
    struct kern_err err;
    static const char *const names[] = {"reference", "cpu"};
    for (int b = 0; b < 2; b++) {
        struct kern *k = kern_open(names[b], 1, &err);
        assert_non_null(k);
        enum { HEADS = 6, DIM = 4, N = HEADS * HEADS * DIM };
        const int group_of[HEADS] = {0, 1, 0, 1, 1, 1};
        float omega[N] = {0}, mse[2];
        for (int h = 0; h < HEADS; h++)
            for (int c = 0; c < DIM; c++)
                omega[(h * HEADS + h) * DIM + c] = 1;
        struct kern_buf *o = k->ops->alloc(k, KERN_F32, N), *g = k->ops->alloc(k, KERN_F32, N);
        struct kern_buf *m = k->ops->alloc(k, KERN_F32, 2);
        struct kern_groups *groups = k->ops->groups_new(k, HEADS, group_of);
        k->ops->upload(k, kern_at(o, 0), omega, N);
        k->ops->fusion_penalty(k, kern_at(g, 0), kern_at(m, 0), kern_at(o, 0), groups, HEADS, DIM,
                               1, 0);
        k->ops->download(k, mse, kern_at(m, 0), 2);
        assert_true(mse[0] == 1.0F && mse[1] == 0.5F); /* groups of 2 and 4 */
        k->ops->groups_free(k, groups);
        k->ops->free(k, o);
        k->ops->free(k, g);
        k->ops->free(k, m);
        kern_close(k);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fusion_agrees_with_reference),
        cmocka_unit_test(tying_agrees_with_reference),
        cmocka_unit_test(penalty_at_delta_start_is_two_over_group_size),
    };
    return cmocka_run_group_tests_name("kernels: fusion", tests, NULL, NULL);
}
