/* explain.c: why a job does not run, what would change that, and when it will start: the scheduler's decision in
 * words. */
#include "daemon/plan.h"
#include "daemon/remote.h"
#include "daemon/verdict.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAY(field, ...) snprintf(x->field, sizeof x->field, __VA_ARGS__)

enum { TIME_TEXT = 64 };

/* Whose right it takes to do what the advice says: a change of that job (0 = of no job). */
static void takes(struct plan_explanation *x, enum access_need need, int64_t job)
{
    x->need = need;
    x->need_job = job;
}

static int64_t job_of(const struct snapshot *s, int64_t stage)
{
    const struct store_candidate *c = snapshot_candidate(s, stage);
    return c ? c->job : 0;
}

/* The job's ready stage; 0 = none. */
static int64_t stage_of_job(const struct snapshot *s, int64_t job)
{
    for (size_t i = 0; i < s->n_cand; i++) {
        if (s->cand[i].job == job) {
            return s->cand[i].stage;
        }
    }
    return 0;
}

/* "45 s", "12 min", "3 h 20 min", "2 d 4 h": rounded up, as a promise has to be. */
static const char *duration(char text[TIME_TEXT], int64_t us)
{
    long long s = (us + 999999) / 1000000, m = (s + 59) / 60, h = (m + 59) / 60;
    if (s < 120) {
        snprintf(text, TIME_TEXT, "%lld s", s);
    } else if (m < 120) {
        snprintf(text, TIME_TEXT, "%lld min", m);
    } else if (h < 48) {
        snprintf(text, TIME_TEXT, "%lld h %lld min", m / 60, m % 60);
    } else {
        snprintf(text, TIME_TEXT, "%lld d %lld h", h / 24, h % 24);
    }
    return text;
}

__attribute__((format(printf, 3, 0))) static void add(char *text, size_t size, const char *fmt,
                                                      va_list ap)
{
    size_t n = strlen(text);
    vsnprintf(text + n, size - n, fmt, ap);
}

__attribute__((format(printf, 2, 3))) static void add_reason(struct plan_explanation *x,
                                                             const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    add(x->reason, sizeof x->reason, fmt, ap);
    va_end(ap);
}

__attribute__((format(printf, 2, 3))) static void add_unblock(struct plan_explanation *x,
                                                              const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    add(x->unblock, sizeof x->unblock, fmt, ap);
    va_end(ap);
}

/* What is promised, as the end of a sentence; nothing where no date can be given. */
static void say_date(const struct sched_decision *dec, struct plan_explanation *x)
{
    char in[TIME_TEXT], clock[TIME_TEXT] = "";
    if (!dec->start_us) {
        return;
    }
    time_t t = (time_t)((dec->start_us + 999999) / 1000000);
    struct tm tm;
    if (localtime_r(&t, &tm)) {
        strftime(clock, sizeof clock, "%Y-%m-%d %H:%M", &tm);
    }
    x->start_us = dec->start_us;
    add_reason(x, "; it starts by %s (in %s) at the latest", clock,
               duration(in, dec->start_us - now_us()));
}

enum { GANG_SIZE = 200, DRAINED_SIZE = 400, WORDS_SIZE = 320 };

/* "4 slots", "4 slots on each of 2 nodes", ", each with 8 GiB of memory", ", on node-1 or node-2 only". */
static void gang_words(const struct snapshot *s, const struct sched_stage *st, char text[GANG_SIZE])
{
    int n = snprintf(text, GANG_SIZE, "%d slots", st->slots);
    if (st->nodes > 1) {
        n += snprintf(text + n, GANG_SIZE - (size_t)n, " on each of %d nodes", st->nodes);
    }
    if (st->slot_memory) {
        n += snprintf(text + n, GANG_SIZE - (size_t)n, ", each with %.3g GiB of memory",
                      (double)st->slot_memory / (1 << 30));
    }
    size_t named = 0;
    for (size_t i = 0; i < s->n_nodes && n < 100; i++) {
        bool is = named < st->n_only && st->only[named] == s->nodes[i].id; /* both by id */
        if (is) {
            n += snprintf(text + n, GANG_SIZE - (size_t)n, "%s%s", named++ ? " or " : ", on ",
                          s->nodes[i].name);
        }
    }
    if (st->n_only) {
        snprintf(text + n, GANG_SIZE - (size_t)n, "%s only",
                 named < st->n_only ? " and others" : "");
    }
}

