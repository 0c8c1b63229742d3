/* The budget allocation against brute force; plans as JSON, whole and damaged. */
#include "tests/unit/method/fixtures.h"

#include "worker/method/method.h"

static void random_plan(struct plan *p, int layers, int heads, double keep)
{
    struct dha_err e;
    int group_of[MODEL_MAX_HEADS];
    assert_int_equal(plan_alloc(p, layers, heads, &e), 0);
    snprintf(p->method, sizeof p->method, "spectral");
    snprintf(p->cost_unit, sizeof p->cost_unit, "nats");
    for (int i = 0; i < 2 * layers; i++)
        for (int n = heads; n >= 1; n--) { /* added in the wrong order on purpose */
            if (n < heads && uniform() > keep)
                continue;
            groups_adjacent(heads, n, group_of);
            assert_int_equal(plan_add(p, i, n, n == heads ? 0.0 : normal(), group_of, &e), 0);
        }
}

static double brute_choose(const struct plan *p, int entry, int left)
{
    if (entry == 2 * p->layers)
        return 0.0;
    double best = INFINITY;
    for (int c = 0; c < p->entries[entry].n_choices; c++) {
        const struct choice *ch = &p->entries[entry].choices[c];
        if (ch->n <= left)
            best = fmin(best, ch->cost + brute_choose(p, entry + 1, left - ch->n));
    }
    return best;
}

static void allocation_equals_brute_force(void **state)
{
    (void)state;
    for (int repeat = 0; repeat < 30; repeat++) {
        struct plan p;
        random_plan(&p, 2, 6, 0.6);
        for (int total = 1; total <= 24; total++) {
            int pick[4], used = 0;
            double cost, sum = 0.0, want = brute_choose(&p, 0, total);
            struct dha_err e = {0};
            if (isinf(want)) {
                assert_int_equal(plan_choose(&p, total, pick, &cost, &e), -1);
                assert_int_equal(e.code, DHA_E_INPUT);
                assert_true(strlen(e.hint) > 0);
                continue;
            }
            assert_int_equal(plan_choose(&p, total, pick, &cost, &e), 0);
            for (int i = 0; i < 4; i++) {
                sum += p.entries[i].choices[pick[i]].cost;
                used += p.entries[i].choices[pick[i]].n;
            }
            assert_close(cost, want, 1e-12);
            assert_close(sum, want, 1e-12);
            assert_true(used <= total);
        }
        plan_finish(&p);
    }
}

/* Pair costs of a layer's entries as a learned search gives them: choices of the divisors of 8, cost loss * (1 - (n-1)/7). */
static void plan_of_losses(struct plan *p, const double *loss, int layers)
{
    struct dha_err e;
    int group_of[8];
    assert_int_equal(plan_alloc(p, layers, 8, &e), 0);
    for (int i = 0; i < 2 * layers; i++)
        for (int n = 1; n <= 8; n *= 2) {
            groups_adjacent(8, n, group_of);
            assert_int_equal(plan_add(p, i, n, loss[i] * (8 - n) / 7, group_of, &e), 0);
        }
}

/* METHODS 1.6.5 by hand: 8 entries of 1 = H/8; a quarter of them, the two of highest loss, to H/2; what is left one step
 * at a time to the largest loss a head. */
static void greedy_follows_the_papers_three_steps(void **state)
{
    (void)state;
    const double loss[8] = {8, 1, 7, 2, 3, 6, 4, 5};
    const int want[][8] = {{1, 1, 1, 1, 1, 1, 1, 1},  /* 8: the minimum */
                           {4, 1, 1, 1, 1, 1, 1, 1},  /* 11: one lift */
                           {4, 1, 4, 1, 1, 1, 1, 1},  /* 14: two */
                           {4, 1, 4, 1, 1, 2, 1, 2},  /* 16: entries 5 and 7 have 6 and 5 a head */
                           {4, 1, 4, 1, 2, 4, 2, 2}}; /* 20: then 4, 3; then 6/2 before 5/2 */
    const int totals[] = {8, 11, 14, 16, 20};
    struct plan p;
    struct dha_err e = {0};
    plan_of_losses(&p, loss, 4);
    for (size_t t = 0; t < sizeof totals / sizeof *totals; t++) {
        int pick[8];
        double cost, sum = 0;
        assert_int_equal(plan_choose_greedy(&p, totals[t], pick, &cost, &e), 0);
        for (int i = 0; i < 8; i++) {
            assert_int_equal(p.entries[i].choices[pick[i]].n, want[t][i]);
            sum += p.entries[i].choices[pick[i]].cost;
        }
        assert_close(cost, sum, 1e-12);
    }
    plan_finish(&p);
}

