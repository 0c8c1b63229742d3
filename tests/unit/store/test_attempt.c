/* Attempts take all their slots or none; a slot has one holder; a number is used once. */
#include "fixture.h"

static int64_t slots[8];

static void register_node(struct fixture *f, const char *name, int n)
{
    int64_t id;
    struct store_slot *l;
    size_t count;
    OK(store_node_register(f->s, name, "cpu", n, NOW, &id, &e));
    OK(store_slots(f->s, &l, &count, &e));
    assert_true(count <= 8);
    for (size_t i = 0; i < count; i++)
        slots[i] = l[i].id;
    free(l);
}

static void a_slot_is_not_given_twice_and_a_gang_gets_all_or_none(void **state)
{
    struct fixture *f = *state;
    int64_t a, b;
    bool changed;
    struct store_slot *l;
    size_t n;
    register_node(f, "local", 3);
    int64_t one = stage_id(f, submit(f, "one"), 0), two = stage_id(f, submit(f, "two"), 0);
    a = start(f, one, slots, 2, NULL);
    assert_true(a > 0);

    /* {2, 1}: slot 2 is free, slot 1 is taken: neither is given and the stage stays ready */
    int64_t wanted[2] = {slots[2], slots[1]}, id;
    int number;
    struct store_new_attempt na = {
        .stage = two, .uuid = "u", .slots = wanted, .n_slots = 2, .now_us = NOW};
    FAILS(DHA_E_CONFLICT, store_attempt_new(f->s, &na, &id, &number, &e));
    assert_int_equal(id, 0);
    assert_int_equal(state_of(f, two), STAGE_READY);
    OK(store_slots(f->s, &l, &n, &e));
    assert_int_equal(n, 3);
    assert_int_equal(l[0].attempt, a);
    assert_int_equal(l[1].attempt, a);
    assert_int_equal(l[1].stage, one);
    assert_int_equal(l[2].attempt, 0);
    free(l);

    OK(store_attempt_end(f->s, a, 0, NULL, NOW, &changed, &e));
    OK(store_attempt_new(f->s, &na, &b, &number, &e));
    assert_true(b > a);
    assert_int_equal(number, 1);
    OK(store_slots_of_attempt(f->s, b, &l, &n, &e));
    assert_int_equal(n, 2);
    free(l);
}

/* Even a defect in our own code cannot do it: the index refuses. */
static void the_schema_itself_refuses_a_second_holder(void **state)
{
    struct fixture *f = *state;
    register_node(f, "local", 1);
    int64_t a = start(f, stage_id(f, submit(f, "one"), 0), slots, 1, NULL);
    OK(store_commit(f->s, &e));
    store_close(f->s);
    f->s = NULL;
    char path[96], sql[128];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/state.db", f->dir);
    snprintf(sql, sizeof sql, "INSERT INTO allocation(attempt, slot, from_us) VALUES(%d, %d, 1)",
             (int)a, (int)slots[0]);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_CONSTRAINT);
    sqlite3_close(db);
    open_store(f);
}

static void the_schema_itself_refuses_two_equal_stages_at_once(void **state)
{
    struct fixture *f = *state;
    char path[96];
    sqlite3 *db;
    start(f, stage_id(f, submit(f, "same"), 0), NULL, 0, NULL);
    submit(f, "same");
    OK(store_commit(f->s, &e));
    store_close(f->s);
    f->s = NULL;
    snprintf(path, sizeof path, "%s/state.db", f->dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db, "UPDATE stage SET state = 'running' WHERE ord = 0", NULL, NULL, NULL),
        SQLITE_CONSTRAINT);
    sqlite3_close(db);
    open_store(f);
}

static void two_equal_stages_do_not_run_at_once(void **state)
{
    struct fixture *f = *state;
    int64_t one = stage_id(f, submit(f, "same"), 0), two = stage_id(f, submit(f, "same"), 0);
    struct store_candidate *c;
    size_t n;
    int number;
    assert_true(start(f, one, NULL, 0, NULL) > 0);
    OK(store_candidates(f->s, &c, &n, &e));
    assert_int_equal(n, 1);
    assert_int_equal(c[0].stage, two);
    assert_int_equal(c[0].waits_for, one);
    free(c);
    assert_int_equal(start(f, two, NULL, 0, &number), 0);
    assert_int_equal(number, 0);
    assert_int_equal(state_of(f, two), STAGE_READY);
}

