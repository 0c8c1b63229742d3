/* store.h: what the controller remembers: jobs, stages, attempts, slots, records, events.
 *
 * Life cycle and ownership
 *   store_open() takes a state directory for itself (flock on STATE/lock, for as long as the store is
 *   open), brings STATE/state.db and STATE/metrics.db to this version's schema and checks them.
 *   store_close() releases all; it rolls back what was not committed. One thread, one connection, one
 *   writer: nobody else ever opens the files.
 *
 * Transactions
 *   The first change after a commit opens a transaction; store_commit() ends it. So all changes of one
 *   loop turn are one transaction (group commit), and replies go out after store_commit() said 0.
 *   Each changing function is atomic by itself: when it fails, nothing of it remains, and what the turn
 *   changed before it is still there. The exception is an error after which SQLite itself
 *   rolls back (disk full, I/O): then the whole turn is lost and store_commit() says so, too.
 *   Reads see the turn's own changes. On disk there is at any instant what the last successful commit left
 *   (WAL, synchronous=FULL): kill -9 and power loss lose nothing that was committed. metrics.db is
 *   synchronous=NORMAL and is committed just before state.db: a crash may lose its last second, never
 *   count a point twice (key: attempt, name, step).
 *
 * Time is passed in (`now_us`, microseconds since the epoch). 0 in a *_us field means "not yet".
 * Rows come back as structs whose strings belong to them: free them with the matching _finish().
 * Strings passed in are borrowed for the call. Ids are > 0; 0 means none.
 *
 * A row that cannot be decoded (bad spec, unknown state) is copied to table lost_found, marked damaged
 * and left out of every answer from then on; asking for it by id gives DHA_E_NOT_FOUND that says so.
 *
 * States: the arrows that are allowed are the tables job_moves and stage_moves in transition.c; a move that
 * they do not allow is refused (DHA_E_CONFLICT), a move from a state or an attempt that is not the present
 * one is "stale": it succeeds, changes nothing and says so.
 *
 *   job     queued -> running -> done          stage    pending -> ready -> running -> done
 *           queued|running <-> held                     pending|ready -> reused
 *           queued|held|running -> failed|cancelled     running -> ready (another attempt)
 *           failed|cancelled -> queued (retry)          any unfinished -> failed|cancelled
 *                                                       failed|cancelled|done|reused -> pending (retry)
 *   A stage is ready when all the stages before it are done or reused: the store does this move itself,
 *   in the transaction that completes the stage before (and for the first stage at submission).
 */
#ifndef DHA_STORE_STORE_H
#define DHA_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "proto/record.h"
#include "proto/spec.h"

#define STORE_SCHEMA    4 /* PRAGMA user_version of both files */
#define STORE_KEY_SIZE  65
#define STORE_UUID_SIZE 40

struct store;

enum store_open_flags { STORE_ALLOW_NETWORK_FS = 1 };

/* Creates state_dir (one level, 0700) if it is not there. Fails with DHA_E_CONFLICT if another process
 * has it open (names the pid), DHA_E_VERSION if it was written by a newer dha, DHA_E_IO if
 * it is damaged, DHA_E_INPUT on a network file system. Before an upgrade state.db is copied to
 * STATE/backup/state-vN-TIME.db (the newest three are kept). */
int store_open(const char *state_dir, unsigned flags, int64_t now_us, struct store **out,
               struct dha_err *e);
void store_close(struct store *s); /* NULL allowed */
/* A second look at a directory that a daemon may have open: connections that only read, no lock, nothing is made,
 * upgraded or set aside; changing functions fail. For another thread or process, so that a long check or copy
 * holds up nobody; each query sees what was committed when it began. DHA_E_VERSION for another schema. */
int store_open_reader(const char *state_dir, struct store **out, struct dha_err *e);
/* Queries of s fail as soon as stop(arg) is not 0; it is asked some thousand times a second. */
void store_interrupt(struct store *s, int (*stop)(void *arg), void *arg);

/* Idempotent within a turn; changing functions call it themselves. */
int store_begin(struct store *s, struct dha_err *e);
/* 0 also when nothing was open. -1: the turn is undone; only if its sync failed and the process then dies before the next
 * commit may all of it come back. */
