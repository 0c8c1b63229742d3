/* preempt.c: see preempt.h. Nodes and attempts of one host or a few: everything is looked at. */
#include "daemon/preempt.h"

#include <stdlib.h>
#include <string.h>

struct choice {
    int64_t *ids; /* in the order in which they are asked */
    size_t n;
    int highest, slots;
    int64_t newest_us;
};

struct look {
    int need, priority;
    int64_t node;
    enum sched_device device;
    const struct preempt_slot *slot;
    size_t n_slots;
    const struct preempt_attempt *attempt;
    size_t n_attempts;
};

static int slots_of(const struct look *l, int64_t attempt)
{
    int n = 0;
    for (size_t i = 0; i < l->n_slots; i++) {
        const struct preempt_slot *s = &l->slot[i];
        n += s->node == l->node && s->device == l->device && s->attempt == attempt;
    }
    return n;
}

/* Lower priority first, then who ran the shortest. */
static int by_cheapness(const void *pa, const void *pb)
{
    const struct preempt_attempt *a = *(const struct preempt_attempt *const *)pa,
                                 *b = *(const struct preempt_attempt *const *)pb;
    if (a->priority != b->priority) {
        return a->priority < b->priority ? -1 : 1;
    }
    if (a->started_us != b->started_us) {
        return a->started_us > b->started_us ? -1 : 1;
    }
    return (a->id > b->id) - (a->id < b->id);
}

/* What must give way on l->node. *room: what is free or will be is enough. False if the node cannot do it. `scratch`
 * has room for all attempts. */
static bool look_at(const struct look *l, const struct preempt_attempt **scratch, struct choice *c,
                    bool *room)
{
    int have = slots_of(l, 0);
    size_t n = 0;
    for (size_t i = 0; i < l->n_attempts; i++) {
        const struct preempt_attempt *a = &l->attempt[i];
        int held = slots_of(l, a->id);
        if (a->stopping) {
            have += held;
        } else if (held > 0 && a->priority < l->priority) {
            scratch[n++] = a;
        }
    }
    *room = have >= l->need;
    qsort(scratch, n, sizeof(const struct preempt_attempt *), by_cheapness);
    size_t used = 0;
    for (; used < n && have < l->need; used++) {
        have += slots_of(l, scratch[used]->id);
    }
    if (have < l->need) {
        return false;
    }
    c->n = 0;
    c->slots = 0;
    c->highest = -1000000;
    c->newest_us = 0;
    for (size_t i = used; i-- > 0;) { /* the dearest first: may it stay after all? */
        int held = slots_of(l, scratch[i]->id);
        if (have - held >= l->need) {
            have -= held;
            continue;
        }
        c->ids[c->n++] = scratch[i]->id;
        c->slots += held;
        c->highest = scratch[i]->priority > c->highest ? scratch[i]->priority : c->highest;
        c->newest_us = scratch[i]->started_us > c->newest_us ? scratch[i]->started_us
                                                             : c->newest_us;
    }
    return true;
}

static bool is_better(const struct choice *a, const struct choice *b)
{
    if (a->highest != b->highest) {
        return a->highest < b->highest;
    }
    return a->slots != b->slots ? a->slots < b->slots : a->newest_us > b->newest_us;
}

struct picked {
    int64_t *nodes;
    int n;
};

static bool is_picked(const struct picked *p, int64_t node)
{
    for (int i = 0; i < p->n; i++) {
        if (p->nodes[i] == node) {
            return true;
        }
    }
    return false;
}

/* The node where the least must give way, and who that is: into `best` (room for all attempts). *node = 0: there is
 * none. */
static void best_node(struct look *l, const struct picked *p,
                      const struct preempt_attempt **scratch, struct choice *c, struct choice *best,
                      int64_t *node)
{
    bool room = false;
    *node = 0;
    for (size_t i = 0; i < l->n_slots && !room; i++) {
        bool seen = l->slot[i].drained || l->slot[i].device != l->device ||
                    is_picked(p, l->slot[i].node);
        for (size_t k = 0; k < i && !seen; k++) {
            seen = l->slot[k].node == l->slot[i].node && l->slot[k].device == l->device &&
                   !l->slot[k].drained;
        }
        l->node = l->slot[i].node;
        if (!seen && look_at(l, scratch, c, &room) && (room || !*node || is_better(c, best))) {
            struct choice swap = *best;
            *best = *c;
            *c = swap;
            *node = l->node;
        }
    }
    if (room) { /* nobody has to go there */
        best->n = 0;
    }
}

static void mark_stopping(struct preempt_attempt *l, size_t n, int64_t id)
{
    for (size_t i = 0; i < n; i++) {
        l[i].stopping |= l[i].id == id;
    }
}

size_t preempt_choose(int nodes, int slots, enum sched_device device, int priority,
                      const struct preempt_slot *slot, size_t n_slots,
                      const struct preempt_attempt *attempt, size_t n_attempts, int64_t *out)
{
    struct preempt_attempt *l = calloc(n_attempts + 1, sizeof *l);
    const struct preempt_attempt **scratch = calloc(n_attempts + 1,
                                                    sizeof(const struct preempt_attempt *));
    struct choice c = {.ids = calloc(n_attempts + 1, sizeof *c.ids)},
                  best = {.ids = calloc(n_attempts + 1, sizeof *c.ids)};
    struct picked p = {.nodes = calloc(n_slots + 1, sizeof *p.nodes)};
    struct look look = {.need = slots,
                        .priority = priority,
                        .device = device,
                        .slot = slot,
                        .n_slots = n_slots,
                        .attempt = l,
                        .n_attempts = n_attempts};
    size_t n = 0;
    bool found = l && scratch && c.ids && best.ids && p.nodes;
    if (found && n_attempts) {
        memcpy(l, attempt, n_attempts * sizeof *l);
    }
    for (int i = 0; i < nodes && found; i++) {
        int64_t node;
        best_node(&look, &p, scratch, &c, &best, &node);
        found = node != 0;
        for (size_t k = 0; found && k < best.n; k++) {
            out[n++] = best.ids[k];
            mark_stopping(l, n_attempts, best.ids[k]);
        }
        if (found) {
            p.nodes[p.n++] = node;
        }
    }
    free(p.nodes);
    free(best.ids);
    free(c.ids);
    free(scratch);
    free(l);
    return found ? n : 0;
}
