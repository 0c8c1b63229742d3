/* run.c: one batch through the model, forward. The layer, as PyTorch would write it:
 *
 *   h1 = rmsnorm(x);  q|k|v = h1 Wqkv^T (+ b);  q, k = rope(q), rope(k);  a = attention(q, k, v)
 *   x  = x + a Wo^T (+ b)
 *   h2 = rmsnorm(x);  g|u = h2 Wgu^T;  x = x + (silu(g) * u) Wd^T
 *
 * q|k|v and gate|up are neighbours in the arena, so each is one GEMM. Residual additions are the GEMM's own
 * beta = 1. In RUN_TRAIN every residual is kept for the norms' backward, hence one copy before each addition; in
 * RUN_INFER the residual is updated in place.
 */
#include "worker/model/run_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Logits at a time: enough rows to make the head's weight-gradient GEMM (which reads and writes the whole
 * [vocab, hidden] gradient once a chunk) efficient, few enough that they stay a small part of memory. */
#define CHUNK_ROWS RUN_CHUNK_ROWS

struct layer_shape run_shape(const struct run *r, int layer)
{
    const struct model_config *c = &r->m->cfg;
    const bool oper = r->m->oper != NULL;
    int keys = oper ? c->heads : c->n_key[layer], values = oper ? c->heads : c->n_value[layer];
    size_t d = (size_t)c->head_dim;
    struct layer_shape s = {.keys = (size_t)keys, .values = (size_t)values};
    s.qkv = ((size_t)c->heads + s.keys + s.values) * d;
    s.attn = (struct kern_attn){
        .batch = r->batch,
        .seq = r->seq,
        .heads = c->heads,
        .key_heads = keys,
        .value_heads = values,
        .dim = c->head_dim,
        .scale = (float)(1.0 / sqrt(c->head_dim)),
        .ldq = s.qkv,
        .ldk = s.qkv,
        .ldv = s.qkv,
        .ldo = r->width,
        .maps = oper ? r->m->identity : r->m->maps[layer],
    };
    return s;
}

static size_t slot(const struct run *r, int layer)
{
    return r->mode == RUN_TRAIN ? (size_t)layer : 0;
}

struct kern_view run_x(const struct run *r, int layer, int half)
{
    size_t i = r->mode == RUN_TRAIN ? 2 * (size_t)layer + (size_t)half : 0;
    return kern_at(r->x, i * r->rows * r->hidden);
}

struct kern_view run_rstd(const struct run *r, int layer, int half)
{
    size_t i = r->mode == RUN_TRAIN ? 2 * (size_t)layer + (size_t)half : 0;
    return kern_at(r->rstd, i * r->rows);
}

struct kern_view run_slot(const struct run *r, struct kern_buf *b, int layer, size_t per_layer)
{
    return kern_at(b, slot(r, layer) * per_layer);
}

struct kern_view run_qkv_of(const struct run *r, int layer)
{
    return kern_at(r->qkv, r->qkv_at[layer]);
}

struct kern_view run_weight(const struct run *r, int layer, enum layer_param p)
{
    return model_view(r->m, model_param(r->m, layer, p));
}

void run_linear(struct run *r, struct kern_view y, size_t ldy, struct kern_view x, size_t ldx,
                struct kern_view w, size_t rows, size_t out, size_t in, float beta)
{
    r->k->ops->gemm(r->k, false, true, rows, out, in, 1.0f, x, ldx, w, in, beta, y, ldy);
}

void run_linear_dx(struct run *r, struct kern_view dx, size_t lddx, struct kern_view dy,
                   size_t lddy, struct kern_view w, size_t rows, size_t out, size_t in, float beta)
{
    r->k->ops->gemm(r->k, false, false, rows, in, out, 1.0f, dy, lddy, w, in, beta, dx, lddx);
}

void run_linear_dw(struct run *r, struct kern_view dw, struct kern_view dy, size_t lddy,
                   struct kern_view x, size_t ldx, size_t rows, size_t out, size_t in)
{
    r->k->ops->gemm(r->k, true, false, out, in, rows, 1.0f, dy, lddy, x, ldx, 1.0f, dw, in);
}

