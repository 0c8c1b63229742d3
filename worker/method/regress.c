/* regress.c: see regress.h.
 *
 * Sequences. They are the refit's and as many more. Step s of an epoch takes the sequences k * steps + s, k = 0, 1, ...:
 * rank r holds a contiguous share of all sequences and so has about as many of every step, and a step's gradient
 * does not depend on how many ranks there are (beyond rounding). What is left over is not read.
 */
#include "worker/method/regress.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "worker/method/layer.h"
#include "worker/method/linalg.h"
#include "worker/method/walk.h"
#include "worker/train/optim.h"
#include "worker/train/schedule.h"

/* docs/METHOD.md has the table that these come from. */
#define STEP_TOKENS 1024 /* all ranks together; one sequence at least */
#define EPOCHS      8
#define RATE        2e-3 /* peak; linear warm-up, cosine to 0 */
#define WARMUP      0.05
/* The objective is relative, so its gradients have a scale: those below this are rounding, which a smaller one would blow up
 * where a layer lost nothing. */
#define EPSILON 1e-6
/* A relative error that is rounding: the layer lost nothing, and neither did those before it. It stays as it is. */
#define EXACT 1e-7

struct regress {
    const struct method_env *env;
    struct model *model; /* the merged one */
    struct kern *k;
    struct walk parent, child; /* this rank's sequences */
    struct run *run;           /* RUN_LAYER on the merged model */
    int total, mine, per_step; /* sequences of all ranks, of this rank; a step's */
    int steps;                 /* an epoch */
    int64_t first;             /* of this rank */
    size_t each;               /* seq * hidden: numbers of one sequence */
    struct kern_buf *target;   /* [this rank's sequences, hidden] x + f(x) - x' */
    /* the present layer: its span of the arena, copied, and its gradients */
    struct kern_buf *params, *grads, *kept;
    size_t from, n;
    struct optim optim;
};

static int open(struct regress *r, const struct method_env *env, struct model *mha,
                struct model *merged, struct dha_err *e)
{
    *r = (struct regress){.env = env, .model = merged, .k = merged->k};
    r->total = calib_split(env).regress;
    r->per_step = STEP_TOKENS / env->seq > 0 ? STEP_TOKENS / env->seq : 1;
    if (r->per_step > r->total)
        r->per_step = r->total;
    r->steps = r->total / r->per_step;
    r->total = r->steps * r->per_step;
    r->mine = rank_share(env->comm, r->total, &r->first);
    r->each = (size_t)env->seq * (size_t)merged->cfg.hidden;
    if (r->mine == 0)
        return 0;
    if (walk_open(&r->parent, env, mha, STREAM_REFIT, r->first, r->mine, e) ||
        walk_open(&r->child, env, merged, STREAM_REFIT, r->first, r->mine, e))
        return -1;
    int batch = (r->per_step + env->comm->size - 1) / env->comm->size;
    size_t padded = (size_t)r->parent.chunks * (size_t)r->parent.batch;
    r->target = r->k->ops->alloc(r->k, KERN_F32, padded * r->each);
    if (method_sync(r->k, "layer regression", e))
        return -1;
    return run_new(&r->run, merged, batch, env->seq, RUN_LAYER, e);
}

static void close(struct regress *r)
{
    run_free(r->run);
    if (r->k)
        r->k->ops->free(r->k, r->target);
    walk_close(&r->child);
    walk_close(&r->parent);
}

static int open_layer(struct regress *r, int l, struct dha_err *e)
{
    size_t projections, to;
    run_attention_span(r->model, l, &r->from, &projections, &to);
    r->n = to - r->from;
    /* the norm's weight stays: it is a factor of the columns of W_q, W_k and W_v */
    struct optim_span spans[2] = {{0, projections - r->from, 0, 0},
                                  {projections - r->from, r->n, 0, 1}};
    optim_init(&r->optim, r->k, r->env->comm, 0);
    r->optim.eps = EPSILON;
    r->params = r->k->ops->alloc(r->k, KERN_F32, r->n);
    r->grads = r->k->ops->alloc(r->k, KERN_F32, r->n);
    r->kept = r->k->ops->alloc(r->k, KERN_F32, r->n);
    if (method_sync(r->k, "layer regression", e) ||
        optim_add(&r->optim, r->params, r->grads, r->n, RATE, spans, 2, e))
        return -1;
    r->k->ops->copy(r->k, kern_at(r->params, 0), kern_at(r->model->params, r->from), r->n);
    r->k->ops->copy(r->k, kern_at(r->kept, 0), kern_at(r->params, 0), r->n);
    return 0;
}

static void close_layer(struct regress *r)
{
    optim_finish(&r->optim);
    r->k->ops->free(r->k, r->kept);
    r->k->ops->free(r->k, r->grads);
    r->k->ops->free(r->k, r->params);
    r->grads = r->params = r->kept = NULL;
}

/* Targets of layer l, and the parent's walk goes behind it. Returns the sum of squares of this rank's targets. */
static double targets(struct regress *r, int l)
{
    const struct kern_ops *ops = r->k->ops;
    struct walk *w = &r->parent;
    size_t chunk = (size_t)w->batch * r->each;
    double sum = 0;
    for (int c = 0; c < w->chunks; c++) {
        struct kern_view t = kern_at(r->target, (size_t)c * chunk);
        walk_load(w, c);
        run_attention_only(w->run, l);
        run_attention_output(w->run, t);
        ops->axpy(r->k, t, 1.0f, kern_at(w->residual, (size_t)c * chunk), chunk);
        ops->axpy(r->k, t, -1.0f, kern_at(r->child.residual, (size_t)c * chunk), chunk);
        sum += ops->sumsq(r->k, t, (size_t)walk_valid(w, c) * r->each);
        run_layer(w->run, l);
        walk_save(w, c);
    }
    return sum;
}

