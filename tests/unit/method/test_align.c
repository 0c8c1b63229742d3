/* Alignment (METHODS 2.2-2.5): it changes no logit, finds rotations that were planted, and its two solutions of the pair
 * problem are the best among others. d = 4: two RoPE planes. */
#include "tests/unit/method/small_model.h"

#include "worker/method/align.h"

enum { LAYERS = 2, HEADS = 6, D = 4 };

static const int thirds[2 * LAYERS * HEADS] = {0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1,
                                               0, 1, 1, 0, 2, 2, 0, 0, 0, 0, 0, 0};

static struct model *align(struct small *s, const int *group_of)
{
    struct model *out;
    struct dha_err e = {0};
    if (align_apply(&s->env, group_of, &out, &e))
        fail_msg("%s", e.msg);
    return out;
}

/* f32 weights are rounded after float64 rotations; the model is two layers deep with logits of size 10. */
static void aligning_changes_no_logit(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        struct small s;
        small_open(&s, HEADS, HEADS, LAYERS, bias);
        struct model *m = align(&s, thirds);
        assert_same_logits(s.m, m, 1e-4);
        const struct param *p = model_param(m, 0, P_V);
        float *x = malloc(p->n * sizeof *x), *y = malloc(p->n * sizeof *y);
        double moved = 0;
        model_get(m, p, x);
        model_get(s.m, p, y);
        for (size_t i = 0; i < p->n; i++)
            moved = fmax(moved, fabs((double)x[i] - (double)y[i]));
        assert_true(moved > 0.01); /* it did do something */
        free(x);
        free(y);
        model_free(m);
        small_close(&s);
    }
}

/* Random Q: orthogonal by Gram-Schmidt, or planar. */
static void random_turn(bool planar, double q[D * D])
{
    memset(q, 0, D * D * sizeof *q);
    if (planar) {
        for (int p = 0; p < D / 2; p++) {
            double phi = 6.283185307179586 * uniform();
            int r = p + D / 2;
            q[p * D + p] = q[r * D + r] = cos(phi);
            q[p * D + r] = sin(phi);
            q[r * D + p] = -sin(phi);
        }
        return;
    }
    for (int i = 0; i < D; i++) {
        double norm = 0;
        for (int c = 0; c < D; c++)
            q[i * D + c] = normal();
        for (int j = 0; j < i; j++) {
            double dot = 0;
            for (int c = 0; c < D; c++)
                dot += q[i * D + c] * q[j * D + c];
            for (int c = 0; c < D; c++)
                q[i * D + c] -= dot * q[j * D + c];
        }
        for (int c = 0; c < D; c++)
            norm += q[i * D + c] * q[i * D + c];
        for (int c = 0; c < D; c++)
            q[i * D + c] /= sqrt(norm);
    }
}

/* Head h's rows become random turns of those of the first head of its group. */
static void plant_turns(struct model *m, int layer, bool values, const int *group_of)
{
    struct attn_layer a;
    struct dha_err e = {0};
    if (layer_load(&a, m, layer, &e))
        fail_msg("%s", e.msg);
    double *w = values ? a.v : a.k, *b = values ? a.bv : a.bk, q[D * D];
    size_t width = (size_t)a.width;
    for (int h = 0; h < a.heads; h++) {
        int first = 0;
        while (group_of[first] != group_of[h])
            first++;
        if (first == h)
            continue;
        random_turn(!values, q);
        for (size_t x = 0; x < width; x++)
            for (int r = 0; r < D; r++) {
                double sum = 0;
                for (int c = 0; c < D; c++)
                    sum += q[r * D + c] * w[(size_t)(first * D + c) * width + x];
                w[(size_t)(h * D + r) * width + x] = sum;
            }
        for (int r = 0; a.bias && r < D; r++) {
            b[h * D + r] = 0;
            for (int c = 0; c < D; c++)
                b[h * D + r] += q[r * D + c] * b[first * D + c];
        }
    }
    if (layer_store(&a, m, layer, &e))
        fail_msg("%s", e.msg);
    layer_finish(&a);
}

