/* The daemon starts whatever single row or file is damaged; what was damaged is set aside, and said. */
#include <dirent.h>

#include "fixture.h"

static void damage(struct fixture *f, const char *sql)
{
    OK(store_commit(f->s, &e));
    store_close(f->s);
    behind_its_back(f, sql);
    open_store(f);
}

static size_t jobs_listed(struct fixture *f)
{
    struct store_jobs l;
    struct store_job_filter all = {0};
    OK(store_jobs_list(f->s, &all, &l, &e));
    size_t n = l.n;
    store_jobs_finish(&l);
    return n;
}

static void a_job_with_a_broken_spec_is_set_aside_and_the_others_go_on(void **state)
{
    struct fixture *f = *state;
    int64_t bad = submit(f, "bad"), good = submit(f, "good");
    struct store_job j;
    struct store_candidate *c;
    size_t n;
    damage(f, "UPDATE job SET spec = '{\"model\":' WHERE name = 'bad'");
    assert_int_equal(store_lost_found_count(f->s), 1);
    assert_int_equal(event_count(f, "lost_found"), 1);
    struct dha_err err = {0};
    assert_int_equal(store_job_get(f->s, bad, &j, &err), -1);
    assert_int_equal(err.code, DHA_E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "set aside"));
    assert_int_equal(jobs_listed(f), 1);
    OK(store_candidates(f->s, &c, &n, &e));
    assert_int_equal(n, 1);
    assert_int_equal(c[0].job, good);
    free(c);
    reopen(f); /* once, not at every start */
    assert_int_equal(store_lost_found_count(f->s), 1);
}

static void an_unknown_job_state_is_set_aside(void **state)
{
    struct fixture *f = *state;
    submit(f, "bad");
    submit(f, "good");
    damage(f, "UPDATE job SET state = 'rnning' WHERE name = 'bad'");
    assert_int_equal(jobs_listed(f), 1);
    assert_int_equal(jobs_listed(f), 1);
    assert_int_equal(store_lost_found_count(f->s), 1);
}

static void a_job_with_a_damaged_stage_is_not_run(void **state)
{
    struct fixture *f = *state;
    int64_t bad = submit(f, "bad");
    struct store_job j;
    struct store_candidate *c;
    size_t n;
    damage(f, "UPDATE stage SET kind = 'serach' WHERE ord = 0");
    FAILS(DHA_E_NOT_FOUND, store_job_get(f->s, bad, &j, &e));
    OK(store_candidates(f->s, &c, &n, &e));
    assert_int_equal(n, 0);
    free(c);
    assert_int_equal(store_lost_found_count(f->s), 1);
}

/* Its processes may be alive: it must be looked for, not forgotten with its slots. */
static void an_attempt_in_an_unknown_state_is_one_we_lost_sight_of(void **state)
{
    struct fixture *f = *state;
    int64_t a = start(f, stage_id(f, submit(f, "a"), 0), NULL, 0, NULL);
    struct store_attempts l;
    damage(f, "UPDATE attempt SET state = 'x'");
    OK(store_attempts_live(f->s, &l, &e));
    assert_int_equal(l.n, 1);
    assert_int_equal(l.at[0].id, a);
    assert_int_equal(l.at[0].state, ATTEMPT_UNREACHABLE);
    store_attempts_finish(&l);
    assert_int_equal(store_lost_found_count(f->s), 1);
}

static void a_journal_line_can_be_set_aside(void **state)
{
    struct fixture *f = *state;
    OK(store_lost_found_add(f->s, "/a1/journal.ndjson at 17", "gar\0bage", 8, "no record", NOW,
                            &e));
    OK(store_commit(f->s, &e));
    assert_int_equal(store_lost_found_count(f->s), 1);
}

static void file_path(struct fixture *f, const char *name, char path[96])
{
    snprintf(path, 96, "%s/%s", f->dir, name);
}

static void overwrite(struct fixture *f, const char *name, long at, size_t n)
{
    char path[96], junk[4096];
    file_path(f, name, path);
    memset(junk, 0x5a, sizeof junk);
    FILE *h = fopen(path, "r+b");
    assert_non_null(h);
    assert_int_equal(fseek(h, at, SEEK_SET), 0);
    assert_int_equal(fwrite(junk, 1, n, h), n);
    assert_int_equal(fclose(h), 0);
}

static int files_like(struct fixture *f, const char *part)
{
    int n = 0;
    DIR *d = opendir(f->dir);
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));)
        n += strstr(x->d_name, part) != NULL;
    closedir(d);
    return n;
}

/* Every page of the file in turn. Page 1 holds the header and the schema: after that one, all is gone. */
static void the_store_opens_whatever_page_is_overwritten(void **state)
{
    struct fixture *f = *state;
    long pages = 2, salvaged = 0;
    for (long page = 0; page < pages; page++) {
        tear_down(state);
        set_up(state);
        f = *state;
        for (int i = 0; i < 60; i++) {
            char name[16];
            snprintf(name, sizeof name, "job%d", i);
            submit(f, name);
        }
        OK(store_commit(f->s, &e));
        store_close(f->s); /* folds the WAL into the file */
        f->s = NULL;
        char path[96];
        file_path(f, "state.db", path);
        FILE *h = fopen(path, "rb");
        assert_non_null(h);
        assert_int_equal(fseek(h, 0, SEEK_END), 0);
        pages = ftell(h) / 4096;
        fclose(h);
        overwrite(f, "state.db", page * 4096, 4096);
        open_store(f);
        int64_t old_ids = 60;
        if (files_like(f, "state.db.damaged") > 0) {
            salvaged++;
            assert_true(store_lost_found_count(f->s) >= 1);
            char note[640];
            OK(store_salvage_note(f->s, NOW, note, sizeof note, &e));
            assert_non_null(strstr(note, "was found damaged"));
            assert_int_equal(event_count(f, "store.salvaged"), 1);
            OK(store_salvage_note(f->s, NOW + 1, note, sizeof note, &e));
            assert_string_equal(note, "");
        } /* else the page was free, or its damage is one that only shows when it is read */
        int64_t id = submit(f, "afterwards");
        OK(store_commit(f->s, &e));
        assert_true(id > old_ids); /* no number is given a second time */
        reopen(f);
        struct store_job j;
        OK(store_job_get(f->s, id, &j, &e));
        store_job_finish(&j);
    }
    assert_true(pages > 10 && salvaged > pages / 2);
}

