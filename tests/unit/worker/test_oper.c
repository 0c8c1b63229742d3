/* Operators on a model: what must change nothing, what fusing must not change, and every gradient against finite
 * differences through the model: tied and contracted omega, masks, losses by class of row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/unit/worker/small_model.h"
#include "worker/method/method.h"
#include "worker/model/mask.h"

enum { H = 4, D = 6, HID = 20, OMEGA = 4 * H * H * D };
static const int groups[4 * H] = {0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 2, 1};

/* ---- the loss as a function of everything ---------------------------------------------------------- */

struct objective {
    struct model *m;
    struct run *r, *teacher;
    struct run_objective by;
    float step;
    double close; /* of the largest entry */
    uint8_t classes[SMALL_ROWS];
    int32_t ids[SMALL_ROWS], targets[SMALL_ROWS];
};

static double value(struct objective *o, struct kern_buf *grads)
{
    struct run_sums s = {{0}, {0}, {0}, 0};
    struct dha_err e = {0};
    double sum = 0;
    if (o->m->oper)
        model_oper_apply(o->m);
    run_forward(o->r, o->ids);
    if (run_objective(o->r, o->targets, o->teacher, &o->by, grads, &s, &e) < 0)
        fail_msg("%s", e.msg);
    if (grads) {
        run_backward(o->r, grads);
        if (o->m->oper)
            model_oper_backward(o->m, grads);
    }
    for (int c = 0; c < RUN_CLASSES; c++)
        sum += o->by.lm[c] * s.lm[c] + o->by.kl[c] * s.kl[c] + o->by.bild[c] * s.bild[c];
    return sum;
}

static struct objective plain_lm(struct model *m)
{
    struct dha_err e = {0};
    struct objective o = {.m = m, .step = 1e-2f, .close = 2e-3};
    o.by.lm[0] = 1.0 / SMALL_ROWS;
    small_tokens(o.ids, o.targets);
    if (run_new(&o.r, m, SMALL_BATCH, SMALL_SEQ, RUN_TRAIN, &e) < 0)
        fail_msg("%s", e.msg);
    return o;
}

/* Richardson-extrapolated central differences of f32 results (6e-8 each) with steps of 1e-2 and 2e-2: about 1e-5 plus h^4
 * terms; compared at 2e-3 of the largest entry. */
static double richardson(const double f[4], float step)
{
    return (4 * (f[0] - f[1]) - (f[2] - f[3]) / 2) / (6 * (double)step);
}
static const float steps[4] = {1, -1, 2, -2};

static void check_slopes(struct objective *o, struct kern_buf *x, struct kern_buf *g, size_t from,
                         size_t n, size_t stride, const char *what)
{
    float *grad = malloc(n * sizeof *grad);
    double most = 0, worst = 0;
    assert_non_null(grad);
    small_kern->ops->download(small_kern, grad, kern_at(g, from), n);
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)grad[i]));
    assert_true(most > 1e-5);
    for (size_t i = 0; i < n; i += stride) {
        float was, now;
        double f[4];
        small_kern->ops->download(small_kern, &was, kern_at(x, from + i), 1);
        for (int s = 0; s < 4; s++) {
            now = was + o->step * steps[s];
            small_kern->ops->upload(small_kern, kern_at(x, from + i), &now, 1);
            f[s] = value(o, NULL);
        }
        small_kern->ops->upload(small_kern, kern_at(x, from + i), &was, 1);
        worst = fmax(worst, fabs(richardson(f, o->step) - (double)grad[i]));
    }
    free(grad);
    if (!(worst < o->close * most + 2e-6))
        fail_msg("%s: gradient off by %g where the largest entry is %g", what, worst, most);
}

static void check_parameters(struct objective *o, struct kern_buf *g)
{
    static const enum layer_param some[] = {P_Q, P_K, P_V, P_O, P_K_BIAS, P_V_BIAS};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const struct param *p = model_param(o->m, 1, some[i]);
        check_slopes(o, o->m->params, g, p->off, p->n, p->n / 11 + 1, p->name);
    }
}

static void some_omega(struct model *m)
{
    float host[OMEGA];
    for (size_t i = 0; i < OMEGA; i++)
        host[i] = 0.4f + 0.5f * small_random(200, i);
    small_kern->ops->upload(small_kern, kern_at(m->oper->omega, 0), host, OMEGA);
}

