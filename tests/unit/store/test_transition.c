/* Jobs and stages move along the arrows of the tables and no others; a stale move changes nothing. */
#include "fixture.h"

/* Brings a fresh job to `to` by allowed moves. */
static int64_t job_in(struct fixture *f, enum job_state to)
{
    char name[32];
    static int serial;
    snprintf(name, sizeof name, "job%d", serial++);
    int64_t id = submit(f, name);
    bool changed;
    struct store_job_move m = {.job = id, .from = JOB_QUEUED, .to = to, .now_us = NOW};
    if (to != JOB_QUEUED) {
        OK(store_job_transition(f->s, &m, &changed, &e));
        assert_true(changed);
    }
    return id;
}

static void every_job_move_is_either_allowed_or_refused(void **state)
{
    /* the table once more, written as people read it: a change of one must be a change of both */
    static const char *const allowed[JOB_STATES] = {
        [JOB_QUEUED] = "held running done failed cancelled",
        [JOB_HELD] = "queued running done failed cancelled",
        [JOB_RUNNING] = "queued held done failed cancelled",
        [JOB_DONE] = "",
        [JOB_FAILED] = "queued",
        [JOB_CANCELLED] = "queued",
    };
    struct fixture *f = *state;
    for (int from = 0; from < JOB_STATES; from++) {
        for (int to = 0; to < JOB_STATES; to++) {
            bool want = strstr(allowed[from], job_state_name((enum job_state)to)) != NULL;
            int64_t id = job_in(f, (enum job_state)from);
            struct store_job_move m = {.job = id,
                                       .from = (enum job_state)from,
                                       .to = (enum job_state)to,
                                       .now_us = NOW + 5};
            bool changed = false;
            struct store_job j;
            assert_int_equal(job_move_allowed(m.from, m.to), want);
            if (want)
                OK(store_job_transition(f->s, &m, &changed, &e));
            else
                FAILS(DHA_E_CONFLICT, store_job_transition(f->s, &m, &changed, &e));
            assert_int_equal(changed, want);
            OK(store_job_get(f->s, id, &j, &e));
            assert_int_equal(j.state, want ? to : from);
            store_job_finish(&j);
        }
    }
    OK(store_commit(f->s, &e));
    assert_false(job_move_allowed(JOB_STATES, JOB_QUEUED));
}

static void stage_to(struct fixture *f, int64_t id, enum stage_state want)
{
    int number = 0;
    if (want == STAGE_READY)
        return;
    if (want == STAGE_RUNNING || want == STAGE_DONE) {
        int64_t a = start(f, id, NULL, 0, &number);
        assert_true(a > 0);
        if (want == STAGE_DONE) {
            bool changed;
            OK(store_attempt_end(f->s, a, 0, NULL, NOW, &changed, &e));
            assert_true(move_stage(f, id, STAGE_RUNNING, STAGE_DONE, number));
        }
        return;
    }
    assert_true(move_stage(f, id, STAGE_READY, want, 0));
}

static void every_stage_move_is_either_allowed_or_refused(void **state)
{
    static const char *const allowed[STAGE_STATES] = {
        [STAGE_PENDING] = "ready reused failed cancelled",
        [STAGE_READY] = "pending reused failed cancelled", /* running: by store_attempt_new() */
        [STAGE_RUNNING] = "ready done failed cancelled",
        [STAGE_DONE] = "pending",
        [STAGE_REUSED] = "pending",
        [STAGE_FAILED] = "pending",
        [STAGE_CANCELLED] = "pending",
    };
    struct fixture *f = *state;
    for (int from = 0; from < STAGE_STATES; from++) {
        for (int to = 0; to < STAGE_STATES; to++) {
            char name[32];
            snprintf(name, sizeof name, "m%d-%d", from, to);
            int64_t before = submit(f, name); /* something with the same keys to reuse */
            stage_to(f, stage_id(f, before, 0), STAGE_DONE);
            stage_to(f, stage_id(f, before, 1), STAGE_DONE);
            int ord = from == STAGE_PENDING ? 1 : 0;
            int64_t source = stage_id(f, before, ord), id = stage_id(f, submit(f, name), ord);
            bool changed = false,
                 want = strstr(allowed[from], stage_state_name((enum stage_state)to)) != NULL;
            if (from == STAGE_REUSED) {
                struct store_stage_move r = {.stage = id,
                                             .from = STAGE_READY,
                                             .to = STAGE_REUSED,
                                             .reused_from = source,
                                             .now_us = NOW};
                OK(store_stage_transition(f->s, &r, &changed, &e));
                assert_true(changed);
            } else if (from != STAGE_PENDING) {
                stage_to(f, id, (enum stage_state)from);
            }
            int number = from == STAGE_RUNNING || from == STAGE_DONE;
            changed = false;
            struct store_stage_move m = {.stage = id,
                                         .from = (enum stage_state)from,
                                         .to = (enum stage_state)to,
                                         .attempt = number,
                                         .reused_from = to == STAGE_REUSED ? source : 0,
                                         .now_us = NOW};
            if (want)
                OK(store_stage_transition(f->s, &m, &changed, &e));
            else
                FAILS(DHA_E_CONFLICT, store_stage_transition(f->s, &m, &changed, &e));
            assert_int_equal(changed, want);
            enum stage_state end = state_of(f, id);
            if (!want)
                assert_int_equal(end, from);
            else if (to == STAGE_PENDING) /* nothing before it is missing: ready at once */
                assert_int_equal(end, STAGE_READY);
            else
                assert_int_equal(end, to);
            OK(store_commit(f->s, &e));
        }
    }
}

