/* Which job of a sweep is stopped: equal work, equal seed, no fewer bytes, worse by more than the margin. */
#include "cmocka_all.h"

#include <math.h>

#include "daemon/dominate.h"

/* A job in training whose last evaluation is 3.9 after 2000 tokens, and one that is done. */
static void pair(struct dominate_job j[2])
{
    j[0] = (struct dominate_job){.id = 1, .seed = 1, .kv_bytes = 1024, .training = true, .n = 2};
    j[1] = (struct dominate_job){.id = 2, .seed = 1, .kv_bytes = 1024, .n = 3};
}

#define PAIR(j)                                                                                    \
    struct dominate_point mine[] = {{1000, 4.5}, {2000, 3.9}};                                     \
    struct dominate_point theirs[] = {{1000, 3.9}, {2000, 3.7}, {9000, 3.0}};                      \
    struct dominate_job j[2];                                                                      \
    struct dominate_verdict v;                                                                     \
    pair(j);                                                                                       \
    j[0].at = mine;                                                                                \
    j[1].at = theirs

static void a_worse_loss_at_the_same_tokens_is_dominated(void **state)
{
    (void)state;
    PAIR(j);
    assert_true(dominate(j, 2, 0, 0.02, &v));
    assert_int_equal(v.by, 1);
    assert_int_equal(v.mine.tokens, 2000);
    assert_int_equal(v.theirs.tokens, 2000); /* not what it reached with 9000 */
    assert_true(v.theirs.loss == 3.7 && v.mine.loss == 3.9);
    assert_false(dominate(j, 2, 1, 0.02, &v)); /* it does not train */
}

static void the_margin_is_a_share_of_the_better_loss(void **state)
{
    (void)state;
    PAIR(j);
    assert_true(dominate(j, 2, 0, 0.054, &v)); /* 3.7 * 1.054 = 3.8998 */
    assert_false(dominate(j, 2, 0, 0.055, &v));
    mine[1].loss = 3.7;
    assert_false(dominate(j, 2, 0, 0, &v)); /* equal is not worse */
}

static void a_job_in_its_middle_is_not_held_against_anothers_end(void **state)
{
    (void)state;
    PAIR(j);
    theirs[0].loss = theirs[1].loss = 4.6;
    assert_false(dominate(j, 2, 0, 0.02, &v));
    j[1].at += 2; /* all of it after more tokens */
    j[1].n = 1;
    assert_false(dominate(j, 2, 0, 0.02, &v));
}

static void fewer_tokens_count_more_do_not(void **state)
{
    (void)state;
    PAIR(j);
    theirs[1].tokens = 2001;
    assert_false(dominate(j, 2, 0, 0.02, &v));
    theirs[0].loss = 3.6;
    assert_true(dominate(j, 2, 0, 0.02, &v));
    assert_int_equal(v.theirs.tokens, 1000);
}

static void only_a_cache_as_small_can_dominate(void **state)
{
    (void)state;
    PAIR(j);
    j[1].kv_bytes = 1025;
    assert_false(dominate(j, 2, 0, 0.02, &v));
    j[1].kv_bytes = 512;
    assert_true(dominate(j, 2, 0, 0.02, &v));
    j[1].kv_bytes = 0; /* not known yet */
    assert_false(dominate(j, 2, 0, 0.02, &v));
    j[1].kv_bytes = 512;
    j[0].kv_bytes = 0;
    assert_false(dominate(j, 2, 0, 0.02, &v));
}

static void seeds_are_compared_with_their_own(void **state)
{
    (void)state;
    PAIR(j);
    j[1].seed = 2;
    assert_false(dominate(j, 2, 0, 0.02, &v));
}

static void two_that_train_never_stop_each_other(void **state)
{
    (void)state;
    PAIR(j);
    j[1].training = true;
    j[1].n = 2;
    assert_true(dominate(j, 2, 0, 0, &v));
    assert_false(dominate(j, 2, 1, 0, &v));
}

static void a_loss_that_is_no_number_judges_nobody(void **state)
{
    (void)state;
    PAIR(j);
    theirs[0].loss = theirs[1].loss = NAN;
    assert_false(dominate(j, 2, 0, 0.02, &v));
    theirs[1].loss = 3.7;
    mine[1].loss = NAN;
    assert_false(dominate(j, 2, 0, 0.02, &v));
    j[0].n = 0;
    assert_false(dominate(j, 2, 0, 0.02, &v));
}

static void the_best_of_several_is_named(void **state)
{
    (void)state;
    PAIR(j);
    struct dominate_point best[] = {{500, 3.2}};
    struct dominate_job three[3] = {j[0], j[1], j[1]};
    three[2].id = 3;
    three[2].at = best;
    three[2].n = 1;
    assert_true(dominate(three, 3, 0, 0.02, &v));
    assert_int_equal(v.by, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worse_loss_at_the_same_tokens_is_dominated),
        cmocka_unit_test(the_margin_is_a_share_of_the_better_loss),
        cmocka_unit_test(a_job_in_its_middle_is_not_held_against_anothers_end),
        cmocka_unit_test(fewer_tokens_count_more_do_not),
        cmocka_unit_test(only_a_cache_as_small_can_dominate),
        cmocka_unit_test(seeds_are_compared_with_their_own),
        cmocka_unit_test(two_that_train_never_stop_each_other),
        cmocka_unit_test(a_loss_that_is_no_number_judges_nobody),
        cmocka_unit_test(the_best_of_several_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
