/* Each journal record counts exactly once, wherever the controller dies. */
#include <math.h>
#include <signal.h>
#include <sys/wait.h>

#include "fixture.h"

/* A journal with every kind of record. Record i ends at byte offset 10 * (i + 1). */
static const struct record journal[] = {
    {.type = REC_HELLO,
     .time = 1,
     .hello = {.stage = "train",
               .backend = "cpu avx512",
               .host = "n1",
               .attempt = 1,
               .ranks = 2,
               .steps = 4,
               .resumed_from = -1}},
    {.type = REC_PHASE, .time = 2, .phase = {.name = "calibrate", .done = 1, .total = 2}},
    {.type = REC_PHASE, .time = 3, .phase = {.name = "calibrate", .done = 2, .total = 2}},
    {.type = REC_HEAD_BUDGET,
     .time = 4,
     .head_budget = {.layer = 0, .kind = "key", .heads = 2, .n_map = 4, .map = {0, 0, 1, 1}}},
    {.type = REC_HEAD_BUDGET,
     .time = 4,
     .head_budget = {.layer = 0, .kind = "value", .heads = 1, .n_map = 4, .map = {0, 0, 0, 0}}},
    {.type = REC_PROGRESS,
     .time = 5,
     .progress = {.step = 1,
                  .steps = 4,
                  .tokens = 100,
                  .loss = 3.5,
                  .lm = 3.5,
                  .lr = 1e-3,
                  .fusion_loss = NAN,
                  .lambda = NAN,
                  .threshold = NAN,
                  .bild = NAN,
                  .closed = NAN,
                  .teacher_ms = NAN}},
    {.type = REC_EVAL,
     .time = 6,
     .eval = {.name = "valid",
              .loss = 3.25,
              .tokens = 512,
              .windows = 4,
              .step = 1,
              .trained_tokens = 100}},
    {.type = REC_CHECKPOINT,
     .time = 7,
     .checkpoint = {.step = 1, .bytes = 1 << 20, .path = "/ckpt/step-1", .digest = "abc"}},
    {.type = REC_UNKNOWN, .time = 8},
    {.type = REC_PROGRESS,
     .time = 9,
     .progress = {.step = 2,
                  .steps = 4,
                  .tokens = 200,
                  .loss = 3.0,
                  .lm = 3.0,
                  .lr = 5e-4,
                  .fusion_loss = 0.5,
                  .lambda = 1,
                  .threshold = 0.1,
                  .bild = NAN,
                  .closed = NAN,
                  .teacher_ms = NAN}},
    {.type = REC_ERROR,
     .time = 10,
     .error = {.code = "io_error", .message = "disk went away", .hint = "look at it"}},
    {.type = REC_ERROR, .time = 10, .error = {.code = "communication", .message = "follow-up"}},
    {.type = REC_BYE,
     .time = 11,
     .bye = {.code = "ok",
             .tokens = 200,
             .seconds = 2.5,
             .peak_rss = 1 << 30,
             .kv_parent = 4096,
             .kv_converted = 1024,
             .output = "/out/model"}},
};
#define N (sizeof journal / sizeof journal[0])

static int64_t start_job(struct fixture *f, int64_t *stage)
{
    *stage = stage_id(f, submit(f, "a"), 0);
    return start(f, *stage, NULL, 0, NULL);
}

static void take(struct fixture *f, int64_t attempt, size_t from, size_t to)
{
    bool stale;
    OK(store_ingest(f->s, attempt, (int64_t)from * 10, (int64_t)to * 10, journal + from, to - from,
                    NOW, &stale, &e));
    assert_false(stale);
}

