/* The reference backend's backward passes against central finite differences.
 *
 * Each formula is written here once more, in double and from its definition; the reference forward
 * must agree with it, and the reference backward with its numerical derivative. With a step of 1e-5
 * central differences are off by about 1e-10 (h^2) + 1e-11 (double's rounding / h); the reference
 * stores floats (6e-8 of a number's size). Numbers here are of size 1 to 10: 2e-6 holds both.
 */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MANY = 700 }; /* no array here is longer */
#define CLOSE 2e-6

static struct kern *k;

static int open_reference(void **state)
{
    (void)state;
    k = kern_open("reference", 1, NULL);
    return k ? 0 : -1;
}
static int close_reference(void **state)
{
    (void)state;
    kern_close(k);
    return 0;
}

/* An array as float for the backend and the same numbers as double for the formula. */
struct both {
    size_t n;
    double x[MANY];
    struct kern_buf *buf;
    struct kern_view v;
};

static struct both *random_both(size_t n, uint32_t seed, float scale, float shift)
{
    assert_true(n <= MANY);
    struct both *b = calloc(1, sizeof *b);
    float f[MANY];
    fill_random(f, n, seed, scale, shift);
    b->n = n;
    for (size_t i = 0; i < n; i++)
        b->x[i] = (double)f[i];
    b->buf = k->ops->alloc(k, KERN_F32, n);
    b->v = kern_at(b->buf, 0);
    k->ops->upload(k, b->v, f, n);
    return b;
}

static void drop(struct both *b)
{
    k->ops->free(k, b->buf);
    free(b);
}

static double from_buf(const struct both *b, size_t i)
{
    return (double)((float *)k->ops->host(k, b->v))[i];
}

static void assert_near(double got, double want, const char *what, size_t i)
{
    if (!(fabs(got - want) <= CLOSE * (1 + fabs(want))))
        fail_msg("%s[%zu]: %.9g, should be %.9g", what, i, got, want);
}

/* `got` (a backend's gradient, minus what was there before) is the derivative of f by x. */
static void assert_gradient(double (*f)(void *ctx), void *ctx, struct both *x,
                            const struct both *got, bool accumulated, const char *what)
{
    const double h = 1e-5;
    for (size_t i = 0; i < x->n; i++) {
        double keep = x->x[i];
        x->x[i] = keep + h;
        double up = f(ctx);
        x->x[i] = keep - h;
        double down = f(ctx);
        x->x[i] = keep;
        double before = accumulated ? got->x[i] : 0;
        assert_near(from_buf(got, i), before + (up - down) / (2 * h), what, i);
    }
}

/* ---- RMSNorm ---- */

enum { NORM_ROWS = 3, NORM_DIM = 7 };
struct norm {
    struct both *x, *w, *dy;
};
static double norm_out(const struct norm *n, size_t r, size_t c)
{
    double mean = 0;
    for (size_t i = 0; i < NORM_DIM; i++)
        mean += n->x->x[r * NORM_DIM + i] * n->x->x[r * NORM_DIM + i] / NORM_DIM;
    return n->x->x[r * NORM_DIM + c] / sqrt(mean + (double)1e-5F) * n->w->x[c];
}
static double norm_objective(void *ctx)
{
    const struct norm *n = ctx;
    double sum = 0;
    for (size_t r = 0; r < NORM_ROWS; r++)
        for (size_t c = 0; c < NORM_DIM; c++)
            sum += n->dy->x[r * NORM_DIM + c] * norm_out(n, r, c);
    return sum;
}

