#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/fsutil.h"
#include "worker/method/method.h"
#include "worker/train/ckpt.h"
#include "worker/train/evaluate.h"
#include "worker/train/schedule.h"
#include "worker/train/trainer.h"

/* The smallest golden model, 4000 tokens that are a function of their place, a directory for checkpoints. */
struct fixture {
    char dir[64], tokens[96], ckpt[96];
    struct kern *k;
    struct comm comm;
    struct model *m;
    struct corpus *c;
    struct journal journal;
    struct trainer_options o;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct dha_err e = {0};
    uint16_t t[4000];
    assert_non_null(f);
    strcpy(f->dir, "/tmp/dha-test-trainer-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->tokens, sizeof f->tokens, "%s/t.u16", f->dir);
    snprintf(f->ckpt, sizeof f->ckpt, "%s/ckpt", f->dir);
    for (int i = 0; i < 4000; i++)
        t[i] = (uint16_t)((i * i / 7 + i) % 101);
    assert_int_equal(fs_write_file(f->tokens, t, sizeof t, &e), 0);
    comm_alone(&f->comm);
    f->k = kern_open("cpu", 1, NULL);
    assert_non_null(f->k);
    if (model_load(&f->m, f->k, GOLDEN_DIR "/mha-untied", &e))
        fail_msg("%s", e.msg);
    char *path = f->tokens;
    struct corpus_options co = {.format = "u16", .vocab = f->m->cfg.vocab, .bos = -1};
    if (corpus_open(&f->c, &path, 1, &co, &e))
        fail_msg("%s", e.msg);
    f->journal.fd = -1;
    f->o = (struct trainer_options){
        .model = f->m,
        .train = f->c,
        .valid = f->c,
        .comm = &f->comm,
        .journal = &f->journal,
        .seed = 1,
        .seq = 16,
        .batch_tokens = 64,
        .tokens = 64 * 20,
        .w_lm = 1,
        .lr = 1e-2,
        .lr_omega = 1e-1,
        .lr_lambda = 1,
        .warmup = 0.1,
        .final_lr = 0.1,
        .clip = 1,
        .ckpt_dir = f->ckpt,
        .identity = "t",
        .ckpt_every = 5,
    };
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    corpus_close(f->c);
    model_free(f->m);
    kern_close(f->k);
    fs_remove_tree(f->dir, NULL);
    free(f);
    return 0;
}

static void loss_falls_when_the_text_can_be_learned(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct trainer_result a, b;
    f->o.ckpt_dir = NULL;
    f->o.tokens = 64;
    assert_int_equal(trainer_run(&f->o, &a, &e), 0);
    f->o.tokens = 64 * 60;
    assert_int_equal(trainer_run(&f->o, &b, &e), 0);
    assert_int_equal(b.steps, 60);
    assert_int_equal(b.tokens, 64 * 60);
    assert_true(b.loss < a.loss - 0.5);
}

static void a_loss_that_is_not_finite_is_an_error_and_the_checkpoint_stays(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct trainer_result r;
    f->o.tokens = 64 * 5;
    assert_int_equal(trainer_run(&f->o, &r, &e), 0);
    char path[128];
    snprintf(path, sizeof path, "%s/step-%08d", f->ckpt, 5);
    assert_true(fs_exists(path));
    /* the token of id 3 becomes poison; the checkpoint is of another run, so nothing is resumed */
    const struct param *p = &f->m->table[f->m->embed];
    float *w = malloc(p->n * sizeof *w);
    assert_non_null(w);
    model_get(f->m, p, w);
    w[3 * p->cols] = NAN;
    model_set(f->m, p, w);
    free(w);
    f->o.identity = "poisoned";
    f->o.tokens = 64 * 20;
    assert_int_equal(trainer_run(&f->o, &r, &e), -1);
    assert_int_equal(e.code, DHA_E_DIVERGED);
    assert_non_null(strstr(e.msg, "at step"));
    assert_non_null(strstr(e.hint, "optim.lr"));
    assert_int_equal(ckpt_verify(path, "t", &e), 0);
}

static void distillation_pulls_the_student_to_the_teacher(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct trainer_result first, last;
    struct model *teacher = NULL;
    assert_int_equal(model_clone(&teacher, f->m, &e), 0);
    /* a student that is the teacher, but for noise in the value projections */
    const struct param *p = model_param(f->m, 0, P_V);
    float *w = malloc(p->n * sizeof *w);
    assert_non_null(w);
    model_get(f->m, p, w);
    for (size_t i = 0; i < p->n; i++)
        w[i] = w[i] + 0.05f * sinf((float)(i * 7));
    model_set(f->m, p, w);
    free(w);
    f->o.ckpt_dir = NULL;
    f->o.teacher = teacher;
    f->o.w_kl = 1;
    f->o.w_lm = 0;
    f->o.lr = 2e-3;
    f->o.tokens = 64;
    assert_int_equal(trainer_run(&f->o, &first, &e), 0);
    f->o.tokens = 64 * 150;
    assert_int_equal(trainer_run(&f->o, &last, &e), 0);
    assert_true(first.loss > 0);
    assert_true(last.loss < 0.5 * first.loss);
    model_free(teacher);
}

static void a_teacher_equal_to_the_student_gives_no_loss(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct trainer_result r;
    struct model *teacher = NULL;
    assert_int_equal(model_clone(&teacher, f->m, &e), 0);
    f->o.ckpt_dir = NULL;
    f->o.teacher = teacher;
    f->o.w_kl = 1;
    f->o.w_lm = 0;
    f->o.tokens = 64;
    assert_int_equal(trainer_run(&f->o, &r, &e), 0);
    assert_true(fabs(r.loss) < 1e-6);
    model_free(teacher);
}

static void fusion_penalty_brings_the_rows_of_a_group_together(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct trainer_result with, without;
    int group_of[2 * 8 * 8];
    int heads = f->m->cfg.heads, n = 2 * f->m->cfg.layers * heads;
    assert_true(n <= (int)(sizeof group_of / sizeof *group_of));
    for (int i = 0; i < n; i++)
        group_of[i] = i % heads / 2; /* pairs */
    f->o.ckpt_dir = NULL;
    f->o.tokens = 64 * 100;
    assert_int_equal(model_oper_attach(f->m, group_of, &e), 0);
    assert_int_equal(trainer_run(&f->o, &without, &e), 0);
    model_oper_detach(f->m);
    assert_int_equal(model_oper_attach(f->m, group_of, &e), 0);
    f->o.penalty = true;
    assert_int_equal(trainer_run(&f->o, &with, &e), 0);
    /* delta start: 2/g = 1 a pair (METHODS 1.4) */
    assert_true(without.fusion_loss > 0.1);
    assert_true(with.fusion_loss < 0.05 * without.fusion_loss);
}

static double loss_now(struct fixture *f, struct model *m)
{
    struct eval_result v;
    struct dha_err e = {0};
    if (evaluate(m, f->c, f->o.seq, 0, &f->comm, &v, &e))
        fail_msg("%s", e.msg);
    return v.loss;
}

/* *jump = loss after fusing - loss of the trained operators */
static void train_and_fuse(struct fixture *f, bool contract, double *jump)
{
    struct dha_err e = {0};
    struct trainer_result r;
    struct model *m, *fused;
    int group_of[2 * 8 * 8];
    for (int i = 0; i < 2 * f->m->cfg.layers * f->m->cfg.heads; i++)
        group_of[i] = i % f->m->cfg.heads / 2;
    assert_int_equal(model_clone(&m, f->m, &e), 0);
    assert_int_equal(model_oper_attach(m, group_of, &e), 0);
    f->o.model = m;
    f->o.ckpt_dir = NULL;
    f->o.contract = contract;
    f->o.penalty = !contract;
    f->o.lr_lambda = 1e-3;
    if (trainer_run(&f->o, &r, &e))
        fail_msg("%s", e.msg);
    double before = loss_now(f, m);
    model_oper_settle(m);
    if (fusion_fuse(m, &fused, &e))
        fail_msg("%s", e.msg);
    *jump = loss_now(f, fused) - before;
    model_free(fused);
    model_free(m);
}

/* Issue 4, item 3. f32 weights are rounded once in fusing: 1e-6 of a loss of 5. */
static void contracted_operators_fuse_without_a_jump_where_hard_tied_ones_jump(void **state)
{
    struct fixture *f = *state;
    double hard, contracted;
    train_and_fuse(f, false, &hard);
    train_and_fuse(f, true, &contracted);
    assert_true(fabs(contracted) < 1e-5);
    assert_true(fabs(hard) > 1e-3);
}

/* The rates that follow from the number of steps, where none are given, are given ones. */
static void rates_that_are_not_given_are_chosen_for_the_steps(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct trainer_result chosen, given;
    int group_of[2 * 8 * 8];
    for (int i = 0; i < 2 * f->m->cfg.layers * f->m->cfg.heads; i++)
        group_of[i] = i % f->m->cfg.heads / 2;
    f->o.ckpt_dir = NULL;
    f->o.penalty = true;
    for (int i = 0; i < 2; i++) {
        struct model *m;
        assert_int_equal(model_clone(&m, f->m, &e), 0);
        assert_int_equal(model_oper_attach(m, group_of, &e), 0);
        f->o.model = m;
        f->o.lr_omega = i ? schedule_omega_rate(20) : 0;
        f->o.lr_lambda = i ? schedule_lambda_rate(20) : 0;
        assert_int_equal(trainer_run(&f->o, i ? &given : &chosen, &e), 0);
        model_free(m);
    }
    assert_true(chosen.fusion_loss == given.fusion_loss && chosen.loss == given.loss);
}

/* Two trainings of which the second goes on in the data of the first see what one training sees. */
static void data_step_moves_the_draws(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct trainer_result first, moved;
    f->o.ckpt_dir = NULL;
    f->o.lr = 1e-12; /* nothing is learned: the loss of a step depends on its data alone */
    f->o.tokens = 64 * 4;
    assert_int_equal(trainer_run(&f->o, &first, &e), 0); /* the loss of step 3 */
    f->o.tokens = 64 * 3;
    f->o.data_step = 1;
    assert_int_equal(trainer_run(&f->o, &moved, &e), 0);
    assert_true(fabs(first.loss - moved.loss) < 1e-6);
    f->o.data_step = 0;
    assert_int_equal(trainer_run(&f->o, &moved, &e), 0);
    assert_true(fabs(first.loss - moved.loss) > 1e-6);
}

static double moved(struct fixture *f, const struct model *from, enum layer_param p)
{
    const struct param *a = model_param(f->m, 0, p), *b = model_param(from, 0, p);
    float *x = malloc(a->n * sizeof *x), *y = malloc(a->n * sizeof *y);
    double most = 0;
    model_get(f->m, a, x);
    f->k->ops->download(f->k, y, model_view(from, b), b->n);
    for (size_t i = 0; i < a->n; i++)
        most = fmax(most, fabs((double)x[i] - (double)y[i]));
    free(x);
    free(y);
    return most;
}

static void attention_may_have_a_rate_of_its_own(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct trainer_result r;
    struct model *before;
    assert_int_equal(model_clone(&before, f->m, &e), 0);
    f->o.ckpt_dir = NULL;
    f->o.tokens = 64;
    f->o.lr = 1e-6;
    f->o.lr_attention = 1e3;
    assert_int_equal(trainer_run(&f->o, &r, &e), 0);
    static const enum layer_param attention[] = {P_Q, P_K, P_V, P_O}, rest[] = {P_UP, P_DOWN};
    for (int i = 0; i < 4; i++) /* Adam's first step is the rate */
        assert_true(fabs(moved(f, before, attention[i]) - 1e-3) < 1e-4);
    for (int i = 0; i < 2; i++)
        assert_true(moved(f, before, rest[i]) < 2e-6);
    model_free(before);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(loss_falls_when_the_text_can_be_learned),
        T(a_loss_that_is_not_finite_is_an_error_and_the_checkpoint_stays),
        T(distillation_pulls_the_student_to_the_teacher),
        T(a_teacher_equal_to_the_student_gives_no_loss),
        T(fusion_penalty_brings_the_rows_of_a_group_together),
        T(contracted_operators_fuse_without_a_jump_where_hard_tied_ones_jump),
        T(rates_that_are_not_given_are_chosen_for_the_steps),
        T(data_step_moves_the_draws),
        T(attention_may_have_a_rate_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
