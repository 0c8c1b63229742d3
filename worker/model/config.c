/* config.c: config.json of a LLaMA-architecture checkpoint -> struct model_config, and back.
 *
 * Two layouts are in use: the published LLaMA ones (rope_theta, rope_scaling, torch_dtype) and that of
 * transformers 5 (rope_parameters, dtype). Both are read; the older one is written, which both read.
 *
 * The rule for every field: one that changes the function computed is either understood or refused
 * with its name and value. Defaults for absent fields are those of transformers' LlamaConfig.
 * Ranges are such that no product of sizes below overflows 64 bits: a lying config costs an error, never
 * a wrapped size.
 */
#include "worker/model/config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_MAX_BYTES (16u << 20) /* maps of 512 layers x 256 heads are about 2 MiB of text */
#define MAX_HIDDEN       (1 << 17)
#define MAX_FFN          (1 << 20)
#define MAX_VOCAB        (1 << 24)
#define MAX_POSITIONS    (1 << 26)
#define MAX_HEAD_DIM     1024

struct reader {
    const cJSON *doc;
    const char *where;
    struct dha_err *e;
};

static int refuse(const struct reader *r, const char *field, const cJSON *value, const char *why)
{
    char *text = value ? json_text(value) : NULL;
    if (text && strlen(text) > 80)
        snprintf(text + 77, 4, "...");
    dha_fail(r->e, DHA_E_INPUT, "%s: \"%s\" is %s: %s", r->where, field, text ? text : "absent",
             why);
    free(text);
    if (r->e)
        snprintf(r->e->path, sizeof r->e->path, "%s", r->where);
    return -1;
}

/* A member; JSON null counts as absent. */
static const cJSON *member(const cJSON *obj, const char *key)
{
    const cJSON *v = json_get(obj, key);
    return cJSON_IsNull(v) ? NULL : v;
}

static int read_int(const struct reader *r, const char *key, int lo, int hi, int *out)
{
    const cJSON *v = member(r->doc, key);
    int64_t n;
    char why[80];
    snprintf(why, sizeof why, "an integer from %d to %d is needed", lo, hi);
    if (!v || !cJSON_IsNumber(v) || !json_to_int(v, &n) || n < lo || n > hi)
        return refuse(r, key, v, why);
    *out = (int)n;
    return 0;
}

static int read_int_or(const struct reader *r, const char *key, int lo, int hi, int dflt, int *out)
{
    if (!member(r->doc, key)) {
        *out = dflt;
        return 0;
    }
    return read_int(r, key, lo, hi, out);
}

static int read_bool_or(const struct reader *r, const char *key, bool dflt, bool *out)
{
    const cJSON *v = member(r->doc, key);
    if (v && !cJSON_IsBool(v))
        return refuse(r, key, v, "true or false is needed");
    *out = v ? cJSON_IsTrue(v) : dflt;
    return 0;
}

/* A positive number in obj (which `prefix` names in errors); absent: dflt, or an error if dflt is NaN. */
static int read_positive(const struct reader *r, const cJSON *obj, const char *prefix,
                         const char *key, double dflt, double *out)
{
    const cJSON *v = member(obj, key);
    char field[96];
    snprintf(field, sizeof field, "%s%s", prefix, key);
    if (!v && !isnan(dflt)) {
        *out = dflt;
        return 0;
    }
    if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble) || v->valuedouble <= 0)
        return refuse(r, field, v, "a number above 0 is needed");
    *out = v->valuedouble;
    return 0;
}

/* bos_token_id and eos_token_id: an integer, a list of them (the first counts) or nothing. */
static int read_special(const struct reader *r, const char *key, int vocab, int *out)
{
    const cJSON *v = member(r->doc, key);
    *out = -1;
    if (cJSON_IsArray(v))
        v = v->child;
    if (!v)
        return 0;
    int64_t n;
    if (!cJSON_IsNumber(v) || !json_to_int(v, &n) || n < -1 || n >= vocab)
        return refuse(r, key, v, "a token id below vocab_size is needed");
    *out = (int)n;
    return 0;
}

