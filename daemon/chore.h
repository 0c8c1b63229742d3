/* chore.h: what an administrator asks for and takes long: checks, copies, clearing up. One at a time.
 *
 * A chore's work() runs in a thread of libuv's pool, with a reader of its own (store_open_reader()) and on files; it
 * touches neither the daemon nor its store. When it ends, step() runs in the loop, where it may read and change the
 * store as any handler may: briefly, a slice at a time. What it returns says what comes next:
 *
 *   running: work() -> step() -> CHORE_AGAIN: step() in a later turn, when this one is committed
 *                              > CHORE_WORK: work() again, when this one is committed
 *                              > CHORE_PLANNED: nothing, until somebody says chore_apply(); then step() with c->apply
 *                              > CHORE_DONE
 *            any of them fails: failed
 *
 * What the daemon does by itself (upkeep.h) are chores as well, in a place of their own.
 *
 * The last chore is kept, with its result, until the next one starts. It ends with an event "admin.NAME". When the
 * daemon stops, work() is told by c->progress.stop; what it had begun is left so that it can be begun again.
 */
#ifndef DHA_DAEMON_CHORE_H
#define DHA_DAEMON_CHORE_H

#include "daemon/daemon.h"
#include "daemon/progress.h"
#include "proto/json.h"

struct chore;

enum chore_next { CHORE_DONE, CHORE_AGAIN, CHORE_WORK, CHORE_PLANNED };

struct chore_ops {
    const char *name;
    int (*work)(struct chore *c, struct dha_err *e);
    int (*step)(struct chore *c, enum chore_next *next, struct dha_err *e);
    void (*destroy)(void *arg); /* of the thread or the loop, once, after both */
};

enum chore_state { CHORE_STATE_RUNNING, CHORE_STATE_PLANNED, CHORE_STATE_DONE, CHORE_STATE_FAILED };

struct chore {
    struct daemon *d; /* for step() only */
    const struct chore_ops *ops;
    void *arg;
    char *state_dir;
    int64_t id, by; /* the uid that asked for it */
    bool apply, own;
    bool changed; /* there is something to say of it */
    enum chore_state state;
    struct progress progress;
    cJSON *result; /* of step(); NULL = none yet */
    struct dha_err error;
    uv_work_t work;
    bool in_thread, orphan;
    int work_rc;
    struct dha_err work_error;
};

/* Takes arg, also when it fails: DHA_E_CONFLICT while another one is at work. */
int chore_start(struct daemon *d, const struct chore_ops *ops, void *arg, struct dha_err *e);
/* The daemon's own, beside it: one at a time; what it plans it does. It ends with an event "upkeep.NAME" if it changed
 * something or failed, and upkeep_ended(). */
int chore_start_own(struct daemon *d, const struct chore_ops *ops, void *arg, struct dha_err *e);
bool chore_own_rests(const struct daemon *d);
/* Goes on with what was planned. */
int chore_apply(struct daemon *d, int64_t id, struct dha_err *e);
/* {id, kind, state, phase, done, total, result, error} or NULL. DHA_E_NOT_FOUND. */
cJSON *chore_doc(struct daemon *d, int64_t id, struct dha_err *e);
/* Has it come to rest (planned, done, failed)? */
bool chore_rests(const struct daemon *d);
void chore_close(struct daemon *d);

#endif