/* ---- fusion operators -------------------------------------------------------------------------------- */

static void tied_operators_at_the_start_change_nothing(void **state)
{
    (void)state;
    struct dha_err e;
    for (int scalar = 0; scalar < 2; scalar++) {
        struct model *m = small_model(",\"attention_bias\":true"), *n;
        assert_int_equal(model_clone(&n, m, &e), 0);
        assert_int_equal(model_oper_attach(n, groups, &e), 0);
        model_oper_share(n, scalar, true);
        assert_int_equal(model_oper_restore_norms(n, &e), 0);
        model_oper_apply(n);
        small_same_logits(n, m);
        model_free(n);
        model_free(m);
    }
}

static void gradient_of_tied_and_contracted_omega_matches_finite_differences(void **state)
{
    (void)state;
    static const double contract[] = {0, 0.6, 1};
    struct dha_err e;
    for (int kind = 0; kind < 3; kind++)
        for (int c = 0; c < 3; c++) {
            struct model *m = small_model(",\"attention_bias\":true");
            assert_int_equal(model_oper_attach(m, groups, &e), 0);
            model_oper_share(m, kind == 2, kind == 1);
            assert_int_equal(model_oper_restore_norms(m, &e), 0);
            m->oper->contract = contract[c];
            some_omega(m);
            struct objective o = plain_lm(m);
            struct kern_buf *g = model_grads_new(m, &e);
            value(&o, g);
            check_slopes(&o, m->oper->omega, m->oper->domega, 0, OMEGA, 7, "omega");
            if (kind == 1)
                check_parameters(&o, g);
            small_kern->ops->free(small_kern, g);
            run_free(o.r);
            model_free(m);
        }
}

static void tied_dims_have_one_gradient(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model("");
    assert_int_equal(model_oper_attach(m, groups, &e), 0);
    model_oper_share(m, false, true);
    struct objective o = plain_lm(m);
    struct kern_buf *g = model_grads_new(m, &e);
    float d[OMEGA];
    value(&o, g);
    small_kern->ops->download(small_kern, d, kern_at(m->oper->domega, 0), OMEGA);
    double apart = 0; /* of values, which are not tied */
    for (size_t i = 0; i < OMEGA; i += D)
        for (size_t c = 0; c < D / 2; c++) {
            if (i / (H * H * D) % 2 == 0)
                assert_true(d[i + c] == d[i + c + D / 2]);
            apart = fmax(apart, fabs((double)d[i + c] - (double)d[i + c + D / 2]));
        }
    assert_true(apart > 1e-6);
    small_kern->ops->free(small_kern, g);
    run_free(o.r);
    model_free(m);
}

static void fusing_a_contracted_operator_changes_nothing(void **state)
{
    (void)state;
    struct dha_err e = {0};
    struct model *m = small_model(",\"attention_bias\":true"), *fused;
    assert_int_equal(model_oper_attach(m, groups, &e), 0);
    assert_int_equal(model_oper_restore_norms(m, &e), 0);
    some_omega(m);
    m->oper->contract = 1;
    model_oper_apply(m);
    float *before = small_logits(m), *after;
    model_oper_settle(m);
    if (fusion_fuse(m, &fused, &e))
        fail_msg("%s", e.msg);
    after = small_logits(fused);
    assert_true(small_distance(after, before, SMALL_ROWS * 37) < 2e-6);
    assert_int_equal(fused->cfg.n_key[0], 2);
    assert_int_equal(fused->cfg.n_value[1], 3);
    free(before);
    free(after);
    model_free(fused);
    model_free(m);
}

/* The mean of a group's effective heads has the members' mean norm: METHODS 2.9. */
static void contraction_restores_the_members_norm(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model("");
    size_t each = D * HID;
    assert_int_equal(model_oper_attach(m, groups, &e), 0);
    assert_int_equal(model_oper_restore_norms(m, &e), 0);
    m->oper->contract = 1;
    model_oper_apply(m);
    const struct param *w = model_param(m, 1, P_K); /* all four heads are one group */
    double mean = 0, got = sqrt(small_kern->ops->sumsq(small_kern,
                                                       kern_at(m->oper->eff, 2 * H * each), each));
    for (size_t h = 0; h < H; h++)
        mean += sqrt(small_kern->ops->sumsq(small_kern, kern_plus(model_view(m, w), h * each),
                                            each)) /
                H;
    assert_true(fabs(got - mean) < 1e-5 * mean);
    model_free(m);
}

