/* Who gives way: the rules of preempt.h one by one, and random clusters against them. */
#include "cmocka_all.h"

#include <stdbool.h>
#include <stdlib.h>

#include "daemon/preempt.h"

/* `held[i]` = attempt that holds slot i; so many slots a node. */
static void fill(struct preempt_slot *s, const int *held, size_t n, size_t per_node)
{
    for (size_t i = 0; i < n; i++) {
        s[i] = (struct preempt_slot){.node = (int64_t)(i / per_node) + 1, .attempt = held[i]};
    }
}

static void the_cheapest_give_way_and_only_as_many_as_needed(void **state)
{
    (void)state;
    struct preempt_slot s[4];
    struct preempt_attempt a[] = {{1, 0, 10, false}, {2, 0, 20, false}, {3, 5, 30, false}};
    int64_t out[3];
    fill(s, (int[]){1, 1, 2, 3}, 4, 4);
    assert_int_equal(preempt_choose(1, 1, SCHED_CPU, 9, s, 4, a, 3, out), 1);
    assert_int_equal(out[0], 2); /* of equal priority the one that ran the shortest */
    assert_int_equal(preempt_choose(1, 2, SCHED_CPU, 9, s, 4, a, 3, out), 1);
    assert_int_equal(out[0], 1); /* 2 was enough for one slot; with 1 it is not needed */
    assert_int_equal(preempt_choose(1, 3, SCHED_CPU, 9, s, 4, a, 3, out), 2);
    assert_int_equal(preempt_choose(1, 4, SCHED_CPU, 9, s, 4, a, 3, out), 3);
    assert_int_equal(preempt_choose(1, 5, SCHED_CPU, 9, s, 4, a, 3, out), 0);
}

static void an_equal_or_higher_priority_gives_way_to_nobody(void **state)
{
    (void)state;
    struct preempt_slot s[2];
    struct preempt_attempt a[] = {{1, 5, 10, false}, {2, 4, 20, false}};
    int64_t out[2];
    fill(s, (int[]){1, 2}, 2, 2);
    assert_int_equal(preempt_choose(1, 2, SCHED_CPU, 5, s, 2, a, 2, out), 0);
    assert_int_equal(preempt_choose(1, 1, SCHED_CPU, 5, s, 2, a, 2, out), 1);
    assert_int_equal(out[0], 2);
    assert_int_equal(preempt_choose(1, 1, SCHED_CPU, 4, s, 2, a, 2, out), 0);
}

static void nobody_is_asked_where_room_is_coming(void **state)
{
    (void)state;
    struct preempt_slot s[4];
    struct preempt_attempt a[] = {{1, 0, 10, true}, {2, 0, 20, false}};
    int64_t out[2];
    fill(s, (int[]){1, 1, 2, 2}, 4, 2);
    assert_int_equal(preempt_choose(1, 2, SCHED_CPU, 9, s, 4, a, 2, out), 0);
    a[0].stopping = false;
    assert_int_equal(preempt_choose(1, 2, SCHED_CPU, 9, s, 4, a, 2, out), 1);
    fill(s, (int[]){0, 1, 2, 2}, 4, 2);
    assert_int_equal(preempt_choose(1, 1, SCHED_CPU, 9, s, 4, a, 2, out), 0);
}

static void the_node_where_the_least_gives_way(void **state)
{
    (void)state;
    struct preempt_slot s[4];
    struct preempt_attempt a[] = {{1, 3, 10, false}, {2, 1, 20, false}, {3, 1, 30, false}};
    int64_t out[3];
    fill(s, (int[]){1, 1, 2, 3}, 4, 2);
    assert_int_equal(preempt_choose(1, 2, SCHED_CPU, 9, s, 4, a, 3, out),
                     2); /* both of priority 1 */
    s[2].drained = s[3].drained = true;
    assert_int_equal(preempt_choose(1, 2, SCHED_CPU, 9, s, 4, a, 3, out), 1);
    assert_int_equal(out[0], 1);
    assert_int_equal(preempt_choose(1, 2, SCHED_CUDA, 9, s, 4, a, 3, out), 0);
}

static void who_gives_way_for_two_nodes_is_counted_once(void **state)
{
    (void)state;
    struct preempt_slot s[6];
    /* 1 runs on nodes 1 and 2; node 3 has somebody dearer */
    struct preempt_attempt a[] = {{1, 1, 10, false}, {2, 3, 20, false}};
    int64_t out[2];
    fill(s, (int[]){1, 1, 1, 1, 2, 2}, 6, 2);
    assert_int_equal(preempt_choose(2, 2, SCHED_CPU, 9, s, 6, a, 2, out), 1);
    assert_int_equal(out[0], 1);
    assert_int_equal(preempt_choose(3, 2, SCHED_CPU, 9, s, 6, a, 2, out), 2);
    assert_int_equal(preempt_choose(4, 2, SCHED_CPU, 9, s, 6, a, 2, out), 0);
    assert_int_equal(preempt_choose(3, 2, SCHED_CPU, 3, s, 6, a, 2, out), 0);
    fill(s, (int[]){0, 0, 1, 1, 2, 2}, 6, 2);
    assert_int_equal(preempt_choose(2, 2, SCHED_CPU, 9, s, 6, a, 2, out), 1);
    assert_int_equal(out[0], 1);
    a[0].stopping = true;
    assert_int_equal(preempt_choose(2, 2, SCHED_CPU, 9, s, 6, a, 2, out), 0);
}

static void random_clusters_keep_the_rules(void **state)
{
    (void)state;
    srand(7);
    for (int round = 0; round < 5000; round++) {
        struct preempt_slot s[24];
        struct preempt_attempt a[8];
        int64_t out[8];
        int held[24], need = 1 + rand() % 6, priority = rand() % 5;
        size_t per = 1 + (size_t)rand() % 6, n = per * (1 + (size_t)rand() % 4);
        for (int i = 0; i < 8; i++) {
            a[i] = (struct preempt_attempt){i + 1, rand() % 5, rand() % 100, rand() % 5 == 0};
        }
        for (size_t i = 0; i < n; i++) {
            held[i] = rand() % 9;
        }
        fill(s, held, n, per);
        size_t got = preempt_choose(1, need, SCHED_CPU, priority, s, n, a, 8, out);
        bool gives[9] = {false}, fits = false;
        for (size_t i = 0; i < got; i++) {
            assert_false(gives[out[i]]);
            gives[out[i]] = true;
            assert_true(a[out[i] - 1].priority < priority);
            assert_false(a[out[i] - 1].stopping);
        }
        for (size_t at = 0; at < n && got; at += per) { /* enough, and none too many */
            int have = 0;
            bool all_here = true;
            for (size_t i = at; i < at + per; i++) {
                have += !held[i] || gives[held[i]] || a[held[i] - 1].stopping;
            }
            for (int g = 1; g <= 8; g++) {
                int here = 0;
                for (size_t i = at; i < at + per; i++) {
                    here += held[i] == g;
                }
                all_here = all_here && (!gives[g] || (here > 0 && have - here < need));
            }
            fits = fits || (have >= need && all_here);
        }
        assert_true(got == 0 || fits);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cheapest_give_way_and_only_as_many_as_needed),
        cmocka_unit_test(an_equal_or_higher_priority_gives_way_to_nobody),
        cmocka_unit_test(nobody_is_asked_where_room_is_coming),
        cmocka_unit_test(the_node_where_the_least_gives_way),
        cmocka_unit_test(who_gives_way_for_two_nodes_is_counted_once),
        cmocka_unit_test(random_clusters_keep_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
