/* plan.c: the scheduler's surroundings: the snapshot out of the store, the decisions into it. The decisions
 * themselves are sched.c's, the words for them explain.c's. */
#include "daemon/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/attempt.h"
#include "daemon/log.h"
#include "daemon/preempt.h"
#include "daemon/remote.h"
#include "daemon/verdict.h"

/* From the word to give way to SIGKILL. */
enum { PREEMPT_GRACE_MS = 60000 };

static enum sched_device device_of(const char *name)
{
    return strcmp(name, "cuda") == 0 ? SCHED_CUDA : SCHED_CPU;
}

void snapshot_finish(struct snapshot *s)
{
    sched_result_finish(&s->result);
    while (s->only) {
        struct plan_only *next = s->only->next;
        free(s->only);
        s->only = next;
    }
    free(s->by_name);
    free(s->nodes);
    free(s->cand);
    free(s->stages);
    free(s->slots);
    *s = (struct snapshot){0};
}

int64_t plan_lease_us(int64_t walltime_s)
{
    return walltime_s ? walltime_s * 1000000 + (int64_t)WALLTIME_GRACE_MS * 1000 : 0;
}

/* When a live attempt's slots come back at the latest; 0 = nobody knows. */
struct lease {
    int64_t attempt, until_us;
};

static int by_attempt(const void *pa, const void *pb)
{
    const struct lease *a = pa, *b = pb;
    return (a->attempt > b->attempt) - (a->attempt < b->attempt);
}

static struct lease *leases(const struct daemon *d, size_t *n)
{
    *n = 0;
    for (const struct attempt *a = d->attempts; a; a = a->next) {
        ++*n;
    }
    struct lease *l = calloc(*n + 1, sizeof *l), *at = l;
    for (const struct attempt *a = d->attempts; a && l; a = a->next) {
        int64_t whole_us = plan_lease_us(a->walltime_s);
        *at++ = (struct lease){a->id, whole_us ? a->started_us + whole_us : 0};
    }
    if (l) {
        qsort(l, *n, sizeof *l, by_attempt);
    }
    return l;
}

static int64_t until(const struct lease *l, size_t n, int64_t attempt)
{
    struct lease key = {.attempt = attempt};
    const struct lease *found = attempt ? bsearch(&key, l, n, sizeof *l, by_attempt) : NULL;
    return found ? found->until_us : 0;
}

int snapshot_slots(struct daemon *d, struct snapshot *s, struct dha_err *e)
{
    size_t n_leases;
    struct lease *l = leases(d, &n_leases);
    struct store_slot_held *slots = NULL;
    size_t n = 0;
    int rc = -1;
    if (store_slots_held(d->store, &slots, &n, e) != 0 ||
        store_nodes(d->store, &s->nodes, &s->n_nodes, e) != 0) {
        goto out;
    }
    bool waited_for = remote_any(d);
    for (size_t k = 0; k < s->n_nodes && waited_for; k++) {
        if (!s->nodes[k].drained && remote_is_silent(d, s->nodes[k].name)) {
            s->nodes[k].drained = true;
            snprintf(s->nodes[k].reason, sizeof s->nodes[k].reason, "it does not answer");
        }
    }
    s->slots = calloc(n + 1, sizeof *s->slots);
    if (!s->slots || !l) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    for (size_t i = 0, k = 0; i < n; i++) { /* both by the node's id */
        while (k < s->n_nodes && s->nodes[k].id < slots[i].node) {
            k++;
        }
        bool drained = k < s->n_nodes && s->nodes[k].id == slots[i].node && s->nodes[k].drained;
        s->slots[i] = (struct sched_slot){.id = slots[i].id,
                                          .node = slots[i].node,
                                          .device = device_of(slots[i].device),
                                          .memory = slots[i].memory,
                                          .until_us = until(l, n_leases, slots[i].attempt),
                                          .busy = slots[i].attempt != 0,
                                          .drained = drained};
        s->n_free += !drained && slots[i].attempt == 0;
    }
    s->n_slots = n;
    rc = 0;
out:
    free(slots);
    free(l);
    return rc;
}

