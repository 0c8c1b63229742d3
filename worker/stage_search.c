/* stage_search.c: what could be merged, and what it would cost. Leaves plan.json. It does not depend on the budget, so a
 * sweep runs it once.
 *   learned (dha)      operators over whole layers, trained by LM only; distances of their rows (METHODS 1.6)
 *   aligned-*          similarity of heads after alignment, on calibration tokens (METHODS 2.3, 2.4)
 *   closed form        calibration sums, groups and measured costs (METHODS 6)
 */
#include <limits.h>

#include "worker/fsutil.h"
#include "worker/fuse_train.h"
#include "worker/method/similarity.h"
#include "worker/method/walk.h"
#include "worker/stage.h"
#include "worker/train/trainer.h"

#include <math.h>
#include <stdlib.h>

static int learned(struct stage *st, const struct method_env *env, struct plan *plan,
                   struct dha_err *e)
{
    struct model *m = NULL;
    struct trainer_options o;
    struct trainer_result r;
    char ckpt[PATH_MAX], identity[33];
    const struct model_config *cfg = &env->parent->cfg;
    int rc = -1;
    /* the whole layer is one group: every head may draw on all heads */
    int *group_of = calloc(2 * (size_t)cfg->layers * (size_t)cfg->heads, sizeof *group_of);
    if (!group_of) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for the head groups");
        goto out;
    }
    /* weights move during search (decision D4): a copy does, so the parent need not be restored */
    int bad = model_clone(&m, env->parent, e) || model_oper_attach(m, group_of, e);
    if (comm_agree(st->comm, bad ? -1 : 0, e)) /* training begins with collectives */
        goto out;
    model_oper_share(m, env->method->scalar_omega, env->method->rope_tied);
    stage_training(st, &o, ckpt, sizeof ckpt, identity);
    o.model = m;
    o.stream = STREAM_SEARCH;
    o.tokens = st->s->spec.tokens_search;
    if (trainer_run(&o, &r, e))
        goto out;
    st->bye.bye.tokens = r.tokens;
    st->trained_steps = r.steps;
    rc = fuse_write_shares(st, m, e) || fusion_plan(env, m, plan, e) ? -1 : 0;
out:
    model_free(m);
    free(group_of);
    return rc;
}

int stage_search(struct stage *st, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    struct model *parent = NULL;
    struct plan plan = {0};
    cJSON *j = NULL;
    char path[PATH_MAX];
    int rc = -1;
    if (stage_has_output(st, "plan.json")) {
        stage_hello(st, 0, -1);
        stage_output(st, "plan.json");
        return 0;
    }
    if (s->tokens_search <= 0) {
        dha_fail(e, DHA_E_SPEC, "method %s searches, but tokens.search is 0", s->method.name);
        dha_err_hint(e, "set tokens.search, 32768 for instance");
        goto out;
    }
    if (stage_load_parent(st, &parent, e) || stage_open_data(st, &parent->cfg, e))
        goto out;
    struct method_env env = stage_method_env(st, parent);
    if (s->method.grouping == GROUP_LEARNED) {
        if (learned(st, &env, &plan, e))
            goto out;
    } else {
        stage_hello(st, 0, -1);
        bool aligned = method_groups_by_alignment(&s->method);
        if (aligned ? similarity_plan(&env, &plan, e) : spectral_plan(&env, &plan, e))
            goto out;
        st->bye.bye.tokens = aligned ? s->tokens_search : calib_tokens_search(&env);
    }
    rc = 0;
    if (st->comm->rank == 0) {
        j = plan_to_json(&plan);
        rc = j ? stage_out(st, path, sizeof path, "plan.json", e)
               : dha_fail(e, DHA_E_NO_MEMORY, "no memory for plan.json");
        if (rc == 0)
            rc = json_write_file(path, j, e);
    }
    rc = comm_agree(st->comm, rc, e);
    if (rc == 0)
        stage_output(st, "plan.json");
out:
    cJSON_Delete(j);
    plan_finish(&plan);
    model_free(parent);
    return rc;
}
