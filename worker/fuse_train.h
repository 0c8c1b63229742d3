/* fuse_train.h: the merges that train: fusion operators (METHODS 1.7) and masks (2.6). The loss of this training is the job's
 * recovery loss; with KL or BiLD the teacher is the parent.
 *
 * env->parent is the MHA model to start from (aligned, if the method aligns), teacher the one to distil from; both are
 * borrowed. On disk, below the stage's output: ckpt/ while it trains; level-N/model of each finished level of a progressive
 * fusion, complete once it has that name; shares.json of the operators at the end.
 */
#ifndef DHA_WORKER_FUSE_TRAIN_H
#define DHA_WORKER_FUSE_TRAIN_H

#include "worker/stage.h"

int fuse_by_operator(struct stage *st, const struct method_env *env, struct model *teacher,
                     const int *group_of, struct model **out, struct dha_err *e);
int fuse_by_masks(struct stage *st, const struct method_env *env, struct model *teacher,
                  const int *group_of, struct model **out, struct dha_err *e);
/* shares.json: of every layer, kind and query head, how much of it comes from each original head: the mean over dims of the
 * coefficients (the paper's Fig. 3a). Rank 0 writes, and journals their means as metrics "share.J" of each layer and kind. */
int fuse_write_shares(struct stage *st, struct model *with_oper, struct dha_err *e);

/* ---- for fuse_levels.c ---- */
/* Which part of the stage a training of operators is. */
struct fuse_part {
    const char *dir;   /* below OUT, for checkpoints; NULL: OUT itself */
    int64_t done, all; /* steps of the stage before it, and of all (0: this is all) */
    int64_t tokens;
    bool contract; /* tie on the way */
    bool greeted;  /* hello was said */
};
/* Puts operators on m in these groups and trains them. */
int fuse_train_operators(struct stage *st, struct model *m, struct model *teacher,
                         const int *group_of, const struct fuse_part *part, struct dha_err *e);
/* shares.json, and the model whose heads have the mean rows. */
int fuse_operators(struct stage *st, struct model *m, struct model **out, struct dha_err *e);
/* Level by level (METHODS 1.6). */
int fuse_by_levels(struct stage *st, const struct method_env *env, struct model *teacher,
                   const int *group_of, struct model **out, struct dha_err *e);

#endif
