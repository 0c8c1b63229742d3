/* plan.c: the scheduler's surroundings: the snapshot out of the store, the decisions into it, the words
 * for `explain`. The decisions themselves are sched.c's. */
#include "daemon/daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/sched.h"

struct snapshot {
    struct store_candidate *cand;
    struct sched_stage *stages;
    size_t n;
    struct sched_slot *slots;
    size_t n_slots, n_free;
};

static enum sched_device device_of(const char *name)
{
    return strcmp(name, "cuda") == 0 ? SCHED_CUDA : SCHED_CPU;
}

static void snapshot_finish(struct snapshot *s)
{
    free(s->cand);
    free(s->stages);
    free(s->slots);
    *s = (struct snapshot){0};
}

static int load_slots(struct daemon *d, struct snapshot *s, struct dha_err *e)
{
    struct store_slot *slots = NULL;
    struct store_node *nodes = NULL;
    size_t n = 0, n_nodes = 0;
    int rc = -1;
    if (store_slots(d->store, &slots, &n, e) != 0 ||
        store_nodes(d->store, &nodes, &n_nodes, e) != 0) {
        goto out;
    }
    s->slots = calloc(n + 1, sizeof *s->slots);
    if (!s->slots) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        bool drained = false;
        for (size_t k = 0; k < n_nodes; k++) {
            drained |= nodes[k].id == slots[i].node && nodes[k].drained;
        }
        s->slots[i] = (struct sched_slot){.id = slots[i].id,
                                          .node = slots[i].node,
                                          .device = device_of(slots[i].device),
                                          .busy = slots[i].attempt != 0,
                                          .drained = drained};
        s->n_free += !drained && slots[i].attempt == 0;
    }
    s->n_slots = n;
    rc = 0;
out:
    free(slots);
    free(nodes);
    return rc;
}

static int load_stages(struct daemon *d, struct snapshot *s, struct dha_err *e)
{
    if (store_candidates(d->store, &s->cand, &s->n, e) != 0) {
        return -1;
    }
    s->stages = calloc(s->n + 1, sizeof *s->stages);
    if (!s->stages) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < s->n; i++) {
        const struct store_candidate *c = &s->cand[i];
        s->stages[i] = (struct sched_stage){.id = c->stage,
                                            .priority = c->priority,
                                            .age_us = c->submitted_us,
                                            .slots = c->slots,
                                            .device = device_of(c->device),
                                            .waits_for = c->waits_for,
                                            .not_before_us = c->not_before_us};
    }
    return 0;
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

int plan_pass(struct daemon *d, struct dha_err *e)
{
    /* Again while an equal stage was refused: the slots it did not take may serve the next in line. Each
     * such round starts at least one stage, or finds a stage's input damaged and moves its job back by one, so the
     * rounds end. */
    for (bool refused = true; refused;) {
        struct snapshot s = {0};
        struct sched_result r = {0};
        int64_t now = now_us();
        refused = false;
        int rc = load_slots(d, &s, e);
        if (rc == 0 && s.n_free > 0) {
            rc = load_stages(d, &s, e);
            if (rc == 0 && sched_pass(s.stages, s.n, s.slots, s.n_slots, now, &r) != 0) {
                rc = dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
            }
            if (rc == 0) {
                rc = start_all(d, &r, &refused, e);
                arm_backoff(d, &s, now);
            }
        }
        sched_result_finish(&r);
        snapshot_finish(&s);
        if (rc != 0) {
            return -1;
        }
    }
    return 0;
}

int plan_slots_needed(const struct job_spec *s)
{
    /* A GPU rank is one GPU; a CPU rank is its threads. */
    return strcmp(s->resources.device, "cuda") == 0 ? s->resources.ranks
                                                    : s->resources.ranks * s->resources.threads;
}

int plan_fits(struct daemon *d, const struct job_spec *spec, struct dha_err *e)
{
    struct snapshot s = {0};
    struct sched_result r = {0};
    enum sched_device dev = device_of(spec->resources.device);
    int need = plan_slots_needed(spec), most = 0;
    struct sched_stage gang = {.id = 1, .slots = need, .device = dev};
    if (load_slots(d, &s, e) != 0) {
        return -1;
    }
    /* The scheduler itself is asked: what it says "never" to is refused. */
    int rc = sched_pass(&gang, 1, s.slots, s.n_slots, 0, &r);
    bool never = rc == 0 && r.at[0].verdict == SCHED_NEVER;
    most = rc == 0 ? r.at[0].most : 0;
    sched_result_finish(&r);
    snapshot_finish(&s);
    if (rc != 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    if (!never) {
        return 0;
    }
    if (dev == SCHED_CUDA && most == 0) {
        dha_fail(e, DHA_E_NO_SLOT, "the job asks for %d GPU(s), and no node has any", need);
        return dha_err_hint(e, "set resources.device to \"cpu\"");
    }
    dha_fail(e, DHA_E_NO_SLOT,
             "the job asks for %d slots (%d ranks x %d threads), the largest "
             "node has %d",
             need, spec->resources.ranks, spec->resources.threads, most);
    return dha_err_hint(e,
                        "lower resources.ranks or resources.threads, or start dhad with "
                        "--slots %d",
                        need);
}

/* ---- explain ---- */

static int64_t job_of(const struct snapshot *s, int64_t stage)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->cand[i].stage == stage) {
            return s->cand[i].job;
        }
    }
    return 0;
}

#define SAY(field, ...) snprintf(x->field, sizeof x->field, __VA_ARGS__)

