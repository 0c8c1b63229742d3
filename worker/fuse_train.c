#include "worker/fuse_train.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/json.h"
#include "worker/fsutil.h"
#include "worker/method/layer.h"
#include "worker/train/schedule.h"
#include "worker/train/trainer.h"

#define EVALS 12 /* points on the loss curve through fusion */

static int need_tokens(const struct stage *st, const char *who, struct dha_err *e)
{
    if (st->s->spec.tokens_fuse > 0)
        return 0;
    dha_fail(e, DHA_E_SPEC, "%s need tokens to train on, but tokens.fuse is 0", who);
    return dha_err_hint(e, "set tokens.fuse, a third of all tokens for instance");
}

static void options(struct stage *st, struct model *m, struct model *teacher,
                    struct trainer_options *o, char *ckpt, size_t cap, char identity[33])
{
    const struct job_spec *s = &st->s->spec;
    stage_training(st, o, ckpt, cap, identity);
    o->model = m;
    o->tokens = s->tokens_fuse;
    o->w_lm = s->w_lm;
    o->w_kl = s->w_kl;
    o->w_bild = s->w_bild;
    o->teacher = s->w_kl > 0 || s->w_bild > 0 ? teacher : NULL;
    o->valid = st->valid;
    o->evals = EVALS;
}

/* ---- shares --------------------------------------------------------------------------------------- */

static cJSON *share_rows(const float *omega, int heads, int dim)
{
    cJSON *rows = cJSON_CreateArray();
    for (int h = 0; rows && h < heads; h++) {
        double row[MODEL_MAX_HEADS];
        for (int j = 0; j < heads; j++) {
            row[j] = 0;
            for (int c = 0; c < dim; c++)
                row[j] += (double)omega[(h * heads + j) * dim + c] / dim;
        }
        if (!cJSON_AddItemToArray(rows, cJSON_CreateDoubleArray(row, heads))) {
            cJSON_Delete(rows);
            return NULL;
        }
    }
    return rows;
}

static cJSON *shares(struct model *m, struct dha_err *e)
{
    const struct model_oper *op = m->oper;
    size_t n = (size_t)op->heads * (size_t)op->heads * (size_t)op->dim;
    float *omega = malloc(n * sizeof *omega);
    cJSON *doc = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(doc, "entries");
    int bad = !omega || !list || json_put_str(doc, "format", "dha-shares-1");
    for (int i = 0; !bad && i < 2 * op->layers; i++) {
        cJSON *one = cJSON_CreateObject();
        m->k->ops->download(m->k, omega, kern_at(op->tied, (size_t)i * n), n);
        bad |= json_put_int(one, "layer", i / 2) |
               json_put_str(one, "kind", i % 2 ? "value" : "key") |
               json_put(one, "shares", share_rows(omega, op->heads, op->dim)) |
               !cJSON_AddItemToArray(list, one);
    }
    free(omega);
    if (!bad)
        return doc;
    cJSON_Delete(doc);
    dha_fail(e, DHA_E_NO_MEMORY, "no memory for shares.json");
    return NULL;
}

/* Metric "share.J" of a layer's keys or values: how much of its heads comes from original head J, on average. */
static void report_shares(struct stage *st, const cJSON *doc)
{
    const cJSON *one, *row;
    cJSON_ArrayForEach(one, json_get(doc, "entries"))
    {
        const cJSON *rows = json_get(one, "shares");
        int heads = cJSON_GetArraySize(rows);
        for (int j = 0; j < heads; j++) {
            char name[24];
            double sum = 0;
            cJSON_ArrayForEach(row, rows) sum += cJSON_GetArrayItem(row, j)->valuedouble;
            snprintf(name, sizeof name, "share.%d", j);
            journal_layer(st->journal, name, json_str(one, "kind", "?"),
                          (int)json_int(one, "layer", 0), st->trained_steps, sum / heads);
        }
    }
}

int fuse_write_shares(struct stage *st, struct model *with_oper, struct dha_err *e)
{
    char path[PATH_MAX];
    int rc = 0;
    if (st->comm->rank == 0) {
        cJSON *j = shares(with_oper, e);
        rc = j ? stage_out(st, path, sizeof path, "shares.json", e) : -1;
        if (rc == 0)
            rc = json_write_file(path, j, e);
        if (rc == 0)
            report_shares(st, j);
        cJSON_Delete(j);
    }
    return comm_agree(st->comm, rc, e);
}

/* ---- fusion operators ------------------------------------------------------------------------------- */

