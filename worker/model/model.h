/* model.h: a LLaMA with head maps: one flat parameter arena and a table of named views into it.
 *
 * Life cycle. model_load() reads a checkpoint directory, model_create() makes one with given maps and
 * undefined parameters; model_free() gives it back. A `struct run` holds the activations of one
 * batch shape; a model may have several runs. Gradients live in a second arena of the same layout,
 * allocated by model_grads_new() and owned by the caller.
 *
 * Parameters are f32, each under its Hugging Face name. Order in the arena, so that fused GEMMs work on neighbours:
 *   embed_tokens; per layer: input_layernorm, q_proj|k_proj|v_proj (adjacent: one [(H+nk+nv)*d, D] matrix),
 *   o_proj, their biases, post_attention_layernorm, gate_proj|up_proj (adjacent), down_proj; norm; lm_head (absent
 *   when tied).
 * Weights are stored as in the checkpoint: [out, in], y = x W^T.
 */
#ifndef DHA_WORKER_MODEL_H
#define DHA_WORKER_MODEL_H

#include "kernels/kern.h"
#include "worker/model/config.h"

enum layer_param {
    P_ATTN_NORM,
    P_Q,
    P_K,
    P_V,
    P_O,
    P_Q_BIAS,
    P_K_BIAS,
    P_V_BIAS,
    P_O_BIAS,
    P_MLP_NORM,
    P_GATE,
    P_UP,
    P_DOWN,
    P_COUNT
};
struct param {
    char name[96];      /* "model.layers.0.self_attn.q_proj.weight" */
    size_t off, n;      /* elements; n = rows * cols */
    int64_t rows, cols; /* vectors: rows = n, cols = 1 and n_dims = 1 */
    int n_dims;
};

/* Operators of one model that put effective key and value weights in place of k_proj and v_proj, or NULL. Entry e = 2*layer +
 * (0 keys | 1 values). eff/deff: per entry the effective [H*d, D] weights and their gradient, at e*H*d*D. With operators
 * the model computes with H key and H value heads. There are two kinds:
 *
 * Fusion (METHODS 1.3). omega: what is trained, per entry [H,H,d], entry e at e*H*H*d. What mixes the weights is
 *   tied = (1 - contract) * S omega + contract * restore * mean of S omega over the rows of a group
 * with S the mean over dims that share a coefficient (scalar omega, RoPE planes) and restore a factor a group: at contract = 0
 * the operator itself, at 1 all rows of a group are equal and fusing them changes nothing (kern.h: fusion_tie).
 *
 * Masks (METHODS 2.6): mask != NULL, omega == NULL; see mask.h. */
struct model_mask;
struct model_oper {
    int heads, dim, layers;
    struct kern_buf *omega, *domega, *tied, *dtied, *eff, *deff;
    int share[2];    /* dims that share a coefficient: of keys, of values */
    double contract; /* 0..1, set by the trainer's schedule */
    float *restore;  /* [2*layers*heads]: by group; 1 unless model_oper_restore_norms() */
    struct model_mask *mask;
    struct kern_buf *eff_bias, *deff_bias; /* [2*layers*H*d]; NULL without attention biases */
    struct kern_groups **groups;           /* [2*layers] */
    int *group_of;                         /* host copy [2*layers*heads] */
};

struct model {
    struct kern *k;
    struct model_config cfg;
    size_t n_params;
    struct kern_buf *params; /* [n_params] */
    struct param *table;
    int n_table;
    int embed, norm, head;      /* indices in table; head == embed when tied */
    int *layer[P_COUNT];        /* layer[P_Q][l] = index in table, -1 if absent */
    struct kern_buf *rope;      /* [rope_rows, d] cos | sin */
    int rope_rows;              /* >= seq of every run; at most max_positions */
    struct kern_maps **maps;    /* [layers] */
    struct kern_maps *identity; /* H -> H, used with operators */
    struct model_oper *oper;
};

/* Reads config.json and the weights; every tensor present, of the right shape, none unknown. */
int model_load(struct model **m, struct kern *k, const char *dir, struct dha_err *e);
/* What model_load() checks before it takes memory: config.json, the files' headers, every tensor's name and shape. *cfg is
 * the caller's to finish. *n_params: how many numbers it has. */
