#include "worker/train/evaluate.h"

#include <inttypes.h>
#include <stdlib.h>

int run_batch_for(int seq, int64_t most)
{
    int64_t b = 2048 / seq;
    if (b < 1)
        b = 1;
    return (int)(b < most ? b : (most > 0 ? most : 1));
}

int evaluate(struct model *m, const struct corpus *c, int seq, int64_t windows, struct comm *comm,
             struct eval_result *out, struct dha_err *e)
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
        int64_t n = windows - at < batch ? windows - at : batch;
        sums[0] += lm;
        sums[1] += (double)(n * seq);
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
