/* trainer.h: the training loop that all stages with training share: search and fuse (with fusion operators or masks), and
 * recovery (`train`), by LM, by KL or BiLD to the parent, or mixtures.
 *
 * One step, in the order of trainer_run(): contraction or masks of the step, effective weights (if there are operators); for
 * each micro-batch teacher forward, forward, loss, backward; operator backward, fusion penalty or sparsity loss; reduce, clip,
 * AdamW, gather; multipliers.
 *
 * The loss is recovery.h's.
 * The data order is a pure function of (seed, stream, step, index): sequence i of a step goes to rank i % size.
 * With the same number of ranks a killed and resumed run gives the same bits as one that was not killed.
 */
#ifndef DHA_WORKER_TRAINER_H
#define DHA_WORKER_TRAINER_H

#include "worker/comm.h"
#include "worker/data/corpus.h"
#include "worker/journal.h"
#include "worker/model/model.h"
#include "worker/train/ckpt.h"
#include "worker/train/masks.h"

struct trainer_options {
    struct model *model;   /* trained in place; with model->oper attached, omega is trained, too */
    struct model *teacher; /* NULL unless w_kl or w_bild > 0 */
    const struct corpus *train, *valid; /* valid: NULL = no evaluations on the way */
    struct comm *comm;
    struct journal *journal;
    enum corpus_stream stream;
    int64_t seed;
    int seq;
    int64_t batch_tokens, tokens; /* a step; in all */
    int64_t
        data_step; /* step 0 draws what this step of the stream does: so that stages do not train on the same data */
    int64_t done_steps,
        all_steps; /* reports only: steps of the stage before this training, and in all (0: only this) */
    double w_lm, w_kl, w_bild;
    /* lr_omega, lr_lambda: 0 = chosen for the number of steps (schedule.h; alpha of masks has lr_omega, masks.h) */
    double lr, lr_omega, lr_lambda, warmup, final_lr, clip, weight_decay;
    double lr_attention; /* factor on lr for q, k, v and o projections; 0 = 1 */
    bool
        penalty; /* augmented Lagrangian on the operators (METHODS 1.5); stops early at L_fusion < 1e-3 with t = 0 */
    bool contract; /* the operators are tied on the way (schedule_contract); then no early end */
    struct masks *masks; /* with masks attached to the model: their schedule, borrowed; else NULL */
    int evals;           /* evaluations of valid on the way (0 = none) */
    int64_t eval_windows;
    const char *ckpt_dir;       /* NULL: no checkpoints */
    const char *identity;       /* of the run, for ckpt.h */
    int64_t ckpt_every;         /* steps; 0 = once a minute */
    struct ckpt_keep ckpt_keep; /* with `best`, each validation is followed by a checkpoint */
    void (*hello)(void *arg, int64_t steps, int64_t resumed_from);
    void *arg;
};
struct trainer_result {
    int64_t steps, tokens;
    double loss;          /* of the last step */
    double fusion_loss;   /* of the last step, NaN without operators */
    double teacher_share; /* of the steps' time; 0 without a teacher */
};
/* Steps that these options come to. */
int64_t trainer_steps(const struct trainer_options *o);
/* DHA_E_STOPPED after a checkpoint when asked to stop; DHA_E_DIVERGED when the loss is not finite (checkpoints stay). */
int trainer_run(const struct trainer_options *o, struct trainer_result *out, struct dha_err *e);

#endif