static int say_decision(struct daemon *d, const struct snapshot *s,
                        const struct sched_decision *dec, struct plan_explanation *x,
                        struct dha_err *e)
{
    struct store_stage st;
    if (store_stage_get(d->store, dec->stage, &st, e) != 0) {
        return -1;
    }
    const char *kind = stage_kind_name(st.kind);
    switch (dec->verdict) {
    case SCHED_START: SAY(reason, "%s is about to start", kind); break;
    case SCHED_WAITS_EQUAL: {
        struct store_stage other;
        if (store_stage_get(d->store, dec->blocker, &other, e) != 0) {
            store_stage_finish(&st);
            return -1;
        }
        SAY(reason, "%s waits for job %lld, which is running an equal one: its result will be used",
            kind, (long long)other.job);
        SAY(unblock, "the end of %s of job %lld; if it fails, this job runs its own", kind,
            (long long)other.job);
        store_stage_finish(&other);
        break;
    }
    case SCHED_BACKOFF: {
        int64_t left = (st.not_before_us - now_us()) / 1000000 + 1;
        SAY(reason, "the last attempt of %s failed (%.200s); the next waits %lld s", kind,
            st.error.message, (long long)(left > 0 ? left : 0));
        SAY(unblock, "nothing to do: it starts by itself");
        break;
    }
    case SCHED_NEVER:
        SAY(reason, "%s needs %d slots; the largest node has %d", kind, dec->slots, dec->most);
        SAY(unblock, "lower resources.ranks or resources.threads, or start dhad with --slots %d",
            dec->slots);
        break;
    case SCHED_DRAINED:
        SAY(reason, "%s needs %d slots, and every node that has them is drained", kind, dec->slots);
        SAY(unblock, "resume a node: dha nodes resume NAME");
        break;
    case SCHED_BUSY:
        SAY(reason, "%s is first in line: it needs %d slots, %d of %d are free", kind, dec->slots,
            dec->free, dec->most);
        SAY(unblock, "the end of a running stage");
        break;
    case SCHED_BEHIND:
        SAY(reason, "%s is behind job %lld, which waits for slots", kind,
            (long long)job_of(s, dec->blocker));
        SAY(unblock, "the start of job %lld, or a higher priority: dha prio %lld N",
            (long long)job_of(s, dec->blocker), (long long)st.job);
        break;
    case SCHED_VERDICTS: break;
    }
    store_stage_finish(&st);
    return 0;
}

static int explain_queue(struct daemon *d, const struct store_job *job, struct plan_explanation *x,
                         struct dha_err *e)
{
    struct snapshot s = {0};
    struct sched_result r = {0};
    int rc = -1;
    if (load_slots(d, &s, e) != 0 || load_stages(d, &s, e) != 0) {
        goto out;
    }
    if (sched_pass(s.stages, s.n, s.slots, s.n_slots, now_us(), &r) != 0) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    SAY(reason, "nothing of it is ready to run");
    rc = 0;
    for (size_t i = 0; i < r.n; i++) {
        if (job_of(&s, r.at[i].stage) == job->id) {
            rc = say_decision(d, &s, &r.at[i], x, e);
            break;
        }
    }
out:
    sched_result_finish(&r);
    snapshot_finish(&s);
    return rc;
}

/* Clients print "job 3 is done: REASON": the state is not said again. */
static void explain_end(const struct store_job *job, struct plan_explanation *x)
{
    enum dha_code code = job->error.code[0] ? dha_code_from_name(job->error.code) : DHA_E_OK;
    const char *hint = job->error.hint;
    if (job->state == JOB_DONE) {
        SAY(reason, "all its stages are complete");
        return;
    }
    SAY(reason, "%.300s", job->error.message[0] ? job->error.message : "no cause was recorded");
    if (job->state == JOB_CANCELLED) {
        SAY(unblock, "dha retry %lld", (long long)job->id);
    } else if (code != DHA_E_COUNT && code != DHA_E_INTERNAL &&
               dha_code_retry(code) == DHA_RETRY_USER) {
        SAY(unblock, "%.240s%ssubmit it again with the mistake mended", hint, hint[0] ? "; " : "");
    } else {
        SAY(unblock, "%.240s%sdha retry %lld", hint, hint[0] ? "; then " : "", (long long)job->id);
    }
}

int plan_explain(struct daemon *d, const struct store_job *job, struct plan_explanation *x,
                 struct dha_err *e)
{
    *x = (struct plan_explanation){0};
    if (job_state_final(job->state)) {
        explain_end(job, x);
        return 0;
    }
    if (turn_trouble(d, x->reason, sizeof x->reason)) {
        SAY(unblock, "free space on that disk, or see dhad.log");
        return 0;
    }
    if (job->cancel) {
        SAY(reason, "it is being cancelled%s%.180s; its processes are given time to checkpoint",
            job->cancel_reason ? ": " : "", job->cancel_reason ? job->cancel_reason : "");
        SAY(unblock, "wait, or cancel it with --now");
        return 0;
    }
    if (job->state == JOB_HELD) {
        SAY(reason, "a user holds it%s",
            attempts_of_job(d, job->id) ? "; the running stage is asked to stop" : "");
        SAY(unblock, "dha release %lld", (long long)job->id);
        return 0;
    }
    if (attempts_of_job(d, job->id)) {
        SAY(reason, "its processes are at work");
        return 0;
    }
    return explain_queue(d, job, x, e);
}
