/* model.c: life of a model: create, load, save, copy, and single parameters. See model.h. */
#include "worker/model/model_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/model/safetensors.h"

static int maps_build(struct model *m, struct dha_err *e)
{
    const struct model_config *c = &m->cfg;
    const struct kern_ops *ops = m->k->ops;
    int straight[MODEL_MAX_HEADS];
    m->maps = calloc((size_t)c->layers, sizeof *m->maps);
    if (!m->maps)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for head maps");
    for (int l = 0; l < c->layers; l++) {
        m->maps[l] = ops->maps_new(m->k, c->heads, c->key_of + l * c->heads,
                                   c->value_of + l * c->heads);
        if (!m->maps[l])
            return model_fail_kern(&m->k->err, "setting up head maps", e);
    }
    for (int h = 0; h < c->heads; h++)
        straight[h] = h;
    m->identity = ops->maps_new(m->k, c->heads, straight, straight);
    return m->identity ? 0 : model_fail_kern(&m->k->err, "setting up head maps", e);
}

/* Everything but memory for parameters. */
static int model_frame(struct model **out, struct kern *k, const struct model_config *cfg,
                       struct dha_err *e)
{
    struct model *m = calloc(1, sizeof *m);
    *out = m;
    if (!m)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a model");
    m->k = k;
    return model_config_copy(cfg, &m->cfg, e) < 0 || model_table_build(m, e) < 0 ? -1 : 0;
}

static int model_memory(struct model *m, struct dha_err *e)
{
    m->params = m->k->ops->alloc(m->k, KERN_F32, m->n_params);
    if (!m->params) {
        model_fail_kern(&m->k->err, "allocating parameters", e);
        return dha_err_context(e, "%zu parameters of 4 bytes", m->n_params);
    }
    return maps_build(m, e);
}

int model_create(struct model **out, struct kern *k, const struct model_config *cfg,
                 struct dha_err *e)
{
    struct model *m;
    *out = NULL;
    if (model_frame(&m, k, cfg, e) < 0 || model_memory(m, e) < 0) {
        model_free(m);
        return -1;
    }
    *out = m;
    return 0;
}

void model_free(struct model *m)
{
    if (!m)
        return;
    const struct kern_ops *ops = m->k->ops;
    model_oper_detach(m);
    if (m->identity)
        ops->maps_free(m->k, m->identity);
    for (int l = 0; m->maps && l < m->cfg.layers; l++)
        if (m->maps[l])
            ops->maps_free(m->k, m->maps[l]);
    free(m->maps);
    ops->free(m->k, m->rope);
    ops->free(m->k, m->params);
    for (int p = 0; p < P_COUNT; p++)
        free(m->layer[p]);
    free(m->table);
    model_config_finish(&m->cfg);
    free(m);
}

int model_clone(struct model **out, struct model *from, struct dha_err *e)
{
    if (model_create(out, from->k, &from->cfg, e) < 0)
        return -1;
    from->k->ops->copy(from->k, kern_at((*out)->params, 0), kern_at(from->params, 0),
                       from->n_params);
    return 0;
}

/* ---- loading ------------------------------------------------------------------------------------ */

static int bad_tensor(const char *dir, struct dha_err *e)
{
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", dir);
    return -1;
}

