/* sched.c: see sched.h. Slots are grouped by node once, and nodes are chained by how many slots they have free:
 * placing a stage costs as many looks as a node has slots, however many nodes there are. After the first
 * stage that finds no room nothing more is searched. */
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
    size_t next;        /* first of its sorted slots that was not yet given away */
    struct node *chain; /* next node with as many free */
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
                                  .next = i};
        }
        last->total++;
        last->free += !slots[i].busy;
    }
    return count;
}

struct pass {
    const struct sched_slot *slots; /* sorted by node */
    struct node *nodes;
    /* open[dev][f]: chain of the nodes that take work and have f > 0 slots free */
    struct node **open[SCHED_DEVICES];
    int most[SCHED_DEVICES], most_drained[SCHED_DEVICES]; /* slots of the largest node */
    int64_t first_blocked[SCHED_DEVICES];                 /* 0 = none */
    int64_t now_us;
};

static void put_open(struct pass *p, struct node *nd)
{
    if (!nd->drained && nd->free > 0) {
        nd->chain = p->open[nd->device][nd->free];
        p->open[nd->device][nd->free] = nd;
    }
}

/* Largest nodes and chains. `heads` has room for n_slots + SCHED_DEVICES of them: no device's largest node
 * has more slots than there are of the device. */
static void survey(struct pass *p, size_t n_nodes, struct node **heads)
{
    for (size_t i = 0; i < n_nodes; i++) {
        const struct node *nd = &p->nodes[i];
        int *most = nd->drained ? &p->most_drained[nd->device] : &p->most[nd->device];
        *most = nd->total > *most ? nd->total : *most;
    }
    for (int dev = 0; dev < SCHED_DEVICES; dev++) {
        p->open[dev] = heads;
        heads += p->most[dev] + 1;
    }
    for (size_t i = n_nodes; i-- > 0;) { /* the first node comes to be the first of its chain */
        put_open(p, &p->nodes[i]);
    }
}

/* Best fit: the node that is left with the fewest free slots keeps room for larger gangs. Takes it out of its
 * chain; NULL if there is none. */
static struct node *take_best_fit(struct pass *p, const struct sched_stage *s)
{
    for (int f = s->slots; f <= p->most[s->device]; f++) {
        struct node *nd = p->open[s->device][f];
        if (nd) {
            p->open[s->device][f] = nd->chain;
            return nd;
        }
    }
    return NULL;
}

static int most_free(const struct pass *p, enum sched_device dev)
{
    int f = p->most[dev];
    while (f > 0 && !p->open[dev][f]) {
        f--;
    }
    return f;
}

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
    put_open(p, nd);
}

static void decide(struct pass *p, const struct sched_stage *s, struct sched_decision *d,
                   struct sched_result *r)
{
    enum sched_device dev = s->device;
    *d = (struct sched_decision){.stage = s->id, .slots = s->slots, .most = p->most[dev]};
    if (s->waits_for) {
        d->verdict = SCHED_WAITS_EQUAL;
        d->blocker = s->waits_for;
    } else if (s->not_before_us > p->now_us) {
        d->verdict = SCHED_BACKOFF;
    } else if (p->most[dev] < s->slots) {
        d->verdict = p->most_drained[dev] >= s->slots ? SCHED_DRAINED : SCHED_NEVER;
        d->most = p->most[dev] > p->most_drained[dev] ? p->most[dev] : p->most_drained[dev];
    } else if (p->first_blocked[dev]) {
        d->verdict = SCHED_BEHIND;
        d->blocker = p->first_blocked[dev];
    } else {
        struct node *nd = take_best_fit(p, s);
        if (nd) {
            start_on(p, nd, d, r);
        } else {
            d->verdict = SCHED_BUSY;
            d->free = most_free(p, dev);
            p->first_blocked[dev] = s->id;
        }
    }
}

int sched_pass(struct sched_stage *stages, size_t n_stages, const struct sched_slot *slots,
               size_t n_slots, int64_t now_us, struct sched_result *r)
{
    *r = (struct sched_result){0};
    int rc = -1;
    struct sched_slot *sorted = calloc(n_slots + 1, sizeof *sorted);
    struct node *nodes = calloc(n_slots + 1, sizeof *nodes);
    struct node **heads = calloc(n_slots + SCHED_DEVICES, sizeof *heads);
    r->at = calloc(n_stages + 1, sizeof *r->at);
    r->slot_ids = calloc(n_slots + 1, sizeof *r->slot_ids);
    if (!sorted || !nodes || !heads || !r->at || !r->slot_ids) {
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
    survey(&p, group_nodes(sorted, n_slots, nodes), heads);
    for (size_t i = 0; i < n_stages; i++) {
        decide(&p, &stages[i], &r->at[i], r);
    }
    r->n = n_stages;
    rc = 0;
out:
    free(sorted);
    free(heads);
    free(nodes);
    return rc;
}

void sched_result_finish(struct sched_result *r)
{
    free(r->at);
    free(r->slot_ids);
    *r = (struct sched_result){0};
}
