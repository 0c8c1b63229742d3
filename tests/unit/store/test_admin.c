/* What keeps a state directory in order: a second reader, copies before an upgrade, thinned metrics, a job taken in. */
#include <dirent.h>
#include <math.h>
#include <sys/stat.h>

#include "fixture.h"

static void a_reader_sees_what_is_committed_and_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct store *r;
    struct store_job j;
    int64_t a = submit(f, "a");
    OK(store_commit(f->s, &e));
    OK(store_open_reader(f->dir, &r, &e)); /* beside the daemon's own */
    OK(store_job_get(r, a, &j, &e));
    store_job_finish(&j);
    int64_t b = submit(f, "b");
    FAILS(DHA_E_NOT_FOUND, store_job_get(r, b, &j, &e));
    OK(store_commit(f->s, &e));
    OK(store_job_get(r, b, &j, &e));
    store_job_finish(&j);
    struct dha_err err = {0};
    assert_int_equal(store_event_add(r, "x", 0, 0, 0, NULL, NOW, NULL, &err), -1);
    assert_int_equal(store_fsck(r, NULL, NULL, &err), 0);
    store_close(r);
    assert_sound(f);
}

static int always(void *arg)
{
    (void)arg;
    return 1;
}

static void a_reader_that_is_told_to_stops(void **state)
{
    struct fixture *f = *state;
    struct store *r;
    struct dha_err err = {0};
    submit(f, "a");
    OK(store_commit(f->s, &e));
    store_close(f->s);
    behind_its_back(f, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000)"
                       " INSERT INTO event(time_us, type, data) SELECT i, 'x', '{}' FROM n");
    open_store(f);
    OK(store_open_reader(f->dir, &r, &e));
    store_interrupt(r, always, NULL);
    assert_true(store_fsck(r, NULL, NULL, &err) != 0);
    store_close(r);
}

static void a_reader_refuses_another_schema_and_what_is_no_state(void **state)
{
    struct fixture *f = *state;
    struct store *r;
    store_close(f->s);
    f->s = NULL;
    behind_its_back(f, "PRAGMA user_version = 1");
    FAILS(DHA_E_VERSION, store_open_reader(f->dir, &r, &e));
    behind_its_back(f, "PRAGMA user_version = 999");
    FAILS(DHA_E_VERSION, store_open_reader(f->dir, &r, &e));
    FAILS(DHA_E_IO, store_open_reader("/tmp", &r, &e));
}

/* ---- metrics ---- */

enum { POINTS = 10000, BUCKETS = 16 };

/* A saw with one spike up and one down; lr has few points. */
static double value_at(int step)
{
    return step == 4321 ? 1000 : step == 1234 ? -1000 : step % 7;
}

static int64_t job_with_series(struct fixture *f)
{
    int64_t job = submit(f, "a"), a = start(f, stage_id(f, job, 0), NULL, 0, NULL);
    char sql[512], path[96];
    sqlite3 *db;
    OK(store_commit(f->s, &e));
    snprintf(path, sizeof path, "%s/metrics.db", f->dir);
    store_close(f->s);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT %d)"
             " INSERT INTO metric SELECT %lld, 'loss', i, 10 * i, CASE i WHEN 4321 THEN 1000"
             " WHEN 1234 THEN -1000 ELSE i %% 7 END FROM n;"
             "INSERT INTO metric SELECT attempt, 'lr', step, tokens, 1 FROM metric WHERE step < 64",
             POINTS, (long long)a);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    open_store(f);
    return job;
}

