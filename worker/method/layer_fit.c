/* layer_fit.c: see layer_fit.h. */
#include "worker/method/layer_fit.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "worker/method/layer.h"
#include "worker/method/spectral.h"
#include "worker/method/walk.h"
#include "worker/train/schedule.h"

/* docs/METHOD.md has the table that these come from. */
#define STEP_TOKENS 1024 /* all ranks together; one sequence at least */
#define RATE                                                                                       \
    2e-3 /* peak; linear warm-up, cosine to 0. Of width 256: weights fall as 1/sqrt(width), and it with them */
#define RATE_WIDTH 256
#define WARMUP     0.05
/* The objective is relative, so its gradients have a scale: those below this are rounding, which a smaller one would blow up
 * where a layer lost nothing. */
#define EPSILON 1e-6
/* A relative error that is rounding: the layer lost nothing, and neither did those before it. It stays as it is. */
#define EXACT 1e-7

int layer_fit_open(struct layer_fit *f, struct comm *comm, struct model *m, int total, int seq,
                   struct dha_err *e)
{
    *f = (struct layer_fit){.comm = comm, .model = m, .k = m->k};
    f->per_step = STEP_TOKENS / seq > 0 ? STEP_TOKENS / seq : 1;
    if (f->per_step > total)
        f->per_step = total;
    f->steps = total / f->per_step;
    f->total = f->steps * f->per_step;
    f->mine = rank_share(comm, f->total, &f->first);
    f->each = (size_t)seq * (size_t)m->cfg.hidden;
    f->batch = (f->per_step + comm->size - 1) / comm->size;
    return f->mine ? run_new(&f->run, m, f->batch, seq, RUN_LAYER, e) : 0;
}

void layer_fit_close(struct layer_fit *f)
{
    run_free(f->run);
    f->run = NULL;
}

static double rate_of(const struct model *m)
{
    return m->cfg.hidden > RATE_WIDTH ? RATE * sqrt((double)RATE_WIDTH / m->cfg.hidden) : RATE;
}

static int open_layer(struct layer_fit *f, int l, struct dha_err *e)
{
    size_t projections, to;
    run_attention_span(f->model, l, &f->from, &projections, &to);
    f->n = to - f->from;
    /* the norm's weight stays: it is a factor of the columns of W_q, W_k and W_v */
    struct optim_span spans[2] = {{0, projections - f->from, 0, 0},
                                  {projections - f->from, f->n, 0, 1}};
    optim_init(&f->optim, f->k, f->comm, 0);
    f->optim.eps = EPSILON;
    f->params = f->k->ops->alloc(f->k, KERN_F32, f->n);
    f->grads = f->k->ops->alloc(f->k, KERN_F32, f->n);
    f->kept = f->k->ops->alloc(f->k, KERN_F32, f->n);
    if (method_sync(f->k, "layer regression", e) ||
        optim_add(&f->optim, f->params, f->grads, f->n, rate_of(f->model), spans, 2, e))
        return -1;
    f->k->ops->copy(f->k, kern_at(f->params, 0), kern_at(f->model->params, f->from), f->n);
    f->k->ops->copy(f->k, kern_at(f->kept, 0), kern_at(f->params, 0), f->n);
    return 0;
}

static void close_layer(struct layer_fit *f)
{
    optim_finish(&f->optim);
    f->k->ops->free(f->k, f->kept);
    f->k->ops->free(f->k, f->grads);
    f->k->ops->free(f->k, f->params);
    f->grads = f->params = f->kept = NULL;
}

/* Runs the sequences at[0..n) of this rank (n <= the run's batch) through layer l; adds gradients of
 * scale/2 * squared error, none with scale 0. Returns the squared error. The batch is filled up with copies that count for
 * nothing. */
static double fit_batch(struct layer_fit *f, int l, const struct layer_fit_data *data,
                        const int *at, int n, float scale)
{
    const struct kern_ops *ops = f->k->ops;
    struct kern_view x = run_residual(f->run), d = run_attention_dout(f->run);
    size_t used = (size_t)n * f->each;
    for (int b = 0; b < f->batch; b++)
        ops->copy(f->k, kern_plus(x, (size_t)b * f->each),
                  kern_at(data->input, (size_t)at[b < n ? b : 0] * f->each), f->each);
    run_attention_only(f->run, l);
    run_attention_output(f->run, d);
    for (int b = 0; b < n; b++)
        ops->axpy(f->k, kern_plus(d, (size_t)b * f->each), -1.0f,
                  kern_at(data->target, (size_t)at[b] * f->each), f->each);
    double error = ops->sumsq(f->k, d, used);
    if (scale == 0)
        return error;
    ops->zero(f->k, kern_plus(d, used), (size_t)(f->batch - n) * f->each);
    ops->scale(f->k, d, scale, used);
    run_attention_backward(f->run, l, f->grads);
    return error;
}

