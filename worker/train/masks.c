#include "worker/train/masks.h"

#include <math.h>
#include <stdlib.h>

#include "worker/data/corpus.h"

#define HARD_END 0.8 /* METHODS 2.6: all masks 0 from here on */
#define RAMP     0.3 /* the target's */
#define FADE     0.5 /* linear: how long one head takes, of the way to the hard end */

/* Louizos et al.; constants as in METHODS 2.6. */
#define BETA        (2.0 / 3.0)
#define GAMMA       (-0.1)
#define ZETA        1.1
#define ALPHA_START 5.0
#define ALPHA_LOW   (-4.605170185988091) /* ln 0.01 */
#define ALPHA_HIGH  4.605170185988091    /* ln 100 */

/* The released variant's scale and temperature. */
#define SCALE       1e-3
#define TEMPERATURE (1.0 / 3.0)
#define UNIT        (SCALE * TEMPERATURE)

enum { STREAM_MASKS = 0x6d61736b, DRAW_NOISE = 0, DRAW_START = 1 };

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* ---- pure ------------------------------------------------------------------------------------------- */

double mask_linear(double x, double start)
{
    double gone = (x - start) / FADE;
    return gone <= 0 ? 1.0 : gone >= 1 || x >= 1 ? 0.0 : 1.0 - gone;
}

struct mask_value mask_hard_concrete(double alpha, double u)
{
    /* evaluations take the distribution's own middle: sigmoid(alpha), stretched */
    double s = isnan(u) ? sigmoid(alpha) : sigmoid((log(u) - log1p(-u) + alpha) / BETA);
    double wide = s * (ZETA - GAMMA) + GAMMA;
    if (wide <= 0 || wide >= 1)
        return (struct mask_value){wide <= 0 ? 0 : 1, 0};
    return (struct mask_value){wide, s * (1 - s) / BETA * (ZETA - GAMMA)};
}

struct mask_value mask_released(double alpha, double u)
{
    double s = sigmoid((isnan(u) ? 0 : log(u) - log1p(-u)) + alpha / UNIT);
    double wide = (s - 0.5) * 1.005 + 0.5;
    /* straight through the clip: the slope does not see it */
    return (struct mask_value){wide < 0 ? 0 : wide > 1 ? 1 : wide, s * (1 - s) * 1.005 / UNIT};
}

struct mask_value mask_closed(enum method_masks kind, double alpha)
{
    bool released = kind == MASKS_RELEASED;
    double p = released ? sigmoid(-5.293 * TEMPERATURE - alpha / UNIT)
                        : sigmoid(BETA * log(-GAMMA / ZETA) - alpha);
    return (struct mask_value){p, -p * (1 - p) / (released ? UNIT : 1)};
}

double mask_target(int64_t step, int64_t steps)
{
    double t = (double)step / (RAMP * (double)steps);
    return t < 1 ? t : 1;
}

/* An alpha has about 10 to go (released: 4 SCALE), and Adam moves it by at most its rate a step: a third of the steps should
 * do. 1 is what Sheared-LLaMA takes, 1e-5 what paper 2 does, for thousands of steps. */
double masks_rate(enum method_masks kind, int64_t steps)
{
    double n = steps > 0 ? (double)steps : 1;
    return kind == MASKS_RELEASED ? fmax(12 * SCALE / n, 1e-5) : fmin(fmax(30 / n, 1e-2), 2);
}

/* The expected share hardly depends on an alpha far from 0 (2e-4 of it at the start, over 32 masks): the multiplier has to
 * get into the hundreds before that outweighs the loss, and its ascent is the lag t - s, of size 1, a step. */
double masks_lambda_rate(int64_t steps)
{
    return 1000.0 / (steps > 0 ? (double)steps : 1);
}

/* ---- one model's ------------------------------------------------------------------------------------ */

static double uniform(const struct masks *x, int64_t step, int i, uint64_t draw)
{
    uint64_t bits = corpus_random(x->seed, STREAM_MASKS, step, i, draw);
    return ((double)(bits >> 11) + 0.5) * 0x1p-53; /* never 0 or 1 */
}

static bool is_hard(const struct masks *x, int64_t step)
{
    return (double)step >= HARD_END * (double)x->steps;
}

static void read_alpha(struct masks *x, float *to)
{
    x->m->k->ops->download(x->m->k, to, kern_at(x->alpha, 0), (size_t)x->n);
}