static void assert_all_counted_once(struct fixture *f, int64_t stage, int64_t attempt)
{
    struct store_attempt a;
    struct store_stage st;
    struct store_checkpoint *ck;
    struct store_head_budget *hb;
    struct store_eval *ev;
    struct store_point *pt;
    size_t n;
    OK(store_attempt_get(f->s, attempt, &a, &e));
    assert_int_equal(a.journal_offset, N * 10);
    assert_int_equal(a.state, ATTEMPT_RUNNING);
    assert_string_equal(a.host, "n1");
    assert_string_equal(a.backend, "cpu avx512");
    assert_int_equal(a.ranks, 2);
    assert_string_equal(a.error.code, "io_error"); /* the first is the cause */
    assert_string_equal(a.error.message, "disk went away");
    store_attempt_finish(&a);

    OK(store_stage_get(f->s, stage, &st, &e));
    assert_int_equal(st.progress.step, 2);
    assert_int_equal(st.progress.steps, 4);
    assert_int_equal(st.progress.tokens, 200);
    assert_true(st.progress.loss == 3.0 && st.progress.fusion_loss == 0.5);
    assert_int_equal(st.tokens, 200);
    assert_true(st.seconds == 2.5);
    assert_int_equal(st.kv_parent, 4096);
    assert_int_equal(st.kv_converted, 1024);
    assert_string_equal(st.output, "/out/model");
    store_stage_finish(&st);

    OK(store_checkpoints(f->s, 0, stage, &ck, &n, &e));
    assert_int_equal(n, 1);
    assert_string_equal(ck[0].path, "/ckpt/step-1");
    assert_string_equal(ck[0].state, "complete");
    free(ck);
    OK(store_head_budgets(f->s, stage, &hb, &n, &e));
    assert_int_equal(n, 2);
    assert_false(hb[0].value);
    assert_true(hb[1].value);
    assert_int_equal(hb[0].n_map, 4);
    assert_int_equal(hb[0].map[3], 1);
    free(hb);
    OK(store_evals(f->s, stage, &ev, &n, &e));
    assert_int_equal(n, 1);
    assert_true(ev[0].loss == 3.25);
    free(ev);
    struct store_metric_query q = {.stage = stage, .after_step = -1};
    OK(store_metrics(f->s, &q, &pt, &n, &e));
    assert_int_equal(n, 7 + 10 + 1); /* step 1 has no operator; and the evaluation */
    free(pt);
    q.name = "loss";
    OK(store_metrics(f->s, &q, &pt, &n, &e));
    assert_int_equal(n, 2);
    assert_true(pt[0].value == 3.5 && pt[1].value == 3.0);
    assert_int_equal(pt[1].tokens, 200);
    free(pt);
    q.after_step = 1;
    OK(store_metrics(f->s, &q, &pt, &n, &e));
    assert_int_equal(n, 1);
    free(pt);

    assert_int_equal(event_count(f, "attempt.hello"), 1);
    assert_int_equal(event_count(f, "stage.phase"), 1); /* one a phase, not one a record */
    assert_int_equal(event_count(f, "checkpoint"), 1);
    assert_int_equal(event_count(f, "eval"), 1);
    assert_int_equal(event_count(f, "attempt.error"), 2);
    assert_int_equal(event_count(f, "attempt.bye"), 1);
}

static void every_kind_of_record_lands_where_it_belongs(void **state)
{
    struct fixture *f = *state;
    int64_t stage, attempt = start_job(f, &stage);
    take(f, attempt, 0, N);
    OK(store_commit(f->s, &e));
    assert_all_counted_once(f, stage, attempt);
    assert_sound(f);
}

static void a_second_reading_of_the_same_bytes_changes_nothing(void **state)
{
    struct fixture *f = *state;
    int64_t stage, attempt = start_job(f, &stage);
    bool stale;
    take(f, attempt, 0, N);
    size_t events = event_count(f, NULL);
    for (size_t from = 0; from < N; from++) {
        OK(store_ingest(f->s, attempt, (int64_t)from * 10, (int64_t)N * 10, journal + from,
                        N - from, NOW, &stale, &e));
        assert_true(stale);
    }
    assert_int_equal(event_count(f, NULL), events);
    assert_all_counted_once(f, stage, attempt);
    FAILS(DHA_E_INTERNAL, store_ingest(f->s, attempt, 20, 10, NULL, 0, NOW, &stale, &e));
    FAILS(DHA_E_NOT_FOUND, store_ingest(f->s, 4711, 0, 10, journal, 1, NOW, &stale, &e));
}