/* ---- sizes, life -------------------------------------------------------------------------------- */

struct need {
    size_t qkv, qkv_max;                            /* elements of all slots; widest row */
    size_t x, rstd, att, lse, gu, h, act, dx, back; /* elements */
};

/* Fusion operators change no shape: only an MHA model can get them, and it computes as one. */
static struct need need_of(const struct model *m, size_t rows, int mode)
{
    const struct model_config *c = &m->cfg;
    size_t layers = (size_t)c->layers, d = (size_t)c->head_dim, heads = (size_t)c->heads;
    size_t hidden = (size_t)c->hidden, ffn = (size_t)c->ffn;
    size_t slots = mode == RUN_TRAIN ? layers : 1, norms = mode == RUN_TRAIN ? 2 * layers + 1 : 1;
    struct need n = {0};
    for (int l = 0; l < c->layers; l++) {
        size_t w = (heads + (size_t)c->n_key[l] + (size_t)c->n_value[l]) * d;
        n.qkv += rows * w;
        n.qkv_max = w > n.qkv_max ? w : n.qkv_max;
    }
    if (mode != RUN_TRAIN)
        n.qkv = rows * n.qkv_max;
    n.x = norms * rows * hidden;
    n.rstd = norms * rows;
    n.att = slots * rows * heads * d;
    n.lse = slots * rows * heads;
    n.gu = slots * rows * 2 * ffn;
    n.h = rows * hidden;
    n.act = rows * ffn;
    if (mode != RUN_INFER) {
        size_t attn_back = rows * (heads * d + n.qkv_max);
        n.dx = rows * hidden;
        n.back = n.act > attn_back ? n.act : attn_back;
    }
    return n;
}

/* The account, in f32 elements, R = batch * seq rows, D hidden, A = heads * head_dim, W = q|k|v width (A + kept K and V
 * heads * head_dim), F ffn, L layers, V vocab, C = min(R, 256) rows of logits:
 *
 *   RUN_TRAIN, kept for backward, a layer:
 *     residual before each norm 2 R D (+ R D for the last), rstd 2 R, q|k|v after RoPE R W, heads' outputs R A, log-sum-exp
 *     R H, gate|up 2 R F
 *   shared by all layers:
 *     norm outputs 2 R D (computed again in backward: one cheap pass instead of 2 R D a layer), swiglu's output R F
 *     (computed again, too), dx and dh 2 R D, max(R F, R (A + W)) of backward scratch
 *   output layer: C V logits (overwritten by their gradient; a teacher's run has C V of its own), 2 R losses, 2 R ids
 *   RUN_INFER keeps one layer's; RUN_LAYER one layer's and the scratch of its backward.
 *
 * Example: D = 288, L = 6, H = 6, F = 768, V = 32000, R = 1024, MHA: (13 + 18 + 6 + 2 + 2 + 4) R D + (12 + 1) R F + C V
 * = 13.3 M + 10.2 M + 8.2 M elements = 121 MiB, of which 31 MiB logits; parameters x 16 bytes = 232 MiB.
 * Seen on top of that (tests/bench/bench_step): 30 to 40 MiB of program, libraries, GEMM packing and rounding to huge
 * pages, whatever the model's size. */
size_t run_bytes(const struct model *m, int batch, int seq, int mode)
{
    size_t rows = (size_t)batch * (size_t)seq, chunk = rows < CHUNK_ROWS ? rows : CHUNK_ROWS;
    struct need n = need_of(m, rows, mode);
    size_t floats = n.x + n.rstd + n.qkv + n.att + n.lse + n.gu + 2 * n.h + n.act + 2 * n.dx +
                    n.back + chunk * (size_t)m->cfg.vocab + 2 * rows;
    return floats * sizeof(float) + 2 * rows * sizeof(int32_t);
}

static bool get(struct run *r, struct kern_buf **b, enum kern_dtype t, size_t n)
{
    *b = r->k->ops->alloc(r->k, t, n);
    return *b != NULL;
}