/* ---- masks -------------------------------------------------------------------------------------------- */

static void masks_at_one_change_nothing(void **state)
{
    (void)state;
    struct dha_err e;
    for (int restore = 0; restore < 2; restore++) {
        struct model *m = small_model(",\"attention_bias\":true"), *n;
        assert_int_equal(model_clone(&n, m, &e), 0);
        assert_int_equal(model_mask_attach(n, groups, restore, &e), 0);
        small_same_logits(n, m);
        assert_int_equal(model_mask_attach(n, groups, restore, &e), -1);
        model_oper_detach(n);
        small_same_logits(n, m);
        model_free(n);
        model_free(m);
    }
}

static void masks_at_zero_leave_nothing_of_the_old_heads(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model(",\"attention_bias\":true");
    assert_int_equal(model_mask_attach(m, groups, false, &e), 0);
    for (int i = 0; i < 2 * H; i++)
        m->oper->mask->z[i] = 0;
    model_oper_apply(m);
    float *before = small_logits(m), *after;
    for (int l = 0; l < 2; l++)
        for (int p = P_K; p <= P_V; p++) {
            const struct param *w = model_param(m, l, (enum layer_param)p);
            float *bad = malloc(w->n * sizeof *bad);
            for (size_t i = 0; i < w->n; i++)
                bad[i] = NAN;
            model_set(m, w, bad);
            free(bad);
        }
    model_oper_apply(m);
    after = small_logits(m);
    assert_memory_equal(before, after, SMALL_ROWS * 37 * sizeof *before);
    free(before);
    free(after);
    model_free(m);
}

static void gradients_of_masks_and_both_heads_match_finite_differences(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model(",\"attention_bias\":true");
    assert_int_equal(model_mask_attach(m, groups, true, &e), 0);
    struct model_mask *mask = m->oper->mask;
    for (int i = 0; i < 2 * H; i++)
        mask->z[i] = 0.15f + 0.1f * (float)i;
    struct objective o = plain_lm(m);
    struct kern_buf *g = model_grads_new(m, &e);
    value(&o, g);
    double dz[2 * H], most = 0;
    for (int i = 0; i < 2 * H; i++) {
        dz[i] = mask->dz[i];
        most = fmax(most, fabs(dz[i]));
    }
    assert_true(most > 1e-4);
    for (int i = 0; i < 2 * H; i++) {
        float was = mask->z[i];
        double f[4];
        for (int s = 0; s < 4; s++) {
            mask->z[i] = was + o.step * steps[s];
            f[s] = value(&o, NULL);
        }
        mask->z[i] = was;
        assert_true(fabs(richardson(f, o.step) - dz[i]) < 2e-3 * most + 2e-6);
    }
    check_slopes(&o, mask->merged, mask->dmerged, 0, mask->n, mask->n / 97, "W'");
    check_parameters(&o, g);
    small_kern->ops->free(small_kern, g);
    run_free(o.r);
    model_free(m);
}

static void merged_heads_start_as_means_of_their_members(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model("");
    size_t each = D * HID;
    float w[H * D * HID], mean[2][D * HID];
    assert_int_equal(model_mask_attach(m, groups, false, &e), 0);
    model_get(m, model_param(m, 0, P_V), w); /* groups 0 1 0 1 */
    small_kern->ops->download(small_kern, mean[0],
                              kern_at(m->oper->mask->merged, m->oper->mask->at[1]), 2 * each);
    for (size_t i = 0; i < each; i++)
        for (size_t g = 0; g < 2; g++)
            assert_true(fabsf(mean[g][i] - (w[g * each + i] + w[(g + 2) * each + i]) / 2) < 1e-7f);
    double cosine;
    assert_int_equal(model_mask_similarity(m, 0, 1, &cosine, &e), 0);
    assert_true(cosine > 0.3 &&
                cosine < 0.95); /* one of two random heads against their mean: 1/sqrt 2 */
    model_free(m);
}

/* ---- losses by class ------------------------------------------------------------------------------------ */

