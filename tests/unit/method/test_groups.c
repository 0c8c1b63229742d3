/* Partitions against brute force over all of them, and planted optima where there are too many. */
#include "tests/unit/method/fixtures.h"

#include "worker/method/method.h"

/* Calls visit for every partition of `heads` heads (restricted growth strings). */
struct brute {
    int heads;
    const double *cost; /* [1 << heads] */
    bool equal;
    double best[16]; /* by number of groups - 1 */
};

static void visit(struct brute *b, const int *group_of, int n)
{
    unsigned mask[16] = {0};
    double sum = 0.0;
    for (int h = 0; h < b->heads; h++)
        mask[group_of[h]] |= 1u << h;
    for (int g = 0; g < n; g++) {
        if (b->equal && __builtin_popcount(mask[g]) * n != b->heads)
            return;
        sum += b->cost[mask[g]];
    }
    if (sum < b->best[n - 1])
        b->best[n - 1] = sum;
}

static void all_partitions(struct brute *b, int *group_of, int h, int n)
{
    if (h == b->heads) {
        visit(b, group_of, n);
        return;
    }
    for (int g = 0; g <= n; g++) {
        group_of[h] = g;
        all_partitions(b, group_of, h + 1, g == n ? n + 1 : n);
    }
}

static double cost_of(const double *cost, int heads, const int *group_of, int n)
{
    double sum = 0.0;
    for (int g = 0; g < n; g++) {
        unsigned mask = 0;
        for (int h = 0; h < heads; h++)
            mask |= group_of[h] == g ? 1u << h : 0;
        sum += cost[mask];
    }
    return sum;
}

static void exact_grouping_equals_brute_force(void **state)
{
    (void)state;
    double cost[256], best[8];
    int group_of[64], scratch[8];
    struct dha_err e;
    for (int heads = 1; heads <= 8; heads++) {
        for (int equal = 0; equal < 2; equal++) {
            for (int mask = 1; mask < 1 << heads; mask++)
                cost[mask] = normal(); /* negative ones too */
            struct brute b = {.heads = heads, .cost = cost, .equal = equal};
            for (int n = 0; n < heads; n++)
                b.best[n] = INFINITY;
            all_partitions(&b, scratch, 0, 0);
            assert_int_equal(groups_exact(heads, cost, equal, best, group_of, &e), 0);
            for (int n = 1; n <= heads; n++) {
                if (isinf(b.best[n - 1])) {
                    assert_true(isinf(best[n - 1]) && heads % n != 0);
                    continue;
                }
                int *g = group_of + (n - 1) * heads, copy[8];
                assert_close(best[n - 1], b.best[n - 1], 1e-12);
                assert_close(cost_of(cost, heads, g, n), best[n - 1], 1e-12);
                memcpy(copy, g, sizeof *g * (size_t)heads);
                assert_int_equal(groups_canonical(heads, copy), n);
                assert_memory_equal(copy, g, sizeof *g * (size_t)heads);
            }
        }
    }
}

static void exact_grouping_refuses_what_it_cannot_do(void **state)
{
    (void)state;
    double cost[2] = {0.0, NAN}, best[1];
    int group_of[1];
    struct dha_err e = {0};
    assert_int_equal(groups_exact(1, cost, false, best, group_of, &e), -1);
    assert_int_equal(e.code, DHA_E_INTERNAL);
    assert_int_equal(groups_exact(13, cost, false, best, group_of, &e), -1);
    assert_int_equal(groups_exact(0, cost, false, best, group_of, &e), -1);
}

/* Distances small inside planted groups, large across them, with noise. */
static void plant(int heads, const int *group_of, double *d)
{
    for (int i = 0; i < heads; i++)
        for (int j = i; j < heads; j++)
            d[i * heads + j] = d[j * heads + i] =
                i == j ? 0.0 : (group_of[i] == group_of[j] ? 0.1 : 1.0) + 0.05 * uniform();
}

static double pair_cost(int heads, const double *d, const int *group_of)
{
    double sum = 0.0;
    for (int i = 0; i < heads; i++)
        for (int j = i + 1; j < heads; j++)
            sum += group_of[i] == group_of[j] ? d[i * heads + j] : 0.0;
    return sum;
}

