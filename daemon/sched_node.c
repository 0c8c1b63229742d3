/* sched_node.c: see sched_node.h. What is free changes at few instants: busy slots come back (`ends`), promises begin
 * and end (`spans`). Between two of them nothing changes, so only they are looked at. */
#include "daemon/sched_node.h"

#include <stdlib.h>
#include <string.h>

static void insert_end(struct sched_node *nd, int64_t end_us)
{
    int i = nd->n_ends++;
    for (; i > 0 && nd->ends[i - 1] > end_us; i--) {
        nd->ends[i] = nd->ends[i - 1];
    }
    nd->ends[i] = end_us;
}

size_t sched_nodes_make(const struct sched_slot *sorted, size_t n, int64_t now_us,
                        struct sched_node *nodes, int64_t *ends)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const struct sched_slot *s = &sorted[i];
        struct sched_node *nd = count ? &nodes[count - 1] : NULL;
        if (!nd || nd->id != s->node || nd->device != s->device) {
            nd = &nodes[count++];
            *nd = (struct sched_node){.id = s->node,
                                      .device = s->device,
                                      .slot_memory = s->memory,
                                      .next = i,
                                      .ends = ends + i};
        }
        nd->drained |= s->drained;
        nd->slot_memory = s->memory < nd->slot_memory ? s->memory : nd->slot_memory;
        nd->total++;
        nd->free += !s->busy;
        if (s->busy && s->until_us) {
            insert_end(nd, s->until_us > now_us ? s->until_us : now_us + 1);
        }
    }
    return count;
}

void sched_nodes_finish(struct sched_node *nodes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(nodes[i].spans);
    }
    free(nodes);
}

void sched_node_take(struct sched_node *nd, int slots, int64_t end_us)
{
    nd->free -= slots;
    for (int i = 0; i < slots && end_us; i++) {
        insert_end(nd, end_us);
    }
}

int sched_node_promise(struct sched_node *nd, const struct sched_span *s)
{
    if (nd->n_spans == nd->room) {
        int room = nd->room ? 2 * nd->room : 4;
        struct sched_span *more = realloc(nd->spans, (size_t)room * sizeof *more);
        if (!more) {
            return -1;
        }
        nd->spans = more;
        nd->room = room;
    }
    nd->spans[nd->n_spans++] = *s;
    return 0;
}

static int free_at(const struct sched_node *nd, int64_t t)
{
    int free = nd->free;
    for (int i = 0; i < nd->n_ends && nd->ends[i] <= t; i++) {
        free++;
    }
    for (int i = 0; i < nd->n_spans; i++) {
        if (nd->spans[i].from_us <= t && t < nd->spans[i].to_us) {
            free -= nd->spans[i].slots;
        }
    }
    return free;
}

/* From t on, the first instant at which fewer than `slots` are free; SCHED_NEVER_US if there is none. Only a promise
 * that begins makes fewer. */
static int64_t first_short(const struct sched_node *nd, int slots, int64_t t, int64_t *blocker)
{
    int64_t first = SCHED_NEVER_US;
    *blocker = 0;
    if (free_at(nd, t) < slots) {
        first = t;
        for (int i = 0; i < nd->n_spans && !*blocker; i++) {
            *blocker = nd->spans[i].from_us <= t && t < nd->spans[i].to_us ? nd->spans[i].stage : 0;
        }
        return first;
    }
    for (int i = 0; i < nd->n_spans; i++) {
        int64_t from = nd->spans[i].from_us;
        if (from > t && from < first && free_at(nd, from) < slots) {
            first = from;
            *blocker = nd->spans[i].stage;
        }
    }
    return first;
}

/* The next instant after t at which more may be free. */
static int64_t next_relief(const struct sched_node *nd, int64_t t)
{
    int64_t next = SCHED_NEVER_US;
    for (int i = 0; i < nd->n_ends; i++) {
        if (nd->ends[i] > t) {
            next = nd->ends[i];
            break;
        }
    }
    for (int i = 0; i < nd->n_spans; i++) {
        int64_t to = nd->spans[i].to_us;
        next = to > t && to < next ? to : next;
    }
    return next;
}

int64_t sched_node_earliest(const struct sched_node *nd, int slots, int64_t walltime_us,
                            int64_t from)
{
    int64_t blocker;
    if (nd->total < slots || nd->held_by) {
        return SCHED_NEVER_US;
    }
    if (nd->n_spans == 0) { /* the usual case: what comes back stays free */
        int missing = slots - nd->free;
        int64_t t = missing <= 0            ? from
                    : missing <= nd->n_ends ? nd->ends[missing - 1]
                                            : SCHED_NEVER_US;
        return t > from ? t : from;
    }
    for (int64_t t = from; t < SCHED_NEVER_US; t = next_relief(nd, t)) {
        int64_t until = first_short(nd, slots, t, &blocker);
        if (until == SCHED_NEVER_US || (walltime_us && until - t >= walltime_us)) {
            return t;
        }
    }
    return SCHED_NEVER_US;
}

int64_t sched_node_gap(const struct sched_node *nd, int slots, int64_t now_us, int64_t *blocker)
{
    *blocker = nd->held_by;
    if (nd->free < slots || nd->held_by) {
        return 0;
    }
    int64_t until = first_short(nd, slots, now_us, blocker);
    return until == SCHED_NEVER_US ? SCHED_NEVER_US : until - now_us;
}
