/* What must not change a model's logits (METHODS section 4), and gradients against finite differences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/unit/worker/small_model.h"
#include "worker/model/expand.h"

enum { H = 4, D = 6, HID = 20 };

static struct model *clone(struct model *m)
{
    struct model *c;
    struct dha_err e;
    assert_int_equal(model_clone(&c, m, &e), 0);
    return c;
}

static float *get(struct model *m, int layer, enum layer_param p)
{
    const struct param *x = model_param(m, layer, p);
    float *w = malloc(x->n * sizeof *w);
    assert_non_null(w);
    model_get(m, x, w);
    return w;
}

static void put(struct model *m, int layer, enum layer_param p, float *w)
{
    model_set(m, model_param(m, layer, p), w);
    free(w);
}

static void turn(double *x, double *y, double angle)
{
    double a = *x * cos(angle) - *y * sin(angle), b = *x * sin(angle) + *y * cos(angle);
    *x = a;
    *y = b;
}

/* rows i and j of head h of w [.., cols] are turned by angle; columns: of w [rows, heads*dim] */
static void turn_rows(float *w, int h, int i, int j, size_t cols, double angle)
{
    for (size_t c = 0; c < cols; c++) {
        float *p = w + (size_t)(h * D + i) * cols + c, *q = w + (size_t)(h * D + j) * cols + c;
        double x = (double)*p, y = (double)*q;
        turn(&x, &y, angle);
        *p = (float)x;
        *q = (float)y;
    }
}

static void turn_columns(float *w, int h, int i, int j, size_t rows, double angle)
{
    for (size_t r = 0; r < rows; r++) {
        float *p = w + r * H * D + (size_t)(h * D + i), *q = w + r * H * D + (size_t)(h * D + j);
        double x = (double)*p, y = (double)*q;
        turn(&x, &y, angle);
        *p = (float)x;
        *q = (float)y;
    }
}

static void value_rotations_with_o_leave_logits_unchanged(void **state)
{
    (void)state;
    struct model *m = small_model(""), *n = clone(m);
    float *v = get(n, 1, P_V), *o = get(n, 1, P_O);
    for (int h = 0; h < H;
         h++) /* any two dims: any orthogonal change of basis is a product of these */
        for (int i = 0; i < D; i++) {
            turn_rows(v, h, i, (i + 2 + h) % D, HID, 0.3 + i + h);
            turn_columns(o, h, i, (i + 2 + h) % D, HID, 0.3 + i + h);
        }
    put(n, 1, P_V, v);
    put(n, 1, P_O, o);
    small_same_logits(n, m);
    model_free(n);
    model_free(m);
}

static void key_rotations_in_rope_planes_with_q_leave_logits_unchanged(void **state)
{
    (void)state;
    struct model *m = small_model(""), *n = clone(m);
    float *q = get(n, 0, P_Q), *k = get(n, 0, P_K);
    for (int h = 0; h < H; h++)
        for (int i = 0; i < D / 2; i++) {
            turn_rows(q, h, i, i + D / 2, HID, 0.7 + i - h);
            turn_rows(k, h, i, i + D / 2, HID, 0.7 + i - h);
        }
    put(n, 0, P_Q, q);
    put(n, 0, P_K, k);
    small_same_logits(n, m);
    model_free(n);
    model_free(m);
}

static void a_key_rotation_across_planes_does_change_them(void **state)
{
    (void)state;
    struct model *m = small_model(""), *n = clone(m);
    float *q = get(n, 0, P_Q), *k = get(n, 0, P_K);
    turn_rows(q, 0, 0, 1, HID, 0.7);
    turn_rows(k, 0, 0, 1, HID, 0.7);
    put(n, 0, P_Q, q);
    put(n, 0, P_K, k);
    float *a = small_logits(m), *b = small_logits(n);
    assert_true(small_distance(b, a, SMALL_ROWS * 37) > 1e-4);
    free(a);
    free(b);
    model_free(n);
    model_free(m);
}

