/* What the store keeps in memory of the ready stages and of the slots (ready.c, node.c) is what the tables say: after each
 * of thousands of random changes, kept or undone, ours or somebody else's. The seed is fixed; SEED= gives another. */
#include "fixture.h"

enum { STEPS = 3000, NODES = 3 };

static uint64_t seed;

static int below(int n)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (int)((seed >> 33) % (uint64_t)n);
}

static int by_stage(const void *pa, const void *pb)
{
    const struct store_candidate *a = pa, *b = pb;
    return (a->stage > b->stage) - (a->stage < b->stage);
}

static size_t compare_stages(struct fixture *f)
{
    struct store_candidate *kept, *fresh;
    size_t n, n_fresh;
    OK(store_candidates(f->s, &kept, &n, &e));
    OK(store_candidates_afresh(f->s, &fresh, &n_fresh, &e));
    assert_int_equal(n, n_fresh);
    if (n > 0) {
        qsort(kept, n, sizeof *kept, by_stage);
        qsort(fresh, n, sizeof *fresh, by_stage);
        assert_memory_equal(kept, fresh, n * sizeof *kept);
    }
    for (int i = 0; i < 3 && n > 0; i++) {
        const struct store_candidate *c = &fresh[below((int)n)];
        int64_t *jobs;
        size_t n_jobs, want = 0, found = 0;
        OK(store_jobs_ready_for(f->s, c->key, &jobs, &n_jobs, &e));
        for (size_t k = 0; k < n; k++)
            want += strcmp(fresh[k].key, c->key) == 0;
        for (size_t k = 0; k < n_jobs; k++)
            found += jobs[k] == c->job;
        assert_int_equal(n_jobs, want);
        assert_int_equal(found, 1);
        free(jobs);
    }
    free(kept);
    free(fresh);
    return n;
}

static size_t compare_slots(struct fixture *f)
{
    struct store_slot_held *kept;
    struct store_slot *fresh;
    size_t n, n_fresh, held = 0;
    OK(store_slots_held(f->s, &kept, &n, &e));
    OK(store_slots(f->s, &fresh, &n_fresh, &e));
    assert_int_equal(n, n_fresh);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(kept[i].id, fresh[i].id);
        assert_int_equal(kept[i].node, fresh[i].node);
        assert_int_equal(kept[i].attempt, fresh[i].attempt);
        assert_int_equal(kept[i].memory, fresh[i].memory);
        assert_string_equal(kept[i].device, fresh[i].device);
        held += kept[i].attempt != 0;
    }
    free(kept);
    free(fresh);
    return held;
}

/* ---- changes; what the store refuses is refused ---- */

struct world {
    struct fixture *f;
    int64_t jobs; /* the newest */
    int64_t attempt[64];
    struct dha_err e;
};

static void new_job(struct world *w)
{
    char key[3][16];
    struct store_new_stage stages[3] = {
        {STAGE_SEARCH, key[0]}, {STAGE_FUSE, key[1]}, {STAGE_EVAL, key[2]}};
    for (int i = 0; i < 3; i++)
        snprintf(key[i], sizeof key[i], "k%d-%d", below(i == 0 ? 6 : 1000), i);
    struct store_dependency after = {.job = w->jobs > 0 ? 1 + below((int)w->jobs) : 0,
                                     .any = below(2)};
    struct store_new_job j = {.name = "random",
                              .spec = "{}",
                              .method = "gqa",
                              .priority = below(3),
                              .slots = 1 + below(4),
                              .nodes = 1 + below(2),
                              .device = below(4) ? "cpu" : "cuda",
                              .node_names = below(5) ? NULL : "n0 n1",
                              .walltime_s = below(2) * 60,
                              .hold = below(8) == 0,
                              .after = &after,
                              .n_after = w->jobs > 0 && below(3) == 0,
                              .stages = stages,
                              .n_stages = 3,
                              .now_us = NOW};
    bool existed;
    int64_t id;
    if (store_job_submit(w->f->s, &j, &id, &existed, &w->e) == 0 && id > w->jobs)
        w->jobs = id;
}

