/* Layer-local regression: its gradients are those of its objective, it lowers every layer's error, and a model that is
 * the parent already stays so. */
#include "tests/unit/method/small_model.h"

#include "worker/method/regress.h"

enum { LAYERS = 2, HEADS = 4 };

static const int halves[2 * LAYERS * HEADS] = {0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1};
static const int none[2 * LAYERS * HEADS] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};

static struct model *merge(struct small *s, const int *group_of)
{
    struct model *out;
    struct dha_err e = {0};
    if (spectral_merge(&s->env, group_of, &out, &e))
        fail_msg("%s", e.msg);
    return out;
}

/* Half the squared distance of the block's output to `want`. */
static double objective(struct run *r, int layer, const float *want, size_t n)
{
    struct kern *k = run_model(r)->k;
    float *out = malloc(n * sizeof *out);
    struct kern_buf *b = k->ops->alloc(k, KERN_F32, n);
    double sum = 0;
    run_attention_only(r, layer);
    run_attention_output(r, kern_at(b, 0));
    k->ops->download(k, out, kern_at(b, 0), n);
    for (size_t i = 0; i < n; i++)
        sum += 0.5 * ((double)out[i] - (double)want[i]) * ((double)out[i] - (double)want[i]);
    k->ops->free(k, b);
    free(out);
    return sum;
}

static void gradients_of_a_block_are_those_of_its_squared_error(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        struct small s;
        struct run *r;
        struct dha_err e = {0};
        small_open(&s, HEADS, HEADS, LAYERS, bias);
        struct model *m = merge(&s, halves);
        struct kern *k = m->k;
        const int layer = 1, seq = 8;
        size_t hidden = (size_t)m->cfg.hidden, n = 2 * (size_t)seq * hidden, from, proj, to;
        if (run_new(&r, m, 2, seq, RUN_LAYER, &e))
            fail_msg("%s", e.msg);
        float *x = malloc(n * sizeof *x), *want = malloc(n * sizeof *want);
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)normal();
            want[i] = (float)normal();
        }
        struct kern_buf *xb = k->ops->alloc(k, KERN_F32, n), *wb = k->ops->alloc(k, KERN_F32, n);
        k->ops->upload(k, kern_at(xb, 0), x, n);
        k->ops->upload(k, kern_at(wb, 0), want, n);
        run_set_residual(r, kern_at(xb, 0));
        run_attention_span(m, layer, &from, &proj, &to);
        struct kern_buf *g = k->ops->alloc(k, KERN_F32, to - from);
        run_attention_only(r, layer);
        run_attention_output(r, run_attention_dout(r));
        k->ops->axpy(k, run_attention_dout(r), -1.0f, kern_at(wb, 0), n);
        run_attention_backward(r, layer, g);
        float *grad = malloc((to - from) * sizeof *grad);
        k->ops->download(k, grad, kern_at(g, 0), to - from);
        double scale = 0;
        for (size_t i = 0; i < to - from; i++)
            scale = fmax(scale, fabs((double)grad[i]));
        assert_true(scale > 0.1);
        for (size_t i = 0; i < to - from; i += 7) {
            float old, moved;
            const float h = 1e-2f;
            k->ops->download(k, &old, kern_at(m->params, from + i), 1);
            moved = old + h;
            k->ops->upload(k, kern_at(m->params, from + i), &moved, 1);
            double up = objective(r, layer, want, n);
            moved = old - h;
            k->ops->upload(k, kern_at(m->params, from + i), &moved, 1);
            double down = objective(r, layer, want, n);
            k->ops->upload(k, kern_at(m->params, from + i), &old, 1);
            double numeric = (up - down) / (2.0 * (double)h);
            if (fabs(numeric - (double)grad[i]) > 5e-3 * scale)
                fail_msg("parameter %zu: %g by differences, %g computed", i, numeric,
                         (double)grad[i]);
        }
        free(grad);
        k->ops->free(k, g);
        k->ops->free(k, wb);
        k->ops->free(k, xb);
        free(want);
        free(x);
        run_free(r);
        model_free(m);
        small_close(&s);
    }
}

static void every_layer_comes_closer_to_the_parent(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        struct small s;
        struct dha_err e = {0};
        struct layer_fit_report report[LAYERS];
        small_open(&s, HEADS, HEADS, LAYERS, bias);
        struct model *m = merge(&s, halves);
        if (regress_attention(&s.env, s.m, m, report, &e))
            fail_msg("%s", e.msg);
        for (int l = 0; l < LAYERS; l++) {
            assert_true(report[l].first > 0.01); /* there was something to gain */
            if (report[l].last > 0.97 * report[l].first)
                fail_msg("layer %d: %g, then %g", l, report[l].first, report[l].last);
        }
        model_free(m);
        small_close(&s);
    }
}

/* Without merged heads there is nothing but rounding to follow. */
static void a_model_that_is_the_parent_stays_so(void **state)
{
    (void)state;
    struct small s;
    struct dha_err e = {0};
    struct layer_fit_report report[LAYERS];
    small_open(&s, HEADS, HEADS, LAYERS, false);
    s.method.refit = false;
    struct model *m = merge(&s, none);
    if (regress_attention(&s.env, s.m, m, report, &e))
        fail_msg("%s", e.msg);
    for (int l = 0; l < LAYERS; l++)
        assert_true(report[l].first < 1e-7);
    assert_same_logits(s.m, m, 1e-5);
    model_free(m);
    small_close(&s);
}

