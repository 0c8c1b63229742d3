/* Similarity after alignment, the groups it gives, and the order of heads that makes them contiguous (METHODS 2.2-2.4).
 * d = 4: two RoPE planes. */
#include "tests/unit/method/small_model.h"

#include "worker/method/align.h"
#include "worker/method/calib.h"
#include "worker/method/linalg.h"
#include "worker/method/permute.h"
#include "worker/method/similarity.h"

enum { LAYERS = 2, HEADS = 6, D = 4, TOKENS = 500 };

/* Groups {0,3}, {1,5}, {2,4}: no two neighbours. */
static const int planted[HEADS] = {0, 1, 2, 0, 2, 1};

static void the_fit_is_what_the_best_rotation_reaches(void **state)
{
    (void)state;
    struct dha_err e = {0};
    for (int trial = 0; trial < 40; trial++)
        for (int values = 0; values < 2; values++) {
            double m[D * D], q[D * D], fit;
            for (int i = 0; i < D * D; i++)
                m[i] = normal();
            assert_int_equal((values ? align_orthogonal : align_planar)(D, m, q, &e), 0);
            assert_int_equal(similarity_fit(values, D, m, &fit, &e), 0);
            assert_close(fit, inner(D * D, q, m), 1e-12);
        }
    double diagonal[D * D] = {0}, fit;
    for (int i = 0; i < D; i++)
        diagonal[i * D + i] = i % 2 ? -(i + 1) : i + 1;
    assert_int_equal(similarity_fit(true, D, diagonal, &fit, &e), 0);
    assert_close(fit, 1 + 2 + 3 + 4, 1e-12); /* nuclear norm: signs do not count */
}

/* q is a rotation of one head's outputs onto another's: orthogonal, or one rotation a plane. */
static void some_turn(bool values, double q[D * D])
{
    struct dha_err e = {0};
    double m[D * D];
    for (int i = 0; i < D * D; i++)
        m[i] = normal();
    assert_int_equal((values ? align_orthogonal : align_planar)(D, m, q, &e), 0);
}

/* Outputs of two heads, the second being the first turned by q plus noise; [TOKENS][2*D]. */
static void two_heads(bool values, double noise, double *x, double q[D * D])
{
    some_turn(values, q);
    for (int t = 0; t < TOKENS; t++) {
        double *a = x + t * 2 * D, *b = a + D;
        for (int c = 0; c < D; c++)
            a[c] = normal();
        for (int c = 0; c < D; c++) {
            b[c] = noise * normal();
            for (int r = 0; r < D; r++)
                b[c] += a[r] * q[r * D + c];
        }
    }
}

static void moments_of(const double *x, double *moments)
{
    for (int i = 0; i < 2 * D; i++)
        for (int j = 0; j < 2 * D; j++) {
            moments[i * 2 * D + j] = 0;
            for (int t = 0; t < TOKENS; t++)
                moments[i * 2 * D + j] += x[t * 2 * D + i] * x[t * 2 * D + j] / TOKENS;
        }
}

static void to_length_one(double *x, int n)
{
    for (int i = 0; i < n; i += D) {
        double sum = 0;
        for (int c = 0; c < D; c++)
            sum += x[i + c] * x[i + c];
        for (int c = 0; c < D; c++)
            x[i + c] /= sqrt(sum);
    }
}

/* Of the alignment found: X_i Q against X_j, token by token. */
static double direct_distance(const double *x, const double *q, bool cosine)
{
    double sum = 0;
    for (int t = 0; t < TOKENS; t++) {
        const double *a = x + t * 2 * D, *b = a + D;
        double dot = 0, aa = 0, bb = 0, far = 0;
        for (int c = 0; c < D; c++) {
            double y = 0;
            for (int r = 0; r < D; r++)
                y += a[r] * q[r * D + c];
            dot += y * b[c];
            aa += y * y;
            bb += b[c] * b[c];
            far += (y - b[c]) * (y - b[c]);
        }
        sum += (cosine ? 1 - dot / sqrt(aa * bb) : far) / TOKENS;
    }
    return sum;
}