/* Fields that other LLaMA-shaped models use to change the computation. Absent, null, false, 0, an empty
 * object or `neutral` are harmless. */
static int refuse_foreign(const struct reader *r)
{
    static const struct {
        const char *key;
        double neutral;
        const char *why;
    } foreign[] = {
        {"mlp_bias", 0, "biases in the MLP are not supported"},
        {"pretraining_tp", 1,
         "tensor-parallel slices are not supported (set it to 1 if the weights "
         "are whole)"},
        {"sliding_window", 0, "sliding-window attention is not supported"},
        {"use_sliding_window", 0, "sliding-window attention is not supported"},
        {"attention_dropout", 0, "dropout is not supported (set it to 0)"},
        {"partial_rotary_factor", 1, "rotary embedding of a part of a head is not supported"},
        {"rope_interleaved", 0, "interleaved rotary embedding is not supported"},
        {"use_qk_norm", 0, "normalised queries and keys are not supported"},
        {"qk_norm", 0, "normalised queries and keys are not supported"},
        {"attn_logit_softcapping", 0, "soft-capped logits are not supported"},
        {"final_logit_softcapping", 0, "soft-capped logits are not supported"},
        {"logit_scale", 1, "scaled logits are not supported"},
        {"logits_scaling", 1, "scaled logits are not supported"},
        {"embedding_multiplier", 1, "scaled embeddings are not supported"},
        {"residual_multiplier", 1, "scaled residuals are not supported"},
        {"attention_multiplier", 0, "another attention scale is not supported"},
        {"num_local_experts", 0, "mixtures of experts are not supported"},
        {"num_experts", 0, "mixtures of experts are not supported"},
        {"no_rope_layers", 0, "layers without rotary embedding are not supported"},
        {"quantization_config", 0, "quantised weights are not supported"},
        {"is_encoder_decoder", 0, "only decoders are supported"},
    };
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        const cJSON *v = member(r->doc, foreign[i].key);
        if (!v || cJSON_IsFalse(v) || ((cJSON_IsObject(v) || cJSON_IsArray(v)) && !v->child))
            continue;
        if (cJSON_IsNumber(v) && fabs(v->valuedouble - foreign[i].neutral) < 1e-12)
            continue;
        return refuse(r, foreign[i].key, v, foreign[i].why);
    }
    const cJSON *types = member(r->doc, "layer_types"), *t;
    cJSON_ArrayForEach(t, types)
    {
        if (!cJSON_IsString(t) || strcmp(t->valuestring, "full_attention") != 0)
            return refuse(r, "layer_types", t, "only full_attention is supported");
    }
    return 0;
}

static int read_architecture(const struct reader *r, bool *is_dha)
{
    const cJSON *type = member(r->doc, "model_type");
    const char *name = cJSON_IsString(type) ? type->valuestring : "";
    *is_dha = strcmp(name, "dha") == 0;
    bool mistral = strcmp(name, "mistral") == 0;
    if (!*is_dha && !mistral && strcmp(name, "llama") != 0)
        return refuse(r, "model_type", type,
                      "only \"llama\", \"dha\" and \"mistral\" (without a "
                      "sliding window) are supported");
    /* An absent sliding_window means 4096 to transformers' MistralConfig. */
    if (mistral && !json_get(r->doc, "sliding_window"))
        return refuse(r, "sliding_window", NULL,
                      "for model_type \"mistral\" it must be there and null");
    const cJSON *archs = member(r->doc, "architectures"), *a;
    cJSON_ArrayForEach(a, archs)
    {
        static const char *const known[] = {"LlamaForCausalLM", "LLaMAForCausalLM",
                                            "MistralForCausalLM", "DhaForCausalLM"};
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || (cJSON_IsString(a) && strcmp(a->valuestring, known[i]) == 0);
        if (!found)
            return refuse(r, "architectures", a,
                          "only causal language models of the LLaMA "
                          "architecture are supported");
    }
    const cJSON *act = member(r->doc, "hidden_act");
    if (act && (!cJSON_IsString(act) ||
                (strcmp(act->valuestring, "silu") != 0 && strcmp(act->valuestring, "swish") != 0)))
        return refuse(r, "hidden_act", act, "only \"silu\" is supported");
    return refuse_foreign(r);
}