/* Of the parent's attention at layer l on random inputs, with the rows of each key group made equal in the model. */
static void shared_rows_stay_equal_while_a_layer_is_fitted(void **state)
{
    (void)state;
    enum { SEQS = 8 };
    for (int bias = 0; bias < 2; bias++) {
        struct small s;
        struct dha_err e = {0};
        struct layer_fit f;
        struct layer_fit_report report;
        struct attn_layer a;
        struct run *r;
        const int layer = 1, *keys = halves + 2 * HEADS, *values = halves + 3 * HEADS;
        small_open(&s, HEADS, HEADS, LAYERS, bias);
        struct kern *k = s.k;
        size_t n = (size_t)SEQS * SMALL_SEQ * (size_t)s.m->cfg.hidden;
        struct layer_fit_data data = {.input = k->ops->alloc(k, KERN_F32, n),
                                      .target = k->ops->alloc(k, KERN_F32, n)};
        float *x = malloc(n * sizeof *x);
        for (size_t i = 0; i < n; i++)
            x[i] = (float)normal();
        k->ops->upload(k, kern_at(data.input, 0), x, n);
        free(x);
        if (run_new(&r, s.m, SEQS, SMALL_SEQ, RUN_INFER, &e))
            fail_msg("%s", e.msg);
        run_set_residual(r, kern_at(data.input, 0));
        run_attention_only(r, layer);
        run_attention_output(r, kern_at(data.target, 0));
        data.energy = k->ops->sumsq(k, kern_at(data.target, 0), n);
        run_free(r);
        if (layer_load(&a, s.m, layer, &e))
            fail_msg("%s", e.msg);
        size_t each = (size_t)a.dim * (size_t)a.width;
        for (int h = 0; h < HEADS; h++)
            for (int first = 0; first < h; first++) {
                if (keys[first] == keys[h]) {
                    memcpy(a.k + (size_t)h * each, a.k + (size_t)first * each, each * sizeof *a.k);
                    if (bias)
                        memcpy(a.bk + h * a.dim, a.bk + first * a.dim,
                               (size_t)a.dim * sizeof *a.bk);
                }
                if (values[first] == values[h]) {
                    memcpy(a.v + (size_t)h * each, a.v + (size_t)first * each, each * sizeof *a.v);
                    if (bias)
                        memcpy(a.bv + h * a.dim, a.bv + first * a.dim,
                               (size_t)a.dim * sizeof *a.bv);
                }
            }
        if (layer_store(&a, s.m, layer, &e) ||
            layer_fit_open(&f, &s.comm, s.m, SEQS, SMALL_SEQ, &e))
            fail_msg("%s", e.msg);
        layer_finish(&a);
        struct layer_fit_options o = {.steps = 40, .passes = 40, .keys = keys, .values = values};
        if (layer_fit(&f, layer, &data, &o, &report, &e))
            fail_msg("%s", e.msg);
        if (!(report.first > 0.05) || report.last > 0.9 * report.first)
            fail_msg("%g, then %g", report.first, report.last);
        layer_fit_close(&f);
        if (layer_load(&a, s.m, layer, &e))
            fail_msg("%s", e.msg);
        for (int h = 0; h < HEADS; h++)
            for (size_t i = 0; i < each; i++) {
                int first = 0;
                while (keys[first] != keys[h])
                    first++;
                assert_close(a.k[(size_t)h * each + i], a.k[(size_t)first * each + i], 1e-5);
                for (first = 0; values[first] != values[h]; first++)
                    ;
                assert_close(a.v[(size_t)h * each + i], a.v[(size_t)first * each + i], 1e-5);
            }
        layer_finish(&a);
        k->ops->free(k, data.input);
        k->ops->free(k, data.target);
        small_close(&s);
    }
}

/* Costs behind the regression are the closed form's times one factor an entry, and the parent is untouched. */
static void a_search_weighs_costs_by_what_a_fit_leaves(void **state)
{
    (void)state;
    struct small s;
    struct plan with, without;
    struct dha_err e = {0};
    int repaired = 0;
    small_open(&s, HEADS, HEADS, LAYERS, true);
    s.method.regress = true;
    s.env.calib_tokens = 8192; /* 16 steps a fit */
    if (spectral_plan(&s.env, &with, &e))
        fail_msg("%s", e.msg);
    s.method.regress = false;
    if (spectral_plan(&s.env, &without, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 2 * LAYERS; i++) {
        double left = with.entries[i].left;
        assert_true(without.entries[i].left == 0.0 && left >= 0.1 && left <= 1.0);
        repaired += left < 0.99;
        for (int c = 0; c < with.entries[i].n_choices; c++)
            assert_close(with.entries[i].choices[c].cost, left * without.entries[i].choices[c].cost,
                         1e-9);
    }
    assert_true(repaired > 0);
    plan_finish(&without);
    plan_finish(&with);
    small_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_a_block_are_those_of_its_squared_error),
        cmocka_unit_test(every_layer_comes_closer_to_the_parent),
        cmocka_unit_test(a_model_that_is_the_parent_stays_so),
        cmocka_unit_test(shared_rows_stay_equal_while_a_layer_is_fitted),
        cmocka_unit_test(a_search_weighs_costs_by_what_a_fit_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