static void a_journal_that_was_cut_is_read_on(void **state)
{
    struct fixture *f = *state;
    int64_t stage, attempt = start_job(f, &stage);
    struct store_attempt a;
    bool stale;
    take(f, attempt, 0, N);
    size_t events = event_count(f, NULL);
    OK(store_ingest_back(f->s, attempt, (int64_t)N * 10, 5, &stale, &e));
    assert_false(stale);
    OK(store_ingest_back(f->s, attempt, (int64_t)N * 10, 5, &stale, &e));
    assert_true(stale); /* somebody was there before */
    OK(store_attempt_get(f->s, attempt, &a, &e));
    assert_int_equal(a.journal_offset, 5);
    store_attempt_finish(&a);
    FAILS(DHA_E_INTERNAL, store_ingest_back(f->s, attempt, 5, 6, &stale, &e));
    FAILS(DHA_E_INTERNAL, store_ingest_back(f->s, attempt, 5, -1, &stale, &e));
    OK(store_ingest(f->s, attempt, 5, (int64_t)N * 10, NULL, 0, NOW, &stale, &e));
    assert_false(stale);
    assert_int_equal(event_count(f, NULL), events);
    assert_all_counted_once(f, stage, attempt);
}

/* Dies by SIGKILL with `committed` records committed and the next one not: at every boundary. */
static void killed_at_any_record_each_still_counts_once(void **state)
{
    struct fixture *f = *state;
    for (size_t committed = 0; committed <= N; committed++) {
        tear_down(state);
        set_up(state);
        f = *state;
        int64_t stage, attempt = start_job(f, &stage);
        OK(store_commit(f->s, &e));
        store_close(f->s);
        f->s = NULL;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct dha_err e;
            bool stale;
            struct store *s;
            if (store_open(f->dir, 0, NOW, &s, &e) != 0)
                _exit(1);
            for (size_t i = 0; i <= committed && i < N; i++) {
                if (store_ingest(s, attempt, (int64_t)i * 10, (int64_t)(i + 1) * 10, &journal[i], 1,
                                 NOW, &stale, &e) != 0 ||
                    stale)
                    _exit(2);
                if (i < committed && store_commit(s, &e) != 0)
                    _exit(3);
            }
            raise(SIGKILL);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

        open_store(f);
        struct store_attempt a;
        OK(store_attempt_get(f->s, attempt, &a, &e));
        assert_int_equal(a.journal_offset, committed * 10);
        store_attempt_finish(&a);
        take(f, attempt, committed, N);
        OK(store_commit(f->s, &e));
        assert_all_counted_once(f, stage, attempt);
        assert_sound(f);
    }
}

static void a_new_attempt_is_where_its_newest_complete_checkpoint_is(void **state)
{
    struct fixture *f = *state;
    int64_t stage, id = start_job(f, &stage);
    bool changed;
    struct store_stage st;
    struct store_checkpoint *ck;
    size_t n;
    take(f, id, 0, N);
    OK(store_checkpoints(f->s, 0, stage, &ck, &n, &e));
    assert_int_equal(n, 1);
    for (int number = 1; number <= 2; number++) {
        int64_t at = number == 1 ? ck[0].step : 0; /* of one that is bad nothing goes on */
        assert_true(ck[0].step > 0);
        OK(store_attempt_end(f->s, id, 1, NULL, NOW, &changed, &e));
        assert_true(move_stage(f, stage, STAGE_RUNNING, STAGE_READY, number));
        id = start(f, stage, NULL, 0, NULL);
        OK(store_stage_get(f->s, stage, &st, &e));
        assert_int_equal(st.progress.step, at);
        store_stage_finish(&st);
        OK(store_checkpoint_mark(f->s, ck[0].id, "bad", NOW, &e));
    }
    free(ck);
}

