/* Submission, idempotency, lists, counts and sweeps. */
#include "fixture.h"

static void the_same_key_of_the_same_owner_is_the_same_job(void **state)
{
    struct fixture *f = *state;
    bool existed;
    int64_t one = submit_as(f, "a", "key-1", &existed);
    assert_false(existed);
    assert_int_equal(submit_as(f, "a", "key-1", &existed), one);
    assert_true(existed);
    OK(store_commit(f->s, &e));
    reopen(f);
    assert_int_equal(submit_as(f, "a", "key-1", &existed), one);
    assert_true(existed);
    assert_true(submit_as(f, "a", "key-2", &existed) > one);
    assert_false(existed);
    assert_int_equal(event_count(f, "job.submit"), 2);

    /* another spec under a used key is a mistake of the caller; another owner's key is another key */
    struct store_new_stage stage = {STAGE_FUSE, "k"};
    struct store_new_job j = {.name = "b",
                              .spec = "{\"other\":1}",
                              .method = "gqa",
                              .budget = 1,
                              .slots = 1,
                              .device = "cpu",
                              .owner_uid = 1000,
                              .idempotency_key = "key-1",
                              .stages = &stage,
                              .n_stages = 1,
                              .now_us = NOW};
    int64_t id;
    FAILS(DHA_E_CONFLICT, store_job_submit(f->s, &j, &id, &existed, &e));
    j.owner_uid = 1001;
    OK(store_job_submit(f->s, &j, &id, &existed, &e));
    assert_false(existed);
}

static void a_job_comes_back_as_it_was_given(void **state)
{
    struct fixture *f = *state;
    struct store_new_stage stages[2] = {{STAGE_FUSE, "k0"}, {STAGE_EXPORT, "k1"}};
    struct store_new_job n = {.name = "n\xc3\xa4me",
                              .spec = "{\"a\":\"\\u00e9\"}",
                              .method = "gqa",
                              .budget = 0.125,
                              .priority = -7,
                              .slots = 8,
                              .device = "cuda",
                              .owner_uid = 42,
                              .hold = true,
                              .stages = stages,
                              .n_stages = 2,
                              .now_us = NOW + 3};
    int64_t id;
    bool existed;
    struct store_job j;
    struct store_stages l;
    OK(store_job_submit(f->s, &n, &id, &existed, &e));
    OK(store_commit(f->s, &e));
    reopen(f);
    OK(store_job_get(f->s, id, &j, &e));
    assert_string_equal(j.name, n.name);
    assert_string_equal(j.spec, n.spec);
    assert_string_equal(j.method, "gqa");
    assert_true(j.budget == 0.125);
    assert_int_equal(j.priority, -7);
    assert_int_equal(j.slots, 8);
    assert_string_equal(j.device, "cuda");
    assert_int_equal(j.owner_uid, 42);
    assert_int_equal(j.state, JOB_HELD);
    assert_int_equal(j.submitted_us, NOW + 3);
    assert_int_equal(j.started_us, 0);
    assert_null(j.cancel_reason);
    assert_string_equal(j.error.code, "");
    store_job_finish(&j);
    OK(store_stages_of_job(f->s, id, &l, &e));
    assert_int_equal(l.n, 2);
    assert_int_equal(l.at[0].kind, STAGE_FUSE);
    assert_int_equal(l.at[1].kind, STAGE_EXPORT);
    assert_string_equal(l.at[1].key, "k1");
    assert_int_equal(l.at[1].ord, 1);
    store_stages_finish(&l);
    n.n_stages = 0;
    FAILS(DHA_E_INTERNAL, store_job_submit(f->s, &n, &id, &existed, &e));
}

