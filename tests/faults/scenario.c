/* scenario.c: see scenario.h. */
#include "scenario.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <unistd.h>

#define NOW SCENARIO_NOW

/* Jobs, stages, attempts and slots are numbered from 1 in the order in which they are made here. */
enum { SEARCH = 1, FUSE, TRAIN };

static int nodes(struct store *s, struct dha_err *e)
{
    int64_t id;
    return store_node_register(s, "here", "cpu", 4, NOW, &id, e);
}

static int fewer_slots(struct store *s, struct dha_err *e)
{
    int64_t id;
    return store_node_register(s, "here", "cpu", 3, NOW + 1, &id, e);
}

static int submit(struct store *s, const char *name, const char *idem, int64_t sweep, bool hold,
                  struct dha_err *e)
{
    char keys[3][32];
    struct store_new_stage stages[3] = {
        {STAGE_SEARCH, keys[0]}, {STAGE_FUSE, keys[1]}, {STAGE_TRAIN, keys[2]}};
    for (int i = 0; i < 3; i++)
        snprintf(keys[i], sizeof keys[i], "%s-%d", name, i);
    struct store_new_job j = {.name = name,
                              .spec = "{\"model\":\"/models/a\",\"seed\":7,\"notes\":[1,2,\"x\"]}",
                              .method = "spectral",
                              .budget = 0.25,
                              .slots = 2,
                              .device = "cpu",
                              .owner_uid = 1000,
                              .sweep = sweep,
                              .seed = 7,
                              .hold = hold,
                              .idempotency_key = idem,
                              .stages = stages,
                              .n_stages = 3,
                              .now_us = NOW + 2};
    int64_t id;
    bool existed;
    return store_job_submit(s, &j, &id, &existed, e);
}

static int submit_one(struct store *s, struct dha_err *e)
{
    return submit(s, "one", "key-1", 0, false, e);
}

static int submit_one_again(struct store *s, struct dha_err *e)
{
    return submit(s, "one", "key-1", 0, false, e);
}

static int submit_held(struct store *s, struct dha_err *e)
{
    return submit(s, "held", NULL, 0, true, e);
}

static int sweep_new(struct store *s, struct dha_err *e)
{
    int64_t id;
    struct store_new_sweep w = {.name = "grid",
                                .spec = "{\"budgets\":[0.5,0.25]}",
                                .owner_uid = 1000,
                                .stop_dominated = true,
                                .margin = 0.02,
                                .idempotency_key = "key-2",
                                .now_us = NOW + 3};
    return store_sweep_new(s, &w, &id, e);
}

static int submit_of_sweep(struct store *s, struct dha_err *e)
{
    return submit(s, "of-sweep", NULL, 1, false, e);
}

static int start(struct store *s, int64_t stage, const char *uuid, const int64_t slots[2],
                 struct dha_err *e)
{
    int64_t id;
    int number;
    struct store_new_attempt a = {
        .stage = stage, .uuid = uuid, .slots = slots, .n_slots = 2, .now_us = NOW + 4};
    return store_attempt_new(s, &a, &id, &number, e);
}

static int start_search(struct store *s, struct dha_err *e)
{
    return start(s, SEARCH, "uuid-1", (int64_t[]){1, 2}, e);
}

static int attempt_dir(struct store *s, struct dha_err *e)
{
    return store_attempt_set_dir(s, 1, "/state/jobs/1/search/a1", e);
}

static int stage_out(struct store *s, struct dha_err *e)
{
    return store_stage_set_out_dir(s, SEARCH, "/state/jobs/1/search/out", e);
}

static int job_move(struct store *s, int64_t job, enum job_state from, enum job_state to,
                    const struct dha_err *why, struct dha_err *e)
{
    bool changed;
    struct store_job_move m = {.job = job,
                               .from = from,
                               .to = to,
                               .error = why,
                               .reason = "because",
                               .outbox = to == JOB_FAILED ? "tell" : NULL,
                               .now_us = NOW + 5};
    return store_job_transition(s, &m, &changed, e);
}

static int job_runs(struct store *s, struct dha_err *e)
{
    return job_move(s, 1, JOB_QUEUED, JOB_RUNNING, NULL, e);
}

static int shim_is_known(struct store *s, struct dha_err *e)
{
    return store_attempt_set_process(s, 1, 4711, 99, "boot", e);
}

