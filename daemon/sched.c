/* sched.c: see sched.h. Three things keep a pass short:
 *   - Nodes without promises are chained by how many slots they have free: placing a plain stage costs no search.
 *   - Stages that ask for the same are one `shape`. What a shape can get now is computed once and kept until
 *     something that it depends on changes; in a full cluster that is once.
 *   - Only so many promises are made (SCHED_PROMISES). */
#include "daemon/sched.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/sched_node.h"

static const char *const verdict_names[] = {
    [SCHED_START] = "start",
    [SCHED_DEPENDS] = "depends",
    [SCHED_WAITS_EQUAL] = "waits_for_equal_stage",
    [SCHED_BACKOFF] = "backoff",
    [SCHED_NEVER] = "never_fits",
    [SCHED_DRAINED] = "drained",
    [SCHED_BUSY] = "slots_busy",
    [SCHED_BEHIND] = "behind",
};
_Static_assert(sizeof verdict_names / sizeof *verdict_names == SCHED_VERDICTS,
               "a name for every verdict");

const char *sched_verdict_name(enum sched_verdict v)
{
    return verdict_names[v];
}

int sched_compare(const struct sched_stage *a, const struct sched_stage *b)
{
    if (a->effective != b->effective) {
        return a->effective > b->effective ? -1 : 1;
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

/* All that a stage asks for, but its walltime; and what that gets at present. */
struct shape {
    struct shape *next; /* of all, to be freed */
    const struct sched_stage *like;
    int nodes;
    bool plain;                   /* one node, any of the device */
    int fitting, fitting_drained; /* nodes that could ever hold a part of it */
    int most, most_drained;       /* slots of the largest node that is allowed */
    uint64_t seen, seen_open;     /* what the rest was computed for */
    int64_t gap;                  /* the longest walltime that may start now; 0 = none */
    int64_t blocker;              /* whose promise it is that ends the gap */
    int roomy;                    /* nodes with enough slots free, promised or not */
    int free;                     /* of the best node */
};

struct pass {
    const struct sched_slot *slots; /* sorted by node */
    struct sched_node *nodes;
    size_t n_nodes, first[SCHED_DEVICES], end[SCHED_DEVICES]; /* nodes of a device are neighbours */
    /* open[dev][f]: the nodes that take work, have f > 0 slots free and no promises */
    struct sched_node **open[SCHED_DEVICES];
    int most[SCHED_DEVICES];
    int promises[SCHED_DEVICES], blocked[SCHED_DEVICES];
    int64_t first_blocked[SCHED_DEVICES];
    struct shape **shapes; /* table with open addressing: mask + 1 entries, NULL = empty */
    struct shape *all_shapes;
    size_t mask;
    struct sched_node **picked;     /* scratch: n_nodes */
    int64_t *times, *when;          /* scratch: n_nodes */
    uint64_t changes, changes_open; /* of nodes with promises or held ones; of the others */
    int64_t now_us;
};

/* ---- chains ---- */

static bool is_open(const struct sched_node *nd)
{
    return !nd->drained && nd->free > 0 && nd->n_spans == 0 && !nd->held_by;
}

static void unchain(struct sched_node *nd)
{
    if (nd->link) {
        *nd->link = nd->chain;
        if (nd->chain) {
            nd->chain->link = nd->link;
        }
        nd->chain = NULL;
        nd->link = NULL;
    }
}

static void chain(struct pass *p, struct sched_node *nd)
{
    unchain(nd);
    if (is_open(nd)) {
        struct sched_node **head = &p->open[nd->device][nd->free];
        nd->chain = *head;
        nd->link = head;
        if (nd->chain) {
            nd->chain->link = &nd->chain;
        }
        *head = nd;
    }
}

/* `heads` has room for n_slots + SCHED_DEVICES of them: no device's largest node has more slots than there are of
 * the device. */
static void survey(struct pass *p, struct sched_node **heads)
{
    for (size_t i = 0; i < p->n_nodes; i++) {
        const struct sched_node *nd = &p->nodes[i];
        p->most[nd->device] = nd->total > p->most[nd->device] ? nd->total : p->most[nd->device];
        p->first[nd->device] = p->end[nd->device] ? p->first[nd->device] : i;
        p->end[nd->device] = i + 1;
    }
    for (int dev = 0; dev < SCHED_DEVICES; dev++) {
        p->open[dev] = heads;
        heads += p->most[dev] + 1;
    }
    for (size_t i = p->n_nodes; i-- > 0;) { /* the first node comes to be the first of its chain */
        chain(p, &p->nodes[i]);
    }
}

/* Best fit: the node that is left with the fewest free slots keeps room for larger gangs. NULL if there is none. */
static struct sched_node *best_open(const struct pass *p, const struct sched_stage *s)
{
    for (int f = s->slots; f <= p->most[s->device]; f++) {
        if (p->open[s->device][f]) {
            return p->open[s->device][f];
        }
    }
    return NULL;
}

/* ---- shapes ---- */

static bool allowed(const struct sched_node *nd, const struct sched_stage *s)
{
    size_t lo = 0, hi = s->n_only;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->only[mid] < nd->id) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return nd->slot_memory >= s->slot_memory &&
           (s->n_only == 0 || (lo < s->n_only && s->only[lo] == nd->id));
}

static bool suits(const struct sched_node *nd, const struct sched_stage *s)
{
    return !nd->drained && nd->total >= s->slots && allowed(nd, s);
}

static bool same_shape(const struct sched_stage *a, const struct sched_stage *b)
{
    return a->device == b->device && a->nodes == b->nodes && a->slots == b->slots &&
           a->slot_memory == b->slot_memory && a->n_only == b->n_only &&
           (a->n_only == 0 || memcmp(a->only, b->only, a->n_only * sizeof *a->only) == 0);
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static void shape_make(const struct pass *p, const struct sched_stage *s, struct shape *sh)
{
    *sh = (struct shape){.like = s, .nodes = s->nodes > 1 ? s->nodes : 1, .seen = UINT64_MAX};
    sh->plain = sh->nodes == 1 && s->slot_memory == 0 && s->n_only == 0;
    for (size_t i = p->first[s->device]; i < p->end[s->device]; i++) {
        const struct sched_node *nd = &p->nodes[i];
        int *most = nd->drained ? &sh->most_drained : &sh->most;
        if (allowed(nd, s)) {
            *most = nd->total > *most ? nd->total : *most;
            *(nd->drained ? &sh->fitting_drained : &sh->fitting) += nd->total >= s->slots;
        }
    }
}

/* NULL when out of memory. */
static struct shape *shape_of(struct pass *p, const struct sched_stage *s)
{
    uint64_t h = mix(mix(mix(mix(0, (uint64_t)s->device), (uint64_t)s->nodes), (uint64_t)s->slots),
                     (uint64_t)s->slot_memory);
    for (size_t i = 0; i < s->n_only; i++) {
        h = mix(h, (uint64_t)s->only[i]);
    }
    size_t at = h & p->mask;
    while (p->shapes[at] && !same_shape(p->shapes[at]->like, s)) {
        at = (at + 1) & p->mask;
    }
    if (!p->shapes[at]) {
        struct shape *sh = malloc(sizeof *sh);
        if (!sh) {
            return NULL;
        }
        shape_make(p, s, sh);
        sh->next = p->all_shapes;
        p->all_shapes = p->shapes[at] = sh;
    }
    return p->shapes[at];
}

static int descending(const void *pa, const void *pb)
{
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;
    return (a < b) - (a > b);
}

/* What the shape can get now. A plain one was offered the open nodes already, in vain: for it only the others count,
 * and `changes` tells of those. */
static void shape_look(struct pass *p, struct shape *sh)
{
    const struct sched_stage *s = sh->like;
    if (sh->seen == p->changes && (sh->plain || sh->seen_open == p->changes_open)) {
        return;
    }
    size_t n = 0;
    int64_t best = -1;
    sh->seen = p->changes;
    sh->seen_open = p->changes_open;
    sh->roomy = sh->free = 0;
    sh->blocker = 0;
    for (size_t i = p->first[s->device]; i < p->end[s->device]; i++) {
        struct sched_node *nd = &p->nodes[i];
        int64_t blocker, gap;
        if (!suits(nd, s)) {
            continue;
        }
        sh->free = nd->free > sh->free ? nd->free : sh->free;
        if (nd->free < s->slots) {
            continue;
        }
        sh->roomy++;
        p->times[n++] = gap = sched_node_gap(nd, s->slots, p->now_us, &blocker);
        if (blocker && gap > best) { /* who to name: in the way where the gap is longest */
            best = gap;
            sh->blocker = blocker;
        }
    }
    qsort(p->times, n, sizeof *p->times, descending);
    sh->gap = n >= (size_t)sh->nodes ? p->times[sh->nodes - 1] : 0;
}

/* ---- starts ---- */

static void start_on(struct pass *p, struct sched_node *nd, const struct sched_stage *s,
                     struct sched_result *r)
{
    for (int need = s->slots; need > 0; nd->next++) {
        if (!p->slots[nd->next].busy) {
            r->slot_ids[r->n_slots++] = p->slots[nd->next].id;
            need--;
        }
    }
    if (is_open(nd)) {
        p->changes_open++;
    } else {
        p->changes++;
    }
    sched_node_take(nd, s->slots, s->walltime_us ? p->now_us + s->walltime_us : 0);
    chain(p, nd);
}

/* Of the nodes that may start it now: first those where the least time is left for others, then the fullest. */
static int by_waste(const void *pa, const void *pb)
{
    const struct sched_node *a = *(struct sched_node *const *)pa,
                            *b = *(struct sched_node *const *)pb;
    bool open_a = a->n_spans == 0, open_b = b->n_spans == 0;
    if (open_a != open_b) {
        return open_a ? 1 : -1;
    }
    if (a->free != b->free) {
        return a->free < b->free ? -1 : 1;
    }
    return (a->id > b->id) - (a->id < b->id);
}

static void start_in_gaps(struct pass *p, const struct shape *sh, const struct sched_stage *s,
                          int64_t need_us, struct sched_result *r)
{
    size_t n = 0;
    for (size_t i = p->first[s->device]; i < p->end[s->device]; i++) {
        int64_t blocker;
        if (suits(&p->nodes[i], s) &&
            sched_node_gap(&p->nodes[i], s->slots, p->now_us, &blocker) >= need_us) {
            p->picked[n++] = &p->nodes[i];
        }
    }
    qsort(p->picked, n, sizeof *p->picked, by_waste);
    for (int i = 0; i < sh->nodes; i++) {
        start_on(p, p->picked[i], s, r);
    }
}

static bool start(struct pass *p, struct shape *sh, const struct sched_stage *s,
                  struct sched_result *r)
{
    int64_t need_us = s->walltime_us ? s->walltime_us : SCHED_NEVER_US;
    struct sched_node *nd = sh->plain ? best_open(p, s) : NULL;
    if (nd) {
        start_on(p, nd, s, r);
        return true;
    }
    shape_look(p, sh);
    if (sh->gap == 0 || sh->gap < need_us) {
        return false;
    }
    start_in_gaps(p, sh, s, need_us, r);
    return true;
}

/* ---- promises ---- */

/* Adds t to the `n` smallest so far, in order, of which there is room for `room`. */
static size_t keep_smallest(int64_t *times, size_t n, size_t room, int64_t t)
{
    if (n == room && t >= times[n - 1]) {
        return n;
    }
    size_t i = n < room ? n++ : n - 1;
    for (; i > 0 && times[i - 1] > t; i--) {
        times[i] = times[i - 1];
    }
    times[i] = t;
    return n;
}

/* The earliest time at which `nodes` suitable nodes have room together; they are then the first of p->picked.
 * A node's own earliest time is asked for again only when it is past: there are finitely many. */
static int64_t earliest(struct pass *p, const struct shape *sh, const struct sched_stage *s)
{
    size_t first = p->first[s->device], end = p->end[s->device], want = (size_t)sh->nodes;
    for (size_t i = first; i < end; i++) {
        p->when[i] = suits(&p->nodes[i], s) ? p->now_us - 1 : SCHED_NEVER_US;
    }
    for (int64_t t = p->now_us;;) {
        size_t n = 0, at_once = 0;
        for (size_t i = first; i < end; i++) {
            if (p->when[i] < t) {
                p->when[i] = sched_node_earliest(&p->nodes[i], s->slots, s->walltime_us, t);
            }
            if (p->when[i] < SCHED_NEVER_US) {
                n = keep_smallest(p->times, n, want, p->when[i]);
            }
            if (p->when[i] == t) {
                p->picked[at_once++] = &p->nodes[i];
            }
        }
        if (at_once >= want) {
            return t;
        }
        if (n < want) {
            return SCHED_NEVER_US;
        }
        t = p->times[want - 1];
    }
}

static int promise(struct pass *p, const struct shape *sh, const struct sched_stage *s,
                   struct sched_decision *d)
{
    int64_t t = earliest(p, sh, s);
    if (t < SCHED_NEVER_US) {
        struct sched_span span = {.from_us = t,
                                  .to_us = s->walltime_us ? t + s->walltime_us : SCHED_NEVER_US,
                                  .slots = s->slots,
                                  .stage = s->id};
        d->start_us = t;
        for (int i = 0; i < sh->nodes; i++) {
            if (sched_node_promise(p->picked[i], &span) != 0) {
                return -1;
            }
            chain(p, p->picked[i]);
        }
    } else {
        for (size_t i = p->first[s->device]; i < p->end[s->device]; i++) {
            struct sched_node *nd = &p->nodes[i];
            if (!nd->held_by && suits(nd, s)) {
                nd->held_by = s->id;
                chain(p, nd);
            }
        }
    }
    p->promises[s->device]++;
    p->changes++;
    p->changes_open++;
    return 0;
}

/* ---- the pass ---- */

/* 0, or -1 when out of memory. */
static int decide(struct pass *p, const struct sched_stage *s, struct sched_decision *d,
                  struct sched_result *r)
{
    struct shape *sh = shape_of(p, s);
    if (!sh) {
        return -1;
    }
    *d = (struct sched_decision){.stage = s->id,
                                 .slots = s->slots * sh->nodes,
                                 .most = sh->most,
                                 .fitting = sh->fitting,
                                 .slot_at = r->n_slots};
    if (s->depends_on) {
        d->verdict = SCHED_DEPENDS;
        d->blocker = s->depends_on;
    } else if (s->waits_for) {
        d->verdict = SCHED_WAITS_EQUAL;
        d->blocker = s->waits_for;
    } else if (s->not_before_us > p->now_us) {
        d->verdict = SCHED_BACKOFF;
    } else if (sh->fitting < sh->nodes) {
        bool drained = sh->fitting + sh->fitting_drained >= sh->nodes;
        d->verdict = drained ? SCHED_DRAINED : SCHED_NEVER;
        d->most = sh->most > sh->most_drained ? sh->most : sh->most_drained;
        d->fitting = sh->fitting + sh->fitting_drained;
    } else if (start(p, sh, s, r)) {
        d->verdict = SCHED_START;
    } else {
        bool behind = sh->roomy >= sh->nodes;
        d->verdict = behind ? SCHED_BEHIND : SCHED_BUSY;
        d->blocker = behind ? sh->blocker : p->first_blocked[s->device];
        d->gap_us = behind ? sh->gap : 0;
        d->free = sh->free;
        d->ahead = p->blocked[s->device]++;
        if (d->ahead == 0) {
            p->first_blocked[s->device] = s->id;
        }
        if (p->promises[s->device] < SCHED_PROMISES) {
            return promise(p, sh, s, d);
        }
    }
    return 0;
}

static void set_effective(struct sched_stage *s, const struct sched_options *o)
{
    int64_t waited = o->now_us - s->age_us;
    s->effective = s->priority;
    if (o->ageing_us > 0 && waited > 0) {
        s->effective += waited / o->ageing_us;
    }
}

static int run_pass(struct pass *p, struct sched_stage *stages, size_t n_stages,
                    const struct sched_options *o, struct sched_result *r)
{
    for (size_t i = 0; i < n_stages; i++) {
        set_effective(&stages[i], o);
    }
    if (n_stages) {
        qsort(stages, n_stages, sizeof *stages, by_order);
    }
    for (size_t i = 0; i < n_stages; i++) {
        if (decide(p, &stages[i], &r->at[i], r) != 0) {
            return -1;
        }
    }
    r->n = n_stages;
    return 0;
}

int sched_pass(struct sched_stage *stages, size_t n_stages, const struct sched_slot *slots,
               size_t n_slots, const struct sched_options *o, struct sched_result *r)
{
    struct pass p = {.now_us = o->now_us, .mask = 1};
    struct sched_slot *sorted = calloc(n_slots + 1, sizeof *sorted);
    int64_t *ends = calloc(n_slots + 1, sizeof *ends);
    struct sched_node **heads = calloc(n_slots + SCHED_DEVICES, sizeof(struct sched_node *));
    int rc = -1;
    *r = (struct sched_result){0};
    while (p.mask < 2 * n_stages) { /* never full */
        p.mask = 2 * p.mask + 1;
    }
    p.nodes = calloc(n_slots + 1, sizeof *p.nodes);
    p.shapes = calloc(p.mask + 1, sizeof(struct shape *));
    p.picked = calloc(n_slots + 1, sizeof(struct sched_node *));
    p.times = calloc(n_slots + 1, sizeof *p.times);
    p.when = calloc(n_slots + 1, sizeof *p.when);
    r->at = calloc(n_stages + 1, sizeof *r->at);
    r->slot_ids = calloc(n_slots + 1, sizeof *r->slot_ids);
    if (sorted && ends && heads && p.nodes && p.shapes && p.picked && p.times && p.when && r->at &&
        r->slot_ids) {
        if (n_slots) {
            memcpy(sorted, slots, n_slots * sizeof *sorted);
            qsort(sorted, n_slots, sizeof *sorted, by_node);
        }
        p.slots = sorted;
        p.n_nodes = sched_nodes_make(sorted, n_slots, o->now_us, p.nodes, ends);
        survey(&p, heads);
        rc = run_pass(&p, stages, n_stages, o, r);
    }
    if (rc != 0) {
        sched_result_finish(r);
    }
    sched_nodes_finish(p.nodes, p.n_nodes);
    while (p.all_shapes) {
        struct shape *next = p.all_shapes->next;
        free(p.all_shapes);
        p.all_shapes = next;
    }
    free(p.shapes);
    free(p.picked);
    free(p.times);
    free(p.when);
    free(heads);
    free(ends);
    free(sorted);
    return rc;
}

void sched_result_finish(struct sched_result *r)
{
    free(r->at);
    free(r->slot_ids);
    *r = (struct sched_result){0};
}
