/* The scheduler's rules, one by one, and against random queues. */
#include "cmocka_all.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/sched.h"

enum { NOW = 1000 };
static const struct sched_options at_now = {.now_us = NOW};

/* `per` free CPU slots on each of `nodes` nodes; ids 1.. */
static size_t make_slots(struct sched_slot *s, int nodes, int per)
{
    size_t n = 0;
    for (int i = 0; i < nodes; i++) {
        for (int k = 0; k < per; k++, n++) {
            s[n] = (struct sched_slot){.id = (int64_t)n + 1, .node = i + 1};
        }
    }
    return n;
}

static struct sched_stage want(int64_t id, int slots)
{
    return (struct sched_stage){.id = id, .slots = slots, .age_us = id};
}

static const struct sched_decision *of(const struct sched_result *r, int64_t stage)
{
    for (size_t i = 0; i < r->n; i++) {
        if (r->at[i].stage == stage) {
            return &r->at[i];
        }
    }
    fail_msg("no decision for stage %d", (int)stage);
    return NULL;
}

#define PASS(stages, slots, n_slots, r)                                                            \
    assert_int_equal(                                                                              \
        sched_pass(stages, sizeof(stages) / sizeof *(stages), slots, n_slots, &at_now, r), 0)

static void nothing_to_do(void **state)
{
    (void)state;
    struct sched_result r;
    assert_int_equal(sched_pass(NULL, 0, NULL, 0, &at_now, &r), 0);
    assert_int_equal(r.n, 0);
    sched_result_finish(&r);
}