static bool get_all(struct run *r, const struct need *n)
{
    bool ok = get(r, &r->ids, KERN_I32, r->rows) && get(r, &r->targets, KERN_I32, r->rows) &&
              get(r, &r->x, KERN_F32, n->x) && get(r, &r->rstd, KERN_F32, n->rstd) &&
              get(r, &r->qkv, KERN_F32, n->qkv) && get(r, &r->att, KERN_F32, n->att) &&
              get(r, &r->lse, KERN_F32, n->lse) && get(r, &r->gu, KERN_F32, n->gu) &&
              get(r, &r->h1, KERN_F32, n->h) && get(r, &r->h2, KERN_F32, n->h) &&
              get(r, &r->act, KERN_F32, n->act) && get(r, &r->lm, KERN_F32, r->rows) &&
              get(r, &r->kl, KERN_F32, r->rows) &&
              get(r, &r->logits, KERN_F32, r->chunk * (size_t)r->m->cfg.vocab);
    if (ok && r->mode != RUN_INFER)
        ok = get(r, &r->dx, KERN_F32, n->dx) && get(r, &r->dh, KERN_F32, n->dx) &&
             get(r, &r->back, KERN_F32, n->back);
    return ok;
}

int run_new(struct run **out, struct model *m, int batch, int seq, int mode, struct dha_err *e)
{
    const struct model_config *c = &m->cfg;
    *out = NULL;
    if (batch < 1 || seq < 1 || (int64_t)batch * seq > 1 << 28)
        return dha_fail(e, DHA_E_INPUT, "a batch of %d sequences of %d tokens is out of range",
                        batch, seq);
    if (seq > c->max_positions) {
        dha_fail(e, DHA_E_INPUT,
                 "sequences of %d tokens, but the model's max_position_embeddings is %d", seq,
                 c->max_positions);
        return dha_err_hint(e, "set data.seq_len to at most %d", c->max_positions);
    }
    if (model_rope_need(m, seq, e) < 0)
        return -1;
    struct run *r = calloc(1, sizeof *r);
    if (!r)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a run");
    *r = (struct run){.m = m, .k = m->k, .batch = batch, .seq = seq, .mode = mode, .at = -1};
    r->rows = (size_t)batch * (size_t)seq;
    r->hidden = (size_t)c->hidden;
    r->ffn = (size_t)c->ffn;
    r->width = (size_t)c->heads * (size_t)c->head_dim;
    r->chunk = r->rows < CHUNK_ROWS ? r->rows : CHUNK_ROWS;
    r->qkv_at = calloc((size_t)c->layers, sizeof *r->qkv_at);
    if (!r->qkv_at) {
        free(r);
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a run");
    }
    struct need n = need_of(m, r->rows, mode);
    r->qkv_max = n.qkv_max;
    for (int l = 1; l < c->layers && mode == RUN_TRAIN; l++)
        r->qkv_at[l] = r->qkv_at[l - 1] + r->rows * run_shape(r, l - 1).qkv;
    if (!get_all(r, &n)) {
        model_fail_kern(&r->k->err, "allocating activations", e);
        dha_err_context(e, "%d sequences of %d tokens need %zu MiB", batch, seq,
                        run_bytes(m, batch, seq, mode) >> 20);
        dha_err_hint(e, "use a smaller batch or seq_len");
        run_free(r);
        return -1;
    }
    *out = r;
    return 0;
}

void run_free(struct run *r)
{
    if (!r)
        return;
    struct kern_buf *all[] = {r->ids,        r->targets,   r->x,           r->rstd,         r->qkv,
                              r->att,        r->lse,       r->gu,          r->h1,           r->h2,
                              r->act,        r->logits,    r->lm,          r->kl,           r->dx,
                              r->dh,         r->back,      r->row_weights, r->bild_weights, r->bild,
                              r->bild_index, r->bild_value};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        r->k->ops->free(r->k, all[i]);
    free(r->qkv_at);
    free(r);
}

/* ---- forward ------------------------------------------------------------------------------------ */

