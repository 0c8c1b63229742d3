/* Databases of earlier versions, as those versions left them (state-vN.sql is the dump of one). */
#include <dirent.h>
#include <math.h>
#include "fixture.h"

static void put_in_place(struct fixture *f, const char *dump)
{
    char path[128];
    size_t n;
    store_close(f->s);
    f->s = NULL;
    snprintf(path, sizeof path, "%s/state.db", f->dir);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/metrics.db", f->dir);
    assert_int_equal(unlink(path), 0);
    FILE *in = fopen(dump, "r");
    assert_non_null(in);
    char *sql = calloc(1, 1 << 20);
    assert_non_null(sql);
    n = fread(sql, 1, (1 << 20) - 1, in);
    assert_true(n > 10000);
    fclose(in);
    behind_its_back(f, sql);
    free(sql);
}

static void jobs_of_version_1_keep_everything_and_get_their_losses_and_seeds(void **state)
{
    struct fixture *f = *state;
    struct store_jobs l;
    struct store_job_filter all = {0};
    put_in_place(f, STATE_DIR "/state-v1.sql");
    open_store(f);
    OK(store_jobs_list(f->s, &all, &l, &e));
    assert_int_equal(l.n, 5);
    struct store_job *failed = &l.at[0], *second = &l.at[3], *first = &l.at[4];
    assert_string_equal(first->name, "first");
    assert_int_equal(first->seed, 7);
    assert_true(first->loss_parent == 2.5 && first->loss_converted == 3.5 &&
                first->loss_final == 2.75);
    /* it searched and fused nothing itself: those losses are the stages' it took */
    assert_string_equal(second->name, "second");
    assert_true(second->loss_parent == 2.5 && second->loss_converted == 3.5);
    assert_int_equal(failed->state, JOB_FAILED);
    assert_int_equal(failed->seed, 3);
    assert_true(isnan(failed->loss_final) && failed->loss_parent == 2.5);
    assert_false(failed->spared);
    store_jobs_finish(&l);
    assert_sound(f);
    reopen(f); /* and once is enough */
    OK(store_jobs_list(f->s, &all, &l, &e));
    assert_int_equal(l.n, 5);
    store_jobs_finish(&l);
}

static void sweeps_of_one_name_are_told_apart(void **state)
{
    struct fixture *f = *state;
    struct store_sweeps l;
    struct store_sweep_filter all = {0};
    put_in_place(f, STATE_DIR "/state-v1.sql");
    open_store(f);
    OK(store_sweeps_list(f->s, &all, &l, &e));
    assert_int_equal(l.n, 2);
    assert_string_equal(l.at[0].name, "twice-2");
    assert_string_equal(l.at[1].name, "twice");
    assert_false(l.at[0].stop_dominated);
    assert_string_equal(l.at[0].skipped, "[]");
    store_sweeps_finish(&l);
}

static void jobs_of_version_2_have_their_walltimes_where_the_scheduler_looks(void **state)
{
    struct fixture *f = *state;
    put_in_place(f, STATE_DIR "/state-v2.sql");
    open_store(f);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM job"), 7);
    assert_int_equal(count_rows(f, "SELECT walltime_s FROM job WHERE id = 6"), 7200);
    assert_int_equal(count_rows(f, "SELECT walltime_s FROM job WHERE id = 7"), 90);
    assert_int_equal(count_rows(f, "SELECT sum(walltime_s) FROM job WHERE id < 6"), 0);
    assert_sound(f);
}

static void jobs_of_version_3_are_gangs_on_one_node(void **state)
{
    struct fixture *f = *state;
    put_in_place(f, STATE_DIR "/state-v3.sql");
    open_store(f);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM job"), 9);
    assert_int_equal(count_rows(f, "SELECT on_job FROM dependency WHERE job = 9 AND any_end = 1"),
                     8);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM job WHERE nodes = 1 AND slot_memory = 0"
                                   " AND node_names = ''"),
                     9);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM slot WHERE uuid = '' AND cores = ''"), 8);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM token"), 0);
    assert_sound(f);
}

static int is_copy(const struct dirent *d)
{
    return strncmp(d->d_name, "state-v", 7) == 0;
}

/* Names of STATE/backup in order; returns how many. */
static int copies(struct fixture *f, struct dirent ***names)
{
    char dir[96];
    snprintf(dir, sizeof dir, "%s/backup", f->dir);
    int n = scandir(dir, names, is_copy, alphasort);
    return n < 0 ? 0 : n;
}

static void the_database_as_it_was_is_kept_three_times_at_most(void **state)
{
    struct fixture *f = *state;
    struct dirent **names;
    char path[512];
    sqlite3 *db;
    sqlite3_stmt *st;
    assert_int_equal(copies(f, &names), 0); /* a new one is no upgrade */
    for (int i = 0; i < 5; i++) {
        if (!f->s)
            open_store(f);
        put_in_place(f, STATE_DIR "/state-v1.sql");
        OK(store_open(f->dir, 0, NOW + i * INT64_C(1000000), &f->s, &e));
        store_close(f->s);
        f->s = NULL;
    }
    assert_int_equal(copies(f, &names), 3);
    assert_string_equal(names[0]->d_name, "state-v1-20231114T221322Z.db");
    snprintf(path, sizeof path, "%s/backup/%s", f->dir, names[2]->d_name);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT count(*), (SELECT user_version FROM"
                                        " pragma_user_version) FROM job",
                                        -1, &st, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(st, 0), 5);
    assert_int_equal(sqlite3_column_int(st, 1), 1);
    sqlite3_finalize(st);
    sqlite3_close(db);
    for (int i = 0; i < 3; i++)
        free(names[i]);
    free(names);
    open_store(f);
}

static void without_a_copy_there_is_no_upgrade(void **state)
{
    struct fixture *f = *state;
    char path[96];
    put_in_place(f, STATE_DIR "/state-v1.sql");
    snprintf(path, sizeof path, "%s/backup", f->dir);
    FILE *in_the_way = fopen(path, "w");
    assert_non_null(in_the_way);
    fclose(in_the_way);
    struct dha_err err = {0};
    assert_int_equal(store_open(f->dir, 0, NOW, &f->s, &err), -1);
    assert_non_null(strstr(err.msg, "kept before an upgrade"));
    assert_int_equal(unlink(path), 0);
    open_store(f);
    assert_sound(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            jobs_of_version_1_keep_everything_and_get_their_losses_and_seeds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sweeps_of_one_name_are_told_apart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            jobs_of_version_2_have_their_walltimes_where_the_scheduler_looks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(jobs_of_version_3_are_gangs_on_one_node, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_database_as_it_was_is_kept_three_times_at_most, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(without_a_copy_there_is_no_upgrade, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