/* When a back-off ends is in wall-clock time. Much more left than the longest one there is: the clock was set back, nobody
 * knows by how much, and an hour back must not be an hour's wait. Then there is none. */
static int64_t backoff_until(const struct store_candidate *c, int64_t now)
{
    return c->not_before_us > now + 2 * VERDICT_BACKOFF_MAX_US ? 0 : c->not_before_us;
}

static struct sched_stage stage_of(const struct store_candidate *c, int64_t now)
{
    int nodes = c->nodes > 1 ? c->nodes : 1;
    return (struct sched_stage){.id = c->stage,
                                .priority = c->priority,
                                .age_us = c->submitted_us,
                                .nodes = nodes,
                                .slots = c->slots / nodes,
                                .slot_memory = c->slot_memory,
                                .device = device_of(c->device),
                                .walltime_us = plan_lease_us(c->walltime_s),
                                .depends_on = c->depends_on,
                                .waits_for = c->waits_for,
                                .not_before_us = backoff_until(c, now)};
}

static int by_name(const void *pa, const void *pb)
{
    const struct store_node *a = *(struct store_node *const *)pa,
                            *b = *(struct store_node *const *)pb;
    return strcmp(a->name, b->name);
}

/* The node of that name (n bytes of text); NULL if it is not there. */
static const struct store_node *node_named(const struct snapshot *s, const char *text, size_t n)
{
    struct store_node key, *want = &key, **found;
    if (n >= sizeof key.name) {
        return NULL;
    }
    memcpy(key.name, text, n);
    key.name[n] = '\0';
    found = bsearch(&want, s->by_name, s->n_nodes, sizeof want, by_name);
    return found ? *found : NULL;
}

static int sort_names(struct snapshot *s, struct dha_err *e)
{
    s->by_name = calloc(s->n_nodes + 1, sizeof(struct store_node *));
    if (!s->by_name) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < s->n_nodes; i++) {
        s->by_name[i] = &s->nodes[i];
    }
    qsort(s->by_name, s->n_nodes, sizeof(struct store_node *), by_name);
    return 0;
}

static int ascending(const void *pa, const void *pb)
{
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;
    return (a > b) - (a < b);
}

/* The stage may use only the nodes named ("a b"). One that is not there is no node; if none is, none will do. */
static int use_only(struct snapshot *s, const char *names, struct sched_stage *st,
                    struct dha_err *e)
{
    if (names[0] == '\0') {
        return 0;
    }
    if (!s->by_name && sort_names(s, e) != 0) {
        return -1;
    }
    struct plan_only *o = calloc(1, sizeof *o + (strlen(names) / 2 + 1) * sizeof o->id[0]);
    if (!o) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    o->next = s->only;
    s->only = o;
    for (const char *p = names; *p; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        const struct store_node *node = node_named(s, p, len);
        if (node) {
            o->id[o->n++] = node->id;
        }
        p += len;
    }
    qsort(o->id, o->n, sizeof o->id[0], ascending);
    o->n += o->n == 0; /* id 0: of no node */
    st->only = o->id;
    st->n_only = o->n;
    return 0;
}

static int load_only(struct daemon *d, struct snapshot *s, const struct store_candidate *c,
                     struct sched_stage *st, struct dha_err *e)
{
    char *names;
    if (!c->named) {
        return 0;
    }
    if (store_job_node_names(d->store, c->job, &names, e) != 0) {
        return -1;
    }
    int rc = use_only(s, names, st, e);
    free(names);
    return rc;
}

#ifdef DHA_FAILPOINTS
static int by_stage(const void *pa, const void *pb)
{
    const struct store_candidate *a = pa, *b = pb;
    return (a->stage > b->stage) - (a->stage < b->stage);
}

static bool same_candidates(struct store_candidate *a, size_t n_a, struct store_candidate *b,
                            size_t n_b)
{
    if (n_a != n_b || n_a == 0) {
        return n_a == n_b;
    }
    qsort(a, n_a, sizeof *a, by_stage);
    qsort(b, n_b, sizeof *b, by_stage);
    return memcmp(a, b, n_a * sizeof *a) == 0;
}

