/* daemon.h: the daemon's parts and how they meet. Private to daemon/; main.c needs the first half.
 *
 * One thread, one loop (threads beside it, draft.c's and chore.c's, work on what they were handed). Whatever
 * happens (a request, a pidfd, a tick) changes the store and returns to the loop; before the loop blocks again, turn_end() commits all the changes of that turn together,
 * lets the replies go, and only then does what the changes call for (launch, signal). Actions are
 * level-triggered: they are read off the state (an attempt that is `starting` and has no shim is
 * launched; a job with a cancel intent is driven to cancelled), so a restart repeats them by looking at
 * the same state; the rows themselves are the outbox.
 *
 * Files in the order a job lives:
 *   main.c daemon.c turn.c     start, the turn
 *   settings.c notify.c        what it is told (SIGHUP: again), what it tells systemd
 *   server.c server_stream.c   requests, replies, streams
 *   access.c tcp.c             who may do what, and who is who over TCP
 *   api*.c doc.c result.c feed.c   what they say
 *   stagekey.c                 what makes two stages equal
 *   draft.c patience.c         a submission, read and checked beside the loop; files that may not answer
 *   stages.c                   moves of jobs and stages: reuse, completion, cancel, retry
 *   output.c                   is what a stage left still whole?
 *   sched*.c (pure) plan.c     which stage starts where
 *   explain.c                  and why another does not
 *   preempt.c (pure)           who gives way to a higher priority, where that is wanted
 *   hosts.c nodes.c probing.c place.c   which nodes there are, and where an attempt runs
 *   launch.c shim/             an attempt becomes processes
 *   runas.c                    as whom, and with whose rights its files are touched, where root serves several users
 *   attempt*.c                 a live attempt: start, watch, adopt, stop, end
 *   stall.c (pure)             when a step that does not end is frozen
 *   remote.c                   what it left on other nodes
 *   verdict.c (pure)           what an attempt's end means
 *   ingest.c                   its journal into the store
 *   logcap.c                   its logs, kept to a size
 *   dominate.c (pure) sweep_watch.c   which jobs of a sweep are stopped early
 *   upkeep.c                   what it does by itself: backups, old metrics
 *   api_admin.c chore.c chore_*.c   what takes long, in a thread; over fsck.c checkpoint.c files.c jobdoc.c
 */
#ifndef DHA_DAEMON_DAEMON_H
#define DHA_DAEMON_DAEMON_H

#include <uv.h>

#include "daemon/access.h"
#include "daemon/draft.h"
#include "daemon/histogram.h"
#include "daemon/launch.h"
#include "daemon/server.h"
#include "daemon/settings.h"
#include "daemon/upkeep.h"
#include "daemon/tcp.h"
#include "store/store.h"

struct daemon;

struct daemon_options {
    const char *state, *socket, *worker, *shim, *launcher, *log;
    const char *config;   /* file of settings, read again at SIGHUP; NULL = none */
    struct settings said; /* on the command line; -1 = not */
    bool copy_log;        /* to stderr as well */
};

/* Everything up to and including a socket that answers. */
struct daemon *daemon_open(const struct daemon_options *o, struct dha_err *e);
void daemon_run(struct daemon *d); /* until it is told to stop */
/* False: there are threads that wait for files which do not answer. What they may use is not freed; the process is to end with
 * _exit(), which does not wait for them and runs nothing that they could meet. */
bool daemon_close(struct daemon *d);

/* May jobs of that user run here at all? DHA_E_FORBIDDEN. */
int daemon_may_run(const struct daemon *d, int64_t owner_uid, struct dha_err *e);
/* Stops after the present replies are out. */
void daemon_quit_soon(struct daemon *d);

/* ---- the rest is between the parts ---- */

struct attempt;

/* Gangs that some nodes could hold, as text (plan.c). */
enum { PLAN_SHAPES = 8, PLAN_SHAPE = 192 };

