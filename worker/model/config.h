/* config.h: what a LLaMA-architecture checkpoint directory says of itself in config.json.
 *
 * MHA, GQA, MQA and DHA are only different head maps: key_of[l][h] is the key head that query head h
 * of layer l reads, value_of[l][h] the value head. There is one model type.
 * Anything this program does not compute exactly (another activation, sliding windows, mlp biases, a
 * rope type it does not know, an architecture it does not know ...) is refused by model_config_load()
 * with the field's name and value, before any work.
 */
#ifndef DHA_WORKER_CONFIG_H
#define DHA_WORKER_CONFIG_H

#include <stdbool.h>
#include "proto/json.h"

#define MODEL_MAX_HEADS  256
#define MODEL_MAX_LAYERS 512

enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

struct model_config {
    int layers, hidden, ffn, heads, head_dim, vocab, max_positions;
    float rms_eps;
    double rope_theta;
    enum rope_type rope;
    double rope_factor, rope_low_freq, rope_high_freq;
    int rope_original_positions;
    bool tied;      /* lm_head is the embedding */
    bool attn_bias; /* q, k, v and o have biases */
    int bos, eos;   /* -1: none */
    char dtype[12]; /* "float32" "bfloat16" "float16": of the file on disk */
    int *key_of;    /* [layers * heads] */
    int *value_of;  /* [layers * heads] */
    int *n_key;     /* [layers] kept key heads */
    int *n_value;   /* [layers] */
};

int model_config_load(const char *dir, struct model_config *c, struct dha_err *e);
/* The same from a parsed document (`where` names it in errors). */
int model_config_parse(const cJSON *doc, const char *where, struct model_config *c,
                       struct dha_err *e);
int model_config_copy(const struct model_config *from, struct model_config *to, struct dha_err *e);
void model_config_finish(struct model_config *c);
/* Replaces one layer's map of one kind. Heads must be 0..n-1, each used. */
int model_config_set_map(struct model_config *c, int layer, bool value, const int *map,
                         struct dha_err *e);
/* As DESIGN section 13 ("Converted checkpoint on disk"): model_type "dha", or plain "llama" when
 * every map is uniform and contiguous, equal for K and V and over layers, and plain is asked for. */
bool model_config_is_plain_gqa(const struct model_config *c);
cJSON *model_config_to_json(const struct model_config *c, bool plain, const char *torch_dtype);
/* KV cache bytes a token with elements of elem_size bytes. */
int64_t model_config_kv_bytes(const struct model_config *c, int elem_size);
/* sum of kept heads / (2 L H) */
double model_config_head_budget(const struct model_config *c);

#endif
