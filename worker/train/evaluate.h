/* evaluate.h: loss over evaluation windows (DESIGN section 13: consecutive windows of seq tokens, seq predictions each,
 * mean in nats). Windows are dealt to the ranks; every rank gets the same result.
 */
#ifndef DHA_WORKER_EVALUATE_H
#define DHA_WORKER_EVALUATE_H

#include "worker/comm.h"
#include "worker/data/corpus.h"
#include "worker/model/model.h"

struct eval_result {
    double loss; /* nats a token */
    int64_t tokens, windows;
};
/* windows: at most this many from the start; 0 = all. */
int evaluate(struct model *m, const struct corpus *c, int seq, int64_t windows, struct comm *comm,
             struct eval_result *out, struct dha_err *e);

/* Sequences a run should hold so that its GEMMs are long enough (about 2048 tokens), but no more than `most`. */
int run_batch_for(int seq, int64_t most);

#endif