int store_commit(struct store *s, struct dha_err *e);
void store_rollback(struct store *s);
/* Several changes that are one to their caller: mark, change, then keep or undo, which leaves what the turn changed before.
 * They may be nested. */
struct store_mark {
    int64_t event_seq;
};
int store_mark(struct store *s, struct store_mark *m, struct dha_err *e);
int store_keep(struct store *s, const struct store_mark *m, struct dha_err *e);
void store_undo(struct store *s, const struct store_mark *m);
bool store_dirty(const struct store *s); /* a transaction is open */
/* A consistent copy of state.db (not metrics.db) as a new file, checked and synced: in place of a state.db it is a whole
 * store. DHA_E_CONFLICT over an existing file. On failure nothing is left. */
int store_backup(struct store *s, const char *path, struct dha_err *e);
/* Copies that the daemon makes by itself: STATE/backup/auto-TIME-SEQ.db; SEQ is the last event that is in it. */
struct store_copy {
    char name[64];
    int64_t time_us, seq; /* as the name says */
};
/* Those there are, oldest first; *out: free(). No directory: none. Other files are none of them. */
int store_copies(const char *state_dir, struct store_copy **out, size_t *n, struct dha_err *e);
void store_copy_name(char name[64], int64_t time_us, int64_t seq);
/* The path of the newest copy that is in STATE/backup, made by itself or before an upgrade; *path = "" if there is none. */
void store_newest_copy(const char *state_dir, char *path, size_t size);
/* Integrity, foreign keys and our own invariants; calls found() for each problem. Returns their number or -1. */
int store_fsck(struct store *s, void (*found)(void *arg, const char *problem), void *arg,
               struct dha_err *e);

/* ---- states ------------------------------------------------------------------------------- */

enum job_state {
    JOB_QUEUED,
    JOB_HELD,
    JOB_RUNNING,
    JOB_DONE,
    JOB_FAILED,
    JOB_CANCELLED,
    JOB_STATES
};
enum stage_state {
    STAGE_PENDING, /* a stage before it is not complete */
    STAGE_READY,   /* may be started */
    STAGE_RUNNING, /* its newest attempt is live */
    STAGE_DONE,
    STAGE_REUSED, /* another stage with the same key was done: see reused_from */
    STAGE_FAILED,
    STAGE_CANCELLED,
    STAGE_STATES
};
enum attempt_state {
    ATTEMPT_STARTING, /* slots taken; nothing heard of it yet */
    ATTEMPT_RUNNING,  /* rank 0 said hello */
    ATTEMPT_STOPPING, /* told to stop */
    ATTEMPT_UNREACHABLE,
    ATTEMPT_ENDED,
    ATTEMPT_STATES
};
const char *job_state_name(enum job_state st);
const char *stage_state_name(enum stage_state st);
const char *attempt_state_name(enum attempt_state st);
int job_state_from_name(const char *name, enum job_state *st); /* 0 / -1 */
int stage_state_from_name(const char *name, enum stage_state *st);
int attempt_state_from_name(const char *name, enum attempt_state *st);
bool job_state_final(enum job_state st); /* done failed cancelled */
bool stage_state_final(enum stage_state st);
bool job_move_allowed(enum job_state from, enum job_state to);
bool stage_move_allowed(enum stage_state from, enum stage_state to);

/* code[0] == 0: no error */
struct store_error {
    char code[24];
    char message[640], hint[320];
};

/* ---- jobs --------------------------------------------------------------------------------- */

struct store_new_stage {
    enum stage_kind kind;
    const char *key; /* digest of its inputs, hex, < STORE_KEY_SIZE */
};
/* Another job, and which end of it is waited for. */
struct store_dependency {
    int64_t job;
    bool any;             /* done, failed or cancelled; else done */
    enum job_state state; /* in answers: of that job now */
};
struct store_new_job {
    const char *name;
    const char *spec;   /* normalised, JSON text */
    const char *method; /* preset name and budget: for lists */
    double budget;
    int priority;
    int slots;              /* of its gangs, on all nodes together */
    int nodes;              /* of its gangs; 0 is 1 */
    int64_t slot_memory;    /* bytes that each slot must have; 0 = any */
    const char *node_names; /* "a b": only these; NULL or "" = any */
    const char *device;     /* "cpu" | "cuda" */
    int64_t owner_uid;
    int64_t sweep; /* 0 = none */
    int64_t seed;
    int64_t walltime_s; /* of each of its stages; 0 = none */
    bool hold;
    const struct store_dependency *after; /* n_after: nothing of it starts before */
    size_t n_after;
    const char *idempotency_key;          /* NULL = none */
    int64_t queue_limit;                  /* of this owner's jobs that have not ended; 0 = none */
    const struct store_new_stage *stages; /* in order */
    int n_stages;
    int64_t now_us;
};
/* Job, stages (the first ready), dependencies, event and idempotency key together. The same key of the same owner
 * again: the same id, *existed = true; with another spec: DHA_E_CONFLICT. A dependency on a job that is not there:
 * DHA_E_NOT_FOUND. One job too many of its owner: DHA_E_QUEUE_FULL. */