static void rmsnorm_gradients_are_derivatives(void **state)
{
    (void)state;
    size_t n = NORM_ROWS * NORM_DIM;
    struct norm f = {random_both(n, 1, 1, 0.2F), random_both(NORM_DIM, 2, 1, 1),
                     random_both(n, 3, 1, 0)};
    struct both *y = random_both(n, 4, 1, 0), *rstd = random_both(NORM_ROWS, 5, 1, 0);
    struct both *dx = random_both(n, 6, 1, 0), *dw = random_both(NORM_DIM, 7, 1, 0);
    k->ops->rmsnorm_fwd(k, y->v, rstd->v, f.x->v, f.w->v, NORM_ROWS, NORM_DIM, 1e-5F);
    k->ops->rmsnorm_bwd(k, dx->v, dw->v, f.dy->v, f.x->v, f.w->v, rstd->v, NORM_ROWS, NORM_DIM);
    for (size_t i = 0; i < n; i++)
        assert_near(from_buf(y, i), norm_out(&f, i / NORM_DIM, i % NORM_DIM), "y", i);
    assert_gradient(norm_objective, &f, f.x, dx, true, "dx");
    assert_gradient(norm_objective, &f, f.w, dw, true, "dw");
    struct both *all[] = {f.x, f.w, f.dy, y, rstd, dx, dw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

/* ---- RoPE: a rotation, whose derivative is its transpose, which is its inverse ---- */

static void rope_backward_is_the_transpose(void **state)
{
    (void)state;
    enum { ROWS = 6, SEQ = 3, HEADS = 2, DIM = 6, N = ROWS * HEADS * DIM };
    float cs[SEQ * DIM];
    for (int t = 0; t < SEQ; t++)
        for (int i = 0; i < DIM / 2; i++) {
            cs[t * DIM + i] = cosf((float)(t * (i + 1)));
            cs[t * DIM + DIM / 2 + i] = sinf((float)(t * (i + 1)));
        }
    struct kern_buf *table = k->ops->alloc(k, KERN_F32, SEQ * DIM);
    k->ops->upload(k, kern_at(table, 0), cs, SEQ * DIM);
    struct both *x = random_both(N, 1, 1, 0), *y = random_both(N, 2, 1, 0);
    k->ops->rope(k, x->v, HEADS * DIM, kern_at(table, 0), ROWS, SEQ, HEADS, DIM, false);
    k->ops->rope(k, y->v, HEADS * DIM, kern_at(table, 0), ROWS, SEQ, HEADS, DIM, true);
    double forward = 0, backward = 0; /* <R x, y> = <x, R^T y> */
    for (size_t i = 0; i < N; i++) {
        forward += from_buf(x, i) * y->x[i];
        backward += x->x[i] * from_buf(y, i);
    }
    assert_near(forward, backward, "<Rx,y>", 0);
    /* and the convention: row 1 of head 0, plane 0 is turned by 1 radian, dims 0 and 3 */
    size_t at = HEADS * DIM;
    assert_near(from_buf(x, at), x->x[at] * cos(1) - x->x[at + 3] * sin(1), "x", 0);
    assert_near(from_buf(x, at + 3), x->x[at + 3] * cos(1) + x->x[at] * sin(1), "x", 3);
    k->ops->free(k, table);
    drop(x);
    drop(y);
}

/* ---- attention ---- */

enum { AB = 2, AT = 5, AH = 4, AK = 2, AV = 3, AD = 3 };
static const int att_key_of[AH] = {1, 0, 1, 1}, att_value_of[AH] = {2, 0, 1, 0};
struct att {
    struct both *q, *key, *v, *dout;
};
/* Row t of sequence b, query head h: fills o [AD], returns lse. */
static double att_row(const struct att *a, size_t b, size_t t, size_t h, double *o)
{
    double s[AT], sum = 0;
    const double *q = a->q->x + (b * AT + t) * AH * AD + h * AD;
    for (size_t j = 0; j <= t; j++) {
        const double *key = a->key->x + (b * AT + j) * AK * AD + (size_t)att_key_of[h] * AD;
        s[j] = 0;
        for (size_t c = 0; c < AD; c++)
            s[j] += q[c] * key[c] * (double)0.7F;
        sum += exp(s[j]);
    }
    for (size_t c = 0; c < AD; c++) {
        o[c] = 0;
        for (size_t j = 0; j <= t; j++)
            o[c] += exp(s[j]) / sum *
                    a->v->x[(b * AT + j) * AV * AD + (size_t)att_value_of[h] * AD + c];
    }
    return log(sum);
}
static double att_objective(void *ctx)
{
    const struct att *a = ctx;
    double sum = 0, o[AD];
    for (size_t b = 0; b < AB; b++)
        for (size_t t = 0; t < AT; t++)
            for (size_t h = 0; h < AH; h++) {
                att_row(a, b, t, h, o);
                for (size_t c = 0; c < AD; c++)
                    sum += o[c] * a->dout->x[(b * AT + t) * AH * AD + h * AD + c];
            }
    return sum;
}

static void attention_gradients_are_derivatives(void **state)
{
    (void)state;
    size_t rows = AB * AT;
    struct att f = {random_both(rows * AH * AD, 1, 1, 0), random_both(rows * AK * AD, 2, 1, 0),
                    random_both(rows * AV * AD, 3, 1, 0), random_both(rows * AH * AD, 4, 1, 0)};
    struct both *o = random_both(rows * AH * AD, 5, 1, 0), *lse = random_both(rows * AH, 6, 1, 0);
    struct both *dq = random_both(rows * AH * AD, 7, 1, 0);
    struct both *dk = random_both(rows * AK * AD, 8, 1, 0);
    struct both *dv = random_both(rows * AV * AD, 9, 1, 0);
    struct kern_maps *maps = k->ops->maps_new(k, AH, att_key_of, att_value_of);
    struct kern_attn a = {.batch = AB,
                          .seq = AT,
                          .heads = AH,
                          .key_heads = AK,
                          .value_heads = AV,
                          .dim = AD,
                          .scale = 0.7F,
                          .ldq = AH * AD,
                          .ldk = AK * AD,
                          .ldv = AV * AD,
                          .ldo = AH * AD,
                          .maps = maps};
    k->ops->attn_fwd(k, o->v, lse->v, f.q->v, f.key->v, f.v->v, &a);
    k->ops->attn_bwd(k, dq->v, dk->v, dv->v, f.dout->v, f.q->v, f.key->v, f.v->v, o->v, lse->v, &a);
    for (size_t b = 0; b < AB; b++)
        for (size_t t = 0; t < AT; t++)
            for (size_t h = 0; h < AH; h++) {
                double want[AD], l = att_row(&f, b, t, h, want);
                assert_near(from_buf(lse, (b * AH + h) * AT + t), l, "lse", t);
                for (size_t c = 0; c < AD; c++)
                    assert_near(from_buf(o, (b * AT + t) * AH * AD + h * AD + c), want[c], "o", c);
            }
    assert_gradient(att_objective, &f, f.q, dq, false, "dq");
    assert_gradient(att_objective, &f, f.key, dk, false, "dk");
    assert_gradient(att_objective, &f, f.v, dv, false, "dv");
    k->ops->maps_free(k, maps);
    struct both *all[] = {f.q, f.key, f.v, f.dout, o, lse, dq, dk, dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

/* ---- SwiGLU ---- */

enum { GLU_ROWS = 3, GLU = 5 };
struct glu {
    struct both *gu, *dy;
};
static double glu_out(const struct glu *f, size_t r, size_t c)
{
    double g = f->gu->x[r * 2 * GLU + c], u = f->gu->x[r * 2 * GLU + GLU + c];
    return g / (1 + exp(-g)) * u;
}
static double glu_objective(void *ctx)
{
    const struct glu *f = ctx;
    double sum = 0;
    for (size_t r = 0; r < GLU_ROWS; r++)
        for (size_t c = 0; c < GLU; c++)
            sum += f->dy->x[r * GLU + c] * glu_out(f, r, c);
    return sum;
}

static void swiglu_gradients_are_derivatives(void **state)
{
    (void)state;
    size_t n = GLU_ROWS * GLU;
    struct glu f = {random_both(2 * n, 1, 3, 0), random_both(n, 2, 1, 0)};
    struct both *y = random_both(n, 3, 1, 0), *dgu = random_both(2 * n, 4, 1, 0);
    k->ops->swiglu_fwd(k, y->v, f.gu->v, GLU_ROWS, GLU);
    k->ops->swiglu_bwd(k, dgu->v, f.dy->v, f.gu->v, GLU_ROWS, GLU);
    for (size_t i = 0; i < n; i++)
        assert_near(from_buf(y, i), glu_out(&f, i / GLU, i % GLU), "y", i);
    assert_gradient(glu_objective, &f, f.gu, dgu, false, "dgu");
    struct both *all[] = {f.gu, f.dy, y, dgu};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

/* ---- loss ---- */

enum { LOSS_ROWS = 4, VOCAB = 9 };
static const int32_t loss_target[LOSS_ROWS] = {3, -1, 8, 0};
struct loss {
    struct both *z, *zt; /* zt NULL: no teacher */
    double w_lm, w_kl;
    bool by_row;
};
static const float loss_weight[2 * LOSS_ROWS] = {1, 0, 2, 3, 0, 0.5F, 0.25F, 4};
static double log_p(const struct both *z, size_t r, size_t v)
{
    double sum = 0;
    for (size_t i = 0; i < VOCAB; i++)
        sum += exp(z->x[r * VOCAB + i]);
    return z->x[r * VOCAB + v] - log(sum);
}
static double lm_of(const struct loss *f, size_t r)
{
    return loss_target[r] < 0 ? 0 : -log_p(f->z, r, (size_t)loss_target[r]);
}
static double kl_of(const struct loss *f, size_t r)
{
    double sum = 0;
    for (size_t v = 0; f->zt && loss_target[r] >= 0 && v < VOCAB; v++)
        sum += exp(log_p(f->zt, r, v)) * (log_p(f->zt, r, v) - log_p(f->z, r, v));
    return sum;
}
static double loss_objective(void *ctx)
{
    const struct loss *f = ctx;
    double sum = 0;
    for (size_t r = 0; r < LOSS_ROWS; r++)
        sum += (double)0.25F *
               (f->w_lm * lm_of(f, r) * (f->by_row ? (double)loss_weight[2 * r] : 1) +
                f->w_kl * kl_of(f, r) * (f->by_row ? (double)loss_weight[2 * r + 1] : 1));
    return sum;
}

static void check_loss(double w_lm, double w_kl, bool teacher, bool by_row)
{
    size_t n = LOSS_ROWS * VOCAB;
    struct both *zt = random_both(n, 2, 2, 0);
    struct loss f = {random_both(n, 1, 2, 0), teacher ? zt : NULL, w_lm, w_kl, by_row};
    struct both *dz = random_both(n, 1, 2, 0); /* the same logits, overwritten by the gradient */
    struct both *lm = random_both(LOSS_ROWS, 3, 1, 0), *kl = random_both(LOSS_ROWS, 4, 1, 0);
    struct kern_buf *ids = k->ops->alloc(k, KERN_I32, LOSS_ROWS);
    k->ops->upload(k, kern_at(ids, 0), loss_target, LOSS_ROWS);
    struct kern_buf *w = k->ops->alloc(k, KERN_F32, 2 * LOSS_ROWS);
    k->ops->upload(k, kern_at(w, 0), loss_weight, 2 * LOSS_ROWS);
    k->ops->loss(k, dz->v, teacher ? zt->v : (struct kern_view){NULL, 0}, kern_at(ids, 0),
                 by_row ? kern_at(w, 0) : (struct kern_view){NULL, 0}, LOSS_ROWS, VOCAB,
                 (float)w_lm, (float)w_kl, 0.25F, true, lm->v, kl->v);
    for (size_t r = 0; r < LOSS_ROWS; r++) {
        assert_near(from_buf(lm, r), lm_of(&f, r), "lm", r);
        assert_near(from_buf(kl, r), kl_of(&f, r), "kl", r);
    }
    assert_gradient(loss_objective, &f, f.z, dz, false, "dlogits");
    k->ops->free(k, ids);
    k->ops->free(k, w);
    struct both *all[] = {f.z, zt, dz, lm, kl};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

static void loss_gradients_are_derivatives_for_lm_kl_and_mixture(void **state)
{
    (void)state;
    check_loss(1, 0, false, false);
    check_loss(0, 1, true, false);
    check_loss(0.25, 0.75, true, false);
    check_loss(1, 0, true, false); /* KL is reported though it is not trained on */
    check_loss(1, 1, false, false);
    check_loss(0.25, 0.75, true, true);
}

/* ---- BiLD: the definition once more, with the ranks found by counting ---- */

enum { BILD_TOP = 4 };
static const float bild_weight[LOSS_ROWS] = {1, 0, 0.5F, 2};
static int rank_of(const double *z, size_t v)
{
    int rank = 0;
    for (size_t i = 0; i < VOCAB; i++)
        rank += z[i] > z[v] || (!(z[i] < z[v]) && i < v);
    return rank;
}
/* KL over the differences of the BILD_TOP largest of `leader`, each pair counted once. */
static double bild_led(const double *z, const double *zt, const double *leader)
{
    double mass = 0, mass_t = 0, sum = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t a = 0; a < VOCAB; a++)
            for (size_t b = 0; b < VOCAB; b++) {
                if (rank_of(leader, b) >= BILD_TOP || rank_of(leader, a) >= rank_of(leader, b))
                    continue;
                double d = (z[a] - z[b]) / 3, dt = (zt[a] - zt[b]) / 3;
                if (pass == 0) {
                    mass += exp(d);
                    mass_t += exp(dt);
                } else {
                    double p = exp(d) / mass, q = exp(dt) / mass_t;
                    sum += q * log(q / p);
                }
            }
    return sum;
}
static double bild_of(const struct loss *f, size_t r)
{
    const double *z = f->z->x + r * VOCAB, *zt = f->zt->x + r * VOCAB;
    return bild_weight[r] != 0 ? bild_led(z, zt, zt) + bild_led(z, zt, z) : 0;
}
static double bild_objective(void *ctx)
{
    double sum = 0;
    for (size_t r = 0; r < LOSS_ROWS; r++)
        sum += (double)0.25F * (double)bild_weight[r] * bild_of(ctx, r);
    return sum;
}

static void bild_gradient_is_the_derivative(void **state)
{
    (void)state;
    size_t n = LOSS_ROWS * VOCAB, places = LOSS_ROWS * 2 * BILD_TOP;
    struct loss f = {.z = random_both(n, 1, 2, 0), .zt = random_both(n, 2, 2, 0)};
    struct both *dz = random_both(n, 3, 0, 0), *loss = random_both(LOSS_ROWS, 4, 1, 0);
    struct both *w = random_both(LOSS_ROWS, 5, 1, 0), *value = random_both(places, 6, 1, 0);
    struct kern_buf *index = k->ops->alloc(k, KERN_I32, places);
    k->ops->upload(k, w->v, bild_weight, LOSS_ROWS);
    k->ops->bild(k, f.z->v, f.zt->v, w->v, LOSS_ROWS, VOCAB, BILD_TOP, 3, 0.25F, loss->v,
                 kern_at(index, 0), value->v);
    k->ops->scatter_add(k, dz->v, kern_at(index, 0), value->v, LOSS_ROWS, VOCAB, 2 * BILD_TOP);
    for (size_t r = 0; r < LOSS_ROWS; r++)
        assert_near(from_buf(loss, r), bild_of(&f, r), "bild", r);
    assert_true(bild_of(&f, 0) > 0.01);
    assert_gradient(bild_objective, &f, f.z, dz, false, "dlogits");
    k->ops->free(k, index);
    struct both *all[] = {f.z, f.zt, dz, loss, w, value};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

/* ---- fusion ---- */

enum { FH = 5, FD = 3, FC = 4 };
static const int fusion_group_of[FH] = {0, 1, 0, 0, 1};
struct fusion {
    struct both *omega, *w, *dout;
    double t;
};
static double omega_at(const struct fusion *f, size_t h, size_t j, size_t c)
{
    return f->omega->x[(h * FH + j) * FD + c];
}
static double fusion_out(const struct fusion *f, size_t h, size_t c, size_t x)
{
    double sum = 0;
    for (size_t j = 0; j < FH; j++)
        if (fusion_group_of[j] == fusion_group_of[h])
            sum += omega_at(f, h, j, c) * f->w->x[(j * FD + c) * FC + x];
    return sum;
}
static double fusion_objective(void *ctx)
{
    const struct fusion *f = ctx;
    double sum = 0;
    for (size_t h = 0; h < FH; h++)
        for (size_t c = 0; c < FD; c++)
            for (size_t x = 0; x < FC; x++)
                sum += f->dout->x[(h * FD + c) * FC + x] * fusion_out(f, h, c, x);
    return sum;
}

static void fusion_gradients_are_derivatives(void **state)
{
    (void)state;
    size_t n = FH * FD * FC, o = FH * FH * FD;
    struct fusion f = {random_both(o, 1, 1, 0), random_both(n, 2, 1, 0), random_both(n, 3, 1, 0),
                       0};
    struct both *out = random_both(n, 4, 1, 0), *dw = random_both(n, 5, 1, 0);
    struct both *dom = random_both(o, 6, 1, 0);
    struct kern_groups *g = k->ops->groups_new(k, FH, fusion_group_of);
    k->ops->fusion_fwd(k, out->v, f.omega->v, f.w->v, g, FH, FD, FC);
    k->ops->fusion_bwd(k, dw->v, dom->v, f.dout->v, f.omega->v, f.w->v, g, FH, FD, FC);
    for (size_t i = 0; i < n; i++)
        assert_near(from_buf(out, i), fusion_out(&f, i / (FD * FC), i / FC % FD, i % FC), "out", i);
    assert_gradient(fusion_objective, &f, f.w, dw, true, "dw");
    /* outside the groups the formula does not depend on omega, and domega stays what it was */
    assert_gradient(fusion_objective, &f, f.omega, dom, true, "domega");
    k->ops->groups_free(k, g);
    struct both *all[] = {f.omega, f.w, f.dout, out, dw, dom};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

static double mse_of(const struct fusion *f, int group)
{
    double sum = 0;
    int pairs = 0, size = 0;
    for (size_t h = 0; h < FH; h++)
        size += fusion_group_of[h] == group;
    for (size_t a = 0; a < FH; a++)
        for (size_t b = a + 1; b < FH; b++) {
            if (fusion_group_of[a] != group || fusion_group_of[b] != group)
                continue;
            pairs++;
            for (size_t j = 0; j < FH; j++)
                for (size_t c = 0; fusion_group_of[j] == group && c < FD; c++) {
                    double d = omega_at(f, a, j, c) - omega_at(f, b, j, c);
                    sum += d * d / (size * FD);
                }
        }
    return sum / pairs;
}
static double penalty_objective(void *ctx)
{
    const struct fusion *f = ctx;
    double sum = 0;
    for (int g = 0; g < 2; g++)
        sum += (double)0.6F * fmax(mse_of(f, g) - f->t, 0);
    return sum;
}

static void fusion_penalty_gradient_is_the_derivative_of_the_hinge(void **state)
{
    (void)state;
    size_t o = FH * FH * FD;
    struct fusion f = {.omega = random_both(o, 1, 1, 0)};
    double low = fmin(mse_of(&f, 0), mse_of(&f, 1)), high = fmax(mse_of(&f, 0), mse_of(&f, 1));
    const double thresholds[] = {0, (low + high) / 2, high + 1}; /* both, one, no group above */
    struct kern_groups *g = k->ops->groups_new(k, FH, fusion_group_of);
    for (size_t i = 0; i < 3; i++) {
        struct both *dom = random_both(o, 2, 1, 0), *mse = random_both(2, 3, 1, 0);
        f.t = thresholds[i];
        k->ops->fusion_penalty(k, dom->v, mse->v, f.omega->v, g, FH, FD, 0.6F, (float)f.t);
        assert_near(from_buf(mse, 0), mse_of(&f, 0), "mse", 0);
        assert_near(from_buf(mse, 1), mse_of(&f, 1), "mse", 1);
        assert_gradient(penalty_objective, &f, f.omega, dom, true, "domega");
        drop(dom);
        drop(mse);
    }
    k->ops->groups_free(k, g);
    drop(f.omega);
}

/* ---- tying: the map from its definition; its backward is the derivative of <dout, out> ---- */

enum { TH = 5, TD = 4 };
struct tie {
    struct both *in, *dout;
    int share;
    double keep;
    const float *pull;
};
static double tie_shared(const struct tie *f, size_t h, size_t j, size_t c)
{
    double sum = 0;
    size_t each = TD / (size_t)f->share;
    for (size_t i = 0; i < TD; i++)
        if (i % each == c % each)
            sum += f->in->x[(h * TH + j) * TD + i] / f->share;
    return sum;
}
static double tie_out(const struct tie *f, size_t h, size_t j, size_t c)
{
    double mean = 0;
    int size = 0;
    if (fusion_group_of[h] != fusion_group_of[j])
        return 0;
    for (size_t i = 0; i < TH; i++)
        if (fusion_group_of[i] == fusion_group_of[h]) {
            mean += tie_shared(f, i, j, c);
            size++;
        }
    return f->keep * tie_shared(f, h, j, c) + (double)f->pull[fusion_group_of[h]] * mean / size;
}
static double tie_objective(void *ctx)
{
    const struct tie *f = ctx;
    double sum = 0;
    for (size_t i = 0; i < TH * TH * TD; i++)
        sum += f->dout->x[i] * tie_out(f, i / (TH * TD), i / TD % TH, i % TD);
    return sum;
}

static void tying_is_its_own_backward_pass(void **state)
{
    (void)state;
    static const float pull[2] = {0.75F, 1.5F};
    size_t n = TH * TH * TD;
    for (int share = 1; share <= TD; share *= 2) {
        struct tie f = {random_both(n, 1, 1, 0), random_both(n, 2, 1, 0), share, 0.25, pull};
        struct both *out = random_both(n, 3, 0, 0), *din = random_both(n, 4, 1, 0);
        struct kern_groups *g = k->ops->groups_new(k, TH, fusion_group_of);
        k->ops->fusion_tie(k, out->v, f.in->v, g, TH, TD, share, 0.25F, pull);
        k->ops->fusion_tie(k, din->v, f.dout->v, g, TH, TD, share, 0.25F, pull);
        for (size_t i = 0; i < n; i++)
            assert_near(from_buf(out, i), tie_out(&f, i / (TH * TD), i / TD % TH, i % TD), "out",
                        i);
        assert_gradient(tie_objective, &f, f.in, din, true, "din");
        k->ops->groups_free(k, g);
        struct both *all[] = {f.in, f.dout, out, din};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            drop(all[i]);
    }
}

/* ---- embedding and bias: linear, so the transpose again ---- */

static void embedding_and_bias_backward_are_the_transposes(void **state)
{
    (void)state;
    enum { ROWS = 6, VOC = 4, DIM = 3 };
    const int32_t id[ROWS] = {2, 0, 2, 2, 3, 0};
    struct kern_buf *ids = k->ops->alloc(k, KERN_I32, ROWS);
    k->ops->upload(k, kern_at(ids, 0), id, ROWS);
    struct both *w = random_both(VOC * DIM, 1, 1, 0), *y = random_both(ROWS * DIM, 2, 1, 0);
    struct both *dy = random_both(ROWS * DIM, 3, 1, 0), *dw = random_both(VOC * DIM, 4, 1, 0);
    struct both *b = random_both(DIM, 5, 1, 0), *db = random_both(DIM, 6, 1, 0);
    k->ops->embed_fwd(k, y->v, w->v, kern_at(ids, 0), ROWS, DIM);
    k->ops->embed_bwd(k, dw->v, dy->v, kern_at(ids, 0), ROWS, DIM);
    double forward = 0, backward = 0;
    for (size_t i = 0; i < ROWS * DIM; i++) {
        assert_true(from_buf(y, i) == w->x[(size_t)id[i / DIM] * DIM + i % DIM]);
        forward += from_buf(y, i) * dy->x[i];
    }
    for (size_t i = 0; i < VOC * DIM; i++)
        backward += w->x[i] * (from_buf(dw, i) - dw->x[i]);
    assert_near(forward, backward, "<Ew,dy>", 0);

    k->ops->bias_add(k, dy->v, DIM, b->v, ROWS, DIM);
    k->ops->bias_grad(k, db->v, dw->v, DIM, VOC, DIM);
    for (size_t i = 0; i < ROWS * DIM; i++)
        assert_near(from_buf(dy, i), dy->x[i] + b->x[i % DIM], "bias_add", i);
    for (size_t c = 0; c < DIM; c++) {
        double sum = db->x[c];
        for (size_t r = 0; r < VOC; r++)
            sum += from_buf(dw, r * DIM + c);
        assert_near(from_buf(db, c), sum, "bias_grad", c);
    }
    k->ops->free(k, ids);
    struct both *all[] = {w, y, dy, dw, b, db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

/* ---- AdamW: two steps by the textbook ---- */

static void adamw_takes_the_textbook_step(void **state)
{
    (void)state;
    enum { N = 20 };
    struct both *p = random_both(N, 1, 1, 0), *g = random_both(N, 2, 1, 0);
    struct both *m = random_both(N, 3, 0, 0), *v = random_both(N, 4, 0, 0);
    double want[N], first[N] = {0}, second[N] = {0};
    memcpy(want, p->x, sizeof want);
    for (int step = 1; step <= 2; step++) {
        struct kern_adamw a = {.lr = 0.125F,
                               .beta1 = 0.75F,
                               .beta2 = 0.9375F,
                               .eps = 0x1p-20F,
                               .weight_decay = 0.5F,
                               .bias1 = step == 1 ? 0.25F : 0.4375F,
                               .bias2 = step == 1 ? 0.0625F : 0.12109375F,
                               .grad_scale = 2};
        k->ops->adamw(k, p->v, g->v, m->v, v->v, N, &a);
        for (size_t i = 0; i < N; i++) {
            double grad = 2 * g->x[i];
            first[i] = 0.75 * first[i] + 0.25 * grad;
            second[i] = 0.9375 * second[i] + 0.0625 * grad * grad;
            double bias1 = 1 - pow(0.75, step), bias2 = 1 - pow(0.9375, step);
            want[i] -= 0.125 * 0.5 * want[i];
            want[i] -= 0.125 * (first[i] / bias1) / (sqrt(second[i] / bias2) + 0x1p-20);
            assert_near(from_buf(p, i), want[i], "p", i);
            assert_near(from_buf(m, i), first[i], "m", i);
            assert_near(from_buf(v, i), second[i], "v", i);
        }
    }
    struct both *all[] = {p, g, m, v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_gradients_are_derivatives),
        cmocka_unit_test(rope_backward_is_the_transpose),
        cmocka_unit_test(attention_gradients_are_derivatives),
        cmocka_unit_test(swiglu_gradients_are_derivatives),
        cmocka_unit_test(loss_gradients_are_derivatives_for_lm_kl_and_mixture),
        cmocka_unit_test(bild_gradient_is_the_derivative),
        cmocka_unit_test(tying_is_its_own_backward_pass),
        cmocka_unit_test(fusion_gradients_are_derivatives),
        cmocka_unit_test(fusion_penalty_gradient_is_the_derivative_of_the_hinge),
        cmocka_unit_test(embedding_and_bias_backward_are_the_transposes),
        cmocka_unit_test(adamw_takes_the_textbook_step),
    };
    return cmocka_run_group_tests_name("kernels: gradients", tests, open_reference,
                                       close_reference);
}
