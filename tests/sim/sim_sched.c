/* sim_sched: drives the daemon's scheduler with a synthetic cluster in simulated time and checks at every pass what it
 * promises:
 *   - a slot is given to one stage at a time; a gang has all its slots, on nodes it may use, or none
 *   - "slots are busy" is true: there are not enough nodes with room
 *   - nobody is delayed by a stage behind it: with everything behind a stage left out, its decision is the same
 *   - the first promise on a device never moves back while nothing that sorts before its stage came in
 *   - who waits without a date is not overtaken on any node that it could use
 *   - nobody starves: all stages have run at the end
 * Exit status 1 and a line that says what, when and with which seed at the first thing that is not so. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/sched.h"

enum { SECOND = 1000000, PREFIX_CHECKS = 2 };

struct sim_options {
    long nodes, per_node, stages, seed, arrivals_s, endless_percent;
    bool quiet;
};

/* A stage's whole story. */
struct story {
    struct sched_stage ask;
    int64_t arrives_us, runs_us; /* how long it will really take; at most its walltime */
    int64_t starts_us, ends_us;  /* 0 = not yet */
    int64_t *slots;              /* ids, once it started */
    int n_slots;
};

struct sim {
    struct sim_options o;
    uint64_t random;
    int64_t now_us;
    struct story *all;
    size_t n, arrived, ended;
    struct sched_slot *slots; /* id = index + 1 */
    size_t n_slots;
    struct story **holder;     /* by slot */
    struct sched_stage *queue; /* rebuilt for each pass */
    int64_t only[4];           /* the nodes that some stages insist on */
    struct {
        int64_t stage, date_us;
        size_t arrived; /* stories that had come when it was given */
    } first[SCHED_DEVICES];
    int64_t passes, starts, overtakes, busy_us;
    double pass_ms, pass_max_ms;
};

static uint64_t draw(struct sim *s) /* xorshift64*: Vigna, 2016 */
{
    s->random ^= s->random >> 12;
    s->random ^= s->random << 25;
    s->random ^= s->random >> 27;
    return s->random * 0x2545f4914f6cdd1du;
}

static int64_t between(struct sim *s, int64_t lo, int64_t hi)
{
    return lo + (int64_t)(draw(s) % (uint64_t)(hi - lo + 1));
}

static bool wrong(const struct sim *s, int64_t stage, const char *what)
{
    fprintf(stderr, "sim_sched: seed %ld, pass %lld, time %lld us, stage %lld: %s\n", s->o.seed,
            (long long)s->passes, (long long)s->now_us, (long long)stage, what);
    return false;
}

/* ---- the cluster and its work ---- */

static void make_story(struct sim *s, size_t i)
{
    static const int sizes[] = {1, 1, 1, 1, 2, 2, 2, 4, 4, 8};
    struct story *t = &s->all[i];
    int64_t walltime = between(s, 60, 60) * SECOND << between(s, 0, 10); /* a minute to 17 hours */
    int slots = sizes[draw(s) % 10];
    *t = (struct story){.ask = {.id = (int64_t)i + 1,
                                .priority = draw(s) % 20 == 0 ? (int)between(s, -2, 2) : 0,
                                .slots = slots < s->o.per_node ? slots : (int)s->o.per_node,
                                .device = draw(s) % 10 ? SCHED_CUDA : SCHED_CPU,
                                .walltime_us = walltime}};
    t->runs_us = draw(s) % 20 == 0 ? walltime : walltime / 100 * between(s, 5, 100) + 1;
    t->arrives_us = (int64_t)i < (int64_t)s->n / 2 || s->o.arrivals_s == 0
                        ? 0
                        : between(s, 0, s->o.arrivals_s) * SECOND;
    if (between(s, 1, 100) <= s->o.endless_percent) {
        t->ask.walltime_us = 0;
    }
    if (draw(s) % 25 == 0) {
        t->ask.nodes = (int)between(s, 2, 4);
    } else if (draw(s) % 25 == 0) {
        t->ask.slot_memory = (int64_t)1 << 30;
    } else if (draw(s) % 25 == 0) {
        t->ask.device = SCHED_CUDA;
        t->ask.only = s->only;
        t->ask.n_only = 4;
    }
}

static int by_arrival(const void *pa, const void *pb)
{
    const struct story *a = pa, *b = pb;
    return a->arrives_us != b->arrives_us ? (a->arrives_us < b->arrives_us ? -1 : 1)
                                          : (a->ask.id > b->ask.id) - (a->ask.id < b->ask.id);
}