static void a_damaged_page_of_events_costs_no_job(void **state)
{
    struct fixture *f = *state;
    char path[96], sql[128];
    sqlite3 *db;
    sqlite3_stmt *st;
    for (int i = 0; i < 200; i++) {
        char name[16];
        snprintf(name, sizeof name, "job%d", i);
        submit(f, name);
    }
    OK(store_commit(f->s, &e));
    store_close(f->s);
    f->s = NULL;
    file_path(f, "state.db", path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    snprintf(sql, sizeof sql, "SELECT rootpage FROM sqlite_schema WHERE name = 'event'");
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    long root = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    overwrite(f, "state.db", (root - 1) * 4096, 4096);
    open_store(f);
    struct store_jobs l;
    struct store_job_filter all = {.limit = 1000};
    OK(store_jobs_list(f->s, &all, &l, &e));
    assert_int_equal(l.n, 200);
    store_jobs_finish(&l);
    assert_int_equal(files_like(f, "state.db.damaged"), 1);
    assert_int_equal(store_lost_found_count(f->s), 1);
}

static void a_damaged_metrics_file_is_begun_anew(void **state)
{
    struct fixture *f = *state;
    int64_t stage = stage_id(f, submit(f, "a"), 0);
    int64_t a = start(f, stage, NULL, 0, NULL);
    struct record r = {.type = REC_PROGRESS, .time = 1, .progress = {.step = 1, .loss = 2}};
    struct store_metric_query q = {.stage = stage, .name = "loss", .after_step = -1};
    struct store_point *p;
    size_t n;
    bool stale;
    OK(store_ingest(f->s, a, 0, 10, &r, 1, NOW, &stale, &e));
    OK(store_commit(f->s, &e));
    store_close(f->s);
    f->s = NULL;
    overwrite(f, "metrics.db", 0, 4096);
    open_store(f);
    assert_int_equal(files_like(f, "metrics.db.damaged"), 1);
    OK(store_metrics(f->s, &q, &p, &n, &e));
    assert_int_equal(n, 0);
    free(p);
    OK(store_ingest(f->s, a, 10, 20, &r, 1, NOW, &stale, &e));
    OK(store_commit(f->s, &e));
    OK(store_metrics(f->s, &q, &p, &n, &e));
    assert_int_equal(n, 1);
    free(p);
    assert_int_equal(state_of(f, stage), STAGE_RUNNING);
}

static void note(void *arg, const char *problem)
{
    char *all = arg;
    snprintf(all + strlen(all), 2000 - strlen(all), "%s\n", problem);
}

static void fsck_names_what_does_not_hold(void **state)
{
    struct fixture *f = *state;
    char all[2000] = "";
    struct dha_err err = {0};
    int64_t node;
    struct store_slot *slots;
    size_t n;
    OK(store_node_register(f->s, "local", "cpu", 1, NOW, &node, &e));
    OK(store_slots(f->s, &slots, &n, &e));
    int64_t stage = stage_id(f, submit(f, "a"), 0);
    start(f, stage, &slots[0].id, 1, NULL);
    free(slots);
    submit(f, "b");
    assert_sound(f);
    damage(f, "UPDATE attempt SET state = 'ended';"
              "UPDATE stage SET state = 'ready' WHERE job = 2 AND ord = 2;"
              "UPDATE job SET state = 'done' WHERE id = 2;"
              "DELETE FROM event WHERE seq = 2;"
              "INSERT INTO checkpoint(stage, attempt, step, bytes, path, digest, state, created_us)"
              " VALUES(4711, 1, 1, 1, '/x', 'd', 'complete', 1)");
    assert_true(store_fsck(f->s, note, all, &err) >= 6);
    static const char *const want[] = {"stage 1 is running without a live attempt",
                                       "slot 1 is held by attempt 1, which has ended",
                                       "stage 6 is ready, but a stage before it is not complete",
                                       "job 2 is done, but its stage 4 is ready",
                                       "events are missing",
                                       "checkpoint row 1 refers to a row of stage"};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        if (!strstr(all, want[i]))
            fail_msg("fsck does not say \"%s\":\n%s", want[i], all);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_job_with_a_broken_spec_is_set_aside_and_the_others_go_on),
        T(an_unknown_job_state_is_set_aside),
        T(a_job_with_a_damaged_stage_is_not_run),
        T(an_attempt_in_an_unknown_state_is_one_we_lost_sight_of),
        T(a_journal_line_can_be_set_aside),
        T(the_store_opens_whatever_page_is_overwritten),
        T(a_damaged_page_of_events_costs_no_job),
        T(a_damaged_metrics_file_is_begun_anew),
        T(fsck_names_what_does_not_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
