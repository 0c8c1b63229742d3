/* fuse_levels.c: progressive fusion, 2x then 4x then 8x (METHODS 1.6, last lines).
 *
 * Level i of K leaves about H / 2^i heads, level K the plan's. The groups of a level lie inside those of the plan: its
 * candidates are pairs of present groups, and at its end those with the least L_fusion are fused until the level's budget is
 * met; the others stay as they were. The last level's candidates are the plan's groups, and all of them are fused. Which pairs
 * came near each other is what decides, so only the last level may contract. Between levels the model is one with fewer
 * heads, saved as level-i/model (complete once it has that name: a resume goes on behind it); the next level repeats its
 * shared heads, as for any GQA input (METHODS 1.11). The tokens are split evenly over the levels.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/fsutil.h"
#include "worker/fuse_train.h"
#include "worker/method/layer.h"
#include "worker/model/expand.h"
#include "worker/train/schedule.h"

struct levels {
    int entries, heads, n;
    const int *final; /* [entries*heads]: the plan's groups */
    int *now;         /* present groups */
    int *next;        /* the level's candidates, then what it leaves */
    double *mse;      /* [entries*heads]: L_fusion by candidate; -1: cannot be taken apart */
};

static int count_groups(const int *group_of, int heads)
{
    int n = 0;
    for (int h = 0; h < heads; h++)
        n = group_of[h] >= n ? group_of[h] + 1 : n;
    return n;
}

static int total_groups(const struct levels *v, const int *group_of)
{
    int n = 0;
    for (int i = 0; i < v->entries; i++)
        n += count_groups(group_of + i * v->heads, v->heads);
    return n;
}

/* Candidates: neighbours among the present groups inside each final group, two by two. */
static void pair_up(const struct levels *v, int entry)
{
    const int *now = v->now + entry * v->heads, *final = v->final + entry * v->heads;
    int *next = v->next + entry * v->heads;
    for (int h = 0; h < v->heads; h++) {
        int before = 0; /* present groups of the same final group with a lower number */
        for (int g = 0; g < now[h]; g++) {
            bool inside = false;
            for (int i = 0; i < v->heads; i++)
                inside = inside || (now[i] == g && final[i] == final[h]);
            before += inside;
        }
        next[h] = final[h] * v->heads + before / 2;
    }
    groups_canonical(v->heads, next);
}

static bool has_two_parts(const struct levels *v, int entry, int candidate)
{
    int first = -1;
    for (int h = entry * v->heads; h < (entry + 1) * v->heads; h++) {
        if (v->next[h] != candidate)
            continue;
        if (first >= 0 && v->now[h] != first)
            return true;
        first = v->now[h];
    }
    return false;
}

/* The candidate with the largest L_fusion becomes its two present groups again. False: there is none left. */
static bool split_farthest(struct levels *v)
{
    int far = -1;
    for (int c = 0; c < v->entries * v->heads; c++)
        if (v->mse[c] >= 0 && (far < 0 || v->mse[c] > v->mse[far]))
            far = c;
    if (far < 0)
        return false;
    v->mse[far] = -1;
    int from = far / v->heads * v->heads;
    for (int h = from; h < from + v->heads; h++)
        if (v->next[h] == far % v->heads)
            v->next[h] = v->heads + v->now[h]; /* a number no candidate has */
    return true;
}

/* From "all candidates fused", the farthest pairs are taken apart while the budget has room: the nearest stay fused. */
static void choose_nearest(struct levels *v, int budget)
{
    int total = total_groups(v, v->next);
    for (int c = 0; c < v->entries * v->heads; c++)
        if (!has_two_parts(v, c / v->heads, c % v->heads))
            v->mse[c] = -1;
    while (total < budget && split_farthest(v))
        total++;
    for (int i = 0; i < v->entries; i++)
        groups_canonical(v->heads, v->next + i * v->heads);
}

static int read_mse(struct levels *v, struct model *m, struct dha_err *e)
{
    struct model_oper *op = m->oper;
    const struct kern_ops *ops = m->k->ops;
    struct kern_buf *mse = ops->alloc(m->k, KERN_F32, (size_t)op->heads);
    size_t block = (size_t)op->heads * (size_t)op->heads * (size_t)op->dim;
    float host[MODEL_MAX_HEADS];
    for (int i = 0; mse && i < v->entries; i++) {
        ops->fusion_penalty(m->k, kern_at(op->domega, (size_t)i * block), kern_at(mse, 0),
                            kern_at(op->omega, (size_t)i * block), op->groups[i], op->heads,
                            op->dim, 0.0f, 0.0f);
        int n = count_groups(v->next + i * v->heads, v->heads);
        ops->download(m->k, host, kern_at(mse, 0), (size_t)n);
        for (int g = 0; g < v->heads; g++)
            v->mse[i * v->heads + g] = g < n ? (double)host[g] : -1;
    }
    ops->free(m->k, mse);
    return method_sync(m->k, "measuring L_fusion", e);
}