struct rope {
    enum rope_type type;
    double factor, low, high, theta; /* theta < 0: not said here */
    int original;
};

static int read_rope_object(const struct reader *r, const char *name, const cJSON *obj,
                            struct rope *out)
{
    char prefix[48], field[80];
    snprintf(prefix, sizeof prefix, "%s.", name);
    *out = (struct rope){ROPE_DEFAULT, 1, 1, 1, -1, 0};
    if (!cJSON_IsObject(obj))
        return refuse(r, name, obj, "an object is needed");
    if (member(obj, "rope_theta") &&
        read_positive(r, obj, prefix, "rope_theta", NAN, &out->theta) < 0)
        return -1;
    const cJSON *part = member(obj, "partial_rotary_factor");
    if (part && !(cJSON_IsNumber(part) && fabs(part->valuedouble - 1) < 1e-12)) {
        snprintf(field, sizeof field, "%spartial_rotary_factor", prefix);
        return refuse(r, field, part, "rotary embedding of a part of a head is not supported");
    }
    const cJSON *type = member(obj, "rope_type");
    if (!type)
        type = member(obj, "type");
    const char *t = !type ? "default" : cJSON_IsString(type) ? type->valuestring : "";
    if (strcmp(t, "default") == 0)
        return 0;
    if (strcmp(t, "linear") == 0) {
        out->type = ROPE_LINEAR;
        return read_positive(r, obj, prefix, "factor", NAN, &out->factor);
    }
    if (strcmp(t, "llama3") == 0) {
        out->type = ROPE_LLAMA3;
        double original = 0;
        if (read_positive(r, obj, prefix, "factor", NAN, &out->factor) < 0 ||
            read_positive(r, obj, prefix, "low_freq_factor", NAN, &out->low) < 0 ||
            read_positive(r, obj, prefix, "high_freq_factor", NAN, &out->high) < 0 ||
            read_positive(r, obj, prefix, "original_max_position_embeddings", NAN, &original) < 0)
            return -1;
        if (out->high <= out->low) {
            snprintf(field, sizeof field, "%shigh_freq_factor", prefix);
            return refuse(r, field, member(obj, "high_freq_factor"),
                          "it must be above low_freq_factor");
        }
        if (original > MAX_POSITIONS || floor(original) < original) {
            snprintf(field, sizeof field, "%soriginal_max_position_embeddings", prefix);
            return refuse(r, field, member(obj, "original_max_position_embeddings"),
                          "a whole number of positions is needed");
        }
        out->original = (int)original;
        return 0;
    }
    snprintf(field, sizeof field, "%srope_type", prefix);
    return refuse(r, field, type, "only \"default\", \"linear\" and \"llama3\" are supported");
}

static bool rope_differs(const struct rope *a, const struct rope *b)
{
    return a->type != b->type || fabs(a->factor - b->factor) > 0 || fabs(a->low - b->low) > 0 ||
           fabs(a->high - b->high) > 0 || a->original != b->original;
}