int model_probe(struct kern *k, const char *dir, struct model_config *cfg, size_t *n_params,
                struct dha_err *e);
/* Parameters are zero. cfg is copied. */
int model_create(struct model **m, struct kern *k, const struct model_config *cfg,
                 struct dha_err *e);
void model_free(struct model *m);
/* HF directory: config.json and model.safetensors, atomically one after the other (weights first).
 * dtype: "float32", "bfloat16" or "float16". plain: see model_config_to_json. max_shard_bytes: 0 = one file. */
int model_save(struct model *m, const char *dir, const char *dtype, bool plain,
               size_t max_shard_bytes, struct dha_err *e);
/* A copy with the same parameters on the same queue. */
int model_clone(struct model **m, struct model *from, struct dha_err *e);

const struct param *model_param(const struct model *m, int layer,
                                enum layer_param p); /* NULL: absent */
struct kern_view model_view(const struct model *m, const struct param *p);
/* Host transfers of one parameter (f32 [rows, cols]). */
void model_get(struct model *m, const struct param *p, float *dst);
void model_set(struct model *m, const struct param *p, const float *src);

/* Planes, from the slowest, that RoPE turns by at most one radian over max_positions: as it is scaled (rope_scaling). */
int model_slow_planes(const struct model_config *c);
/* The angle that RoPE turns a plane by, a position. */
double model_rope_angle(const struct model_config *c, int plane);

struct kern_buf *model_grads_new(struct model *m, struct dha_err *e); /* [n_params], zero */

/* Puts delta operators (omega = 1 on the diagonal) on every entry; group_of [2*layers*heads]. The model must be MHA. */
int model_oper_attach(struct model *m, const int *group_of, struct dha_err *e);
void model_oper_detach(struct model *m);
/* Dims that share one coefficient: all of them (scalar), or both of a key's RoPE plane (rope_tied). */
void model_oper_share(struct model *m, bool scalar, bool rope_tied);
/* From now on a contracted group has its members' mean Frobenius norm (METHODS 2.9), as the weights and groups are now. */
int model_oper_restore_norms(struct model *m, struct dha_err *e);
/* omega = what mixes at present; contract = 0 and restore = 1 after it. */
void model_oper_settle(struct model *m);
/* The effective weights of all entries: once after every change of parameters, omega, contract or masks. Zeroes deff. */
void model_oper_apply(struct model *m);
/* From deff (gathered over all micro-batches of a step): grads of k_proj and v_proj +=, domega += (masks: dmerged +=, dz). */
void model_oper_backward(struct model *m, struct kern_buf *grads);

/* ---- runs: explicit forward and backward of one [batch, seq] shape ------------------------------ */
struct run;
enum { RUN_INFER = 0, RUN_TRAIN = 1, RUN_LAYER = 2 };
/* RUN_TRAIN keeps what backward needs, for every layer; RUN_INFER keeps one layer's at a time. RUN_LAYER does so, too, and
 * can go back through the attention block that it computed last (run_attention_backward()). */
int run_new(struct run **r, struct model *m, int batch, int seq, int mode, struct dha_err *e);
void run_free(struct run *r);
struct model *run_model(const struct run *r);
/* ids: host, batch*seq. Computes all layers and the final norm. */
void run_forward(struct run *r, const int32_t *ids);
/* The same piecewise: embedding, then layers one by one, then the final norm. For calibration: after
 * run_layer(r, l) the accessors below speak of layer l. */
void run_embed(struct run *r, const int32_t *ids);
void run_layer(struct run *r, int layer);
void run_final(struct run *r);
/* Only the attention half of layer l on the present residual (which is not changed). */
void run_attention_only(struct run *r, int layer);
/* Residual stream [batch*seq, hidden]: before layer 0 after run_embed; after layer l after run_layer(l). */
struct kern_view run_residual(struct run *r);
void run_set_residual(struct run *r, struct kern_view x);
struct kern_view run_attn_input(struct run *r); /* [rows, hidden]: x after input_layernorm */
struct kern_view run_qkv(struct run *r,
                         size_t *ld);         /* [rows, (H+nk+nv)*d], RoPE applied to q and k */