static bool is_plain(const struct sched_stage *st)
{
    return st->nodes <= 1 && st->slot_memory == 0 && st->n_only == 0;
}

void explain_never(const struct snapshot *s, const struct sched_decision *dec, const char *what,
                   char *reason, char *unblock)
{
    const struct sched_stage *st = snapshot_stage(s, dec->stage);
    char gang[GANG_SIZE];
    gang_words(s, st, gang);
    if (st->n_only == 1 && st->only[0] == 0) {
        snprintf(reason, WORDS_SIZE, "%s asks for nodes by name, and none of those is there", what);
        snprintf(unblock, WORDS_SIZE, "name others in resources.node_names: dha nodes lists them");
    } else if (st->device == SCHED_CUDA && dec->most == 0 && st->slot_memory == 0) {
        snprintf(reason, WORDS_SIZE, "%s asks for %d GPU(s), and no node that it may use has any",
                 what, dec->slots);
        snprintf(unblock, WORDS_SIZE, "set resources.device to \"cpu\"");
    } else if (is_plain(st)) {
        snprintf(reason, WORDS_SIZE, "%s needs %s; the largest node has %d", what, gang, dec->most);
        snprintf(unblock, WORDS_SIZE,
                 "lower resources.ranks or resources.threads, or have dhad started with --slots %d",
                 dec->slots);
    } else {
        snprintf(reason, WORDS_SIZE, "%s needs %s; %d node%s could hold %s part of it", what, gang,
                 dec->fitting, dec->fitting == 1 ? "" : "s", dec->fitting == 1 ? "its" : "their");
        snprintf(unblock, WORDS_SIZE, "lower resources.ranks, threads%s%s%s",
                 st->nodes > 1 ? ", nodes" : "", st->slot_memory ? ", memory_gib" : "",
                 st->n_only ? ", or name other nodes in node_names" : "");
    }
}

/* "vm (fan), node-2": nodes that take no work, and why. first: one of them. */
static void drained_words(const struct snapshot *s, const struct sched_stage *st,
                          char text[DRAINED_SIZE], const char **first)
{
    int n = 0;
    *first = "NAME";
    text[0] = '\0';
    for (size_t i = 0; i < s->n_nodes && n < DRAINED_SIZE - 100; i++) {
        const struct store_node *node = &s->nodes[i];
        bool allowed = st->n_only == 0;
        for (size_t k = 0; k < st->n_only; k++) {
            allowed |= st->only[k] == node->id;
        }
        if (node->drained && allowed) {
            *first = n ? *first : node->name;
            n += snprintf(text + n, DRAINED_SIZE - (size_t)n, "%s%.40s%s%.*s%s", n ? ", " : "",
                          node->name, node->reason[0] ? " (" : "", n ? 40 : 240, node->reason,
                          node->reason[0] ? ")" : "");
        }
    }
}

enum { HOLDERS = 3 };

/* Whose end would free slots of the kind: the first jobs by slot; returns how many. */
static int holders(struct daemon *d, enum sched_device device, int64_t jobs[HOLDERS])
{
    struct store_slot *slots;
    size_t n;
    int found = 0;
    struct dha_err e = {0};
    if (store_slots(d->store, &slots, &n, &e) != 0) {
        return 0;
    }
    for (size_t i = 0; i < n && found < HOLDERS; i++) {
        bool known = slots[i].job == 0 ||
                     (strcmp(slots[i].device, "cuda") == 0) != (device == SCHED_CUDA);
        for (int k = 0; k < found; k++) {
            known |= jobs[k] == slots[i].job;
        }
        if (!known) {
            jobs[found++] = slots[i].job;
        }
    }
    free(slots);
    return found;
}

static void say_holders(struct daemon *d, enum sched_device device, struct plan_explanation *x)
{
    int64_t jobs[HOLDERS];
    int n = holders(d, device, jobs), len;
    SAY(unblock, "the end of a running stage");
    if (n == 0) {
        return;
    }
    len = SAY(unblock, "the end of what runs: job %lld", (long long)jobs[0]);
    for (int i = 1; i < n; i++) {
        len += snprintf(x->unblock + len, sizeof x->unblock - (size_t)len, "%s%lld",
                        i == n - 1 ? " or " : ", ", (long long)jobs[i]);
    }
    snprintf(x->unblock + len, sizeof x->unblock - (size_t)len,
             " (dha watch %lld); or dha hold %lld: it checkpoints and gives way",
             (long long)jobs[0], (long long)jobs[0]);
    takes(x, ACCESS_JOB, jobs[0]);
}

