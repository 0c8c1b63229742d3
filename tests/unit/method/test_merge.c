/* Whole conversions of small random models: what must change nothing changes nothing, searches find what was planted,
 * and the parent is as before.
 */
#include "tests/unit/method/small_model.h"

enum { LAYERS = 2, HEADS = 4 };

static const int identity[2 * LAYERS * HEADS] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
static const int planted[2 * LAYERS * HEADS] = {0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 2, 0};

static void plant_all(struct small *s)
{
    for (int i = 0; i < 2 * LAYERS; i++)
        plant_images(s->m, i / 2, i % 2, planted + i * HEADS);
}

static struct model *merge(struct small *s, const int *group_of)
{
    struct model *out;
    struct dha_err e = {0};
    if (spectral_merge(&s->env, group_of, &out, &e))
        fail_msg("%s", e.msg);
    return out;
}

static void merging_nothing_changes_nothing(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++)
        for (int refit = 0; refit < 2; refit++) {
            struct small s;
            small_open(&s, HEADS, HEADS, LAYERS, bias);
            s.method.refit = refit;
            struct model *m = merge(&s, identity);
            assert_same_logits(s.m, m, refit ? 1e-4 : 0.0);
            model_free(m);
            small_close(&s);
        }
}

static void heads_that_are_images_merge_without_loss(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++)
        for (int refit = 0; refit < 2; refit++) {
            struct small s;
            small_open(&s, HEADS, HEADS, LAYERS, bias);
            s.method.refit = refit;
            plant_all(&s);
            struct model *m = merge(&s, planted);
            assert_same_logits(s.m, m, 1e-3);
            assert_int_equal(m->cfg.n_key[0], 2);
            assert_int_equal(m->cfg.n_value[0], 2);
            assert_int_equal(m->cfg.n_value[1], 3);
            assert_memory_equal(m->cfg.key_of, planted, HEADS * sizeof *planted);
            assert_memory_equal(m->cfg.value_of + HEADS, planted + 3 * HEADS,
                                HEADS * sizeof *planted);
            model_free(m);
            small_close(&s);
        }
}

static void a_gqa_input_is_expanded_and_merges_back_without_loss(void **state)
{
    (void)state;
    static const int pairs[2 * LAYERS * HEADS] = {0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1};
    struct small s;
    struct plan p;
    struct dha_err e = {0};
    small_open(&s, HEADS, 2, LAYERS, true);
    s.method.refit = false;
    struct model *m = merge(&s, pairs);
    assert_same_logits(s.m, m, 1e-3);
    assert_int_equal(m->cfg.n_key[1], 2);
    model_free(m);
    if (meanpool_merge(&s.env, pairs, &m, &e))
        fail_msg("%s", e.msg);
    assert_same_logits(s.m, m, 1e-5);
    model_free(m);
    if (spectral_plan(&s.env, &p, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 2 * LAYERS; i++) {
        assert_int_equal(p.entries[i].choices[1].n, 2);
        assert_close(p.entries[i].choices[1].cost, 0.0, 1e-4);
        assert_memory_equal(p.entries[i].choices[1].group_of, pairs, HEADS * sizeof *pairs);
        assert_int_equal(p.entries[i].choices[HEADS - 1].n, HEADS);
        assert_true(p.entries[i].choices[HEADS - 1].cost == 0.0);
    }
    plan_finish(&p);
    small_close(&s);
}

static float *parameters(struct model *m)
{
    float *x = malloc(m->n_params * sizeof *x);
    assert_non_null(x);
    m->k->ops->download(m->k, x, kern_at(m->params, 0), m->n_params);
    return x;
}

static void search_finds_planted_groups_and_leaves_the_parent_alone(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        struct small s;
        struct plan p;
        struct dha_err e = {0};
        small_open(&s, HEADS, HEADS, LAYERS, bias);
        plant_all(&s);
        float *before = parameters(s.m);
        if (spectral_plan(&s.env, &p, &e))
            fail_msg("%s", e.msg);
        float *after = parameters(s.m);
        assert_memory_equal(before, after, s.m->n_params * sizeof *before);
        free(after);
        free(before);
        assert_string_equal(p.cost_unit, "nats");
        for (int i = 0; i < 2 * LAYERS; i++) {
            int copy[HEADS];
            memcpy(copy, planted + i * HEADS, sizeof copy);
            int n = groups_canonical(HEADS, copy);
            assert_int_equal(p.entries[i].n_choices, HEADS);
            const struct choice *c = &p.entries[i].choices[n - 1];
            assert_int_equal(c->n, n);
            assert_memory_equal(c->group_of, copy, sizeof copy);
            assert_close(c->cost, 0.0, 1e-4);
            if (n > 1) /* one head fewer than planted must hurt */
                assert_true(fabs(p.entries[i].choices[n - 2].cost) > 1e-4);
        }
        plan_finish(&p);
        small_close(&s);
    }
}