static void permuting_heads_leaves_logits_unchanged(void **state)
{
    (void)state;
    static const int from[H] = {2, 0, 3, 1};
    struct model *m = small_model(",\"attention_bias\":true"), *n = clone(m);
    static const enum layer_param rows[] = {P_Q, P_K, P_V, P_Q_BIAS, P_K_BIAS, P_V_BIAS};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float *a = get(m, 0, rows[i]), *b = get(m, 0, rows[i]);
        size_t head = D * (size_t)model_param(m, 0, rows[i])->cols;
        for (int h = 0; h < H; h++)
            memcpy(b + (size_t)h * head, a + (size_t)from[h] * head, head * sizeof *a);
        free(a);
        put(n, 0, rows[i], b);
    }
    float *a = get(m, 0, P_O), *b = get(m, 0, P_O);
    for (size_t r = 0; r < HID; r++)
        for (int h = 0; h < H; h++)
            memcpy(b + r * H * D + (size_t)h * D, a + r * H * D + (size_t)from[h] * D,
                   D * sizeof *a);
    free(a);
    put(n, 0, P_O, b);
    small_same_logits(n, m);
    model_free(n);
    model_free(m);
}

static const int groups[4 * H] = {0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 2, 1};

static void delta_operators_change_nothing(void **state)
{
    (void)state;
    const char *kinds[] = {"", ",\"attention_bias\":true"};
    struct dha_err e;
    for (int i = 0; i < 2; i++) {
        struct model *m = small_model(kinds[i]), *n = clone(m);
        assert_int_equal(model_oper_attach(n, groups, &e), 0);
        small_same_logits(n, m);
        assert_int_equal(model_oper_attach(n, groups, &e), -1);
        model_oper_detach(n);
        small_same_logits(n, m);
        model_free(n);
        model_free(m);
    }
}

static void gqa_is_a_head_map_of_equal_heads(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *gqa = small_model(",\"num_key_value_heads\":2"), *mha;
    assert_int_equal(model_param(gqa, 0, P_K)->rows, 2 * D);
    assert_int_equal(model_expand(&mha, gqa, &e), 0);
    assert_int_equal(model_param(mha, 0, P_K)->rows, H * D);
    assert_true(model_config_is_plain_gqa(&mha->cfg));
    small_same_logits(mha, gqa);
    model_free(mha);
    model_free(gqa);
}