static int journal(struct store *s, struct dha_err *e)
{
    const struct record r[] = {
        {.type = REC_HELLO,
         .hello = {.host = "n1", .backend = "cpu", .ranks = 2, .steps = 3, .resumed_from = -1}},
        {.type = REC_PHASE, .phase = {.name = "calibrate", .done = 1, .total = 2}},
        {.type = REC_PHASE, .phase = {.name = "calibrate", .done = 2, .total = 2}},
        {.type = REC_HEAD_BUDGET,
         .head_budget = {.kind = "key", .heads = 2, .n_map = 4, .map = {0, 0, 1, 1}}},
        {.type = REC_PROGRESS,
         .progress = {.step = 1, .steps = 3, .tokens = 100, .loss = 3.5, .fusion_loss = NAN}},
        {.type = REC_LAYER,
         .layer = {.name = "regression_error", .layer = 1, .kind = "key", .value = 0.5}},
        {.type = REC_EVAL, .eval = {.name = "parent", .loss = 3.25, .tokens = 512}},
        {.type = REC_EVAL,
         .eval = {.name = "valid", .loss = 3.5, .tokens = 9, .step = 1, .trained_tokens = 100}},
        {.type = REC_TASK,
         .task = {.model = "final", .task = "arc-e", .acc = 0.5, .acc_norm = NAN}},
        {.type = REC_CHECKPOINT,
         .checkpoint = {.step = 1, .bytes = 1 << 20, .path = "/ckpt/1", .digest = "abc"}},
        {.type = REC_ERROR, .error = {.code = "lost", .message = "a rank left", .hint = "look"}},
        {.type = REC_UNKNOWN},
    };
    bool stale;
    return store_ingest(s, 1, 0, 1000, r, sizeof r / sizeof r[0], NOW + 6, &stale, e);
}

static int stopping(struct store *s, struct dha_err *e)
{
    bool changed;
    return store_attempt_set_state(s, 1, ATTEMPT_STOPPING, "told to", NOW + 7, &changed, e);
}

static int priority(struct store *s, struct dha_err *e)
{
    return store_job_set_priority(s, 3, 5, NOW + 7, e);
}

static int cancel_held(struct store *s, struct dha_err *e)
{
    bool changed;
    return store_job_cancel(s, 2, "no need", true, NOW + 7, &changed, e);
}

static int bye(struct store *s, struct dha_err *e)
{
    const struct record r[] = {
        {.type = REC_PROGRESS,
         .progress = {.step = 2, .steps = 3, .tokens = 200, .loss = 3.25, .fusion_loss = 1}},
        {.type = REC_BYE, .bye = {.code = "ok", .tokens = 200, .seconds = 1.5, .output = "/plan"}}};
    bool stale;
    return store_ingest(s, 1, 1000, 1200, r, 2, NOW + 8, &stale, e);
}

static int search_ends(struct store *s, struct dha_err *e)
{
    bool changed;
    return store_attempt_end(s, 1, 0, NULL, NOW + 9, &changed, e);
}

static int stage_move(struct store *s, int64_t stage, enum stage_state from, enum stage_state to,
                      int attempt, const struct dha_err *why, struct dha_err *e)
{
    bool changed;
    struct store_stage_move m = {.stage = stage,
                                 .from = from,
                                 .to = to,
                                 .attempt = attempt,
                                 .reason = "because",
                                 .error = why,
                                 .count_retry = to == STAGE_READY,
                                 .outbox = to == STAGE_DONE ? "tidy" : NULL,
                                 .now_us = NOW + 10};
    return store_stage_transition(s, &m, &changed, e);
}

static int search_done(struct store *s, struct dha_err *e)
{
    return stage_move(s, SEARCH, STAGE_RUNNING, STAGE_DONE, 1, NULL, e);
}

static int start_fuse(struct store *s, struct dha_err *e)
{
    return start(s, FUSE, "uuid-2", (int64_t[]){2, 3}, e);
}

static int set_aside(struct store *s, struct dha_err *e)
{
    return store_lost_found_add(s, "journal", "torn", 4, "no record", NOW + 11, e);
}

static int outbox(struct store *s, struct dha_err *e)
{
    return store_outbox_add(s, "sweep", 1, FUSE, 1, NULL, NOW + 11, e);
}

static const struct dha_err lost = {.code = DHA_E_LOST, .msg = "its shim died", .hint = "look"};

static int fuse_ends(struct store *s, struct dha_err *e)
{
    bool changed;
    return store_attempt_end(s, 2, -1, &lost, NOW + 12, &changed, e);
}