static void what_a_gang_asks_of_nodes_is_what_the_scheduler_is_told(void **state)
{
    struct fixture *f = *state;
    struct store_new_stage stage = {STAGE_FUSE, "k0"};
    struct store_new_job n = {.name = "a",
                              .spec = "{}",
                              .method = "gqa",
                              .slots = 8,
                              .nodes = 2,
                              .slot_memory = 1ll << 33,
                              .node_names = "n1 n2",
                              .device = "cpu",
                              .stages = &stage,
                              .n_stages = 1,
                              .now_us = NOW};
    int64_t id[2];
    bool existed;
    struct store_candidate *c;
    size_t count;
    char *names;
    OK(store_job_submit(f->s, &n, &id[0], &existed, &e));
    n.nodes = 0;
    n.slot_memory = 0;
    n.node_names = NULL;
    OK(store_job_submit(f->s, &n, &id[1], &existed, &e));
    OK(store_candidates(f->s, &c, &count, &e));
    assert_int_equal(count, 2);
    assert_int_equal(c[0].nodes, 2);
    assert_int_equal(c[0].slots, 8);
    assert_true(c[0].slot_memory == 1ll << 33);
    assert_true(c[0].named);
    assert_int_equal(c[1].nodes, 1);
    assert_false(c[1].named);
    free(c);
    OK(store_job_node_names(f->s, id[0], &names, &e));
    assert_string_equal(names, "n1 n2");
    free(names);
    FAILS(DHA_E_NOT_FOUND, store_job_node_names(f->s, 99, &names, &e));
}

static int64_t submit_after(struct fixture *f, const char *key,
                            const struct store_dependency *after, size_t n)
{
    struct store_new_stage stage = {STAGE_FUSE, key};
    struct store_new_job j = {.name = "after",
                              .spec = "{}",
                              .method = "gqa",
                              .slots = 1,
                              .device = "cpu",
                              .stages = &stage,
                              .n_stages = 1,
                              .after = after,
                              .n_after = n,
                              .now_us = NOW};
    int64_t id;
    bool existed;
    OK(store_job_submit(f->s, &j, &id, &existed, &e));
    return id;
}

static void end_job(struct fixture *f, int64_t job, enum job_state to)
{
    bool changed;
    struct store_job_move m = {.job = job, .from = JOB_QUEUED, .to = to, .now_us = NOW};
    OK(store_job_transition(f->s, &m, &changed, &e));
    assert_true(changed);
}

static void assert_waits(struct fixture *f, int64_t job, int64_t for_whom)
{
    int64_t on;
    OK(store_job_waits_for(f->s, job, &on, &e));
    assert_int_equal(on, for_whom);
}

static void assert_freed(struct fixture *f, int64_t by, size_t expected, int64_t first)
{
    int64_t *ids;
    size_t n;
    OK(store_jobs_freed_by(f->s, by, &ids, &n, &e));
    assert_int_equal(n, expected);
    if (n)
        assert_int_equal(ids[0], first);
    free(ids);
}

static void who_waits_is_freed_by_the_last_end(void **state)
{
    struct fixture *f = *state;
    int64_t a = submit_after(f, "a", NULL, 0), b = submit_after(f, "b", NULL, 0);
    int64_t both = submit_after(
        f, "a", (struct store_dependency[]){{.job = a}, {.job = b, .any = true}}, 2);
    int64_t ok_b = submit_after(f, "c", &(struct store_dependency){.job = b}, 1);
    assert_waits(f, a, 0);
    assert_waits(f, both, a);
    assert_waits(f, ok_b, b);
    assert_freed(f, a, 0, 0);
    end_job(f, a, JOB_CANCELLED);
    assert_waits(f, both, a); /* it is to be done */
    assert_freed(f, a, 0, 0);
    struct store_job_move m = {.job = a, .from = JOB_CANCELLED, .to = JOB_QUEUED, .now_us = NOW};
    bool changed;
    OK(store_job_transition(f->s, &m, &changed, &e));
    m.from = JOB_QUEUED;
    m.to = JOB_RUNNING;
    OK(store_job_transition(f->s, &m, &changed, &e));
    m.from = JOB_RUNNING;
    m.to = JOB_DONE;
    OK(store_job_transition(f->s, &m, &changed, &e));
    assert_waits(f, both, b);
    assert_freed(f, a, 0, 0); /* not of all it waits for */
    end_job(f, b, JOB_CANCELLED);
    assert_waits(f, both, 0);
    assert_waits(f, ok_b, b);
    assert_freed(f, a, 1, both);
    assert_freed(f, b, 1, both);
    int64_t *ids;
    size_t n;
    OK(store_jobs_ready_for(f->s, "a", &ids, &n, &e));
    assert_int_equal(n, 1); /* job a has ended */
    assert_int_equal(ids[0], both);
    free(ids);
    end_job(f, both, JOB_CANCELLED);
    assert_freed(f, b, 0, 0); /* it does not wait any more, for whatever reason */
}