static int read_rope(const struct reader *r, struct model_config *c)
{
    const cJSON *now = member(r->doc, "rope_parameters"), *old = member(r->doc, "rope_scaling");
    struct rope a = {ROPE_DEFAULT, 1, 1, 1, -1, 0}, b = a;
    double top = -1;
    if ((now && read_rope_object(r, "rope_parameters", now, &a) < 0) ||
        (old && read_rope_object(r, "rope_scaling", old, &b) < 0) ||
        read_positive(r, r->doc, "", "rope_theta", -1, &top) < 0)
        return -1;
    if (now && old && rope_differs(&a, &b))
        return refuse(r, "rope_scaling", old, "it contradicts rope_parameters");
    if (a.theta > 0 && top > 0 && fabs(a.theta - top) > 0)
        return refuse(r, "rope_theta", member(r->doc, "rope_theta"),
                      "it contradicts rope_parameters.rope_theta");
    const struct rope *p = now ? &a : &b;
    c->rope = p->type;
    c->rope_factor = p->factor;
    c->rope_low_freq = p->low;
    c->rope_high_freq = p->high;
    c->rope_original_positions = p->original;
    c->rope_theta = p->theta > 0 ? p->theta : top > 0 ? top : 10000.0;
    return 0;
}

static int read_dtype(const struct reader *r, struct model_config *c)
{
    const cJSON *v = member(r->doc, "torch_dtype");
    const char *key = v ? "torch_dtype" : "dtype";
    if (!v)
        v = member(r->doc, "dtype");
    const char *t = !v ? "float32" : cJSON_IsString(v) ? v->valuestring : "";
    if (strcmp(t, "float32") != 0 && strcmp(t, "bfloat16") != 0 && strcmp(t, "float16") != 0)
        return refuse(r, key, v, "only \"float32\", \"bfloat16\" and \"float16\" are supported");
    snprintf(c->dtype, sizeof c->dtype, "%s", t);
    return 0;
}

static int maps_alloc(struct model_config *c, struct dha_err *e)
{
    size_t n = (size_t)c->layers * (size_t)c->heads, layers = (size_t)c->layers;
    c->key_of = calloc(n, sizeof *c->key_of);
    c->value_of = calloc(n, sizeof *c->value_of);
    c->n_key = calloc(layers, sizeof *c->n_key);
    c->n_value = calloc(layers, sizeof *c->n_value);
    if (!c->key_of || !c->value_of || !c->n_key || !c->n_value)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for head maps");
    return 0;
}

static int read_maps(const struct reader *r, const char *key, bool value, struct model_config *c)
{
    const cJSON *all = member(r->doc, key), *row, *cell;
    if (!cJSON_IsArray(all) || cJSON_GetArraySize(all) != c->layers)
        return refuse(r, key, all, "one list a layer is needed");
    int layer = 0, map[MODEL_MAX_HEADS];
    cJSON_ArrayForEach(row, all)
    {
        int h = 0;
        if (!cJSON_IsArray(row) || cJSON_GetArraySize(row) != c->heads)
            return refuse(r, key, row, "every layer needs one number a query head");
        cJSON_ArrayForEach(cell, row)
        {
            int64_t n;
            if (!cJSON_IsNumber(cell) || !json_to_int(cell, &n) || n < 0 || n >= c->heads)
                return refuse(r, key, row, "heads are numbers from 0 to num_attention_heads - 1");
            map[h++] = (int)n;
        }
        struct dha_err why;
        if (model_config_set_map(c, layer, value, map, &why) < 0)
            return refuse(r, key, row, why.msg);
        layer++;
    }
    return 0;
}

