/* Which rows each loss is over, and that weights of rows and means of the step say the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "worker/data/corpus.h"
#include "worker/train/recovery.h"

static const double rows[RUN_CLASSES] = {[CORPUS_PROMPT] = 30, [CORPUS_ANSWER] = 10};
static const struct run_sums sums = {.lm = {[CORPUS_PROMPT] = 90, [CORPUS_ANSWER] = 20},
                                     .kl = {[CORPUS_PROMPT] = 15, [CORPUS_ANSWER] = 3},
                                     .bild = {[CORPUS_ANSWER] = 4}};

static void near(double got, double want)
{
    if (!(fabs(got - want) < 1e-12))
        fail_msg("%g, should be %g", got, want);
}

static void kl_is_over_prompts_and_bild_over_answers(void **state)
{
    (void)state;
    const struct recovery w = {.lm = 0.5, .kl = 2, .bild = 3};
    struct recovery_loss m = recovery_mean(&w, rows, &sums);
    near(m.lm, 2);
    near(m.kl, 0.5);
    near(m.bild, 0.4);
    near(m.all, 0.5 * 2 + 2 * 0.5 + 3 * 0.4);
}

static void without_bild_kl_is_over_answers_too(void **state)
{
    (void)state;
    const struct recovery w = {.kl = 1};
    near(recovery_mean(&w, rows, &sums).kl, 18.0 / 40);
}

static void weights_of_rows_give_the_means(void **state)
{
    (void)state;
    const struct recovery all[] = {{1, 0, 0}, {0, 1, 0}, {0.5, 2, 3}, {0, 0, 1}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct run_objective o = {.classes = NULL};
        double sum = 0;
        recovery_weigh(&all[i], rows, &o);
        for (int c = 0; c < RUN_CLASSES; c++)
            sum += o.lm[c] * sums.lm[c] + o.kl[c] * sums.kl[c] + o.bild[c] * sums.bild[c];
        near(sum, recovery_mean(&all[i], rows, &sums).all);
    }
}

static void plain_text_counts_for_every_loss(void **state)
{
    (void)state;
    const struct recovery w = {1, 1, 1};
    const double text[RUN_CLASSES] = {[CORPUS_TEXT] = 8};
    struct run_objective o = {.classes = NULL};
    recovery_weigh(&w, text, &o);
    near(o.lm[CORPUS_TEXT], 0.125);
    near(o.kl[CORPUS_TEXT], 0.125);
    near(o.bild[CORPUS_TEXT], 0.125);
}

/* A step whose rows are all prompts has no LM loss: nothing is divided by 0. */
static void a_loss_over_no_rows_is_zero(void **state)
{
    (void)state;
    const struct recovery w = {1, 1, 1};
    const double prompts[RUN_CLASSES] = {[CORPUS_PROMPT] = 8};
    const struct run_sums s = {.kl = {[CORPUS_PROMPT] = 4}};
    struct recovery_loss m = recovery_mean(&w, prompts, &s);
    near(m.lm, 0);
    near(m.bild, 0);
    near(m.all, 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kl_is_over_prompts_and_bild_over_answers),
        cmocka_unit_test(without_bild_kl_is_over_answers_too),
        cmocka_unit_test(weights_of_rows_give_the_means),
        cmocka_unit_test(plain_text_counts_for_every_loss),
        cmocka_unit_test(a_loss_over_no_rows_is_zero),
    };
    return cmocka_run_group_tests_name("train: recovery", tests, NULL, NULL);
}
