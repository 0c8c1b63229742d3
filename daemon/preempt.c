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

size_t preempt_choose(int slots, enum sched_device device, int priority,
                      const struct preempt_slot *slot, size_t n_slots,
                      const struct preempt_attempt *attempt, size_t n_attempts, int64_t *out)
{
    struct look l = {.need = slots,
                     .priority = priority,
                     .device = device,
                     .slot = slot,
                     .n_slots = n_slots,
                     .attempt = attempt,
                     .n_attempts = n_attempts};
    const struct preempt_attempt **scratch = calloc(n_attempts + 1,
                                                    sizeof(const struct preempt_attempt *));
    struct choice c = {.ids = calloc(n_attempts + 1, sizeof *c.ids)}, best = {0};
    bool found = false, room = false;
    for (size_t i = 0; i < n_slots && scratch && c.ids && !room; i++) {
        bool seen = slot[i].drained || slot[i].device != device;
        for (size_t k = 0; k < i && !seen; k++) {
            seen = slot[k].node == slot[i].node && slot[k].device == device;
        }
        l.node = slot[i].node;
        if (!seen && look_at(&l, scratch, &c, &room) && !room && (!found || is_better(&c, &best))) {
            best = c;
            found = true;
            memcpy(out, c.ids, c.n * sizeof *out);
        }
    }
    free(scratch);
    free(c.ids);
    return found && !room ? best.n : 0;
}
