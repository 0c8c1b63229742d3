/* fixture.h: a store in a fresh directory, a job to put into it, and a look behind its back. */
#ifndef DHA_TESTS_STORE_FIXTURE_H
#define DHA_TESTS_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <sqlite3.h>

#include "store/store.h"

#define NOW INT64_C(1700000000000000)

struct fixture {
    char dir[64];
    struct store *s;
};

/* Every call that must succeed goes through here, so that a failure shows its text. */
#define OK(call)                                                                                   \
    do {                                                                                           \
        struct dha_err e = {0};                                                                    \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s: %s", #call, dha_code_name(e.code), e.msg);                           \
    } while (0)
/* And every call that must fail, with its code. */
#define FAILS(want, call)                                                                          \
    do {                                                                                           \
        struct dha_err e = {0};                                                                    \
        assert_int_equal((call), -1);                                                              \
        if (e.code != (want))                                                                      \
            fail_msg("%s: %s, not %s: %s", #call, dha_code_name(e.code), dha_code_name(want),      \
                     e.msg);                                                                       \
        assert_true(e.msg[0] != '\0');                                                             \
    } while (0)

static inline void open_store(struct fixture *f)
{
    OK(store_open(f->dir, 0, NOW, &f->s, &e));
}

static inline void reopen(struct fixture *f)
{
    store_close(f->s);
    open_store(f);
}

static inline int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    snprintf(f->dir, sizeof f->dir, "/tmp/dha-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    open_store(f);
    *state = f;
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;
    char cmd[96];
    store_close(f->s);
    snprintf(cmd, sizeof cmd, "rm -rf %s", f->dir);
    assert_int_equal(system(cmd), 0);
    free(f);
    return 0;
}

/* search, fuse, train; keys are PREFIX-0.. */
static inline int64_t submit_as(struct fixture *f, const char *prefix, const char *idem,
                                bool *existed)
{
    char keys[3][32];
    struct store_new_stage stages[3] = {
        {STAGE_SEARCH, keys[0]}, {STAGE_FUSE, keys[1]}, {STAGE_TRAIN, keys[2]}};
    for (int i = 0; i < 3; i++)
        snprintf(keys[i], sizeof keys[i], "%.20s-%d", prefix, i);
    struct store_new_job j = {.name = prefix,
                              .spec = "{\"model\":\"/m\"}",
                              .method = "spectral",
                              .budget = 0.25,
                              .slots = 2,
                              .device = "cpu",
                              .owner_uid = 1000,
                              .idempotency_key = idem,
                              .stages = stages,
                              .n_stages = 3,
                              .now_us = NOW};
    int64_t id;
    bool again;
    OK(store_job_submit(f->s, &j, &id, existed ? existed : &again, &e));
    return id;
}

static inline int64_t submit(struct fixture *f, const char *prefix)
{
    return submit_as(f, prefix, NULL, NULL);
}

static inline int64_t stage_id(struct fixture *f, int64_t job, int ord)
{
    struct store_stages l;
    OK(store_stages_of_job(f->s, job, &l, &e));
    assert_true(ord < (int)l.n);
    int64_t id = l.at[ord].id;
    store_stages_finish(&l);
    return id;
}

static inline enum stage_state state_of(struct fixture *f, int64_t stage)
{
    struct store_stage st;
    OK(store_stage_get(f->s, stage, &st, &e));
    enum stage_state state = st.state;
    store_stage_finish(&st);
    return state;
}

static inline bool move_stage(struct fixture *f, int64_t stage, enum stage_state from,
                              enum stage_state to, int attempt)
{
    bool changed;
    struct store_stage_move m = {
        .stage = stage, .from = from, .to = to, .attempt = attempt, .now_us = NOW};
    OK(store_stage_transition(f->s, &m, &changed, &e));
    return changed;
}

static inline int64_t start(struct fixture *f, int64_t stage, const int64_t *slots, size_t n,
                            int *number)
{
    static int serial;
    char uuid[32];
    int64_t id;
    int num;
    snprintf(uuid, sizeof uuid, "uuid-%d-%d", (int)getpid(), serial++);
    struct store_new_attempt a = {
        .stage = stage, .uuid = uuid, .slots = slots, .n_slots = n, .now_us = NOW};
    OK(store_attempt_new(f->s, &a, &id, &num, &e));
    if (number)
        *number = num;
    return id;
}

/* Runs SQL on state.db while the store is closed: how damage gets in. */
/* The first column of the first row; of what is committed. */
static inline int count_rows(struct fixture *f, const char *sql)
{
    char path[96];
    sqlite3 *db;
    sqlite3_stmt *st;
    snprintf(path, sizeof path, "%s/state.db", f->dir);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int n = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

static inline void behind_its_back(struct fixture *f, const char *sql)
{
    char path[96];
    sqlite3 *db;
    char *msg = NULL;
    snprintf(path, sizeof path, "%s/state.db", f->dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s: %s", sql, msg);
    sqlite3_close(db);
}

static inline size_t event_count(struct fixture *f, const char *type)
{
    struct store_events l;
    size_t n = 0;
    OK(store_events_list(f->s, 0, 100000, &l, &e));
    for (size_t i = 0; i < l.n; i++)
        n += !type || strcmp(l.at[i].type, type) == 0;
    store_events_finish(&l);
    return n;
}

static inline void assert_sound(struct fixture *f)
{
    struct dha_err e = {0};
    int n = store_fsck(f->s, NULL, NULL, &e);
    if (n != 0)
        fail_msg("fsck finds %d problems %s", n, e.msg);
}

#endif
