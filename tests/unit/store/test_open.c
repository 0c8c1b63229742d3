/* Taking a state directory: schema from nothing, refusals, one at a time, transactions and crashes. */
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "fixture.h"

static void an_empty_directory_gets_the_whole_schema(void **state)
{
    struct fixture *f = *state;
    static const char *const tables[] = {"job",        "stage",       "attempt",     "allocation",
                                         "node",       "slot",        "event",       "outbox",
                                         "eval",       "checkpoint",  "head_budget", "sweep",
                                         "lost_found", "idempotency", "dependency"};
    struct stat st;
    char sql[160];
    assert_int_equal(count_rows(f, "PRAGMA user_version"), STORE_SCHEMA);
    assert_int_equal(count_rows(f, "PRAGMA application_id"), 0x64686131);
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        snprintf(sql, sizeof sql,
                 "SELECT count(*) FROM sqlite_schema WHERE name = '%s' AND sql LIKE '%%STRICT%%'",
                 tables[i]);
        if (count_rows(f, sql) != 1)
            fail_msg("no STRICT table %s", tables[i]);
    }
    assert_int_equal(stat(f->dir, &st), 0);
    assert_sound(f);
    reopen(f); /* and opening it again changes nothing */
    assert_int_equal(event_count(f, NULL), 0);
}

static void a_newer_schema_is_refused_and_left_alone(void **state)
{
    struct fixture *f = *state;
    submit(f, "a");
    OK(store_commit(f->s, &e));
    store_close(f->s);
    f->s = NULL;
    behind_its_back(f, "PRAGMA user_version = 99");
    struct dha_err err = {0};
    assert_int_equal(store_open(f->dir, 0, NOW, &f->s, &err), -1);
    assert_null(f->s);
    assert_int_equal(err.code, DHA_E_VERSION);
    assert_non_null(strstr(err.msg, "schema version 99"));
    assert_non_null(strstr(err.msg, f->dir));
    assert_true(err.hint[0] != '\0');
    assert_int_equal(count_rows(f, "SELECT count(*) FROM job"), 1);
    char sql[48];
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", STORE_SCHEMA);
    behind_its_back(f, sql);
    open_store(f);
}

static void a_database_of_something_else_is_refused(void **state)
{
    struct fixture *f = *state;
    char path[96];
    store_close(f->s);
    f->s = NULL;
    snprintf(path, sizeof path, "%s/state.db", f->dir);
    assert_int_equal(unlink(path), 0);
    behind_its_back(f, "CREATE TABLE theirs(x)");
    FAILS(DHA_E_INPUT, store_open(f->dir, 0, NOW, &f->s, &e));
    assert_int_equal(count_rows(f, "SELECT count(*) FROM theirs"), 0);
}

static void a_second_daemon_is_refused_with_the_pid_of_the_first(void **state)
{
    struct fixture *f = *state;
    struct store *other;
    struct dha_err err = {0};
    char pid[24];
    assert_int_equal(store_open(f->dir, 0, NOW, &other, &err), -1);
    assert_int_equal(err.code, DHA_E_CONFLICT);
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    assert_non_null(strstr(err.msg, pid));
    reopen(f); /* after a close it is free */
}

/* The daemon is killed between fork and exec of a shim: the fork holds the lock a moment longer. */
static void the_lock_of_a_dead_daemon_is_waited_for(void **state)
{
    struct fixture *f = *state;
    int ready[2], status;
    char c;
    store_close(f->s);
    f->s = NULL;
    assert_int_equal(pipe(ready), 0);
    pid_t daemon = fork();
    if (daemon == 0) {
        struct dha_err err;
        if (store_open(f->dir, 0, NOW, &f->s, &err) != 0)
            _exit(1);
        if (fork() == 0) {
            (void)!write(ready[1], "x", 1);
            usleep(300 * 1000);
            _exit(0); /* no exec: its copy of the lock goes only now */
        }
        for (;;)
            pause();
    }
    assert_true(daemon > 0);
    assert_int_equal(read(ready[0], &c, 1), 1);
    kill(daemon, SIGKILL);
    assert_int_equal(waitpid(daemon, &status, 0), daemon);
    reopen(f);
    close(ready[0]);
    close(ready[1]);
}