static void gradient_of_kl_on_prompts_and_bild_on_answers_matches_finite_differences(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model(""), *parent = small_model("");
    const struct param *q = model_param(parent, 1, P_V);
    float *w = malloc(q->n * sizeof *w);
    model_get(parent, q, w);
    for (size_t i = 0; i < q->n; i++)
        w[i] += 0.3f * small_random(900, i);
    model_set(parent, q, w);
    free(w);
    struct objective o = plain_lm(m);
    o.by = (struct run_objective){
        .lm = {0.05, 0, 0.02}, .kl = {0, 0.1, 0}, .bild = {0, 0, 0.3}, .classes = o.classes};
    /* BiLD jumps where two logits change places: a step too small for that, and rounding is 1e-7 / 1e-3 */
    o.step = 1e-3f;
    o.close = 2e-2;
    for (int i = 0; i < SMALL_ROWS; i++)
        o.classes[i] = (uint8_t)(i % 3);
    assert_int_equal(run_new(&o.teacher, parent, SMALL_BATCH, SMALL_SEQ, RUN_INFER, &e), 0);
    run_forward(o.teacher, o.ids);
    struct kern_buf *g = model_grads_new(m, &e);
    value(&o, g);
    static const enum layer_param some[] = {P_Q, P_K, P_V, P_O, P_GATE, P_DOWN};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const struct param *p = model_param(m, 0, some[i]);
        check_slopes(&o, m->params, g, p->off, p->n, p->n / 7 + 1, p->name);
    }
    struct run_sums all = {{0}, {0}, {0}, 0}, one = {{0}, {0}, {0}, 0};
    assert_int_equal(run_objective(o.r, o.targets, o.teacher, &o.by, NULL, &all, &e), 0);
    assert_true(all.bild[2] > 1e-4 && all.bild[0] == 0 && all.bild[1] == 0);
    /* the classes' sums are a partition of what the unclassed loss gives */
    struct run_objective flat = {.lm = {1}, .kl = {1}};
    assert_int_equal(run_objective(o.r, o.targets, o.teacher, &flat, NULL, &one, &e), 0);
    assert_true(fabs(all.lm[0] + all.lm[1] + all.lm[2] - one.lm[0]) < 1e-4);
    assert_true(fabs(all.kl[0] + all.kl[1] + all.kl[2] - one.kl[0]) < 1e-4);
    small_kern->ops->free(small_kern, g);
    run_free(o.teacher);
    run_free(o.r);
    model_free(parent);
    model_free(m);
}

static void bild_of_a_teacher_that_is_the_student_is_nothing(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model("");
    struct objective o = plain_lm(m);
    struct run_sums s = {{0}, {0}, {0}, 0};
    o.by = (struct run_objective){.bild = {1}};
    assert_int_equal(run_new(&o.teacher, m, SMALL_BATCH, SMALL_SEQ, RUN_INFER, &e), 0);
    run_forward(o.teacher, o.ids);
    run_forward(o.r, o.ids);
    assert_int_equal(run_objective(o.r, o.targets, o.teacher, &o.by, NULL, &s, &e), 0);
    assert_true(fabs(s.bild[0]) < 1e-5);
    assert_int_equal(run_objective(o.r, o.targets, NULL, &o.by, NULL, &s, &e), -1);
    assert_non_null(strstr(e.msg, "needs a teacher"));
    run_free(o.teacher);
    run_free(o.r);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tied_operators_at_the_start_change_nothing),
        cmocka_unit_test(gradient_of_tied_and_contracted_omega_matches_finite_differences),
        cmocka_unit_test(tied_dims_have_one_gradient),
        cmocka_unit_test(fusing_a_contracted_operator_changes_nothing),
        cmocka_unit_test(contraction_restores_the_members_norm),
        cmocka_unit_test(masks_at_one_change_nothing),
        cmocka_unit_test(masks_at_zero_leave_nothing_of_the_old_heads),
        cmocka_unit_test(gradients_of_masks_and_both_heads_match_finite_differences),
        cmocka_unit_test(merged_heads_start_as_means_of_their_members),
        cmocka_unit_test(gradient_of_kl_on_prompts_and_bild_on_answers_matches_finite_differences),
        cmocka_unit_test(bild_of_a_teacher_that_is_the_student_is_nothing),
    };
    return cmocka_run_group_tests_name("model: operators", tests, small_open, small_close);
}
