/* sched_node.h: a node's slots over time, for sched.c: what is free now, when the busy ones come back at the latest,
 * and what was promised. Pure. */
#ifndef DHA_DAEMON_SCHED_NODE_H
#define DHA_DAEMON_SCHED_NODE_H

#include "daemon/sched.h"

#define SCHED_NEVER_US INT64_MAX

struct sched_span {
    int64_t from_us, to_us; /* [from, to); to = SCHED_NEVER_US: without end */
    int slots;
    int64_t stage; /* to whom it is promised */
};

/* The slots of one device on one node. */
struct sched_node {
    int64_t id;
    enum sched_device device;
    bool drained;
    int64_t slot_memory; /* the least of its slots */
    int total, free;
    size_t next;   /* first of its slots in the sorted list that was not looked at for a start */
    int64_t *ends; /* when busy slots come back, ascending; room for `total` */
    int n_ends;
    struct sched_span *spans; /* promises */
    int n_spans, room;
    int64_t held_by;                  /* a stage without a date waits for this node; 0 = none */
    struct sched_node *chain, **link; /* next node with as many free; what points here (sched.c) */
};

/* Groups slots sorted by device, node, id into `nodes` (room for one a slot); `ends` has room for one a slot. Returns
 * how many nodes there are. Slots that should have come back before now_us are expected at any moment. */
size_t sched_nodes_make(const struct sched_slot *sorted, size_t n, int64_t now_us,
                        struct sched_node *nodes, int64_t *ends);
void sched_nodes_finish(struct sched_node *nodes, size_t n);

/* Slots that are taken from now on, until end_us (0 = nobody knows). */
void sched_node_take(struct sched_node *nd, int slots, int64_t end_us);

/* 0, or -1 when out of memory. */
int sched_node_promise(struct sched_node *nd, const struct sched_span *s);

/* The earliest time, `from` or later, from which `slots` slots stay free for walltime_us (0 = for ever);
 * SCHED_NEVER_US if nobody knows of one. */
int64_t sched_node_earliest(const struct sched_node *nd, int slots, int64_t walltime_us,
                            int64_t from);

/* For how long `slots` slots stay free from now on: 0 if they are not, SCHED_NEVER_US without end. *blocker: whose
 * promise ends it (0 = none). */
int64_t sched_node_gap(const struct sched_node *nd, int slots, int64_t now_us, int64_t *blocker);

#endif