static void the_distance_from_moments_is_that_of_aligned_tokens(void **state)
{
    (void)state;
    static double x[TOKENS * 2 * D];
    struct comm alone;
    struct dha_err e = {0};
    comm_alone(&alone);
    for (int values = 0; values < 2; values++)
        for (int cosine = 0; cosine < 2; cosine++) {
            double q[D * D], cross[D * D], moments[4 * D * D], distance[4];
            enum method_criterion by = cosine ? CRITERION_COS : CRITERION_DIST;
            two_heads(values, 0.5, x, q);
            if (cosine)
                to_length_one(x, TOKENS * 2 * D);
            moments_of(x, moments);
            for (int r = 0; r < D; r++)
                memcpy(cross + r * D, moments + r * 2 * D + D, D * sizeof *cross);
            assert_int_equal((values ? align_orthogonal : align_planar)(D, cross, q, &e), 0);
            assert_int_equal(similarity_distance(&alone, values, by, 2, D, moments, distance, &e),
                             0);
            assert_close(distance[1], direct_distance(x, q, cosine), 1e-9);
            assert_true(distance[0] == 0 && distance[3] == 0);
            assert_true(distance[1] == distance[2]);
        }
}

static void a_turned_head_is_at_distance_zero(void **state)
{
    (void)state;
    static double x[TOKENS * 2 * D];
    struct comm alone;
    struct dha_err e = {0};
    comm_alone(&alone);
    for (int values = 0; values < 2; values++) {
        double q[D * D], found[D * D], cross[D * D], moments[4 * D * D], distance[4];
        two_heads(values, 0, x, q);
        moments_of(x, moments);
        for (int r = 0; r < D; r++)
            memcpy(cross + r * D, moments + r * 2 * D + D, D * sizeof *cross);
        assert_int_equal((values ? align_orthogonal : align_planar)(D, cross, found, &e), 0);
        for (int i = 0; i < D * D; i++) /* X_j = X_i Q: it is found again */
            assert_close(found[i], q[i], 1e-9);
        assert_int_equal(
            similarity_distance(&alone, values, CRITERION_DIST, 2, D, moments, distance, &e), 0);
        assert_close(distance[1], 0, 1e-9);
    }
}

/* ---- whole models --------------------------------------------------------------------------------- */

/* Heads of a group become turns of its first head, nearly. */
static void plant(struct model *m, int layer, bool values, const int *group_of)
{
    struct attn_layer a;
    struct dha_err e = {0};
    if (layer_load(&a, m, layer, &e))
        fail_msg("%s", e.msg);
    double *w = values ? a.v : a.k, q[D * D];
    size_t width = (size_t)a.width;
    for (int h = 0; h < a.heads; h++) {
        int first = 0;
        while (group_of[first] != group_of[h])
            first++;
        if (first == h)
            continue;
        some_turn(values, q);
        for (size_t x = 0; x < width; x++)
            for (int c = 0; c < D; c++) {
                double sum = 0.02 * normal();
                for (int r = 0; r < D; r++)
                    sum += q[r * D + c] * w[(size_t)(first * D + r) * width + x];
                w[(size_t)(h * D + c) * width + x] = sum;
            }
    }
    if (layer_store(&a, m, layer, &e))
        fail_msg("%s", e.msg);
    layer_finish(&a);
}

static const struct choice *choice_of(const struct plan *p, int entry, int n)
{
    for (int c = 0; c < p->entries[entry].n_choices; c++)
        if (p->entries[entry].choices[c].n == n)
            return &p->entries[entry].choices[c];
    fail_msg("no choice of %d heads", n);
    return NULL;
}

