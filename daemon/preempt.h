/* preempt.h: who gives way to a stage of higher priority that finds no room (dhad --preempt). Pure.
 *
 * Only attempts of strictly lower priority are asked to checkpoint and stop; their stages go back into the queue and
 * on from the checkpoint later, and that counts as no retry. On the node where the least has to give way: first by the
 * highest priority among those that would, then by slots, then by who ran the shortest. Nobody is asked where what is
 * stopping already will make room. Several nodes are chosen one after the other; who was chosen for one of them makes
 * room on all.
 */
#ifndef DHA_DAEMON_PREEMPT_H
#define DHA_DAEMON_PREEMPT_H

#include "daemon/sched.h"

struct preempt_slot {
    int64_t node, attempt; /* attempt 0 = free */
    enum sched_device device;
    bool drained;
};
struct preempt_attempt {
    int64_t id;
    int priority;
    int64_t started_us;
    bool stopping;
};

/* Ids of those that must give way to a gang of `slots` slots on each of `nodes` nodes into `out` (room for n_attempts). Returns how
 * many: 0 if nobody has to or nobody can. */
size_t preempt_choose(int nodes, int slots, enum sched_device device, int priority,
                      const struct preempt_slot *slot, size_t n_slots,
                      const struct preempt_attempt *attempt, size_t n_attempts, int64_t *out);

#endif
