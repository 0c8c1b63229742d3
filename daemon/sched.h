/* sched.h: which stage starts on which slots. A pure function: snapshot in, decisions out; no clock, no
 * database, no memory of earlier passes.
 *
 * Rules, in this order:
 *   - Stages are taken by priority (higher first), then age (older job first), then id.
 *   - A stage that waits for an equal one running elsewhere, or for its back-off to pass, is left out; it
 *     holds up nobody.
 *   - A gang gets all its slots, on one node, or none.
 *   - Strict order for each kind of device: once a stage could run but finds no room, everything
 *     behind it on that kind of device waits, even if it would fit. That is the conservative end of
 *     backfill (nobody is ever overtaken, so nobody starves); filling the gaps by walltime is issue 5.
 *   - A stage that no node could ever hold, or that only a drained node could, holds up nobody.
 *
 * Each stage gets one decision, with the first rule that blocks it: `explain` repeats it.
 */
#ifndef DHA_DAEMON_SCHED_H
#define DHA_DAEMON_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sched_device { SCHED_CPU, SCHED_CUDA, SCHED_DEVICES };

struct sched_stage {
    int64_t id;
    int priority;
    int64_t age_us; /* submission of its job; smaller = older */
    int slots;      /* the gang's size in slots */
    enum sched_device device;
    int64_t waits_for;     /* stage with an equal key that is running; 0 = none */
    int64_t not_before_us; /* back-off; 0 = none */
};

struct sched_slot {
    int64_t id, node;
    enum sched_device device;
    bool busy;    /* in a live attempt */
    bool drained; /* its node takes no new work */
};

enum sched_verdict {
    SCHED_START,
    SCHED_WAITS_EQUAL, /* an equal stage is running: its result will be used */
    SCHED_BACKOFF,     /* last attempt failed; until not_before_us */
    SCHED_NEVER,       /* no node has that many slots of the device */
    SCHED_DRAINED,     /* only a drained node has */
    SCHED_BUSY,        /* first in line; slots are taken */
    SCHED_BEHIND,      /* somebody before it waits for slots */
    SCHED_VERDICTS
};

struct sched_decision {
    int64_t stage;
    enum sched_verdict verdict;
    int64_t blocker; /* WAITS_EQUAL, BEHIND: that stage */
    int free, most;  /* BUSY, NEVER, DRAINED: free slots and all slots of the best node */
    size_t slot_at;  /* START: first of its `slots` entries in the result's slot list */
    int slots;
};

struct sched_result {
    struct sched_decision *at; /* n decisions in the order the stages were considered */
    size_t n;
    int64_t *slot_ids; /* of all starts, one after the other */
    size_t n_slots;
};

const char *sched_verdict_name(enum sched_verdict v);

/* The order of consideration: <0 if a comes first. */
int sched_compare(const struct sched_stage *a, const struct sched_stage *b);

/* Sorts `stages` in place and decides. 0, or -1 when out of memory (*r is then empty). */
int sched_pass(struct sched_stage *stages, size_t n_stages, const struct sched_slot *slots,
               size_t n_slots, int64_t now_us, struct sched_result *r);
void sched_result_finish(struct sched_result *r);

#endif
