/* spectral_merge.c: the merge of METHODS section 6 for given groups. The calibration sums are those of the search (the same
 * tokens), gathered again layer by layer: keeping them would cost L * H * D * D numbers. Second moments of attended
 * inputs are gathered only for heads that share values.
 */
#include "worker/method/calib.h"
#include "worker/method/refit.h"
#include "worker/method/regress.h"

int method_slow_planes(const struct method_env *env)
{
    int slow = env->method->slow_planes ? model_slow_planes(&env->parent->cfg) : 0;
    return slow > 1 ? slow : 0;
}

static int merge_layer(struct walk *w, const struct method_env *env, int l, const int *group_of,
                       struct model *out, struct dha_err *e)
{
    int heads = w->m->cfg.heads, members[MODEL_MAX_HEADS];
    const int *keys = group_of + 2 * l * heads, *values = keys + heads;
    bool shared[MODEL_MAX_HEADS] = {false};
    struct calib_layer c;
    struct attn_layer a = {0};
    struct key_blocks kb = {0};
    struct value_blocks vb = {0};
    for (int h = 0; h < heads; h++)
        shared[h] = group_members(values, heads, values[h], members) > 1;
    if (calib_layer(&c, w, env->comm, l, calib_split(env).moments, shared, e))
        return -1;
    c.slow = method_slow_planes(env);
    int rc = layer_load(&a, w->m, l, e);
    if (rc == 0)
        rc = key_blocks_make(&kb, &a, &c, e);
    if (rc == 0)
        rc = value_blocks_make(&vb, &a, &c, e);
    if (rc == 0)
        rc = spectral_merge_keys(&a, &kb, keys, e);
    if (rc == 0)
        rc = spectral_merge_values(&a, &vb, values, e);
    rc = comm_agree(env->comm, rc, e);
    if (rc == 0) {
        comm_bcast(env->comm, a.block, layer_numbers(&a) * sizeof *a.block, 0);
        rc = comm_agree(env->comm, layer_store(&a, out, l, e), e);
    }
    value_blocks_finish(&vb);
    key_blocks_finish(&kb);
    layer_finish(&a);
    calib_layer_finish(&c);
    return rc ? dha_err_context(e, "merging layer %d", l) : 0;
}

int spectral_merge(const struct method_env *env, const int *group_of, struct model **out,
                   struct dha_err *e)
{
    struct model *m = NULL, *merged = NULL;
    struct walk w = {0};
    bool owned = false;
    int64_t first;
    const struct model_config *cfg = &env->parent->cfg;
    int layers = cfg->layers, rc = -1;
    *out = NULL;
    if (method_check_env(env, e) || method_check_groups(group_of, layers, cfg->heads, e))
        return -1;
    int mine = rank_share(env->comm, calib_split(env).moments, &first);
    if (comm_agree(env->comm, method_expand(env->parent, &m, &owned, e), e) ||
        comm_agree(env->comm, method_with_maps(m, group_of, &merged, e), e) ||
        comm_agree(env->comm, walk_open(&w, env, m, STREAM_CALIB, first, mine, e), e))
        goto out;
    for (int l = 0; l < layers; l++)
        if (merge_layer(&w, env, l, group_of, merged, e) ||
            method_progress(env, "merge", l + 1, layers, e))
            goto out;
    walk_close(&w); /* its activations are not needed while the refit holds its own */
    rc = env->method->refit ? refit_outputs(env, m, merged, e) : 0;
    if (rc == 0 && env->method->regress)
        rc = regress_attention(env, m, merged, NULL, e);
out:
    walk_close(&w);
    if (owned)
        model_free(m);
    if (rc) {
        model_free(merged);
        dha_err_context(e, "spectral merge");
    } else {
        *out = merged;
    }
    return rc;
}