static void a_stale_move_changes_nothing_and_says_so(void **state)
{
    struct fixture *f = *state;
    int64_t job = submit(f, "a"), id = stage_id(f, job, 0);
    int number;
    int64_t a = start(f, id, NULL, 0, &number);
    bool changed;
    assert_int_equal(number, 1);
    size_t events = event_count(f, NULL);
    assert_false(move_stage(f, id, STAGE_READY, STAGE_CANCELLED, 1)); /* of a state it left */
    assert_false(move_stage(f, id, STAGE_RUNNING, STAGE_DONE, 0));    /* of an older attempt */
    assert_false(move_stage(f, id, STAGE_RUNNING, STAGE_DONE, 2));    /* of one that never was */
    assert_false(move_stage(f, 4711, STAGE_RUNNING, STAGE_DONE, 1));  /* of no stage */
    assert_int_equal(state_of(f, id), STAGE_RUNNING);
    struct store_job_move m = {
        .job = job, .from = JOB_HELD, .to = JOB_QUEUED, .now_us = NOW, .outbox = "x"};
    OK(store_job_transition(f->s, &m, &changed, &e));
    assert_false(changed);
    struct store_actions acts;
    OK(store_outbox_list(f->s, &acts, &e));
    assert_int_equal(acts.n, 0);
    store_actions_finish(&acts);
    assert_int_equal(event_count(f, NULL), events);

    /* the second of two equal messages is stale */
    OK(store_attempt_end(f->s, a, 0, NULL, NOW, &changed, &e));
    assert_true(changed);
    OK(store_attempt_end(f->s, a, 9, NULL, NOW, &changed, &e));
    assert_false(changed);
    assert_true(move_stage(f, id, STAGE_RUNNING, STAGE_DONE, 1));
    assert_false(move_stage(f, id, STAGE_RUNNING, STAGE_DONE, 1));
}

static void completing_a_stage_makes_the_next_ready_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    int64_t job = submit(f, "a");
    int64_t st[3] = {stage_id(f, job, 0), stage_id(f, job, 1), stage_id(f, job, 2)};
    assert_int_equal(state_of(f, st[0]), STAGE_READY);
    assert_int_equal(state_of(f, st[1]), STAGE_PENDING);
    stage_to(f, st[0], STAGE_DONE);
    assert_int_equal(state_of(f, st[1]), STAGE_READY);
    assert_int_equal(state_of(f, st[2]), STAGE_PENDING);
    stage_to(f, st[1], STAGE_DONE);
    assert_int_equal(state_of(f, st[2]), STAGE_READY);
    assert_sound(f);

    /* taking the first back makes what was ready behind it wait again */
    assert_true(move_stage(f, st[0], STAGE_DONE, STAGE_PENDING, 1));
    assert_int_equal(state_of(f, st[0]), STAGE_READY);
    assert_int_equal(state_of(f, st[2]), STAGE_PENDING);
    stage_to(f, st[0], STAGE_DONE);
    assert_int_equal(state_of(f, st[1]), STAGE_DONE);
}

static void a_retried_stage_waits_for_what_is_before_it(void **state)
{
    struct fixture *f = *state;
    int64_t job = submit(f, "a");
    int64_t first = stage_id(f, job, 0), second = stage_id(f, job, 1);
    assert_true(move_stage(f, first, STAGE_READY, STAGE_FAILED, 0));
    assert_true(move_stage(f, second, STAGE_PENDING, STAGE_CANCELLED, 0));
    assert_true(move_stage(f, second, STAGE_CANCELLED, STAGE_PENDING, 0));
    assert_int_equal(state_of(f, second), STAGE_PENDING);
    assert_true(move_stage(f, first, STAGE_FAILED, STAGE_PENDING, 0));
    assert_int_equal(state_of(f, first), STAGE_READY);
}

