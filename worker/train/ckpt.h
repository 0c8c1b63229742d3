/* ckpt.h: training checkpoints.
 *
 * On disk, DIR/step-00000120/:
 *   shard-0003.bin   rank 3's piece: for each optimiser group parameters, first and second moments (f32, little endian)
 *   manifest.json    written last: format, step, world size, groups, sizes and XXH3-128 digests of the shards, state;
 *                    its own digest
 * Life cycle of a save: every rank writes its shard into step-N.tmp/, syncs it and tells its digest; rank 0 writes and
 * syncs the manifest, syncs the directory, renames it to step-N and syncs the parent. What has the final name is complete;
 * dying anywhere before leaves a .tmp directory, which the next save or load removes. Only when the new one is told to the
 * controller do older ones go (ckpt_retain()). Deleting takes the manifest first.
 * ckpt_load() takes the newest checkpoint whose manifest and digests verify; a damaged one is reported through `warn` and
 * passed over. The number of ranks may differ from that of the save.
 */
#ifndef DHA_WORKER_CKPT_H
#define DHA_WORKER_CKPT_H

#include "worker/train/optim.h"

struct
    ckpt_state { /* everything else that a resume needs (the data order is a function of the step) */
    int64_t step;          /* finished steps */
    int64_t tokens;        /* trained on so far */
    double lambda;         /* fusion multiplier */
    double mask_lambda[2]; /* the masks' (METHODS 3.2) */
    double
        fusion_loss; /* L_fusion of the last step, NaN without operators: the stop rule looks at it */
    double valid_loss; /* of the validation at this very step, NaN = there was none */
};
/* Which stay; the newest always does. */
struct ckpt_keep {
    int last;      /* the newest so many, at least 1 */
    int64_t every; /* and those of steps that are multiples of it; 0 = none */
    int best; /* and so many with the lowest validation loss at their step (of equals the older); 0 = none */
};
struct ckpt_info {
    int64_t step, bytes;
    char path[4096];
    char digest[65]; /* SHA-256 of manifest.json, hex */
};

/* All ranks. identity: a string that must be equal at load (what is being trained, digest of spec and inputs). */
int ckpt_save(const char *dir, const struct optim *o, const struct ckpt_state *s,
              const char *identity, struct ckpt_info *out, struct dha_err *e);
/* One rank: removes what need not stay. What cannot be looked at or removed stays. */
void ckpt_retain(const char *dir, const struct ckpt_keep *keep);
/* Of n saved steps, newest first, with the validation loss at each: stay[i] is set. Pure. */
void ckpt_choose(const struct ckpt_keep *keep, const int64_t *steps, const double *loss, size_t n,
                 bool *stay);
/* All ranks. Returns 1 if one was loaded, 0 if there is none to load, -1 on error. */
int ckpt_load(const char *dir, struct optim *o, struct ckpt_state *s, const char *identity,
              void (*warn)(void *arg, const char *text), void *arg, struct dha_err *e);
/* Verifies one checkpoint directory against its manifest. */
int ckpt_verify(const char *path, const char *identity, struct dha_err *e);

#endif