static void say_wait_for(int64_t first, int64_t job, struct plan_explanation *x)
{
    SAY(unblock, "the start of job %lld, or a higher priority", (long long)first);
    if (job) {
        SAY(unblock, "the start of job %lld, or a higher priority: dha prio %lld N",
            (long long)first, (long long)job);
        takes(x, ACCESS_JOB, job);
    }
    x->need_priority = true;
}

/* Of who is first in line: does something of lower priority give way to it, and if not, why not? */
static int say_preempt(struct daemon *d, const struct snapshot *s, const struct sched_stage *st,
                       int64_t job, struct plan_explanation *x, struct dha_err *e)
{
    int64_t gives = plan_giving_way(d, job), lower;
    if (gives) {
        add_reason(x, "; job %lld of lower priority checkpoints and gives way to it",
                   (long long)gives);
        SAY(unblock, "nothing to do: it starts when job %lld has stopped (dha watch %lld)",
            (long long)gives, (long long)gives);
        takes(x, ACCESS_READ, 0);
        return 0;
    }
    if (plan_lower(d, s, st, &lower, e) != 0) {
        return -1;
    }
    if (lower && !d->preempt) {
        add_reason(x, "; job %lld has a lower priority, but the setting preempt is off: it goes on",
                   (long long)lower);
    } else if (lower) {
        add_reason(x, "; job %lld has a lower priority, and gives way if that makes room enough",
                   (long long)lower);
    } else if (d->preempt) {
        add_reason(x, "; nothing that runs there has a priority under its %d, so nothing gives way",
                   st->priority);
    }
    return 0;
}

static int say_busy(struct daemon *d, const struct snapshot *s, const struct sched_decision *dec,
                    const char *what, int64_t job, struct plan_explanation *x, struct dha_err *e)
{
    int64_t first = dec->ahead ? job_of(s, dec->blocker) : 0;
    if (!first) {
        const struct sched_stage *st = snapshot_stage(s, dec->stage);
        char gang[GANG_SIZE];
        gang_words(s, st, gang);
        SAY(reason, "%s is first in line: it needs %s, %d of %d are free%s", what, gang, dec->free,
            dec->most, is_plain(st) ? "" : " on the best node");
        say_holders(d, st->device, x);
        if (say_preempt(d, s, st, job, x, e) != 0) {
            return -1;
        }
    } else {
        SAY(reason, "%s is behind job %lld, which waits for slots", what, (long long)first);
        if (dec->ahead > 1) {
            SAY(reason, "%s is behind job %lld and %d more, which wait for slots", what,
                (long long)first, dec->ahead - 1);
        }
        say_wait_for(first, job, x);
    }
    return 0;
}

/* Slots are free, and kept for somebody: a walltime may let it start all the same. */
static void say_behind(const struct snapshot *s, const struct sched_decision *dec, const char *what,
                       int64_t job, struct plan_explanation *x)
{
    char text[TIME_TEXT];
    int64_t first = job_of(s, dec->blocker);
    SAY(reason, "%s is behind job %lld, which waits for slots; those that are free are kept for it",
        what, (long long)first);
    x->walltime_s = (dec->gap_us - plan_lease_us(1)) / 1000000 + 1;
    if (x->walltime_s > 0) {
        SAY(unblock, "a resources.walltime of at most %s (%lld s): it would start at once%s",
            duration(text, x->walltime_s * 1000000), (long long)x->walltime_s,
            job ? "; submit it again with that" : "");
        takes(x, ACCESS_SUBMIT, job);
    } else {
        say_wait_for(first, job, x);
    }
}

static bool is_unmet(const struct store_dependency *d)
{
    return !job_state_final(d->state) || (!d->any && d->state != JOB_DONE);
}

