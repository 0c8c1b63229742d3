/* Exchanges of head counts: never a higher calibration loss, never more heads than the budget, and the parent is as
 * before.
 */
#include "tests/unit/method/small_model.h"

#include "worker/method/exchange.h"
#include "worker/method/walk.h"

enum { LAYERS = 2, HEADS = 4, ENTRIES = 2 * LAYERS };

static struct plan plan_of(struct small *s)
{
    struct plan p;
    struct dha_err e = {0};
    if (spectral_plan(&s->env, &p, &e))
        fail_msg("%s", e.msg);
    return p;
}

static int heads_of(const struct plan *p, const int *pick)
{
    int sum = 0;
    for (int i = 0; i < ENTRIES; i++)
        sum += p->entries[i].choices[pick[i]].n;
    return sum;
}

static struct exchange_report improve(struct small *s, const struct plan *p, int total, int *pick)
{
    struct exchange_report r;
    struct dha_err e = {0};
    if (exchange_improve(&s->env, p, total, pick, &r, &e))
        fail_msg("%s", e.msg);
    return r;
}

/* Mean loss over the cost sequences of the model that spectral_merge() makes of a pick. */
static double merged_loss(struct small *s, const struct plan *p, const int *pick)
{
    int groups[ENTRIES * HEADS], n = calib_split(&s->env).costs;
    struct model *m;
    struct walk w;
    double sum;
    struct dha_err e = {0};
    for (int i = 0; i < ENTRIES; i++)
        memcpy(groups + i * HEADS, p->entries[i].choices[pick[i]].group_of, HEADS * sizeof *groups);
    s->method.regress = false; /* exchanges judge what comes before it */
    if (spectral_merge(&s->env, groups, &m, &e) ||
        walk_open(&w, &s->env, m, STREAM_COST, 0, n, &e) || walk_loss(&w, 0, &sum, &e))
        fail_msg("%s", e.msg);
    walk_close(&w);
    model_free(m);
    return sum / ((double)n * SMALL_SEQ);
}

static void the_loss_never_rises_and_the_budget_is_kept(void **state)
{
    (void)state;
    int moved = 0;
    for (int bias = 0; bias < 2; bias++)
        for (int total = ENTRIES; total <= ENTRIES * HEADS; total += 3) {
            struct small s;
            int pick[ENTRIES], before[ENTRIES];
            struct dha_err e = {0};
            small_open(&s, HEADS, HEADS, LAYERS, bias);
            struct plan p = plan_of(&s);
            if (plan_choose(&p, total, pick, NULL, &e))
                fail_msg("%s", e.msg);
            memcpy(before, pick, sizeof pick);
            struct exchange_report r = improve(&s, &p, total, pick);
            assert_true(r.after <= r.before);
            assert_true(heads_of(&p, pick) <= total);
            assert_true(r.evaluations <= 64);
            assert_int_equal(r.moves > 0, memcmp(before, pick, sizeof pick) != 0);
            /* what was promised is what the merge delivers, before and after */
            assert_close(merged_loss(&s, &p, before), r.before, 1e-5);
            assert_close(merged_loss(&s, &p, pick), r.after, 1e-5);
            moved += r.moves;
            plan_finish(&p);
            small_close(&s);
        }
    assert_true(moved > 0); /* or the cases above show nothing */
}

static void a_bad_start_is_led_back(void **state)
{
    (void)state;
    /* the keys of layer 0 are images of one head: all but one of them are wasted, and layer 1 has too few */
    static const int one[HEADS] = {0};
    struct small s;
    small_open(&s, HEADS, HEADS, LAYERS, false);
    s.method.slow_planes =
        false; /* with them, random keys of layer 1 merge to a lower loss than the parent's */
    plant_images(s.m, 0, false, one);
    struct plan p = plan_of(&s);
    int pick[ENTRIES] = {3, 3, 0, 3};
    struct exchange_report r = improve(&s, &p, 13, pick);
    assert_true(r.moves > 0);
    assert_true(r.after < r.before - 0.01);
    assert_int_equal(pick[2], 3);
    assert_true(heads_of(&p, pick) <= 13);
    assert_true(r.after < r.parent + 1e-4); /* random tokens: it may even be lower */
    plan_finish(&p);
    small_close(&s);
}

static void full_heads_stay_exact(void **state)
{
    (void)state;
    struct small s;
    small_open(&s, HEADS, HEADS, LAYERS, true);
    struct plan p = plan_of(&s);
    int pick[ENTRIES] = {3, 3, 3, 3};
    struct exchange_report r = improve(&s, &p, ENTRIES * HEADS, pick);
    for (int i = 0; i < ENTRIES; i++)
        assert_int_equal(pick[i], 3);
    assert_int_equal(r.moves, 0);
    assert_close(r.before, r.parent, 1e-6);
    assert_true(r.after == r.before);
    plan_finish(&p);
    small_close(&s);
}

static void the_parent_is_left_alone(void **state)
{
    (void)state;
    struct small s;
    int pick[ENTRIES] = {1, 1, 1, 1};
    small_open(&s, HEADS, HEADS, LAYERS, false);
    size_t n = s.m->n_params;
    float *before = malloc(n * sizeof *before), *after = malloc(n * sizeof *after);
    assert_true(before && after);
    struct plan p = plan_of(&s);
    s.k->ops->download(s.k, before, kern_at(s.m->params, 0), n);
    improve(&s, &p, 2 * ENTRIES, pick);
    s.k->ops->download(s.k, after, kern_at(s.m->params, 0), n);
    assert_memory_equal(before, after, n * sizeof *before);
    free(after);
    free(before);
    plan_finish(&p);
    small_close(&s);
}

static int stop_at_third(void *arg, const char *phase, int64_t done, int64_t total)
{
    assert_true(done <= total);
    *(int *)arg += strcmp(phase, "exchange") == 0;
    return *(int *)arg == 3;
}

static void a_stop_is_obeyed(void **state)
{
    (void)state;
    struct small s;
    struct exchange_report r;
    struct dha_err e = {0};
    int pick[ENTRIES] = {1, 1, 1, 1}, calls = 0;
    small_open(&s, HEADS, HEADS, LAYERS, false);
    struct plan p = plan_of(&s);
    s.env.progress = stop_at_third;
    s.env.arg = &calls;
    assert_int_equal(exchange_improve(&s.env, &p, 2 * ENTRIES, pick, &r, &e), -1);
    assert_int_equal(e.code, DHA_E_STOPPED);
    plan_finish(&p);
    small_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_loss_never_rises_and_the_budget_is_kept),
        cmocka_unit_test(a_bad_start_is_led_back),
        cmocka_unit_test(full_heads_stay_exact),
        cmocka_unit_test(the_parent_is_left_alone),
        cmocka_unit_test(a_stop_is_obeyed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
