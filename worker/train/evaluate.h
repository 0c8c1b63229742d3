/* evaluate.h: loss over evaluation windows (DESIGN section 13: consecutive windows of seq tokens, seq predictions each,
 * mean in nats; of instruct data the mean over answer tokens). Windows are dealt to the ranks; every rank gets the same
 * result.
 *
 * Of a mixture each domain is evaluated; its loss is the mean over domains with the mixture's weights, that is of what
 * training draws.
 */
#ifndef DHA_WORKER_EVALUATE_H
#define DHA_WORKER_EVALUATE_H

#include "worker/comm.h"
#include "worker/data/corpus.h"
#include "worker/journal.h"
#include "worker/model/model.h"

#define EVAL_DOMAINS 64

struct eval_result {
    double loss; /* nats a token */
    int64_t tokens, windows;
    int n_domains; /* 0: no mixture */
    struct {
        const char *name; /* the corpus's */
        double loss;
        int64_t tokens, windows;
    } domain[EVAL_DOMAINS];
};
/* windows: at most this many from the start; 0 = all. Domains of a mixture share them evenly. */
int evaluate(struct model *m, const struct corpus *c, int seq, int64_t windows, struct comm *comm,
             struct eval_result *out, struct dha_err *e);
/* Journals a result as `name`, and its domains as `name:domain`. */
void evaluate_journal(struct journal *j, const char *name, const struct eval_result *v,
                      int64_t step, int64_t trained);

/* Sequences a run should hold so that its GEMMs are long enough (about 2048 tokens), but no more than `most`. */
int run_batch_for(int seq, int64_t most);

#endif