static void a_directory_that_cannot_be_is_refused(void **state)
{
    struct fixture *f = *state;
    struct store *s;
    char path[96];
    snprintf(path, sizeof path, "%s/no/such", f->dir);
    FAILS(DHA_E_NOT_FOUND, store_open(path, 0, NOW, &s, &e));
    snprintf(path, sizeof path, "%s/lock/x", f->dir);
    FAILS(DHA_E_IO, store_open(path, 0, NOW, &s, &e));
}

/* The points at which a turn can die, in order. What was committed is there afterwards, all of it;
 * what was not is not, none of it. */
enum point { BEFORE_BEGIN, AFTER_BEGIN, AFTER_SUBMIT, AFTER_ATTEMPT, AFTER_COMMIT, POINTS };

static void die(struct fixture *f, enum point where)
{
    struct dha_err e;
    struct store *s;
    if (store_open(f->dir, 0, NOW, &s, &e) != 0)
        _exit(1);
    f->s = s;
    for (int p = 0; p <= (int)where; p++) {
        if (p == AFTER_BEGIN && store_begin(s, &e) != 0)
            _exit(2);
        if (p == AFTER_SUBMIT)
            submit(f, "second");
        if (p == AFTER_ATTEMPT)
            start(f, stage_id(f, 2, 0), NULL, 0, NULL);
        if (p == AFTER_COMMIT && store_commit(s, &e) != 0)
            _exit(3);
    }
    raise(SIGKILL);
}

static void killed_at_any_point_of_a_turn_nothing_committed_is_lost(void **state)
{
    struct fixture *f;
    for (int where = 0; where < POINTS; where++) {
        tear_down(state);
        set_up(state);
        f = *state;
        submit(f, "first");
        OK(store_commit(f->s, &e));
        store_close(f->s);
        f->s = NULL;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            die(f, (enum point)where);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        open_store(f);
        struct store_jobs l;
        struct store_job_filter all = {0};
        OK(store_jobs_list(f->s, &all, &l, &e));
        assert_int_equal(l.n, where == AFTER_COMMIT ? 2 : 1);
        assert_string_equal(l.at[l.n - 1].name, "first");
        store_jobs_finish(&l);
        assert_int_equal(store_event_last(f->s), where == AFTER_COMMIT ? 3 : 1);
        assert_sound(f);
    }
}

static void a_turn_that_is_rolled_back_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    assert_false(store_dirty(f->s));
    OK(store_commit(f->s, &e)); /* nothing open: nothing to do */
    submit(f, "a");
    assert_true(store_dirty(f->s));
    OK(store_begin(f->s, &e)); /* idempotent */
    store_rollback(f->s);
    assert_false(store_dirty(f->s));
    assert_int_equal(event_count(f, NULL), 0);
    assert_int_equal(store_event_last(f->s), 0);
    struct store_job j;
    FAILS(DHA_E_NOT_FOUND, store_job_get(f->s, 1, &j, &e));
    submit(f, "b");
    OK(store_commit(f->s, &e));
    assert_int_equal(store_event_last(f->s), 1);
}

