#include "worker/method/walk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/layer.h"
#include "worker/method/linalg.h"

/* Rows of one forward pass: enough for full-speed GEMMs, few enough for a modest set of activations. */
#define CHUNK_ROWS 4096

static int draw(struct walk *w, const struct method_env *env, enum corpus_stream stream,
                int64_t first, struct dha_err *e)
{
    size_t seq = (size_t)w->seq;
    for (int i = 0; i < w->chunks * w->batch; i++) {
        int32_t *ids = w->ids + (size_t)i * seq, *targets = w->targets + (size_t)i * seq;
        if (i < w->n) {
            if (corpus_draw(env->train, env->seed, stream, 0, first + i, w->seq, ids, targets, e))
                return dha_err_context(e, "drawing calibration sequences");
        } else {
            memcpy(ids, w->ids, seq * sizeof *ids);
            for (size_t t = 0; t < seq; t++)
                targets[t] = -1;
        }
    }
    return 0;
}

int walk_open(struct walk *w, const struct method_env *env, struct model *m,
              enum corpus_stream stream, int64_t first, int n, struct dha_err *e)
{
    int fit = CHUNK_ROWS / env->seq;
    *w = (struct walk){.m = m, .seq = env->seq, .n = n};
    if (n == 0)
        return 0;
    w->batch = fit < 1 ? 1 : fit < n ? fit : n;
    w->chunks = (n + w->batch - 1) / w->batch;
    size_t rows = (size_t)w->chunks * (size_t)w->batch * (size_t)w->seq;
    w->ids = la_alloc(rows, sizeof *w->ids, "calibration tokens", e);
    w->targets = la_alloc(rows, sizeof *w->targets, "calibration tokens", e);
    if (!w->ids || !w->targets || draw(w, env, stream, first, e))
        goto fail;
    if (run_new(&w->run, m, w->batch, w->seq, RUN_INFER, e))
        goto fail;
    w->residual = m->k->ops->alloc(m->k, KERN_F32, rows * (size_t)m->cfg.hidden);
    for (int c = 0; c < w->chunks && w->residual; c++) {
        run_embed(w->run, w->ids + (size_t)c * (size_t)w->batch * (size_t)w->seq);
        walk_save(w, c);
    }
    if (method_sync(m->k, "embedding the calibration tokens", e))
        goto fail;
    return 0;
fail:
    walk_close(w);
    return -1;
}

void walk_close(struct walk *w)
{
    if (w->m)
        w->m->k->ops->free(w->m->k, w->residual);
    run_free(w->run);
    free(w->targets);
    free(w->ids);
    memset(w, 0, sizeof *w);
}

static struct kern_view chunk_at(const struct walk *w, int chunk)
{
    size_t each = (size_t)w->batch * (size_t)w->seq * (size_t)w->m->cfg.hidden;
    return kern_at(w->residual, (size_t)chunk * each);
}

void walk_load(struct walk *w, int chunk)
{
    run_set_residual(w->run, chunk_at(w, chunk));
}

void walk_save(struct walk *w, int chunk)
{
    struct kern *k = w->m->k;
    k->ops->copy(k, chunk_at(w, chunk), run_residual(w->run),
                 (size_t)w->batch * (size_t)w->seq * (size_t)w->m->cfg.hidden);
}

int walk_valid(const struct walk *w, int chunk)
{
    int left = w->n - chunk * w->batch;
    return left < w->batch ? left : w->batch;
}

void walk_attention(struct walk *w, int chunk, int layer, struct kern_view dst)
{
    walk_load(w, chunk);
    run_attention_only(w->run, layer);
    run_attention_output(w->run, dst);
}

int walk_advance(struct walk *w, int layer, struct dha_err *e)
{
    for (int c = 0; c < w->chunks; c++) {
        walk_load(w, c);
        run_layer(w->run, layer);
        walk_save(w, c);
    }
    return method_sync(w->m->k, "moving calibration tokens through a layer", e);
}

int walk_loss(struct walk *w, int from, double *sum, struct dha_err *e)
{
    double kl = 0.0;
    *sum = 0.0;
    for (int c = 0; c < w->chunks; c++) {
        walk_load(w, c);
        for (int l = from; l < w->m->cfg.layers; l++)
            run_layer(w->run, l);
        run_final(w->run);
        if (run_loss(w->run, w->targets + (size_t)c * (size_t)w->batch * (size_t)w->seq, NULL, 1.0f,
                     0.0f, 1.0f, NULL, sum, &kl, e))
            return -1;
    }
    return isfinite(*sum)
               ? 0
               : dha_fail(e, DHA_E_INPUT, "the loss on calibration tokens is not finite");
}

static int sequences(int64_t tokens, int seq)
{
    int64_t n = (tokens + seq / 2) / seq;
    return n < 1 ? 1 : n > 1 << 24 ? 1 << 24 : (int)n;
}

struct calib_split calib_split(const struct method_env *env)
{
    int64_t n = env->calib_tokens;
    struct calib_split s = {.moments = sequences(n / 2, env->seq),
                            .costs = sequences(n / 4, env->seq),
                            .key_error = sequences(n / 16, env->seq),
                            .refit = sequences(n, env->seq),
                            .regress = sequences(2 * n, env->seq)};
    if (env->method->regress && env->method->budget == BUDGET_MEASURED)
        s.cost_fit = s.refit;
    return s;
}

int64_t calib_tokens_search(const struct method_env *env)
{
    struct calib_split s = calib_split(env); /* the key error's are the moments' */
    return ((int64_t)s.moments + s.costs + s.cost_fit) * env->seq;
}

int64_t calib_tokens_merge(const struct method_env *env, bool searched)
{
    struct calib_split s = calib_split(env);
    /* the regression's begin with the refit's */
    int fitted = env->method->regress ? s.regress : env->method->refit ? s.refit : 0;
    if (searched)
        fitted -= s.cost_fit;
    return ((int64_t)(searched ? 0 : s.moments) + fitted) * env->seq;
}

int rank_share(const struct comm *c, int n, int64_t *first)
{
    int64_t lo = (int64_t)n * c->rank / c->size, hi = (int64_t)n * (c->rank + 1) / c->size;
    *first = lo;
    return (int)(hi - lo);
}

int method_progress(const struct method_env *env, const char *phase, int64_t done, int64_t total,
                    struct dha_err *e)
{
    if (env->progress && env->progress(env->arg, phase, done, total))
        return dha_fail(e, DHA_E_STOPPED, "stopped on request during %s (%lld of %lld)", phase,
                        (long long)done, (long long)total);
    return 0;
}
