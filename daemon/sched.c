/* sched.c: see sched.h. Slots are grouped by node once; each stage then looks at node totals only, and
 * at single slots only when it starts: a pass over S stages and N nodes costs S log S + (starts + 1) N
 * per kind of device, because after the first stage that finds no room nothing more is searched. */
#include "daemon/sched.h"

#include <stdlib.h>
#include <string.h>

static const char *const verdict_names[] = {
    [SCHED_START] = "start",     [SCHED_WAITS_EQUAL] = "waits_for_equal_stage",
    [SCHED_BACKOFF] = "backoff", [SCHED_NEVER] = "never_fits",
    [SCHED_DRAINED] = "drained", [SCHED_BUSY] = "slots_busy",
    [SCHED_BEHIND] = "behind",
};
_Static_assert(sizeof verdict_names / sizeof *verdict_names == SCHED_VERDICTS,
               "a name for every verdict");

const char *sched_verdict_name(enum sched_verdict v)
{
    return verdict_names[v];
}

struct node {
    int64_t id;
    enum sched_device device;
    bool drained;
    int total, free;
    size_t first, next; /* range in the sorted slots; next = first one not yet given away */
    size_t end;
};

int sched_compare(const struct sched_stage *a, const struct sched_stage *b)
{
    if (a->priority != b->priority) {
        return a->priority > b->priority ? -1 : 1;
    }
    if (a->age_us != b->age_us) {
        return a->age_us < b->age_us ? -1 : 1;
    }
    return (a->id > b->id) - (a->id < b->id);
}

static int by_order(const void *a, const void *b)
{
    return sched_compare(a, b);
}

static int by_node(const void *pa, const void *pb)
{
    const struct sched_slot *a = pa, *b = pb;
    if (a->device != b->device) {
        return a->device < b->device ? -1 : 1;
    }
    if (a->node != b->node) {
        return a->node < b->node ? -1 : 1;
    }
    return (a->id > b->id) - (a->id < b->id);
}

/* Groups sorted slots; returns the number of (node, device) groups. */
static size_t group_nodes(const struct sched_slot *slots, size_t n, struct node *nodes)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        struct node *last = count ? &nodes[count - 1] : NULL;
        if (!last || last->id != slots[i].node || last->device != slots[i].device) {
            last = &nodes[count++];
            *last = (struct node){.id = slots[i].node,
                                  .device = slots[i].device,
                                  .drained = slots[i].drained,
                                  .first = i,
                                  .next = i};
        }
        last->total++;
        last->free += !slots[i].busy;
        last->end = i + 1;
    }
    return count;
}

struct pass {
    const struct sched_slot *slots; /* sorted by node */
    struct node *nodes;
    size_t n_nodes;
    int64_t first_blocked[SCHED_DEVICES]; /* 0 = none */
    int64_t now_us;
};

static void start_on(struct pass *p, struct node *nd, struct sched_decision *d,
                     struct sched_result *r)
{
    d->verdict = SCHED_START;
    d->slot_at = r->n_slots;
    for (int need = d->slots; need > 0; nd->next++) {
        if (!p->slots[nd->next].busy) {
            r->slot_ids[r->n_slots++] = p->slots[nd->next].id;
            need--;
        }
    }
    nd->free -= d->slots;
}

static void decide(struct pass *p, const struct sched_stage *s, struct sched_decision *d,
                   struct sched_result *r)
{
    *d = (struct sched_decision){.stage = s->id, .slots = s->slots};
    if (s->waits_for) {
        d->verdict = SCHED_WAITS_EQUAL;
        d->blocker = s->waits_for;
        return;
    }
    if (s->not_before_us > p->now_us) {
        d->verdict = SCHED_BACKOFF;
        return;
    }
    /* Whoever is behind needs no search, but a stage that can never run must not be told "behind":
     * that costs a look at the totals. */
    struct node *best = NULL;
    int most = 0, most_drained = 0, most_free = 0;
    for (size_t i = 0; i < p->n_nodes; i++) {
        struct node *nd = &p->nodes[i];
        if (nd->device != s->device) {
            continue;
        }
        if (nd->drained) {
            most_drained = nd->total > most_drained ? nd->total : most_drained;
            continue;
        }
        most = nd->total > most ? nd->total : most;
        most_free = nd->free > most_free ? nd->free : most_free;
        /* Best fit: the node that is left with the fewest free slots keeps room for larger gangs. */
        if (nd->free >= s->slots && (!best || nd->free < best->free)) {
            best = nd;
        }
        if (p->first_blocked[s->device] && most >= s->slots) {
            break;
        }
    }
    d->free = most_free;
    d->most = most > most_drained ? most : most_drained;
    if (most < s->slots) {
        d->verdict = most_drained >= s->slots ? SCHED_DRAINED : SCHED_NEVER;
    } else if (p->first_blocked[s->device]) {
        d->verdict = SCHED_BEHIND;
        d->blocker = p->first_blocked[s->device];
    } else if (!best) {
        d->verdict = SCHED_BUSY;
        p->first_blocked[s->device] = s->id;
    } else {
        start_on(p, best, d, r);
    }
}

int sched_pass(struct sched_stage *stages, size_t n_stages, const struct sched_slot *slots,
               size_t n_slots, int64_t now_us, struct sched_result *r)
{
    *r = (struct sched_result){0};
    int rc = -1;
    struct sched_slot *sorted = calloc(n_slots + 1, sizeof *sorted);
    struct node *nodes = calloc(n_slots + 1, sizeof *nodes);
    r->at = calloc(n_stages + 1, sizeof *r->at);
    r->slot_ids = calloc(n_slots + 1, sizeof *r->slot_ids);
    if (!sorted || !nodes || !r->at || !r->slot_ids) {
        sched_result_finish(r);
        goto out;
    }
    if (n_slots) {
        memcpy(sorted, slots, n_slots * sizeof *sorted);
        qsort(sorted, n_slots, sizeof *sorted, by_node);
    }
    if (n_stages) {
        qsort(stages, n_stages, sizeof *stages, by_order);
    }
    struct pass p = {.slots = sorted, .nodes = nodes, .now_us = now_us};
    p.n_nodes = group_nodes(sorted, n_slots, nodes);
    for (size_t i = 0; i < n_stages; i++) {
        decide(&p, &stages[i], &r->at[i], r);
    }
    r->n = n_stages;
    rc = 0;
out:
    free(sorted);
    free(nodes);
    return rc;
}

void sched_result_finish(struct sched_result *r)
{
    free(r->at);
    free(r->slot_ids);
    *r = (struct sched_result){0};
}