static void turned_heads_pool_without_loss_after_alignment_only(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        struct small s;
        struct dha_err e = {0};
        struct model *pooled, *parent;
        small_open(&s, HEADS, HEADS, LAYERS, bias);
        for (int i = 0; i < 2 * LAYERS; i++)
            plant_turns(s.m, i / 2, i % 2, thirds + i * HEADS);
        parent = s.m;
        struct model *m = align(&s, thirds);
        s.env.parent = m;
        assert_int_equal(meanpool_merge(&s.env, thirds, &pooled, &e), 0);
        assert_same_logits(parent, pooled, 1e-3);
        model_free(pooled);
        s.env.parent = parent;
        assert_int_equal(meanpool_merge(&s.env, thirds, &pooled, &e), 0);
        float *x = small_logits(parent), *y = small_logits(pooled);
        double worst = 0;
        for (int i = 0; i < 2 * SMALL_SEQ * 40; i++)
            worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
        assert_true(worst > 0.1);
        free(x);
        free(y);
        model_free(pooled);
        model_free(m);
        small_close(&s);
    }
}

/* METHODS 2.9 */
static void pooled_heads_have_their_members_mean_norm_if_asked(void **state)
{
    (void)state;
    for (int restore = 0; restore < 2; restore++) {
        struct small s;
        struct dha_err e = {0};
        struct model *pooled;
        struct attn_layer before, after;
        small_open(&s, HEADS, HEADS, LAYERS, true);
        s.method.norm_restore = restore;
        assert_int_equal(meanpool_merge(&s.env, thirds, &pooled, &e), 0);
        assert_int_equal(layer_load(&before, s.m, 0, &e), 0);
        assert_int_equal(layer_load(&after, pooled, 0, &e), 0);
        size_t each = D * (size_t)before.width;
        double want = 0, got = 0; /* keys of layer 0: heads 0, 1, 2 are a group */
        for (size_t h = 0; h < 3; h++) {
            double sum = 0;
            for (size_t x = 0; x < each; x++)
                sum += before.k[h * each + x] * before.k[h * each + x];
            want += sqrt(sum) / 3;
        }
        for (size_t x = 0; x < each; x++)
            got += after.k[x] * after.k[x];
        if (restore)
            assert_close(sqrt(got), want, 1e-5);
        else /* random heads are nearly orthogonal: their mean is shorter by about sqrt 3 */
            assert_true(sqrt(got) < 0.8 * want);
        layer_finish(&before);
        layer_finish(&after);
        model_free(pooled);
        small_close(&s);
    }
}

static void solutions_are_orthogonal_and_fit_best(void **state)
{
    (void)state;
    struct dha_err e = {0};
    for (int planar = 0; planar < 2; planar++)
        for (int trial = 0; trial < 20; trial++) {
            double m[D * D], q[D * D], other[D * D];
            for (int i = 0; i < D * D; i++)
                m[i] = normal();
            assert_int_equal((planar ? align_planar : align_orthogonal)(D, m, q, &e), 0);
            for (int i = 0; i < D; i++)
                for (int j = 0; j < D; j++) {
                    double dot = 0;
                    for (int c = 0; c < D; c++)
                        dot += q[i * D + c] * q[j * D + c];
                    assert_close(dot, i == j, 1e-12);
                }
            for (int k = 0; k < 200; k++) {
                random_turn(planar, other);
                assert_true(inner(D * D, other, m) <= inner(D * D, q, m) + 1e-12);
            }
            if (planar) { /* METHODS 2.3: the fit of a plane is hypot(alpha, beta) */
                double best = 0;
                for (int p = 0, r = D / 2; p < D / 2; p++, r++)
                    best += hypot(m[p * D + p] + m[r * D + r], m[p * D + r] - m[r * D + p]);
                assert_close(inner(D * D, q, m), best, 1e-12);
            }
        }
}

/* A head of zeros has no direction; it must not make a NaN. */
static void a_head_of_zeros_aligns_to_a_rotation(void **state)
{
    (void)state;
    struct dha_err e = {0};
    double zero[D * D] = {0}, q[D * D];
    assert_int_equal(align_orthogonal(D, zero, q, &e), 0);
    for (int i = 0; i < D * D; i++)
        assert_true(fabs(q[i]) <= 1);
    assert_int_equal(align_planar(D, zero, q, &e), 0);
    assert_true(q[0] == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aligning_changes_no_logit),
        cmocka_unit_test(turned_heads_pool_without_loss_after_alignment_only),
        cmocka_unit_test(pooled_heads_have_their_members_mean_norm_if_asked),
        cmocka_unit_test(solutions_are_orthogonal_and_fit_best),
        cmocka_unit_test(a_head_of_zeros_aligns_to_a_rotation),
    };
    return cmocka_run_group_tests_name("method: alignment", tests, NULL, NULL);
}
