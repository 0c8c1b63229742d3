/* stage_fuse.c: from the parent to a model with fewer K/V heads. Leaves model/ and journals the head budget and the loss of
 * the parent and of the converted model. The groups come from the plan and the budget, or are adjacent (groups found by
 * similarity are made so, if plain GQA is wanted, by putting the heads into their order); the heads by mean
 * pooling, by the spectral merge, or by training (fuse_train.h).
 */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/fsutil.h"
#include "worker/fuse_train.h"
#include "worker/method/align.h"
#include "worker/method/budget.h"
#include "worker/method/exchange.h"
#include "worker/method/permute.h"
#include "worker/method/walk.h"
#include "worker/stage.h"

static int load_plan(const struct stage *st, const struct model_config *cfg, struct plan *p,
                     struct dha_err *e)
{
    char path[PATH_MAX];
    if (fs_path(path, sizeof path, e, "%s/plan.json", st->s->inputs[STAGE_SEARCH]))
        return -1;
    cJSON *j = json_parse_file(path, (size_t)1 << 30, e);
    int rc = j ? plan_from_json(j, p, e) : -1;
    cJSON_Delete(j);
    if (rc)
        return dha_err_context(e, "reading %s", path);
    if (p->layers != cfg->layers || p->heads != cfg->heads)
        return dha_fail(e, DHA_E_INPUT, "%s is for %d layers of %d heads, the model has %d of %d",
                        path, p->layers, p->heads, cfg->layers, cfg->heads);
    return 0;
}

/* Losses on calibration tokens: of the parent, what the plan promised, what its choice gave and what exchanges made of it. */
static void journal_exchange(struct stage *st, double predicted, const struct exchange_report *r)
{
    const struct {
        const char *name;
        double loss;
    } all[] = {{"calib-parent", r->parent},
               {"calib-predicted", r->parent + predicted},
               {"calib-knapsack", r->before},
               {"calib-exchanged", r->after}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        journal_eval(st->journal, all[i].name, all[i].loss, r->sequences * (int64_t)st->seq,
                     r->sequences, 0, 0);
}

/* The groups of the plan under the budget. */
static int groups_from_plan(struct stage *st, const struct method_env *env, int *group_of,
                            struct dha_err *e)
{
    const struct model_config *cfg = &env->parent->cfg;
    const struct job_spec *s = &st->s->spec;
    struct plan p = {0};
    int entries = 2 * cfg->layers, n = 0, total = 0, rc = -1;
    double cost = 0;
    int *pick = calloc((size_t)entries, sizeof *pick);
    if (!pick) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for the plan");
        goto out;
    }
    if (load_plan(st, cfg, &p, e))
        goto out;
    if (s->method.budget == BUDGET_UNIFORM) {
        if (budget_uniform(s, cfg->heads, &n, e))
            goto out;
        for (int i = 0; i < entries; i++) {
            pick[i] = -1;
            for (int c = 0; c < p.entries[i].n_choices; c++)
                if (p.entries[i].choices[c].n == n)
                    pick[i] = c;
            if (pick[i] < 0) {
                dha_fail(e, DHA_E_INPUT, "the plan has no choice of %d heads for layer %d", n,
                         i / 2);
                goto out;
            }
        }
    } else if (budget_total(s, cfg->layers, cfg->heads, &total, e) ||
               (s->method.allocation == ALLOCATE_GREEDY
                    ? plan_choose_greedy(&p, total, pick, &cost, e)
                    : plan_choose(&p, total, pick, &cost, e))) {
        goto out;
    }
    if (s->method.exchange) {
        struct exchange_report r;
        if (exchange_improve(env, &p, total, pick, &r, e))
            goto out;
        journal_exchange(st, cost, &r);
    }
    for (int i = 0; i < entries; i++)
        memcpy(group_of + i * cfg->heads, p.entries[i].choices[pick[i]].group_of,
               (size_t)cfg->heads * sizeof *group_of);
    rc = 0;
out:
    plan_finish(&p);
    free(pick);
    return rc;
}