/* Ten thousand jobs are in the list that `dha list` has to show at once; how fast is the bench's business. */
static void lists_page_and_filter_ten_thousand_jobs(void **state)
{
    struct fixture *f = *state;
    struct store_jobs l;
    int64_t counts[JOB_STATES], stages[STAGE_STATES];
    for (int i = 0; i < 10000; i++) {
        char name[16];
        snprintf(name, sizeof name, "job%d", i % 100);
        int64_t id = submit(f, name);
        if (i % 10 == 0) {
            bool changed;
            struct store_job_move m = {
                .job = id, .from = JOB_QUEUED, .to = JOB_RUNNING, .now_us = NOW};
            OK(store_job_transition(f->s, &m, &changed, &e));
        }
    }
    OK(store_commit(f->s, &e));
    struct store_job_filter q = {.limit = 20000};
    OK(store_jobs_list(f->s, &q, &l, &e));
    assert_int_equal(l.n, 10000);
    for (size_t i = 0; i < l.n; i++)
        assert_int_equal(l.at[i].id, 10000 - (int64_t)i);
    assert_null(l.at[0].spec);
    store_jobs_finish(&l);

    q = (struct store_job_filter){0};
    OK(store_jobs_list(f->s, &q, &l, &e));
    assert_int_equal(l.n, 100);
    int64_t last = l.at[99].id;
    store_jobs_finish(&l);
    q.before = last;
    OK(store_jobs_list(f->s, &q, &l, &e));
    assert_int_equal(l.at[0].id, last - 1);
    store_jobs_finish(&l);

    q = (struct store_job_filter){.states = 1u << JOB_RUNNING, .limit = 20000};
    OK(store_jobs_list(f->s, &q, &l, &e));
    assert_int_equal(l.n, 1000);
    for (size_t i = 0; i < l.n; i++)
        assert_int_equal(l.at[i].state, JOB_RUNNING);
    store_jobs_finish(&l);
    q = (struct store_job_filter){.name = "job7", .limit = 20000};
    OK(store_jobs_list(f->s, &q, &l, &e));
    assert_int_equal(l.n, 100);
    store_jobs_finish(&l);
    q = (struct store_job_filter){.name = "none"};
    OK(store_jobs_list(f->s, &q, &l, &e));
    assert_int_equal(l.n, 0);
    store_jobs_finish(&l);

    OK(store_counts(f->s, counts, stages, &e));
    assert_int_equal(counts[JOB_QUEUED], 9000);
    assert_int_equal(counts[JOB_RUNNING], 1000);
    assert_int_equal(stages[STAGE_READY], 10000);
    assert_int_equal(stages[STAGE_PENDING], 20000);
    struct store_candidate *c;
    size_t n;
    OK(store_candidates(f->s, &c, &n, &e));
    assert_int_equal(n, 10000);
    free(c);
}