static void write_alpha(struct masks *x, const float *from)
{
    x->m->k->ops->upload(x->m->k, kern_at(x->alpha, 0), from, (size_t)x->n);
}

/* start[h]: the heads of a layer begin one after another, the most similar to its W' first; the last one ends at 1. */
static int order_heads(struct masks *x, struct dha_err *e)
{
    int heads = x->m->cfg.heads;
    double cosine[MODEL_MAX_HEADS];
    for (int l = 0; l < x->m->cfg.layers; l++) {
        for (int h = 0; h < heads; h++)
            if (model_mask_similarity(x->m, l, h, &cosine[h], e))
                return -1;
        for (int h = 0; h < heads; h++) {
            int rank = 0;
            for (int i = 0; i < heads; i++)
                rank += cosine[i] > cosine[h] || (!(cosine[i] < cosine[h]) && i < h);
            x->start[l * heads + h] = heads > 1 ? (1 - FADE) * rank / (heads - 1) : 0;
        }
    }
    return 0;
}

/* N(5, 0.01) and N(2 SCALE, SCALE / 10), by Box and Muller. */
static void start_alpha(struct masks *x)
{
    for (int i = 0; i < x->n; i++) {
        double a = uniform(x, 0, 2 * i, DRAW_START), b = uniform(x, 0, 2 * i + 1, DRAW_START);
        double normal = sqrt(-2 * log(a)) * cos(2 * M_PI * b);
        x->host[i] = (float)(x->kind == MASKS_RELEASED ? SCALE * (2 + 0.1 * normal)
                                                       : ALPHA_START + 0.01 * normal);
    }
    write_alpha(x, x->host);
}

int masks_new(struct masks **out, struct model *m, enum method_masks kind, int64_t seed,
              int64_t steps, struct dha_err *e)
{
    struct masks *x = calloc(1, sizeof *x);
    int rc = 0;
    *out = NULL;
    if (!x)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for masks");
    *x = (struct masks){.kind = kind, .m = m, .seed = seed, .steps = steps};
    x->n = m->cfg.layers * m->cfg.heads;
    size_t n = (size_t)x->n;
    x->start = calloc(n, sizeof *x->start);
    x->slope = calloc(n, sizeof *x->slope);
    x->before = calloc(n, sizeof *x->before);
    x->host = calloc(n, sizeof *x->host);
    if (!x->start || !x->slope || !x->before || !x->host)
        rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for masks");
    if (rc == 0 && kind == MASKS_LINEAR) {
        rc = order_heads(x, e);
    } else if (rc == 0) {
        x->alpha = m->k->ops->alloc(m->k, KERN_F32, n);
        x->dalpha = m->k->ops->alloc(m->k, KERN_F32, n);
        if (!x->alpha || !x->dalpha)
            rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for masks");
        else
            start_alpha(x);
    }
    if (rc) {
        masks_free(x);
        return -1;
    }
    *out = x;
    return 0;
}

void masks_free(struct masks *x)
{
    if (!x)
        return;
    x->m->k->ops->free(x->m->k, x->alpha);
    x->m->k->ops->free(x->m->k, x->dalpha);
    free(x->start);
    free(x->slope);
    free(x->before);
    free(x->host);
    free(x);
}

/* Released, first intervention: of M masks the M t with the smallest alpha are drawn to the closed end, the others to the
 * open one, by a factor that grows with the lag |t - s| (METHODS 2.6; how it grows is not known: we take the lag). */
static void draw_to_target(struct masks *x)
{
    double s = 0, lag;
    int close = (int)lround(x->target * x->n);
    for (int i = 0; i < x->n; i++)
        s += mask_closed(x->kind, (double)x->host[i]).z / x->n;
    lag = fmin(fabs(x->target - s), 1);
    for (int i = 0; i < x->n; i++)
        x->before[i] = x->host[i];
    for (int i = 0; i < x->n; i++) {
        int rank = 0;
        for (int j = 0; j < x->n; j++)
            rank += x->before[j] < x->before[i] || (!(x->before[j] > x->before[i]) && j < i);
        double goal = rank < close ? -10 * UNIT : 10 * UNIT;
        x->host[i] = (float)((double)x->host[i] + lag * (goal - (double)x->host[i]));
    }
    write_alpha(x, x->host);
}

static double progress(const struct masks *x, int64_t step)
{
    return (double)step / (HARD_END * (double)x->steps);
}

