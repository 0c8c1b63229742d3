/* ckpt.h: training checkpoints.
 *
 * On disk, DIR/step-00000120/:
 *   shard-0003.bin   rank 3's piece: for each optimiser group parameters, first and second moments (f32, little endian)
 *   manifest.json    written last: format, step, world size, groups, sizes and XXH3-128 digests of the shards, state
 * Life cycle of a save: every rank writes its shard into step-N.tmp/, syncs it and tells its digest; rank 0 writes and
 * syncs the manifest, syncs the directory, renames it to step-N and syncs the parent. What has the final name is complete;
 * dying anywhere before leaves a .tmp directory, which the next save or load removes. Deleting takes the manifest first.
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
};
struct ckpt_info {
    int64_t step, bytes;
    char path[4096];
    char digest[65]; /* SHA-256 of manifest.json, hex */
};

/* All ranks. identity: a string that must be equal at load (what is being trained, digest of spec and inputs).
 * Keeps the newest `keep` (>= 1) checkpoints and removes older ones after the new one is published. */
int ckpt_save(const char *dir, const struct optim *o, const struct ckpt_state *s,
              const char *identity, int keep, struct ckpt_info *out, struct dha_err *e);
/* All ranks. Returns 1 if one was loaded, 0 if there is none to load, -1 on error. */
int ckpt_load(const char *dir, struct optim *o, struct ckpt_state *s, const char *identity,
              void (*warn)(void *arg, const char *text), void *arg, struct dha_err *e);
/* Verifies one checkpoint directory against its manifest. */
int ckpt_verify(const char *path, const char *identity, struct dha_err *e);

#endif