static void a_sweep_finds_its_jobs(void **state)
{
    struct fixture *f = *state;
    int64_t sweep, other, id;
    bool existed;
    struct store_sweep w;
    struct store_sweeps ws;
    struct store_jobs l;
    struct store_new_stage stage = {STAGE_FUSE, "k"};
    struct store_new_sweep one = {
        .name = "sw", .spec = "{\"budgets\":[1]}", .owner_uid = 7, .now_us = NOW};
    struct store_new_sweep two = {.name = "sw2",
                                  .spec = "{}",
                                  .skipped = "[1]",
                                  .owner_uid = 7,
                                  .stop_dominated = true,
                                  .margin = 0.5,
                                  .idempotency_key = "k",
                                  .now_us = NOW};
    OK(store_sweep_new(f->s, &one, &sweep, &e));
    OK(store_sweep_new(f->s, &two, &other, &e));
    for (int i = 0; i < 3; i++) {
        struct store_new_job j = {.name = "s",
                                  .spec = "{}",
                                  .method = "gqa",
                                  .budget = 1,
                                  .slots = 1,
                                  .device = "cpu",
                                  .sweep = i < 2 ? sweep : other,
                                  .stages = &stage,
                                  .n_stages = 1,
                                  .now_us = NOW};
        OK(store_job_submit(f->s, &j, &id, &existed, &e));
    }
    OK(store_commit(f->s, &e));
    struct store_job_filter q = {.sweep = sweep};
    OK(store_jobs_list(f->s, &q, &l, &e));
    assert_int_equal(l.n, 2);
    assert_int_equal(l.at[0].sweep, sweep);
    store_jobs_finish(&l);
    q.name = "s";
    OK(store_jobs_list(f->s, &q, &l, &e));
    assert_int_equal(l.n, 2);
    store_jobs_finish(&l);
    OK(store_sweep_get(f->s, sweep, &w, &e));
    assert_string_equal(w.name, "sw");
    assert_string_equal(w.spec, "{\"budgets\":[1]}");
    assert_int_equal(w.created_us, NOW);
    store_sweep_finish(&w);
    struct store_sweep_filter all = {0};
    OK(store_sweeps_list(f->s, &all, &ws, &e));
    assert_int_equal(ws.n, 2);
    assert_int_equal(ws.at[0].id, other);
    assert_true(ws.at[0].stop_dominated && ws.at[0].margin == 0.5);
    assert_string_equal(ws.at[0].skipped, "[1]");
    store_sweeps_finish(&ws);
    all.to_watch = true;
    OK(store_sweeps_list(f->s, &all, &ws, &e));
    assert_int_equal(ws.n, 1);
    assert_int_equal(ws.at[0].id, other);
    store_sweeps_finish(&ws);
    all = (struct store_sweep_filter){.name = "sw"};
    OK(store_sweeps_list(f->s, &all, &ws, &e));
    assert_int_equal(ws.n, 1);
    assert_int_equal(ws.at[0].id, sweep);
    store_sweeps_finish(&ws);
    FAILS(DHA_E_NOT_FOUND, store_sweep_get(f->s, 4711, &w, &e));
}

static void a_sweeps_name_and_key_are_its_owners_once(void **state)
{
    struct fixture *f = *state;
    int64_t a, b, found;
    struct store_new_sweep w = {
        .name = "s", .spec = "{}", .owner_uid = 7, .idempotency_key = "k", .now_us = NOW};
    OK(store_sweep_new(f->s, &w, &a, &e));
    FAILS(DHA_E_CONFLICT, store_sweep_new(f->s, &w, &b, &e));
    w.owner_uid = 8;
    OK(store_sweep_new(f->s, &w, &b, &e)); /* another's */
    w.owner_uid = 7;
    w.name = "";
    w.idempotency_key = NULL;
    OK(store_sweep_new(f->s, &w, &b, &e));
    OK(store_sweep_new(f->s, &w, &b, &e)); /* unnamed ones are as many as you like */
    OK(store_sweep_find(f->s, 7, "k", "other", &found, &e));
    assert_int_equal(found, a);
    OK(store_sweep_find(f->s, 7, NULL, "s", &found, &e));
    assert_int_equal(found, a);
    OK(store_sweep_find(f->s, 7, "none", "", &found, &e));
    assert_int_equal(found, 0);
    OK(store_commit(f->s, &e));
    assert_sound(f);
}

static void events_are_one_sequence_without_gaps(void **state)
{
    struct fixture *f = *state;
    struct store_events l;
    int64_t seq;
    for (int i = 0; i < 5; i++) {
        OK(store_event_add(f->s, "test", 1, 0, 0, NULL, NOW + i, &seq, &e));
        assert_int_equal(seq, i < 2 ? i + 1 : i);
        if (i == 1)
            store_rollback(f->s); /* its number is given again: nobody saw it */
        else if (i == 0)
            OK(store_commit(f->s, &e));
    }
    OK(store_commit(f->s, &e));
    assert_int_equal(store_event_last(f->s), 4);
    OK(store_events_list(f->s, 2, 1, &l, &e));
    assert_int_equal(l.n, 1);
    assert_int_equal(l.at[0].seq, 3);
    assert_string_equal(l.at[0].data, "{}");
    store_events_finish(&l);
    reopen(f);
    assert_int_equal(store_event_last(f->s), 4);
    assert_sound(f);
}

