/* trainer.h: the training loop that all stages with training share: search and fuse of `dha` (with fusion operators), and
 * recovery (`train`), by LM, by KL to the parent, or a mixture.
 *
 * One step, in the order of trainer_run(): effective weights from the operators (if any); for each micro-batch
 * teacher forward, forward, loss, backward; operator backward and fusion penalty; reduce, clip, AdamW, gather; lambda.
 * The data order is a pure function of (seed, stream, step, index): sequence i of a step goes to rank i % size.
 * With the same number of ranks a killed and resumed run gives the same bits as one that was not killed.
 */
#ifndef DHA_WORKER_TRAINER_H
#define DHA_WORKER_TRAINER_H

#include "worker/comm.h"
#include "worker/data/corpus.h"
#include "worker/journal.h"
#include "worker/model/model.h"

struct trainer_options {
    struct model *model;   /* trained in place; with model->oper attached, omega is trained, too */
    struct model *teacher; /* NULL unless w_kl > 0 */
    const struct corpus *train, *valid; /* valid: NULL = no evaluations on the way */
    struct comm *comm;
    struct journal *journal;
    enum corpus_stream stream;
    int64_t seed;
    int seq;
    int64_t batch_tokens, tokens; /* a step; in all */
    double w_lm, w_kl;
    double lr, lr_omega, lr_lambda, warmup, final_lr, clip, weight_decay;
    bool
        penalty; /* augmented Lagrangian on the operators (METHODS 1.5); stops early at L_fusion < 1e-3 with t = 0 */
    int evals; /* evaluations of valid on the way (0 = none) */
    int64_t eval_windows;
    const char *ckpt_dir; /* NULL: no checkpoints */
    const char *identity; /* of the run, for ckpt.h */
    int64_t ckpt_every;   /* steps; 0 = once a minute */
    void (*hello)(void *arg, int64_t steps, int64_t resumed_from);
    void *arg;
};
struct trainer_result {
    int64_t steps, tokens;
    double loss;        /* of the last step */
    double fusion_loss; /* of the last step, NaN without operators */
};
/* DHA_E_STOPPED after a checkpoint when asked to stop; DHA_E_DIVERGED when the loss is not finite (checkpoints stay). */
int trainer_run(const struct trainer_options *o, struct trainer_result *out, struct dha_err *e);

#endif