/* Rows of each head = mean over its group of the effective heads. eff, to: [heads * each]. */
static void mean_of_groups(const float *eff, const int *group_of, int heads, size_t each,
                           double *to)
{
    for (int h = 0; h < heads; h++) {
        double *row = to + (size_t)h * each;
        int n = 0;
        memset(row, 0, each * sizeof *row);
        for (int i = 0; i < heads; i++)
            n += group_of[i] == group_of[h];
        for (int i = 0; i < heads; i++)
            for (size_t x = 0; group_of[i] == group_of[h] && x < each; x++)
                row[x] += (double)eff[(size_t)i * each + x] / n;
    }
}

static int mean_entry(struct model *m, int entry, const int *group_of, struct attn_layer *a,
                      float *eff, struct dha_err *e)
{
    const struct model_oper *op = m->oper;
    size_t width = (size_t)op->heads * (size_t)op->dim, n = width * (size_t)m->cfg.hidden;
    m->k->ops->download(m->k, eff, kern_at(op->eff, (size_t)entry * n), n);
    mean_of_groups(eff, group_of, op->heads, n / (size_t)op->heads, entry % 2 ? a->v : a->k);
    if (a->bias) {
        m->k->ops->download(m->k, eff, kern_at(op->eff_bias, (size_t)entry * width), width);
        mean_of_groups(eff, group_of, op->heads, (size_t)op->dim, entry % 2 ? a->bv : a->bk);
    }
    return method_sync(m->k, "reading effective weights", e);
}

struct finer {
    struct model *m;
    const int *group_of;
    float *eff; /* [H*d * D] */
};

static int mean_layer(void *arg, int layer, struct attn_layer *a, struct dha_err *e)
{
    struct finer *f = arg;
    const int *keys = f->group_of + 2 * layer * a->heads;
    return mean_entry(f->m, 2 * layer, keys, a, f->eff, e) ||
                   mean_entry(f->m, 2 * layer + 1, keys + a->heads, a, f->eff, e)
               ? -1
               : 0;
}

/* What fusion_fuse() does, for groups finer than the operators': W_new = mean over members of their effective heads. */
static int fuse_finer(struct model *m, const int *group_of, struct model **out, struct dha_err *e)
{
    const struct model_oper *op = m->oper;
    struct finer f = {.m = m, .group_of = group_of};
    f.eff = malloc((size_t)op->heads * (size_t)op->dim * (size_t)m->cfg.hidden * sizeof *f.eff);
    if (!f.eff)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a layer's weights");
    model_oper_apply(m);
    int rc = method_rebuild(m, group_of, mean_layer, &f, out, e);
    free(f.eff);
    return rc;
}

static int save_level(struct stage *st, int level, struct model *m, struct dha_err *e)
{
    char dir[PATH_MAX], tmp[PATH_MAX], final[PATH_MAX];
    int rc = 0;
    if (st->comm->rank == 0) {
        if (fs_path(dir, sizeof dir, e, "%s/level-%d", st->s->out, level) ||
            fs_path(tmp, sizeof tmp, e, "%s/model.tmp", dir) ||
            fs_path(final, sizeof final, e, "%s/model", dir) || fs_remove_tree(tmp, e) ||
            fs_make_dirs(tmp, e) || model_save(m, tmp, "float32", false, 0, e))
            rc = -1;
        else if (rename(tmp, final))
            rc = dha_fail_errno(e, errno, "cannot rename %s to %s", tmp, final);
        else
            rc = fs_sync_dir(dir, e);
    }
    return comm_agree(st->comm, rc, e);
}

/* *m = what a finished level left, or NULL. */
static int load_level(struct stage *st, int level, struct model **m, struct dha_err *e)
{
    char name[32], path[PATH_MAX];
    *m = NULL;
    snprintf(name, sizeof name, "level-%d/model", level);
    if (!stage_has_output(st, name))
        return 0;
    int rc = stage_out(st, path, sizeof path, name, e) || model_load(m, st->k, path, e) ? -1 : 0;
    return comm_agree(st->comm, rc, e);
}