static void a_stage_starts_on_as_many_slots_as_it_asks_for(void **state)
{
    (void)state;
    struct sched_slot slots[4];
    size_t n = make_slots(slots, 1, 4);
    struct sched_stage st[] = {want(7, 3)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(r.at[0].verdict, SCHED_START);
    assert_int_equal(r.n_slots, 3);
    assert_int_equal(r.slot_ids[0], 1);
    assert_int_equal(r.slot_ids[2], 3);
    sched_result_finish(&r);
}

static void a_gang_gets_all_its_slots_or_none(void **state)
{
    (void)state;
    struct sched_slot slots[4];
    size_t n = make_slots(slots, 1, 4);
    slots[1].busy = slots[2].busy = true;
    struct sched_stage st[] = {want(1, 3)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(r.at[0].verdict, SCHED_BUSY);
    assert_int_equal(r.at[0].free, 2);
    assert_int_equal(r.at[0].most, 4);
    assert_int_equal(r.n_slots, 0);
    sched_result_finish(&r);
}

static void a_gang_is_not_spread_over_nodes(void **state)
{
    (void)state;
    struct sched_slot slots[4];
    size_t n = make_slots(slots, 2, 2);
    struct sched_stage st[] = {want(1, 3)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(r.at[0].verdict, SCHED_NEVER);
    assert_int_equal(r.at[0].most, 2);
    sched_result_finish(&r);
}

static void the_fullest_node_that_fits_is_taken(void **state)
{
    (void)state;
    struct sched_slot slots[8];
    size_t n = make_slots(slots, 2, 4);
    slots[4].busy = slots[5].busy = true; /* node 2 has 2 left */
    struct sched_stage st[] = {want(1, 2), want(2, 4)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_START);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    assert_int_equal(r.slot_ids[of(&r, 1)->slot_at], 7);
    assert_int_equal(r.slot_ids[of(&r, 2)->slot_at], 1);
    sched_result_finish(&r);
}

static void priority_goes_before_age_and_age_before_id(void **state)
{
    (void)state;
    struct sched_slot slots[1];
    size_t n = make_slots(slots, 1, 1);
    struct sched_stage st[] = {want(1, 1), want(2, 1), want(3, 1), want(4, 1)};
    st[0].age_us = 50;
    st[1].age_us = 10;
    st[2].age_us = 99;
    st[2].priority = 1;
    st[3].age_us = 10;
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(r.at[0].stage, 3);
    assert_int_equal(r.at[1].stage, 2);
    assert_int_equal(r.at[2].stage, 4);
    assert_int_equal(r.at[3].stage, 1);
    assert_int_equal(r.at[0].verdict, SCHED_START);
    assert_int_equal(r.at[1].verdict, SCHED_BUSY);
    sched_result_finish(&r);
}

static void nobody_overtakes_the_first_in_line(void **state)
{
    (void)state;
    struct sched_slot slots[4];
    size_t n = make_slots(slots, 1, 4);
    slots[0].busy = true;
    struct sched_stage st[] = {want(1, 4), want(2, 1), want(3, 3)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_BUSY);
    assert_int_equal(of(&r, 2)->verdict, SCHED_BEHIND);
    assert_int_equal(of(&r, 2)->blocker, 1);
    assert_int_equal(of(&r, 3)->verdict, SCHED_BEHIND);
    assert_int_equal(r.n_slots, 0);
    sched_result_finish(&r);
}

static void a_line_for_gpus_does_not_hold_up_the_cpus(void **state)
{
    (void)state;
    struct sched_slot slots[3];
    size_t n = make_slots(slots, 1, 3);
    slots[0].device = slots[1].device = SCHED_CUDA;
    slots[0].busy = true;
    struct sched_stage st[] = {want(1, 2), want(2, 1), want(3, 1)};
    st[0].device = st[2].device = SCHED_CUDA;
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_BUSY);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    assert_int_equal(r.slot_ids[of(&r, 2)->slot_at], 3);
    assert_int_equal(of(&r, 3)->verdict, SCHED_BEHIND);
    sched_result_finish(&r);
}

static void who_waits_for_an_equal_stage_holds_up_nobody(void **state)
{
    (void)state;
    struct sched_slot slots[2];
    size_t n = make_slots(slots, 1, 2);
    struct sched_stage st[] = {want(1, 2), want(2, 2)};
    st[0].waits_for = 9;
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_WAITS_EQUAL);
    assert_int_equal(of(&r, 1)->blocker, 9);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    sched_result_finish(&r);
}

static void a_back_off_lasts_until_its_time_and_holds_up_nobody(void **state)
{
    (void)state;
    struct sched_slot slots[2];
    size_t n = make_slots(slots, 1, 2);
    struct sched_stage st[] = {want(1, 1), want(2, 1), want(3, 1)};
    st[0].not_before_us = NOW + 1;
    st[1].not_before_us = NOW;
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_BACKOFF);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    assert_int_equal(of(&r, 3)->verdict, SCHED_START);
    sched_result_finish(&r);
}

static void what_can_never_run_holds_up_nobody(void **state)
{
    (void)state;
    struct sched_slot slots[2];
    size_t n = make_slots(slots, 1, 2);
    struct sched_stage st[] = {want(1, 3), want(2, 2), want(3, 3)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_NEVER);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    assert_int_equal(of(&r, 3)->verdict, SCHED_NEVER);
    sched_result_finish(&r);
}

static void what_can_never_run_is_told_so_even_behind_others(void **state)
{
    (void)state;
    struct sched_slot slots[2];
    size_t n = make_slots(slots, 1, 2);
    slots[0].busy = true;
    struct sched_stage st[] = {want(1, 2), want(2, 3)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_BUSY);
    assert_int_equal(of(&r, 2)->verdict, SCHED_NEVER);
    sched_result_finish(&r);
}

static void a_drained_node_takes_nothing(void **state)
{
    (void)state;
    struct sched_slot slots[6];
    size_t n = make_slots(slots, 2, 3);
    slots[0].drained = slots[1].drained = slots[2].drained = true;
    slots[3].busy = true;
    struct sched_stage st[] = {want(1, 2), want(2, 1)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_START);
    assert_true(r.slot_ids[0] > 3);
    assert_int_equal(of(&r, 2)->verdict, SCHED_BUSY);
    sched_result_finish(&r);
}