static bool make(struct sim *s)
{
    s->n = (size_t)s->o.stages;
    s->n_slots = (size_t)(s->o.nodes * s->o.per_node);
    s->all = calloc(s->n, sizeof *s->all);
    s->queue = calloc(s->n, sizeof *s->queue);
    s->slots = calloc(s->n_slots, sizeof *s->slots);
    s->holder = calloc(s->n_slots, sizeof(struct story *));
    if (!s->all || !s->queue || !s->slots || !s->holder) {
        return false;
    }
    s->random = (uint64_t)s->o.seed * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < 4; i++) { /* GPU nodes, ascending */
        s->only[i] = s->o.nodes / 5 + 1 + i;
    }
    for (size_t i = 0; i < s->n_slots; i++) { /* every fifth node has CPUs only */
        int64_t node = (int64_t)i / s->o.per_node + 1;
        s->slots[i] = (struct sched_slot){.id = (int64_t)i + 1,
                                          .node = node,
                                          .device = node <= s->o.nodes / 5 ? SCHED_CPU : SCHED_CUDA,
                                          .memory = (int64_t)1 << (node % 2 ? 30 : 29)};
    }
    for (size_t i = 0; i < s->n; i++) {
        make_story(s, i);
    }
    qsort(s->all, s->n, sizeof *s->all, by_arrival);
    for (size_t i = 0; i < s->n; i++) { /* ids in the order of arrival, as a database gives them */
        s->all[i].ask.id = (int64_t)i + 1;
        s->all[i].ask.age_us = s->all[i].arrives_us;
    }
    return true;
}

static void finish(struct sim *s)
{
    for (size_t i = 0; s->all && i < s->n; i++) {
        free(s->all[i].slots);
    }
    free(s->all);
    free(s->queue);
    free(s->slots);
    free(s->holder);
}

/* ---- checks ---- */

static bool may_use(const struct sched_stage *a, const struct sched_slot *slot)
{
    bool named = a->n_only == 0;
    for (size_t i = 0; i < a->n_only; i++) {
        named |= a->only[i] == slot->node;
    }
    return named && slot->device == a->device && slot->memory >= a->slot_memory && !slot->drained;
}

/* The slots of one start: each free until now, all allowed, `slots` of them on each of `nodes` nodes. */
static bool check_start(struct sim *s, const struct story *t, const int64_t *ids)
{
    int nodes = t->ask.nodes > 1 ? t->ask.nodes : 1;
    for (int i = 0; i < nodes * t->ask.slots; i++) {
        const struct sched_slot *slot = &s->slots[ids[i] - 1];
        const struct sched_slot *head = &s->slots[ids[i / t->ask.slots * t->ask.slots] - 1];
        if (slot->busy || s->holder[ids[i] - 1]) {
            return wrong(s, t->ask.id, "was given a slot that is taken");
        }
        if (!may_use(&t->ask, slot)) {
            return wrong(s, t->ask.id, "was given a slot that it may not use");
        }
        if (slot->node != head->node) {
            return wrong(s, t->ask.id, "is not on as many nodes as it asked for");
        }
        for (int k = 0; k < i / t->ask.slots; k++) {
            if (s->slots[ids[k * t->ask.slots] - 1].node == slot->node) {
                return wrong(s, t->ask.id, "has one node twice");
            }
        }
    }
    return true;
}

static int nodes_with_room(const struct sim *s, const struct sched_stage *a)
{
    int nodes = 0;
    for (size_t i = 0; i < s->n_slots; i += (size_t)s->o.per_node) {
        int room = 0;
        for (size_t k = i; k < i + (size_t)s->o.per_node; k++) {
            room += !s->slots[k].busy && may_use(a, &s->slots[k]);
        }
        nodes += room >= a->slots;
    }
    return nodes;
}

/* Nodes that a stage waits for without a date go to nobody behind it. `waiting`: such stages, so far. */
static bool check_overtaking(struct sim *s, const struct sched_stage *const *waiting, size_t n,
                             const struct story *t, const int64_t *ids)
{
    for (int i = 0; i < t->ask.slots * (t->ask.nodes > 1 ? t->ask.nodes : 1); i++) {
        for (size_t k = 0; k < n; k++) {
            if (may_use(waiting[k], &s->slots[ids[i] - 1])) {
                return wrong(s, t->ask.id, "took a slot from one that waits for it without a date");
            }
        }
    }
    return true;
}