/* One level but the last, on MHA model m. */
static int run_level(struct stage *st, struct levels *v, int level, struct model *m,
                     struct model *teacher, const struct fuse_part *part, struct model **left,
                     struct dha_err *e)
{
    int all = v->entries * v->heads, wanted = (all + (1 << level) - 1) >> level;
    int least = total_groups(v, v->final);
    for (int i = 0; i < v->entries; i++)
        pair_up(v, i);
    if (fuse_train_operators(st, m, teacher, v->next, part, e) ||
        comm_agree(st->comm, read_mse(v, m, e), e))
        return -1;
    choose_nearest(v, wanted > least ? wanted : least);
    return comm_agree(st->comm, fuse_finer(m, v->next, left, e), e) ||
                   save_level(st, level, *left, e)
               ? -1
               : 0;
}

static void groups_of_model(const struct model *m, int *group_of)
{
    const struct model_config *c = &m->cfg;
    for (int l = 0; l < c->layers; l++)
        for (int h = 0; h < c->heads; h++) {
            group_of[2 * l * c->heads + h] = c->key_of[l * c->heads + h];
            group_of[(2 * l + 1) * c->heads + h] = c->value_of[l * c->heads + h];
        }
}

/* log2 of the most heads that become one, rounded up. */
static int count_levels(const struct levels *v)
{
    int most = 1, levels = 1;
    for (int c = 0; c < v->entries * v->heads; c++) {
        int size = 0, from = c / v->heads * v->heads;
        for (int h = from; h < from + v->heads; h++)
            size += v->final[h] == v->final[c];
        most = size > most ? size : most;
    }
    while (1 << levels < most)
        levels++;
    return levels;
}

static int by_levels(struct stage *st, struct levels *v, struct model *parent,
                     struct model *teacher, struct model **out, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    int64_t batch = (s->batch_tokens / st->seq > 0 ? s->batch_tokens / st->seq : 1) * st->seq;
    int64_t steps = schedule_steps(s->tokens_fuse / v->n, batch);
    struct model *at = NULL, *m = NULL, *left = NULL;
    bool greeted = false;
    int rc = -1;
    for (int level = 1; level <= v->n; level++) {
        char dir[32];
        bool last = level == v->n;
        snprintf(dir, sizeof dir, "level-%d", level);
        if (!last && load_level(st, level, &left, e))
            goto out;
        if (left) {
            st->bye.bye.tokens += steps * batch; /* of an earlier attempt */
            st->trained_tokens += steps * batch;
        } else {
            const struct fuse_part part = {.dir = dir,
                                           .done = (level - 1) * steps,
                                           .all = v->n * steps,
                                           .tokens = steps * batch,
                                           .contract = last && s->method.tie == TIE_CONTRACT,
                                           .greeted = greeted};
            if (comm_agree(st->comm, at ? model_expand(&m, at, e) : model_clone(&m, parent, e), e))
                goto out;
            if (last ? fuse_train_operators(st, m, teacher, v->final, &part, e) ||
                           fuse_operators(st, m, &left, e)
                     : run_level(st, v, level, m, teacher, &part, &left, e))
                goto out;
            greeted = true;
        }
        groups_of_model(left, v->now);
        model_free(m);
        model_free(at);
        m = NULL;
        at = left;
        left = NULL;
    }
    *out = at;
    at = NULL;
    rc = 0;
out:
    model_free(left);
    model_free(m);
    model_free(at);
    return rc;
}

int fuse_by_levels(struct stage *st, const struct method_env *env, struct model *teacher,
                   const int *group_of, struct model **out, struct dha_err *e)
{
    const struct model_config *c = &env->parent->cfg;
    struct levels v = {.entries = 2 * c->layers, .heads = c->heads, .final = group_of};
    size_t cells = (size_t)v.entries * (size_t)v.heads;
    int rc = -1;
    v.now = malloc(cells * sizeof *v.now);
    v.next = malloc(cells * sizeof *v.next);
    v.mse = malloc(cells * sizeof *v.mse);
    if (!v.now || !v.next || !v.mse) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for the levels of a fusion");
    } else {
        groups_of_model(env->parent, v.now);
        v.n = count_levels(&v);
        rc = by_levels(st, &v, env->parent, teacher, out, e);
    }
    free(v.mse);
    free(v.next);
    free(v.now);
    return rc;
}