struct kern_view run_attn_out(struct run *r); /* [rows, H*d]: heads' outputs, before o_proj */
struct kern_view run_hidden(struct run *r);   /* [rows, hidden]: after the final norm */
/* Logits of rows [first, first+n): dst is a device view [n, vocab]. */
void run_logits(struct run *r, size_t first, size_t n, struct kern_view dst);

/* Output layer and loss in chunks of rows; the logits of all rows never exist at once.
 * targets: host, batch*seq, < 0 = not counted. teacher: a run after run_forward on the same ids, or NULL.
 * *lm, *kl += sums over counted tokens. With grads (else NULL): gradient of
 *   scale * sum(w_lm * lm + w_kl * kl)
 * goes into the run's hidden-state gradient and the head's grads +=. */
int run_loss(struct run *r, const int32_t *targets, struct run *teacher, float w_lm, float w_kl,
             float scale, struct kern_buf *grads, double *lm, double *kl, struct dha_err *e);
/* What a row counts for, by its class (enum corpus_class; classes NULL: all class 0). The weights are those of a row: a mean
 * has its 1 / rows in them. BiLD: METHODS 2.7, top 16, temperature 3; needs a teacher. */
enum { RUN_CLASSES = 3, RUN_BILD_TOP = 16 };
struct run_objective {
    double lm[RUN_CLASSES], kl[RUN_CLASSES], bild[RUN_CLASSES];
    const uint8_t *classes; /* host, [batch*seq] */
};
struct run_sums { /* over counted rows of each class; unweighted */
    double lm[RUN_CLASSES], kl[RUN_CLASSES], bild[RUN_CLASSES];
    double teacher_seconds; /* its output layer */
};
/* As run_loss() for the gradient of sum over rows of lm * weight + kl * weight + bild * weight; *sums +=. BiLD's sum is taken
 * over rows whose class has a weight for it. */
int run_objective(struct run *r, const int32_t *targets, struct run *teacher,
                  const struct run_objective *o, struct kern_buf *grads, struct run_sums *sums,
                  struct dha_err *e);
/* After run_loss with grads: everything else; grads += (k_proj, v_proj through model_oper: into deff). */
void run_backward(struct run *r, struct kern_buf *grads);
/* RUN_LAYER, after run_attention_only(r, l): given dout, the gradient of the block's output (heads' outputs times o_proj, plus its
 * bias) [rows, hidden], adds the gradients of layer l's parameters up to o_proj's bias to grads [span of run_attention_span()].
 * dout is overwritten. */
struct kern_view run_attention_dout(struct run *r);
void run_attention_backward(struct run *r, int layer, struct kern_buf *grads);
/* The block's output itself: dst [rows, hidden] = heads' outputs times o_proj (+ bias). */
void run_attention_output(struct run *r, struct kern_view dst);
/* Where layer l's attention parameters lie in the arena: [*from, *to), the norm's weight first (*projections: behind it). */
void run_attention_span(const struct model *m, int layer, size_t *from, size_t *projections,
                        size_t *to);
/* One f32 loss a counted token, in row order (for `score`). */
int run_token_losses(struct run *r, const int32_t *targets, float *out, struct dha_err *e);
/* Bytes of activations a run of this shape holds (the arithmetic is in the comment there). */
size_t run_bytes(const struct model *m, int batch, int seq, int mode);

/* ---- one sequence, token by token, over a KV cache (run_decode.c) -------------------------------- */
struct decode;
/* room: the most tokens of the sequence, prompt and all. The cache holds the kept heads only. The model must have no operators
 * and outlive it. */
int decode_new(struct decode **d, struct model *m, int room, struct dha_err *e);
void decode_free(struct decode *d);
/* Puts n tokens behind those before. logits: host, [want, vocab]: of the last `want` of the n. Does not fit: an error, and nothing
 * is changed. */
int decode_feed(struct decode *d, const int32_t *ids, int n, float *logits, int want,
                struct dha_err *e);
/* Forgets all tokens. */
void decode_reset(struct decode *d);
int decode_length(const struct decode *d);
int decode_room(const struct decode *d);
int decode_vocab(const struct decode *d);
/* Bytes of the whole cache, as allocated: room * bytes a token. */
size_t decode_cache_bytes(const struct decode *d);

#endif