static int choose_groups(struct stage *st, const struct method_env *env, int *group_of,
                         struct dha_err *e)
{
    const struct model_config *cfg = &env->parent->cfg;
    const struct job_spec *s = &st->s->spec;
    int n = 0;
    bool fixed = s->method.budget == BUDGET_UNIFORM &&
                 (s->method.grouping == GROUP_ADJACENT || s->method.grouping == GROUP_ONE);
    if (!fixed)
        return groups_from_plan(st, env, group_of, e);
    if (budget_uniform(s, cfg->heads, &n, e))
        return -1;
    for (int i = 0; i < 2 * cfg->layers; i++)
        groups_adjacent(cfg->heads, n, group_of + i * cfg->heads);
    return 0;
}

static void journal_heads(struct stage *st, const struct model_config *c)
{
    for (int i = 0; i < 2 * c->layers; i++) {
        struct record r = {.type = REC_HEAD_BUDGET};
        int l = i / 2;
        const int *map = (i % 2 ? c->value_of : c->key_of) + l * c->heads;
        r.head_budget.layer = l;
        memcpy(r.head_budget.kind, i % 2 ? "value" : "key", i % 2 ? 6 : 4);
        r.head_budget.heads = i % 2 ? c->n_value[l] : c->n_key[l];
        r.head_budget.n_map = c->heads;
        memcpy(r.head_budget.map, map, (size_t)c->heads * sizeof *map);
        journal_write(st->journal, &r);
    }
}

/* Tokens that a spectral merge reads and no stage before has read. */
static int64_t merge_reads(const struct stage *st, const struct method_env *env)
{
    bool calibrated = st->s->inputs[STAGE_SEARCH] && st->s->spec.method.grouping != GROUP_LEARNED;
    return calib_tokens_merge(env, calibrated);
}

static int convert(struct stage *st, struct model *parent, struct model **out, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    const struct model_config *cfg = &parent->cfg;
    /* the calibration of the merge is the search's again: it is recomputed layer by layer rather than kept on disk */
    struct method_env env = stage_method_env(st, parent);
    struct model *aligned = NULL, *ordered = NULL;
    int *group_of = calloc(2 * (size_t)cfg->layers * (size_t)cfg->heads, sizeof *group_of);
    int rc = group_of ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "no memory for the head groups");
    bool trains = s->method.merge == MERGE_FUSION || s->method.merge == MERGE_MASKS;
    if (rc == 0 && !trains) {
        stage_hello(st, 0, -1);
        if (s->tokens_fuse > 0)
            rc = dha_fail(e, DHA_E_SPEC,
                          "tokens.fuse is %" PRId64 ", but merge %s has nothing to train",
                          s->tokens_fuse, s->method.name);
    }
    if (rc == 0)
        rc = choose_groups(st, &env, group_of, e);
    /* what trains distils from the parent as it is; in another order, aligned or not, that is the same function */
    if (rc == 0 && s->method.uniform && method_groups_by_alignment(&s->method)) {
        rc = comm_agree(st->comm, permute_heads(parent, group_of, &ordered, e), e);
        env.parent = ordered;
    }
    if (rc == 0 && s->method.alignment == ALIGN_PROCRUSTES) {
        rc = align_apply(&env, group_of, &aligned, e);
        env.parent = aligned;
    }
    if (rc == 0)
        rc = s->method.merge == MERGE_FUSION  ? fuse_by_operator(st, &env, parent, group_of, out, e)
             : s->method.merge == MERGE_MASKS ? fuse_by_masks(st, &env, parent, group_of, out, e)
             : s->method.merge == MERGE_SPECTRAL ? spectral_merge(&env, group_of, out, e)
                                                 : meanpool_merge(&env, group_of, out, e);
    /* tokens that no stage before has read */
    bool searched = st->s->inputs[STAGE_SEARCH] != NULL;
    if (s->method.merge == MERGE_SPECTRAL)
        st->bye.bye.tokens += merge_reads(st, &env);
    else if (method_merge_calibrates(&s->method) && !searched)
        st->bye.bye.tokens += s->tokens_search;
    model_free(aligned);
    model_free(ordered);
    free(group_of);
    return rc;
}