static void an_attempt_number_is_used_once(void **state)
{
    struct fixture *f = *state;
    int64_t id = stage_id(f, submit(f, "a"), 0);
    bool changed;
    struct store_stage st;
    for (int want = 1; want <= 3; want++) {
        int number;
        int64_t a = start(f, id, NULL, 0, &number);
        assert_int_equal(number, want);
        OK(store_attempt_end(f->s, a, 1, NULL, NOW, &changed, &e));
        struct store_stage_move m = {.stage = id,
                                     .from = STAGE_RUNNING,
                                     .to = STAGE_READY,
                                     .attempt = number,
                                     .count_retry = want < 3,
                                     .not_before_us = NOW + want,
                                     .now_us = NOW};
        OK(store_stage_transition(f->s, &m, &changed, &e));
        assert_true(changed);
        OK(store_commit(f->s, &e));
        reopen(f);
    }
    OK(store_stage_get(f->s, id, &st, &e));
    assert_int_equal(st.attempt, 3);
    assert_int_equal(st.retries, 2);
    assert_int_equal(st.not_before_us, NOW + 3);
    store_stage_finish(&st);
    /* also after a retry by the user, which forgets the retries */
    assert_true(move_stage(f, id, STAGE_READY, STAGE_FAILED, 3));
    assert_true(move_stage(f, id, STAGE_FAILED, STAGE_PENDING, 3));
    int number;
    start(f, id, NULL, 0, &number);
    assert_int_equal(number, 4);
    OK(store_stage_get(f->s, id, &st, &e));
    assert_int_equal(st.retries, 0);
    store_stage_finish(&st);
    struct store_attempts l;
    OK(store_attempts_of_stage(f->s, id, &l, &e));
    assert_int_equal(l.n, 4);
    store_attempts_finish(&l);
    OK(store_attempts_live(f->s, &l, &e));
    assert_int_equal(l.n, 1);
    assert_int_equal(l.at[0].number, 4);
    store_attempts_finish(&l);
}

static void what_adoption_needs_survives_a_restart(void **state)
{
    struct fixture *f = *state;
    int64_t id = start(f, stage_id(f, submit(f, "a"), 0), NULL, 0, NULL);
    bool changed;
    struct store_attempt a;
    OK(store_attempt_set_dir(f->s, id, "/state/jobs/1/search/a1", &e));
    OK(store_attempt_set_process(f->s, id, 4242, 99887766, "boot-1", &e));
    OK(store_attempt_set_state(f->s, id, ATTEMPT_STOPPING, "cancelled", NOW, &changed, &e));
    assert_true(changed);
    OK(store_attempt_set_state(f->s, id, ATTEMPT_STOPPING, "again", NOW, &changed, &e));
    assert_false(changed);
    OK(store_commit(f->s, &e));
    reopen(f);
    OK(store_attempt_get(f->s, id, &a, &e));
    assert_string_equal(a.dir, "/state/jobs/1/search/a1");
    assert_int_equal(a.pid, 4242);
    assert_int_equal(a.pid_start, 99887766);
    assert_string_equal(a.boot_id, "boot-1");
    assert_int_equal(a.state, ATTEMPT_STOPPING);
    assert_int_equal(a.exit_code, -1);
    store_attempt_finish(&a);
    FAILS(DHA_E_INTERNAL,
          store_attempt_set_state(f->s, id, ATTEMPT_ENDED, NULL, NOW, &changed, &e));
    FAILS(DHA_E_NOT_FOUND, store_attempt_get(f->s, 4711, &a, &e));
    FAILS(DHA_E_NOT_FOUND, store_attempt_end(f->s, 4711, 0, NULL, NOW, &changed, &e));
    assert_sound(f);
}