static int read_heads(const struct reader *r, bool is_dha, struct model_config *c)
{
    if (!member(r->doc, "head_dim") && c->hidden % c->heads != 0)
        return refuse(r, "hidden_size", member(r->doc, "hidden_size"),
                      "it is no multiple of num_attention_heads and there is no head_dim");
    if (read_int_or(r, "head_dim", 2, MAX_HEAD_DIM, c->hidden / c->heads, &c->head_dim) < 0)
        return -1;
    if (c->head_dim % 2 != 0 || c->head_dim < 2 || c->head_dim > MAX_HEAD_DIM)
        return refuse(r, "head_dim", member(r->doc, "head_dim"),
                      "rotary embedding needs an even head dimension of 2 to 1024");
    int kv;
    if (read_int_or(r, "num_key_value_heads", 1, c->heads, c->heads, &kv) < 0)
        return -1;
    if (maps_alloc(c, r->e) < 0)
        return -1;
    if (is_dha) {
        if (kv != c->heads)
            return refuse(r, "num_key_value_heads", member(r->doc, "num_key_value_heads"),
                          "a dha model has head maps; leave it out or give num_attention_heads");
        return read_maps(r, "key_of", false, c) < 0 || read_maps(r, "value_of", true, c) < 0 ? -1
                                                                                             : 0;
    }
    if (member(r->doc, "key_of") || member(r->doc, "value_of"))
        return refuse(r, "key_of", member(r->doc, "key_of"), "head maps need model_type \"dha\"");
    if (c->heads % kv != 0)
        return refuse(r, "num_key_value_heads", member(r->doc, "num_key_value_heads"),
                      "it must divide num_attention_heads");
    for (int l = 0; l < c->layers; l++) {
        for (int h = 0; h < c->heads; h++)
            c->key_of[l * c->heads + h] = c->value_of[l * c->heads + h] = h / (c->heads / kv);
        c->n_key[l] = c->n_value[l] = kv;
    }
    return 0;
}

int model_config_parse(const cJSON *doc, const char *where, struct model_config *c,
                       struct dha_err *e)
{
    struct reader r = {doc, where, e};
    bool is_dha;
    double eps = 0;
    memset(c, 0, sizeof *c);
    if (!cJSON_IsObject(doc)) {
        dha_fail(e, DHA_E_INPUT, "%s: not a JSON object", where);
        if (e)
            snprintf(e->path, sizeof e->path, "%.255s", where);
        return -1;
    }
    if (read_architecture(&r, &is_dha) < 0 ||
        read_int(&r, "num_hidden_layers", 1, MODEL_MAX_LAYERS, &c->layers) < 0 ||
        read_int(&r, "hidden_size", 1, MAX_HIDDEN, &c->hidden) < 0 ||
        read_int(&r, "intermediate_size", 1, MAX_FFN, &c->ffn) < 0 ||
        read_int(&r, "num_attention_heads", 1, MODEL_MAX_HEADS, &c->heads) < 0 ||
        read_int(&r, "vocab_size", 1, MAX_VOCAB, &c->vocab) < 0 ||
        read_int_or(&r, "max_position_embeddings", 1, MAX_POSITIONS, 2048, &c->max_positions) < 0 ||
        read_positive(&r, doc, "", "rms_norm_eps", 1e-6, &eps) < 0 ||
        read_bool_or(&r, "tie_word_embeddings", false, &c->tied) < 0 ||
        read_bool_or(&r, "attention_bias", false, &c->attn_bias) < 0 ||
        read_special(&r, "bos_token_id", c->vocab, &c->bos) < 0 ||
        read_special(&r, "eos_token_id", c->vocab, &c->eos) < 0 || read_dtype(&r, c) < 0 ||
        read_rope(&r, c) < 0 || read_heads(&r, is_dha, c) < 0) {
        model_config_finish(c);
        return -1;
    }
    c->rms_eps = (float)eps;
    return 0;
}

int model_config_load(const char *dir, struct model_config *c, struct dha_err *e)
{
    static const char a_model[] =
        "a model is a directory in Hugging Face layout: config.json and safetensors files";
    char path[4096];
    memset(c, 0, sizeof *c);
    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path)
        return dha_fail(e, DHA_E_INPUT, "the model's path is too long: %.100s...", dir);
    cJSON *doc = json_parse_file(path, CONFIG_MAX_BYTES, e);
    if (!doc && access(dir, F_OK) && errno == ENOENT) {
        dha_fail(e, DHA_E_NOT_FOUND, "there is no directory %s", dir);
        if (e)
            snprintf(e->path, sizeof e->path, "%.255s", dir);
        return dha_err_hint(e, "%s", a_model);
    }
    if (!doc) {
        if (e && e->code == DHA_E_PROTOCOL)
            e->code = DHA_E_INPUT;
        if (e && !e->path[0])
            snprintf(e->path, sizeof e->path, "%.255s", path);
        if (e && !e->hint[0])
            dha_err_hint(e, "%s", a_model);
        return dha_err_context(e, "reading the model's config");
    }
    int rc = model_config_parse(doc, path, c, e);
    cJSON_Delete(doc);
    return rc;
}