/* These functions return nothing, so a token that has no embedding goes into the queue's sticky error: every
 * later operation does nothing and the next check tells. */
static bool ids_are_tokens(struct run *r, const int32_t *ids)
{
    for (size_t i = 0; i < r->rows; i++)
        if (ids[i] < 0 || ids[i] >= r->m->cfg.vocab) {
            if (kern_ok(r->k)) {
                r->k->err.code = KERN_E_UNSUPPORTED;
                snprintf(r->k->err.msg, sizeof r->k->err.msg,
                         "token %d in row %zu is outside the vocabulary of %d", (int)ids[i], i,
                         r->m->cfg.vocab);
            }
            return false;
        }
    return true;
}

void run_embed(struct run *r, const int32_t *ids)
{
    const struct kern_ops *ops = r->k->ops;
    r->at = -1;
    if (!ids_are_tokens(r, ids))
        return;
    ops->upload(r->k, kern_at(r->ids, 0), ids, r->rows);
    ops->embed_fwd(r->k, run_x(r, 0, 0), model_view(r->m, &r->m->table[r->m->embed]),
                   kern_at(r->ids, 0), r->rows, r->hidden);
}

static void project_qkv(struct run *r, int l, const struct layer_shape *s)
{
    struct kern_view h1 = kern_at(r->h1, 0), qkv = run_qkv_of(r, l);
    const struct model_oper *o = r->m->oper;
    const struct kern_ops *ops = r->k->ops;
    bool bias = r->m->cfg.attn_bias;
    if (!o) {
        run_linear(r, qkv, s->qkv, h1, r->hidden, run_weight(r, l, P_Q), r->rows, s->qkv, r->hidden,
                   0.0f);
        if (bias)
            ops->bias_add(r->k, qkv, s->qkv, run_weight(r, l, P_Q_BIAS), r->rows, s->qkv);
        return;
    }
    /* the effective K and V weights of a layer are neighbours, too */
    struct kern_view kv = kern_plus(qkv, r->width);
    size_t entry = 2 * (size_t)l;
    run_linear(r, qkv, s->qkv, h1, r->hidden, run_weight(r, l, P_Q), r->rows, r->width, r->hidden,
               0.0f);
    run_linear(r, kv, s->qkv, h1, r->hidden, kern_at(o->eff, entry * r->width * r->hidden), r->rows,
               2 * r->width, r->hidden, 0.0f);
    if (bias) {
        ops->bias_add(r->k, qkv, s->qkv, run_weight(r, l, P_Q_BIAS), r->rows, r->width);
        ops->bias_add(r->k, kv, s->qkv, kern_at(o->eff_bias, entry * r->width), r->rows,
                      2 * r->width);
    }
}

static void attention(struct run *r, int l)
{
    r->last = l;
    const struct kern_ops *ops = r->k->ops;
    struct layer_shape s = run_shape(r, l);
    struct kern_view q = run_qkv_of(r, l), key = kern_plus(q, r->width);
    struct kern_view value = kern_plus(key, s.keys * (size_t)s.attn.dim);
    ops->rmsnorm_fwd(r->k, kern_at(r->h1, 0), run_rstd(r, l, 0), run_x(r, l, 0),
                     run_weight(r, l, P_ATTN_NORM), r->rows, r->hidden, r->m->cfg.rms_eps);
    project_qkv(r, l, &s);
    size_t past = r->cache ? (size_t)r->cache->past : 0;
    /* q and k are neighbours: one call turns both */
    ops->rope(r->k, q, s.qkv, kern_at(r->m->rope, past * (size_t)s.attn.dim), r->rows, r->seq,
              s.attn.heads + s.attn.key_heads, s.attn.dim, false);
    if (r->cache)
        run_cached_attention(r, l, &s);
    if (past > 0)
        return; /* the rows see more than each other */
    ops->attn_fwd(r->k, run_slot(r, r->att, l, r->rows * r->width),
                  run_slot(r, r->lse, l, r->rows * (size_t)s.attn.heads), q, key, value, &s.attn);
}