static void twelve_heads_are_grouped_exactly(void **state)
{
    (void)state;
    enum { H = 12 };
    static double cost[1 << H], best[H], d[H * H];
    int planted[H] = {0, 1, 2, 0, 1, 2, 2, 1, 0, 1, 0, 2}, group_of[H * H], pairwise[H];
    double pair;
    struct dha_err e;
    plant(H, planted, d);
    for (unsigned mask = 1; mask < 1u << H; mask++) {
        cost[mask] = 0.0;
        for (int i = 0; i < H; i++)
            for (int j = i + 1; j < H; j++)
                cost[mask] += mask >> i & 1 && mask >> j & 1 ? d[i * H + j] : 0.0;
    }
    assert_int_equal(groups_exact(H, cost, false, best, group_of, &e), 0);
    assert_memory_equal(group_of + 2 * H, planted, sizeof planted);
    for (int n = 1; n <= H; n++) {
        assert_int_equal(groups_pairwise(H, d, n, false, 1, pairwise, &pair, &e), 0);
        assert_close(pair, best[n - 1], 1e-12);
        assert_close(pair_cost(H, d, pairwise), pair, 1e-12);
    }
}

static void thirty_two_heads_reach_a_planted_optimum(void **state)
{
    (void)state;
    enum { H = 32 };
    static double d[H * H];
    for (int n = 2; n <= 16; n *= 2) {
        for (int equal = 0; equal < 2; equal++) {
            int planted[H], group_of[H];
            double cost;
            struct dha_err e;
            for (int h = 0; h < H; h++)
                planted[h] = h % n;
            for (int h = H - 1; h > 0; h--) {
                int j = (int)(uniform() * (h + 1)), t = planted[h];
                planted[h] = planted[j];
                planted[j] = t;
            }
            groups_canonical(H, planted);
            plant(H, planted, d);
            assert_int_equal(groups_pairwise(H, d, n, equal, 7, group_of, &cost, &e), 0);
            assert_memory_equal(group_of, planted, sizeof planted);
            assert_close(cost, pair_cost(H, d, planted), 1e-9);
        }
    }
}

/* Optimum with groups of very unequal size, which swaps alone cannot reach. */
static void moves_find_unequal_groups(void **state)
{
    (void)state;
    enum { H = 24 };
    static double d[H * H];
    int planted[H], group_of[H];
    double cost;
    struct dha_err e;
    for (int h = 0; h < H; h++)
        planted[h] = h < 15 ? 0 : h < 20 ? 1 : h < 23 ? 2 : 3;
    plant(H, planted, d);
    for (int i = 0; i < H * H; i++)
        d[i] = d[i] < 0.5 ? d[i] / 100 : d[i]; /* so that the big group is worth it */
    assert_int_equal(groups_pairwise(H, d, 4, false, 3, group_of, &cost, &e), 0);
    assert_memory_equal(group_of, planted, sizeof planted);
}

static void the_same_seed_gives_the_same_groups(void **state)
{
    (void)state;
    enum { H = 20 };
    static double d[H * H];
    int a[H], b[H];
    double ca, cb;
    struct dha_err e;
    for (int i = 0; i < H; i++)
        for (int j = 0; j <= i; j++)
            d[i * H + j] = d[j * H + i] = i == j ? 0.0 : uniform();
    assert_int_equal(groups_pairwise(H, d, 5, true, 11, a, &ca, &e), 0);
    assert_int_equal(groups_pairwise(H, d, 5, true, 11, b, &cb, &e), 0);
    assert_memory_equal(a, b, sizeof a);
    int size[5] = {0};
    for (int h = 0; h < H; h++)
        size[a[h]]++;
    for (int g = 0; g < 5; g++)
        assert_int_equal(size[g], 4);
    assert_int_equal(groups_pairwise(H, d, 6, true, 11, a, &ca, &e), -1);
    d[3] = NAN;
    assert_int_equal(groups_pairwise(H, d, 5, true, 11, a, &ca, &e), -1);
}