static void thinned_series_keep_first_last_lowest_and_highest_of_each_bucket(void **state)
{
    struct fixture *f = *state;
    int64_t job = job_with_series(f), before, after, most;
    struct store_point *p;
    size_t n;
    OK(store_metrics_count(f->s, job, BUCKETS, &before, &most, &e));
    assert_int_equal(before, POINTS + 64);
    assert_int_equal(most, 4 * BUCKETS + 64);
    OK(store_metrics_thin(f->s, job, BUCKETS, NOW, &before, &after, &e));
    assert_int_equal(before, POINTS + 64);
    assert_true(after <= most && after >= 2 * BUCKETS + 64);
    OK(store_commit(f->s, &e));
    reopen(f); /* it is on disk */
    struct store_metric_query q = {.stage = stage_id(f, job, 0), .name = "loss", .after_step = -1};
    OK(store_metrics(f->s, &q, &p, &n, &e));
    assert_int_equal((int64_t)n + 64, after);
    bool up = false, down = false;
    for (size_t i = 0; i < n; i++) {
        assert_true(p[i].value == value_at((int)p[i].step)); /* points are chosen, not made */
        up |= p[i].step == 4321;
        down |= p[i].step == 1234;
    }
    assert_true(up && down && p[0].step == 0 && p[n - 1].step == POINTS - 1);
    free(p);
    assert_int_equal(event_count(f, "metrics.thin"), 1);
    OK(store_metrics_thin(f->s, job, BUCKETS, NOW, &before, &after, &e));
    assert_int_equal(before, after); /* once is enough */
    assert_int_equal(event_count(f, "metrics.thin"), 1);
}

static void a_turn_that_is_rolled_back_thins_nothing(void **state)
{
    struct fixture *f = *state;
    int64_t job = job_with_series(f), before, after;
    OK(store_metrics_thin(f->s, job, BUCKETS, NOW, &before, &after, &e));
    store_rollback(f->s);
    OK(store_metrics_count(f->s, job, BUCKETS, &before, &after, &e));
    assert_int_equal(before, POINTS + 64);
}

/* ---- a job taken in ---- */

static struct store_import an_import(void)
{
    struct store_import im = {.now_us = NOW, .n_stages = 2};
    im.jobs_dir = strdup("/state/jobs");
    im.origin = strdup("/usb/job-7");
    im.job = (struct store_job){.id = 7,
                                .owner_uid = 1000,
                                .name = strdup("guest"),
                                .method = strdup("spectral"),
                                .spec = strdup("{\"model\":\"/m\"}"),
                                .budget = 0.25,
                                .state = JOB_DONE,
                                .slots = 2,
                                .device = "cpu",
                                .seed = 3,
                                .submitted_us = 1,
                                .started_us = 2,
                                .ended_us = 3};
    struct store_import_stage *p = &im.stages[0];
    p->stage = (struct store_stage){.kind = STAGE_SEARCH,
                                    .state = STAGE_REUSED,
                                    .key = "guest-0",
                                    .attempt = 1,
                                    .out_dir = strdup("search/out"),
                                    .tokens = 5};
    p->evals = calloc(1, sizeof *p->evals);
    p->evals[0] = (struct store_eval){.attempt = 1, .name = "parent", .loss = 2.5};
    p->n_evals = 1;
    p = &im.stages[1];
    p->stage = (struct store_stage){.kind = STAGE_TRAIN,
                                    .state = STAGE_DONE,
                                    .key = "guest-1",
                                    .attempt = 1,
                                    .out_dir = strdup("train/out"),
                                    .output = strdup("train/out/model")};
    p->attempts.at = calloc(1, sizeof *p->attempts.at);
    p->attempts.n = 1;
    p->attempts.at[0] = (struct store_attempt){
        .number = 1, .dir = strdup("train/a1"), .host = "there", .exit_code = 0, .ended_us = 3};
    p->heads = calloc(1, sizeof *p->heads);
    p->heads[0] = (struct store_head_budget){
        .layer = 1, .heads = 2, .n_map = 4, .map = {0, 0, 1, 1}};
    p->n_heads = 1;
    p->checkpoints = calloc(1, sizeof *p->checkpoints);
    p->checkpoints[0] = (struct store_checkpoint){.attempt = 1,
                                                  .step = 9,
                                                  .bytes = 1000,
                                                  .path = "train/out/ckpt/step-9",
                                                  .digest = "d",
                                                  .state = "complete"};
    p->n_checkpoints = 1;
    p->points = calloc(1, sizeof *p->points);
    p->points[0] = (struct store_point){.attempt = 1, .step = 9, .name = "loss", .value = 1.5};
    p->n_points = 1;
    return im;
}

