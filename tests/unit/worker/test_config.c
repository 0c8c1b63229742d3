/* config.json: both layouts, and every field that is refused, by name and value. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "worker/model/config.h"
#include "worker/model/model_impl.h"

#define BASE                                                                                       \
    "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":48,"       \
    "\"intermediate_size\":88,\"num_hidden_layers\":2,\"num_attention_heads\":6,"                  \
    "\"vocab_size\":101,\"hidden_act\":\"silu\""

static int parse(const char *text, struct model_config *c, struct dha_err *e)
{
    memset(e, 0, sizeof *e);
    cJSON *j = json_parse(text, strlen(text), NULL, e);
    if (!j)
        fail_msg("test text: %s", e->msg);
    int rc = model_config_parse(j, "here/config.json", c, e);
    cJSON_Delete(j);
    return rc;
}

static void accept(const char *text, struct model_config *c)
{
    struct dha_err e;
    if (parse(text, c, &e) < 0)
        fail_msg("%s", e.msg);
}

/* Refused, the message names field and value. */
static void refuse(const char *text, const char *field, const char *value)
{
    struct model_config c;
    struct dha_err e;
    if (parse(text, &c, &e) == 0)
        fail_msg("accepted: %s", text);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_string_equal(e.path, "here/config.json");
    if (!strstr(e.msg, field) || !strstr(e.msg, value))
        fail_msg("\"%s\" does not name %s and %s", e.msg, field, value);
}

static void absent_fields_have_transformers_defaults(void **state)
{
    (void)state;
    struct model_config c;
    accept(BASE "}", &c);
    assert_int_equal(c.head_dim, 8);
    assert_int_equal(c.max_positions, 2048);
    assert_int_equal(c.n_key[1], 6);
    assert_true(c.rope_theta == 10000.0 && c.rope == ROPE_DEFAULT);
    assert_true(c.rms_eps == 1e-6f);
    assert_false(c.tied || c.attn_bias);
    assert_int_equal(c.bos, -1);
    assert_string_equal(c.dtype, "float32");
    model_config_finish(&c);
}

static void both_layouts_say_the_same(void **state)
{
    (void)state;
    struct model_config a, b;
    const char *scaling = "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
                          "\"original_max_position_embeddings\":8192";
    char old[1024], now[1024];
    snprintf(old, sizeof old,
             BASE ",\"rope_theta\":500000,\"rope_scaling\":{\"type\":\"llama3\",%s},"
                  "\"torch_dtype\":\"bfloat16\",\"eos_token_id\":[2,3]}",
             scaling);
    snprintf(now, sizeof now,
             BASE ",\"rope_parameters\":{\"rope_theta\":500000,\"rope_type\":\"llama3\",%s},"
                  "\"dtype\":\"bfloat16\",\"eos_token_id\":2}",
             scaling);
    accept(old, &a);
    accept(now, &b);
    assert_true(a.rope == ROPE_LLAMA3 && b.rope == ROPE_LLAMA3);
    assert_true(a.rope_theta == b.rope_theta && a.rope_factor == b.rope_factor);
    assert_int_equal(a.rope_original_positions, b.rope_original_positions);
    assert_string_equal(a.dtype, b.dtype);
    assert_int_equal(a.eos, b.eos);
    model_config_finish(&a);
    model_config_finish(&b);
}

static void replaced(const char *field, const char *with, const char *value)
{
    char text[1024];
    cJSON *j = cJSON_Parse(BASE "}"), *v = cJSON_Parse(with);
    assert_true(j && v);
    cJSON_DeleteItemFromObjectCaseSensitive(j, field);
    cJSON_AddItemToObject(j, field, v);
    assert_true(cJSON_PrintPreallocated(j, text, sizeof text, 0));
    cJSON_Delete(j);
    refuse(text, field, value);
}