/* What the store keeps in memory is compared with its tables: at every pass of the tests that run dhad-failpoints. Where
 * somebody else wrote between the two looks the second time tells. */
static void check_candidates(struct daemon *d)
{
    bool same = false;
    for (int i = 0; i < 2 && !same; i++) {
        struct store_candidate *kept = NULL, *fresh = NULL;
        struct dha_err e = {0};
        size_t n_kept, n;
        same = store_candidates(d->store, &kept, &n_kept, &e) != 0 ||
               store_candidates_afresh(d->store, &fresh, &n, &e) != 0 ||
               same_candidates(kept, n_kept, fresh, n);
        free(fresh);
        free(kept);
    }
    if (!same) {
        log_error("the ready stages in memory are not those of the tables");
        abort();
    }
}

#else
static void check_candidates(const struct daemon *d)
{
    (void)d;
}
#endif

static int load_stages(struct daemon *d, struct snapshot *s, int64_t now, struct dha_err *e)
{
    if (store_candidates(d->store, &s->cand, &s->n, e) != 0) {
        return -1;
    }
    s->n_cand = s->n;
    check_candidates(d);
    s->stages = calloc(s->n + 1, sizeof *s->stages);
    if (!s->stages) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < s->n; i++) {
        s->stages[i] = stage_of(&s->cand[i], now);
        if (load_only(d, s, &s->cand[i], &s->stages[i], e) != 0) {
            return -1;
        }
    }
    return 0;
}

int snapshot_decide(struct daemon *d, struct snapshot *s, int64_t now, struct dha_err *e)
{
    struct sched_options o = {.now_us = now, .ageing_us = d->ageing_us};
    if (sched_pass(s->stages, s->n, s->slots, s->n_slots, &o, &s->result) != 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return 0;
}

int snapshot_take(struct daemon *d, struct snapshot *s, struct dha_err *e)
{
    return snapshot_slots(d, s, e) == 0 && load_stages(d, s, now_us(), e) == 0 ? 0 : -1;
}

const struct store_candidate *snapshot_candidate(const struct snapshot *s, int64_t stage)
{
    for (size_t i = 0; i < s->n_cand; i++) {
        if (s->cand[i].stage == stage) {
            return &s->cand[i];
        }
    }
    return NULL;
}

const struct sched_stage *snapshot_stage(const struct snapshot *s, int64_t stage)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->stages[i].id == stage) {
            return &s->stages[i];
        }
    }
    return NULL;
}

static void on_backoff_over(uv_timer_t *t)
{
    struct daemon *d = t->data;
    d->want_pass = true;
}

/* The earliest back-off brings the next pass. */
static void arm_backoff(struct daemon *d, const struct snapshot *s, int64_t now)
{
    int64_t first = 0;
    for (size_t i = 0; i < s->n; i++) {
        int64_t t = s->stages[i].not_before_us;
        if (t > now && (first == 0 || t < first)) {
            first = t;
        }
    }
    if (first) {
        uv_timer_start(&d->backoff, on_backoff_over, (uint64_t)((first - now) / 1000 + 1), 0);
    }
}

/* Two ready stages with one key: the store lets only the first start; the other waits for it. */
static int start_all(struct daemon *d, const struct sched_result *r, bool *refused,
                     struct dha_err *e)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct sched_decision *dec = &r->at[i];
        bool started;
        if (dec->verdict != SCHED_START) {
            continue;
        }
        if (attempt_start(d, dec->stage, r->slot_ids + dec->slot_at, (size_t)dec->slots, &started,
                          e) != 0) {
            return -1;
        }
        *refused |= !started;
    }
    return 0;
}

/* ---- preemption ---- */