static void a_job_taken_in_is_all_there_and_its_stages_can_be_reused(void **state)
{
    struct fixture *f = *state;
    struct store_import im = an_import();
    struct store_job j;
    struct store_stage st;
    struct store_checkpoint *ck;
    struct store_point *p;
    size_t n;
    int64_t id, again;
    submit(f, "own");
    OK(store_import(f->s, &im, &id, &e));
    OK(store_commit(f->s, &e));
    assert_int_equal(id, 2);
    OK(store_job_get(f->s, id, &j, &e));
    assert_string_equal(j.name, "guest");
    assert_int_equal(j.state, JOB_DONE);
    assert_true(j.loss_parent == 2.5 && isnan(j.loss_final));
    store_job_finish(&j);
    OK(store_stage_done_by_key(f->s, "guest-0", &st,
                               &e)); /* it was reused there; here it is its own */
    assert_string_equal(st.out_dir, "/state/jobs/2/search/out");
    store_stage_finish(&st);
    OK(store_stage_done_by_key(f->s, "guest-1", &st, &e));
    assert_string_equal(st.output, "/state/jobs/2/train/out/model");
    OK(store_checkpoints(f->s, id, 0, &ck, &n, &e));
    assert_int_equal(n, 1);
    assert_string_equal(ck[0].path, "/state/jobs/2/train/out/ckpt/step-9");
    free(ck);
    struct store_metric_query q = {.stage = st.id, .after_step = -1};
    OK(store_metrics(f->s, &q, &p, &n, &e));
    assert_int_equal(n, 1);
    assert_true(p[0].value == 1.5 && p[0].attempt == 1);
    free(p);
    store_stage_finish(&st);
    assert_int_equal(event_count(f, "job.import"), 1);
    OK(store_import(f->s, &im, &again, &e)); /* a second time: another job */
    assert_int_equal(again, 3);
    store_import_finish(&im);
    assert_sound(f);
}

static void what_cannot_be_taken_in_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct store_import im = an_import();
    int64_t id;
    bool known;
    im.job.state = JOB_RUNNING;
    FAILS(DHA_E_INPUT, store_import(f->s, &im, &id, &e));
    im.job.state = JOB_FAILED;
    im.stages[1].stage.state = STAGE_RUNNING;
    FAILS(DHA_E_INPUT, store_import(f->s, &im, &id, &e));
    im.stages[1].stage.state = STAGE_FAILED;
    free(im.stages[0].evals); /* two of one name and step */
    im.stages[0].evals = calloc(2, sizeof *im.stages[0].evals);
    im.stages[0].n_evals = 2;
    FAILS(DHA_E_CONFLICT, store_import(f->s, &im, &id, &e));
    store_import_finish(&im);
    OK(store_commit(f->s, &e));
    OK(store_job_known(f->s, 1, &known, &e));
    assert_false(known);
    assert_int_equal(event_count(f, NULL), 0);
}

static void a_job_that_was_set_aside_is_known(void **state)
{
    struct fixture *f = *state;
    bool known;
    int64_t id = submit(f, "a");
    OK(store_commit(f->s, &e));
    store_close(f->s);
    behind_its_back(f, "UPDATE job SET spec = '{'");
    open_store(f);
    OK(store_job_known(f->s, id, &known, &e));
    assert_true(known);
    OK(store_job_known(f->s, id + 1, &known, &e));
    assert_false(known);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_reader_sees_what_is_committed_and_changes_nothing),
        T(a_reader_that_is_told_to_stops),
        T(a_reader_refuses_another_schema_and_what_is_no_state),
        T(thinned_series_keep_first_last_lowest_and_highest_of_each_bucket),
        T(a_turn_that_is_rolled_back_thins_nothing),
        T(a_job_taken_in_is_all_there_and_its_stages_can_be_reused),
        T(what_cannot_be_taken_in_leaves_nothing),
        T(a_job_that_was_set_aside_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