struct daemon {
    uv_loop_t loop;
    struct store *store;
    struct server *server;
    struct feed *feed; /* the event log for readers */
    char *state_dir, *socket_path, *shim, *worker, *cache_dir;
    char node[64];      /* this host's; "" = none of the nodes is here */
    struct hosts hosts; /* as the settings have them */
    struct launch_config launch;
    uv_signal_t on_term, on_int, on_hup;
    uv_timer_t pulse; /* systemd's watchdog */
    uv_prepare_t prepare;
    uv_idle_t idle;  /* runs only while a turn could not be ended: keeps the loop from blocking */
    uv_timer_t tick; /* runs while attempts live */
    uint64_t last_tick_ms; /* 0 = none since attempts live */
    int64_t last_tick_us;  /* the same by the wall clock */
    uv_timer_t later;      /* a scheduling pass or a back-off that is due later */
    uv_timer_t backoff;    /* the earliest stage that waits out a failure */
    uv_timer_t quit;
    uv_timer_t readopt;      /* after a turn was lost */
    uv_timer_t chore_again;  /* the next slice of a chore (chore.h) */
    struct probing *probing; /* what nodes said they have (probing.h) */
    uv_timer_t probe_again;  /* those that did not answer */
    struct chore *chore;     /* at work, or the last one */
    int64_t chores;          /* how many there were */
    uv_timer_t own_again;    /* the same of what the daemon does by itself (upkeep.h) */
    struct chore *own_chore;
    struct upkeep upkeep;
    uv_timer_t upkeep_timer;
    struct attempt *attempts; /* live ones */
    struct attempt
        *to_launch; /* made in the open turn: launched after its commit (list by launch_next) */
    struct daemon_options options; /* its strings are the caller's */
    struct settings settings;      /* as they hold now */
    struct access access;          /* who may do what */
    struct drafts drafts;          /* submissions that are being read */
    char tcp[TCP_BOUND_MAX];       /* where it listens as well; "" = nowhere */
    int64_t started_us, ageing_us, log_bytes;
    bool preempt;
    uint64_t nodes_changed; /* counts the changes of nodes and their slots */
    struct {
        uint64_t of; /* nodes_changed when these were found */
        unsigned next;
        char shape[PLAN_SHAPES][PLAN_SHAPE];
    } fits;
    int64_t events_seen; /* last event that waiting requests were told of */
    bool want_pass;      /* something changed that the scheduler should see */
    bool want_watch;     /* evaluations came in that sweep_watch() should see */
    int64_t *
        ended; /* jobs that ended in this turn: who waited for them is looked at before it commits */
    size_t n_ended;
    uint64_t last_pass_ms, last_pass_cost_ms;
    bool
        blind; /* which attempts run could not be read yet: nothing may be concluded from the list */
    bool no_jobs; /* blind, because the files of the jobs that run are not there: waits for them */
    bool want_adopt; /* they went away while it looked: that has to be found out anew */
    dev_t jobs_dev;  /* STATE/jobs, when they were last there */
    ino_t jobs_ino;
    bool full; /* there was no room for anything to be started */
    bool stopping;
    char notice[1600];   /* what everybody should know of this state directory; "" = nothing */
    struct dha_err lost; /* why the last turn could not be saved; code OK once one was */
    int64_t lost_us;
    int in_turn; /* guards against re-entry of turn_end() */
    struct {
        struct histogram turn, turn_cpu, commit, pass;
        int64_t commit_max_us, pass_max_us, requests, launches;
        /* when the last turn ended, and how long the loop had slept and computed by then */
        uint64_t mark_ns, idle_ns;
        int64_t cpu_us;
    } stat;
};

/* Attempts live: look after them ten times a second, until there are none. */
void daemon_want_tick(struct daemon *d);
int64_t now_us(void);
/* A store error that nobody is waiting for. */
void daemon_trouble(const struct dha_err *e, const char *doing);

/* turn.c */
void turn_init(struct daemon *d);
/* Commits what is open, releases replies, acts, schedules; until nothing is left to do. */
void turn_end(struct daemon *d);

/* What keeps turns from being saved, and what to do about it: a sentence into text and true, or false. */
bool turn_trouble(const struct daemon *d, char *text, size_t size);
/* Can changes be saved, as far as can be seen without one? DHA_E_TRANSIENT that says why not. */
int turn_writable(const struct daemon *d, struct dha_err *e);

/* plan.c */
int plan_pass(struct daemon *d, struct dha_err *e); /* one scheduling pass inside the open turn */
struct plan_explanation {
    const char *verdict; /* the scheduler's word for it; NULL = it was not asked */
    char reason[512], unblock[512];
    int64_t start_us; /* by when it starts at the latest; 0 = no date can be given */
    size_t n_slots;   /* it would start now, on these: ids, free() them */
    int64_t *slots;
    int64_t walltime_s; /* with one of at most this it would start at once; <= 0: with none */
    /* What it takes to follow the advice: that right (to change need_job), and where need_priority a higher priority. */
    enum access_need need;
    int64_t need_job;
    bool need_priority;
};
/* explain.c */
int plan_explain(struct daemon *d, const struct store_job *job, struct plan_explanation *x,
                 struct dha_err *e);
