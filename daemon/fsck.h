/* fsck.h: does the database agree with itself and with the disk?
 *
 * fsck_check() only looks, through a reader (store_open_reader()), so it may run in a thread beside a daemon at work,
 * or by itself. What it finds while jobs run may be a thing in motion: fsck_repair(), which runs where the store is
 * written, looks at each finding again and leaves what is no longer so. A repair takes nothing away: what
 * nobody knows is moved to STATE/lost+found/WHEN/ under its path, a damaged checkpoint is marked and its manifest renamed.
 * Each repair is an event "fsck.repair".
 *
 * Not looked into: what is not under STATE/jobs or STATE/cache, and stages that run now.
 */
#ifndef DHA_DAEMON_FSCK_H
#define DHA_DAEMON_FSCK_H

#include "daemon/progress.h"
#include "proto/json.h"
#include "store/store.h"

/* X(symbol, name, what a repair does, NULL = nothing) */
#define FSCK_KINDS_TABLE(X)                                                                        \
    X(DATABASE, "database", NULL)                                                                  \
    X(OUTPUT, "output", NULL)                                                                      \
    X(CHECKPOINT, "checkpoint", "mark it bad: it is never gone on from")                           \
    X(REMOVED, "removed", "record that it was removed")                                            \
    X(UNKNOWN, "unknown", "move it to lost+found")                                                 \
    X(LEFTOVER, "leftover", "move it to lost+found")                                               \
    X(UNREADABLE, "unreadable", NULL)

enum fsck_kind {
#define X(sym, name, repair) FSCK_##sym,
    FSCK_KINDS_TABLE(X)
#undef X
        FSCK_KINDS
};
const char *fsck_kind_name(enum fsck_kind k);

struct fsck_finding {
    enum fsck_kind kind;
    bool left;                      /* in a directory of the job's user: no repair touches it */
    int64_t job, stage, checkpoint; /* 0 = none */
    char *path;                     /* absolute; NULL = none */
    char *message, *hint;           /* hint NULL = none */
};
struct fsck_report {
    struct fsck_finding *at;
    size_t n;
    bool more; /* there were more than FSCK_MAX: not listed */
    struct {
        int64_t jobs, stages, checkpoints, files;
    } seen;
};
enum { FSCK_MAX = 10000 };
void fsck_report_finish(struct fsck_report *r);
void fsck_report_drop(struct fsck_report *r, size_t i); /* the i-th goes */
/* What a repair does to it; NULL = nothing. */
const char *fsck_repair_of(const struct fsck_finding *f);

/* s: a reader of state_dir. deep: checkpoints and the outputs of finished stages are
 * read and compared with their digests. -1 only if it could not be done. */
int fsck_check(struct store *s, const char *state_dir, bool deep, struct progress *p,
               struct fsck_report *out, struct dha_err *e);

/* Is it still so, as far as a short look tells? s: any. */
int fsck_still(struct store *s, const struct fsck_finding *f, bool *so, struct dha_err *e);
/* One finding that can be repaired. s: the writing store; lost: the directory under which things are put (made
 * when needed). *done = false: it is not so any more. */
int fsck_repair(struct store *s, const char *state_dir, const char *lost,
                const struct fsck_finding *f, int64_t now_us, bool *done, struct dha_err *e);
/* STATE/lost+found/TIME-ID. free() it; NULL = no memory. */
char *fsck_lost_dir(const char *state_dir, int64_t id, int64_t now_us);

/* {findings: [{kind, job, stage, path, message, hint, repair}], more, seen: {...}} or NULL (no memory). */
cJSON *fsck_doc(const struct fsck_report *r);

#endif