static void shape_text(char *buf, size_t cap, int n_dims, const int64_t *dims)
{
    size_t at = 0;
    buf[0] = 0;
    for (int i = 0; i < n_dims && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%lld", i ? " x " : "", (long long)dims[i]);
}

static int check_tensor(const struct param *p, const struct st_tensor *t, const char *dir,
                        struct dha_err *e)
{
    int64_t want[2] = {p->rows, p->cols};
    char have_text[96], want_text[96];
    if (t->n_dims != p->n_dims || memcmp(t->dims, want, (size_t)p->n_dims * sizeof *want) != 0) {
        shape_text(have_text, sizeof have_text, t->n_dims, t->dims);
        shape_text(want_text, sizeof want_text, p->n_dims, want);
        dha_fail(e, DHA_E_INPUT, "%s: tensor \"%s\" is %s, config.json makes it %s", dir, p->name,
                 have_text, want_text);
        return bad_tensor(dir, e);
    }
    if (t->dtype != ST_F32 && t->dtype != ST_BF16 && t->dtype != ST_F16 && t->dtype != ST_F64) {
        dha_fail(e, DHA_E_INPUT, "%s: tensor \"%s\" does not hold floating-point numbers", dir,
                 p->name);
        dha_err_hint(e, "quantised checkpoints are not supported; take the original weights");
        return bad_tensor(dir, e);
    }
    return 0;
}

/* Names that transformers ignores, too: buffers of old releases, and a copy of the tied head. */
static int check_surplus(const struct model *m, const struct st_file *f, const struct st_tensor *t,
                         const char *dir, struct dha_err *e)
{
    static const char inv_freq[] = ".self_attn.rotary_emb.inv_freq";
    size_t len = strlen(t->name), tail = sizeof inv_freq - 1;
    if (len > tail && strcmp(t->name + len - tail, inv_freq) == 0)
        return 0;
    if (m->cfg.tied && strcmp(t->name, "lm_head.weight") == 0) {
        const struct st_tensor *embed = st_find(f, m->table[m->embed].name);
        if (embed && embed->dtype == t->dtype && embed->bytes == t->bytes &&
            memcmp(embed->data, t->data, t->bytes) == 0)
            return 0;
        dha_fail(e, DHA_E_INPUT,
                 "%s: lm_head.weight differs from the embedding, but config.json says "
                 "tie_word_embeddings",
                 dir);
        dha_err_hint(e, "set tie_word_embeddings to false if the output layer has weights of its "
                        "own");
        return bad_tensor(dir, e);
    }
    dha_fail(e, DHA_E_INPUT, "%s: tensor \"%.120s\" has no place in a model of this config.json",
             dir, t->name);
    return bad_tensor(dir, e);
}

static int check_tensors(const struct model *m, const struct st_file *f, const char *dir,
                         struct dha_err *e)
{
    for (int i = 0; i < m->n_table; i++) {
        const struct param *p = &m->table[i];
        const struct st_tensor *t = st_find(f, p->name);
        if (!t) {
            dha_fail(e, DHA_E_INPUT, "%s: tensor \"%s\" is missing", dir, p->name);
            if (i == m->head)
                dha_err_hint(e, "set tie_word_embeddings to true if the output layer shares the "
                                "embedding");
            return bad_tensor(dir, e);
        }
        if (check_tensor(p, t, dir, e) < 0)
            return -1;
    }
    /* every parameter was found and names are unique: what is left over is surplus */
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        bool known = false;
        for (int k = 0; k < m->n_table && !known; k++)
            known = strcmp(m->table[k].name, t->name) == 0;
        if (!known && check_surplus(m, f, t, dir, e) < 0)
            return -1;
    }
    return 0;
}

/* A NaN would spread to every logit and be noticed far from here. */
static int check_finite(const struct param *p, const float *x, const char *dir, struct dha_err *e)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < p->n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    if (!bad)
        return 0;
    for (size_t i = 0; i < p->n; i++) {
        if (!isfinite(x[i])) {
            dha_fail(e, DHA_E_INPUT, "%s: tensor \"%s\" has %s at element %zu", dir, p->name,
                     isnan(x[i]) ? "NaN" : "an infinity", i);
            break;
        }
    }
    dha_err_hint(e, "the checkpoint is damaged, or its training diverged");
    return bad_tensor(dir, e);
}

static int read_tensors(struct model *m, const struct st_file *f, const char *dir,
                        struct dha_err *e)
{
    size_t largest = 0;
    float *host = NULL;
    int rc = -1;
    for (int i = 0; i < m->n_table; i++)
        largest = m->table[i].n > largest ? m->table[i].n : largest;
    if (!m->k->ops->host(m->k, kern_at(m->params, 0)) && !(host = malloc(largest * sizeof *host)))
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a tensor of %zu elements", largest);
    for (int i = 0; i < m->n_table; i++) {
        const struct param *p = &m->table[i];
        float *dst = host ? host : m->k->ops->host(m->k, kern_at(m->params, p->off));
        if (st_read_f32(st_find(f, p->name), dst, p->n, e) < 0 || check_finite(p, dst, dir, e) < 0)
            goto done;
        if (host) {
            m->k->ops->upload(m->k, kern_at(m->params, p->off), host, p->n);
            if (model_check(m->k, "uploading parameters", e) < 0) /* host is used again */
                goto done;
        }
    }
    rc = 0;
done:
    free(host);
    return rc;
}

int model_load(struct model **out, struct kern *k, const char *dir, struct dha_err *e)
{
    static const char *const names[] = {
        [ST_F32] = "float32", [ST_F64] = "float32", [ST_F16] = "float16", [ST_BF16] = "bfloat16"};
    struct model_config cfg;
    struct model *m = NULL;
    struct st_file *f = NULL;
    int rc = -1;
    *out = NULL;
    if (model_config_load(dir, &cfg, e) < 0)
        return -1;
    /* shapes are compared before memory is taken: a lying config costs nothing */
    if (st_open_dir(&f, dir, e) < 0 || model_frame(&m, k, &cfg, e) < 0 ||
        check_tensors(m, f, dir, e) < 0 || model_memory(m, e) < 0 ||
        read_tensors(m, f, dir, e) < 0) {
        model_free(m);
        goto done;
    }
    /* what the weights are, whatever the config says */
    snprintf(m->cfg.dtype, sizeof m->cfg.dtype, "%s",
             names[st_find(f, m->table[m->embed].name)->dtype]);
    *out = m;
    rc = 0;
done:
    st_close(f);
    model_config_finish(&cfg);
    return rc;
}