int plan_slots_needed(const struct job_spec *s); /* of one gang */
/* "a b", "" for any; free() it. NULL: out of memory. */
char *plan_node_names(const struct job_spec *s, struct dha_err *e);
/* 0, or DHA_E_NO_SLOT if no node could ever hold the gang. */
int plan_fits(struct daemon *d, const struct job_spec *s, struct dha_err *e);
/* What plan_explain() would say of it if it were submitted now. */
int plan_preview(struct daemon *d, const struct job_spec *spec,
                 const struct store_dependency *after, size_t n_after, struct plan_explanation *x,
                 struct dha_err *e);

/* stages.c */
/* Reuses the job's ready stages as far as equal ones are done; ends the job when all are complete. */
int stages_advance(struct daemon *d, int64_t job, struct dha_err *e);
/* The same for a job that was submitted just now, whose first stage has that key. */
int stages_begin(struct daemon *d, int64_t job, const char *first_key, struct dha_err *e);
/* To be called in the transaction that ends a job. */
int stages_job_ended(struct daemon *d, int64_t job, struct dha_err *e);
/* Advances the jobs that waited for those and wait no more: now they may take what is done. */
int stages_wake_waiting(struct daemon *d, struct dha_err *e);
/* Where could this key be taken from? *found = false if nowhere; what is damaged does not count. */
int stages_find_done(struct daemon *d, const char *key, struct store_stage *out, bool *found,
                     struct dha_err *e);
/* Before a stage starts: is what it reads whole? If not, *whole = false, and the stage that made it (with what
 * rests on it) goes back to be reused from elsewhere or to run again. */
int stages_check_input(struct daemon *d, int64_t stage, bool *whole, struct dha_err *e);
/* stagekey_job() with the owner's rights; users' keys are different where their jobs run as they. */
struct stagekey;
int stages_keys(const struct job_spec *s, int64_t owner_uid, struct stagekey *keys, int *n,
                struct dha_err *e);
/* stagekey_changed() with the owner's rights. */
int stages_changed(const struct job_spec *s, int64_t owner_uid, int64_t since_us,
                   struct dha_err *e);
int stages_hold(struct daemon *d, int64_t job, struct dha_err *e);
int stages_release(struct daemon *d, int64_t job, struct dha_err *e);
int stages_retry(struct daemon *d, int64_t job, struct dha_err *e);
int stages_cancel(struct daemon *d, int64_t job, const char *reason, bool now, struct dha_err *e);
/* Brings a job with a cancel intent and no live attempt to `cancelled`. */
int stages_cancelled(struct daemon *d, int64_t job, struct dha_err *e);

/* attempt_start.c, attempt.c, attempt_stop.c */
/* A new attempt of the open turn; launched after the commit. */
int attempt_start(struct daemon *d, int64_t stage, const int64_t *slots, size_t n_slots,
                  bool *started, struct dha_err *e);
/* Every attempt that the store calls live, and the intents to cancel. On failure d->blind tells which of the
 * two could not be read. Where no file of any job is there while some run, d->no_jobs and it comes again by itself. */
int attempts_adopt(struct daemon *d, struct dha_err *e);
void attempts_launch(struct daemon *d); /* after commit */
void attempts_forget(struct daemon *d); /* the turn that made them was lost */
void attempts_tick(struct daemon *d);
void attempts_child_ended(void *d, int pid); /* a shim of ours; for launch_config */
bool attempts_of_job(struct daemon *d, int64_t job);
/* Asks the job's live attempts to stop: checkpoint first, SIGKILL grace_ms later; grace_ms < 0: never. */
void attempts_stop(struct daemon *d, int64_t job, int64_t grace_ms);
/* What the job's running stage is at, for how long, and after how long that counts as frozen; of one that is being stopped,
 * what is waited for and when it is killed; false: nothing of it runs. */
bool attempts_pace(struct daemon *d, int64_t job, char *text, size_t size);
void attempts_close(struct daemon *d); /* forgets them all; they go on */

#endif
