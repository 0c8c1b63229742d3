/* sched.h: which stage starts on which slots, and when the others can expect to. A pure function: snapshot in,
 * decisions out; no clock, no database, no memory of earlier passes.
 *
 * Order: priority (higher first; with ageing, waiting counts as priority), then age (older job first), then id.
 *
 * Rules, for each stage in that order; the first that blocks it is its verdict (`explain` repeats it):
 *   - A stage whose job depends on another job's end, or that waits for an equal stage or for its back-off, is left
 *     out; it holds up nobody. Nor does one that the nodes could never hold, or only drained ones could.
 *   - A gang gets all its slots, `slots` on each of `nodes` nodes, or none.
 *   - Conservative backfill. A stage that finds no room is promised the earliest room there will be: a date, which
 *     the walltimes of what runs give, and the nodes. What comes after it may start at once wherever its own
 *     walltime keeps every promise made before it in the pass. So nobody is delayed by a stage behind it.
 *   - Where no date can be given, because what runs there has no walltime, nothing that comes after it starts on any
 *     node the stage could use: they would overtake it for ever. (Jobs without walltimes therefore run in order.)
 *   - Promises are made to the first SCHED_PROMISES blocked stages of each kind of device. A stage behind those may
 *     start if it keeps them, and moves up as they start: the order is fixed, so nobody starves.
 *
 * From pass to pass: the date of the first promise on a kind of device never moves back while nothing that sorts
 * before its stage comes in and no node is lost. Later promises are made anew around it; they move back at times when
 * the ones before them move. tests/sim checks both at every step of a simulated cluster. The idea: Lifka, "The
 * ANL/IBM SP scheduling system" (1995); Mu'alem and Feitelson, IEEE TPDS 12(6), 2001.
 */
#ifndef DHA_DAEMON_SCHED_H
#define DHA_DAEMON_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCHED_PROMISES = 100 };

enum sched_device { SCHED_CPU, SCHED_CUDA, SCHED_DEVICES };

struct sched_stage {
    int64_t id;
    int priority;
    int64_t age_us; /* submission of its job; smaller = older */
    enum sched_device device;
    int nodes;           /* of the gang; 0 is 1 */
    int slots;           /* on each of them */
    int64_t slot_memory; /* bytes that each slot must have; 0 = any */
    const int64_t *only; /* n_only ids of the nodes it may use, ascending; none = any. Borrowed */
    size_t n_only;
    int64_t walltime_us;   /* it is stopped after that long; 0 = never */
    int64_t depends_on;    /* job whose end it waits for; 0 = none */
    int64_t waits_for;     /* stage with an equal key that is running; 0 = none */
    int64_t not_before_us; /* back-off; 0 = none */
    int64_t effective;     /* set by the pass: priority with ageing */
};

struct sched_slot {
    int64_t id, node;
    enum sched_device device;
    int64_t memory;   /* bytes that come with it; 0 = not known: any demand for memory is refused */
    int64_t until_us; /* busy: when its attempt is stopped at the latest; 0 = nobody knows */
    bool busy;        /* in a live attempt */
    bool drained;     /* its node takes no new work */
};

struct sched_options {
    int64_t now_us;
    int64_t ageing_us; /* waiting this long counts as one priority; 0 = no ageing */
};

enum sched_verdict {
    SCHED_START,
    SCHED_DEPENDS,     /* another job must end first */
    SCHED_WAITS_EQUAL, /* an equal stage is running: its result will be used */
    SCHED_BACKOFF,     /* last attempt failed; until not_before_us */
    SCHED_NEVER,       /* there are not that many nodes with that many slots of the kind */
    SCHED_DRAINED,     /* only with drained nodes there are */
    SCHED_BUSY,        /* slots are taken */
    SCHED_BEHIND,      /* slots are free, but promised to somebody before it */
    SCHED_VERDICTS
};

struct sched_decision {
    int64_t stage;
    enum sched_verdict verdict;
    int64_t
        blocker; /* DEPENDS: job; WAITS_EQUAL, BEHIND: stage; BUSY: first in line of the device */
    int ahead;   /* BUSY, BEHIND: so many wait for slots of the device before it */
    int64_t start_us; /* BUSY, BEHIND: the date it is promised; 0 = none could be given */
    int64_t gap_us; /* BEHIND: with a walltime of at most this it would start now; 0 = with none */
    int free, most; /* BUSY, NEVER, DRAINED: free slots and all slots of the best node */
    int fitting;    /* nodes that could ever hold their part of it */
    size_t
        slot_at; /* START: first of its `slots` entries in the result's slot list, node by node */
    int slots;   /* of the whole gang */
};

struct sched_result {
    struct sched_decision *at; /* n decisions in the order the stages were considered */
    size_t n;
    int64_t *slot_ids; /* of all starts, one after the other */
    size_t n_slots;
};

const char *sched_verdict_name(enum sched_verdict v);

/* The order of consideration, by `effective`: <0 if a comes first. */
int sched_compare(const struct sched_stage *a, const struct sched_stage *b);

/* Sorts `stages` in place and decides. 0, or -1 when out of memory (*r is then empty). */
int sched_pass(struct sched_stage *stages, size_t n_stages, const struct sched_slot *slots,
               size_t n_slots, const struct sched_options *o, struct sched_result *r);
void sched_result_finish(struct sched_result *r);

#endif