void masks_open_step(struct masks *x, int64_t step)
{
    float *z = x->m->oper->mask->z;
    bool hard = is_hard(x, step);
    x->target = mask_target(step, x->steps);
    x->closed = 0;
    if (x->alpha)
        read_alpha(x, x->host);
    if (x->kind == MASKS_RELEASED && !hard)
        draw_to_target(x);
    for (int i = 0; i < x->n; i++) {
        struct mask_value v = {0, 0};
        double alpha = (double)x->host[i];
        if (hard)
            v.z = 0;
        else if (x->kind == MASKS_LINEAR)
            v.z = mask_linear(progress(x, step), x->start[i]);
        else if (x->kind == MASKS_HARD_CONCRETE)
            v = mask_hard_concrete(alpha, uniform(x, step, i, DRAW_NOISE));
        else
            v = mask_released(alpha, 0.4 + 0.2 * uniform(x, step, i, DRAW_NOISE));
        z[i] = (float)v.z;
        x->slope[i] = v.slope;
        x->before[i] = x->host[i];
        x->closed += (hard                      ? 1
                      : x->kind == MASKS_LINEAR ? v.z <= 0
                                                : mask_closed(x->kind, alpha).z) /
                     x->n;
    }
}

void masks_show(struct masks *x, int64_t step)
{
    float *z = x->m->oper->mask->z;
    if (x->alpha)
        read_alpha(x, x->host);
    for (int i = 0; i < x->n; i++)
        z[i] = (float)(is_hard(x, step)            ? 0
                       : x->kind == MASKS_LINEAR   ? mask_linear(progress(x, step), x->start[i])
                       : x->kind == MASKS_RELEASED ? mask_released((double)x->host[i], NAN).z
                                                   : mask_hard_concrete((double)x->host[i], NAN).z);
}

/* The sparsity loss and its derivative by s. */
static double sparsity(const struct masks *x, const double lambda[2], double *slope)
{
    double off = x->closed - x->target;
    if (x->kind == MASKS_HARD_CONCRETE) {
        *slope = lambda[0] + 2 * lambda[1] * off;
        return lambda[0] * off + lambda[1] * off * off;
    }
    double far = fabs(off), side = off > 0 ? 1 : off < 0 ? -1 : 0;
    *slope = side * (1 + 2 * (far + 1e-6));
    return far + (far + 1e-6) * (far + 1e-6);
}

double masks_backward(struct masks *x, int64_t step, const double lambda[2], struct comm *comm)
{
    double *dz = x->m->oper->mask->dz, by_closed = 0, loss = 0;
    comm_sum_f64(comm, dz, (size_t)x->n);
    if (!x->alpha || is_hard(x, step))
        return 0;
    loss = sparsity(x, lambda, &by_closed);
    if (comm->rank != 0)
        return loss; /* gradients are summed over ranks: rank 0's is the sum already */
    for (int i = 0; i < x->n; i++) {
        double g = dz[i];
        if (x->kind == MASKS_RELEASED)
            g = fmin(fmax(g, -1), 1);
        g = g * x->slope[i] + by_closed * mask_closed(x->kind, (double)x->before[i]).slope / x->n;
        x->host[i] = (float)g;
    }
    x->m->k->ops->upload(x->m->k, kern_at(x->dalpha, 0), x->host, (size_t)x->n);
    return loss;
}

/* Released, second intervention: alpha stays at its value before the optimiser's step with weight
 * max(0.002, min(1, step / hard end)^5 / 2, |t - s|). */
static double inertia(const struct masks *x, int64_t step)
{
    double late = fmin(progress(x, step), 1);
    return fmin(fmax(fmax(0.002, pow(late, 5) / 2), fabs(x->target - x->closed)), 1);
}

void masks_close_step(struct masks *x, int64_t step, double lambda[2])
{
    bool released = x->kind == MASKS_RELEASED;
    double low = released ? -8 * SCALE : ALPHA_LOW, high = released ? 8 * SCALE : ALPHA_HIGH;
    if (!x->alpha || is_hard(x, step))
        return;
    read_alpha(x, x->host);
    double keep = released ? inertia(x, step) : 0;
    for (int i = 0; i < x->n; i++) {
        double a = keep * (double)x->before[i] + (1 - keep) * (double)x->host[i];
        x->host[i] = (float)fmin(fmax(a, low), high);
    }
    write_alpha(x, x->host);
    if (!released) { /* ascent: the derivatives of the Lagrangian by its multipliers */
        double off = x->closed - x->target, rate = masks_lambda_rate(x->steps);
        lambda[0] += rate * off;
        lambda[1] += rate * off * off;
    }
}