static void only_a_drained_node_is_large_enough(void **state)
{
    (void)state;
    struct sched_slot slots[5];
    size_t n = make_slots(slots, 1, 4);
    for (int i = 0; i < 4; i++) {
        slots[i].drained = true;
    }
    slots[n++] = (struct sched_slot){.id = 5, .node = 2};
    struct sched_stage st[] = {want(1, 3), want(2, 1)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_DRAINED);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    sched_result_finish(&r);
}

/* ---- backfill ---- */

static struct sched_stage want_for(int64_t id, int slots, int64_t walltime_us)
{
    struct sched_stage s = want(id, slots);
    s.walltime_us = walltime_us;
    return s;
}

static void busy_until(struct sched_slot *s, int64_t until_us)
{
    s->busy = true;
    s->until_us = until_us;
}

static void a_blocked_stage_is_promised_the_first_date(void **state)
{
    (void)state;
    struct sched_slot slots[4];
    size_t n = make_slots(slots, 2, 2);
    busy_until(&slots[0], NOW + 50);
    busy_until(&slots[1], NOW + 70);
    busy_until(&slots[2], NOW + 60);
    busy_until(&slots[3], NOW + 60);
    struct sched_stage st[] = {want_for(1, 2, 100), want_for(2, 2, 100), want_for(3, 1, 100)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_BUSY);
    assert_int_equal(of(&r, 1)->start_us, NOW + 60);
    assert_int_equal(of(&r, 2)->start_us, NOW + 70);
    assert_int_equal(of(&r, 3)->start_us, NOW + 160); /* the gap from 50 to 70 is too short */
    sched_result_finish(&r);
}

static void what_ends_in_time_overtakes(void **state)
{
    (void)state;
    struct sched_slot slots[2];
    size_t n = make_slots(slots, 1, 2);
    busy_until(&slots[0], NOW + 60);
    struct sched_stage st[] = {want_for(1, 2, 100), want_for(2, 1, 61), want_for(3, 1, 0),
                               want_for(4, 1, 60)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_BUSY);
    assert_int_equal(of(&r, 1)->start_us, NOW + 60);
    assert_int_equal(of(&r, 2)->verdict, SCHED_BEHIND);
    assert_int_equal(of(&r, 2)->blocker, 1);
    assert_int_equal(of(&r, 2)->gap_us, 60);
    assert_int_equal(of(&r, 2)->start_us, NOW + 160);
    assert_int_equal(of(&r, 3)->verdict, SCHED_BEHIND);
    assert_int_equal(of(&r, 3)->gap_us, 60);
    assert_int_equal(of(&r, 4)->verdict, SCHED_START);
    sched_result_finish(&r);
}

static void without_a_date_nothing_overtakes(void **state)
{
    (void)state;
    struct sched_slot slots[3];
    size_t n = make_slots(slots, 1, 2);
    slots[n++] = (struct sched_slot){.id = 3,
                                     .node = 2}; /* too small for stage 1: free for others */
    slots[0].busy = true;
    struct sched_stage st[] = {want_for(1, 2, 100), want_for(2, 1, 5), want_for(3, 1, 5)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_BUSY);
    assert_int_equal(of(&r, 1)->start_us, 0);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    assert_int_equal(r.slot_ids[of(&r, 2)->slot_at], 3);
    assert_int_equal(of(&r, 3)->verdict, SCHED_BEHIND);
    assert_int_equal(of(&r, 3)->blocker, 1);
    assert_int_equal(of(&r, 3)->gap_us, 0);
    sched_result_finish(&r);
}

static void an_attempt_over_its_time_is_expected_at_any_moment(void **state)
{
    (void)state;
    struct sched_slot slots[1];
    size_t n = make_slots(slots, 1, 1);
    busy_until(&slots[0], NOW - 10);
    struct sched_stage st[] = {want_for(1, 1, 100)};
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(r.at[0].start_us, NOW + 1);
    sched_result_finish(&r);
}