/* Who knows the stages as they were submitted and hears every event knows them as they are. */
static void events_tell_of_every_stage_that_moves(void **state)
{
    struct fixture *f = *state;
    int64_t job = submit(f, "a"), ids[3];
    enum stage_state told[3] = {STAGE_READY, STAGE_PENDING, STAGE_PENDING};
    for (int i = 0; i < 3; i++)
        ids[i] = stage_id(f, job, i);
    OK(store_commit(f->s, &e));
    int64_t before = store_event_last(f->s);
    stage_to(f, ids[0], STAGE_DONE);
    stage_to(f, ids[1], STAGE_DONE);
    assert_int_equal(state_of(f, ids[2]), STAGE_READY);
    assert_true(move_stage(f, ids[0], STAGE_DONE, STAGE_PENDING, 1)); /* its output is gone */
    assert_int_equal(state_of(f, ids[2]), STAGE_PENDING);
    OK(store_commit(f->s, &e));
    struct store_events l;
    OK(store_events_list(f->s, before, 0, &l, &e));
    for (size_t i = 0; i < l.n; i++)
        for (int k = 0; k < 3; k++)
            if (l.at[i].stage == ids[k] && strcmp(l.at[i].type, "stage.state") == 0) {
                char from[32];
                const char *to = strstr(l.at[i].data, "\"to\":\"");
                snprintf(from, sizeof from, "{\"from\":\"%s\"", stage_state_name(told[k]));
                assert_int_equal(strncmp(l.at[i].data, from, strlen(from)), 0);
                assert_non_null(to);
                char name[16];
                assert_int_equal(sscanf(to, "\"to\":\"%15[a-z]", name), 1);
                assert_int_equal(stage_state_from_name(name, &told[k]), 0);
            }
    store_events_finish(&l);
    for (int k = 0; k < 3; k++)
        assert_int_equal(told[k], state_of(f, ids[k]));
}

static void a_reused_stage_has_the_results_of_the_done_one(void **state)
{
    struct fixture *f = *state;
    int64_t one = submit(f, "same"), two = submit(f, "same");
    int64_t source = stage_id(f, one, 0), copy = stage_id(f, two, 0);
    int number;
    bool changed, stale;
    struct store_stage st;
    struct store_stage_move m = {.stage = copy,
                                 .from = STAGE_READY,
                                 .to = STAGE_REUSED,
                                 .reused_from = source,
                                 .now_us = NOW};
    /* not before it is done */
    FAILS(DHA_E_CONFLICT, store_stage_transition(f->s, &m, &changed, &e));
    assert_int_equal(state_of(f, copy), STAGE_READY);
    FAILS(DHA_E_NOT_FOUND, store_stage_done_by_key(f->s, "same-0", &st, &e));

    int64_t a = start(f, source, NULL, 0, &number);
    OK(store_stage_running_by_key(f->s, "same-0", &st, &e));
    assert_int_equal(st.id, source);
    store_stage_finish(&st);
    struct record bye = {.type = REC_BYE,
                         .time = 1,
                         .bye = {.code = "ok", .tokens = 777, .output = "/out/plan.json"}};
    OK(store_ingest(f->s, a, 0, 10, &bye, 1, NOW, &stale, &e));
    OK(store_attempt_end(f->s, a, 0, NULL, NOW, &changed, &e));
    struct store_stage_move done = {.stage = source,
                                    .from = STAGE_RUNNING,
                                    .to = STAGE_DONE,
                                    .attempt = number,
                                    .out_dir = "/out",
                                    .now_us = NOW};
    OK(store_stage_transition(f->s, &done, &changed, &e));
    assert_true(changed);

    OK(store_stage_done_by_key(f->s, "same-0", &st, &e));
    assert_int_equal(st.id, source);
    store_stage_finish(&st);
    OK(store_stage_transition(f->s, &m, &changed, &e));
    assert_true(changed);
    OK(store_stage_get(f->s, copy, &st, &e));
    assert_int_equal(st.reused_from, source);
    assert_int_equal(st.reused_job, one);
    assert_string_equal(st.out_dir, "/out");
    assert_string_equal(st.output, "/out/plan.json");
    assert_int_equal(st.tokens, 777);
    store_stage_finish(&st);
    assert_int_equal(state_of(f, stage_id(f, two, 1)), STAGE_READY);
    assert_sound(f);

    /* another key is another result */
    int64_t other = stage_id(f, submit(f, "other"), 0);
    m.stage = other;
    FAILS(DHA_E_CONFLICT, store_stage_transition(f->s, &m, &changed, &e));
}