static void planted_groups_are_found_by_each_criterion(void **state)
{
    (void)state;
    for (int values = 0; values < 2; values++)
        for (int cosine = 0; cosine < 2; cosine++) {
            struct small s;
            struct plan p;
            struct dha_err e = {0};
            small_open(&s, HEADS, HEADS, LAYERS, false);
            s.method = (struct method){.name = "align-gqa",
                                       .grouping = values ? GROUP_ALIGNED_VALUE : GROUP_ALIGNED_KEY,
                                       .criterion = cosine ? CRITERION_COS : CRITERION_DIST,
                                       .uniform = true};
            for (int l = 0; l < LAYERS; l++)
                plant(s.m, l, values, planted);
            if (similarity_plan(&s.env, &p, &e))
                fail_msg("%s", e.msg);
            for (int i = 0; i < 2 * LAYERS; i++) {           /* one grouping for keys and values */
                assert_int_equal(p.entries[i].n_choices, 4); /* divisors of 6 */
                assert_memory_equal(choice_of(&p, i, 3)->group_of, planted, sizeof planted);
                assert_memory_equal(p.entries[i].choices[1].group_of,
                                    p.entries[i ^ 1].choices[1].group_of, sizeof planted);
                const double *d = p.distance + i * HEADS * HEADS;
                for (int a = 0; a < HEADS; a++)
                    for (int b = 0; b < HEADS; b++) {
                        assert_true(d[a * HEADS + b] == d[b * HEADS + a]);
                        assert_true(a == b || d[a * HEADS + b] > 0);
                    }
            }
            plan_finish(&p);
            small_close(&s);
        }
}

static void keys_and_values_may_each_go_by_their_own(void **state)
{
    (void)state;
    struct small s;
    struct plan p[3];
    struct dha_err e = {0};
    static const enum method_grouping by[] = {GROUP_ALIGNED_KEY, GROUP_ALIGNED_VALUE,
                                              GROUP_ALIGNED};
    enum { PAIRS = HEADS * HEADS };
    small_open(&s, HEADS, HEADS, LAYERS, false);
    for (int i = 0; i < 3; i++) {
        s.method = (struct method){.name = "aligned-dha",
                                   .grouping = by[i],
                                   .budget = i == 2 ? BUDGET_ADAPTIVE : BUDGET_UNIFORM,
                                   .any_count = i == 2};
        if (similarity_plan(&s.env, &p[i], &e))
            fail_msg("%s", e.msg);
    }
    for (int i = 0; i < 2 * LAYERS; i++) {
        assert_memory_equal(p[2].distance + i * PAIRS, p[i % 2].distance + i * PAIRS,
                            PAIRS * sizeof *p[2].distance);
        assert_int_equal(p[2].entries[i].n_choices, HEADS); /* groups of any size */
        const struct choice *equal = choice_of(&p[i % 2], i, 3), *any = choice_of(&p[2], i, 3);
        assert_true(any->cost <= equal->cost + 1e-12);
    }
    assert_true(memcmp(p[2].distance, p[2].distance + PAIRS, PAIRS * sizeof(double)) != 0);
    for (int i = 0; i < 3; i++)
        plan_finish(&p[i]);
    small_close(&s);
}

/* G_ij = W_i C W_j^T (METHODS 2.1): the planar fit of keys does not see that RoPE has turned them. */
static void moments_behind_rope_serve_as_well(void **state)
{
    (void)state;
    struct small s;
    struct plan p;
    struct dha_err e = {0};
    small_open(&s, HEADS, HEADS, 1, false);
    s.method = (struct method){.name = "align-gqa", .grouping = GROUP_ALIGNED_KEY, .uniform = true};
    if (similarity_plan(&s.env, &p, &e))
        fail_msg("%s", e.msg);

    const bool need[MODEL_MAX_HEADS] = {false};
    int seqs = (int)s.env.calib_tokens / SMALL_SEQ, width = HEADS * D;
    struct walk w;
    struct calib_layer c;
    struct attn_layer a;
    assert_int_equal(walk_open(&w, &s.env, s.m, STREAM_CALIB, 0, seqs, &e), 0);
    assert_int_equal(calib_layer(&c, &w, &s.comm, 0, seqs, need, &e), 0);
    assert_int_equal(layer_load(&a, s.m, 0, &e), 0);
    double half[HEADS * D * HEADS * D], moments[HEADS * D * HEADS * D], want[HEADS * HEADS];
    la_gemm(false, false, width, width, width, 1, a.k, width, c.c, width, 0, half, width);
    la_gemm(false, true, width, width, width, 1, half, width, a.k, width, 0, moments, width);
    assert_int_equal(
        similarity_distance(&s.comm, false, CRITERION_DIST, HEADS, D, moments, want, &e), 0);
    for (int i = 0; i < HEADS * HEADS; i++)
        assert_close(p.distance[i], want[i], 1e-4 * (1 + want[i]));
    layer_finish(&a);
    calib_layer_finish(&c);
    walk_close(&w);
    plan_finish(&p);
    small_close(&s);
}