/* A model with maps; every map kind differs by layer and between keys and values. */
static struct model *mapped_model(const char *extra)
{
    static const int maps[4][H] = {{0, 1, 0, 2}, {0, 0, 1, 1}, {0, 0, 0, 0}, {0, 1, 2, 3}};
    struct dha_err e;
    struct model *wide = small_model(extra), *m;
    struct model_config c;
    assert_int_equal(model_config_copy(&wide->cfg, &c, &e), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(model_config_set_map(&c, i / 2, i % 2, maps[i], &e), 0);
    assert_int_equal(model_create(&m, small_kern, &c, &e), 0);
    model_config_finish(&c);
    for (int i = 0; i < m->n_table; i++) { /* the first rows of the wide one's parameters */
        float *w = malloc(wide->table[i].n * sizeof *w);
        assert_string_equal(wide->table[i].name, m->table[i].name);
        model_get(wide, &wide->table[i], w);
        model_set(m, &m->table[i], w);
        free(w);
    }
    model_free(wide);
    return m;
}

static void a_head_mapped_model_equals_its_repeated_mha(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = mapped_model(",\"attention_bias\":true,\"tie_word_embeddings\":true"), *x;
    assert_int_equal(model_expand(&x, m, &e), 0);
    small_same_logits(x, m);
    model_free(x);
    model_free(m);
}

/* omega whose rows are equal within each group: every member of a group computes with the same head, the mixture. */
static void fused_weights_equal_the_activation_mixture(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model(""), *fused;
    struct model_config c;
    const size_t omega = H * H * D;
    float host[4 * H * H * D];
    assert_int_equal(model_oper_attach(m, groups, &e), 0);
    for (int entry = 0; entry < 4; entry++)
        for (int h = 0; h < H; h++)
            for (size_t x = 0; x < H * D; x++)
                host[(size_t)entry * omega + (size_t)h * H * D + x] =
                    0.5f + 0.5f * small_random(100 + (uint64_t)entry,
                                               (size_t)groups[entry * H + h] * H * D + x);
    small_kern->ops->upload(small_kern, kern_at(m->oper->omega, 0), host, 4 * omega);
    model_oper_apply(m);

    assert_int_equal(model_config_copy(&m->cfg, &c, &e), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(model_config_set_map(&c, i / 2, i % 2, groups + i * H, &e), 0);
    assert_int_equal(model_create(&fused, small_kern, &c, &e), 0);
    model_config_finish(&c);
    for (int i = 0; i < m->n_table; i++) {
        float *w = malloc(m->table[i].n * sizeof *w);
        model_get(m, &m->table[i], w);
        model_set(fused, &fused->table[i], w);
        free(w);
    }
    for (int i = 0; i < 4; i++) { /* one head a group: the mixture of its members */
        enum layer_param p = i % 2 ? P_V : P_K;
        float *w = get(m, i / 2, p), *out = calloc(H * D * HID, sizeof *out);
        for (int h = 0; h < H; h++)
            for (int j = 0; j < H; j++)
                for (int d = 0; d < D && groups[i * H + j] == groups[i * H + h]; d++)
                    for (int x = 0; x < HID; x++) {
                        float o = host[(size_t)i * omega + (size_t)((h * H + j) * D + d)];
                        /* every member adds the same sum: count one of them */
                        bool first = true;
                        for (int before = 0; before < h; before++)
                            first = first && groups[i * H + before] != groups[i * H + h];
                        if (first)
                            out[(groups[i * H + h] * D + d) * HID + x] += o *
                                                                          w[(j * D + d) * HID + x];
                    }
        free(w);
        put(fused, i / 2, p, out);
    }
    small_same_logits(fused, m);
    model_free(fused);
    model_free(m);
}

/* ---- gradients ---------------------------------------------------------------------------------- */

struct objective {
    struct model *m;
    struct run *r, *teacher;
    int32_t ids[SMALL_ROWS], targets[SMALL_ROWS];
    float w_lm, w_kl;
};

static double value(struct objective *o, struct kern_buf *grads)
{
    double lm = 0, kl = 0;
    struct dha_err e = {0};
    if (o->m->oper)
        model_oper_apply(o->m);
    run_forward(o->r, o->ids);
    if (run_loss(o->r, o->targets, o->teacher, o->w_lm, o->w_kl, 1.0f / SMALL_ROWS, grads, &lm, &kl,
                 &e) < 0)
        fail_msg("%s", e.msg);
    if (grads) {
        run_backward(o->r, grads);
        if (o->m->oper)
            model_oper_backward(o->m, grads);
    }
    return ((double)o->w_lm * lm + (double)o->w_kl * kl) / SMALL_ROWS;
}

/* d value / d x[i] by Richardson-extrapolated central differences. The function is computed in f32 (6e-8), steps of
 * 1e-2 and 2e-2: error about 1e-5 plus h^4 terms; compared at 2e-3 of the largest entry. */
static double slope(struct objective *o, struct kern_buf *b, size_t i)
{
    double d[2];
    float was;
    for (int s = 0; s < 2; s++) {
        float h = s ? 2e-2f : 1e-2f, up, down;
        small_kern->ops->download(small_kern, &was, kern_at(b, i), 1);
        up = was + h;
        down = was - h;
        small_kern->ops->upload(small_kern, kern_at(b, i), &up, 1);
        double a = value(o, NULL);
        small_kern->ops->upload(small_kern, kern_at(b, i), &down, 1);
        double c = value(o, NULL);
        small_kern->ops->upload(small_kern, kern_at(b, i), &was, 1);
        d[s] = (a - c) / ((double)up - (double)down);
    }
    return (4 * d[0] - d[1]) / 3;
}

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
    for (size_t i = 0; i < n; i += stride)
        worst = fmax(worst, fabs(slope(o, x, from + i) - (double)grad[i]));
    free(grad);
    if (!(worst < 2e-3 * most + 2e-6))
        fail_msg("%s: gradient off by %g where the largest entry is %g", what, worst, most);
}

static struct objective objective_of(struct model *m, struct run *teacher, float w_lm, float w_kl)
{
    struct dha_err e = {0};
    struct objective o = {.m = m, .teacher = teacher, .w_lm = w_lm, .w_kl = w_kl};
    small_tokens(o.ids, o.targets);
    if (run_new(&o.r, m, SMALL_BATCH, SMALL_SEQ, RUN_TRAIN, &e) < 0)
        fail_msg("%s", e.msg);
    return o;
}

static void gradients_of_every_parameter_match_finite_differences(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = mapped_model(",\"attention_bias\":true,\"tie_word_embeddings\":true");
    struct objective o = objective_of(m, NULL, 1, 0);
    struct kern_buf *g = model_grads_new(m, &e);
    value(&o, g);
    for (int i = 0; i < m->n_table; i++)
        check_slopes(&o, m->params, g, m->table[i].off, m->table[i].n, m->table[i].n / 7 + 1,
                     m->table[i].name);
    small_kern->ops->free(small_kern, g);
    run_free(o.r);
    model_free(m);
}

static void gradient_of_omega_matches_finite_differences_through_the_model(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model(",\"attention_bias\":true");
    assert_int_equal(model_oper_attach(m, groups, &e), 0);
    float host[4 * H * H * D];
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        host[i] = 0.4f + 0.5f * small_random(200, i);
    small_kern->ops->upload(small_kern, kern_at(m->oper->omega, 0), host, 4 * H * H * D);
    struct objective o = objective_of(m, NULL, 1, 0);
    struct kern_buf *g = model_grads_new(m, &e);
    value(&o, g);
    check_slopes(&o, m->oper->omega, m->oper->domega, 0, 4 * H * H * D, 5, "omega");
    for (int p = P_K; p <= P_V; p++) { /* through the mixture */
        const struct param *x = model_param(m, 1, (enum layer_param)p);
        check_slopes(&o, m->params, g, x->off, x->n, x->n / 11, x->name);
        x = model_param(m, 0, p == P_K ? P_K_BIAS : P_V_BIAS);
        check_slopes(&o, m->params, g, x->off, x->n, 3, x->name);
    }
    small_kern->ops->free(small_kern, g);
    run_free(o.r);
    model_free(m);
}

static void gradient_with_a_teacher_matches_finite_differences(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *teacher = small_model(""), *m = mapped_model("");
    struct run *t;
    assert_int_equal(run_new(&t, teacher, SMALL_BATCH, SMALL_SEQ, RUN_INFER, &e), 0);
    struct objective o = objective_of(m, t, 0.3f, 0.7f);
    run_forward(t, o.ids);
    struct kern_buf *g = model_grads_new(m, &e);
    value(&o, g);
    const enum layer_param some[] = {P_Q, P_K, P_V, P_O, P_GATE, P_DOWN, P_ATTN_NORM};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const struct param *p = model_param(m, 0, some[i]);
        check_slopes(&o, m->params, g, p->off, p->n, p->n / 5 + 1, p->name);
    }
    check_slopes(&o, m->params, g, m->table[m->head].off, 37 * HID, 61, "lm_head");
    small_kern->ops->free(small_kern, g);
    run_free(o.r);
    run_free(t);
    model_free(m);
    model_free(teacher);
}