/* Different tokens that were read to calibrate, by the search and by the merge. */
static int64_t calibrated_with(const struct stage *st, const struct method_env *env)
{
    const struct method *m = &st->s->spec.method;
    bool aligned = method_groups_by_alignment(m), searched = st->s->inputs[STAGE_SEARCH] != NULL;
    if (m->merge != MERGE_SPECTRAL)
        return method_merge_calibrates(m) || aligned ? env->calib_tokens : 0;
    int64_t search = m->grouping == GROUP_LEARNED || !searched ? 0
                     : aligned                                 ? env->calib_tokens
                                                               : calib_tokens_search(env);
    return search + merge_reads(st, env);
}

/* What the model's card says of the parent and of the model before it is trained; "domains" of a mixture only. */
static cJSON *losses_of(const struct eval_result *parent, const struct eval_result *converted,
                        int64_t calibration, int64_t trained)
{
    const struct eval_result *v[] = {parent, converted};
    static const char *const name[] = {"parent", "converted"};
    cJSON *j = cJSON_CreateObject(), *domains = NULL, *of = NULL;
    int bad = !j || (calibration > 0 && json_put_id(j, "calibration_tokens", calibration)) ||
              (trained > 0 && json_put_id(j, "trained_tokens", trained));
    if (parent->n_domains > 0)
        bad |= json_put(j, "domains", domains = cJSON_CreateObject());
    for (int i = 0; !bad && i < 2; i++) {
        bad |= json_put_num(j, name[i], v[i]->loss);
        if (domains)
            bad |= json_put(domains, name[i], of = cJSON_CreateObject());
        for (int d = 0; !bad && d < v[i]->n_domains; d++)
            bad |= json_put_num(of, v[i]->domain[d].name, v[i]->domain[d].loss);
    }
    if (!bad)
        return j;
    cJSON_Delete(j);
    return NULL;
}

static int write_losses(struct stage *st, struct model *m, const struct eval_result *parent,
                        const struct eval_result *converted, struct dha_err *e)
{
    char path[PATH_MAX];
    int rc = 0;
    if (st->comm->rank == 0) {
        struct method_env env = stage_method_env(st, m);
        cJSON *j = losses_of(parent, converted, calibrated_with(st, &env), st->trained_tokens);
        rc = j ? stage_out(st, path, sizeof path, "losses.json", e)
               : dha_fail(e, DHA_E_NO_MEMORY, "no memory for the losses");
        if (rc == 0)
            rc = json_write_file(path, j, e);
        cJSON_Delete(j);
    }
    return comm_agree(st->comm, rc, e);
}

int stage_fuse(struct stage *st, struct dha_err *e)
{
    struct model *parent = NULL, *child = NULL;
    struct model_config as_is = {0}; /* the parent as it is on disk: what its cache costs */
    struct eval_result before, after;
    int rc = -1;
    if (model_config_load(st->s->spec.model, &as_is, e) || stage_load_parent(st, &parent, e) ||
        stage_open_data(st, &parent->cfg, e))
        goto out;
    bool done = stage_has_output(st, "model"); /* an earlier attempt got that far */
    if (done) {
        char path[PATH_MAX];
        stage_hello(st, 0, -1);
        rc = stage_out(st, path, sizeof path, "model", e) || model_load(&child, st->k, path, e);
    } else {
        rc = convert(st, parent, &child, e);
    }
    if (rc || stage_evaluate_all(st, parent, "parent", &before, e) ||
        stage_evaluate_all(st, child, "converted", &after, e) ||
        write_losses(st, parent, &before, &after, e)) {
        rc = -1;
        goto out;
    }
    journal_heads(st, &child->cfg);
    stage_kv_bytes(st, &as_is, &child->cfg);
    rc = done ? 0 : stage_save_model(st, child, "float32", false, e);
    stage_output(st, "model");
out:
    model_free(child);
    model_free(parent);
    model_config_finish(&as_is);
    return rc;
}