int store_job_submit(struct store *s, const struct store_new_job *j, int64_t *id, bool *existed,
                     struct dha_err *e);

/* May the owner have n more jobs that have not ended, with at most limit (0 = any number) of them? DHA_E_QUEUE_FULL.
 * Counts in the open turn; cheap as long as the limit is far. */
int store_queue_check(struct store *s, int64_t owner_uid, int64_t limit, int64_t n,
                      struct dha_err *e);

/* How many jobs of others than uid have not ended, and the lowest uid of those others (0 = there are none). */
int store_queue_of_others(struct store *s, int64_t uid, int64_t *n, int64_t *other,
                          struct dha_err *e);

struct store_job {
    int64_t id, owner_uid, sweep;
    char *name, *method;
    char *spec; /* NULL in lists */
    double budget;
    enum job_state state;
    int priority, slots;
    char device[8];
    int64_t submitted_us, started_us, ended_us;
    bool cancel, cancel_now; /* an intent, durable: re-applied until the job is final */
    char *cancel_reason;     /* NULL = none given */
    int64_t seed;
    bool spared; /* a user had it go on after its end: never stopped as dominated again */
    /* What its stages' evaluations say (of the model as it came, right after conversion, at the end); NaN =
     * unknown. Kept here by the store, so that lists need no second query. */
    double loss_parent, loss_converted, loss_final;
    struct store_error error;
};
void store_job_finish(struct store_job *j);
/* What a job waits for or waited for, by id. *out: free(). */
int store_dependencies(struct store *s, int64_t job, struct store_dependency **out, size_t *n,
                       struct dha_err *e);
/* The first job whose end it still waits for; 0 = none. */
int store_job_waits_for(struct store *s, int64_t job, int64_t *on, struct dha_err *e);
/* Jobs that waited for `on` and, queued or running, wait for nobody (any more), by id. *out: free(). */
int store_jobs_freed_by(struct store *s, int64_t on, int64_t **out, size_t *n, struct dha_err *e);
/* DHA_E_NOT_FOUND if there is none. */
int store_job_get(struct store *s, int64_t id, struct store_job *out, struct dha_err *e);
/* Without its spec, which is neither copied nor looked at. */
int store_job_brief(struct store *s, int64_t id, struct store_job *out, struct dha_err *e);

struct store_job_filter {
    unsigned states;  /* bit 1u << enum job_state; 0 = all */
    const char *name; /* exact; NULL = all */
    int64_t sweep;    /* 0 = all */
    int64_t before;   /* only ids below; 0 = from the newest */
    int limit;        /* 0 = 100 */
};
struct store_jobs {
    struct store_job *at;
    size_t n;
};
/* Newest first, without specs. */
int store_jobs_list(struct store *s, const struct store_job_filter *f, struct store_jobs *out,
                    struct dha_err *e);
void store_jobs_finish(struct store_jobs *j);

struct store_job_move {
    int64_t job;
    enum job_state from, to;
    const char *reason;          /* NULL allowed */
    const struct dha_err *error; /* kept with the job (NULL: to != failed clears it) */
    const char *outbox;          /* action to do after the commit; NULL = none */
    const char *outbox_args;     /* its arguments (JSON text); NULL = "{}" */
    int64_t now_us;
};
/* *changed = false: stale. running sets started_us once; final states set ended_us; queued clears ended_us and
 * the cancel intent. Writes event "job.state". */
int store_job_transition(struct store *s, const struct store_job_move *m, bool *changed,
                         struct dha_err *e);
/* Event "job.priority". */
int store_job_set_priority(struct store *s, int64_t job, int priority, int64_t now_us,
                           struct dha_err *e);