static void greedy_is_never_better_than_the_knapsack(void **state)
{
    (void)state;
    double worse = 0;
    for (int repeat = 0; repeat < 50; repeat++) {
        double loss[6];
        struct plan p;
        struct dha_err e = {0};
        for (int i = 0; i < 6; i++)
            loss[i] = uniform();
        plan_of_losses(&p, loss, 3);
        for (int total = 6; total <= 48; total++) {
            int pick[6], used = 0;
            double greedy, exact;
            assert_int_equal(plan_choose_greedy(&p, total, pick, &greedy, &e), 0);
            for (int i = 0; i < 6; i++)
                used += p.entries[i].choices[pick[i]].n;
            assert_true(used <= total);
            assert_int_equal(plan_choose(&p, total, pick, &exact, &e), 0);
            assert_true(exact <= greedy + 1e-12);
            worse += greedy - exact;
        }
        plan_finish(&p);
    }
    assert_true(worse > 0.1); /* it is another allocation */
}

static void a_budget_below_an_eighth_cannot_be_met_greedily(void **state)
{
    (void)state;
    struct plan p;
    struct dha_err e = {0};
    int pick[2], group_of[16];
    assert_int_equal(plan_alloc(&p, 1, 16, &e), 0);
    for (int i = 0; i < 2; i++)
        for (int n = 1; n <= 16; n *= 2) {
            groups_adjacent(16, n, group_of);
            assert_int_equal(plan_add(&p, i, n, 16 - n, group_of, &e), 0);
        }
    assert_int_equal(plan_choose_greedy(&p, 3, pick, NULL, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_true(strstr(e.hint, "0.1250") && strstr(e.hint, "knapsack"));
    assert_int_equal(plan_choose_greedy(&p, 4, pick, NULL, &e), 0);
    plan_finish(&p);
}

static void equal_costs_take_the_fewest_heads(void **state)
{
    (void)state;
    struct plan p;
    struct dha_err e;
    int pick[2], g1[2] = {0, 0}, g2[2] = {0, 1};
    assert_int_equal(plan_alloc(&p, 1, 2, &e), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(plan_add(&p, i, 1, 0.0, g1, &e), 0);
        assert_int_equal(plan_add(&p, i, 2, 0.0, g2, &e), 0);
    }
    assert_int_equal(plan_choose(&p, 4, pick, NULL, &e), 0);
    assert_int_equal(pick[0] + pick[1], 0);
    plan_finish(&p);
}

static void totals_round_and_stay_within_the_possible(void **state)
{
    (void)state;
    assert_int_equal(plan_total(0.25, 4, 8), 16);
    assert_int_equal(plan_total(0.26, 4, 8), 17);
    assert_int_equal(plan_total(0.01, 4, 8), 8);
    assert_int_equal(plan_total(1.0, 4, 8), 64);
}

static void a_choice_with_the_same_count_is_replaced(void **state)
{
    (void)state;
    struct plan p;
    struct dha_err e;
    int g[3] = {0, 0, 1};
    assert_int_equal(plan_alloc(&p, 1, 3, &e), 0);
    assert_int_equal(plan_add(&p, 1, 2, 0.5, g, &e), 0);
    g[1] = 1;
    assert_int_equal(plan_add(&p, 1, 2, 0.25, g, &e), 0);
    assert_int_equal(p.entries[1].n_choices, 1);
    assert_close(p.entries[1].choices[0].cost, 0.25, 0.0);
    assert_int_equal(p.entries[1].choices[0].group_of[1], 1);
    plan_finish(&p);
}

static cJSON *reparse(const cJSON *j)
{
    struct dha_err e = {0};
    char *text = json_text(j);
    assert_non_null(text);
    cJSON *back = json_parse(text, strlen(text), NULL, &e);
    assert_non_null(back);
    free(text);
    return back;
}

static void a_plan_survives_json(void **state)
{
    (void)state;
    struct plan p, q;
    struct dha_err e = {0};
    random_plan(&p, 3, 7, 0.7);
    p.distance = malloc(6 * 49 * sizeof *p.distance);
    assert_non_null(p.distance);
    for (int i = 0; i < 6 * 49; i++)
        p.distance[i] = normal() * 1e-7;
    p.entries[4].left = 0.25;
    cJSON *j = plan_to_json(&p), *back = reparse(j);
    assert_int_equal(plan_from_json(back, &q, &e), 0);
    assert_string_equal(q.method, p.method);
    assert_string_equal(q.cost_unit, p.cost_unit);
    assert_int_equal(q.layers, 3);
    assert_int_equal(q.heads, 7);
    for (int i = 0; i < 6 * 49; i++) /* cJSON prints doubles to within their last bit */
        assert_close(q.distance[i], p.distance[i], 4e-16 * fabs(p.distance[i]));
    for (int i = 0; i < 6; i++) {
        assert_int_equal(q.entries[i].n_choices, p.entries[i].n_choices);
        assert_true(q.entries[i].left == (i == 4 ? 0.25 : 0.0));
        for (int c = 0; c < p.entries[i].n_choices; c++) {
            const struct choice *a = &p.entries[i].choices[c], *b = &q.entries[i].choices[c];
            assert_int_equal(a->n, b->n);
            assert_close(a->cost, b->cost, 4e-16 * fabs(a->cost));
            assert_memory_equal(a->group_of, b->group_of, 7 * sizeof *a->group_of);
        }
    }
    cJSON_Delete(back);
    cJSON_Delete(j);
    plan_finish(&q);
    plan_finish(&p);
}

/* One valid document, damaged in one place each. */
static const char valid[] =
    "{\"method\":\"dha\",\"cost_unit\":\"distance\",\"layers\":1,\"heads\":2,\"entries\":["
    "{\"layer\":0,\"kind\":\"key\",\"choices\":[{\"n\":1,\"cost\":0.5,\"groups\":[0,0]},"
    "{\"n\":2,\"cost\":0,\"groups\":[0,1]}]},"
    "{\"layer\":0,\"kind\":\"value\",\"choices\":[{\"n\":2,\"cost\":0,\"groups\":[0,1]}]}],"
    "\"distance\":[[0,1,1,0],[0,2,2,0]]}";

static void damaged_plans_are_refused(void **state)
{
    (void)state;
    static const char *const damage[][2] = {
        {"\"layers\":1", "\"layers\":2"},
        {"\"layers\":1", "\"layers\":0"},
        {"\"layers\":1", "\"layers\":1e9"},
        {"\"heads\":2", "\"heads\":3"},
        {"\"heads\":2", "\"heads\":\"many\""},
        {"\"method\":\"dha\"", "\"method\":7"},
        {"\"method\":\"dha\"", "\"method\":\"0123456789012345678901234567890123456789\""},
        {"\"cost_unit\":\"distance\",", ""},
        {"\"kind\":\"key\"", "\"kind\":\"value\""},
        {"\"layer\":0,\"kind\":\"value\"", "\"layer\":1,\"kind\":\"value\""},
        {"\"n\":1,", "\"n\":2,"},
        {"\"n\":1,", "\"n\":0,"},
        {"\"n\":1,", ""},
        {"\"cost\":0.5", "\"cost\":null"},
        {"\"cost\":0.5", "\"cost\":\"low\""},
        {"\"groups\":[0,0]", "\"groups\":[0]"},
        {"\"groups\":[0,0]", "\"groups\":[0,0,0]"},
        {"\"groups\":[0,0]", "\"groups\":[0,1]"},
        {"\"groups\":[0,0]", "\"groups\":[0,-1]"},
        {"\"groups\":[0,0]", "\"groups\":[0,0.5]"},
        {"\"groups\":[0,0]", "\"groups\":{}"},
        {"\"choices\":[{\"n\":2,\"cost\":0,\"groups\":[0,1]}]}]", "\"choices\":[]}]"},
        {"{\"n\":2,\"cost\":0,\"groups\":[0,1]}]},{", "{\"n\":2,\"cost\":0,\"groups\":[1,0]}]},{"},
        {"\"kind\":\"key\"", "\"kind\":\"key\",\"left\":0"},
        {"\"kind\":\"key\"", "\"kind\":\"key\",\"left\":1.5"},
        {"\"kind\":\"key\"", "\"kind\":\"key\",\"left\":null"},
        {"[0,1,1,0],", ""},
        {"[0,1,1,0]", "[0,1,1]"},
        {"[0,1,1,0]", "[0,1,null,0]"},
    };
    struct plan p;
    struct dha_err e = {0};
    cJSON *j = json_parse(valid, strlen(valid), NULL, &e);
    assert_non_null(j);
    assert_int_equal(plan_from_json(j, &p, &e), 0);
    plan_finish(&p);
    cJSON_Delete(j);
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        char text[1024];
        const char *at = strstr(valid, damage[i][0]);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - valid), valid, damage[i][1],
                 at + strlen(damage[i][0]));
        j = json_parse(text, strlen(text), NULL, &e);
        if (!j)
            fail_msg("damage %zu is no JSON: %s", i, text);
        e = (struct dha_err){0};
        if (plan_from_json(j, &p, &e) != -1)
            fail_msg("damage %zu was accepted: %s", i, text);
        assert_int_equal(e.code, DHA_E_PROTOCOL);
        cJSON_Delete(j);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocation_equals_brute_force),
        cmocka_unit_test(greedy_follows_the_papers_three_steps),
        cmocka_unit_test(greedy_is_never_better_than_the_knapsack),
        cmocka_unit_test(a_budget_below_an_eighth_cannot_be_met_greedily),
        cmocka_unit_test(equal_costs_take_the_fewest_heads),
        cmocka_unit_test(totals_round_and_stay_within_the_possible),
        cmocka_unit_test(a_choice_with_the_same_count_is_replaced),
        cmocka_unit_test(a_plan_survives_json),
        cmocka_unit_test(damaged_plans_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