/* After the starts: the verdicts of those that stay. */
static bool check_waiting(struct sim *s, const struct sched_result *r)
{
    bool seen[SCHED_DEVICES] = {false};
    size_t looked = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct sched_decision *d = &r->at[i];
        const struct story *t = &s->all[d->stage - 1];
        int dev = (int)t->ask.device, nodes = t->ask.nodes > 1 ? t->ask.nodes : 1;
        if (d->verdict == SCHED_START) {
            continue;
        }
        if (d->verdict != SCHED_BUSY && d->verdict != SCHED_BEHIND) {
            return wrong(s, d->stage, "waits for something that is not in this simulation");
        }
        /* of some: it costs more than the pass */
        if (d->verdict == SCHED_BUSY && looked++ < 50 && nodes_with_room(s, &t->ask) >= nodes) {
            return wrong(s, d->stage, "is said to find no slots, and there are some");
        }
        if (d->verdict == SCHED_BEHIND && d->blocker == d->stage) {
            return wrong(s, d->stage, "stands in its own way");
        }
        if (!seen[dev]) {
            seen[dev] = true;
            if (s->first[dev].stage == d->stage && s->first[dev].arrived == s->arrived &&
                s->first[dev].date_us &&
                (d->start_us == 0 || d->start_us > s->first[dev].date_us)) {
                return wrong(s, d->stage, "was first and its promise moved back");
            }
            s->first[dev].stage = d->stage;
            s->first[dev].date_us = d->start_us;
            s->first[dev].arrived = s->arrived;
        }
    }
    return true;
}

/* With all that sorts behind it left out, a stage's decision is the same. `queue` is sorted by the pass. */
static bool check_prefix(struct sim *s, const struct sched_result *r, struct sched_stage *queue)
{
    for (int k = 0; k < PREFIX_CHECKS && r->n > 1; k++) {
        size_t i = draw(s) % r->n;
        struct sched_options o = {.now_us = s->now_us};
        struct sched_result part;
        if (sched_pass(queue, i + 1, s->slots, s->n_slots, &o, &part) != 0) {
            return wrong(s, 0, "out of memory");
        }
        const struct sched_decision *a = &r->at[i], *b = &part.at[i];
        bool same = a->stage == b->stage && a->verdict == b->verdict && a->start_us == b->start_us;
        sched_result_finish(&part);
        if (!same) {
            return wrong(s, a->stage, "was influenced by a stage behind it");
        }
    }
    return true;
}

/* ---- time ---- */

static bool begin(struct sim *s, struct story *t, const int64_t *ids)
{
    int64_t life = t->ask.walltime_us && t->runs_us > t->ask.walltime_us ? t->ask.walltime_us
                                                                         : t->runs_us;
    t->n_slots = t->ask.slots * (t->ask.nodes > 1 ? t->ask.nodes : 1);
    t->slots = malloc((size_t)t->n_slots * sizeof *t->slots);
    if (!t->slots) {
        return wrong(s, t->ask.id, "out of memory");
    }
    memcpy(t->slots, ids, (size_t)t->n_slots * sizeof *t->slots);
    t->starts_us = s->now_us;
    t->ends_us = s->now_us + life;
    for (int i = 0; i < t->n_slots; i++) {
        struct sched_slot *slot = &s->slots[ids[i] - 1];
        slot->busy = true;
        slot->until_us = t->ask.walltime_us ? s->now_us + t->ask.walltime_us : 0;
        s->holder[ids[i] - 1] = t;
    }
    s->busy_us += life * t->n_slots;
    s->starts++;
    return true;
}

static void end(struct sim *s, struct story *t)
{
    for (int i = 0; i < t->n_slots; i++) {
        s->slots[t->slots[i] - 1].busy = false;
        s->slots[t->slots[i] - 1].until_us = 0;
        s->holder[t->slots[i] - 1] = NULL;
    }
    free(t->slots);
    t->slots = NULL;
    t->n_slots = 0;
    s->ended++;
}

