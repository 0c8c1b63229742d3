/* attempt.h: a live attempt as the daemon holds it in memory. attempt*.c only.
 *
 * Where an attempt stands is decided by what is on disk and what lives, never by what this daemon
 * remembers doing; attempt_look() therefore serves a fresh launch, a restart and a pidfd alike:
 *
 *   lock held                      its shim lives: watch it by pidfd once shim.json says who it is
 *   lock free, exit.json           over: read on the journal, judge, free the slots
 *   lock free, shim.json only      lost: kill what carries its tag, then judge
 *   no lock file, its shim lives   its directory was removed or replaced under it: ended by the ladder, then lost, as above
 *   lock free, its shim lives      its lock was replaced: the same
 *   lock free, neither             never started: start a shim (again); but if an earlier daemon saw it run, or
 *                                  something of it does, its directory was taken away: lost, as above
 */
#ifndef DHA_DAEMON_ATTEMPT_H
#define DHA_DAEMON_ATTEMPT_H

#include "daemon/daemon.h"
#include "daemon/ingest.h"
#include "daemon/procs.h"
#include "daemon/stall.h"
#include "daemon/tmpdir.h"

enum attempt_phase {
    A_NEW,      /* its row may not be committed yet */
    A_STARTING, /* a shim was asked for, or has to be */
    A_WATCHED,  /* pidfd in the loop */
    A_SWEEPING, /* the shim is gone; leftovers are being killed */
    A_REMOTE,   /* nothing of it is left here; other nodes are asked (remote.h) */
    A_CLOSED
};

enum attempt_stop {
    STOP_NONE,
    STOP_WANTED, /* SIGUSR2 is due */
    STOP_ASKED,  /* SIGUSR2 was sent */
    STOP_KILLING /* SIGKILL, every tick until nothing is left */
};

/* From the walltime's end (SIGUSR2) to SIGKILL; what a shim that has nothing left to wait for gets to end by itself. */
enum { WALLTIME_GRACE_MS = 30000, SHIM_MS = 5000 };

struct remote;

struct attempt {
    struct attempt *next, *launch_next;
    struct daemon *d;
    int64_t id, job, stage;
    int number;
    char uuid[STORE_UUID_SIZE];
    char *dir;
    dev_t dir_dev; /* with dir_ino: the directory that was last seen to be its own */
    ino_t dir_ino; /* 0 = none yet */
    bool
        foreign; /* another attempt's directory is in the place of its own: nothing in it is believed */
    uid_t user;     /* as whom it runs, if nothing is there to ask; RUNAS_SELF = as the daemon */
    bool inherited; /* an earlier daemon may have started it */
    bool ran;       /* something of it is known to have run, whatever its directory says now */
    enum attempt_phase phase;
    struct ingest in;
    int64_t started_us, walltime_s; /* walltime 0 = none */
    int ranks;                      /* 0 = not known */
    /* the shim */
    pid_t child; /* started by this daemon; 0 = not by us */
    int spawns;
    pid_t pid;
    unsigned long long pid_start;
    char boot_id[PROC_BOOT_ID_SIZE];
    char tmp[TMPDIR_SIZE];
    int64_t
        suspended_ms; /* how long the machine had been when it started, in its words; -1 = not known */
    /* what the shim could not kill, in its words: may be out of its session, and its tag hidden from us */
    struct {
        pid_t pid;
        unsigned long long start;
    } left[PROCS_LEFT_MAX];
    int n_left;
    int pidfd;
    uv_poll_t poll;
    bool polling;
    /* being stopped */
    enum attempt_stop stop;
    int64_t gives_way_to; /* the job of higher priority for which it was told to; 0 = none */
    bool over_time, stalled, gone;
    char gone_why[320];     /* what of its directory was removed while it ran */
    struct stall stall;     /* how long its steps take */
    char stalled_why[320];  /* what was frozen, for how long, and which limit that is */
    uint64_t next_pulse_ms; /* when to look for progress again */
    uint64_t next_trim_ms;  /* when to look at the sizes of its logs again */
    bool trimmed;           /* said once that its log is cut */
    uint64_t over_at_ms;    /* end of its walltime; 0 = not known yet */
    uint64_t kill_at_ms;    /* 0 = never */
    uint64_t kill_shim_ms;  /* while killing: when the shim's turn comes */
    uint64_t sweep_end_ms;  /* while sweeping: when the node is drained instead */
    uint64_t young_end_ms;  /* by when what runs without a lock has to have it; 0 = nothing does */
    uint64_t lockless_ms;   /* since when its shim lives without its lock; 0 = it does not */
    uint64_t not_before_ms; /* after trouble: when to try again */
    int unread;             /* how often its last words could not be read */
    struct remote *remote;  /* NULL until other nodes are asked */
    int64_t unreachable_us; /* since when one of them does not answer; 0 = all do */
    bool launch_failed, files_hang; /* files_hang: because of files that do not answer */
    struct dha_err launch_error;
};

/* attempt.c: into the list of live ones; NULL when out of memory. */
struct attempt *attempt_add(struct daemon *d, const struct store_attempt *row);
/* attempt.c: out of the list and, when the loop lets go of it, out of memory. */
void attempt_drop(struct attempt *a);
void attempt_look(struct attempt *a);
/* Its shim for procs_find(): 0 when the pid is another process' by now. */
pid_t attempt_shim(const struct attempt *a);
/* As whom its processes run. */
uid_t attempt_user(const struct attempt *a);
/* procs_find() and procs_kill() for it, with the right to look at its processes. */
size_t attempt_processes(struct attempt *a, pid_t shim, pid_t *pids, size_t cap);
size_t attempt_kill(struct attempt *a, pid_t shim);
/* attempt_start.c: starts a shim (again); a failure is kept in the attempt and ends it. */
void attempt_launch(struct attempt *a);
/* attempt_end.c: the attempt is over and nothing of it runs: its end into the store. 0, -1 to try
 * again later, or INGEST_MORE to go on at the next tick: its journal is long. */
int attempt_conclude(struct attempt *a, struct dha_err *e);
/* attempt_stop.c: one step of the ladder; from the tick. */
void attempt_ladder(struct attempt *a);
/* attempt_stop.c: its directory (or that file of it) was removed while it ran: the ladder ends it, and its stage goes on
 * with another one. */
void attempt_gone(struct attempt *a, const char *file);

#endif
