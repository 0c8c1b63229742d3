/* regress.c: see regress.h. The sequences are the refit's and as many more. */
#include "worker/method/regress.h"

#include <string.h>

#include "worker/method/layer.h"
#include "worker/method/walk.h"

/* docs/METHOD.md has the table that they come from: 8 passes of N = 32,768 tokens in sequences of up to 1,024. */
#define STEPS  512
#define PASSES 32

struct regress {
    const struct method_env *env;
    struct layer_fit fit;
    struct walk parent, child; /* this rank's sequences */
    struct kern_buf *target;   /* [this rank's sequences, hidden] x + f(x) - x' */
    int layer;
};

static int open(struct regress *r, const struct method_env *env, struct model *mha,
                struct model *merged, struct dha_err *e)
{
    *r = (struct regress){.env = env};
    struct layer_fit *f = &r->fit;
    if (layer_fit_open(f, env->comm, merged, calib_split(env).regress, env->seq, e))
        return -1;
    if (f->mine == 0)
        return 0;
    if (walk_open(&r->parent, env, mha, STREAM_REFIT, f->first, f->mine, e) ||
        walk_open(&r->child, env, merged, STREAM_REFIT, f->first, f->mine, e))
        return -1;
    size_t padded = (size_t)r->parent.chunks * (size_t)r->parent.batch;
    r->target = f->k->ops->alloc(f->k, KERN_F32, padded * f->each);
    return method_sync(f->k, "layer regression", e);
}

static void close(struct regress *r)
{
    if (r->target)
        r->fit.k->ops->free(r->fit.k, r->target);
    walk_close(&r->child);
    walk_close(&r->parent);
    layer_fit_close(&r->fit);
}

/* Targets of layer l, and the parent's walk goes behind it. Returns the sum of squares of this rank's targets. */
static double targets(struct regress *r, int l)
{
    const struct kern_ops *ops = r->fit.k->ops;
    struct kern *k = r->fit.k;
    struct walk *w = &r->parent;
    size_t chunk = (size_t)w->batch * r->fit.each;
    double sum = 0;
    for (int c = 0; c < w->chunks; c++) {
        struct kern_view t = kern_at(r->target, (size_t)c * chunk);
        walk_attention(w, c, l, t);
        ops->axpy(k, t, 1.0f, kern_at(w->residual, (size_t)c * chunk), chunk);
        ops->axpy(k, t, -1.0f, kern_at(r->child.residual, (size_t)c * chunk), chunk);
        sum += ops->sumsq(k, t, (size_t)walk_valid(w, c) * r->fit.each);
        run_layer(w->run, l);
        walk_save(w, c);
    }
    return sum;
}

static int progress(void *arg, int64_t step, int64_t steps, struct dha_err *e)
{
    const struct regress *r = arg;
    return method_progress(r->env, "regression", (int64_t)r->layer * steps + step,
                           steps * r->fit.model->cfg.layers, e);
}

static int regress_layer(struct regress *r, int l, struct layer_fit_report *report,
                         struct dha_err *e)
{
    struct layer_fit_data data = {
        .input = r->child.residual, .target = r->target, .energy = r->fit.mine ? targets(r, l) : 0};
    struct layer_fit_options o = {.steps = STEPS, .passes = PASSES, .progress = progress, .arg = r};
    comm_sum_f64(r->env->comm, &data.energy, 1);
    r->layer = l;
    int rc = layer_fit(&r->fit, l, &data, &o, report, e);
    if (rc == 0 && r->env->layer) {
        r->env->layer(r->env->arg, "regression_error", "block", l, 0, report->first);
        r->env->layer(r->env->arg, "regression_error", "block", l, layer_fit_steps(&r->fit, &o),
                      report->last);
    }
    if (rc == 0)
        rc = comm_agree(r->env->comm, r->fit.mine ? walk_advance(&r->child, l, e) : 0, e);
    return rc;
}

int regress_attention(const struct method_env *env, struct model *mha, struct model *merged,
                      struct layer_fit_report *report, struct dha_err *e)
{
    struct regress r;
    struct layer_fit_report one;
    int rc = comm_agree(env->comm, open(&r, env, mha, merged, e), e);
    for (int l = 0; l < merged->cfg.layers && rc == 0; l++)
        rc = regress_layer(&r, l, report ? report + l : &one, e);
    close(&r);
    return rc;
}