static bool pass(struct sim *s)
{
    struct sched_options o = {.now_us = s->now_us};
    struct sched_result r;
    struct timespec a, b;
    const struct sched_stage *dateless[SCHED_DEVICES * SCHED_PROMISES];
    size_t n = 0, n_dateless = 0, blocked[SCHED_DEVICES] = {0};
    bool waits = false, ok = true;
    for (size_t i = 0; i < s->arrived; i++) {
        if (!s->all[i].ends_us) {
            s->queue[n++] = s->all[i].ask;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (sched_pass(s->queue, n, s->slots, s->n_slots, &o, &r) != 0) {
        return wrong(s, 0, "out of memory");
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    double ms = (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6;
    s->passes++;
    s->pass_ms += ms;
    s->pass_max_ms = ms > s->pass_max_ms ? ms : s->pass_max_ms;
    ok = check_prefix(s, &r, s->queue);
    for (size_t i = 0; i < r.n && ok; i++) {
        struct story *t = &s->all[r.at[i].stage - 1];
        const int64_t *ids = r.slot_ids + r.at[i].slot_at;
        if (r.at[i].verdict == SCHED_START) {
            s->overtakes += waits;
            ok = check_start(s, t, ids) && check_overtaking(s, dateless, n_dateless, t, ids) &&
                 begin(s, t, ids);
        } else {
            waits = true;
            if (blocked[t->ask.device]++ < SCHED_PROMISES && r.at[i].start_us == 0) {
                dateless[n_dateless++] = &t->ask;
            }
        }
    }
    ok = ok && check_waiting(s, &r);
    sched_result_finish(&r);
    return ok;
}

static bool run(struct sim *s)
{
    while (s->ended < s->n) {
        while (s->arrived < s->n && s->all[s->arrived].arrives_us <= s->now_us) {
            s->arrived++;
        }
        for (size_t i = 0; i < s->arrived; i++) {
            if (s->all[i].n_slots && s->all[i].ends_us <= s->now_us) {
                end(s, &s->all[i]);
            }
        }
        if (s->ended < s->n && !pass(s)) {
            return false;
        }
        int64_t next = s->arrived < s->n ? s->all[s->arrived].arrives_us : INT64_MAX;
        for (size_t i = 0; i < s->arrived; i++) {
            const struct story *t = &s->all[i];
            next = t->n_slots && t->ends_us < next ? t->ends_us : next;
        }
        if (next == INT64_MAX && s->ended < s->n) {
            return wrong(s, 0, "nothing runs any more, and somebody still waits");
        }
        if (s->ended < s->n) {
            s->now_us = next > s->now_us ? next : s->now_us;
        }
    }
    return true;
}

/* ---- program ---- */

static int usage(const char *what)
{
    fprintf(stderr,
            "sim_sched: %s\n"
            "usage: sim_sched [--nodes N] [--per-node N] [--stages N] [--arrivals SECONDS]\n"
            "                 [--endless PERCENT] [--seed N] [--seeds COUNT] [--quiet]\n",
            what);
    return 2;
}

int main(int argc, char **argv)
{
    struct sim_options o = {.nodes = 40,
                            .per_node = 8,
                            .stages = 1000,
                            .seed = 1,
                            .arrivals_s = 86400,
                            .endless_percent = 5};
    long seeds = 1;
    for (int i = 1; i < argc; i++) {
        long *to = strcmp(argv[i], "--nodes") == 0      ? &o.nodes
                   : strcmp(argv[i], "--per-node") == 0 ? &o.per_node
                   : strcmp(argv[i], "--stages") == 0   ? &o.stages
                   : strcmp(argv[i], "--arrivals") == 0 ? &o.arrivals_s
                   : strcmp(argv[i], "--endless") == 0  ? &o.endless_percent
                   : strcmp(argv[i], "--seed") == 0     ? &o.seed
                   : strcmp(argv[i], "--seeds") == 0    ? &seeds
                                                        : NULL;
        char *rest = NULL;
        if (strcmp(argv[i], "--quiet") == 0) {
            o.quiet = true;
        } else if (!to || i + 1 == argc) {
            return usage(argv[i]);
        } else {
            errno = 0;
            *to = strtol(argv[++i], &rest, 10);
            if (errno || *rest || *to < 0 || *to > 1000000) {
                return usage(argv[i]);
            }
        }
    }
    if (o.nodes < 25 || o.per_node < 1 || o.stages < 1) {
        return usage(
            "at least 25 nodes (gangs ask for up to 4 of those with CPUs), 1 slot, 1 stage");
    }
    for (long k = 0; k < seeds; k++, o.seed++) {
        struct sim s = {.o = o};
        bool ok = make(&s) && run(&s);
        if (ok && !o.quiet) {
            printf("seed %ld: %lld passes, %lld starts, %lld of them past a waiting stage; slots "
                   "in use %.1f %% of %.1f days; pass mean %.2f ms, max %.2f ms\n",
                   o.seed, (long long)s.passes, (long long)s.starts, (long long)s.overtakes,
                   100.0 * (double)s.busy_us / ((double)s.now_us * (double)s.n_slots),
                   (double)s.now_us / 86400e6, s.pass_ms / (double)s.passes, s.pass_max_ms);
            fflush(stdout);
        }
        finish(&s);
        if (!ok) {
            return 1;
        }
    }
    return 0;
}
