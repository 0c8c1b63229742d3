#include "worker/train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/control.h"
#include "worker/train/ckpt.h"
#include "worker/train/evaluate.h"
#include "worker/train/recovery.h"
#include "worker/train/schedule.h"

#define CKPT_SECONDS  60.0
#define LAYER_REPORTS 20   /* points on the curves of each layer's L_fusion */
#define FUSION_DONE   1e-3 /* METHODS 1.5: stop rule */

struct trainer {
    const struct trainer_options *o;
    struct kern *k;
    struct run *run, *teacher;
    struct kern_buf *grads;
    struct optim optim;
    struct ckpt_state state;
    int64_t saved_step; /* of the newest checkpoint, -1: none */
    int64_t valid_step; /* of the newest validation, and what it said */
    double valid_loss;
    int64_t steps, warmup; /* of the whole stage */
    int64_t sequences;     /* a step, all ranks */
    int64_t local;         /* sequences of this rank, at most */
    int micro;             /* sequences of one forward pass */
    int32_t *ids, *targets;
    uint8_t *classes;     /* NULL: all rows are text */
    struct kern_buf *mse; /* fusion losses: entry e's groups at e * heads */
    double *mse_host;     /* [entries]: means over groups, of the last step */
    struct record progress;
    double last_save, step_seconds, teacher_seconds, all_seconds;
    double lr_omega, lr_lambda; /* as given or chosen */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- set-up --------------------------------------------------------------------------------------- */

static bool in_attention(const struct model *m, const struct param *p)
{
    static const enum layer_param attention[] = {P_Q,      P_K,      P_V,      P_O,
                                                 P_Q_BIAS, P_K_BIAS, P_V_BIAS, P_O_BIAS};
    for (int l = 0; l < m->cfg.layers; l++)
        for (size_t i = 0; i < sizeof attention / sizeof *attention; i++)
            if (model_param(m, l, attention[i]) == p)
                return true;
    return false;
}

/* Weight decay is for matrices; norms and biases go without. Attention's projections may have a rate of their own. Adjacent
 * parameters of one kind share a span. */
static int param_spans(const struct model *m, double wd, double lr_attention,
                       struct optim_span **out, int *n, struct dha_err *e)
{
    struct optim_span *s = calloc((size_t)m->n_table + 1, sizeof *s);
    if (!s)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for the parameter table");
    *n = 0;
    size_t at = 0;
    while (at < m->n_params) { /* the table need not be in arena order */
        const struct param *next = NULL;
        for (int i = 0; i < m->n_table; i++)
            if (m->table[i].off == at && m->table[i].n > 0)
                next = &m->table[i];
        /* padding between parameters, if a model has any, takes no decay */
        size_t end = next ? at + next->n : at + 1;
        float w = next && next->n_dims > 1 ? (float)wd : 0.0f;
        float rate = next && lr_attention > 0 && in_attention(m, next) ? (float)lr_attention : 1.0f;
        /* exact: they are the same constants */
        if (*n > 0 && s[*n - 1].weight_decay == w && s[*n - 1].rate == rate) {
            s[*n - 1].to = end;
        } else if (*n <= m->n_table) {
            s[*n] = (struct optim_span){at, end, w, rate};
            (*n)++;
        }
        at = end;
    }
    *out = s;
    return 0;
}

static int64_t sequences_of(const struct trainer_options *o)
{
    /* a step is never more than all that was asked for */
    int64_t tokens = o->tokens > 0 && o->tokens < o->batch_tokens ? o->tokens : o->batch_tokens;
    return tokens / o->seq > 0 ? tokens / o->seq : 1;
}

int64_t trainer_steps(const struct trainer_options *o)
{
    return schedule_steps(o->tokens, sequences_of(o) * o->seq);
}

static void plan_batches(struct trainer *t)
{
    const struct trainer_options *o = t->o;
    t->sequences = sequences_of(o);
    t->local = (t->sequences + o->comm->size - 1) / o->comm->size;
    /* the largest divisor of the local sequences that fits, so that no pass is half empty */
    t->micro = run_batch_for(o->seq, t->local);
    while (t->local % t->micro)
        t->micro--;
    t->steps = trainer_steps(o);
    t->warmup = (int64_t)llround(o->warmup * (double)t->steps);
}

/* METHODS 2.7: merged heads take twice the rate and no decay. */
static int optim_of_masks(struct trainer *t, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    struct model_mask *mask = o->model->oper->mask;
    struct optim_span merged = {0, mask->n, 0, 1}, masks = {0, (size_t)o->masks->n, 0, 1};
    double lr = o->lr_attention > 0 ? o->lr * o->lr_attention : o->lr;
    if (optim_add(&t->optim, mask->merged, mask->dmerged, mask->n, 2 * lr, &merged, 1, e))
        return -1;
    if (!o->masks->alpha)
        return 0;
    double rate = o->lr_omega > 0 ? o->lr_omega : masks_rate(o->masks->kind, t->steps);
    if (optim_add(&t->optim, o->masks->alpha, o->masks->dalpha, (size_t)o->masks->n, rate, &masks,
                  1, e))
        return -1;
    optim_apart(&t->optim);
    return 0;
}

static int set_up_optim(struct trainer *t, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    struct model *m = o->model;
    struct optim_span *spans = NULL;
    int n = 0;
    optim_init(&t->optim, t->k, o->comm, o->clip);
    if (param_spans(m, o->weight_decay, o->lr_attention, &spans, &n, e))
        return -1;
    int rc = optim_add(&t->optim, m->params, t->grads, m->n_params, o->lr, spans, n, e);
    free(spans);
    if (rc || !m->oper)
        return rc;
    if (o->masks)
        return optim_of_masks(t, e);
    size_t entries = 2 * (size_t)m->oper->layers;
    size_t h = (size_t)m->oper->heads, omegas = entries * h * h * (size_t)m->oper->dim;
    struct optim_span all = {0, omegas, 0, 1};
    t->mse = t->k->ops->alloc(t->k, KERN_F32, entries * h);
    t->mse_host = calloc(entries, sizeof *t->mse_host);
    if (!t->mse || !t->mse_host)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for the fusion losses");
    return optim_add(&t->optim, m->oper->omega, m->oper->domega, omegas, t->lr_omega, &all, 1, e);
}

static int set_up(struct trainer *t, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    plan_batches(t);
    size_t rows = (size_t)t->micro * (size_t)o->seq;
    t->lr_omega = o->lr_omega > 0 ? o->lr_omega : schedule_omega_rate(t->steps);
    t->lr_lambda = o->lr_lambda > 0 ? o->lr_lambda : schedule_lambda_rate(t->steps);
    t->ids = malloc(rows * sizeof *t->ids);
    t->targets = malloc(rows * sizeof *t->targets);
    t->grads = model_grads_new(o->model, e);
    if (!t->grads)
        return -1;
    if (corpus_has_classes(o->train))
        t->classes = malloc(rows);
    if (!t->ids || !t->targets || (corpus_has_classes(o->train) && !t->classes))
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu tokens", rows);
    if (corpus_check(o->train, o->seq, e) ||
        run_new(&t->run, o->model, t->micro, o->seq, RUN_TRAIN, e))
        return -1;
    if (o->teacher && run_new(&t->teacher, o->teacher, t->micro, o->seq, RUN_INFER, e))
        return dha_err_context(e, "teacher");
    t->state.lambda = 1.0; /* METHODS 1.5: lambda_0 */
    t->state.fusion_loss = NAN;
    t->saved_step = -1;
    return set_up_optim(t, e);
}

static void tear_down(struct trainer *t)
{
    optim_finish(&t->optim);
    free(t->mse_host);
    t->k->ops->free(t->k, t->mse);
    run_free(t->teacher);
    run_free(t->run);
    t->k->ops->free(t->k, t->grads);
    free(t->classes);
    free(t->targets);
    free(t->ids);
}

/* ---- one step --------------------------------------------------------------------------------------- */

/* Fills ids and targets with this rank's micro-batch i; what is past the step's last sequence is filler that counts for
 * nothing. */
static int draw(struct trainer *t, int64_t i, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    for (int b = 0; b < t->micro; b++) {
        int64_t index = (i * t->micro + b) * o->comm->size + o->comm->rank;
        size_t at = (size_t)b * (size_t)o->seq;
        bool filler = index >= t->sequences;
        if (corpus_draw(o->train, o->seed, o->stream, o->data_step + t->state.step,
                        filler ? 0 : index, o->seq, t->ids + at, t->targets + at, e) ||
            (t->classes &&
             corpus_draw_classes(o->train, o->seed, o->stream, o->data_step + t->state.step,
                                 filler ? 0 : index, o->seq, t->classes + at, e)))
            return -1;
        for (int j = 0; filler && j < o->seq; j++)
            t->targets[at + (size_t)j] = -1;
    }
    return 0;
}

/* What the losses of a step add up to. */
struct losses {
    struct run_objective objective;
    struct run_sums sums;
    double rows[RUN_CLASSES];
};

/* Rows of each class in the step, over all ranks. */
static int count_rows(struct trainer *t, double rows[RUN_CLASSES], struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    int rc = 0;
    if (!t->classes) {
        rows[CORPUS_TEXT] = (double)(t->sequences * o->seq);
        return 0;
    }
    for (int64_t i = 0; rc == 0 && i * t->micro < t->local; i++) {
        rc = draw(t, i, e);
        for (int r = 0; rc == 0 && r < t->micro * o->seq; r++)
            if (t->targets[r] >= 0)
                rows[t->classes[r]]++;
    }
    if (comm_agree(o->comm, rc, e))
        return -1;
    comm_sum_f64(o->comm, rows, RUN_CLASSES);
    return 0;
}

/* Gradients of this rank's sequences. */
static int accumulate(struct trainer *t, struct losses *l, struct dha_err *e)
{
    for (int64_t i = 0; i * t->micro < t->local; i++) {
        if (draw(t, i, e))
            return -1;
        if (t->teacher) {
            double begun = now_s();
            run_forward(t->teacher, t->ids);
            t->k->ops->sync(t->k);
            l->sums.teacher_seconds += now_s() - begun;
        }
        run_forward(t->run, t->ids);
        if (run_objective(t->run, t->targets, t->teacher, &l->objective, t->grads, &l->sums, e))
            return -1;
        run_backward(t->run, t->grads);
    }
    return 0;
}

/* Penalty of METHODS 1.4-1.5: adds lambda * d max(mse - t, 0) to omega's gradient (on one rank: gradients are summed),
 * returns the sum of violations; *mean = L_fusion, the mean over groups of two heads or more. */
static double penalty(struct trainer *t, double threshold, double *mean)
{
    struct model_oper *op = t->o->model->oper;
    size_t h = (size_t)op->heads, block = h * h * (size_t)op->dim;
    float *mse = malloc(sizeof(float) * 2 * (size_t)op->layers * h);
    double coeff = t->o->comm->rank == 0 && t->o->penalty ? t->state.lambda : 0.0;
    for (int en = 0; en < 2 * op->layers; en++)
        t->k->ops->fusion_penalty(t->k, kern_at(op->domega, (size_t)en * block),
                                  kern_at(t->mse, (size_t)en * h),
                                  kern_at(op->omega, (size_t)en * block), op->groups[en], op->heads,
                                  op->dim, (float)coeff, (float)threshold);
    double violation = 0, sum = 0;
    int groups = 0;
    memset(t->mse_host, 0, 2 * (size_t)op->layers * sizeof *t->mse_host);
    if (mse)
        t->k->ops->download(t->k, mse, kern_at(t->mse, 0), 2 * (size_t)op->layers * h);
    for (int en = 0; mse && en < 2 * op->layers; en++) {
        int size[MODEL_MAX_HEADS] = {0}, here = 0;
        const int *of = op->group_of + en * op->heads;
        for (int i = 0; i < op->heads; i++)
            size[of[i]]++;
        for (int g = 0; g < op->heads; g++) {
            double v = (double)mse[(size_t)en * h + (size_t)g];
            if (size[g] < 2)
                continue;
            groups++;
            here++;
            sum += v;
            t->mse_host[en] += v;
            if (v > threshold)
                violation += v - threshold;
        }
        t->mse_host[en] /= here ? here : 1;
    }
    *mean = groups ? sum / groups : 0.0;
    if (!mse)
        *mean = NAN; /* noticed as a loss that is not finite */
    free(mse);
    return violation;
}

static int diverged(struct trainer *t, double loss, double norm, struct dha_err *e)
{
    dha_fail(e, DHA_E_DIVERGED,
             "the loss is not a finite number at step %" PRId64 " (loss %g, gradient norm %g)",
             t->state.step + 1, loss, norm);
    if (t->saved_step >= 0)
        dha_err_hint(e, "lower optim.lr (now %g); the checkpoint of step %" PRId64 " is kept in %s",
                     t->o->lr, t->saved_step, t->o->ckpt_dir);
    else
        dha_err_hint(e, "lower optim.lr (now %g) or raise optim.warmup; nothing was overwritten",
                     t->o->lr);
    return -1;
}

/* The operators of this step. Only `closed` of what the masks report is of interest here. */
static void open_step(struct trainer *t)
{
    struct model *m = t->o->model;
    if (!m->oper)
        return;
    if (t->o->masks)
        masks_open_step(t->o->masks, t->state.step);
    else if (t->o->contract)
        m->oper->contract = schedule_contract(t->state.step, t->steps);
    model_oper_apply(m);
}

/* Gradients of the operators; *violation of the fusion constraint, *fusion = L_fusion (NaN without fusion operators). */
static void operators_backward(struct trainer *t, double threshold, double *violation,
                               double *fusion)
{
    *fusion = NAN;
    *violation = 0;
    if (!t->o->model->oper)
        return;
    model_oper_backward(t->o->model, t->grads);
    if (t->o->masks)
        masks_backward(t->o->masks, t->state.step, t->state.mask_lambda, t->o->comm);
    else
        *violation = penalty(t, threshold, fusion);
}

/* In the stage. */
static int64_t tokens_so_far(const struct trainer *t)
{
    return t->state.tokens + t->o->done_steps * t->sequences * t->o->seq;
}

static void report(struct trainer *t, const struct recovery_loss *mean, double teacher_seconds,
                   double took)
{
    const struct trainer_options *o = t->o;
    struct record *r = &t->progress;
    r->type = REC_PROGRESS;
    r->progress.step = o->done_steps + t->state.step;
    r->progress.steps = o->all_steps > 0 ? o->all_steps : t->steps;
    r->progress.tokens = tokens_so_far(t);
    r->progress.loss = mean->all;
    r->progress.lm = mean->lm;
    r->progress.kl = mean->kl;
    r->progress.bild = o->w_bild > 0 ? mean->bild : NAN;
    r->progress.tokens_per_s = (double)(t->sequences * o->seq) / took;
    r->progress.eta_s = (double)(r->progress.steps - r->progress.step) * t->step_seconds;
    r->progress.closed = o->masks ? o->masks->closed : NAN;
    r->progress.teacher_ms = t->teacher ? 1e3 * teacher_seconds : NAN;
    journal_write(o->journal, r);
}

static int step(struct trainer *t, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    struct model *m = o->model;
    struct losses l = {.rows = {0}};
    double norm = 0, violation, fusion, comm0 = o->comm->seconds, begun = now_s();
    double threshold = schedule_threshold(t->state.step, t->steps);
    const struct recovery w = {.lm = o->w_lm, .kl = o->w_kl, .bild = o->w_bild};
    bool constrained = m->oper && !o->masks && o->penalty;
    open_step(t);
    if (count_rows(t, l.rows, e))
        return -1;
    recovery_weigh(&w, l.rows, &l.objective);
    l.objective.classes = t->classes;
    if (comm_agree(o->comm, accumulate(t, &l, e), e))
        return -1;
    operators_backward(t, threshold, &violation, &fusion);
    if (optim_reduce(&t->optim, &norm, e))
        return -1;
    comm_sum_f64(o->comm, l.sums.lm, RUN_CLASSES);
    comm_sum_f64(o->comm, l.sums.kl, RUN_CLASSES);
    comm_sum_f64(o->comm, l.sums.bild, RUN_CLASSES);
    struct recovery_loss mean = recovery_mean(&w, l.rows, &l.sums);
    double loss = mean.all;
    /* every rank has the same numbers, so every rank takes the same branch */
    if (!isfinite(loss) || !isfinite(norm) || (m->oper && !o->masks && !isfinite(fusion)))
        return diverged(t, loss, norm, e);
    double factor = schedule_lr(t->state.step, t->steps, t->warmup, o->final_lr);
    if (optim_update(&t->optim, t->state.step + 1, factor, norm, e))
        return -1;
    double lambda = t->state.lambda;
    if (o->masks)
        masks_close_step(o->masks, t->state.step, t->state.mask_lambda);
    if (constrained) { /* dual ascent, projected: METHODS 1.12 */
        t->state.lambda += t->lr_lambda * violation;
        if (t->state.lambda < 0)
            t->state.lambda = 0;
    }
    t->state.fusion_loss = fusion;
    t->state.step++;
    t->state.tokens += t->sequences * o->seq;
    double took = now_s() - begun;
    t->step_seconds = t->step_seconds > 0 ? 0.8 * t->step_seconds + 0.2 * took : took;
    t->all_seconds += took;
    t->teacher_seconds += l.sums.teacher_seconds;
    t->progress.progress.lr = o->lr * factor;
    t->progress.progress.grad_norm = norm;
    t->progress.progress.comm_ms = 1e3 * (o->comm->seconds - comm0);
    t->progress.progress.fusion_loss = fusion;
    t->progress.progress.lambda = constrained ? lambda : NAN;
    t->progress.progress.threshold = constrained ? threshold : NAN;
    report(t, &mean, l.sums.teacher_seconds, took);
    return 0;
}

/* ---- around the steps ------------------------------------------------------------------------------- */

static int save(struct trainer *t, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    if (t->saved_step == t->state.step)
        return 0;
    struct ckpt_info info;
    journal_phase(o->journal, "save", 0, 0);
    t->state.valid_loss = t->valid_step == t->state.step ? t->valid_loss : NAN;
    if (ckpt_save(o->ckpt_dir, &t->optim, &t->state, o->identity, &info, e))
        return -1;
    t->saved_step = t->state.step;
    t->last_save = now_s();
    if (o->comm->rank == 0) {
        struct record r = {.type = REC_CHECKPOINT};
        r.checkpoint.step = info.step;
        r.checkpoint.bytes = info.bytes;
        snprintf(r.checkpoint.path, sizeof r.checkpoint.path, "%.*s",
                 (int)sizeof r.checkpoint.path - 1, info.path);
        snprintf(r.checkpoint.digest, sizeof r.checkpoint.digest, "%s", info.digest);
        r.checkpoint.valid_loss = t->state.valid_loss;
        journal_write(o->journal, &r);
        ckpt_retain(o->ckpt_dir, &o->ckpt_keep); /* the new one is told: now older ones may go */
    }
    return 0;
}

/* The operators as they are after the finished steps. */
static void show_operators(struct trainer *t)
{
    const struct trainer_options *o = t->o;
    if (!o->model->oper)
        return;
    if (o->masks)
        masks_show(o->masks, t->state.step);
    else if (o->contract)
        o->model->oper->contract = schedule_contract(t->state.step, t->steps);
    model_oper_apply(o->model);
}

/* L_fusion of each layer's keys and values, as of the last step: the mean over its groups of two heads or more. */
static void report_layers(struct trainer *t)
{
    struct model_oper *op = t->o->model->oper;
    for (int en = 0; op && !t->o->masks && en < 2 * op->layers; en++)
        journal_layer(t->o->journal, "fusion_loss", en % 2 ? "value" : "key", en / 2,
                      t->o->done_steps + t->state.step, t->mse_host[en]);
}

static int evaluate_now(struct trainer *t, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    struct eval_result v;
    journal_phase(o->journal, "evaluate", 0, 0);
    show_operators(t);
    if (evaluate(o->model, o->valid, o->seq, o->eval_windows, o->comm, &v, e))
        return dha_err_context(e, "evaluating at step %" PRId64, t->state.step);
    evaluate_journal(o->journal, "valid", &v, o->done_steps + t->state.step, tokens_so_far(t));
    t->valid_step = t->state.step;
    t->valid_loss = v.loss; /* the same on every rank */
    return 0;
}

/* n points lie at steps i * steps / n, i = 1..n. */
static bool due(const struct trainer *t, int64_t n)
{
    return t->state.step * n / t->steps != (t->state.step - 1) * n / t->steps;
}

static bool eval_due(const struct trainer *t)
{
    return t->o->valid && t->o->evals > 0 && due(t, t->o->evals);
}

static void warn_rank0(void *arg, const char *text)
{
    (void)arg;
    fprintf(stderr, "warning: %s\n", text);
}

static int resume(struct trainer *t, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    int64_t from = -1;
    if (o->ckpt_dir) {
        int got = ckpt_load(o->ckpt_dir, &t->optim, &t->state, o->identity, warn_rank0, NULL, e);
        if (got < 0)
            return -1;
        if (got)
            from = t->saved_step = t->state.step;
    }
    if (o->hello)
        o->hello(o->arg, o->all_steps > 0 ? o->all_steps : t->steps,
                 from >= 0           ? o->done_steps + from
                 : o->done_steps > 0 ? o->done_steps
                                     : -1);
    return 0;
}

/* After each step: checkpoint, stop, go on. Returns 1 when a stop was asked for and is saved. */
static int obey(struct trainer *t, struct dha_err *e)
{
    const struct trainer_options *o = t->o;
    enum control want = CONTROL_NONE;
    /* rank 0's clock decides for all, in the same all-reduce */
    if (o->ckpt_dir && o->comm->rank == 0 && o->ckpt_every == 0 &&
        now_s() - t->last_save > CKPT_SECONDS)
        want = CONTROL_CHECKPOINT;
    if (o->ckpt_every > 0 && t->state.step % o->ckpt_every == 0)
        want = CONTROL_CHECKPOINT;
    if (o->ckpt_keep.best > 0 && t->valid_step == t->state.step)
        want = CONTROL_CHECKPOINT;
    want = control_agree(o->comm, want);
    if (want != CONTROL_NONE && o->ckpt_dir && save(t, e))
        return -1;
    return want == CONTROL_STOP;
}

/* METHODS 1.5: the fusion stage may end early. A function of the saved state, so that a resumed run ends where the other
 * one did. */
static bool fused_enough(const struct trainer *t)
{
    return t->o->penalty && t->state.fusion_loss < FUSION_DONE &&
           schedule_threshold(t->state.step, t->steps) <= 0 && !t->o->contract;
}

static int loop(struct trainer *t, struct dha_err *e)
{
    while (t->state.step < t->steps && !fused_enough(t)) {
        if (step(t, e))
            return -1;
        if (eval_due(t) && evaluate_now(t, e))
            return -1;
        if (due(t, LAYER_REPORTS))
            report_layers(t);
        int stop = obey(t, e);
        if (stop < 0)
            return -1;
        if (stop && t->state.step < t->steps) {
            dha_fail(e, DHA_E_STOPPED, "stopped on request after step %" PRId64 " of %" PRId64,
                     t->state.step, t->steps);
            return dha_err_hint(e, "start it again and it goes on from there");
        }
    }
    return 0;
}

int trainer_run(const struct trainer_options *o, struct trainer_result *out, struct dha_err *e)
{
    struct trainer t = {.o = o, .k = o->model->k, .last_save = now_s()};
    int rc = comm_agree(o->comm, set_up(&t, e), e);
    if (rc == 0)
        rc = resume(&t, e);
    if (rc == 0)
        rc = loop(&t, e);
    if (rc == 0)
        show_operators(&t);
    if (rc == 0)
        *out = (struct trainer_result){
            .steps = t.state.step,
            .tokens = t.state.tokens,
            .loss = t.progress.progress.loss,
            .fusion_loss = t.state.fusion_loss,
            .teacher_share = t.all_seconds > 0 ? t.teacher_seconds / t.all_seconds : 0};
    tear_down(&t);
    return rc;
}