static int fuse_fails(struct store *s, struct dha_err *e)
{
    return stage_move(s, FUSE, STAGE_RUNNING, STAGE_FAILED, 1, &lost, e);
}

static int job_fails(struct store *s, struct dha_err *e)
{
    return job_move(s, 1, JOB_RUNNING, JOB_FAILED, &lost, e);
}

static int job_again(struct store *s, struct dha_err *e)
{
    return job_move(s, 1, JOB_FAILED, JOB_QUEUED, NULL, e);
}

static int fuse_again(struct store *s, struct dha_err *e)
{
    return stage_move(s, FUSE, STAGE_FAILED, STAGE_PENDING, 1, NULL, e);
}

static int outbox_done(struct store *s, struct dha_err *e)
{
    return store_outbox_delete(s, 1, e);
}

static int drain(struct store *s, struct dha_err *e)
{
    return store_node_drain(s, "here", "hot", NOW + 13, e);
}

static int resume(struct store *s, struct dha_err *e)
{
    return store_node_resume(s, "here", NOW + 14, e);
}

static int checkpoint_gone(struct store *s, struct dha_err *e)
{
    return store_checkpoint_mark(s, 1, "deleted", NOW + 14, e);
}

/* ---- reading: whatever fails, nothing changes and nothing leaks ---- */

static int by_stage(const void *pa, const void *pb)
{
    const struct store_candidate *a = pa, *b = pb;
    return (a->stage > b->stage) - (a->stage < b->stage);
}

/* Whatever failed before: what the store keeps in memory is what its tables say. */
static int kept(struct store *s, struct dha_err *e)
{
    struct store_candidate *c = NULL, *fresh = NULL;
    struct store_slot_held *held = NULL;
    struct store_slot *slots = NULL;
    size_t n, n_fresh, n_held, n_slots;
    int rc = -1;
    if (store_candidates(s, &c, &n, e) != 0 ||
        store_candidates_afresh(s, &fresh, &n_fresh, e) != 0 ||
        store_slots_held(s, &held, &n_held, e) != 0 || store_slots(s, &slots, &n_slots, e) != 0)
        goto out;
    bool same = n == n_fresh && n_held == n_slots;
    if (same && n) {
        qsort(c, n, sizeof *c, by_stage);
        qsort(fresh, n, sizeof *fresh, by_stage);
        same = memcmp(c, fresh, n * sizeof *c) == 0;
    }
    for (size_t i = 0; same && i < n_held; i++)
        same = held[i].id == slots[i].id && held[i].attempt == slots[i].attempt;
    if (!same)
        fprintf(stderr, "what is kept in memory is not what the tables say\n"), abort();
    rc = 0;
out:
    free(c);
    free(fresh);
    free(held);
    free(slots);
    return rc;
}

static int read_jobs(struct store *s, struct dha_err *e)
{
    struct store_jobs l;
    struct store_job j;
    struct store_job_filter f = {.name = "one"};
    if (store_jobs_list(s, &f, &l, e) != 0)
        return -1;
    size_t n = l.n;
    store_jobs_finish(&l);
    if (store_job_get(s, 1, &j, e) != 0)
        return -1;
    store_job_finish(&j);
    return n == 1 ? 0 : dha_fail(e, DHA_E_INTERNAL, "%zu jobs", n);
}

static int read_stages(struct store *s, struct dha_err *e)
{
    struct store_stages l;
    struct store_stage st;
    struct store_candidate *c;
    size_t n, stages;
    if (store_stages_of_job(s, 1, &l, e) != 0)
        return -1;
    stages = l.n;
    store_stages_finish(&l);
    if (store_stages_in_state(s, STAGE_READY, &l, e) != 0)
        return -1;
    store_stages_finish(&l);
    if (store_stage_done_by_key(s, "one-0", &st, e) != 0)
        return -1;
    store_stage_finish(&st);
    if (store_candidates(s, &c, &n, e) != 0)
        return -1;
    free(c);
    int64_t *ids, on;
    if (store_jobs_ready_for(s, "one-0", &ids, &n, e) != 0)
        return -1;
    free(ids);
    if (store_jobs_freed_by(s, 1, &ids, &n, e) != 0)
        return -1;
    free(ids);
    if (store_job_waits_for(s, 1, &on, e) != 0)
        return -1;
    return stages == 3 ? 0 : dha_fail(e, DHA_E_INTERNAL, "%zu stages", stages);
}