/* Job `on` may wait for another, and that one as well: the last of them, which is what has to end or to be helped. */
static int end_of_chain(struct daemon *d, int64_t on, int64_t *last, enum job_state *state,
                        struct dha_err *e)
{
    enum { DEEP = 100 };
    *last = on;
    for (int i = 0; i < DEEP; i++) {
        struct store_job j;
        struct store_dependency *deps = NULL;
        size_t n = 0, k = 0;
        if (store_job_brief(d->store, *last, &j, e) != 0) {
            return -1;
        }
        *state = j.state;
        store_job_finish(&j);
        if (job_state_final(*state) || *state == JOB_HELD) {
            return 0;
        }
        if (store_dependencies(d->store, *last, &deps, &n, e) != 0) {
            return -1;
        }
        while (k < n && !is_unmet(&deps[k])) {
            k++;
        }
        int64_t next = k < n ? deps[k].job : 0;
        free(deps);
        if (!next) {
            return 0;
        }
        *last = next;
    }
    return 0;
}

static int say_dependency(struct daemon *d, int64_t on, const char *what,
                          struct plan_explanation *x, struct dha_err *e)
{
    struct store_job j;
    enum job_state state;
    int64_t last;
    if (store_job_brief(d->store, on, &j, e) != 0) {
        return -1;
    }
    const char *is = job_state_name(j.state);
    store_job_finish(&j);
    if (end_of_chain(d, on, &last, &state, e) != 0) {
        return -1;
    }
    SAY(reason, "%s waits for the %s of job %lld, which is %s", what,
        last == on && job_state_final(state) ? "success" : "end", (long long)on, is);
    if (last != on) {
        SAY(reason,
            "%s waits for the end of job %lld, which is %s, and waits in the end for job %lld, "
            "which is %s",
            what, (long long)on, is, (long long)last, job_state_name(state));
    }
    if (job_state_final(state)) {
        SAY(unblock,
            "it starts only when job %lld is done: dha retry %lld; or cancel this one, and submit "
            "it without --after",
            (long long)last, (long long)last);
        takes(x, ACCESS_JOB, last);
    } else if (state == JOB_HELD) {
        SAY(unblock, "dha release %lld", (long long)last);
        takes(x, ACCESS_JOB, last);
    } else {
        SAY(unblock, "the end of job %lld: dha watch %lld", (long long)last, (long long)last);
    }
    return 0;
}

static int say_equal(struct daemon *d, int64_t stage, const char *what, struct plan_explanation *x,
                     struct dha_err *e)
{
    struct store_stage other;
    if (store_stage_get(d->store, stage, &other, e) != 0) {
        return -1;
    }
    SAY(reason, "%s waits for job %lld, which is running an equal one: its result will be used",
        what, (long long)other.job);
    SAY(unblock, "the end of %s of job %lld (dha watch %lld); if it fails, this job runs its own",
        stage_kind_name(other.kind), (long long)other.job, (long long)other.job);
    store_stage_finish(&other);
    return 0;
}

static int say_backoff(struct daemon *d, int64_t stage, const char *what,
                       struct plan_explanation *x, struct dha_err *e)
{
    struct store_stage st;
    if (store_stage_get(d->store, stage, &st, e) != 0) {
        return -1;
    }
    int64_t left = (st.not_before_us - now_us()) / 1000000 + 1;
    SAY(reason, "attempt %d of %s failed (%.240s); the next begins in %lld s", st.attempt, what,
        st.error.message, (long long)(left > 0 ? left : 0));
    if (st.retries > 0) {
        add_reason(x, " (%d of %d that may follow a failure)", st.retries, VERDICT_RETRIES);
    }
    SAY(unblock, "nothing to do: it starts by itself");
    if (!strstr(st.error.hint, "dha logs")) {
        add_unblock(x, " (dha logs %lld: how the last one ended)", (long long)st.job);
    }
    if (st.error.hint[0]) {
        add_unblock(x, "; if it fails again: %.240s", st.error.hint);
    }
    x->start_us = st.not_before_us;
    store_stage_finish(&st);
    return 0;
}