/* Runs the sequences at[0..n) of this rank (n <= the run's batch) through layer l; adds gradients of
 * scale/2 * squared error, none with scale 0. Returns the squared error. The batch is filled up with copies that count for
 * nothing. */
static double fit_batch(struct regress *r, int l, const int *at, int n, int batch, float scale)
{
    const struct kern_ops *ops = r->k->ops;
    struct kern_view x = run_residual(r->run), d = run_attention_dout(r->run);
    size_t used = (size_t)n * r->each;
    for (int b = 0; b < batch; b++)
        ops->copy(r->k, kern_plus(x, (size_t)b * r->each),
                  kern_at(r->child.residual, (size_t)at[b < n ? b : 0] * r->each), r->each);
    run_attention_only(r->run, l);
    run_attention_output(r->run, d);
    for (int b = 0; b < n; b++)
        ops->axpy(r->k, kern_plus(d, (size_t)b * r->each), -1.0f,
                  kern_at(r->target, (size_t)at[b] * r->each), r->each);
    double error = ops->sumsq(r->k, d, used);
    if (scale == 0)
        return error;
    ops->zero(r->k, kern_plus(d, used), (size_t)(batch - n) * r->each);
    ops->scale(r->k, d, scale, used);
    run_attention_backward(r->run, l, r->grads);
    return error;
}

/* This rank's part of step s of an epoch. */
static double accumulate(struct regress *r, int l, int s, float scale)
{
    enum { MOST = 64 };
    int at[MOST], n = 0, batch = (r->per_step + r->env->comm->size - 1) / r->env->comm->size;
    double error = 0;
    int most = batch < MOST ? batch : MOST;
    for (int64_t i = s; i < r->total; i += r->steps) {
        if (i < r->first || i >= r->first + r->mine)
            continue;
        at[n++] = (int)(i - r->first);
        if (n == most) {
            error += fit_batch(r, l, at, n, batch, scale);
            n = 0;
        }
    }
    return n ? error + fit_batch(r, l, at, n, batch, scale) : error;
}

/* Relative error of the layer as it is, over all sequences. */
static double error_now(struct regress *r, int l, double energy)
{
    double sum = 0;
    for (int s = 0; s < r->steps && r->mine; s++)
        sum += accumulate(r, l, s, 0);
    sum /= energy;
    comm_sum_f64(r->env->comm, &sum, 1);
    return sum;
}

static int fit(struct regress *r, int l, double energy, struct regress_report *report,
               struct dha_err *e)
{
    struct comm *comm = r->env->comm;
    int64_t steps = (int64_t)EPOCHS * r->steps, warmup = (int64_t)(WARMUP * (double)steps);
    float scale = (float)(2.0 * r->steps / energy); /* energy / steps: a step's share */
    double before = energy > 0 ? error_now(r, l, energy) : 0;
    *report = (struct regress_report){before, before};
    if (before < EXACT)
        return 0;
    for (int64_t s = 0; s < steps; s++) {
        double norm, error = r->mine ? accumulate(r, l, (int)(s % r->steps), scale) / energy : 0;
        if (optim_reduce(&r->optim, &norm, e))
            return -1;
        comm_sum_f64(comm, &error, 1);
        if (!isfinite(error) || !isfinite(norm))
            return dha_fail(e, DHA_E_DIVERGED,
                            "the error is not a finite number at step %" PRId64 " of %" PRId64,
                            s + 1, steps);
        if (optim_update(&r->optim, s + 1, schedule_lr(s, steps, warmup, 0.0), norm, e))
            return -1;
        r->k->ops->copy(r->k, kern_at(r->model->params, r->from), kern_at(r->params, 0), r->n);
        if (method_progress(r->env, "regression", (int64_t)l * steps + s + 1,
                            steps * r->model->cfg.layers, e))
            return -1;
    }
    report->last = error_now(r, l, energy);
    if (!(report->last < before)) { /* then the closed form was better: it stays */
        r->k->ops->copy(r->k, kern_at(r->model->params, r->from), kern_at(r->kept, 0), r->n);
        report->last = before;
    }
    return 0;
}

static int regress_layer(struct regress *r, int l, struct regress_report *report, struct dha_err *e)
{
    double energy = 0;
    int rc = comm_agree(r->env->comm, open_layer(r, l, e), e);
    if (rc == 0) {
        energy = r->mine ? targets(r, l) : 0;
        comm_sum_f64(r->env->comm, &energy, 1);
        rc = isfinite(energy) ? fit(r, l, energy, report, e)
                              : dha_fail(e, DHA_E_INPUT, "the block's outputs are not finite");
    }
    if (rc == 0)
        rc = comm_agree(r->env->comm, r->mine ? walk_advance(&r->child, l, e) : 0, e);
    close_layer(r);
    return rc ? dha_err_context(e, "fitting layer %d", l) : 0;
}

int regress_attention(const struct method_env *env, struct model *mha, struct model *merged,
                      struct regress_report *report, struct dha_err *e)
{
    struct regress r;
    struct regress_report one;
    int rc = comm_agree(env->comm, open(&r, env, mha, merged, e), e);
    for (int l = 0; l < merged->cfg.layers && rc == 0; l++)
        rc = regress_layer(&r, l, report ? report + l : &one, e);
    close(&r);
    return rc;
}