static void change_job(struct world *w)
{
    struct store_job j;
    bool changed;
    int64_t id = 1 + below((int)w->jobs + 1);
    if (store_job_brief(w->f->s, id, &j, &w->e) != 0)
        return;
    struct store_job_move m = {
        .job = id, .from = j.state, .to = (enum job_state)below(JOB_STATES), .now_us = NOW};
    switch (below(6)) {
    case 0: store_job_set_priority(w->f->s, id, below(10), NOW, &w->e); break;
    case 1: store_job_cancel(w->f->s, id, "why", false, NOW, &changed, &w->e); break;
    default: store_job_transition(w->f->s, &m, &changed, &w->e);
    }
    store_job_finish(&j);
}

static void change_stage(struct world *w)
{
    struct store_stages l;
    struct store_stage done = {0};
    bool changed;
    if (store_stages_of_job(w->f->s, 1 + below((int)w->jobs + 1), &l, &w->e) != 0 || l.n == 0)
        return;
    const struct store_stage *st = &l.at[below((int)l.n)];
    struct store_stage_move m = {.stage = st->id,
                                 .from = st->state,
                                 .to = (enum stage_state)below(STAGE_STATES),
                                 .attempt = st->attempt,
                                 .not_before_us = below(4) ? 0 : NOW + 5,
                                 .now_us = NOW};
    if (m.to == STAGE_REUSED && store_stage_done_by_key(w->f->s, st->key, &done, &w->e) == 0)
        m.reused_from = done.id;
    store_stage_transition(w->f->s, &m, &changed, &w->e);
    store_stage_finish(&done);
    store_stages_finish(&l);
}

static void start_one(struct world *w)
{
    static int serial;
    struct store_stages l;
    char uuid[32];
    int64_t slots[3], id;
    int number;
    if (store_stages_in_state(w->f->s, STAGE_READY, &l, &w->e) != 0 || l.n == 0)
        return;
    for (int i = 0; i < 3; i++)
        slots[i] = 1 + below(24);
    snprintf(uuid, sizeof uuid, "u-%d", serial++);
    struct store_new_attempt a = {.stage = l.at[below((int)l.n)].id,
                                  .uuid = uuid,
                                  .slots = slots,
                                  .n_slots = (size_t)below(3),
                                  .now_us = NOW};
    if (store_attempt_new(w->f->s, &a, &id, &number, &w->e) == 0)
        w->attempt[below(64)] = id;
    store_stages_finish(&l);
}

static void end_one(struct world *w)
{
    bool changed;
    int64_t id = w->attempt[below(64)];
    if (id)
        store_attempt_end(w->f->s, id, 0, NULL, NOW, &changed, &w->e);
}

static void change_node(struct world *w)
{
    char name[16];
    int64_t id;
    int which = below(NODES);
    snprintf(name, sizeof name, "n%d", which);
    switch (below(8)) {
    case 0: store_node_drain(w->f->s, name, "fan", NOW, &w->e); break;
    case 1: store_node_remove(w->f->s, 1 + which, NOW, &w->e); break;
    case 2:
    case 3:
    case 4: store_node_resume(w->f->s, name, NOW, &w->e); break;
    default:
        store_node_register(w->f->s, name, below(3) ? "cpu" : "cuda", below(8), NOW, &id, &w->e);
    }
}

static void one_change(struct world *w)
{
    int what = below(100);
    if (what < 20)
        new_job(w);
    else if (what < 35)
        change_job(w);
    else if (what < 65)
        change_stage(w);
    else if (what < 80)
        start_one(w);
    else if (what < 92)
        end_one(w);
    else
        change_node(w);
}

