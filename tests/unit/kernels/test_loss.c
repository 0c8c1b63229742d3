/* Cross-entropy, KL and mixtures. lse is a sum of exps, each good to 2 ulp: relative error a few
 * 6e-8, so lm and kl are off by about 1e-6 times the size of the logits (8). */
#include "support.h"

#include <math.h>
#include <stdlib.h>

static void check(struct duo *d, size_t rows, size_t vocab, bool teacher, float w_lm, float w_kl,
                  bool grad, float size)
{
    int32_t *ids = malloc(rows * sizeof *ids);
    uint32_t state = 3;
    for (size_t r = 0; r < rows; r++)
        ids[r] = r % 4 == 2 ? -1 : (int32_t)(next_random(&state) % vocab);
    struct arr z = arr_random(d, rows * vocab, 1, size, 0),
               zt = arr_random(d, rows * vocab, 2, size, 0);
    struct arr target = arr_ints(d, ids, rows);
    struct arr lm = arr_random(d, rows, 3, 1, 0), kl = arr_random(d, rows, 4, 1, 0);
    for (int i = 0; i < BACKENDS; i++)
        d->k[i]->ops->loss(d->k[i], z.v[i], teacher ? zt.v[i] : (struct kern_view){NULL, 0},
                           target.v[i], (struct kern_view){NULL, 0}, rows, vocab, w_lm, w_kl, 0.5F,
                           grad, lm.v[i], kl.v[i]);
    double slack = 16 * ROUNDING * (1 + (double)size);
    arr_same(d, &lm, slack, 4 * ROUNDING, "loss lm");
    arr_same(d, &kl, 2 * slack, 4 * ROUNDING, "loss kl");
    arr_same(d, &zt, 0, 0, "teacher"); /* is left alone */
    if (grad)
        arr_same(d, &z, slack, slack, "loss gradient");
    free(ids);
    arr_free(d, &z);
    arr_free(d, &zt);
    arr_free(d, &target);
    arr_free(d, &lm);
    arr_free(d, &kl);
}

static void check_all(struct duo *d)
{
    static const size_t shapes[][2] = {{1, 2}, {5, 17}, {9, 2048}, {13, 4999}};
    for (size_t s = 0; s < 4; s++)
        for (int grad = 0; grad < 2; grad++) {
            size_t rows = shapes[s][0], vocab = shapes[s][1];
            check(d, rows, vocab, false, 1, 0, grad, 8);
            check(d, rows, vocab, true, 0, 1, grad, 8);
            check(d, rows, vocab, true, 0.3F, 0.7F, grad, 8);
            check(d, rows, vocab, false, 1, 1, grad, 8);    /* no teacher: the KL weight is moot */
            check(d, rows, vocab, true, 1, 0.5F, grad, 60); /* rising maxima from block to block */
        }
}

/* A vocabulary masked with -inf where a whole block of the cpu kernel's is masked. */
static void check_masked(struct duo *d)
{
    enum { VOCAB = 5000 };
    float *z = malloc(VOCAB * sizeof *z);
    fill_random(z, VOCAB, 1, 5, -200);
    for (size_t i = 1000; i < 4500; i++)
        z[i] = -INFINITY;
    int32_t target = 3;
    struct arr logits = arr_from(d, z, VOCAB), id = arr_ints(d, &target, 1);
    struct arr lm = arr_random(d, 1, 3, 1, 0), kl = arr_random(d, 1, 4, 1, 0);
    for (int i = 0; i < BACKENDS; i++)
        d->k[i]->ops->loss(d->k[i], logits.v[i], (struct kern_view){NULL, 0}, id.v[i],
                           (struct kern_view){NULL, 0}, 1, VOCAB, 1, 0, 1, true, lm.v[i], kl.v[i]);
    arr_same(d, &lm, 200 * 4 * ROUNDING, 0, "masked lm");
    arr_same(d, &logits, 1e-6, 1e-4, "masked gradient");
    free(z);
    arr_free(d, &logits);
    arr_free(d, &id);
    arr_free(d, &lm);
    arr_free(d, &kl);
}

static void check_nan(struct duo *d)
{
    float z[40];
    fill_random(z, 40, 1, 1, 0);
    z[25] = NAN;
    const int32_t targets[2] = {3, 4};
    struct arr logits = arr_from(d, z, 40), id = arr_ints(d, targets, 2);
    struct arr lm = arr_random(d, 2, 3, 1, 0), kl = arr_random(d, 2, 4, 1, 0);
    for (int i = 0; i < BACKENDS; i++)
        d->k[i]->ops->loss(d->k[i], logits.v[i], (struct kern_view){NULL, 0}, id.v[i],
                           (struct kern_view){NULL, 0}, 2, 20, 1, 0, 1, true, lm.v[i], kl.v[i]);
    for (int b = 0; b < BACKENDS; b++) {
        float *x = arr_get(d, &lm, b);
        assert_true(!isnan(x[0]));
        assert_true(isnan(x[1]));
        free(x);
    }
    arr_free(d, &logits);
    arr_free(d, &id);
    arr_free(d, &lm);
    arr_free(d, &kl);
}

static void loss_agrees_with_reference_for_every_mixture(void **state)
{
    (void)state;
    with_every_cpu(check_all);
}
static void masked_vocabulary_gives_no_nan(void **state)
{
    (void)state;
    with_every_cpu(check_masked);
}
static void nan_in_the_logits_shows_in_that_rows_loss(void **state)
{
    (void)state;
    with_every_cpu(check_nan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_agrees_with_reference_for_every_mixture),
        cmocka_unit_test(masked_vocabulary_gives_no_nan),
        cmocka_unit_test(nan_in_the_logits_shows_in_that_rows_loss),
    };
    return cmocka_run_group_tests_name("kernels: loss", tests, NULL, NULL);
}
