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
        assert_int_equal(patience_run(work, drop, t, t->path, &e), 0);
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
    assert_int_equal(patience_run(work, drop, t, t->path, &e), -1);
    assert_int_equal(e.code, DHA_E_TRANSIENT);
    assert_non_null(strstr(e.msg, "/hung"));
    assert_int_equal(atomic_load(&dropped), 0);

    double begin = seconds(); /* the same path: no second wait, which would be PATIENCE_MS */
    t = task("/hung", 1);
    e = (struct dha_err){0};
    assert_int_equal(patience_run(work, drop, t, t->path, &e), -1);
    assert_non_null(strstr(e.msg, "/hung"));
    assert_int_equal(atomic_load(&dropped), 1);
    assert_true(seconds() - begin < PATIENCE_MS / 1000.0);

    t = task("/other", 0);
    assert_int_equal(patience_run(work, drop, t, t->path, &e), 0);
    free(t);

    atomic_store(&go_on, 1);
    while (atomic_load(&dropped) < 2) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    int rc;
    do { /* once it is back it is forgotten */
        t = task("/hung", 0);
        rc = patience_run(work, drop, t, t->path, &e);
    } while (rc != 0);
    assert_int_equal(t->done, 1);
    free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_comes_back_is_the_callers),
        cmocka_unit_test(what_hangs_is_left_to_itself_and_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