/* One or several changes, to be kept or not. What is undone is read in between, so that it is known. */
static void step(struct world *w)
{
    struct fixture *f = w->f;
    struct store_mark m;
    switch (below(20)) {
    case 0:
        OK(store_mark(f->s, &m, &e));
        for (int i = below(4); i >= 0; i--)
            one_change(w);
        compare_stages(f);
        compare_slots(f);
        store_undo(f->s, &m);
        break;
    case 1: OK(store_commit(f->s, &e)); break;
    case 2: store_rollback(f->s); break;
    case 3:
        OK(store_commit(f->s, &e));
        behind_its_back(f, below(2) ? "UPDATE job SET priority = priority + 1 WHERE id % 7 = 3"
                                    : "UPDATE slot SET memory = memory + 1 WHERE id % 5 = 2");
        break;
    default:
        for (int i = below(4); i >= 0; i--)
            one_change(w);
    }
}

static void what_is_kept_is_what_the_tables_say(void **state)
{
    const char *text = getenv("SEED");
    struct world w = {.f = *state};
    size_t most = 0, held = 0;
    seed = text ? strtoull(text, NULL, 10) : 1;
    for (int i = 0; i < STEPS; i++) {
        step(&w);
        if (below(4)) { /* changes may also pile up */
            size_t n = compare_stages(w.f);
            most = n > most ? n : most;
            held += compare_slots(w.f);
        }
        if (i == STEPS / 2) {
            OK(store_commit(w.f->s, &e));
            reopen(w.f);
        }
    }
    print_message("at most %zu ready stages; %zu slots held in all\n", most, held);
    assert_true(most > 100);
    assert_true(held > 100);
}

/* More changes than are noted one by one. */
static void thousands_of_changes_are_seen(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 400; i++) {
        char name[16];
        snprintf(name, sizeof name, "j%d", i);
        submit(f, name);
    }
    assert_int_equal(compare_stages(f), 400);
    for (int i = 0; i < 400; i += 2) {
        bool changed;
        struct store_job_move m = {.job = 1 + i, .from = JOB_QUEUED, .to = JOB_HELD, .now_us = NOW};
        OK(store_job_transition(f->s, &m, &changed, &e));
    }
    assert_int_equal(compare_stages(f), 200);
    for (int i = 0; i < 40000; i++)
        OK(store_stage_set_out_dir(f->s, 1 + i % 1200, "x", &e));
    OK(store_job_set_priority(f->s, 2, 7, NOW, &e));
    assert_int_equal(compare_stages(f), 200);
}

/* The end of one job changes what is said of others, none of whose rows changed. */
static void the_end_of_a_job_changes_those_that_wait_for_it(void **state)
{
    struct fixture *f = *state;
    struct store_new_stage stage = {STAGE_FUSE, "k"};
    struct store_dependency after = {.job = submit(f, "first"), .any = true};
    struct store_new_job j = {.name = "second",
                              .spec = "{}",
                              .method = "gqa",
                              .slots = 1,
                              .device = "cpu",
                              .after = &after,
                              .n_after = 1,
                              .stages = &stage,
                              .n_stages = 1,
                              .now_us = NOW};
    struct store_candidate *c;
    size_t n;
    int64_t id;
    bool again;
    OK(store_job_submit(f->s, &j, &id, &again, &e));
    assert_int_equal(compare_stages(f), 2);
    struct store_job_move m = {
        .job = after.job, .from = JOB_QUEUED, .to = JOB_FAILED, .now_us = NOW};
    OK(store_job_transition(f->s, &m, &again, &e));
    OK(store_candidates(f->s, &c, &n, &e));
    assert_int_equal(n, 1);
    assert_int_equal(c[0].job, id);
    assert_int_equal(c[0].depends_on, 0);
    free(c);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(what_is_kept_is_what_the_tables_say),
        T(thousands_of_changes_are_seen),
        T(the_end_of_a_job_changes_those_that_wait_for_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