static void a_model_is_its_own_perfect_teacher(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = small_model("");
    struct run *t;
    assert_int_equal(run_new(&t, m, SMALL_BATCH, SMALL_SEQ, RUN_INFER, &e), 0);
    struct objective o = objective_of(m, t, 0, 1);
    double lm = 0, kl = 0;
    run_forward(t, o.ids);
    run_forward(o.r, o.ids);
    assert_int_equal(run_loss(o.r, o.targets, t, 0, 1, 1, NULL, &lm, &kl, &e), 0);
    assert_true(fabs(kl) < 1e-5 && lm > 1);
    run_free(o.r);
    run_free(t);
    model_free(m);
}

/* ---- runs --------------------------------------------------------------------------------------- */

static void chunks_of_rows_add_up(void **state)
{
    (void)state;
    /* 30 x 20 = 600 rows: two whole chunks of 256 and a rest */
    enum { B = 30, S = 20, N = B * S };
    struct dha_err e;
    struct model *m = small_model("");
    struct run *r;
    static int32_t ids[N], targets[N];
    static float each[N];
    double lm = 0, kl = 0, sum = 0;
    for (size_t i = 0; i < N; i++) {
        ids[i] = (int32_t)(corpus_random(5, 0, 0, 0, i) % 37);
        targets[i] = i % 7 == 0 ? -1 : (int32_t)(corpus_random(5, 1, 0, 0, i) % 37);
    }
    assert_int_equal(run_new(&r, m, B, S, RUN_INFER, &e), 0);
    run_forward(r, ids);
    assert_int_equal(run_loss(r, targets, NULL, 1, 0, 1, NULL, &lm, &kl, &e), 0);
    assert_int_equal(run_token_losses(r, targets, each, &e), 0);
    size_t counted = N - (N + 6) / 7;
    for (size_t i = 0; i < counted; i++)
        sum += (double)each[i];
    assert_true(fabs(sum - lm) < 1e-9 * lm);

    struct kern_buf *b = small_kern->ops->alloc(small_kern, KERN_F32, N * 37);
    static float logits[N * 37];
    run_logits(r, 0, N, kern_at(b, 0));
    small_kern->ops->download(small_kern, logits, kern_at(b, 0), N * 37);
    size_t next = 0;
    for (size_t i = 0; i < N; i++) {
        double z = 0;
        for (int v = 0; v < 37 && targets[i] >= 0; v++)
            z += exp((double)logits[i * 37 + (size_t)v]);
        if (targets[i] >= 0)
            assert_true(fabs(log(z) - (double)logits[i * 37 + (size_t)targets[i]] -
                             (double)each[next++]) < 1e-5);
    }
    assert_int_equal(next, counted);
    small_kern->ops->free(small_kern, b);
    run_free(r);
    model_free(m);
}

