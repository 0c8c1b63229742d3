/* run_decode.c: one sequence token by token, with keys and values kept.
 *
 * A feed of n tokens is a run of n rows whose attention also sees the cache: q|k|v of the new rows are made as in any run (RoPE at
 * the rows' own positions), their k|v halves are copied behind the cache's rows, and each new row attends to all rows up to its
 * own. So any way to cut a sequence into feeds gives the logits of one run over the whole, up to rounding. The cache holds what
 * k_proj and v_proj make, the kept heads: (nk + nv) * head_dim floats a layer and token, which is what a conversion promises
 * (model_config_kv_bytes()).
 *
 * Prompts go in pieces of PIECE rows, to bound the memory of their activations.
 */
#include "worker/model/run_impl.h"

#include <stdlib.h>

#define PIECE RUN_CHUNK_ROWS /* the logits of a piece are those of a chunk */

struct decode {
    struct model *m;
    struct run *one; /* of a single row, kept: generation feeds it every time */
    struct run_cache cache;
    size_t bytes;
};

void run_cached_attention(struct run *r, int l, const struct layer_shape *s)
{
    const struct kern_ops *ops = r->k->ops;
    struct run_cache *c = r->cache;
    size_t kv = s->qkv - r->width, past = (size_t)c->past;
    struct kern_view q = run_qkv_of(r, l), to = kern_at(c->kv[l], past * kv);
    for (size_t i = 0; i < r->rows; i++)
        ops->copy(r->k, kern_plus(to, i * kv), kern_plus(q, i * s->qkv + r->width), kv);
    if (past == 0)
        return; /* run.c attends among the rows themselves, faster */
    struct kern_attn a = s->attn;
    a.ldk = a.ldv = kv;
    ops->attn_cached(r->k, run_slot(r, r->att, l, r->rows * r->width), q, kern_at(c->kv[l], 0),
                     kern_at(c->kv[l], s->keys * (size_t)a.dim), &a, c->past, c->room);
}

int decode_new(struct decode **out, struct model *m, int room, struct dha_err *e)
{
    const struct model_config *c = &m->cfg;
    struct decode *d;
    *out = NULL;
    if (m->oper)
        return dha_fail(e, DHA_E_INTERNAL, "a model under conversion cannot generate");
    if (room < 1 || room > c->max_positions)
        return dha_fail(e, DHA_E_INPUT, "a cache of %d tokens, but the model's context is %d", room,
                        c->max_positions);
    d = calloc(1, sizeof *d);
    if (!d)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a cache");
    d->m = m;
    d->cache.room = room;
    d->cache.kv = calloc((size_t)c->layers, sizeof(struct kern_buf *));
    if (!d->cache.kv) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for a cache");
        goto fail;
    }
    if (model_rope_need(m, room, e))
        goto fail;
    for (int l = 0; l < c->layers; l++) {
        size_t n = (size_t)room * (size_t)(c->n_key[l] + c->n_value[l]) * (size_t)c->head_dim;
        d->cache.kv[l] = m->k->ops->alloc(m->k, KERN_F32, n);
        if (!d->cache.kv[l]) {
            model_fail_kern(&m->k->err, "allocating the KV cache", e);
            dha_err_hint(e, "ask for fewer tokens");
            goto fail;
        }
        d->bytes += n * sizeof(float);
    }
    if (run_new(&d->one, m, 1, 1, RUN_INFER, e))
        goto fail;
    d->one->cache = &d->cache;
    *out = d;
    return 0;
fail:
    decode_free(d);
    return -1;
}

void decode_free(struct decode *d)
{
    if (!d)
        return;
    for (int l = 0; d->cache.kv && l < d->m->cfg.layers; l++)
        d->m->k->ops->free(d->m->k, d->cache.kv[l]);
    free(d->cache.kv);
    run_free(d->one);
    free(d);
}

static int piece(struct decode *d, struct run *r, const int32_t *ids, float *logits, int want,
                 struct dha_err *e)
{
    size_t vocab = (size_t)d->m->cfg.vocab;
    struct kern_err ke;
    run_forward(r, ids);
    if (want > 0) {
        run_logits(r, r->rows - (size_t)want, (size_t)want, kern_at(r->logits, 0));
        r->k->ops->download(r->k, logits, kern_at(r->logits, 0), (size_t)want * vocab);
    }
    if (kern_sync(r->k, &ke)) {
        model_fail_kern(&ke, "generating", e);
        return -1;
    }
    d->cache.past += (int)r->rows;
    return 0;
}

int decode_feed(struct decode *d, const int32_t *ids, int n, float *logits, int want,
                struct dha_err *e)
{
    size_t vocab = (size_t)d->m->cfg.vocab;
    if (n < 1 || want < 0 || want > n)
        return dha_fail(e, DHA_E_INTERNAL, "%d logits of %d tokens", want, n);
    if (n > d->cache.room - d->cache.past)
        return dha_fail(e, DHA_E_INPUT, "%d tokens after %d do not fit in a cache of %d", n,
                        d->cache.past, d->cache.room);
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= d->m->cfg.vocab)
            return dha_fail(e, DHA_E_INPUT, "token %d is outside the vocabulary of %d", (int)ids[i],
                            d->m->cfg.vocab);
    int left = n, rc = 0;
    while (rc == 0 && left > 0) {
        struct run *own = NULL, *r = d->one;
        int rows = left < PIECE ? left : PIECE;
        left -= rows;
        /* rows whose logits are wanted: the last `want` of all, less those of the pieces to come */
        int here = want - left < rows ? want - left : rows;
        if (rows > 1 && run_new(&own, d->m, 1, rows, RUN_INFER, e))
            return -1;
        if (own) {
            own->cache = &d->cache;
            r = own;
        }
        rc = piece(d, r, ids, logits, here > 0 ? here : 0, e);
        ids += rows;
        if (here > 0)
            logits += (size_t)here * vocab;
        run_free(own);
    }
    return rc;
}

void decode_reset(struct decode *d)
{
    d->cache.past = 0;
}

int decode_length(const struct decode *d)
{
    return d->cache.past;
}

int decode_room(const struct decode *d)
{
    return d->cache.room;
}

int decode_vocab(const struct decode *d)
{
    return d->m->cfg.vocab;
}

size_t decode_cache_bytes(const struct decode *d)
{
    return d->bytes;
}