int model_config_copy(const struct model_config *from, struct model_config *to, struct dha_err *e)
{
    struct model_config n = *from;
    n.key_of = n.value_of = n.n_key = n.n_value = NULL;
    *to = n;
    if (maps_alloc(to, e) < 0) {
        model_config_finish(to);
        return -1;
    }
    size_t cells = (size_t)n.layers * (size_t)n.heads * sizeof(int);
    memcpy(to->key_of, from->key_of, cells);
    memcpy(to->value_of, from->value_of, cells);
    memcpy(to->n_key, from->n_key, (size_t)n.layers * sizeof(int));
    memcpy(to->n_value, from->n_value, (size_t)n.layers * sizeof(int));
    return 0;
}

void model_config_finish(struct model_config *c)
{
    free(c->key_of);
    free(c->value_of);
    free(c->n_key);
    free(c->n_value);
    c->key_of = c->value_of = c->n_key = c->n_value = NULL;
}

int model_config_set_map(struct model_config *c, int layer, bool value, const int *map,
                         struct dha_err *e)
{
    bool used[MODEL_MAX_HEADS] = {false};
    int n = 0;
    if (layer < 0 || layer >= c->layers)
        return dha_fail(e, DHA_E_INTERNAL, "no layer %d in a model of %d", layer, c->layers);
    for (int h = 0; h < c->heads; h++) {
        if (map[h] < 0 || map[h] >= c->heads)
            return dha_fail(e, DHA_E_INPUT, "head map of layer %d: head %d reads head %d of %d",
                            layer, h, map[h], c->heads);
        used[map[h]] = true;
        n = map[h] >= n ? map[h] + 1 : n;
    }
    for (int i = 0; i < n; i++)
        if (!used[i])
            return dha_fail(e, DHA_E_INPUT, "head map of layer %d: no query head reads %s head %d",
                            layer, value ? "value" : "key", i);
    memcpy((value ? c->value_of : c->key_of) + (size_t)layer * (size_t)c->heads, map,
           (size_t)c->heads * sizeof *map);
    (value ? c->n_value : c->n_key)[layer] = n;
    return 0;
}

bool model_config_is_plain_gqa(const struct model_config *c)
{
    int n = c->n_key[0];
    if (c->heads % n != 0)
        return false;
    for (int l = 0; l < c->layers; l++) {
        if (c->n_key[l] != n || c->n_value[l] != n)
            return false;
        for (int h = 0; h < c->heads; h++)
            if (c->key_of[l * c->heads + h] != h / (c->heads / n) ||
                c->value_of[l * c->heads + h] != h / (c->heads / n))
                return false;
    }
    return true;
}

static cJSON *maps_json(const struct model_config *c, const int *map)
{
    cJSON *all = cJSON_CreateArray();
    for (int l = 0; all && l < c->layers; l++) {
        cJSON *row = cJSON_CreateIntArray(map + (size_t)l * (size_t)c->heads, c->heads);
        if (!row || !cJSON_AddItemToArray(all, row)) {
            cJSON_Delete(row);
            cJSON_Delete(all);
            return NULL;
        }
    }
    return all;
}