static void a_change_that_fails_leaves_the_rest_of_the_turn(void **state)
{
    struct fixture *f = *state;
    struct store_new_stage stages[2] = {{STAGE_FUSE, "k"}, {STAGE_EVAL, ""}};
    struct store_new_job bad = {.name = "bad",
                                .spec = NULL /* NOT NULL in the schema */,
                                .method = "gqa",
                                .device = "cpu",
                                .stages = stages,
                                .n_stages = 1,
                                .now_us = NOW};
    int64_t id;
    bool existed;
    submit(f, "good");
    FAILS(DHA_E_CONFLICT, store_job_submit(f->s, &bad, &id, &existed, &e));
    bad.spec = "{}";
    bad.n_stages = 2; /* the second has no key */
    FAILS(DHA_E_INTERNAL, store_job_submit(f->s, &bad, &id, &existed, &e));
    bad.sweep = 4711; /* of no sweep: refused by the foreign key, after the job's row */
    bad.n_stages = 1;
    FAILS(DHA_E_CONFLICT, store_job_submit(f->s, &bad, &id, &existed, &e));
    OK(store_commit(f->s, &e));
    reopen(f);
    assert_int_equal(event_count(f, "job.submit"), 1);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM job"), 1);
    assert_int_equal(count_rows(f, "SELECT count(*) FROM stage"), 3);
}

/* A disk that fills up in the middle of a turn: RLIMIT_FSIZE makes write() fail in a child. */
static void fill_up(struct fixture *f)
{
    struct dha_err e = {0};
    struct store *s;
    static char big[300000];
    memset(big, 'x', sizeof big - 1);
    if (store_open(f->dir, 0, NOW, &s, &e) != 0)
        _exit(1);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit lim = {.rlim_cur = 200000, .rlim_max = 200000};
    if (setrlimit(RLIMIT_FSIZE, &lim) != 0)
        _exit(2);
    int rc = 0;
    for (int i = 0; i < 40 && rc == 0; i++)
        rc = store_event_add(s, "big", 0, 0, 0, big, NOW, NULL, &e);
    if (rc == 0)
        rc = store_commit(s, &e);
    else if (store_commit(s, NULL) == 0) /* the turn was lost: commit must not say otherwise */
        _exit(3);
    if (rc == 0 || (e.code != DHA_E_IO && e.code != DHA_E_NO_SPACE) || store_dirty(s))
        _exit(4);
    /* and it goes on: reading works, a small turn fits or says that it does not */
    struct store_job j;
    if (store_job_get(s, 1, &j, &e) != 0)
        _exit(5);
    store_job_finish(&j);
    store_close(s);
    _exit(0);
}

static void a_full_disk_costs_the_turn_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    submit(f, "kept");
    OK(store_commit(f->s, &e));
    store_close(f->s);
    f->s = NULL;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        fill_up(f);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    open_store(f);
    assert_int_equal(event_count(f, "big"), 0);
    assert_int_equal(event_count(f, "job.submit"), 1);
    assert_sound(f);
}

static void a_backup_is_a_whole_store(void **state)
{
    struct fixture *f = *state;
    struct fixture copy = {0};
    char path[128];
    submit(f, "a");
    OK(store_commit(f->s, &e));
    assert_true(snprintf(copy.dir, sizeof copy.dir, "%.50s/copy", f->dir) > 0);
    assert_int_equal(mkdir(copy.dir, 0700), 0);
    snprintf(path, sizeof path, "%s/state.db", copy.dir);
    OK(store_backup(f->s, path, &e));
    FAILS(DHA_E_CONFLICT, store_backup(f->s, path, &e)); /* never over a file that is there */
    open_store(&copy);
    struct store_job j;
    OK(store_job_get(copy.s, 1, &j, &e));
    assert_string_equal(j.name, "a");
    store_job_finish(&j);
    assert_sound(&copy);
    store_close(copy.s);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(an_empty_directory_gets_the_whole_schema),
        T(a_newer_schema_is_refused_and_left_alone),
        T(a_database_of_something_else_is_refused),
        T(a_second_daemon_is_refused_with_the_pid_of_the_first),
        T(the_lock_of_a_dead_daemon_is_waited_for),
        T(a_directory_that_cannot_be_is_refused),
        T(killed_at_any_point_of_a_turn_nothing_committed_is_lost),
        T(a_turn_that_is_rolled_back_leaves_nothing),
        T(a_change_that_fails_leaves_the_rest_of_the_turn),
        T(a_full_disk_costs_the_turn_and_nothing_else),
        T(a_backup_is_a_whole_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