int explain_decision(struct daemon *d, const struct snapshot *s, const struct sched_decision *dec,
                     const char *what, int64_t job, struct plan_explanation *x, struct dha_err *e)
{
    x->verdict = sched_verdict_name(dec->verdict);
    switch (dec->verdict) {
    case SCHED_START:
        SAY(reason, job ? "%s is about to start" : "%s would start at once", what);
        break;
    case SCHED_DEPENDS: return say_dependency(d, dec->blocker, what, x, e);
    case SCHED_WAITS_EQUAL: return say_equal(d, dec->blocker, what, x, e);
    case SCHED_BACKOFF: return say_backoff(d, dec->stage, what, x, e);
    case SCHED_NEVER:
        explain_never(s, dec, what, x->reason, x->unblock);
        takes(x, ACCESS_SUBMIT, job);
        break;
    case SCHED_DRAINED: {
        const struct sched_stage *st = snapshot_stage(s, dec->stage);
        char gang[GANG_SIZE], which[DRAINED_SIZE];
        const char *first;
        gang_words(s, st, gang);
        drained_words(s, st, which, &first);
        SAY(reason, "%s needs %.100s, and %s drained: %s", what, gang,
            dec->fitting > 1 ? "too many of the nodes that have them are"
                             : "every node that has them is",
            which);
        SAY(unblock,
            strstr(which, "may still run there")
                ? "see that nothing runs there (dha-shim --sweep UUID on it, or a reboot), then: "
                  "dha nodes resume %.60s"
                : "when the node is fit again: dha nodes resume %.60s",
            first);
        takes(x, ACCESS_ADMIN, 0);
        break;
    }
    case SCHED_BUSY:
        if (say_busy(d, s, dec, what, job, x, e) != 0) {
            return -1;
        }
        say_date(dec, x);
        break;
    case SCHED_BEHIND:
        say_behind(s, dec, what, job, x);
        say_date(dec, x);
        break;
    case SCHED_VERDICTS: break;
    }
    return 0;
}

static int explain_queue(struct daemon *d, const struct store_job *job, struct plan_explanation *x,
                         struct dha_err *e)
{
    struct snapshot s = {0};
    int rc = -1;
    if (snapshot_take(d, &s, e) != 0 || snapshot_decide(d, &s, now_us(), e) != 0) {
        goto out;
    }
    SAY(reason, "nothing of it is ready to run");
    rc = 0;
    int64_t stage = stage_of_job(&s, job->id);
    for (size_t i = 0; i < s.result.n; i++) {
        const struct sched_decision *dec = &s.result.at[i];
        struct store_stage st;
        if (dec->stage != stage) {
            continue;
        }
        rc = store_stage_get(d->store, dec->stage, &st, e);
        if (rc == 0) {
            rc = explain_decision(d, &s, dec, stage_kind_name(st.kind), job->id, x, e);
            store_stage_finish(&st);
        }
        break;
    }
out:
    snapshot_finish(&s);
    return rc;
}