/* The live attempts, as preempt.h wants them; free() it. */
static struct preempt_attempt *running(struct daemon *d, size_t *n, struct dha_err *e)
{
    *n = 0;
    for (const struct attempt *a = d->attempts; a; a = a->next) {
        ++*n;
    }
    struct preempt_attempt *l = calloc(*n + 1, sizeof *l), *at = l;
    if (!l) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        return NULL;
    }
    for (const struct attempt *a = d->attempts; a; a = a->next) {
        struct store_job j;
        if (store_job_brief(d->store, a->job, &j, e) != 0) {
            free(l);
            return NULL;
        }
        *at++ = (struct preempt_attempt){a->id, j.priority, a->started_us,
                                         a->stop != STOP_NONE || a->phase == A_SWEEPING ||
                                             a->phase == A_REMOTE};
        store_job_finish(&j);
    }
    return l;
}

static int give_way(struct daemon *d, int64_t attempt, int64_t to, struct dha_err *e)
{
    for (struct attempt *a = d->attempts; a; a = a->next) {
        char data[64];
        if (a->id != attempt) {
            continue;
        }
        snprintf(data, sizeof data, "{\"to\":\"%lld\"}", (long long)to);
        log_info("job %lld: attempt %d gives way to job %lld", (long long)a->job, a->number,
                 (long long)to);
        if (store_event_add(d->store, "job.preempt", a->job, a->stage, a->number, data, now_us(),
                            NULL, e) != 0) {
            return -1;
        }
        a->gives_way_to = to;
        attempts_stop(d, a->job, PREEMPT_GRACE_MS);
    }
    return 0;
}

/* The stage that a decision is about, if it is first in line of its kind of device and finds no slots; else NULL. */
static const struct store_candidate *stuck(const struct snapshot *s,
                                           const struct sched_decision *dec)
{
    return dec->verdict == SCHED_BUSY && dec->ahead == 0 ? snapshot_candidate(s, dec->stage) : NULL;
}

static bool may_use(const struct sched_stage *st, const struct sched_slot *slot)
{
    bool named = st->n_only == 0;
    for (size_t i = 0; i < st->n_only; i++) {
        named |= st->only[i] == slot->node;
    }
    return named && !slot->drained && slot->memory >= st->slot_memory;
}

/* For who is first in line and finds no slots somebody of lower priority gives way. */
static int preempt(struct daemon *d, const struct snapshot *s, struct dha_err *e)
{
    bool any = false;
    for (size_t i = 0; i < s->result.n && !any; i++) {
        any = stuck(s, &s->result.at[i]) != NULL;
    }
    if (!any) { /* the usual case costs no look at what runs */
        return 0;
    }
    size_t n = 0;
    struct preempt_attempt *l = running(d, &n, e);
    struct store_slot_held *rows = NULL;
    size_t n_rows = 0;
    int rc = l && store_slots_held(d->store, &rows, &n_rows, e) == 0 ? 0 : -1;
    struct preempt_slot *slots = calloc(n_rows + 1, sizeof *slots);
    int64_t *out = calloc(n + 1, sizeof *out);
    if (rc == 0 && (!slots || !out)) {
        rc = dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < s->result.n && rc == 0; i++) {
        const struct sched_decision *dec = &s->result.at[i];
        const struct store_candidate *c = stuck(s, dec);
        const struct sched_stage *st = c ? snapshot_stage(s, dec->stage) : NULL;
        if (!st) {
            continue;
        }
        for (size_t r = 0; r < n_rows; r++) {
            slots[r] = (struct preempt_slot){rows[r].node, rows[r].attempt,
                                             device_of(rows[r].device),
                                             r >= s->n_slots || !may_use(st, &s->slots[r])};
        }
        size_t k = preempt_choose(st->nodes, st->slots, st->device, c->priority, slots, n_rows, l,
                                  n, out);
        while (k-- > 0 && rc == 0) {
            rc = give_way(d, out[k], c->job, e);
        }
    }
    free(out);
    free(slots);
    free(rows);
    free(l);
    return rc;
}

static bool holds_one(const struct snapshot *s, const struct sched_stage *st,
                      const struct store_slot *rows, size_t n, int64_t attempt)
{
    for (size_t i = 0; i < n && i < s->n_slots; i++) {
        if (rows[i].attempt == attempt && s->slots[i].device == st->device &&
            may_use(st, &s->slots[i])) {
            return true;
        }
    }
    return false;
}

