/* Masks: the pure parts against their definitions and finite differences, and whole trainings that must end with every mask
 * at 0. The golden model has head groups here that differ between keys and values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "worker/train/masks.h"

static void every_head_fades_from_one_to_zero_and_the_first_starts_at_once(void **state)
{
    (void)state;
    for (double start = 0; start <= 0.5; start += 0.125) {
        double before = 1;
        assert_true(mask_linear(0, start) == 1);
        assert_true(mask_linear(1, start) == 0);
        assert_true(mask_linear(1.2, start) == 0);
        for (double x = 0; x <= 1; x += 0.01) {
            assert_true(mask_linear(x, start) <= before);
            before = mask_linear(x, start);
        }
    }
    assert_true(mask_linear(0.1, 0) < 1);
    assert_true(mask_linear(0.1, 0.5) == 1);
}

static void slope_is_the_derivative(struct mask_value (*f)(double, double), double alpha, double u,
                                    double h)
{
    struct mask_value v = f(alpha, u);
    double want = (f(alpha + h, u).z - f(alpha - h, u).z) / (2 * h);
    if (!(fabs(v.slope - want) <= 1e-5 * fabs(want) + 1e-9 / h))
        fail_msg("alpha %g, u %g: slope %g, should be %g", alpha, u, v.slope, want);
}

static void masks_have_the_slopes_of_their_curves(void **state)
{
    (void)state;
    for (double u = 0.05; u < 1; u += 0.1)
        for (double alpha = -3; alpha <= 3; alpha += 0.7) {
            double z = mask_hard_concrete(alpha, u).z;
            if (z > 1e-3 && z < 1 - 1e-3)
                slope_is_the_derivative(mask_hard_concrete, alpha, u, 1e-5);
            else if (z <= 0 || z >= 1)
                assert_true(mask_hard_concrete(alpha, u).slope == 0);
        }
    for (double u = 0.4; u < 0.6; u += 0.05)
        for (double alpha = -1.8e-3; alpha <= 1.8e-3; alpha += 3e-4)
            slope_is_the_derivative(mask_released, alpha, u, 1e-9);
    for (int kind = MASKS_HARD_CONCRETE; kind <= MASKS_RELEASED; kind++)
        for (double a = -2; a <= 2; a += 0.5) {
            double alpha = kind == MASKS_RELEASED ? 1e-3 * a : a,
                   h = kind == MASKS_RELEASED ? 1e-9 : 1e-6;
            enum method_masks k = (enum method_masks)kind;
            double want = (mask_closed(k, alpha + h).z - mask_closed(k, alpha - h).z) / (2 * h);
            assert_true(fabs(mask_closed(k, alpha).slope - want) < 1e-5 * fabs(want));
        }
}

/* P(z = 0) by counting: 200,000 draws put the error below 0.005. */
static void hard_concrete_is_closed_as_often_as_its_formula_says(void **state)
{
    (void)state;
    enum { N = 200000 };
    for (double alpha = -3; alpha <= 3; alpha += 1.5) {
        int closed = 0;
        for (int i = 0; i < N; i++)
            closed += mask_hard_concrete(alpha, (i + 0.5) / N).z <= 0;
        assert_true(fabs((double)closed / N - mask_closed(MASKS_HARD_CONCRETE, alpha).z) < 1e-4);
    }
}

/* METHODS 2.6 and 3.2 give these numbers. */
static void starts_open_and_can_close(void **state)
{
    (void)state;
    assert_true(fabs(mask_closed(MASKS_HARD_CONCRETE, 5).z - 0.0014) < 1e-4);
    assert_true(fabs(mask_closed(MASKS_RELEASED, 2e-3).z - 0.0004) < 5e-5);
    assert_true(fabs(mask_closed(MASKS_RELEASED, 0).z - 0.146) < 1e-3);
    for (double u = 0.4; u <= 0.6; u += 0.02) {
        assert_true(mask_released(2e-3, u).z > 0.998);
        assert_true(mask_released(-8e-3, u).z == 0);
    }
    assert_true(mask_released(-6.0 / 3 * 1e-3, 0.5).z == 0); /* a/(A Tm) = -6 < -5.99 */
    assert_true(mask_released(-5.95 / 3 * 1e-3, 0.5).z > 0);
    assert_true(mask_released(2e-3, 0.5).z == 1 && mask_released(2e-3, NAN).z == 1);
    assert_true(mask_hard_concrete(5, NAN).z == 1);
    assert_true(mask_hard_concrete(-4.6, NAN).z == 0);
}

static void target_rises_over_three_tenths(void **state)
{
    (void)state;
    assert_true(mask_target(0, 100) == 0);
    assert_true(fabs(mask_target(15, 100) - 0.5) < 1e-12);
    assert_true(mask_target(30, 100) == 1 && mask_target(99, 100) == 1);
}

/* ---- with a model ----------------------------------------------------------------------------------- */

struct fixture {
    struct kern *k;
    struct model *m;
    struct comm comm;
};

static int set_up(void **state)
{
    static struct fixture f;
    struct dha_err e = {0};
    int group_of[2 * 8 * 8];
    comm_alone(&f.comm);
    f.k = kern_open("cpu", 1, NULL);
    assert_non_null(f.k);
    if (model_load(&f.m, f.k, GOLDEN_DIR "/mha-untied", &e))
        fail_msg("%s", e.msg);
    int heads = f.m->cfg.heads, n = 2 * f.m->cfg.layers * heads;
    assert_true(n <= (int)(sizeof group_of / sizeof *group_of));
    for (int i = 0; i < n; i++)
        group_of[i] = i / heads % 2 ? i % heads % 2 : i % heads / 2;
    assert_int_equal(model_mask_attach(f.m, group_of, true, &e), 0);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    model_free(f->m);
    kern_close(f->k);
    return 0;
}

