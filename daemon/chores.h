/* chores.h: the chores there are (chore.h). Each starts one: 0, or -1 with *e. Paths are absolute. */
#ifndef DHA_DAEMON_CHORES_H
#define DHA_DAEMON_CHORES_H

#include "daemon/checkpoint.h"
#include "daemon/chore.h"

/* A checked copy of state.db. result {file, bytes}. */
int chore_backup(struct daemon *d, const char *file, struct dha_err *e);

/* Plans where something can be repaired. result: fsck_doc(), and once applied repaired, skipped, lost, failed[]. */
int chore_fsck(struct daemon *d, bool deep, struct dha_err *e);

/* A job that has ended as a new directory (jobdoc.h). result {job, out, files, bytes}. */
int chore_export(struct daemon *d, int64_t job, const char *out, struct dha_err *e);

/* Such a directory as a new job of uid. result {job, name, state, files, bytes}. */
int chore_import(struct daemon *d, const char *dir, int64_t uid, struct dha_err *e);

struct prune_what {
    bool
        checkpoints; /* of jobs that have ended, but for what the policy keeps (its `spare` is set for each job) */
    struct checkpoint_policy policy;
    int64_t metrics_before_us; /* series of jobs that ended before that are thinned; 0 = none */
};
/* Plans: result {checkpoints: [{job, checkpoint, step, path, bytes}], kept, bytes, metrics: [{job, points, left}]}; once
 * applied removed, freed, points_removed, skipped as well. */
int chore_prune(struct daemon *d, const struct prune_what *what, struct dha_err *e);

/* The daemon's own (upkeep.h): a copy STATE/backup/auto-..., of which the newest `keep` stay; thinning. */
int chore_backup_own(struct daemon *d, int64_t now_us, int64_t seq, long keep, struct dha_err *e);
int chore_prune_own(struct daemon *d, const struct prune_what *what, struct dha_err *e);

#endif
