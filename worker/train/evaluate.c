#include "worker/train/evaluate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int run_batch_for(int seq, int64_t most)
{
    int64_t b = 2048 / seq;
    if (b < 1)
        b = 1;
    return (int)(b < most ? b : (most > 0 ? most : 1));
}

/* A corpus that is no mixture. */
static int evaluate_one(struct model *m, const struct corpus *c, int seq, int64_t windows,
                        struct comm *comm, struct eval_result *out, struct dha_err *e)
{
    struct run *r = NULL;
    int32_t *ids = NULL, *targets = NULL;
    double sums[2] = {0, 0}; /* loss, tokens */
    int64_t all = corpus_windows(c, seq);
    int rc = -1;
    if (windows == 0 || windows > all)
        windows = all;
    if (windows < 1) {
        dha_fail(e, DHA_E_INPUT, "%" PRId64 " tokens hold no window of %d tokens to evaluate on",
                 corpus_tokens(c), seq);
        dha_err_hint(e, "give a longer file or a smaller seq_len");
        goto out;
    }
    /* window i goes to rank (i / batch) % size */
    int batch = run_batch_for(seq, (windows + comm->size - 1) / comm->size);
    size_t rows = (size_t)batch * (size_t)seq;
    ids = malloc(rows * sizeof *ids);
    targets = malloc(rows * sizeof *targets);
    if (!ids || !targets) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu tokens", rows);
        goto out;
    }
    if (run_new(&r, m, batch, seq, RUN_INFER, e))
        goto out;
    for (int64_t at = (int64_t)comm->rank * batch; at < windows;
         at += (int64_t)comm->size * batch) {
        double lm = 0, kl = 0;
        for (int b = 0; b < batch; b++) {
            size_t o = (size_t)b * (size_t)seq;
            int64_t w = at + b < windows ? at + b : windows - 1;
            if (corpus_window(c, w, seq, ids + o, targets + o, e))
                goto out;
            for (int i = 0; at + b >= windows && i < seq; i++)
                targets[o + (size_t)i] = -1; /* filler */
        }
        run_forward(r, ids);
        if (run_loss(r, targets, NULL, 1, 0, 1, NULL, &lm, &kl, e))
            goto out;
        sums[0] += lm;
        for (size_t i = 0; i < rows; i++)
            sums[1] += targets[i] >= 0;
    }
    rc = 0;
out:
    run_free(r);
    free(targets);
    free(ids);
    rc = comm_agree(comm, rc, e);
    if (rc)
        return rc;
    comm_sum_f64(comm, sums, 2);
    *out = (struct eval_result){
        .loss = sums[0] / sums[1], .tokens = (int64_t)sums[1], .windows = windows};
    return 0;
}

int evaluate(struct model *m, const struct corpus *c, int seq, int64_t windows, struct comm *comm,
             struct eval_result *out, struct dha_err *e)
{
    int n = corpus_domains(c);
    if (n == 0)
        return evaluate_one(m, c, seq, windows, comm, out, e);
    if (n > EVAL_DOMAINS)
        return dha_fail(e, DHA_E_INTERNAL, "a mixture of %d domains", n);
    struct eval_result all = {.n_domains = n};
    int64_t each = windows == 0 ? 0 : windows / n > 0 ? windows / n : 1;
    for (int i = 0; i < n; i++) {
        struct corpus_domain d = corpus_domain_at(c, i);
        struct eval_result one;
        if (evaluate_one(m, d.corpus, seq, each, comm, &one, e))
            return dha_err_context(e, "domain %s", d.name);
        all.domain[i].name = d.name;
        all.domain[i].loss = one.loss;
        all.domain[i].tokens = one.tokens;
        all.domain[i].windows = one.windows;
        all.loss += d.weight * one.loss;
        all.tokens += one.tokens;
        all.windows += one.windows;
    }
    *out = all;
    return 0;
}

void evaluate_journal(struct journal *j, const char *name, const struct eval_result *v,
                      int64_t step, int64_t trained)
{
    struct record r;
    journal_eval(j, name, v->loss, v->tokens, v->windows, step, trained);
    for (int i = 0; i < v->n_domains; i++) {
        char full[sizeof r.eval.name];
        snprintf(full, sizeof full, "%.14s:%.24s", name, v->domain[i].name);
        journal_eval(j, full, v->domain[i].loss, v->domain[i].tokens, v->domain[i].windows, step,
                     trained);
    }
}