static void each_field_is_checked(void **state)
{
    (void)state;
    static const struct {
        const char *field, *with, *value;
    } row[] = {
        {"mlp_bias", "true", "true"},
        {"pretraining_tp", "2", "2"},
        {"sliding_window", "4096", "4096"},
        {"attention_dropout", "0.1", "0.1"},
        {"hidden_act", "\"gelu\"", "gelu"},
        {"model_type", "\"gpt2\"", "gpt2"},
        {"model_type", "\"mistral\"", ""},
        {"architectures", "[\"LlamaForSequenceClassification\"]", "SequenceClassification"},
        {"partial_rotary_factor", "0.5", "0.5"},
        {"rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":4}", "yarn"},
        {"rope_scaling", "{\"rope_type\":\"dynamic\",\"factor\":4}", "dynamic"},
        {"rope_scaling", "{\"rope_type\":\"linear\"}", "absent"},
        {"rope_scaling", "{\"rope_type\":\"linear\",\"factor\":-1}", "-1"},
        {"rope_scaling", "[]", "[]"},
        {"rope_parameters", "{\"rope_type\":\"longrope\"}", "longrope"},
        {"rope_theta", "0", "0"},
        {"rope_theta", "\"10000\"", "10000"},
        {"rms_norm_eps", "-1e-5", "-1e-05"},
        {"quantization_config", "{\"bits\":4}", "bits"},
        {"layer_types", "[\"full_attention\",\"sliding_attention\"]", "sliding_attention"},
        {"num_local_experts", "8", "8"},
        {"attn_logit_softcapping", "50", "50"},
        {"num_hidden_layers", "0", "0"},
        {"num_hidden_layers", "513", "513"},
        {"num_hidden_layers", "1.5", "1.5"},
        {"num_hidden_layers", "null", "absent"},
        {"hidden_size", "1e9", "1000000000"},
        {"hidden_size", "50", "50"},
        {"intermediate_size", "-1", "-1"},
        {"num_attention_heads", "257", "257"},
        {"vocab_size", "0", "0"},
        {"head_dim", "7", "7"},
        {"head_dim", "2048", "2048"},
        {"num_key_value_heads", "4", "4"},
        {"num_key_value_heads", "0", "0"},
        {"num_key_value_heads", "7", "7"},
        {"bos_token_id", "101", "101"},
        {"tie_word_embeddings", "1", "1"},
        {"attention_bias", "\"yes\"", "yes"},
        {"torch_dtype", "\"float8_e4m3fn\"", "float8"},
        {"max_position_embeddings", "0", "0"},
        {"key_of", "[[0]]", "[[0]]"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        replaced(row[i].field, row[i].with, row[i].value);
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    refuse(BASE ",\"rope_theta\":500000,\"rope_parameters\":{\"rope_theta\":10000}}", "rope_theta",
           "500000");
    refuse(BASE ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"rope_parameters\":"
                "{\"rope_type\":\"default\",\"rope_theta\":10000}}",
           "rope_scaling", "linear");
}

static void mistral_without_a_window_is_a_llama(void **state)
{
    (void)state;
    struct model_config c;
    accept("{\"model_type\":\"mistral\",\"architectures\":[\"MistralForCausalLM\"],"
           "\"hidden_size\":48,\"intermediate_size\":88,\"num_hidden_layers\":2,"
           "\"num_attention_heads\":6,\"num_key_value_heads\":2,\"vocab_size\":101,"
           "\"sliding_window\":null}",
           &c);
    assert_int_equal(c.n_key[0], 2);
    model_config_finish(&c);
}

#define DHA(key, value)                                                                            \
    "{\"model_type\":\"dha\",\"hidden_size\":48,\"intermediate_size\":88,\"num_hidden_layers\":2," \
    "\"num_attention_heads\":6,\"vocab_size\":101,\"key_of\":" key ",\"value_of\":" value "}"
#define GOOD "[[0,1,1,0,2,2],[0,0,0,0,0,0]]"

static void head_maps_are_checked(void **state)
{
    (void)state;
    struct model_config c;
    accept(DHA(GOOD, "[[0,1,2,3,4,5],[0,1,0,1,0,1]]"), &c);
    assert_int_equal(c.n_key[0], 3);
    assert_int_equal(c.n_key[1], 1);
    assert_int_equal(c.n_value[0], 6);
    assert_int_equal(c.n_value[1], 2);
    assert_int_equal(model_config_kv_bytes(&c, 2), (3 + 1 + 6 + 2) * 8 * 2);
    assert_true(model_config_head_budget(&c) == 12.0 / 24.0);
    assert_false(model_config_is_plain_gqa(&c));
    model_config_finish(&c);
    refuse(DHA("[[0,1,1,0,2,2]]", GOOD), "key_of", "[0,1,1,0,2,2]");
    refuse(DHA(GOOD, "[[0,0,0,0,0],[0,0,0,0,0,0]]"), "value_of", "[0,0,0,0,0]");
    refuse(DHA("[[0,2,2,0,2,2],[0,0,0,0,0,0]]", GOOD), "key_of", "no query head reads key head 1");
    refuse(DHA("[[0,6,1,0,2,2],[0,0,0,0,0,0]]", GOOD), "key_of", "6");
    refuse(DHA("[[0,-1,1,0,2,2],[0,0,0,0,0,0]]", GOOD), "key_of", "-1");
    refuse(DHA("[[0,0.5,1,0,2,2],[0,0,0,0,0,0]]", GOOD), "key_of", "0.5");
    refuse("{\"model_type\":\"dha\",\"hidden_size\":48,\"intermediate_size\":88,"
           "\"num_hidden_layers\":2,\"num_attention_heads\":6,\"vocab_size\":101,\"key_of\":" GOOD
           "}",
           "value_of", "absent");
}

static void its_own_json_gives_the_same_config(void **state)
{
    (void)state;
    struct model_config a, b;
    struct dha_err e;
    accept(DHA(GOOD, GOOD), &a);
    a.rope = ROPE_LLAMA3;
    a.rope_factor = 8;
    a.rope_low_freq = 1;
    a.rope_high_freq = 4;
    a.rope_original_positions = 16;
    a.rms_eps = 1e-5f;
    a.tied = a.attn_bias = true;
    cJSON *j = model_config_to_json(&a, false, "bfloat16");
    assert_non_null(j);
    assert_int_equal(model_config_parse(j, "again", &b, &e), 0);
    cJSON_Delete(j);
    assert_memory_equal(a.key_of, b.key_of, 12 * sizeof(int));
    assert_true(b.rope == ROPE_LLAMA3 && b.rope_factor == 8 && b.rope_original_positions == 16);
    assert_true(b.tied && b.attn_bias && b.rms_eps == a.rms_eps);
    assert_string_equal(b.dtype, "bfloat16");
    model_config_finish(&a);
    model_config_finish(&b);
}

static void a_plain_gqa_model_is_recognised_and_written_as_llama(void **state)
{
    (void)state;
    struct model_config c;
    accept(DHA("[[0,0,0,1,1,1],[0,0,0,1,1,1]]", "[[0,0,0,1,1,1],[0,0,0,1,1,1]]"), &c);
    assert_true(model_config_is_plain_gqa(&c));
    cJSON *j = model_config_to_json(&c, true, "float32");
    assert_string_equal(json_str(j, "model_type", ""), "llama");
    assert_int_equal(json_int(j, "num_key_value_heads", 0), 2);
    assert_null(json_get(j, "key_of"));
    cJSON_Delete(j);
    model_config_finish(&c);
    accept(DHA("[[0,1,0,1,0,1],[0,0,0,1,1,1]]", "[[0,0,0,1,1,1],[0,0,0,1,1,1]]"), &c);
    assert_false(model_config_is_plain_gqa(&c));
    model_config_finish(&c);
}

/* The rule as transformers states it (by wavelength), against ours (by turns); golden/llama3-rope checks the rest. */
static void llama3_frequencies_have_three_regimes(void **state)
{
    (void)state;
    struct model_config c;
    accept(BASE ",\"head_dim\":16,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
                "\"low_freq_factor\":0.01,\"high_freq_factor\":0.1,"
                "\"original_max_position_embeddings\":16}}",
           &c);
    float t[2 * 16];
    model_rope_table(&c, 2, t);
    const double pi = 3.14159265358979323846;
    for (int i = 0; i < 8; i++) {
        double inv = pow(10000.0, -i / 8.0), wave = 2 * pi / inv, want;
        if (wave < 16 / 0.1)
            want = inv;
        else if (wave > 16 / 0.01)
            want = inv / 8;
        else {
            double smooth = (16 / wave - 0.01) / (0.1 - 0.01);
            want = (1 - smooth) * inv / 8 + smooth * inv;
        }
        assert_true(fabs((double)t[16 + i] - cos(want)) < 1e-6);
        assert_true(fabs((double)t[16 + 8 + i] - sin(want)) < 1e-6);
        assert_true(t[i] == 1.0f && t[8 + i] == 0.0f);
    }
    model_config_finish(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_fields_have_transformers_defaults),
        cmocka_unit_test(both_layouts_say_the_same),
        cmocka_unit_test(each_field_is_checked),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(mistral_without_a_window_is_a_llama),
        cmocka_unit_test(head_maps_are_checked),
        cmocka_unit_test(its_own_json_gives_the_same_config),
        cmocka_unit_test(a_plain_gqa_model_is_recognised_and_written_as_llama),
        cmocka_unit_test(llama3_frequencies_have_three_regimes),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