static void a_gang_over_nodes_starts_on_all_or_none(void **state)
{
    (void)state;
    struct sched_slot slots[6];
    size_t n = make_slots(slots, 3, 2);
    busy_until(&slots[4], NOW + 10);
    struct sched_stage st[] = {want_for(1, 2, 50), want_for(2, 2, 50), want_for(3, 1, 9)};
    st[0].nodes = 2;
    st[1].nodes = 3;
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_START);
    assert_int_equal(of(&r, 1)->slots, 4);
    assert_int_equal(r.n_slots, 5); /* and stage 3's */
    assert_int_equal(of(&r, 2)->verdict, SCHED_BUSY);
    assert_int_equal(of(&r, 2)->start_us, NOW + 50);
    assert_int_equal(of(&r, 3)->verdict, SCHED_START);
    sched_result_finish(&r);

    st[0] = want_for(1, 2, 50);
    st[0].nodes = 4;
    assert_int_equal(sched_pass(st, 1, slots, n, &at_now, &r), 0);
    assert_int_equal(r.at[0].verdict, SCHED_NEVER);
    assert_int_equal(r.at[0].fitting, 3);
    sched_result_finish(&r);
}

static void names_and_memory_are_kept(void **state)
{
    (void)state;
    struct sched_slot slots[4];
    int64_t second[] = {2}, none[] = {77};
    size_t n = make_slots(slots, 4, 1);
    slots[2].memory = 1 << 20;
    struct sched_stage st[] = {want(1, 1), want(2, 1), want(3, 1), want(4, 1), want(5, 1)};
    st[0].only = st[3].only = second;
    st[0].n_only = st[3].n_only = 1;
    st[1].slot_memory = 1 << 20;
    st[2].slot_memory = 1 << 21;
    st[4].only = none;
    st[4].n_only = 1;
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_START);
    assert_int_equal(r.slot_ids[of(&r, 1)->slot_at], 2);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    assert_int_equal(r.slot_ids[of(&r, 2)->slot_at], 3);
    assert_int_equal(of(&r, 3)->verdict, SCHED_NEVER);
    assert_int_equal(of(&r, 4)->verdict, SCHED_BUSY);
    assert_int_equal(of(&r, 5)->verdict, SCHED_NEVER);
    sched_result_finish(&r);
}

static void who_depends_on_another_job_holds_up_nobody(void **state)
{
    (void)state;
    struct sched_slot slots[1];
    size_t n = make_slots(slots, 1, 1);
    struct sched_stage st[] = {want(1, 1), want(2, 1)};
    st[0].depends_on = 42;
    struct sched_result r;
    PASS(st, slots, n, &r);
    assert_int_equal(of(&r, 1)->verdict, SCHED_DEPENDS);
    assert_int_equal(of(&r, 1)->blocker, 42);
    assert_int_equal(of(&r, 2)->verdict, SCHED_START);
    sched_result_finish(&r);
}

static void with_ageing_waiting_counts_as_priority(void **state)
{
    (void)state;
    struct sched_slot slots[1];
    size_t n = make_slots(slots, 1, 1);
    struct sched_options o = {.now_us = 1000, .ageing_us = 100};
    struct sched_stage st[] = {want(1, 1), want(2, 1)};
    st[0].priority = 5;
    st[0].age_us = 900; /* 5 + 1 */
    st[1].priority = 0;
    st[1].age_us = 300; /* 0 + 7 */
    struct sched_result r;
    assert_int_equal(sched_pass(st, 2, slots, n, &o, &r), 0);
    assert_int_equal(r.at[0].stage, 2);
    sched_result_finish(&r);
}