int plan_lower(struct daemon *d, const struct snapshot *s, const struct sched_stage *st,
               int64_t *job, struct dha_err *e)
{
    struct store_slot *rows = NULL;
    size_t n_rows = 0;
    *job = 0;
    if (store_slots(d->store, &rows, &n_rows, e) != 0) {
        return -1;
    }
    int rc = 0;
    for (const struct attempt *a = d->attempts; a && !*job && rc == 0; a = a->next) {
        struct store_job j;
        rc = store_job_brief(d->store, a->job, &j, e);
        if (rc == 0) {
            bool lower = j.priority < st->priority && holds_one(s, st, rows, n_rows, a->id);
            *job = lower ? a->job : 0;
            store_job_finish(&j);
        }
    }
    free(rows);
    return rc;
}

int64_t plan_giving_way(const struct daemon *d, int64_t job)
{
    for (const struct attempt *a = d->attempts; a && job; a = a->next) {
        if (a->gives_way_to == job) {
            return a->job;
        }
    }
    return 0;
}

int plan_pass(struct daemon *d, struct dha_err *e)
{
    /* Again while an equal stage was refused: the slots it did not take may serve the next in line. Each
     * such round starts at least one stage, or finds a stage's input damaged and moves its job back by one, so the
     * rounds end. */
    for (bool refused = true; refused;) {
        struct snapshot s = {0};
        int64_t now = now_us();
        refused = false;
        int rc = snapshot_slots(d, &s, e);
        if (rc == 0 && (s.n_free > 0 || d->preempt)) {
            rc = load_stages(d, &s, now, e);
            if (rc == 0) {
                rc = snapshot_decide(d, &s, now, e);
            }
            if (rc == 0) {
                rc = start_all(d, &s.result, &refused, e);
            }
            if (rc == 0) {
                rc = d->preempt ? preempt(d, &s, e) : 0;
                arm_backoff(d, &s, now);
            }
        }
        snapshot_finish(&s);
        if (rc != 0) {
            return -1;
        }
    }
    return 0;
}

int plan_slots_needed(const struct job_spec *s)
{
    return spec_slots_per_node(s) * s->resources.nodes;
}

char *plan_node_names(const struct job_spec *s, struct dha_err *e)
{
    size_t n = 1;
    for (int i = 0; i < s->resources.n_node_names; i++) {
        n += strlen(s->resources.node_names[i]) + 1;
    }
    char *out = calloc(1, n);
    if (!out) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        return NULL;
    }
    for (int i = 0; i < s->resources.n_node_names; i++) {
        strcat(strcat(out, i ? " " : ""), s->resources.node_names[i]);
    }
    return out;
}

/* A stage of a job that is not there yet: the queue's newest, it sorts behind all of its priority. */
static int stage_of_spec(struct snapshot *s, const struct job_spec *spec, int64_t depends_on,
                         struct sched_stage *out, struct dha_err *e)
{
    int64_t now = now_us();
    struct store_candidate c = {.stage = INT64_MAX,
                                .priority = spec->priority,
                                .slots = plan_slots_needed(spec),
                                .nodes = spec->resources.nodes,
                                .slot_memory = spec_slot_memory(spec),
                                .submitted_us = now,
                                .depends_on = depends_on,
                                .walltime_s = spec->resources.walltime_s};
    snprintf(c.device, sizeof c.device, "%s", spec->resources.device);
    *out = stage_of(&c, now);
    char *names = plan_node_names(spec, e);
    int rc = names ? use_only(s, names, out, e) : -1;
    free(names);
    return rc;
}

/* What decides whether the nodes could ever hold it. false: too long to be remembered. */
static bool shape_of(const struct job_spec *spec, char text[PLAN_SHAPE], struct dha_err *e)
{
    char *names = plan_node_names(spec, e);
    int n = names ? snprintf(text, PLAN_SHAPE, "%s %d %d %lld %s", spec->resources.device,
                             spec->resources.nodes, spec_slots_per_node(spec),
                             (long long)spec_slot_memory(spec), names)
                  : -1;
    free(names);
    return n >= 0 && n < PLAN_SHAPE;
}