/* This rank's part of step s of an epoch. */
static double accumulate(struct layer_fit *f, int l, const struct layer_fit_data *data, int s,
                         float scale)
{
    enum { MOST = 64 };
    int at[MOST], n = 0, most = f->batch < MOST ? f->batch : MOST;
    double error = 0;
    for (int64_t i = s; i < f->total; i += f->steps) {
        if (i < f->first || i >= f->first + f->mine)
            continue;
        at[n++] = (int)(i - f->first);
        if (n == most) {
            error += fit_batch(f, l, data, at, n, scale);
            n = 0;
        }
    }
    return n ? error + fit_batch(f, l, data, at, n, scale) : error;
}

/* Relative error of the layer as it is, over all sequences. */
static double error_now(struct layer_fit *f, int l, const struct layer_fit_data *data)
{
    double sum = 0;
    for (int s = 0; s < f->steps && f->mine; s++)
        sum += accumulate(f, l, data, s, 0);
    sum /= data->energy;
    comm_sum_f64(f->comm, &sum, 1);
    return sum;
}

/* The gradient of rows that are one: the sum of theirs, in every row of the group. */
static void tie_rows(struct layer_fit *f, int l, enum layer_param which, const int *group_of)
{
    const struct param *p = model_param(f->model, l, which);
    int heads = f->model->cfg.heads, members[MODEL_MAX_HEADS];
    if (!p || !group_of)
        return;
    size_t each = p->n / (size_t)heads, at = p->off - f->from;
    for (int g = 0; g < heads; g++) {
        int n = group_members(group_of, heads, g, members);
        for (int i = 1; i < n; i++)
            f->k->ops->axpy(f->k, kern_at(f->grads, at + (size_t)members[0] * each), 1.0f,
                            kern_at(f->grads, at + (size_t)members[i] * each), each);
        for (int i = 1; i < n; i++)
            f->k->ops->copy(f->k, kern_at(f->grads, at + (size_t)members[i] * each),
                            kern_at(f->grads, at + (size_t)members[0] * each), each);
    }
}

int64_t layer_fit_steps(const struct layer_fit *f, const struct layer_fit_options *o)
{
    int64_t most = (int64_t)o->passes * f->steps;
    return o->steps < most ? o->steps : most;
}

static int fit(struct layer_fit *f, int l, const struct layer_fit_data *data,
               const struct layer_fit_options *o, struct layer_fit_report *report,
               struct dha_err *e)
{
    int64_t steps = layer_fit_steps(f, o), warmup = (int64_t)(WARMUP * (double)steps);
    /* energy / steps: a step's share */
    float scale = (float)(2.0 * f->steps / data->energy);
    double before = data->energy > 0 ? error_now(f, l, data) : 0;
    *report = (struct layer_fit_report){before, before};
    if (before < EXACT)
        return 0;
    for (int64_t s = 0; s < steps; s++) {
        double norm, error = 0;
        if (f->mine)
            error = accumulate(f, l, data, (int)(s % f->steps), scale) / data->energy;
        tie_rows(f, l, P_K, o->keys);
        tie_rows(f, l, P_K_BIAS, o->keys);
        tie_rows(f, l, P_V, o->values);
        tie_rows(f, l, P_V_BIAS, o->values);
        if (optim_reduce(&f->optim, &norm, e))
            return -1;
        comm_sum_f64(f->comm, &error, 1);
        if (!isfinite(error) || !isfinite(norm))
            return dha_fail(e, DHA_E_DIVERGED,
                            "the error is not a finite number at step %" PRId64 " of %" PRId64,
                            s + 1, steps);
        if (optim_update(&f->optim, s + 1, schedule_lr(s, steps, warmup, 0.0), norm, e))
            return -1;
        f->k->ops->copy(f->k, kern_at(f->model->params, f->from), kern_at(f->params, 0), f->n);
        if (o->progress && o->progress(o->arg, s + 1, steps, e))
            return -1;
    }
    report->last = error_now(f, l, data);
    if (!(report->last < before)) { /* then what was there was better: it stays */
        f->k->ops->copy(f->k, kern_at(f->model->params, f->from), kern_at(f->kept, 0), f->n);
        report->last = before;
    }
    return 0;
}

int layer_fit(struct layer_fit *f, int layer, const struct layer_fit_data *data,
              const struct layer_fit_options *o, struct layer_fit_report *report, struct dha_err *e)
{
    int rc = comm_agree(f->comm, open_layer(f, layer, e), e);
    if (rc == 0)
        rc = isfinite(data->energy)
                 ? fit(f, layer, data, o, report, e)
                 : dha_fail(e, DHA_E_INPUT, "the block's outputs are not finite");
    close_layer(f);
    return rc ? dha_err_context(e, "fitting layer %d", layer) : 0;
}