int fuse_train_operators(struct stage *st, struct model *m, struct model *teacher,
                         const int *group_of, const struct fuse_part *part, struct dha_err *e)
{
    const struct method *method = &st->s->spec.method;
    struct trainer_options o;
    struct trainer_result r;
    char ckpt[PATH_MAX], identity[33];
    int rc = model_oper_attach(m, group_of, e);
    if (rc == 0)
        model_oper_share(m, method->scalar_omega, method->rope_tied);
    if (rc == 0 && part->contract && method->norm_restore)
        rc = model_oper_restore_norms(m, e);
    options(st, m, teacher, &o, ckpt, sizeof ckpt, identity);
    if (rc == 0 && part->dir)
        rc = fs_path(ckpt, sizeof ckpt, e, "%s/%s/ckpt", st->s->out, part->dir);
    if (comm_agree(st->comm, rc, e)) /* training begins with collectives */
        return -1;
    o.tokens = part->tokens;
    o.data_step = o.done_steps = part->done;
    o.all_steps = part->all;
    o.contract = part->contract;
    /* contracted rows end equal whatever they were: nothing is left for the constraint to do */
    o.penalty = !part->contract;
    /* contraction brings the rows together and restores the norm: omega has only the mixture to find */
    if (o.lr_omega <= 0 && part->contract && method->norm_restore)
        o.lr_omega = schedule_omega_rate(trainer_steps(&o)) / 4;
    if (part->greeted)
        o.hello = NULL;
    if (trainer_run(&o, &r, e))
        return -1;
    st->bye.bye.tokens += r.tokens;
    st->trained_tokens += r.tokens;
    st->trained_steps = r.steps;
    return 0;
}

int fuse_operators(struct stage *st, struct model *m, struct model **out, struct dha_err *e)
{
    if (fuse_write_shares(st, m, e))
        return -1;
    model_oper_settle(m);
    return fusion_fuse(m, out, e);
}

int fuse_by_operator(struct stage *st, const struct method_env *env, struct model *teacher,
                     const int *group_of, struct model **out, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    struct model *m = NULL;
    struct fuse_part all = {.tokens = s->tokens_fuse, .contract = s->method.tie == TIE_CONTRACT};
    int rc = -1;
    if (need_tokens(st, "fusion operators", e))
        return -1;
    if (s->method.progressive)
        return fuse_by_levels(st, env, teacher, group_of, out, e);
    if (comm_agree(st->comm, model_clone(&m, env->parent, e), e) == 0 &&
        fuse_train_operators(st, m, teacher, group_of, &all, e) == 0)
        rc = fuse_operators(st, m, out, e);
    model_free(m);
    return rc;
}

/* ---- masks ------------------------------------------------------------------------------------------ */

/* Every head's rows = the merged head of its group: what the model computes with at z = 0. */
static int take_merged(struct model *m, int entry, double *w, double *bias, float *host,
                       struct dha_err *e)
{
    const struct model_oper *op = m->oper;
    size_t d = (size_t)op->dim, each = d * (size_t)m->cfg.hidden;
    for (int h = 0; h < op->heads; h++) {
        size_t g = (size_t)op->group_of[entry * op->heads + h];
        m->k->ops->download(m->k, host, kern_at(op->mask->merged, op->mask->at[entry] + g * each),
                            each);
        for (size_t x = 0; x < each; x++)
            w[(size_t)h * each + x] = (double)host[x];
        if (!bias)
            continue;
        m->k->ops->download(m->k, host, kern_at(op->mask->merged, op->mask->bias_at[entry] + g * d),
                            d);
        for (size_t x = 0; x < d; x++)
            bias[(size_t)h * d + x] = (double)host[x];
    }
    return method_sync(m->k, "reading merged heads", e);
}

struct merged {
    struct model *m;
    float *host; /* [d * D] */
};

static int merged_layer(void *arg, int layer, struct attn_layer *a, struct dha_err *e)
{
    struct merged *f = arg;
    return take_merged(f->m, 2 * layer, a->k, a->bk, f->host, e) ||
                   take_merged(f->m, 2 * layer + 1, a->v, a->bv, f->host, e)
               ? -1
               : 0;
}

static int drop_masks(struct model *m, struct model **out, struct dha_err *e)
{
    struct merged f = {.m = m};
    f.host = malloc((size_t)m->oper->dim * (size_t)m->cfg.hidden * sizeof *f.host);
    if (!f.host)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a head's weights");
    int rc = method_rebuild(m, m->oper->group_of, merged_layer, &f, out, e);
    free(f.host);
    return rc;
}

int fuse_by_masks(struct stage *st, const struct method_env *env, struct model *teacher,
                  const int *group_of, struct model **out, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    struct model *m = NULL;
    struct masks *masks = NULL;
    struct trainer_options o;
    struct trainer_result r;
    char ckpt[PATH_MAX], identity[33];
    int rc = -1;
    if (need_tokens(st, "masks", e))
        return -1;
    int bad = model_clone(&m, env->parent, e) ||
              model_mask_attach(m, group_of, s->method.norm_restore, e);
    if (comm_agree(st->comm, bad ? -1 : 0, e)) /* training begins with collectives */
        goto out;
    options(st, m, teacher, &o, ckpt, sizeof ckpt, identity);
    if (comm_agree(st->comm, masks_new(&masks, m, s->method.masks, s->seed, trainer_steps(&o), e),
                   e))
        goto out;
    o.masks = masks;
    if (trainer_run(&o, &r, e))
        goto out;
    st->bye.bye.tokens += r.tokens;
    st->trained_tokens += r.tokens;
    rc = comm_agree(st->comm, drop_masks(m, out, e), e);
out:
    masks_free(masks);
    model_free(m);
    return rc;
}
