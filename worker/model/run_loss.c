/* run_loss.c: the output layer and the loss, a chunk of rows at a time: the logits of a 32k vocabulary never exist
 * whole. A chunk's logits are overwritten by their gradient, which at once gives the rows' hidden-state gradient and
 * is added to the head's weight gradient; with a teacher its logits for the same rows are computed beside
 * them, into the teacher run's own chunk.
 */
#include "worker/model/run_impl.h"

#include <stdlib.h>

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

/* Leaves the losses of all rows in r->lm and r->kl (device). */
static int losses(struct run *r, const int32_t *targets, struct run *teacher, float w_lm,
                  float w_kl, float scale, struct kern_buf *grads, struct dha_err *e)
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
        if (teacher) {
            other = kern_at(teacher->logits, 0);
            struct kern *own = teacher->k;
            teacher->k = r->k; /* on our queue: the chunk is read by the next operation */
            run_logits(teacher, at, n, other);
            teacher->k = own;
        }
        ops->loss(r->k, logits, other, kern_at(r->targets, at), (struct kern_view){NULL, 0}, n, vocab, w_lm, w_kl, scale,
                  grads != NULL, kern_at(r->lm, at), kern_at(r->kl, at));
        if (!grads)
            continue;
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
    if (losses(r, targets, teacher, w_lm, w_kl, scale, grads, e) < 0)
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

int run_token_losses(struct run *r, const int32_t *targets, float *out, struct dha_err *e)
{
    float *host = malloc(r->rows * sizeof *host);
    int rc = -1;
    if (!host)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu losses", r->rows);
    if (losses(r, targets, NULL, 1.0f, 0.0f, 1.0f, NULL, e) < 0)
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