/* Records the intent (event "job.cancel"); the driver then brings the job to cancelled. *changed = false if
 * the job is final already or the same intent stands. */
int store_job_cancel(struct store *s, int64_t job, const char *reason, bool now, int64_t now_us,
                     bool *changed, struct dha_err *e);
/* When the first of the cancels came that stand now; 0 = not known (long ago). Looks at the newest events only. */
int store_job_cancelled_since(struct store *s, int64_t job, int64_t *us, struct dha_err *e);
/* Jobs with a standing cancel intent that are not final: ids into *out (free()). */
int store_jobs_cancelling(struct store *s, int64_t **out, size_t *n, struct dha_err *e);
/* How many jobs and stages are in each state. */
int store_counts(struct store *s, int64_t jobs[JOB_STATES], int64_t stages[STAGE_STATES],
                 struct dha_err *e);

/* ---- stages ------------------------------------------------------------------------------- */

struct store_stage {
    int64_t id, job;
    int ord; /* 0.. within the job */
    enum stage_kind kind;
    enum stage_state state;
    char key[STORE_KEY_SIZE];
    int attempt; /* number of the newest attempt; 0 = none yet. Also how many there were */
    int retries; /* counted against the limit */
    int64_t not_before_us; /* back-off */
    int64_t reused_from;   /* stage id (always one that is done itself) */
    int64_t reused_job;
    char *out_dir; /* NULL until known */
    int64_t started_us, ended_us;
    struct { /* of the newest attempt; NaN where nothing was said */
        char phase[48];
        int64_t done, total;
        int64_t step, steps, tokens;
        double tokens_per_s, loss, lm, kl, fusion_loss, eta_s;
        int64_t changed_us; /* when step, phase or done last moved: what the watchdog looks at */
    } progress;
    /* from `bye` */
    int64_t tokens, peak_rss, kv_parent, kv_converted;
    double seconds;
    char *output; /* model directory or plan; NULL until known */
    struct store_error error;
};
struct store_stages {
    struct store_stage *at;
    size_t n;
};
void store_stage_finish(struct store_stage *st);
void store_stages_finish(struct store_stages *l);
int store_stage_get(struct store *s, int64_t id, struct store_stage *out, struct dha_err *e);
int store_stages_of_job(struct store *s, int64_t job, struct store_stages *out, struct dha_err *e);
/* In one state, over all jobs, by id. */
int store_stages_in_state(struct store *s, enum stage_state state, struct store_stages *out,
                          struct dha_err *e);
/* The newest done stage with this key / the running one. DHA_E_NOT_FOUND if there is none. */
int store_stage_done_by_key(struct store *s, const char *key, struct store_stage *out,
                            struct dha_err *e);
int store_stage_running_by_key(struct store *s, const char *key, struct store_stage *out,
                               struct dha_err *e);

/* What the scheduler needs of the ready stages of queued and running jobs without cancel intent, in no order. They are
 * kept in memory between two calls (ready.c); afresh: read from the tables, to compare. */
struct store_candidate {
    int64_t stage, job;
    int priority, slots, nodes;
    int64_t slot_memory;
    bool named; /* store_job_node_names() tells the only nodes it may use */
    char device[8];
    char key[STORE_KEY_SIZE];
    int64_t submitted_us, not_before_us;
    int64_t waits_for;  /* running stage with the same key; 0 = none */
    int64_t depends_on; /* job whose end its job waits for; 0 = none (any more) */
    int64_t walltime_s; /* 0 = none */
};
int store_candidates(struct store *s, struct store_candidate **out, size_t *n, struct dha_err *e);
int store_candidates_afresh(struct store *s, struct store_candidate **out, size_t *n,
                            struct dha_err *e);
/* The jobs of those whose ready stage has that key, by priority (higher first), then id. *out: free(). */
int store_jobs_ready_for(struct store *s, const char *key, int64_t **out, size_t *n,
                         struct dha_err *e);

/* "a b", or "" for any node. *out: free(). */
int store_job_node_names(struct store *s, int64_t job, char **out, struct dha_err *e);