/* What must hold whatever the queue: random cases, checked against the rules themselves. */
static void random_queues_keep_the_rules(void **state)
{
    (void)state;
    srand(12345);
    for (int round = 0; round < 3000; round++) {
        struct sched_slot slots[40];
        struct sched_stage st[20], copy[20];
        struct sched_result r;
        size_t n = make_slots(slots, 1 + rand() % 5, 1 + rand() % 8);
        size_t n_st = (size_t)(rand() % 20);
        for (size_t i = 0; i < n; i++) {
            slots[i].busy = rand() % 3 == 0;
            slots[i].drained = slots[i].node == 2 && round % 2;
            slots[i].device = slots[i].node == 3 ? SCHED_CUDA : SCHED_CPU;
        }
        for (size_t i = 0; i < n_st; i++) {
            st[i] = want((int64_t)i + 1, 1 + rand() % 9);
            st[i].priority = rand() % 3;
            st[i].age_us = rand() % 50;
            st[i].device = rand() % 4 ? SCHED_CPU : SCHED_CUDA;
            st[i].waits_for = rand() % 10 == 0 ? 99 : 0;
            st[i].effective = st[i].priority; /* as the pass will say */
        }
        memcpy(copy, st, sizeof st);
        assert_int_equal(sched_pass(st, n_st, slots, n, &at_now, &r), 0);
        assert_int_equal(r.n, n_st);
        bool taken[41] = {false}, blocked[SCHED_DEVICES] = {false};
        for (size_t i = 0; i < r.n; i++) {
            const struct sched_decision *d = &r.at[i];
            const struct sched_stage *s = &copy[d->stage - 1];
            if (i > 0) {
                assert_true(sched_compare(&copy[r.at[i - 1].stage - 1], s) < 0);
            }
            blocked[s->device] |= d->verdict == SCHED_BUSY;
            if (d->verdict != SCHED_START) {
                continue;
            }
            assert_false(blocked[s->device]);
            assert_int_equal(s->waits_for, 0);
            for (int k = 0; k < s->slots; k++) {
                int64_t id = r.slot_ids[d->slot_at + (size_t)k];
                const struct sched_slot *sl = &slots[id - 1];
                assert_false(taken[id]);
                taken[id] = true;
                assert_false(sl->busy);
                assert_false(sl->drained);
                assert_int_equal(sl->device, s->device);
                assert_int_equal(sl->node, slots[r.slot_ids[d->slot_at] - 1].node);
            }
        }
        sched_result_finish(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_do),
        cmocka_unit_test(a_stage_starts_on_as_many_slots_as_it_asks_for),
        cmocka_unit_test(a_gang_gets_all_its_slots_or_none),
        cmocka_unit_test(a_gang_is_not_spread_over_nodes),
        cmocka_unit_test(the_fullest_node_that_fits_is_taken),
        cmocka_unit_test(priority_goes_before_age_and_age_before_id),
        cmocka_unit_test(nobody_overtakes_the_first_in_line),
        cmocka_unit_test(a_line_for_gpus_does_not_hold_up_the_cpus),
        cmocka_unit_test(who_waits_for_an_equal_stage_holds_up_nobody),
        cmocka_unit_test(a_back_off_lasts_until_its_time_and_holds_up_nobody),
        cmocka_unit_test(what_can_never_run_holds_up_nobody),
        cmocka_unit_test(what_can_never_run_is_told_so_even_behind_others),
        cmocka_unit_test(a_drained_node_takes_nothing),
        cmocka_unit_test(only_a_drained_node_is_large_enough),
        cmocka_unit_test(a_blocked_stage_is_promised_the_first_date),
        cmocka_unit_test(what_ends_in_time_overtakes),
        cmocka_unit_test(without_a_date_nothing_overtakes),
        cmocka_unit_test(an_attempt_over_its_time_is_expected_at_any_moment),
        cmocka_unit_test(a_gang_over_nodes_starts_on_all_or_none),
        cmocka_unit_test(names_and_memory_are_kept),
        cmocka_unit_test(who_depends_on_another_job_holds_up_nobody),
        cmocka_unit_test(with_ageing_waiting_counts_as_priority),
        cmocka_unit_test(random_queues_keep_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