static int stop_at_costs(void *arg, const char *phase, int64_t done, int64_t total)
{
    int *calls = arg;
    assert_true(done <= total);
    return strcmp(phase, "costs") == 0 && ++*calls == 3;
}

static void a_search_that_is_stopped_leaves_the_parent_alone(void **state)
{
    (void)state;
    struct small s;
    struct plan p;
    struct dha_err e = {0};
    int calls = 0;
    small_open(&s, HEADS, HEADS, LAYERS, false);
    s.env.progress = stop_at_costs;
    s.env.arg = &calls;
    float *before = parameters(s.m);
    assert_int_equal(spectral_plan(&s.env, &p, &e), -1);
    assert_int_equal(e.code, DHA_E_STOPPED);
    float *after = parameters(s.m);
    assert_memory_equal(before, after, s.m->n_params * sizeof *before);
    free(after);
    free(before);
    small_close(&s);
}

static void a_uniform_search_offers_adjacent_groups_of_the_divisors(void **state)
{
    (void)state;
    struct small s;
    struct plan p;
    struct dha_err e = {0};
    static const int pairs[HEADS] = {0, 0, 1, 1};
    small_open(&s, HEADS, HEADS, LAYERS, false);
    assert_int_equal(method_preset("spectral-gqa", &s.method), 0);
    if (spectral_plan(&s.env, &p, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 2 * LAYERS; i++) {
        assert_int_equal(p.entries[i].n_choices, 3);
        assert_int_equal(p.entries[i].choices[0].n, 1);
        assert_int_equal(p.entries[i].choices[1].n, 2);
        assert_int_equal(p.entries[i].choices[2].n, 4);
        assert_memory_equal(p.entries[i].choices[1].group_of, pairs, sizeof pairs);
    }
    plan_finish(&p);
    small_close(&s);
}

static void more_than_twelve_heads_are_searched_on_a_ladder(void **state)
{
    (void)state;
    enum { MANY = 14 };
    static const int groups[MANY] = {0, 1, 2, 0, 0, 3, 1, 1, 2, 3, 3, 0, 2, 1};
    static const int ladder[] = {1, 2, 3, 4, 6, 7, 8, 12, 14}; /* and 7, which divides */
    struct small s;
    struct plan p;
    struct dha_err e = {0};
    small_open(&s, MANY, MANY, 1, false);
    plant_images(s.m, 0, false, groups);
    plant_images(s.m, 0, true, groups);
    if (spectral_plan(&s.env, &p, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(p.entries[i].n_choices, sizeof ladder / sizeof *ladder);
        for (size_t c = 0; c < sizeof ladder / sizeof *ladder; c++)
            assert_int_equal(p.entries[i].choices[c].n, ladder[c]);
        assert_memory_equal(p.entries[i].choices[3].group_of, groups, sizeof groups);
        assert_close(p.entries[i].choices[3].cost, 0.0, 1e-4);
    }
    plan_finish(&p);
    small_close(&s);
}

/* E || y' o'^T - y W^T ||^2 of layer 0 over the refit's own tokens: the ridge minimises this plus a penalty that is zero at
 * the merged o, so it cannot rise. */
static double output_error(struct small *s, struct model *m)
{
    struct run *a, *b;
    struct dha_err e = {0};
    struct attn_layer x, y;
    int32_t ids[SMALL_SEQ], targets[SMALL_SEQ];
    float ya[SMALL_SEQ * HEADS * 4], yb[SMALL_SEQ * HEADS * 4];
    double sum = 0.0;
    if (run_new(&a, s->m, 1, SMALL_SEQ, RUN_INFER, &e) ||
        run_new(&b, m, 1, SMALL_SEQ, RUN_INFER, &e) || layer_load(&x, s->m, 0, &e) ||
        layer_load(&y, m, 0, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 1024 / SMALL_SEQ; i++) {
        corpus_draw(s->c, s->env.seed, STREAM_REFIT, 0, i, SMALL_SEQ, ids, targets, &e);
        run_embed(a, ids);
        run_embed(b, ids);
        run_attention_only(a, 0);
        run_attention_only(b, 0);
        s->k->ops->download(s->k, ya, run_attn_out(a), sizeof ya / sizeof *ya);
        s->k->ops->download(s->k, yb, run_attn_out(b), sizeof yb / sizeof *yb);
        for (int t = 0; t < SMALL_SEQ; t++)
            for (int r = 0; r < HEADS * 4; r++) {
                double d = 0.0;
                for (int c = 0; c < HEADS * 4; c++)
                    d += (double)yb[t * HEADS * 4 + c] * y.o[r * HEADS * 4 + c] -
                         (double)ya[t * HEADS * 4 + c] * x.o[r * HEADS * 4 + c];
                sum += d * d;
            }
    }
    layer_finish(&y);
    layer_finish(&x);
    run_free(b);
    run_free(a);
    return sum;
}

static void the_refit_lowers_the_error_at_the_attention_output(void **state)
{
    (void)state;
    struct small s;
    small_open(&s, HEADS, HEADS, LAYERS, false);
    s.method.refit = false;
    struct model *plain = merge(&s, planted); /* nothing was planted: a lossy merge */
    s.method.refit = true;
    struct model *refit = merge(&s, planted);
    double was = output_error(&s, plain), is = output_error(&s, refit);
    assert_true(was > 1.0);
    assert_true(is < 0.9 * was);
    model_free(refit);
    model_free(plain);
    small_close(&s);
}

static void mean_pooling_takes_the_mean_of_each_group(void **state)
{
    (void)state;
    struct small s;
    struct model *m;
    struct attn_layer a, b;
    struct dha_err e = {0};
    small_open(&s, HEADS, HEADS, LAYERS, true);
    if (meanpool_merge(&s.env, planted, &m, &e) || layer_load(&a, s.m, 0, &e) ||
        layer_load(&b, m, 0, &e))
        fail_msg("%s", e.msg);
    size_t each = 4 * (size_t)a.width; /* keys of heads 0 and 2 are one group */
    for (size_t i = 0; i < each; i++)
        assert_close(b.k[i], (a.k[i] + a.k[2 * each + i]) / 2, 1e-6);
    for (size_t i = 0; i < 4; i++) /* value biases of heads 0, 1, 2 */
        assert_close(b.bv[i], (a.bv[i] + a.bv[4 + i] + a.bv[8 + i]) / 3, 1e-6);
    assert_memory_equal(a.q, b.q, sizeof(double) * HEADS * each);
    layer_finish(&b);
    layer_finish(&a);
    model_free(m);
    small_close(&s);
}

/* --- fusion operators ---------------------------------------------------------------------------- */

static void set_omega(struct model *m, const float *omega, size_t n)
{
    m->k->ops->upload(m->k, kern_at(m->oper->omega, 0), omega, n);
    model_oper_apply(m);
}

static void fusing_equal_rows_changes_no_logit(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        enum { EACH = HEADS * HEADS * 4, ALL = 2 * LAYERS * EACH };
        struct small s;
        struct model *fused;
        struct dha_err e = {0};
        static float omega[ALL];
        small_open(&s, HEADS, HEADS, LAYERS, bias);
        if (model_oper_attach(s.m, planted, &e))
            fail_msg("%s", e.msg);
        for (int i = 0; i < 2 * LAYERS; i++)
            for (int j = 0; j < HEADS; j++)
                for (int c = 0; c < 4; c++) {
                    float w = (float)normal();
                    for (int h = 0; h < HEADS; h++)
                        omega[i * EACH + (h * HEADS + j) * 4 + c] =
                            planted[i * HEADS + h] == planted[i * HEADS + j] ? w : 0.0f;
                }
        set_omega(s.m, omega, ALL);
        if (fusion_fuse(s.m, &fused, &e))
            fail_msg("%s", e.msg);
        assert_null(fused->oper);
        assert_memory_equal(fused->cfg.key_of, planted, HEADS * sizeof *planted);
        assert_same_logits(s.m, fused, 1e-4);
        model_free(fused);
        small_close(&s);
    }
}

static void fusing_takes_the_mean_row(void **state)
{
    (void)state;
    enum { EACH = HEADS * HEADS * 4 };
    struct small s;
    struct model *fused;
    struct attn_layer a, b;
    struct dha_err e = {0};
    small_open(&s, HEADS, HEADS, LAYERS, false);
    if (model_oper_attach(s.m, planted, &e)) /* delta: the mean row is 1/g */
        fail_msg("%s", e.msg);
    if (fusion_fuse(s.m, &fused, &e) || layer_load(&a, s.m, 1, &e) || layer_load(&b, fused, 1, &e))
        fail_msg("%s", e.msg);
    size_t each = 4 * (size_t)a.width;
    for (size_t i = 0; i < each; i++) { /* keys of layer 1: head 0 alone, 1 2 3 together */
        assert_close(b.k[i], a.k[i], 0.0);
        assert_close(b.k[each + i], (a.k[each + i] + a.k[2 * each + i] + a.k[3 * each + i]) / 3,
                     1e-6);
    }
    layer_finish(&b);
    layer_finish(&a);
    model_free(fused);
    small_close(&s);
}

static void learned_distances_group_the_heads_whose_rows_agree(void **state)
{
    (void)state;
    enum { EACH = HEADS * HEADS * 4, ALL = 2 * LAYERS * EACH };
    static const int whole[2 * LAYERS * HEADS] = {0};
    static float omega[ALL];
    struct small s;
    struct plan p;
    struct dha_err e = {0};
    small_open(&s, HEADS, HEADS, LAYERS, false);
    assert_int_equal(method_preset("dha", &s.method), 0);
    assert_int_equal(fusion_plan(&s.env, s.m, &p, &e), -1); /* no operators yet */
    if (model_oper_attach(s.m, whole, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < ALL; i++) /* rows of heads 0 and 3, and of 1 and 2, nearly equal */
        omega[i] = (float)((i % EACH / (HEADS * 4) % 3 == 0 ? 1.0 : -1.0) * 0.3 * (i % 4) +
                           0.01 * normal());
    set_omega(s.m, omega, ALL);
    if (fusion_plan(&s.env, s.m, &p, &e))
        fail_msg("%s", e.msg);
    assert_string_equal(p.cost_unit, "distance");
    static const int want[HEADS] = {0, 1, 1, 0};
    for (int i = 0; i < 2 * LAYERS; i++) {
        assert_int_equal(p.entries[i].n_choices, 3); /* divisors of 4 */
        const struct choice *c = &p.entries[i].choices[1];
        assert_memory_equal(c->group_of, want, sizeof want);
        const double *d = p.distance + i * HEADS * HEADS;
        double sum = 0.0; /* METHODS 1.4 with g = H: mean over j and c */
        for (int x = 0; x < HEADS * 4; x++) {
            double diff = (double)omega[i * EACH + x] - (double)omega[i * EACH + HEADS * 4 + x];
            sum += diff * diff / (HEADS * 4);
        }
        assert_close(d[1], sum, 1e-9);
        assert_close(c->cost, d[3] + d[HEADS + 2], 1e-12);
        assert_close(p.entries[i].choices[2].cost, 0.0, 0.0);
    }
    plan_finish(&p);
    small_close(&s);
}

/* --- bad input ----------------------------------------------------------------------------------- */

static void what_cannot_be_merged_is_refused(void **state)
{
    (void)state;
    struct small s;
    struct model *m;
    struct plan p;
    struct dha_err e = {0};
    int groups[2 * LAYERS * HEADS];
    small_open(&s, HEADS, HEADS, LAYERS, false);
    memcpy(groups, planted, sizeof groups);
    groups[0] = 1; /* not numbered by the smallest head */
    assert_int_equal(spectral_merge(&s.env, groups, &m, &e), -1);
    assert_int_equal(e.code, DHA_E_INTERNAL);
    groups[0] = -1;
    assert_int_equal(meanpool_merge(&s.env, groups, &m, &e), -1);

    s.env.calib_tokens = 0;
    assert_int_equal(spectral_plan(&s.env, &p, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_true(strlen(e.hint) > 0);
    s.env.calib_tokens = 1024;

    const struct param *q = model_param(s.m, 1, P_Q);
    float *x = malloc(q->n * sizeof *x);
    assert_non_null(x);
    model_get(s.m, q, x);
    x[7] = NAN;
    model_set(s.m, q, x);
    free(x);
    assert_int_equal(spectral_plan(&s.env, &p, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_int_equal(spectral_merge(&s.env, planted, &m, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    small_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_nothing_changes_nothing),
        cmocka_unit_test(heads_that_are_images_merge_without_loss),
        cmocka_unit_test(a_gqa_input_is_expanded_and_merges_back_without_loss),
        cmocka_unit_test(search_finds_planted_groups_and_leaves_the_parent_alone),
        cmocka_unit_test(a_search_that_is_stopped_leaves_the_parent_alone),
        cmocka_unit_test(a_uniform_search_offers_adjacent_groups_of_the_divisors),
        cmocka_unit_test(more_than_twelve_heads_are_searched_on_a_ladder),
        cmocka_unit_test(the_refit_lowers_the_error_at_the_attention_output),
        cmocka_unit_test(mean_pooling_takes_the_mean_of_each_group),
        cmocka_unit_test(fusing_equal_rows_changes_no_logit),
        cmocka_unit_test(fusing_takes_the_mean_row),
        cmocka_unit_test(learned_distances_group_the_heads_whose_rows_agree),
        cmocka_unit_test(what_cannot_be_merged_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
