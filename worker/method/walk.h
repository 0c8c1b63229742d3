/* walk.h: calibration sequences carried through a model one layer at a time.
 *
 * Life cycle. walk_open() draws the sequences and embeds them; then for each layer in order the owner visits every
 * chunk: walk_load() puts the residual stream before that layer into the run, the owner calls run_layer() (or
 * run_attention_only()) and looks at the run's accessors, walk_save() keeps the residual stream behind it.
 * Only one residual stream a sequence is kept, [n * seq, hidden] f32, and one layer's statistics at a time.
 *
 * Chunks are of `batch` sequences; the last one is filled up with copies of sequence 0 that nobody counts
 * (their targets are -1).
 */
#ifndef DHA_WORKER_METHOD_WALK_H
#define DHA_WORKER_METHOD_WALK_H

#include "worker/method/method.h"

struct walk {
    struct model *m;
    struct run *run;
    int seq, n, batch, chunks; /* n sequences of this rank */
    int32_t *ids, *targets;    /* [chunks * batch * seq] */
    struct kern_buf *residual; /* [chunks * batch * seq, hidden] */
};

/* Sequences [first, first + n) of a stream (step 0). n = 0 is allowed: no chunks. */
int walk_open(struct walk *w, const struct method_env *env, struct model *m,
              enum corpus_stream stream, int64_t first, int n, struct dha_err *e);
void walk_close(struct walk *w);
void walk_load(struct walk *w, int chunk);
void walk_save(struct walk *w, int chunk);
/* Sequences of this chunk that count. */
int walk_valid(const struct walk *w, int chunk);
/* The attention block's output at layer `layer` for this chunk: dst [batch * seq, hidden]; the streams stay. */
void walk_attention(struct walk *w, int chunk, int layer, struct kern_view dst);
/* All chunks behind layer `layer`. */
int walk_advance(struct walk *w, int layer, struct dha_err *e);
/* Loss summed over the walk's tokens, from layer `from` on (from = layers: the head only); the streams stay. An error if
 * it is not finite. */
int walk_loss(struct walk *w, int from, double *sum, struct dha_err *e);

/* How env->calib_tokens (N) are spent, in sequences, at least one each. The oracle's figures (METHODS 6) were made with
 * N = 32768 in this split: second moments N/2, measured costs N/4, the keys' output error N/16 (the first
 * of the second moments' sequences again), the refit N. The merge reads the same N/2 again and the refit N others; the
 * regression 2N: those and N more. With regression, the search fits single
 * layers on the refit's. `search` therefore reads 3N/4 different tokens, or 7N/4. */
struct calib_split {
    int moments, costs, key_error, refit, regress;
    int cost_fit; /* 0 without regression */
};
struct calib_split calib_split(const struct method_env *env);
/* Different tokens that a spectral search reads, and that the merge reads on top of them (searched) or in all. */
int64_t calib_tokens_search(const struct method_env *env);
int64_t calib_tokens_merge(const struct method_env *env, bool searched);
/* This rank's share of n items: [*first, *first + return). */
int rank_share(const struct comm *c, int n, int64_t *first);
/* Reports progress on every rank; DHA_E_STOPPED when asked to stop. */
int method_progress(const struct method_env *env, const char *phase, int64_t done, int64_t total,
                    struct dha_err *e);

#endif
