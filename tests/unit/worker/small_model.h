/* small_model.h: models at odd sizes with random weights, and what a test wants to ask of them. */
#ifndef DHA_TEST_SMALL_MODEL_H
#define DHA_TEST_SMALL_MODEL_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "worker/data/corpus.h"
#include "worker/model/model.h"

enum { SMALL_BATCH = 2, SMALL_SEQ = 9, SMALL_ROWS = SMALL_BATCH * SMALL_SEQ };

static struct kern *small_kern;

static inline int small_open(void **state)
{
    (void)state;
    struct kern_err e;
    small_kern = kern_open("reference", 1, &e);
    return small_kern ? 0 : -1;
}

static inline int small_close(void **state)
{
    (void)state;
    kern_close(small_kern);
    return 0;
}

static inline float small_random(uint64_t stream, size_t i)
{
    return (float)((double)corpus_random(11, stream, 0, 0, i) / 9223372036854775808.0 - 1);
}

/* extra: more config fields, such as ",\"attention_bias\":true"; with a model_type it is not "llama" */
static inline struct model *small_model(const char *extra)
{
    char text[1024];
    struct model_config c;
    struct dha_err e = {0};
    struct model *m;
    snprintf(text, sizeof text,
             "{%s\"hidden_size\":20,\"intermediate_size\":28,"
             "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"head_dim\":6,\"vocab_size\":37,"
             "\"max_position_embeddings\":64%s}",
             strstr(extra, "model_type") ? "" : "\"model_type\":\"llama\",", extra);
    cJSON *j = json_parse(text, strlen(text), NULL, &e);
    if (!j || model_config_parse(j, "small", &c, &e) < 0)
        fail_msg("%s", e.msg);
    cJSON_Delete(j);
    if (model_create(&m, small_kern, &c, &e) < 0)
        fail_msg("%s", e.msg);
    model_config_finish(&c);
    for (int i = 0; i < m->n_table; i++) {
        const struct param *p = &m->table[i];
        float *x = malloc(p->n * sizeof *x);
        assert_non_null(x);
        for (size_t k = 0; k < p->n; k++) {
            float r = small_random((uint64_t)i, k);
            x[k] = p->n_dims == 2 ? 0.4f * r : strstr(p->name, "norm") ? 1 + 0.3f * r : 0.2f * r;
        }
        model_set(m, p, x);
        free(x);
    }
    return m;
}

static inline void small_tokens(int32_t ids[SMALL_ROWS], int32_t targets[SMALL_ROWS])
{
    for (size_t i = 0; i < SMALL_ROWS; i++) {
        ids[i] = (int32_t)(corpus_random(3, 0, 0, 0, i) % 37);
        targets[i] = (int32_t)(corpus_random(3, 1, 0, 0, i) % 37);
    }
    targets[4] = -1; /* a row that does not count */
}

/* [SMALL_ROWS * vocab], malloc'ed */
static inline float *small_logits(struct model *m)
{
    struct dha_err e = {0};
    struct run *r;
    int32_t ids[SMALL_ROWS], targets[SMALL_ROWS];
    size_t n = SMALL_ROWS * (size_t)m->cfg.vocab;
    float *host = malloc(n * sizeof *host);
    assert_non_null(host);
    small_tokens(ids, targets);
    if (run_new(&r, m, SMALL_BATCH, SMALL_SEQ, RUN_INFER, &e) < 0)
        fail_msg("%s", e.msg);
    struct kern_buf *b = m->k->ops->alloc(m->k, KERN_F32, n);
    assert_non_null(b);
    run_forward(r, ids);
    run_logits(r, 0, SMALL_ROWS, kern_at(b, 0));
    m->k->ops->download(m->k, host, kern_at(b, 0), n);
    m->k->ops->free(m->k, b);
    run_free(r);
    return host;
}

static inline double small_distance(const float *a, const float *b, size_t n)
{
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        s += (double)b[i] * (double)b[i];
    }
    return sqrt(d / s);
}

/* Same logits to f32 accuracy: 2e-6 relative, some ten rounding errors of 6e-8 through two layers. */
static inline void small_same_logits(struct model *a, struct model *b)
{
    float *x = small_logits(a), *y = small_logits(b);
    double d = small_distance(x, y, SMALL_ROWS * (size_t)b->cfg.vocab);
    free(x);
    free(y);
    if (!(d < 2e-6))
        fail_msg("logits differ by %g", d);
}

#endif
