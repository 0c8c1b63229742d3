/* checkpoint.h: is a checkpoint still what its record says, which ones may go, and how one goes.
 *
 * A checkpoint is a directory that worker/train/ckpt.h describes; its record holds the SHA-256 of manifest.json, and
 * that holds size and XXH3-128 digest of each shard.
 */
#ifndef DHA_DAEMON_CHECKPOINT_H
#define DHA_DAEMON_CHECKPOINT_H

#include "daemon/progress.h"
#include "store/store.h"

enum checkpoint_found {
    CHECKPOINT_WHOLE,
    CHECKPOINT_GONE,    /* nothing is there */
    CHECKPOINT_DAMAGED, /* *why says what differs */
    CHECKPOINT_UNREAD   /* it could not be looked at to the end: *why */
};
/* deep: the shards are read, not only looked at. */
enum checkpoint_found checkpoint_check(const struct store_checkpoint *c, bool deep,
                                       struct progress *p, struct dha_err *why);
/* The same without a record, of what lies at path. */
enum checkpoint_found checkpoint_check_path(const char *path, bool deep, struct progress *p,
                                            struct dha_err *why);

/* Which of a job's checkpoints stay. Those of one directory are one series; pure. */
struct checkpoint_policy {
    int last;      /* the newest so many */
    int64_t every; /* and every step that is a multiple; 0 = none */
    bool best;     /* and the one with the lowest loss */
    bool spare;    /* the newest complete one stays in any case: the job may go on */
};
/* c[0..n): complete checkpoints of one stage; loss[i]: of the validation at its step, NaN = unknown. keep[i] is set. */
void checkpoint_choose(const struct checkpoint_policy *policy, const struct store_checkpoint *c,
                       const double *loss, size_t n, bool *keep);

/* Takes a checkpoint out of use at once, at any instant of a crash never half: manifest first, then the directory's
 * name gets ".del" at its end (what is there then is removed by tree_remove(), or by the next worker). Nothing there:
 * success. */
int checkpoint_retire(const char *path, struct dha_err *e);
/* A damaged one: its manifest.json becomes manifest.json.bad, so that no worker reads on in it. */
int checkpoint_disable(const char *path, struct dha_err *e);
/* Removes what checkpoint_retire() renamed (its name, with ".del"): 0 / -1; nothing there is success. */
int checkpoint_remove(const char *retired);

#endif
