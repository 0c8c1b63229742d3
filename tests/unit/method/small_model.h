/* small_model.h: a random LLaMA of a few thousand parameters, tokens for it, and ways to plant heads that are exact images
 * of one another. */
#ifndef DHA_TESTS_METHOD_SMALL_MODEL_H
#define DHA_TESTS_METHOD_SMALL_MODEL_H

#include "tests/unit/method/fixtures.h"

#include <complex.h>
#include <unistd.h>

#include "worker/method/layer.h"
#include "worker/method/method.h"

#define SMALL_SEQ 16

struct small {
    struct kern *k;
    struct model *m;
    struct corpus *c;
    struct comm comm;
    struct method method;
    struct method_env env;
};

static inline struct model *small_model(struct kern *k, int heads, int kv, int layers, bool bias)
{
    char text[640];
    struct model_config cfg;
    struct model *m;
    struct dha_err e = {0};
    snprintf(text, sizeof text,
             "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_act\":"
             "\"silu\","
             "\"hidden_size\":%d,\"intermediate_size\":24,\"num_hidden_layers\":%d,"
             "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"vocab_size\":40,"
             "\"max_position_embeddings\":32,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"
             "\"tie_word_embeddings\":true,\"attention_bias\":%s}",
             heads * 4, layers, heads, kv, bias ? "true" : "false");
    cJSON *doc = json_parse(text, strlen(text), NULL, &e);
    if (!doc || model_config_parse(doc, "small model", &cfg, &e) || model_create(&m, k, &cfg, &e))
        fail_msg("small model: %s", e.msg);
    cJSON_Delete(doc);
    model_config_finish(&cfg);
    for (int i = 0; i < m->n_table; i++) {
        const struct param *p = &m->table[i];
        bool norm = strstr(p->name, "norm") != NULL;
        float *x = malloc(p->n * sizeof *x);
        assert_non_null(x);
        for (size_t j = 0; j < p->n; j++)
            x[j] = (float)(norm ? 1.0 + 0.1 * normal() : 0.4 * normal());
        model_set(m, p, x);
        free(x);
    }
    return m;
}

static inline void small_open(struct small *s, int heads, int kv, int layers, bool bias)
{
    enum { TOKENS = 4096 };
    char path[] = "/tmp/dha-method-XXXXXX", *paths[] = {path};
    static uint16_t tokens[TOKENS];
    struct corpus_options o = {.format = "u16", .vocab = 40, .bos = -1};
    struct kern_err ke;
    struct dha_err e = {0};
    int fd = mkstemp(path);
    random_state = 12345;
    assert_true(fd >= 0);
    for (int i = 0; i < TOKENS; i++)
        tokens[i] = (uint16_t)(uniform() * 40);
    assert_int_equal(write(fd, tokens, sizeof tokens), sizeof tokens);
    close(fd);
    s->k = kern_open("reference", 1, &ke);
    assert_non_null(s->k);
    s->m = small_model(s->k, heads, kv, layers, bias);
    if (corpus_open(&s->c, paths, 1, &o, &e))
        fail_msg("%s", e.msg);
    unlink(path);
    comm_alone(&s->comm);
    assert_int_equal(method_preset("spectral", &s->method), 0);
    s->method.regress =
        false; /* closed forms are tested for themselves; test_regress.c for the rest */
    s->env = (struct method_env){.parent = s->m,
                                 .train = s->c,
                                 .comm = &s->comm,
                                 .method = &s->method,
                                 .seq = SMALL_SEQ,
                                 .seed = 3,
                                 .calib_tokens = 1024};
}

static inline void small_close(struct small *s)
{
    corpus_close(s->c);
    model_free(s->m);
    kern_close(s->k);
}

/* Logits of two sequences [2 * SMALL_SEQ, vocab]; caller frees. */
static inline float *small_logits(struct model *m)
{
    struct run *r;
    struct dha_err e = {0};
    int32_t ids[2 * SMALL_SEQ];
    size_t rows = 2 * SMALL_SEQ, n = rows * (size_t)m->cfg.vocab;
    float *out = malloc(n * sizeof *out);
    for (int i = 0; i < 2 * SMALL_SEQ; i++)
        ids[i] = (i * 7 + i / 5) % m->cfg.vocab;
    if (!out || run_new(&r, m, 2, SMALL_SEQ, RUN_INFER, &e))
        fail_msg("%s", e.msg);
    struct kern_buf *b = m->k->ops->alloc(m->k, KERN_F32, n);
    run_forward(r, ids);
    run_logits(r, 0, rows, kern_at(b, 0));
    m->k->ops->download(m->k, out, kern_at(b, 0), n);
    if (method_sync(m->k, "logits", &e))
        fail_msg("%s", e.msg);
    m->k->ops->free(m->k, b);
    run_free(r);
    return out;
}

static inline void assert_same_logits(struct model *a, struct model *b, double tolerance)
{
    float *x = small_logits(a), *y = small_logits(b);
    for (int i = 0; i < 2 * SMALL_SEQ * a->cfg.vocab; i++)
        assert_close((double)x[i], (double)y[i], tolerance);
    free(x);
    free(y);
}

/* Makes the keys (value: values) of every head an image of those of the first head of its group: key planes times complex
 * numbers, values under invertible matrices. What such heads compute differs; sharing loses nothing. */
static inline void plant_images(struct model *m, int layer, bool value, const int *group_of)
{
    struct attn_layer a;
    struct dha_err e = {0};
    if (layer_load(&a, m, layer, &e))
        fail_msg("%s", e.msg);
    int d = a.dim, half = d / 2;
    size_t width = (size_t)a.width;
    for (int h = 0; h < a.heads; h++) {
        int first = 0;
        while (group_of[first] != group_of[h])
            first++;
        if (first == h)
            continue;
        double *rows[2] = {value ? a.v : a.k, value ? a.bv : a.bk};
        for (int p = 0; p < d; p++) {
            double f[16] = {0}; /* row p of head h as a mixture of the first head's rows */
            if (value) {
                for (int j = 0; j < d; j++)
                    f[j] = 0.4 * normal() + (j == p ? 1.0 : 0.0);
            } else if (p < half) {
                f[p] = 1.0 + 0.3 * normal();
                f[p + half] = -normal();
            } else { /* (re + i im)(x + i y): the second row of the plane follows from the first */
                continue;
            }
            for (int part = 0; part < (a.bias ? 2 : 1); part++) {
                size_t cols = part ? 1 : width;
                for (size_t c = 0; c < cols; c++) {
                    const double *src = rows[part] + (size_t)(first * d) * cols + c;
                    double *dst = rows[part] + (size_t)(h * d) * cols + c, sum = 0.0;
                    for (int j = 0; j < d; j++)
                        sum += f[j] * src[(size_t)j * cols];
                    dst[(size_t)p * cols] = sum;
                    if (!value)
                        dst[(size_t)(p + half) * cols] = f[p] * src[(size_t)(p + half) * cols] -
                                                         f[p + half] * src[(size_t)p * cols];
                }
            }
        }
    }
    if (layer_store(&a, m, layer, &e))
        fail_msg("%s", e.msg);
    layer_finish(&a);
}

#endif