/* The residual for the next half: a copy that the coming GEMM adds to, or the same memory. */
static struct kern_view next_residual(struct run *r, struct kern_view from, struct kern_view to)
{
    if (r->mode == RUN_TRAIN)
        r->k->ops->copy(r->k, to, from, r->rows * r->hidden);
    return to;
}

static void attention_half(struct run *r, int l)
{
    attention(r, l);
    struct kern_view x = next_residual(r, run_x(r, l, 0), run_x(r, l, 1));
    run_linear(r, x, r->hidden, run_slot(r, r->att, l, r->rows * r->width), r->width,
               run_weight(r, l, P_O), r->rows, r->hidden, r->width, 1.0f);
    if (r->m->cfg.attn_bias)
        r->k->ops->bias_add(r->k, x, r->hidden, run_weight(r, l, P_O_BIAS), r->rows, r->hidden);
}

static void mlp_half(struct run *r, int l)
{
    const struct kern_ops *ops = r->k->ops;
    struct kern_view h2 = kern_at(r->h2, 0), act = kern_at(r->act, 0);
    struct kern_view gu = run_slot(r, r->gu, l, r->rows * 2 * r->ffn);
    ops->rmsnorm_fwd(r->k, h2, run_rstd(r, l, 1), run_x(r, l, 1), run_weight(r, l, P_MLP_NORM),
                     r->rows, r->hidden, r->m->cfg.rms_eps);
    run_linear(r, gu, 2 * r->ffn, h2, r->hidden, run_weight(r, l, P_GATE), r->rows, 2 * r->ffn,
               r->hidden, 0.0f);
    ops->swiglu_fwd(r->k, act, gu, r->rows, r->ffn);
    struct kern_view x = next_residual(r, run_x(r, l, 1), run_x(r, l + 1, 0));
    run_linear(r, x, r->hidden, act, r->ffn, run_weight(r, l, P_DOWN), r->rows, r->hidden, r->ffn,
               1.0f);
}

void run_layer(struct run *r, int layer)
{
    attention_half(r, layer);
    mlp_half(r, layer);
    r->at = layer;
}

void run_attention_only(struct run *r, int layer)
{
    attention(r, layer);
}

void run_final(struct run *r)
{
    int layers = r->m->cfg.layers;
    r->k->ops->rmsnorm_fwd(r->k, kern_at(r->h2, 0), run_rstd(r, layers, 0), run_x(r, layers, 0),
                           model_view(r->m, &r->m->table[r->m->norm]), r->rows, r->hidden,
                           r->m->cfg.rms_eps);
}

void run_forward(struct run *r, const int32_t *ids)
{
    run_embed(r, ids);
    for (int l = 0; l < r->m->cfg.layers; l++)
        run_layer(r, l);
    run_final(r);
}

/* ---- accessors ---------------------------------------------------------------------------------- */

struct model *run_model(const struct run *r)
{
    return r->m;
}

struct kern_view run_residual(struct run *r)
{
    return run_x(r, r->at + 1, 0);
}

void run_set_residual(struct run *r, struct kern_view x)
{
    r->k->ops->copy(r->k, run_residual(r), x, r->rows * r->hidden);
}

struct kern_view run_attn_input(struct run *r)
{
    return kern_at(r->h1, 0);
}

struct kern_view run_qkv(struct run *r, size_t *ld)
{
    *ld = run_shape(r, r->last).qkv;
    return run_qkv_of(r, r->last);
}

struct kern_view run_attn_out(struct run *r)
{
    return run_slot(r, r->att, r->last, r->rows * r->width);
}

struct kern_view run_hidden(struct run *r)
{
    return kern_at(r->h2, 0);
}

void run_logits(struct run *r, size_t first, size_t n, struct kern_view dst)
{
    size_t vocab = (size_t)r->m->cfg.vocab;
    run_linear(r, dst, vocab, kern_plus(run_hidden(r), first * r->hidden), r->hidden,
               model_view(r->m, &r->m->table[r->m->head]), n, vocab, r->hidden, 0.0f);
}