int model_probe(struct kern *k, const char *dir, struct model_config *cfg, size_t *n_params,
                struct dha_err *e)
{
    struct model *m = NULL;
    struct st_file *f = NULL;
    if (model_config_load(dir, cfg, e) < 0)
        return -1;
    int rc = st_open_dir(&f, dir, e) < 0 || model_frame(&m, k, cfg, e) < 0 ||
                     check_tensors(m, f, dir, e) < 0
                 ? -1
                 : 0;
    *n_params = m ? m->n_params : 0;
    model_free(m);
    st_close(f);
    if (rc)
        model_config_finish(cfg);
    return rc;
}

/* ---- saving ------------------------------------------------------------------------------------- */

static int write_tensors(struct model *m, struct st_writer *w, enum st_dtype dtype,
                         struct dha_err *e)
{
    size_t largest = 0;
    for (int i = 0; i < m->n_table; i++)
        largest = m->table[i].n > largest ? m->table[i].n : largest;
    float *host = NULL;
    if (!m->k->ops->host(m->k, kern_at(m->params, 0)) && !(host = malloc(largest * sizeof *host)))
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a tensor of %zu elements", largest);
    int rc = model_check(m->k, "computing parameters", e);
    for (int i = 0; rc == 0 && i < m->n_table; i++) {
        const struct param *p = &m->table[i];
        const float *src = host;
        int64_t dims[2] = {p->rows, p->cols};
        if (host)
            m->k->ops->download(m->k, host, kern_at(m->params, p->off), p->n);
        else
            src = m->k->ops->host(m->k, kern_at(m->params, p->off));
        rc = st_writer_add(w, p->name, dtype, p->n_dims, dims, src, e);
    }
    if (rc == 0 && host)
        rc = model_check(m->k, "downloading parameters", e);
    free(host);
    return rc;
}

int model_save(struct model *m, const char *dir, const char *dtype, bool plain,
               size_t max_shard_bytes, struct dha_err *e)
{
    enum st_dtype d = strcmp(dtype, "float32") == 0    ? ST_F32
                      : strcmp(dtype, "bfloat16") == 0 ? ST_BF16
                      : strcmp(dtype, "float16") == 0  ? ST_F16
                                                       : ST_OTHER;
    if (d == ST_OTHER)
        return dha_fail(e, DHA_E_INTERNAL, "no checkpoint dtype \"%s\"", dtype);
    if (m->oper)
        return dha_fail(e, DHA_E_INTERNAL, "a model with fusion operators must be fused first");
    if (plain && !model_config_is_plain_gqa(&m->cfg)) {
        dha_fail(e, DHA_E_INPUT, "this model's head maps are not those of a plain GQA checkpoint");
        return dha_err_hint(e, "export it in the dha format, or expanded to MHA");
    }
    struct st_writer *w;
    if (st_writer_open(&w, dir, max_shard_bytes, e) < 0)
        return dha_err_context(e, "saving a model");
    st_writer_expect(w, (size_t)m->n_table);
    if (write_tensors(m, w, d, e) < 0) {
        st_writer_abort(w);
        return dha_err_context(e, "saving a model");
    }
    if (st_writer_finish(w, e) < 0)
        return dha_err_context(e, "saving a model");
    char path[4200];
    snprintf(path, sizeof path, "%.4095s/config.json", dir);
    cJSON *j = model_config_to_json(&m->cfg, plain, dtype);
    if (!j)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for config.json");
    int rc = json_write_file(path, j, e);
    cJSON_Delete(j);
    return rc;
}

/* ---- parameters --------------------------------------------------------------------------------- */

const struct param *model_param(const struct model *m, int layer, enum layer_param p)
{
    int i = m->layer[p][layer];
    return i < 0 ? NULL : &m->table[i];
}

struct kern_view model_view(const struct model *m, const struct param *p)
{
    return kern_at(m->params, p->off);
}

void model_get(struct model *m, const struct param *p, float *dst)
{
    m->k->ops->download(m->k, dst, model_view(m, p), p->n);
}

void model_set(struct model *m, const struct param *p, const float *src)
{
    m->k->ops->upload(m->k, model_view(m, p), src, p->n);
}

struct kern_buf *model_grads_new(struct model *m, struct dha_err *e)
{
    struct kern_buf *g = m->k->ops->alloc(m->k, KERN_F32, m->n_params);
    if (!g)
        model_fail_kern(&m->k->err, "allocating gradients", e);
    return g;
}
