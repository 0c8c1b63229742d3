/* The same conversion by a gang and by one rank alone: run under mpirun with any number of ranks. */
#include "tests/unit/method/small_model.h"

#include "worker/method/exchange.h"

#include "worker/method/similarity.h"

enum { LAYERS = 2, HEADS = 4 };

static struct comm gang;

static struct model *merged(struct small *s, struct comm *c, const int *group_of)
{
    struct model *m;
    struct dha_err e = {0};
    s->env.comm = c;
    if (spectral_merge(&s->env, group_of, &m, &e))
        fail_msg("%s", e.msg);
    return m;
}

static void find_alike(bool regress)
{
    struct small s;
    struct plan one, all;
    struct dha_err e = {0};
    int groups[2 * LAYERS * HEADS];
    small_open(&s, HEADS, HEADS, LAYERS, true);
    s.method.regress = regress;
    assert_true(s.method.slow_planes);
    if (spectral_plan(&s.env, &one, &e))
        fail_msg("%s", e.msg);
    s.env.comm = &gang;
    if (spectral_plan(&s.env, &all, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 2 * LAYERS; i++) {
        assert_int_equal(one.entries[i].n_choices, all.entries[i].n_choices);
        for (int c = 0; c < one.entries[i].n_choices; c++) {
            const struct choice *a = &one.entries[i].choices[c], *b = &all.entries[i].choices[c];
            assert_memory_equal(a->group_of, b->group_of, HEADS * sizeof *a->group_of);
            assert_close(a->cost, b->cost, regress ? 1e-3 : 1e-5);
        }
        memcpy(groups + i * HEADS, one.entries[i].choices[1].group_of, HEADS * sizeof *groups);
    }
    struct model *alone = merged(&s, &s.comm, groups), *shared = merged(&s, &gang, groups);
    assert_same_logits(alone, shared, regress ? 1e-2 : 1e-3);

    /* Every rank holds the same bits. */
    size_t n = shared->n_params;
    float *mine = malloc(n * sizeof *mine), *root = malloc(n * sizeof *root);
    assert_true(mine && root);
    shared->k->ops->download(shared->k, mine, kern_at(shared->params, 0), n);
    memcpy(root, mine, n * sizeof *mine);
    comm_bcast(&gang, root, n * sizeof *root, 0);
    assert_memory_equal(mine, root, n * sizeof *mine);
    free(root);
    free(mine);
    model_free(shared);
    model_free(alone);
    plan_finish(&all);
    plan_finish(&one);
    small_close(&s);
}

static void a_gang_finds_what_one_rank_finds(void **state)
{
    (void)state;
    find_alike(false);
    find_alike(true);
}

/* Tokens are shared out, decisions are common: the same counts as one rank alone, on every rank. */
static void a_gang_exchanges_what_one_rank_exchanges(void **state)
{
    (void)state;
    struct small s;
    struct plan p;
    struct exchange_report alone, together;
    struct dha_err e = {0};
    int one[2 * LAYERS] = {3, 0, 0, 2}, all[2 * LAYERS] = {3, 0, 0, 2};
    small_open(&s, HEADS, HEADS, LAYERS, true);
    if (spectral_plan(&s.env, &p, &e) || exchange_improve(&s.env, &p, 9, one, &alone, &e))
        fail_msg("%s", e.msg);
    s.env.comm = &gang;
    if (exchange_improve(&s.env, &p, 9, all, &together, &e))
        fail_msg("%s", e.msg);
    assert_true(alone.moves > 0);
    assert_memory_equal(one, all, sizeof one);
    assert_close(alone.before, together.before, 1e-5);
    assert_close(alone.after, together.after, 1e-5);
    comm_bcast(&gang, all, sizeof all, 0);
    assert_memory_equal(one, all, sizeof one);
    plan_finish(&p);
    small_close(&s);
}

/* A rank that fails alone (here: a head of its own model is not finite) takes no other into a hang: all report. */
static void all_ranks_fail_together(void **state)
{
    (void)state;
    struct small s;
    struct plan p;
    struct dha_err e = {0};
    small_open(&s, HEADS, HEADS, LAYERS, false);
    if (gang.rank == gang.size - 1) {
        const struct param *v = model_param(s.m, 1, P_V);
        float *x = malloc(v->n * sizeof *x);
        assert_non_null(x);
        model_get(s.m, v, x);
        x[0] = NAN;
        model_set(s.m, v, x);
        free(x);
    }
    s.env.comm = &gang;
    assert_int_equal(spectral_plan(&s.env, &p, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    s.method.grouping = GROUP_ALIGNED_VALUE;
    assert_int_equal(similarity_plan(&s.env, &p, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    small_close(&s);
}

/* Pairs are dealt out, sums come from all: distances agree to rounding, groups exactly; the plan is the same on every rank. */
static void a_gang_compares_heads_as_one_rank_does(void **state)
{
    (void)state;
    for (int cosine = 0; cosine < 2; cosine++) {
        struct small s;
        struct plan one, all;
        struct dha_err e = {0};
        size_t n = 2 * LAYERS * HEADS * HEADS;
        double root[2 * LAYERS * HEADS * HEADS];
        small_open(&s, HEADS, HEADS, LAYERS, true);
        s.method = (struct method){.name = "align-gqa",
                                   .grouping = GROUP_ALIGNED_VALUE,
                                   .criterion = cosine ? CRITERION_COS : CRITERION_DIST,
                                   .uniform = true};
        if (similarity_plan(&s.env, &one, &e))
            fail_msg("%s", e.msg);
        s.env.comm = &gang;
        if (similarity_plan(&s.env, &all, &e))
            fail_msg("%s", e.msg);
        for (size_t i = 0; i < n; i++)
            assert_close(one.distance[i], all.distance[i], 1e-9 * (1 + one.distance[i]));
        for (int i = 0; i < 2 * LAYERS; i++)
            for (int c = 0; c < one.entries[i].n_choices; c++)
                assert_memory_equal(one.entries[i].choices[c].group_of,
                                    all.entries[i].choices[c].group_of, HEADS * sizeof(int));
        memcpy(root, all.distance, sizeof root);
        comm_bcast(&gang, root, sizeof root, 0);
        assert_memory_equal(root, all.distance, sizeof root);
        plan_finish(&all);
        plan_finish(&one);
        small_close(&s);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gang_finds_what_one_rank_finds),
        cmocka_unit_test(a_gang_exchanges_what_one_rank_exchanges),
        cmocka_unit_test(a_gang_compares_heads_as_one_rank_does),
        cmocka_unit_test(all_ranks_fail_together),
    };
    struct dha_err e = {0};
    if (comm_init(&gang, &argc, &argv, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) /* the others may wait in a collective */
        comm_abort(&gang, 1);
    comm_finish(&gang);
    return 0;
}