struct store_stage_move {
    int64_t stage;
    enum stage_state from, to;
    int attempt; /* the newest attempt's number as the caller knows it (0 before the first) */
    const char *reason;          /* NULL allowed */
    const struct dha_err *error; /* kept with the stage; NULL clears it */
    bool count_retry;            /* running -> ready: retries + 1 */
    bool renew_retries;      /* with that: it got further since the last, so this is the first */
    int64_t not_before_us;   /* -> ready */
    int64_t reused_from;     /* -> reused: the done stage; its out_dir and results become ours */
    const char *out_dir;     /* NULL = unchanged */
    const char *outbox;      /* action to do after the commit; NULL = none */
    const char *outbox_args; /* its arguments (JSON text); NULL = "{}" */
    int64_t now_us;
};
/* Not for ready -> running: that is store_attempt_new(). Writes event "stage.state". A move to pending becomes
 * a move to ready where the stages before it are complete; it clears what the stage had (results, error, retries,
 * reused_from), not its attempt number. */
int store_stage_transition(struct store *s, const struct store_stage_move *m, bool *changed,
                           struct dha_err *e);
int store_stage_set_out_dir(struct store *s, int64_t stage, const char *out_dir, struct dha_err *e);

/* ---- attempts ----------------------------------------------------------------------------- */

struct store_new_attempt {
    int64_t stage;
    const char *uuid;
    const int64_t *slots; /* ids; may be none for launchers that bring their own */
    size_t n_slots;
    int64_t now_us;
};
/* ready -> running, with a number never used before, and all the slots or none. *id = 0 (and success) if the
 * stage is not ready any more or an equal one runs. DHA_E_CONFLICT if a slot is taken or drained. */
int store_attempt_new(struct store *s, const struct store_new_attempt *a, int64_t *id, int *number,
                      struct dha_err *e);

struct store_attempt {
    int64_t id, job, stage;
    int number;
    char uuid[STORE_UUID_SIZE];
    enum attempt_state state;
    char *dir; /* NULL until set */
    int64_t journal_offset;
    int64_t pid, pid_start; /* of the shim; start time in clock ticks since boot */
    char boot_id[40];
    char host[64], backend[96]; /* from hello */
    int ranks;
    int64_t steps, resumed_from;
    int64_t started_us, hello_us, ended_us;
    int64_t unreachable_us; /* since when a node of it does not answer; 0 = it was never so */
    int exit_code;          /* of the launcher; -1 = unknown */
    struct store_error error;
};
struct store_attempts {
    struct store_attempt *at;
    size_t n;
};
void store_attempt_finish(struct store_attempt *a);
void store_attempts_finish(struct store_attempts *l);
int store_attempt_get(struct store *s, int64_t id, struct store_attempt *out, struct dha_err *e);
int store_attempt_by_number(struct store *s, int64_t stage, int number, struct store_attempt *out,
                            struct dha_err *e);
int store_attempts_of_stage(struct store *s, int64_t stage, struct store_attempts *out,
                            struct dha_err *e);
int store_attempts_live(struct store *s, struct store_attempts *out, struct dha_err *e);
int store_attempt_set_dir(struct store *s, int64_t id, const char *dir, struct dha_err *e);
int store_attempt_set_process(struct store *s, int64_t id, int64_t pid, int64_t pid_start,
                              const char *boot_id, struct dha_err *e);
/* Between the live states. *changed = false if it has ended or is in that state. Event "attempt.state". */
int store_attempt_set_state(struct store *s, int64_t id, enum attempt_state state,
                            const char *reason, int64_t now_us, bool *changed, struct dha_err *e);
/* Ends it and frees its slots: call it when its processes are gone. Once; *changed = false afterwards. error may
 * be NULL. Event "attempt.end". */
int store_attempt_end(struct store *s, int64_t id, int exit_code, const struct dha_err *error,
                      int64_t now_us, bool *changed, struct dha_err *e);

/* Everything that `records` (journal bytes from_offset..to_offset) say, and the offset, together. *stale = true and
 * nothing changed if the journal has been read to another offset than from_offset: so each record counts once.
 * Records of an attempt that is not its stage's newest are kept with the attempt, but do not touch the stage.
 * Events: "attempt.hello", "stage.phase", "checkpoint", "eval", "attempt.error", "attempt.bye". */
int store_ingest(struct store *s, int64_t attempt, int64_t from_offset, int64_t to_offset,
                 const struct record *records, size_t n, int64_t now_us, bool *stale,
                 struct dha_err *e);