static bool is_known_to_fit(struct daemon *d, const char *shape)
{
    if (d->fits.of != d->nodes_changed) {
        memset(&d->fits, 0, sizeof d->fits);
        d->fits.of = d->nodes_changed;
    }
    for (int i = 0; i < PLAN_SHAPES; i++) {
        if (strcmp(d->fits.shape[i], shape) == 0) {
            return true;
        }
    }
    return false;
}

int plan_fits(struct daemon *d, const struct job_spec *spec, struct dha_err *e)
{
    struct snapshot s = {0};
    char reason[320], unblock[320], shape[PLAN_SHAPE];
    int rc = -1;
    /* Reading thousands of slots for each submission would cost more than the submission. */
    bool has_shape = shape_of(spec, shape, e);
    if (has_shape && is_known_to_fit(d, shape)) {
        return 0;
    }
    *e = (struct dha_err){0};
    s.stages = calloc(1, sizeof *s.stages);
    s.n = 1;
    if (!s.stages) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    /* The scheduler itself is asked: what it says "never" to is refused. */
    if (snapshot_slots(d, &s, e) != 0 || stage_of_spec(&s, spec, 0, s.stages, e) != 0 ||
        snapshot_decide(d, &s, now_us(), e) != 0) {
        goto out;
    }
    rc = 0;
    if (s.result.at[0].verdict == SCHED_NEVER) {
        explain_never(&s, &s.result.at[0], "the job", reason, unblock);
        dha_fail(e, DHA_E_NO_SLOT, "%s", reason);
        rc = dha_err_hint(e, "%s", unblock);
    } else if (has_shape) {
        snprintf(d->fits.shape[d->fits.next++ % PLAN_SHAPES], PLAN_SHAPE, "%s", shape);
    }
out:
    snapshot_finish(&s);
    return rc;
}

static int keep_slots(const struct sched_result *r, const struct sched_decision *dec,
                      struct plan_explanation *x, struct dha_err *e)
{
    if (dec->verdict != SCHED_START) {
        return 0;
    }
    x->n_slots = (size_t)dec->slots;
    x->slots = malloc(x->n_slots * sizeof *x->slots);
    if (!x->slots) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    memcpy(x->slots, r->slot_ids + dec->slot_at, x->n_slots * sizeof *x->slots);
    return 0;
}

int plan_preview(struct daemon *d, const struct job_spec *spec,
                 const struct store_dependency *after, size_t n_after, struct plan_explanation *x,
                 struct dha_err *e)
{
    struct snapshot s = {0};
    int rc = -1;
    *x = (struct plan_explanation){.need = ACCESS_READ};
    if (snapshot_take(d, &s, e) != 0) {
        goto out;
    }
    struct sched_stage *more = realloc(s.stages, (s.n + 1) * sizeof *more);
    if (!more) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    s.stages = more;
    int64_t depends_on = 0, mine = INT64_MAX;
    for (size_t i = 0; i < n_after && !depends_on; i++) {
        struct store_job j;
        if (store_job_brief(d->store, after[i].job, &j, e) != 0) {
            goto out;
        }
        bool met = j.state == JOB_DONE || (after[i].any && job_state_final(j.state));
        depends_on = met ? 0 : after[i].job;
        store_job_finish(&j);
    }
    if (stage_of_spec(&s, spec, depends_on, &s.stages[s.n], e) != 0) {
        goto out;
    }
    s.n++;
    rc = snapshot_decide(d, &s, now_us(), e);
    for (size_t i = 0; rc == 0 && i < s.result.n; i++) {
        if (s.result.at[i].stage == mine) {
            rc = explain_decision(d, &s, &s.result.at[i], "its first stage", 0, x, e);
            rc = rc == 0 ? keep_slots(&s.result, &s.result.at[i], x, e) : rc;
        }
    }
out:
    snapshot_finish(&s);
    return rc;
}