static int read_attempts(struct store *s, struct dha_err *e)
{
    struct store_attempts l;
    struct store_attempt a;
    if (store_attempt_get(s, 1, &a, e) != 0)
        return -1;
    store_attempt_finish(&a);
    if (store_attempts_of_stage(s, SEARCH, &l, e) != 0)
        return -1;
    size_t n = l.n;
    store_attempts_finish(&l);
    if (store_attempts_live(s, &l, e) != 0)
        return -1;
    store_attempts_finish(&l);
    return n == 1 ? 0 : dha_fail(e, DHA_E_INTERNAL, "%zu attempts", n);
}

static int read_results(struct store *s, struct dha_err *e)
{
    struct store_checkpoint *c;
    struct store_head_budget *h;
    struct store_eval *v;
    struct store_point *p;
    struct store_series *r;
    size_t n[5] = {0};
    const struct store_metric_query q = {.stage = SEARCH, .after_step = -1};
    if (store_checkpoints(s, 1, 0, &c, &n[0], e) != 0)
        return -1;
    free(c);
    if (store_head_budgets(s, SEARCH, &h, &n[1], e) != 0)
        return -1;
    int map = n[1] == 1 ? h[0].n_map : 0;
    free(h);
    if (map != 4) /* a map that could not be read is not an empty one */
        return dha_fail(e, DHA_E_NO_MEMORY, "a head map of %d", map);
    if (store_evals(s, SEARCH, &v, &n[2], e) != 0)
        return -1;
    free(v);
    if (store_metrics(s, &q, &p, &n[3], e) != 0)
        return -1;
    free(p);
    if (store_metric_names(s, SEARCH, &r, &n[4], e) != 0)
        return -1;
    free(r);
    return n[0] == 1 && n[2] == 2 ? 0 : dha_fail(e, DHA_E_INTERNAL, "results are missing");
}

static int read_rest(struct store *s, struct dha_err *e)
{
    struct store_events v;
    struct store_actions a;
    struct store_sweeps w;
    struct store_node *node;
    struct store_slot *slot;
    size_t n;
    int64_t jobs[JOB_STATES], stages[STAGE_STATES];
    const struct store_sweep_filter f = {.to_watch = true};
    if (store_events_list(s, 0, 0, &v, e) != 0)
        return -1;
    store_events_finish(&v);
    if (store_outbox_list(s, &a, e) != 0)
        return -1;
    store_actions_finish(&a);
    if (store_sweeps_list(s, &f, &w, e) != 0)
        return -1;
    store_sweeps_finish(&w);
    if (store_nodes(s, &node, &n, e) != 0)
        return -1;
    free(node);
    if (store_slots(s, &slot, &n, e) != 0)
        return -1;
    free(slot);
    if (store_counts(s, jobs, stages, e) != 0)
        return -1;
    return store_fsck(s, NULL, NULL, e) < 0 ? -1 : 0;
}

static int backup(struct store *s, struct dha_err *e)
{
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/dha-faults-backup-%d", (int)getpid());
    unlink(path);
    int rc = store_backup(s, path, e);
    if (rc != 0 && access(path, F_OK) == 0)
        fprintf(stderr, "a backup that failed was left\n"), abort();
    unlink(path);
    return rc;
}

#define C(f)                                                                                       \
    {                                                                                              \
#f, f                                                                                      \
    }
const struct scenario_turn scenario[] = {
    {"nodes", {C(nodes), C(kept), C(fewer_slots), C(nodes), C(kept)}},
    {"submit",
     {C(submit_one), C(submit_held), C(sweep_new), C(submit_of_sweep), C(submit_one_again)}},
    {"start", {C(start_search), C(attempt_dir), C(stage_out), C(job_runs)}},
    {"run",
     {C(kept), C(shim_is_known), C(journal), C(priority), C(cancel_held), C(stopping), C(kept)}},
    {"hand-over",
     {C(bye), C(kept), C(search_ends), C(search_done), C(kept), C(start_fuse), C(set_aside),
      C(outbox), C(kept)}},
    {"fail", {C(fuse_ends), C(fuse_fails), C(job_fails), C(outbox_done), C(drain)}},
    {"again", {C(job_again), C(fuse_again), C(resume), C(checkpoint_gone)}},
    {"read", {C(read_jobs), C(read_stages), C(read_attempts), C(read_results), C(read_rest)}},
    {"backup", {C(backup), C(drain)}},
};
#undef C
const int scenario_turns = sizeof scenario / sizeof scenario[0];