static void a_late_record_of_an_old_attempt_does_not_touch_the_stage(void **state)
{
    struct fixture *f = *state;
    int64_t stage, old = start_job(f, &stage);
    bool changed;
    struct store_stage st;
    struct store_eval *ev;
    struct store_checkpoint *ck;
    size_t n;
    OK(store_attempt_end(f->s, old, 1, NULL, NOW, &changed, &e));
    assert_true(move_stage(f, stage, STAGE_RUNNING, STAGE_READY, 1));
    int64_t new = start(f, stage, NULL, 0, NULL);
    struct record now = {
        .type = REC_EVAL, .time = 1, .eval = {.name = "valid", .loss = 1, .step = 1}};
    bool stale;
    OK(store_ingest(f->s, new, 0, 10, &now, 1, NOW, &stale, &e));
    take(f, old, 0, N);
    OK(store_stage_get(f->s, stage, &st, &e));
    assert_int_equal(st.progress.step, 0);
    assert_int_equal(st.tokens, 0);
    assert_null(st.output);
    store_stage_finish(&st);
    OK(store_evals(f->s, stage, &ev, &n, &e));
    assert_int_equal(n, 1);
    assert_true(ev[0].loss == 1.0);
    free(ev);
    OK(store_checkpoints(f->s, 0, stage, &ck, &n, &e));
    assert_int_equal(n, 1); /* it is on disk, whoever wrote it */
    assert_int_equal(ck[0].attempt, 1);
    OK(store_checkpoint_mark(f->s, ck[0].id, "deleted", NOW, &e));
    FAILS(DHA_E_INTERNAL, store_checkpoint_mark(f->s, ck[0].id, "eaten", NOW, &e));
    FAILS(DHA_E_NOT_FOUND, store_checkpoint_mark(f->s, 4711, "bad", NOW, &e));
    free(ck);
}

static void a_loss_that_is_not_a_number_comes_back_as_one(void **state)
{
    struct fixture *f = *state;
    int64_t stage, attempt = start_job(f, &stage);
    struct record r = {
        .type = REC_PROGRESS,
        .time = 1,
        .progress = {.step = 7, .loss = NAN, .fusion_loss = NAN, .lambda = NAN, .threshold = NAN}};
    bool stale;
    struct store_stage st;
    OK(store_ingest(f->s, attempt, 0, 1, &r, 1, NOW + 9, &stale, &e));
    OK(store_stage_get(f->s, stage, &st, &e));
    assert_true(isnan(st.progress.loss));
    assert_int_equal(st.progress.changed_us, NOW + 9);
    store_stage_finish(&st);
    /* the same step again: alive, but not progressing */
    OK(store_ingest(f->s, attempt, 1, 2, &r, 1, NOW + 100, &stale, &e));
    OK(store_stage_get(f->s, stage, &st, &e));
    assert_int_equal(st.progress.changed_us, NOW + 9);
    store_stage_finish(&st);
}

static void a_layers_number_is_a_metric_of_its_own(void **state)
{
    struct fixture *f = *state;
    int64_t stage, attempt = start_job(f, &stage);
    struct store_point *pt;
    size_t n;
    bool stale;
    struct record r = {
        .type = REC_LAYER,
        .time = 1,
        .layer = {.name = "fusion_loss", .layer = 3, .kind = "key", .step = 12, .value = 0.25}};
    OK(store_ingest(f->s, attempt, 0, 1, &r, 1, NOW, &stale, &e));
    r.layer.value = NAN; /* is left out */
    OK(store_ingest(f->s, attempt, 1, 2, &r, 1, NOW, &stale, &e));
    struct store_metric_query q = {.stage = stage, .name = "fusion_loss.3.key", .after_step = -1};
    OK(store_metrics(f->s, &q, &pt, &n, &e));
    assert_int_equal(n, 1);
    assert_true(pt[0].value == 0.25);
    assert_int_equal(pt[0].step, 12);
    free(pt);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(every_kind_of_record_lands_where_it_belongs),
        T(a_second_reading_of_the_same_bytes_changes_nothing),
        T(a_journal_that_was_cut_is_read_on),
        T(killed_at_any_record_each_still_counts_once),
        T(a_late_record_of_an_old_attempt_does_not_touch_the_stage),
        T(a_new_attempt_is_where_its_newest_complete_checkpoint_is),
        T(a_loss_that_is_not_a_number_comes_back_as_one),
        T(a_layers_number_is_a_metric_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