static int put_rope(cJSON *j, const struct model_config *c)
{
    if (json_put_num(j, "rope_theta", c->rope_theta) < 0)
        return -1;
    if (c->rope == ROPE_DEFAULT)
        return json_put(j, "rope_scaling", cJSON_CreateNull());
    cJSON *s = cJSON_CreateObject();
    int bad = json_put_str(s, "rope_type", c->rope == ROPE_LINEAR ? "linear" : "llama3");
    bad |= json_put_num(s, "factor", c->rope_factor);
    if (c->rope == ROPE_LLAMA3) {
        bad |= json_put_num(s, "low_freq_factor", c->rope_low_freq);
        bad |= json_put_num(s, "high_freq_factor", c->rope_high_freq);
        bad |= json_put_int(s, "original_max_position_embeddings", c->rope_original_positions);
    }
    if (bad) {
        cJSON_Delete(s);
        return -1;
    }
    return json_put(j, "rope_scaling", s);
}

static int put_kind(cJSON *j, const struct model_config *c, bool plain)
{
    const char *arch = plain ? "LlamaForCausalLM" : "DhaForCausalLM";
    if (json_put(j, "architectures", cJSON_CreateStringArray(&arch, 1)) < 0 ||
        json_put_str(j, "model_type", plain ? "llama" : "dha") < 0)
        return -1;
    if (plain)
        return json_put_int(j, "num_key_value_heads", c->n_key[0]);
    cJSON *am = cJSON_CreateObject();
    if (json_put_str(am, "AutoConfig", "configuration_dha.DhaConfig") < 0 ||
        json_put_str(am, "AutoModel", "modeling_dha.DhaModel") < 0 ||
        json_put_str(am, "AutoModelForCausalLM", "modeling_dha.DhaForCausalLM") < 0) {
        cJSON_Delete(am);
        return -1;
    }
    return json_put(j, "auto_map", am) < 0 || json_put(j, "key_of", maps_json(c, c->key_of)) < 0 ||
                   json_put(j, "value_of", maps_json(c, c->value_of)) < 0
               ? -1
               : 0;
}

cJSON *model_config_to_json(const struct model_config *c, bool plain, const char *torch_dtype)
{
    cJSON *j = cJSON_CreateObject();
    if (!j || put_kind(j, c, plain) < 0)
        goto fail;
    int bad = json_put_int(j, "hidden_size", c->hidden);
    bad |= json_put_int(j, "intermediate_size", c->ffn);
    bad |= json_put_int(j, "num_hidden_layers", c->layers);
    bad |= json_put_int(j, "num_attention_heads", c->heads);
    bad |= json_put_int(j, "head_dim", c->head_dim);
    bad |= json_put_str(j, "hidden_act", "silu");
    bad |= json_put_int(j, "max_position_embeddings", c->max_positions);
    /* through the shortest decimal that gives the same float: 1e-05, not 9.9999997e-06 */
    char eps[32];
    snprintf(eps, sizeof eps, "%.7g", (double)c->rms_eps);
    bad |= json_put_num(j, "rms_norm_eps", strtod(eps, NULL));
    bad |= put_rope(j, c);
    bad |= json_put_bool(j, "attention_bias", c->attn_bias);
    bad |= json_put_bool(j, "mlp_bias", false);
    bad |= json_put_int(j, "vocab_size", c->vocab);
    bad |= c->bos < 0 ? json_put(j, "bos_token_id", cJSON_CreateNull())
                      : json_put_int(j, "bos_token_id", c->bos);
    bad |= c->eos < 0 ? json_put(j, "eos_token_id", cJSON_CreateNull())
                      : json_put_int(j, "eos_token_id", c->eos);
    bad |= json_put_bool(j, "tie_word_embeddings", c->tied);
    bad |= json_put_str(j, "torch_dtype", torch_dtype);
    if (!bad)
        return j;
fail:
    cJSON_Delete(j);
    return NULL;
}

static int64_t kept_heads(const struct model_config *c)
{
    int64_t n = 0;
    for (int l = 0; l < c->layers; l++)
        n += c->n_key[l] + c->n_value[l];
    return n;
}

int64_t model_config_kv_bytes(const struct model_config *c, int elem_size)
{
    return kept_heads(c) * c->head_dim * elem_size;
}

double model_config_head_budget(const struct model_config *c)
{
    return (double)kept_heads(c) / (2.0 * c->layers * c->heads);
}