/* "train failed: ", "search failed (attempt 4): "; nothing where no stage did. Which one has logs: *kind. */
static int say_failed(struct daemon *d, int64_t job, struct plan_explanation *x, const char **kind,
                      struct dha_err *e)
{
    struct store_stages l;
    if (store_stages_of_job(d->store, job, &l, e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < l.n; i++) {
        const struct store_stage *st = &l.at[i];
        if (st->state == STAGE_FAILED) {
            *kind = st->attempt > 0 ? stage_kind_name(st->kind) : NULL;
            SAY(reason, "%s failed", stage_kind_name(st->kind));
            if (st->attempt > 1) {
                add_reason(x, " (attempt %d)", st->attempt);
            }
            add_reason(x, ": ");
        }
    }
    store_stages_finish(&l);
    return 0;
}

/* Clients print "job 3 is done: REASON": the state is not said again. */
static int explain_end(struct daemon *d, const struct store_job *job, struct plan_explanation *x,
                       struct dha_err *e)
{
    enum dha_code code = job->error.code[0] ? dha_code_from_name(job->error.code) : DHA_E_OK;
    const char *hint = job->error.hint;
    bool said = strstr(hint, "submit") != NULL;
    const char *kind = NULL;
    if (job->state == JOB_DONE) {
        SAY(reason, "all its stages are complete");
        return 0;
    }
    if (job->state == JOB_FAILED && say_failed(d, job->id, x, &kind, e) != 0) {
        return -1;
    }
    add_reason(x, "%.400s", job->error.message[0] ? job->error.message : "no cause was recorded");
    takes(x, ACCESS_JOB, job->id);
    if (job->state == JOB_CANCELLED) {
        SAY(unblock, "dha retry %lld", (long long)job->id);
    } else if (code != DHA_E_COUNT && code != DHA_E_INTERNAL &&
               dha_code_retry(code) == DHA_RETRY_USER) {
        SAY(unblock, "%.240s%s%s", hint, hint[0] && !said ? "; " : "",
            said ? "" : "submit it again with the mistake mended (dha submit)");
        takes(x, ACCESS_SUBMIT, job->id);
    } else {
        if (kind && !strstr(hint, "dha logs")) {
            add_unblock(x, "dha logs %lld --stage %s shows what was said; ", (long long)job->id,
                        kind);
        }
        add_unblock(x, "%.240s%s", hint, hint[0] ? "; " : "");
        add_unblock(x, "%sdha retry %lld", x->unblock[0] ? "then " : "", (long long)job->id);
    }
    return 0;
}

/* What is waited for, and until when. */
static int explain_cancel(struct daemon *d, const struct store_job *job, struct plan_explanation *x,
                          struct dha_err *e)
{
    char in[TIME_TEXT], pace[256];
    int64_t since;
    if (store_job_cancelled_since(d->store, job->id, &since, e) != 0) {
        return -1;
    }
    SAY(reason, "it is being cancelled");
    if (since) {
        add_reason(x, " (asked %s ago)", duration(in, now_us() - since));
    }
    add_reason(x, "%s%.180s", job->cancel_reason ? ": " : "",
               job->cancel_reason ? job->cancel_reason : "");
    if (attempts_pace(d, job->id, pace, sizeof pace)) {
        add_reason(x, "; %s", pace);
    }
    SAY(unblock, "nothing to do but wait (dha watch %lld)", (long long)job->id);
    if (!job->cancel_now) {
        SAY(unblock,
            "nothing to do but wait (dha watch %lld); or dha cancel %lld --now: killed at once, "
            "without a last checkpoint",
            (long long)job->id, (long long)job->id);
        takes(x, ACCESS_JOB, job->id);
    }
    return 0;
}

static void explain_hold(struct daemon *d, const struct store_job *job, struct plan_explanation *x)
{
    char pace[256];
    SAY(reason, "a user holds it");
    if (attempts_pace(d, job->id, pace, sizeof pace)) {
        add_reason(x, "; what runs of it: %s", pace);
    }
    SAY(unblock, "dha release %lld", (long long)job->id);
    takes(x, ACCESS_JOB, job->id);
}

int plan_explain(struct daemon *d, const struct store_job *job, struct plan_explanation *x,
                 struct dha_err *e)
{
    *x = (struct plan_explanation){.need = ACCESS_READ};
    if (job_state_final(job->state)) {
        return explain_end(d, job, x, e);
    }
    if (turn_trouble(d, x->reason, sizeof x->reason)) {
        SAY(unblock,
            "see that (dha admin prune takes away old checkpoints; dhad.log says more); it "
            "goes on by itself then");
        takes(x, ACCESS_ADMIN, 0);
        return 0;
    }
    if (remote_waits(d, job->id, x->reason, sizeof x->reason)) {
        SAY(unblock,
            "an answer of the node (dha nodes): mend it or its network; given up, it is drained, "
            "and the %s",
            job->cancel ? "job is cancelled" : "stage goes on elsewhere");
        return 0;
    }
    if (job->cancel) {
        return explain_cancel(d, job, x, e);
    }
    if (job->state == JOB_HELD) {
        explain_hold(d, job, x);
        return 0;
    }
    if (attempts_of_job(d, job->id)) {
        char pace[256];
        bool known = attempts_pace(d, job->id, pace, sizeof pace);
        SAY(reason, "its processes are at work%s%s", known ? ": " : "", known ? pace : "");
        SAY(unblock, "nothing to do: dha watch %lld", (long long)job->id);
        return 0;
    }
    int rc = explain_queue(d, job, x, e);
    if (rc == 0 && job->state == JOB_RUNNING) { /* between two stages or attempts, or preempted */
        char why[sizeof x->reason];
        memcpy(why, x->reason, sizeof why);
        SAY(reason, "nothing of it runs just now: %.*s", (int)sizeof x->reason - 40, why);
    }
    return rc;
}