static void layers_one_by_one_are_the_whole(void **state)
{
    (void)state;
    struct dha_err e;
    struct model *m = mapped_model("");
    int32_t ids[SMALL_ROWS], targets[SMALL_ROWS];
    float a[SMALL_ROWS * HID], b[SMALL_ROWS * HID], before[SMALL_ROWS * HID];
    small_tokens(ids, targets);
    for (int mode = RUN_INFER; mode <= RUN_TRAIN; mode++) {
        struct run *whole, *parts;
        size_t ld;
        assert_int_equal(run_new(&whole, m, SMALL_BATCH, SMALL_SEQ, mode, &e), 0);
        assert_int_equal(run_new(&parts, m, SMALL_BATCH, SMALL_SEQ, mode, &e), 0);
        run_forward(whole, ids);
        run_embed(parts, ids);
        run_layer(parts, 0);
        small_kern->ops->download(small_kern, before, run_residual(parts), SMALL_ROWS * HID);
        run_attention_only(parts, 1);
        run_qkv(parts, &ld);
        assert_int_equal(ld, (H + 1 + 4) * D); /* layer 1: one key head, four value heads */
        small_kern->ops->download(small_kern, a, run_residual(parts), SMALL_ROWS * HID);
        assert_memory_equal(a, before, sizeof a);
        run_layer(parts, 1);
        run_final(parts);
        small_kern->ops->download(small_kern, a, run_hidden(whole), SMALL_ROWS * HID);
        small_kern->ops->download(small_kern, b, run_hidden(parts), SMALL_ROWS * HID);
        assert_memory_equal(a, b, sizeof a);
        run_free(parts);
        run_free(whole);
    }
    model_free(m);
}