/* The journal is shorter than it was: it is read on from to_offset, and nothing of what it said is taken back. *stale as
 * above. */
int store_ingest_back(struct store *s, int64_t attempt, int64_t from_offset, int64_t to_offset,
                      bool *stale, struct dha_err *e);

/* ---- what the records said ---------------------------------------------------------------- */

struct store_checkpoint {
    int64_t id, stage, attempt; /* attempt: its number */
    int64_t step, bytes, created_us;
    char path[512], digest[72];
    char state[12]; /* "complete" | "deleted" | "bad" */
};
/* Of a job (all its stages) or a stage (job = 0), by id. *out: free(). */
int store_checkpoints(struct store *s, int64_t job, int64_t stage, struct store_checkpoint **out,
                      size_t *n, struct dha_err *e);
int store_checkpoint_mark(struct store *s, int64_t id, const char *state, int64_t now_us,
                          struct dha_err *e);

struct store_head_budget {
    int layer;
    bool value; /* else key */
    int heads;
    int n_map;
    int map[256]; /* query head -> kept head */
};
/* By layer, key before value. A reused stage: pass its reused_from. */
int store_head_budgets(struct store *s, int64_t stage, struct store_head_budget **out, size_t *n,
                       struct dha_err *e);

struct store_eval {
    int64_t stage;
    int attempt;
    char name[40];
    double loss;
    int64_t tokens, windows, step, trained_tokens, time_us;
};
/* In the order of (step, id). A reused stage: pass its reused_from. */
int store_evals(struct store *s, int64_t stage, struct store_eval **out, size_t *n,
                struct dha_err *e);

struct store_point {
    int64_t stage;
    int attempt;
    int64_t step, tokens;
    char name[48];
    double value;
};
struct store_metric_query {
    int64_t stage;      /* a reused stage: its reused_from */
    const char *name;   /* NULL = all */
    int64_t after_step; /* only steps above; -1 = all */
    int limit;          /* 0 = 10000 */
};
/* By (attempt, name, step). Names: loss lm kl lr grad_norm tokens_per_s comm_ms fusion_loss lambda threshold
 * eval_valid bild closed teacher_ms; of a layer's keys or values "fusion_loss.3.key". */
int store_metrics(struct store *s, const struct store_metric_query *q, struct store_point **out,
                  size_t *n, struct dha_err *e);
struct store_series {
    char name[48];
    int64_t points, last_step;
    double last; /* value at last_step */
};
/* Which metrics a stage has, by name. *out: free(). */
int store_metric_names(struct store *s, int64_t stage, struct store_series **out, size_t *n,
                       struct dha_err *e);

/* Thins the series of all attempts of a job that has ended: each is cut into `buckets` equal ranges of steps, of which the
 * first, last, lowest and highest point stay. A series of at most 4 points a bucket is left alone, so that doing it
 * again changes nothing. *before, *after: points of the job. Event "metrics.thin" if there are fewer. */
int store_metrics_thin(struct store *s, int64_t job, int buckets, int64_t now_us, int64_t *before,
                       int64_t *after, struct dha_err *e);
/* The same in slices, for who must not hold up a loop: the series of a job (*out: free()), then of one with more than 4
 * points a bucket some: from *bucket on (0 at first) until `most` points are gone or *bucket is `buckets`. */
struct store_long_series {
    int64_t attempt, points;
    char name[48];
};
int store_metric_series(struct store *s, int64_t job, struct store_long_series **out, size_t *n,
                        struct dha_err *e);
int store_metric_thin(struct store *s, const struct store_long_series *p, int buckets, int *bucket,
                      int64_t most, int64_t *gone, struct dha_err *e);
/* What thinning would leave at most; nothing changes. */
int store_metrics_count(struct store *s, int64_t job, int buckets, int64_t *points,
                        int64_t *thinned, struct dha_err *e);

/* ---- nodes and slots ---------------------------------------------------------------------- */

