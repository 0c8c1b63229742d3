#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>

#define assert_near(a, b, eps) assert_true(fabs((double)(a) - (double)(b)) <= (eps))

#include "worker/train/optim.h"

#define N 37

struct fixture {
    struct kern *k;
    struct comm comm;
    struct optim o;
    struct kern_buf *p, *g;
};

static void open_fixture(struct fixture *f, double clip, float wd_first_half)
{
    struct dha_err e = {0};
    struct optim_span spans[2] = {{0, 20, wd_first_half, 1}, {20, N, 0, 3}};
    comm_alone(&f->comm);
    f->k = kern_open("reference", 1, NULL);
    assert_non_null(f->k);
    f->p = f->k->ops->alloc(f->k, KERN_F32, N);
    f->g = f->k->ops->alloc(f->k, KERN_F32, N);
    optim_init(&f->o, f->k, &f->comm, clip);
    assert_int_equal(optim_add(&f->o, f->p, f->g, N, 1e-2, spans, 2, &e), 0);
}

static void close_fixture(struct fixture *f)
{
    optim_finish(&f->o);
    f->k->ops->free(f->k, f->g);
    f->k->ops->free(f->k, f->p);
    kern_close(f->k);
}

static void step_is_adamw_with_clipping_and_decay_and_rates_where_they_belong(void **state)
{
    (void)state;
    struct fixture f;
    struct dha_err e = {0};
    float p[N], g[N], got[N];
    double m[N] = {0}, v[N] = {0}, want[N];
    open_fixture(&f, 1.0, 0.1f);
    for (int i = 0; i < N; i++) {
        p[i] = sinf((float)i);
        want[i] = (double)p[i];
    }
    f.k->ops->upload(f.k, kern_at(f.p, 0), p, N);
    for (int t = 1; t <= 3; t++) {
        double norm, sum = 0;
        for (int i = 0; i < N; i++) {
            g[i] = cosf((float)(i * t));
            sum += (double)g[i] * (double)g[i];
        }
        f.k->ops->upload(f.k, kern_at(f.g, 0), g, N);
        assert_int_equal(optim_reduce(&f.o, &norm, &e), 0);
        assert_near(norm, sqrt(sum), 1e-5);
        assert_int_equal(optim_update(&f.o, t, 0.5, norm, &e), 0);
        /* torch.optim.AdamW after clip_grad_norm_(1.0), in double */
        double c = norm > 1.0 ? 1.0 / (norm + 1e-6) : 1.0, lr = 0.5 * 1e-2;
        for (int i = 0; i < N; i++) {
            double gi = c * (double)g[i];
            m[i] = 0.9 * m[i] + 0.1 * gi;
            v[i] = 0.95 * v[i] + 0.05 * gi * gi;
            want[i] -= i < 20 ? lr * 0.1 * want[i] : 0.0;
            want[i] -= (i < 20 ? lr : 3 * lr) * (m[i] / (1 - pow(0.9, t))) /
                       (sqrt(v[i] / (1 - pow(0.95, t))) + 1e-8);
        }
    }
    f.k->ops->download(f.k, got, kern_at(f.p, 0), N);
    /* three f32 steps of size lr: errors of a few ulp of values near 1 */
    for (int i = 0; i < N; i++)
        assert_near(got[i], want[i], 2e-6);
    close_fixture(&f);
}

static void gradients_are_zero_after_an_update(void **state)
{
    (void)state;
    struct fixture f;
    struct dha_err e = {0};
    float g[N];
    double norm;
    open_fixture(&f, 0, 0);
    for (int i = 0; i < N; i++)
        g[i] = 1;
    f.k->ops->upload(f.k, kern_at(f.g, 0), g, N);
    assert_int_equal(optim_reduce(&f.o, &norm, &e), 0);
    assert_int_equal(optim_update(&f.o, 1, 1, norm, &e), 0);
    f.k->ops->download(f.k, g, kern_at(f.g, 0), N);
    for (int i = 0; i < N; i++)
        assert_near(g[i], 0, 0);
    close_fixture(&f);
}

static void a_gradient_that_is_not_finite_shows_in_the_norm(void **state)
{
    (void)state;
    struct fixture f;
    struct dha_err e = {0};
    float g[N] = {0};
    double norm;
    open_fixture(&f, 1, 0);
    g[5] = NAN;
    f.k->ops->upload(f.k, kern_at(f.g, 0), g, N);
    assert_int_equal(optim_reduce(&f.o, &norm, &e), 0);
    bool finite = isfinite(norm);
    assert_false(finite);
    close_fixture(&f);
}

/* A group with a scale of its own neither counts in the norm nor is clipped by it. */
static void a_group_apart_does_not_clip_the_others(void **state)
{
    (void)state;
    struct fixture f;
    struct dha_err e = {0};
    struct optim_span all = {0, 4, 0, 1};
    float small[N] = {[7] = 0.5f}, huge[4] = {1e6f, 0, 0, 0}, moved[4];
    double norm;
    open_fixture(&f, 1, 0);
    struct kern_buf *p = f.k->ops->alloc(f.k, KERN_F32, 4), *g = f.k->ops->alloc(f.k, KERN_F32, 4);
    assert_int_equal(optim_add(&f.o, p, g, 4, 1e-2, &all, 1, &e), 0);
    optim_apart(&f.o);
    f.k->ops->upload(f.k, kern_at(f.g, 0), small, N);
    f.k->ops->upload(f.k, kern_at(g, 0), huge, 4);
    assert_int_equal(optim_reduce(&f.o, &norm, &e), 0);
    assert_near(norm, 0.5, 1e-7);
    assert_int_equal(optim_update(&f.o, 1, 1, 1e9, &e),
                     0); /* a norm that clips everything else away */
    f.k->ops->download(f.k, moved, kern_at(p, 0), 4);
    assert_near(moved[0], -1e-2, 1e-6);
    f.k->ops->download(f.k, small, kern_at(f.p, 0), N);
    assert_near(small[7], -1e-2 * 5e-10 / (5e-10 + 1e-8), 1e-5); /* 0.5 / 1e9 beside eps */
    f.k->ops->free(f.k, p);
    f.k->ops->free(f.k, g);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(step_is_adamw_with_clipping_and_decay_and_rates_where_they_belong),
        cmocka_unit_test(gradients_are_zero_after_an_update),
        cmocka_unit_test(a_group_apart_does_not_clip_the_others),
        cmocka_unit_test(a_gradient_that_is_not_finite_shows_in_the_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