static struct store_candidate candidate(struct fixture *f, int64_t job)
{
    struct store_candidate *l, found = {0};
    size_t n;
    OK(store_candidates(f->s, &l, &n, &e));
    for (size_t i = 0; i < n; i++)
        found = l[i].job == job ? l[i] : found;
    free(l);
    assert_int_equal(found.job, job);
    return found;
}

static void move_job(struct fixture *f, int64_t job, enum job_state from, enum job_state to)
{
    bool changed;
    struct store_job_move m = {.job = job, .from = from, .to = to, .now_us = NOW};
    OK(store_job_transition(f->s, &m, &changed, &e));
    assert_true(changed);
}

static void a_job_waits_for_the_ends_it_asked_for(void **state)
{
    struct fixture *f = *state;
    int64_t first = submit(f, "first"), second = submit(f, "second"), id;
    bool existed;
    struct store_dependency after[] = {{.job = first}, {.job = second, .any = true}}, *l;
    struct store_new_stage stage = {STAGE_FUSE, "k"};
    struct store_new_job j = {.name = "last",
                              .spec = "{}",
                              .method = "gqa",
                              .budget = 1,
                              .slots = 1,
                              .device = "cpu",
                              .owner_uid = 1000,
                              .walltime_s = 3600,
                              .after = after,
                              .n_after = 2,
                              .stages = &stage,
                              .n_stages = 1,
                              .now_us = NOW};
    size_t n;
    OK(store_job_submit(f->s, &j, &id, &existed, &e));
    assert_int_equal(candidate(f, id).walltime_s, 3600);
    assert_int_equal(candidate(f, id).depends_on, first);
    assert_int_equal(candidate(f, first).depends_on, 0);

    move_job(f, first, JOB_QUEUED, JOB_RUNNING);
    move_job(f, first, JOB_RUNNING, JOB_FAILED);
    assert_int_equal(candidate(f, id).depends_on, first); /* its failure is not enough */
    move_job(f, first, JOB_FAILED, JOB_QUEUED);
    move_job(f, first, JOB_QUEUED, JOB_RUNNING);
    move_job(f, first, JOB_RUNNING, JOB_DONE);
    assert_int_equal(candidate(f, id).depends_on, second);
    move_job(f, second, JOB_QUEUED, JOB_CANCELLED); /* that is an end, too */
    assert_int_equal(candidate(f, id).depends_on, 0);

    OK(store_commit(f->s, &e));
    reopen(f);
    OK(store_dependencies(f->s, id, &l, &n, &e));
    assert_int_equal(n, 2);
    assert_true(l[0].job == first && !l[0].any && l[0].state == JOB_DONE);
    assert_true(l[1].job == second && l[1].any && l[1].state == JOB_CANCELLED);
    free(l);

    /* of two conditions on one job the stricter one holds; one on no job is refused whole */
    after[1] = (struct store_dependency){.job = first, .any = true};
    OK(store_job_submit(f->s, &j, &id, &existed, &e));
    OK(store_dependencies(f->s, id, &l, &n, &e));
    assert_true(n == 1 && !l[0].any);
    free(l);
    after[1].job = 4711;
    FAILS(DHA_E_NOT_FOUND, store_job_submit(f->s, &j, &id, &existed, &e));
    OK(store_commit(f->s, &e));
    assert_int_equal(count_rows(f, "SELECT count(*) FROM job"), 4);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(the_same_key_of_the_same_owner_is_the_same_job),
        T(a_job_comes_back_as_it_was_given),
        T(what_a_gang_asks_of_nodes_is_what_the_scheduler_is_told),
        T(who_waits_is_freed_by_the_last_end),
        T(lists_page_and_filter_ten_thousand_jobs),
        T(a_sweep_finds_its_jobs),
        T(a_job_waits_for_the_ends_it_asked_for),
        T(a_sweeps_name_and_key_are_its_owners_once),
        T(events_are_one_sequence_without_gaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