static void moves_leave_their_event_and_their_action(void **state)
{
    struct fixture *f = *state;
    int64_t job = submit(f, "a"), id = stage_id(f, job, 0);
    struct store_events l;
    struct store_actions acts;
    bool changed;
    OK(store_commit(f->s, &e));
    int64_t before = store_event_last(f->s);
    struct dha_err why = {.code = DHA_E_INPUT, .msg = "no such file", .hint = "give another"};
    struct store_stage_move m = {.stage = id,
                                 .from = STAGE_READY,
                                 .to = STAGE_FAILED,
                                 .reason = "bad \"data\"",
                                 .error = &why,
                                 .outbox = "notify",
                                 .outbox_args = "{\"x\":1}",
                                 .now_us = NOW + 1};
    OK(store_stage_transition(f->s, &m, &changed, &e));
    assert_int_equal(store_event_last(f->s), before); /* nobody is told before the commit */
    OK(store_commit(f->s, &e));
    assert_int_equal(store_event_last(f->s), before + 1);
    OK(store_events_list(f->s, before, 0, &l, &e));
    assert_int_equal(l.n, 1);
    assert_string_equal(l.at[0].type, "stage.state");
    assert_int_equal(l.at[0].job, job);
    assert_int_equal(l.at[0].stage, id);
    assert_string_equal(l.at[0].data,
                        "{\"from\":\"ready\",\"to\":\"failed\",\"reason\":\"bad \\\"data\\\"\"}");
    store_events_finish(&l);
    OK(store_outbox_list(f->s, &acts, &e));
    assert_int_equal(acts.n, 1);
    assert_string_equal(acts.at[0].action, "notify");
    assert_string_equal(acts.at[0].args, "{\"x\":1}");
    assert_int_equal(acts.at[0].stage, id);
    OK(store_outbox_delete(f->s, acts.at[0].id, &e));
    store_actions_finish(&acts);
    OK(store_outbox_list(f->s, &acts, &e));
    assert_int_equal(acts.n, 0);
    struct store_stage st;
    OK(store_stage_get(f->s, id, &st, &e));
    assert_string_equal(st.error.code, "bad_input");
    assert_string_equal(st.error.message, "no such file");
    assert_int_equal(st.ended_us, NOW + 1);
    store_stage_finish(&st);
}

static void cancel_is_an_intent_that_stands_until_the_job_is_final(void **state)
{
    struct fixture *f = *state;
    int64_t job = submit(f, "a"), *ids;
    size_t n;
    bool changed;
    struct store_job j;
    struct store_candidate *c;
    OK(store_job_cancel(f->s, job, "wrong data", false, NOW, &changed, &e));
    assert_true(changed);
    OK(store_job_cancel(f->s, job, "again", false, NOW, &changed, &e));
    assert_false(changed); /* says nothing new */
    OK(store_job_cancel(f->s, job, "hurry", true, NOW, &changed, &e));
    assert_true(changed);
    OK(store_commit(f->s, &e));
    reopen(f);
    OK(store_jobs_cancelling(f->s, &ids, &n, &e));
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], job);
    free(ids);
    OK(store_candidates(f->s, &c, &n, &e));
    assert_int_equal(n, 0); /* nothing of it is started any more */
    free(c);
    OK(store_job_get(f->s, job, &j, &e));
    assert_true(j.cancel && j.cancel_now);
    assert_string_equal(j.cancel_reason, "wrong data");
    store_job_finish(&j);
    struct store_job_move m = {.job = job, .from = JOB_QUEUED, .to = JOB_CANCELLED, .now_us = NOW};
    OK(store_job_transition(f->s, &m, &changed, &e));
    OK(store_jobs_cancelling(f->s, &ids, &n, &e));
    assert_int_equal(n, 0);
    OK(store_job_cancel(f->s, job, NULL, true, NOW, &changed, &e));
    assert_false(changed);
    m = (struct store_job_move){.job = job, .from = JOB_CANCELLED, .to = JOB_QUEUED, .now_us = NOW};
    OK(store_job_transition(f->s, &m, &changed, &e));
    OK(store_job_get(f->s, job, &j, &e));
    assert_false(j.cancel);
    assert_int_equal(j.ended_us, 0);
    store_job_finish(&j);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(every_job_move_is_either_allowed_or_refused),
        T(every_stage_move_is_either_allowed_or_refused),
        T(a_stale_move_changes_nothing_and_says_so),
        T(completing_a_stage_makes_the_next_ready_and_nothing_else),
        T(a_retried_stage_waits_for_what_is_before_it),
        T(events_tell_of_every_stage_that_moves),
        T(a_reused_stage_has_the_results_of_the_done_one),
        T(moves_leave_their_event_and_their_action),
        T(cancel_is_an_intent_that_stands_until_the_job_is_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