static void adjacent_and_canonical_groups(void **state)
{
    (void)state;
    int g[8], odd[5] = {3, 3, 1, 0, 1}, want[5] = {0, 0, 1, 2, 1};
    groups_adjacent(8, 2, g);
    assert_memory_equal(g, ((int[]){0, 0, 0, 0, 1, 1, 1, 1}), sizeof g);
    groups_adjacent(8, 3, g);
    assert_int_equal(groups_canonical(8, g), 3);
    assert_int_equal(groups_canonical(5, odd), 3);
    assert_memory_equal(odd, want, sizeof want);
}

/* METHODS 1.6.4: the paper's schedule, kept to compare with. It gives groups of equal size, the cost it says, and it never
 * beats the exact optimum. */
static void annealing_is_never_better_than_the_optimum(void **state)
{
    (void)state;
    enum { H = 8 };
    double d[H * H], gap = 0.0;
    for (int trial = 0; trial < 50; trial++)
        for (int n = 1; n <= H; n *= 2) {
            int best[H], found[H], again[H], size[H] = {0};
            double least, cost, same;
            struct dha_err e;
            for (int i = 0; i < H; i++)
                for (int j = 0; j <= i; j++)
                    d[i * H + j] = d[j * H + i] = i == j ? 0.0 : uniform();
            assert_int_equal(groups_pairwise(H, d, n, true, trial, best, &least, &e), 0);
            assert_int_equal(groups_anneal(H, d, n, trial, found, &cost, &e), 0);
            assert_int_equal(groups_anneal(H, d, n, trial, again, &same, &e), 0);
            assert_memory_equal(found, again, sizeof found);
            assert_close(cost, pair_cost(H, d, found), 1e-12);
            assert_true(cost >= least - 1e-12);
            gap += cost - least;
            for (int h = 0; h < H; h++)
                size[found[h]]++;
            for (int g = 0; g < n; g++)
                assert_int_equal(size[g], H / n);
            memcpy(again, found, sizeof found);
            assert_int_equal(groups_canonical(H, again), n);
            assert_memory_equal(again, found, sizeof found);
        }
    assert_true(
        gap >
        1.0); /* near-random, as METHODS says: it is not the exact search under another name */
}

/* Distances so large that exp(delta / T) rejects from the first swaps on: then it only descends. */
static void annealing_of_large_distances_descends(void **state)
{
    (void)state;
    enum { H = 4 };
    double d[H * H];
    int planted[H] = {0, 1, 0, 1}, found[H];
    for (int i = 0; i < H * H; i++)
        d[i] = i / H == i % H ? 0.0 : planted[i / H] == planted[i % H] ? 0.0 : 1e6;
    for (int seed = 0; seed < 20; seed++) {
        double cost;
        struct dha_err e;
        assert_int_equal(groups_anneal(H, d, 2, seed, found, &cost, &e), 0);
        assert_memory_equal(found, planted, sizeof planted);
        assert_true(cost == 0.0);
    }
}

static void annealing_refuses_groups_of_unequal_size(void **state)
{
    (void)state;
    double d[36] = {0}, cost;
    int found[6];
    struct dha_err e = {0};
    assert_int_equal(groups_anneal(6, d, 4, 1, found, &cost, &e), -1);
    d[1] = NAN;
    assert_int_equal(groups_anneal(6, d, 3, 1, found, &cost, &e), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_grouping_equals_brute_force),
        cmocka_unit_test(exact_grouping_refuses_what_it_cannot_do),
        cmocka_unit_test(twelve_heads_are_grouped_exactly),
        cmocka_unit_test(thirty_two_heads_reach_a_planted_optimum),
        cmocka_unit_test(moves_find_unequal_groups),
        cmocka_unit_test(the_same_seed_gives_the_same_groups),
        cmocka_unit_test(adjacent_and_canonical_groups),
        cmocka_unit_test(annealing_is_never_better_than_the_optimum),
        cmocka_unit_test(annealing_of_large_distances_descends),
        cmocka_unit_test(annealing_refuses_groups_of_unequal_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
