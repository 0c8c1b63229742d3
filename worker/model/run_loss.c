/* run_loss.c: the output layer and the loss, a chunk of rows at a time: the logits of a 32k vocabulary never exist
 * whole. A chunk's logits are overwritten by their gradient, which at once gives the rows' hidden-state gradient and
 * is added to the head's weight gradient; with a teacher its logits for the same rows are computed beside
 * them, into the teacher run's own chunk.
 */
#include "worker/model/run_impl.h"

#include <stdlib.h>
#include <time.h>

static int check_targets(const struct run *r, const int32_t *targets, struct dha_err *e)
{
    for (size_t i = 0; i < r->rows; i++)
        if (targets[i] >= r->m->cfg.vocab)
            return dha_fail(e, DHA_E_INPUT, "target %d in row %zu is outside the vocabulary of %d",
                            (int)targets[i], i, r->m->cfg.vocab);
    return 0;
}

static int check_teacher(const struct run *r, const struct run *t, struct dha_err *e)
{
    if (t->m->cfg.vocab != r->m->cfg.vocab)
        return dha_fail(e, DHA_E_INPUT, "teacher and model have vocabularies of %d and %d tokens",
                        t->m->cfg.vocab, r->m->cfg.vocab);
    if (t->rows != r->rows || t->k->ops != r->k->ops)
        return dha_fail(e, DHA_E_INTERNAL, "teacher and model runs differ in shape or backend");
    return 0;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* How rows are weighed: by three numbers, or by row (device views; bild without a buffer: none). */
struct weighing {
    float lm, kl, scale;
    struct kern_view rows, bild;
    double *teacher_seconds; /* NULL: nobody asks */
};

/* The teacher's logits of n rows from `at`, in its own chunk but on our queue: the next operation reads them. */
static struct kern_view teacher_logits(struct run *r, struct run *teacher, size_t at, size_t n,
                                       double *seconds)
{
    struct kern *own = teacher->k;
    double begun = seconds ? now_s() : 0;
    teacher->k = r->k;
    run_logits(teacher, at, n, kern_at(teacher->logits, 0));
    teacher->k = own;
    if (seconds) {
        r->k->ops->sync(r->k);
        *seconds += now_s() - begun;
    }
    return kern_at(teacher->logits, 0);
}

/* BiLD reads the logits before loss() overwrites them by their gradient; its own gradient has a few places a row. */
static void bild_before(struct run *r, struct kern_view other, size_t at, size_t n,
                        const struct weighing *w)
{
    r->k->ops->bild(r->k, kern_at(r->logits, 0), other, kern_plus(w->bild, at), n,
                    (size_t)r->m->cfg.vocab, RUN_BILD_TOP, 3.0f, 1.0f, kern_at(r->bild, at),
                    kern_at(r->bild_index, 0), kern_at(r->bild_value, 0));
}

static void bild_after(struct run *r, size_t n)
{
    r->k->ops->scatter_add(r->k, kern_at(r->logits, 0), kern_at(r->bild_index, 0),
                           kern_at(r->bild_value, 0), n, (size_t)r->m->cfg.vocab, 2 * RUN_BILD_TOP);
}

/* Leaves the losses of all rows in r->lm and r->kl (and r->bild) on the device. */
static int losses(struct run *r, const int32_t *targets, struct run *teacher,
                  const struct weighing *w, struct kern_buf *grads, struct dha_err *e)
{
    const struct kern_ops *ops = r->k->ops;
    const struct param *head = &r->m->table[r->m->head];
    size_t vocab = (size_t)r->m->cfg.vocab;
    struct kern_view logits = kern_at(r->logits, 0);
    if (check_targets(r, targets, e) < 0 || (teacher && check_teacher(r, teacher, e) < 0))
        return -1;
    if (grads && r->mode != RUN_TRAIN)
        return dha_fail(e, DHA_E_INTERNAL, "gradients asked of a run that keeps no activations");
    if (teacher && teacher->k != r->k)
        ops->wait(r->k, teacher->k);
    ops->upload(r->k, kern_at(r->targets, 0), targets, r->rows);
    for (size_t at = 0; at < r->rows; at += r->chunk) {
        size_t n = r->rows - at < r->chunk ? r->rows - at : r->chunk;
        struct kern_view hidden = kern_plus(run_hidden(r), at * r->hidden);
        struct kern_view other = {NULL, 0};
        run_logits(r, at, n, logits);
        if (teacher)
            other = teacher_logits(r, teacher, at, n, w->teacher_seconds);
        if (w->bild.buf)
            bild_before(r, other, at, n, w);
        ops->loss(r->k, logits, other, kern_at(r->targets, at),
                  w->rows.buf ? kern_plus(w->rows, 2 * at) : w->rows, n, vocab, w->lm, w->kl,
                  w->scale, grads != NULL, kern_at(r->lm, at), kern_at(r->kl, at));
        if (!grads)
            continue;
        if (w->bild.buf)
            bild_after(r, n);
        run_linear_dx(r, kern_at(r->dh, at * r->hidden), r->hidden, logits, vocab,
                      model_view(r->m, head), n, vocab, r->hidden, 0.0f);
        run_linear_dw(r, kern_at(grads, head->off), logits, vocab, hidden, r->hidden, n, vocab,
                      r->hidden);
    }
    return 0;
}

int run_loss(struct run *r, const int32_t *targets, struct run *teacher, float w_lm, float w_kl,
             float scale, struct kern_buf *grads, double *lm, double *kl, struct dha_err *e)
{
    float *host = malloc(2 * r->rows * sizeof *host);
    int rc = -1;
    if (!host)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu losses", r->rows);
    const struct weighing w = {.lm = w_lm, .kl = w_kl, .scale = scale};
    if (losses(r, targets, teacher, &w, grads, e) < 0)
        goto done;
    r->k->ops->download(r->k, host, kern_at(r->lm, 0), r->rows);
    r->k->ops->download(r->k, host + r->rows, kern_at(r->kl, 0), r->rows);
    if (model_check(r->k, "computing the loss", e) < 0)
        goto done;
    for (size_t i = 0; i < r->rows; i++)
        if (targets[i] >= 0) {
            *lm += (double)host[i];
            *kl += (double)host[r->rows + i];
        }
    rc = 0;
done:
    free(host);
    return rc;
}

/* What only weighing by row needs; not in run_bytes(): 3 numbers a row and 2 * 32 a row of a chunk. */
static int objective_buffers(struct run *r, struct dha_err *e)
{
    const struct kern_ops *ops = r->k->ops;
    size_t places = r->chunk * 2 * RUN_BILD_TOP;
    if (r->row_weights)
        return 0;
    r->bild_weights = ops->alloc(r->k, KERN_F32, r->rows);
    r->bild = ops->alloc(r->k, KERN_F32, r->rows);
    r->bild_index = ops->alloc(r->k, KERN_I32, places);
    r->bild_value = ops->alloc(r->k, KERN_F32, places);
    r->row_weights = ops->alloc(r->k, KERN_F32, 2 * r->rows);
    if (r->bild_weights && r->bild && r->bild_index && r->bild_value && r->row_weights)
        return 0;
    return model_fail_kern(&r->k->err, "allocating the loss of rows", e);
}

/* host [3 * rows]: the rows' lm and kl weights, then BiLD's. Returns whether any row has BiLD. */
static bool weigh_rows(const struct run *r, const int32_t *targets, const struct run_objective *o,
                       float *host)
{
    bool bild = false;
    for (size_t i = 0; i < r->rows; i++) {
        int c = o->classes ? o->classes[i] : 0;
        host[2 * i] = (float)o->lm[c];
        host[2 * i + 1] = (float)o->kl[c];
        host[2 * r->rows + i] = targets[i] >= 0 ? (float)o->bild[c] : 0.0f;
        bild = bild || o->bild[c] != 0;
    }
    return bild;
}

static void sum_rows(const struct run *r, const int32_t *targets, const struct run_objective *o,
                     const float *host, bool bild, struct run_sums *sums)
{
    for (size_t i = 0; i < r->rows; i++) {
        int c = o->classes ? o->classes[i] : 0;
        if (targets[i] < 0)
            continue;
        sums->lm[c] += (double)host[i];
        sums->kl[c] += (double)host[r->rows + i];
        if (bild)
            sums->bild[c] += (double)host[2 * r->rows + i];
    }
}

int run_objective(struct run *r, const int32_t *targets, struct run *teacher,
                  const struct run_objective *o, struct kern_buf *grads, struct run_sums *sums,
                  struct dha_err *e)
{
    const struct kern_ops *ops = r->k->ops;
    struct weighing w = {.lm = 1, .kl = 1, .scale = 1, .teacher_seconds = &sums->teacher_seconds};
    float *host = malloc(3 * r->rows * sizeof *host);
    int rc = -1;
    if (!host)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu losses", r->rows);
    for (size_t i = 0; o->classes && i < r->rows; i++)
        if (o->classes[i] >= RUN_CLASSES) {
            dha_fail(e, DHA_E_INTERNAL, "row %zu has class %d of %d", i, o->classes[i],
                     RUN_CLASSES);
            goto done;
        }
    bool bild = weigh_rows(r, targets, o, host);
    if (bild && (!teacher || r->m->cfg.vocab < RUN_BILD_TOP)) {
        dha_fail(e, teacher ? DHA_E_INPUT : DHA_E_INTERNAL,
                 teacher ? "BiLD compares the %d largest logits; the vocabulary is smaller"
                         : "BiLD of the %d largest logits needs a teacher",
                 RUN_BILD_TOP);
        goto done;
    }
    if (objective_buffers(r, e))
        goto done;
    ops->upload(r->k, kern_at(r->row_weights, 0), host, 2 * r->rows);
    ops->upload(r->k, kern_at(r->bild_weights, 0), host + 2 * r->rows, r->rows);
    w.rows = kern_at(r->row_weights, 0);
    if (bild)
        w.bild = kern_at(r->bild_weights, 0);
    if (losses(r, targets, teacher, &w, grads, e) < 0)
        goto done;
    ops->download(r->k, host, kern_at(r->lm, 0), r->rows);
    ops->download(r->k, host + r->rows, kern_at(r->kl, 0), r->rows);
    ops->download(r->k, host + 2 * r->rows, kern_at(r->bild, 0), r->rows);
    if (model_check(r->k, "computing the loss", e) < 0)
        goto done;
    sum_rows(r, targets, o, host, bild, sums);
    rc = 0;
done:
    free(host);
    return rc;
}

int run_token_losses(struct run *r, const int32_t *targets, float *out, struct dha_err *e)
{
    float *host = malloc(r->rows * sizeof *host);
    int rc = -1;
    if (!host)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu losses", r->rows);
    const struct weighing w = {.lm = 1.0f, .scale = 1.0f};
    if (losses(r, targets, NULL, &w, NULL, e) < 0)
        goto done;
    r->k->ops->download(r->k, host, kern_at(r->lm, 0), r->rows);
    if (model_check(r->k, "computing the loss", e) < 0)
        goto done;
    for (size_t i = 0; i < r->rows; i++)
        if (targets[i] >= 0)
            *out++ = host[i];
    rc = 0;
done:
    free(host);
    return rc;
}