static void all_masks_are_zero_in_the_last_fifth(void **state)
{
    struct fixture *f = *state;
    struct dha_err e;
    for (int kind = MASKS_LINEAR; kind <= MASKS_RELEASED; kind++) {
        struct masks *x;
        assert_int_equal(masks_new(&x, f->m, (enum method_masks)kind, 1, 10, &e), 0);
        for (int s = 8; s < 10; s++) {
            masks_open_step(x, s);
            for (int i = 0; i < x->n; i++)
                assert_true(f->m->oper->mask->z[i] == 0);
            masks_show(x, s);
            for (int i = 0; i < x->n; i++)
                assert_true(f->m->oper->mask->z[i] == 0);
            assert_true(fabs(x->closed - 1) < 1e-12);
        }
        masks_free(x);
    }
}

static void noise_is_a_function_of_seed_and_step(void **state)
{
    struct fixture *f = *state;
    struct dha_err e;
    struct masks *a, *b;
    float z[64], again[64];
    size_t bytes;
    assert_int_equal(masks_new(&a, f->m, MASKS_HARD_CONCRETE, 7, 10, &e), 0);
    assert_int_equal(masks_new(&b, f->m, MASKS_HARD_CONCRETE, 7, 10, &e), 0);
    assert_true(a->n <= 64);
    bytes = (size_t)a->n * sizeof *z;
    float middle[64] = {0}; /* alpha 0: masks anywhere */
    f->k->ops->upload(f->k, kern_at(a->alpha, 0), middle, (size_t)a->n);
    f->k->ops->upload(f->k, kern_at(b->alpha, 0), middle, (size_t)a->n);
    masks_open_step(a, 3);
    memcpy(z, f->m->oper->mask->z, bytes);
    masks_open_step(b, 2); /* another step in between, as after a resume */
    memcpy(again, f->m->oper->mask->z, bytes);
    assert_memory_not_equal(z, again, bytes);
    masks_open_step(b, 3);
    assert_memory_equal(z, f->m->oper->mask->z, bytes);
    masks_free(a);
    masks_free(b);
}

/* Without a loss that wants them open, the sparsity loss alone must close them well before the hard end. */
static void sparsity_loss_closes_the_masks(void **state)
{
    struct fixture *f = *state;
    struct dha_err e;
    for (int kind = MASKS_HARD_CONCRETE; kind <= MASKS_RELEASED; kind++) {
        struct masks *x;
        double lambda[2] = {0, 0}, first = 0;
        enum { STEPS = 40 };
        assert_int_equal(masks_new(&x, f->m, (enum method_masks)kind, 1, STEPS, &e), 0);
        size_t n = (size_t)x->n;
        struct kern_buf *m = f->k->ops->alloc(f->k, KERN_F32, n),
                        *v = f->k->ops->alloc(f->k, KERN_F32, n);
        for (int s = 0; s < 0.8 * STEPS - 1; s++) {
            masks_open_step(x, s);
            if (s == 0)
                first = x->closed;
            memset(f->m->oper->mask->dz, 0, n * sizeof(double));
            masks_backward(x, s, lambda, &f->comm);
            struct kern_adamw a = {.lr = (float)masks_rate(x->kind, STEPS),
                                   .beta1 = 0.9f,
                                   .beta2 = 0.95f,
                                   .eps = 1e-8f,
                                   .bias1 = (float)(1 - pow(0.9, s + 1)),
                                   .bias2 = (float)(1 - pow(0.95, s + 1)),
                                   .grad_scale = 1};
            f->k->ops->adamw(f->k, kern_at(x->alpha, 0), kern_at(x->dalpha, 0), kern_at(m, 0),
                             kern_at(v, 0), n, &a);
            masks_close_step(x, s, lambda);
        }
        assert_true(first < 0.01);
        if (!(x->closed > 0.9))
            fail_msg("kind %d: closed %g, lambda %g %g", kind, x->closed, lambda[0], lambda[1]);
        f->k->ops->free(f->k, m);
        f->k->ops->free(f->k, v);
        masks_free(x);
    }
}

static void linear_masks_begin_with_the_head_nearest_to_its_merged_one(void **state)
{
    struct fixture *f = *state;
    struct dha_err e;
    struct masks *x;
    assert_int_equal(masks_new(&x, f->m, MASKS_LINEAR, 1, 10, &e), 0);
    for (int l = 0; l < f->m->cfg.layers; l++)
        for (int a = 0; a < f->m->cfg.heads; a++)
            for (int b = 0; b < f->m->cfg.heads; b++) {
                double ca, cb;
                assert_int_equal(model_mask_similarity(f->m, l, a, &ca, &e), 0);
                assert_int_equal(model_mask_similarity(f->m, l, b, &cb, &e), 0);
                if (ca > cb)
                    assert_true(x->start[l * f->m->cfg.heads + a] <
                                x->start[l * f->m->cfg.heads + b]);
            }
    masks_free(x);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_fades_from_one_to_zero_and_the_first_starts_at_once),
        cmocka_unit_test(masks_have_the_slopes_of_their_curves),
        cmocka_unit_test(hard_concrete_is_closed_as_often_as_its_formula_says),
        cmocka_unit_test(starts_open_and_can_close),
        cmocka_unit_test(target_rises_over_three_tenths),
        T(all_masks_are_zero_in_the_last_fifth),
        T(noise_is_a_function_of_seed_and_step),
        T(sparsity_loss_closes_the_masks),
        T(linear_masks_begin_with_the_head_nearest_to_its_merged_one),
    };
    return cmocka_run_group_tests_name("train: masks", tests, NULL, NULL);
}