struct store_node {
    int64_t id;
    char name[64], address[256]; /* address "": this host */
    bool drained;
    bool gone; /* not among the nodes any more; shown while something runs there */
    char reason[256];
};
struct store_slot {
    int64_t id, node;
    int number; /* 0.. on its node */
    char name[64];
    char device[8];
    int64_t memory;              /* bytes that come with it; 0 = not known */
    char uuid[64];               /* of a GPU */
    char cores[128];             /* "0-3,8": its own; "" = none of its own */
    int64_t attempt, job, stage; /* live holder; 0 = free */
};
/* What a node is made of. A slot with a uuid (a GPU) is known by that and keeps its number; the others are numbered. */
struct store_new_slot {
    const char *device; /* "cpu" | "cuda" */
    const char *uuid;   /* NULL = none */
    const char *cores;  /* NULL = none of its own */
    int64_t memory;
};
struct store_new_node {
    const char *name, *address; /* address NULL = "" */
    const struct store_new_slot *slots;
    size_t n_slots;
    int64_t now_us;
};
enum { STORE_FIRST_GPU = 65536 }; /* the number of a node's first slot with a uuid, "NAME:gpu0" */
/* Creates the node or adjusts it to exactly these slots. A slot that is in use is not taken away before it is free;
 * nodes keep their drained state. Event "node.new" / "node.register". */
int store_node_put(struct store *s, const struct store_new_node *n, int64_t *id, struct dha_err *e);
/* The same with n slots "NAME:0".. of a device about which nothing more is known. */
int store_node_register(struct store *s, const char *name, const char *device, int n_slots,
                        int64_t now_us, int64_t *id, struct dha_err *e);
/* The node is gone: no slot of it takes work again unless store_node_put() brings it back. Event "node.gone", once. */
int store_node_remove(struct store *s, int64_t id, int64_t now_us, struct dha_err *e);
/* By id; those that are gone only while something runs there. */
int store_nodes(struct store *s, struct store_node **out, size_t *n, struct dha_err *e);
int store_slots(struct store *s, struct store_slot **out, size_t *n, struct dha_err *e);
/* The same in the same order, but only what the scheduler asks about: thousands of them are read at each pass. */
struct store_slot_held {
    int64_t id, node;
    char device[8];
    int64_t memory, attempt;
};
int store_slots_held(struct store *s, struct store_slot_held **out, size_t *n, struct dha_err *e);
/* Slots that an attempt holds (live) or held. */
int store_slots_of_attempt(struct store *s, int64_t attempt, struct store_slot **out, size_t *n,
                           struct dha_err *e);
/* DHA_E_NOT_FOUND. Events "node.drain" / "node.resume". */
int store_node_drain(struct store *s, const char *name, const char *reason, int64_t now_us,
                     struct dha_err *e);
int store_node_resume(struct store *s, const char *name, int64_t now_us, struct dha_err *e);

/* ---- tokens: who may come over TCP ---------------------------------------------------------- */

#define STORE_DIGEST_SIZE 65 /* SHA-256 in hex + NUL */
struct store_token {
    char name[64], role[16];
    int64_t owner_uid, created_us;
};
/* DHA_E_CONFLICT if the name is taken. */
int store_token_new(struct store *s, const struct store_token *t, const char *digest,
                    struct dha_err *e);
int store_token_revoke(struct store *s, const char *name, int64_t now_us, struct dha_err *e);
/* In the order they were made; *out: free(). */
int store_tokens(struct store *s, struct store_token **out, size_t *n, struct dha_err *e);
/* digest: STORE_DIGEST_SIZE bytes. */
int store_token_find(struct store *s, const char *digest, struct store_token *out, bool *found,
                     struct dha_err *e);

/* ---- events and outbox -------------------------------------------------------------------- */

struct store_event {
    int64_t seq, time_us;
    int64_t job, stage; /* 0 = none */
    int attempt;        /* number; 0 = none */
    char type[32];
    char *data; /* JSON object, text */
};
struct store_events {
    struct store_event *at;
    size_t n;
};
void store_events_finish(struct store_events *l);
/* The uid on whose word what comes next is changed: "by" in the data of the events of these changes. */
#define STORE_NO_ACTOR (-1)
void store_set_actor(struct store *s, int64_t uid);
/* data: JSON object text, NULL = "{}". seq may be NULL. */
int store_event_add(struct store *s, const char *type, int64_t job, int64_t stage, int attempt,
                    const char *data, int64_t now_us, int64_t *seq, struct dha_err *e);
/* seq > after, ascending. limit 0 = 1000. */
int store_events_list(struct store *s, int64_t after, int limit, struct store_events *out,
                      struct dha_err *e);
