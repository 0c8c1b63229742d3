/* run_impl.h: the insides of a run, shared by run.c (forward), run_backward.c and run_loss.c. */
#ifndef DHA_WORKER_RUN_IMPL_H
#define DHA_WORKER_RUN_IMPL_H

#include "worker/model/model_impl.h"

/* Keys (after RoPE) and values of the tokens so far, one sequence (run_decode.c). */
struct run_cache {
    struct kern_buf **kv; /* [layers] each [room, (nk+nv)*d]: a row is the k|v of a q|k|v row */
    int past, room;       /* tokens before the run's, tokens it has room for */
};

#define RUN_CHUNK_ROWS 256 /* rows of logits at a time; run.c says why */

struct run {
    struct model *m;
    struct kern *k;
    int batch, seq, mode;
    int at;      /* layer whose output the residual is; -1 after run_embed */
    int last;    /* layer whose attention was computed last: what the accessors speak of */
    size_t rows; /* batch * seq */
    size_t hidden, ffn, width; /* D, F, H*d */
    size_t *qkv_at;            /* [layers] offsets in qkv */
    size_t qkv_max;            /* widest q|k|v row over layers */
    size_t chunk;              /* rows of logits at a time */

    struct run_cache *cache; /* NULL: the run's rows are whole sequences */

    struct kern_buf *ids, *targets; /* [rows] i32 */
    /* [slots, ...]: RUN_TRAIN keeps one slot a layer, RUN_INFER reuses one. See run_bytes(). */
    struct kern_buf
        *x; /* residual before each norm: 2 a layer and the last; RUN_INFER: one, in place */
    struct kern_buf *rstd; /* of each norm, likewise */
    struct kern_buf *qkv, *att, *lse, *gu;
    /* scratch */
    struct kern_buf *h1, *h2; /* norm outputs; h2 also holds the final norm's */
    struct kern_buf *act;     /* swiglu's output */
    struct kern_buf *logits;  /* [chunk, vocab] */
    struct kern_buf *lm, *kl; /* [rows] */
    /* of run_objective(), made when first asked for */
    struct kern_buf *row_weights, *bild_weights; /* [rows, 2], [rows] */
    struct kern_buf *bild;                       /* [rows] */
    struct kern_buf *bild_index, *bild_value;    /* [chunk, 2 * RUN_BILD_TOP] */
    /* RUN_TRAIN and RUN_LAYER: */
    size_t grad_base;         /* place in the parameter arena that grads[0] belongs to */
    struct kern_buf *dx, *dh; /* gradient of the residual, of a norm's output */
    struct kern_buf *back;    /* dact, or datt | dqkv: never alive together */
};

/* One layer's shapes and weights, with or without fusion operators. */
struct layer_shape {
    size_t keys, values; /* heads */
    size_t qkv;          /* row width of q|k|v */
    struct kern_attn attn;
};
struct layer_shape run_shape(const struct run *r, int layer);

/* Places in the stored activations. */
struct kern_view run_x(const struct run *r, int layer,
                       int half); /* half 0: before attention, 1: before the MLP */
struct kern_view run_rstd(const struct run *r, int layer, int half);
struct kern_view run_slot(const struct run *r, struct kern_buf *b, int layer, size_t per_layer);
struct kern_view run_qkv_of(const struct run *r, int layer);
struct kern_view run_weight(const struct run *r, int layer, enum layer_param p);

/* Attention of the run's rows, the newest of r->cache, over all of it; adds their keys and values. q|k|v of layer l are made. */
void run_cached_attention(struct run *r, int layer, const struct layer_shape *s);

/* Linear layers; w is [out, in] as stored, gradients of y have y's shape.
 *   y = x w^T + beta y;   dx = dy w + beta dx;   dw += dy^T x */
void run_linear(struct run *r, struct kern_view y, size_t ldy, struct kern_view x, size_t ldx,
                struct kern_view w, size_t rows, size_t out, size_t in, float beta);
void run_linear_dx(struct run *r, struct kern_view dx, size_t lddx, struct kern_view dy,
                   size_t lddy, struct kern_view w, size_t rows, size_t out, size_t in, float beta);
void run_linear_dw(struct run *r, struct kern_view dw, struct kern_view dy, size_t lddy,
                   struct kern_view x, size_t ldx, size_t rows, size_t out, size_t in);

#endif
