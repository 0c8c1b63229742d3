/* Work that the loop waits for, but not for ever. */
#include "cmocka_all.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/patience.h"

static atomic_int go_on, dropped;

struct task {
    char path[16]; /* goes with it */
    int hang, done;
};

static void work(void *arg)
{
    struct task *t = arg;
    while (t->hang && !atomic_load(&go_on)) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    t->done = 1;
}

static void drop(void *arg)
{
    free(arg);
    atomic_fetch_add(&dropped, 1);
}

static struct task *task(const char *path, int hang)
{
    struct task *t = calloc(1, sizeof *t);
    assert_non_null(t);
    snprintf(t->path, sizeof t->path, "%s", path);
    t->hang = hang;
    return t;
}

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void what_comes_back_is_the_callers(void **state)
{
    (void)state;
    struct dha_err e = {0};
    for (int i = 0; i < 100; i++) {
        struct task *t = task("/a", 0);
        assert_int_equal(patience_run(work, drop, t, 1, t->path, &e), 0);
        assert_int_equal(t->done, 1);
        free(t);
    }
    assert_int_equal(atomic_load(&dropped), 0);
}

static void what_hangs_is_left_to_itself_and_remembered(void **state)
{
    (void)state;
    struct dha_err e = {0};
    struct task *t = task("/hung", 1);
    assert_int_equal(patience_run(work, drop, t, 1, t->path, &e), -1);
    assert_int_equal(e.code, DHA_E_TRANSIENT);
    assert_non_null(strstr(e.msg, "/hung"));
    assert_int_equal(atomic_load(&dropped), 0);

    double begin = seconds(); /* the same path: no second wait, which would be PATIENCE_MS */
    t = task("/hung", 1);
    e = (struct dha_err){0};
    assert_int_equal(patience_run(work, drop, t, 1, t->path, &e), -1);
    assert_non_null(strstr(e.msg, "/hung"));
    assert_int_equal(atomic_load(&dropped), 1);
    assert_true(seconds() - begin < PATIENCE_MS / 1000.0);

    t = task("/other", 0);
    assert_int_equal(patience_run(work, drop, t, 1, t->path, &e), 0);
    free(t);

    atomic_store(&go_on, 1);
    while (atomic_load(&dropped) < 2) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    int rc;
    do { /* once it is back it is forgotten */
        t = task("/hung", 0);
        rc = patience_run(work, drop, t, 1, t->path, &e);
    } while (rc != 0);
    assert_int_equal(t->done, 1);
    free(t);
}

/* -1, and how long it took. */
static double hang(int64_t owner, const char *path)
{
    struct dha_err e = {0};
    struct task *t = task(path, 1);
    double begin = seconds();
    assert_int_equal(patience_run(work, drop, t, owner, t->path, &e), -1);
    assert_int_equal(e.code, DHA_E_TRANSIENT);
    return seconds() - begin;
}

static void assert_good(int64_t owner, const char *path)
{
    struct dha_err e = {0};
    struct task *t = task(path, 0);
    assert_int_equal(patience_run(work, drop, t, owner, t->path, &e), 0);
    free(t);
}

static void wait_until_back(void)
{
    atomic_store(&go_on, 1);
    while (patience_hanging() > 0) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
}

static void what_hangs_for_one_user_is_not_held_against_another(void **state)
{
    (void)state;
    char path[16];
    atomic_store(&go_on, 0);
    for (int i = 0; i < PATIENCE_OF_ONE; i++) {
        snprintf(path, sizeof path, "/hung%d", i);
        double took = hang(1, path); /* whoever made the loop wait once does not again */
        assert_true(took >= (i == 0 ? PATIENCE_MS : PATIENCE_AGAIN_MS) / 1000.0);
        assert_true(i == 0 || took < PATIENCE_MS / 1000.0);
        assert_int_equal(patience_hanging(), i + 1);
    }
    int before = atomic_load(&dropped);
    hang(1, "/good"); /* not looked at any more */
    assert_int_equal(atomic_load(&dropped), before + 1);
    assert_int_equal(patience_hanging(), PATIENCE_OF_ONE);
    assert_good(2, "/good");
    assert_good(2, "/hung0");
    wait_until_back();
    assert_good(1, "/good");
}

static void there_are_so_many_threads_at_most(void **state)
{
    (void)state;
    static struct patience_left left[PATIENCE_HANGING_MAX + 1];
    for (int i = 0; i < PATIENCE_HANGING_MAX; i++) {
        left[i].owner = 1; /* these say nothing of what the loop may wait for */
        assert_true(patience_leave(&left[i]));
        if (i == PATIENCE_HANGING_MAX - 2) {
            assert_good(1, "/good");
        }
    }
    assert_false(patience_leave(&left[PATIENCE_HANGING_MAX]));
    int before = atomic_load(&dropped);
    hang(2, "/hung");
    assert_int_equal(atomic_load(&dropped), before + 1);
    patience_back(&left[7]);
    assert_good(2, "/good");
    assert_true(patience_leave(&left[PATIENCE_HANGING_MAX]));
    for (int i = 0; i <= PATIENCE_HANGING_MAX; i++) {
        if (i != 7) {
            patience_back(&left[i]);
        }
    }
    assert_int_equal(patience_hanging(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_comes_back_is_the_callers),
        cmocka_unit_test(what_hangs_is_left_to_itself_and_remembered),
        cmocka_unit_test(what_hangs_for_one_user_is_not_held_against_another),
        cmocka_unit_test(there_are_so_many_threads_at_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