int64_t store_event_last(const struct store *s); /* newest seq that is committed; 0 = none */

struct store_action {
    int64_t id, job, stage, created_us;
    int attempt; /* number */
    char action[32];
    char *args; /* JSON text */
};
struct store_actions {
    struct store_action *at;
    size_t n;
};
void store_actions_finish(struct store_actions *l);
int store_outbox_add(struct store *s, const char *action, int64_t job, int64_t stage, int attempt,
                     const char *args, int64_t now_us, struct dha_err *e);
/* Oldest first. An action is idempotent, is done after its commit, then deleted; a restart does the rest. */
int store_outbox_list(struct store *s, struct store_actions *out, struct dha_err *e);
int store_outbox_delete(struct store *s, int64_t id, struct dha_err *e);

/* ---- sweeps, lost and found --------------------------------------------------------------- */

struct store_sweep {
    int64_t id, owner_uid, created_us;
    char *name, *spec;   /* spec: the request, JSON text */
    char *skipped;       /* points that were left out: JSON list, text */
    bool stop_dominated; /* daemon/dominate.h */
    double margin;
};
struct store_sweeps {
    struct store_sweep *at;
    size_t n;
};
void store_sweep_finish(struct store_sweep *w);
void store_sweeps_finish(struct store_sweeps *l);
struct store_new_sweep {
    const char *name;    /* "" = none; else no other sweep of this owner has it */
    const char *spec;    /* the request, JSON text */
    const char *skipped; /* NULL = "[]" */
    int64_t owner_uid;
    bool stop_dominated;
    double margin;
    const char *idempotency_key; /* NULL = none */
    int64_t now_us;
};
/* Its jobs are then submitted with .sweep = *id. Event "sweep.new". A name that is taken: DHA_E_CONFLICT. */
int store_sweep_new(struct store *s, const struct store_new_sweep *w, int64_t *id,
                    struct dha_err *e);
/* The owner's sweep made with that key, or else of that (not empty) name; *id = 0 where there is none. */
int store_sweep_find(struct store *s, int64_t owner_uid, const char *key, const char *name,
                     int64_t *id, struct dha_err *e);
int store_sweep_get(struct store *s, int64_t id, struct store_sweep *out, struct dha_err *e);
struct store_sweep_filter {
    const char *name; /* NULL = all */
    bool to_watch;    /* only those with stop_dominated and a job that is not final */
    int64_t before;   /* only ids below; 0 = from the newest */
    int limit;        /* 0 = 100 */
};
int store_sweeps_list(struct store *s, const struct store_sweep_filter *f, struct store_sweeps *out,
                      struct dha_err *e);

/* ---- a job of another daemon -------------------------------------------------------------- */

/* A row of that id, damaged or not? */
int store_job_known(struct store *s, int64_t id, bool *known, struct dha_err *e);

/* Everything about a job that has ended, in the rows' own structs: ids are those it had there, paths (out_dir, output,
 * dir, path) are relative to the job's directory. All of it is owned by the struct. */
struct store_import {
    struct store_job job;
    struct store_import_stage {
        struct store_stage stage;
        struct store_attempts attempts;
        struct store_eval *evals;
        struct store_head_budget *heads;
        struct store_checkpoint *checkpoints;
        struct store_point *points; /* of the attempts, by number */
        size_t n_evals, n_heads, n_checkpoints, n_points;
    } stages[STAGE_KINDS];
    size_t n_stages;
    char *jobs_dir; /* absolute; the job's directory will be jobs_dir/ID */
    char *origin;   /* where it came from: for the event */
    int64_t now_us;
};
void store_import_finish(struct store_import *im);
/* Under a new id, in the state it had; a stage that was reused there is done here. Event "job.import". */
int store_import(struct store *s, const struct store_import *im, int64_t *id, struct dha_err *e);

/* Sets something aside (a journal line, a file's content): `origin` says where it came from. Event "lost_found". */
int store_lost_found_add(struct store *s, const char *origin, const char *content, size_t len,
                         const char *reason, int64_t now_us, struct dha_err *e);
int64_t store_lost_found_count(struct store *s);
/* Was state.db itself found damaged at since_us or later? Then what became of it, in a sentence; else "". */
int store_salvage_note(struct store *s, int64_t since_us, char *text, size_t size,
                       struct dha_err *e);

#endif