static void tokens_outside_the_vocabulary_are_an_error_not_a_read(void **state)
{
    (void)state;
    struct dha_err e = {0};
    struct kern_err ke;
    struct kern *k = kern_open("reference", 1, &ke), *was = small_kern;
    small_kern = k;
    struct model *m = small_model("");
    struct run *r;
    int32_t ids[SMALL_ROWS], targets[SMALL_ROWS];
    double lm = 0, kl = 0;
    small_tokens(ids, targets);
    assert_int_equal(run_new(&r, m, SMALL_BATCH, SMALL_SEQ, RUN_TRAIN, &e), 0);
    run_forward(r, ids);
    targets[3] = 37;
    assert_int_equal(run_loss(r, targets, NULL, 1, 0, 1, NULL, &lm, &kl, &e), -1);
    assert_non_null(strstr(e.msg, "target 37"));
    targets[3] = 0;
    ids[5] = 37;
    run_forward(r, ids);
    assert_int_equal(run_loss(r, targets, NULL, 1, 0, 1, NULL, &lm, &kl, &e), -1);
    assert_non_null(strstr(e.msg, "token 37 in row 5"));
    run_free(r);
    model_free(m);
    kern_close(k);
    small_kern = was;
}

static void sequences_longer_than_the_positions_are_refused(void **state)
{
    (void)state;
    struct dha_err e = {0};
    struct model *m = small_model("");
    struct run *r;
    assert_int_equal(run_new(&r, m, 1, 65, RUN_INFER, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_non_null(strstr(e.msg, "max_position_embeddings is 64"));
    assert_int_equal(run_new(&r, m, 0, 8, RUN_INFER, &e), -1);
    assert_int_equal(run_new(&r, m, 1, 64, RUN_INFER, &e), 0);
    run_free(r);
    model_free(m);
}

/* 10000^(-p/16) * positions <= 1: p >= 16 log(positions) / log(10000). */
static void slow_planes_follow_the_context_and_its_scaling(void **state)
{
    (void)state;
    struct model_config c = {.head_dim = 32, .max_positions = 256, .rope_theta = 10000};
    assert_int_equal(model_slow_planes(&c), 6);
    c.max_positions = 4096;
    assert_int_equal(model_slow_planes(&c), 1);
    c.max_positions = 131072;
    assert_int_equal(model_slow_planes(&c), 0);
    c.max_positions = 1;
    assert_int_equal(model_slow_planes(&c), 16);
    c.max_positions = 4096; /* turned 16 times slower, so as in 256 positions */
    c.rope = ROPE_LINEAR;
    c.rope_factor = 16;
    assert_int_equal(model_slow_planes(&c), 6);
    c.rope =
        ROPE_LLAMA3; /* waves longer than the original context are slowed down, others are not */
    c.rope_original_positions = 256;
    c.rope_low_freq = 1;
    c.rope_high_freq = 4;
    assert_int_equal(model_slow_planes(&c), 6);
    assert_true(model_rope_angle(&c, 0) == 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(value_rotations_with_o_leave_logits_unchanged),
        cmocka_unit_test(key_rotations_in_rope_planes_with_q_leave_logits_unchanged),
        cmocka_unit_test(a_key_rotation_across_planes_does_change_them),
        cmocka_unit_test(permuting_heads_leaves_logits_unchanged),
        cmocka_unit_test(delta_operators_change_nothing),
        cmocka_unit_test(gqa_is_a_head_map_of_equal_heads),
        cmocka_unit_test(a_head_mapped_model_equals_its_repeated_mha),
        cmocka_unit_test(fused_weights_equal_the_activation_mixture),
        cmocka_unit_test(gradients_of_every_parameter_match_finite_differences),
        cmocka_unit_test(gradient_of_omega_matches_finite_differences_through_the_model),
        cmocka_unit_test(gradient_with_a_teacher_matches_finite_differences),
        cmocka_unit_test(a_model_is_its_own_perfect_teacher),
        cmocka_unit_test(chunks_of_rows_add_up),
        cmocka_unit_test(layers_one_by_one_are_the_whole),
        cmocka_unit_test(slow_planes_follow_the_context_and_its_scaling),
        cmocka_unit_test(tokens_outside_the_vocabulary_are_an_error_not_a_read),
        cmocka_unit_test(sequences_longer_than_the_positions_are_refused),
    };
    return cmocka_run_group_tests_name("model", tests, small_open, small_close);
}