static void another_order_of_heads_changes_no_logit(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        struct small s;
        struct model *m, *pooled;
        struct dha_err e = {0};
        int groups[2 * LAYERS * HEADS], adjacent[HEADS];
        small_open(&s, HEADS, HEADS, LAYERS, bias);
        for (int i = 0; i < 2 * LAYERS; i++)
            memcpy(groups + i * HEADS, planted, sizeof planted);
        if (permute_heads(s.m, groups, &m, &e))
            fail_msg("%s", e.msg);
        assert_same_logits(s.m, m, 1e-4);
        groups_adjacent(HEADS, 3, adjacent);
        for (int i = 0; i < 2 * LAYERS; i++)
            assert_memory_equal(groups + i * HEADS, adjacent, sizeof adjacent);

        struct attn_layer old, new;
        assert_int_equal(layer_load(&old, s.m, 1, &e), 0);
        assert_int_equal(layer_load(&new, m, 1, &e), 0);
        size_t each = D * (size_t)old.width; /* the second head is now what head 3 was */
        assert_memory_equal(new.k + each, old.k + 3 * each, each * sizeof *old.k);
        layer_finish(&new);
        layer_finish(&old);

        /* pooled in either order it is the same function; only the new one is plain GQA */
        s.env.parent = m;
        assert_int_equal(meanpool_merge(&s.env, groups, &pooled, &e), 0);
        assert_true(model_config_is_plain_gqa(&pooled->cfg));
        struct model *in_place;
        for (int i = 0; i < 2 * LAYERS; i++)
            memcpy(groups + i * HEADS, planted, sizeof planted);
        s.env.parent = s.m;
        assert_int_equal(meanpool_merge(&s.env, groups, &in_place, &e), 0);
        assert_false(model_config_is_plain_gqa(&in_place->cfg));
        assert_same_logits(in_place, pooled, 1e-4);
        model_free(in_place);
        model_free(pooled);
        model_free(m);
        small_close(&s);
    }
}

static void different_groups_of_keys_and_values_have_no_common_order(void **state)
{
    (void)state;
    struct small s;
    struct model *m;
    struct dha_err e = {0};
    int groups[2 * HEADS];
    small_open(&s, HEADS, HEADS, 1, false);
    memcpy(groups, planted, sizeof planted);
    groups_adjacent(HEADS, 3, groups + HEADS);
    assert_int_equal(permute_heads(s.m, groups, &m, &e), -1);
    assert_int_equal(e.code, DHA_E_INTERNAL);
    small_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fit_is_what_the_best_rotation_reaches),
        cmocka_unit_test(the_distance_from_moments_is_that_of_aligned_tokens),
        cmocka_unit_test(a_turned_head_is_at_distance_zero),
        cmocka_unit_test(planted_groups_are_found_by_each_criterion),
        cmocka_unit_test(keys_and_values_may_each_go_by_their_own),
        cmocka_unit_test(moments_behind_rope_serve_as_well),
        cmocka_unit_test(another_order_of_heads_changes_no_logit),
        cmocka_unit_test(different_groups_of_keys_and_values_have_no_common_order),
    };
    return cmocka_run_group_tests_name("method: similarity", tests, NULL, NULL);
}