static void a_drained_node_gives_no_slots_and_keeps_its_reason(void **state)
{
    struct fixture *f = *state;
    int64_t stage = stage_id(f, submit(f, "a"), 0), id;
    int number;
    struct store_node *nodes;
    size_t n;
    register_node(f, "local", 2);
    OK(store_node_drain(f->s, "local", "pids 17, 18 do not die", NOW, &e));
    struct store_new_attempt na = {
        .stage = stage, .uuid = "u", .slots = slots, .n_slots = 2, .now_us = NOW};
    FAILS(DHA_E_CONFLICT, store_attempt_new(f->s, &na, &id, &number, &e));
    register_node(f, "local", 2); /* a restart of the daemon does not resume it */
    OK(store_nodes(f->s, &nodes, &n, &e));
    assert_int_equal(n, 1);
    assert_true(nodes[0].drained);
    assert_string_equal(nodes[0].reason, "pids 17, 18 do not die");
    free(nodes);
    OK(store_node_resume(f->s, "local", NOW, &e));
    OK(store_attempt_new(f->s, &na, &id, &number, &e));
    assert_true(id > 0);
    FAILS(DHA_E_NOT_FOUND, store_node_drain(f->s, "elsewhere", NULL, NOW, &e));
}

static void a_node_that_shrinks_loses_only_free_slots(void **state)
{
    struct fixture *f = *state;
    struct store_slot *l;
    size_t n;
    bool changed;
    register_node(f, "local", 4);
    int64_t held[1] = {slots[3]}, keep = slots[3];
    int64_t a = start(f, stage_id(f, submit(f, "a"), 0), held, 1, NULL);
    register_node(f, "local", 2);
    OK(store_slots(f->s, &l, &n, &e));
    assert_int_equal(n, 3); /* 0, 1 and the one in use */
    assert_int_equal(l[2].id, keep);
    assert_int_equal(l[2].attempt, a);
    assert_string_equal(l[2].name, "local:3");
    free(l);
    OK(store_attempt_end(f->s, a, 0, NULL, NOW, &changed, &e));
    OK(store_slots(f->s, &l, &n, &e));
    assert_int_equal(n, 2);
    free(l);
}

static void candidates_are_what_waits_and_is_not_held(void **state)
{
    struct fixture *f = *state;
    int64_t a = submit(f, "a"), b = submit(f, "b"), c = submit(f, "c"), d = submit(f, "d");
    struct store_candidate *l;
    size_t n, seen = 0;
    bool changed;
    OK(store_job_set_priority(f->s, c, 10, NOW, &e));
    struct store_job_move hold = {.job = d, .from = JOB_QUEUED, .to = JOB_HELD, .now_us = NOW};
    OK(store_job_transition(f->s, &hold, &changed, &e));
    OK(store_candidates(f->s, &l, &n, &e));
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++) {
        seen += l[i].job == a || l[i].job == b || l[i].job == c;
        assert_int_equal(l[i].priority, l[i].job == c ? 10 : 0);
        assert_int_equal(l[i].slots, 2);
        assert_string_equal(l[i].device, "cpu");
        if (l[i].job == c)
            assert_string_equal(l[i].key, "c-0");
    }
    assert_int_equal(seen, 3);
    free(l);
    FAILS(DHA_E_NOT_FOUND, store_job_set_priority(f->s, 4711, 1, NOW, &e));
}

/* Who waits for a stage's result gets it in the order in which they would start. */
static void jobs_ready_for_a_key_come_by_priority_then_age(void **state)
{
    struct fixture *f = *state;
    int64_t a = submit(f, "same"), b = submit(f, "same"), c = submit(f, "same"), *ids;
    size_t n;
    submit(f, "other");
    OK(store_job_set_priority(f->s, c, 10, NOW, &e));
    OK(store_jobs_ready_for(f->s, "same-0", &ids, &n, &e));
    assert_int_equal(n, 3);
    assert_int_equal(ids[0], c);
    assert_int_equal(ids[1], a);
    assert_int_equal(ids[2], b);
    free(ids);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_slot_is_not_given_twice_and_a_gang_gets_all_or_none),
        T(the_schema_itself_refuses_a_second_holder),
        T(the_schema_itself_refuses_two_equal_stages_at_once),
        T(two_equal_stages_do_not_run_at_once),
        T(an_attempt_number_is_used_once),
        T(what_adoption_needs_survives_a_restart),
        T(a_drained_node_gives_no_slots_and_keeps_its_reason),
        T(a_node_that_shrinks_loses_only_free_slots),
        T(candidates_are_what_waits_and_is_not_held),
        T(jobs_ready_for_a_key_come_by_priority_then_age),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
