/* Loading a checkpoint directory: each kind of damage gives the right code and names the file or tensor; what is saved
 * loads again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "tests/unit/worker/scratch.h"
#include "tests/unit/worker/small_model.h"
#include "worker/model/expand.h"
#include "worker/model/safetensors.h"

static int begin(void **state)
{
    return scratch_make(state) < 0 || small_open(state) < 0 ? -1 : 0;
}

static int end(void **state)
{
    small_close(state);
    return scratch_remove(state);
}

static const char *fresh(const char *name)
{
    assert_int_equal(mkdir(scratch(name), 0755), 0);
    return scratch(name);
}

static void save(struct model *m, const char *dir, const char *dtype, bool plain, size_t shard)
{
    struct dha_err e = {0};
    if (model_save(m, dir, dtype, plain, shard, &e) < 0)
        fail_msg("%s", e.msg);
}

static struct model *load(const char *dir)
{
    struct dha_err e = {0};
    struct model *m;
    if (model_load(&m, small_kern, dir, &e) < 0)
        fail_msg("%s", e.msg);
    return m;
}

static void refuse(const char *dir, enum dha_code code, const char *says)
{
    struct dha_err e = {0};
    struct model *m;
    assert_int_equal(model_load(&m, small_kern, dir, &e), -1);
    assert_null(m);
    if (e.code != code || !strstr(e.msg, says))
        fail_msg("%s: \"%s\" does not say \"%s\"", dha_code_name(e.code), e.msg, says);
    assert_true(e.path[0] != 0);
}

static void what_is_saved_loads_again_bit_for_bit(void **state)
{
    (void)state;
    struct model *m = small_model(",\"num_key_value_heads\":2,\"tie_word_embeddings\":true");
    char dir[512];
    snprintf(dir, sizeof dir, "%s", fresh("f32"));
    save(m, dir, "float32", true, 0);
    struct model *n = load(dir);
    float *a = small_logits(m), *b = small_logits(n);
    assert_memory_equal(a, b, SMALL_ROWS * 37 * sizeof *a);
    free(a);
    free(b);
    model_free(n);
    snprintf(dir, sizeof dir, "%s", fresh("shards"));
    save(m, dir, "float32", false, 2000);
    n = load(dir);
    small_same_logits(n, m);
    assert_string_equal(n->cfg.dtype, "float32");
    model_free(n);
    snprintf(dir, sizeof dir, "%s", fresh("bf16"));
    save(m, dir, "bfloat16", false, 0);
    n = load(dir);
    assert_string_equal(n->cfg.dtype, "bfloat16");
    const struct param *p = model_param(n, 0, P_Q);
    float was[24 * 20], now[24 * 20];
    model_get(m, model_param(m, 0, P_Q), was);
    model_get(n, p, now);
    for (size_t i = 0; i < p->n; i++) /* 8 bits of mantissa */
        assert_true(fabsf(was[i] - now[i]) <= fabsf(was[i]) / 256);
    model_free(n);
    model_free(m);
}

static void a_plain_save_needs_plain_maps(void **state)
{
    (void)state;
    struct dha_err e = {0};
    struct model_config c;
    struct model *m = small_model(""), *n;
    const int map[4] = {0, 1, 0, 1};
    assert_int_equal(model_config_copy(&m->cfg, &c, &e), 0);
    model_config_set_map(&c, 0, true, map, &e);
    assert_int_equal(model_create(&n, small_kern, &c, &e), 0);
    model_config_finish(&c);
    assert_int_equal(model_save(n, fresh("plain"), "float32", true, 0, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_int_equal(model_save(n, scratch("nowhere"), "float32", false, 0, &e), -1);
    assert_int_equal(e.code, DHA_E_NOT_FOUND);
    model_free(n);
    model_free(m);
}

/* ---- damage ------------------------------------------------------------------------------------- */

static void good(char *dir, size_t cap, const char *name)
{
    struct model *m = small_model("");
    snprintf(dir, cap, "%s", fresh(name));
    save(m, dir, "float32", true, 0);
    model_free(m);
}

static void a_missing_directory_is_not_found(void **state)
{
    (void)state;
    refuse("/nonexistent/model", DHA_E_NOT_FOUND, "/nonexistent/model");
}

static void a_directory_without_weights_says_so(void **state)
{
    (void)state;
    char dir[512], cmd[1200];
    good(dir, sizeof dir, "bare");
    snprintf(cmd, sizeof cmd, "rm %s/model.safetensors", dir);
    assert_int_equal(system(cmd), 0);
    refuse(dir, DHA_E_NOT_FOUND, "neither model.safetensors");
}

static void truncated_weights_are_refused_at_every_kind_of_place(void **state)
{
    (void)state;
    char dir[512], path[600];
    struct stat s;
    good(dir, sizeof dir, "truncated");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(stat(path, &s), 0);
    off_t at[] = {s.st_size - 1, s.st_size / 2, 4000, 100, 9, 8, 3, 0};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        assert_int_equal(truncate(path, at[i]), 0);
        refuse(dir, DHA_E_INPUT, "model.safetensors");
    }
}

static void a_config_that_does_not_match_names_the_tensor(void **state)
{
    (void)state;
    char dir[512], cmd[1400];
    static const struct {
        const char *from, *to, *says;
    } edit[] = {
        {"\"intermediate_size\":\\s*28", "\"intermediate_size\": 27",
         "mlp.gate_proj.weight\" is 28 x 20, config.json makes it 27 x 20"},
        {"\"vocab_size\":\\s*37", "\"vocab_size\": 38", "model.embed_tokens.weight\" is 37 x 20"},
        {"\"num_hidden_layers\":\\s*2", "\"num_hidden_layers\": 3",
         "model.layers.2.input_layernorm.weight\" is missing"},
        {"\"num_hidden_layers\":\\s*2", "\"num_hidden_layers\": 1",
         "model.layers.1.input_layernorm.weight\" has no place"},
        {"\"head_dim\":\\s*6", "\"head_dim\": 8", "q_proj.weight\" is 24 x 20"},
        {"\"num_key_value_heads\":\\s*4", "\"num_key_value_heads\": 2",
         "k_proj.weight\" is 24 x 20"},
        {"\"attention_bias\":\\s*false", "\"attention_bias\": true", "q_proj.bias\" is missing"},
        {"\"tie_word_embeddings\":\\s*false", "\"tie_word_embeddings\": true",
         "lm_head.weight differs from the embedding"},
    };
    good(dir, sizeof dir, "mismatch");
    for (size_t i = 0; i < sizeof edit / sizeof *edit; i++) {
        snprintf(cmd, sizeof cmd,
                 "cd %s && cp config.json was && sed -i -E 's/%s/%s/' config.json && ! cmp -s was "
                 "config.json",
                 dir, edit[i].from, edit[i].to);
        assert_int_equal(system(cmd), 0);
        refuse(dir, DHA_E_INPUT, edit[i].says);
        snprintf(cmd, sizeof cmd, "cd %s && mv was config.json", dir);
        assert_int_equal(system(cmd), 0);
    }
    model_free(load(dir));
}

/* Writes the tensors of `dir` again but for `without`, with `extra` added. */
static void rewrite(const char *dir, const char *to, const char *without, const char *extra)
{
    struct dha_err e = {0};
    struct st_file *f;
    struct st_writer *w;
    float x[37 * 20], one[6] = {1, 2, 3, 4, 5, 6};
    int64_t dims[1] = {6};
    char cmd[1200];
    snprintf(cmd, sizeof cmd, "cp %s/config.json %s/", dir, to);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(st_open_dir(&f, dir, &e), 0);
    assert_int_equal(st_writer_open(&w, to, 0, &e), 0);
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        if (without && strcmp(t->name, without) == 0)
            continue;
        assert_int_equal(st_read_f32(t, x, t->bytes / 4, &e), 0);
        assert_int_equal(st_writer_add(w, t->name, ST_F32, t->n_dims, t->dims, x, &e), 0);
    }
    if (extra)
        assert_int_equal(st_writer_add(w, extra, ST_F32, 1, dims, one, &e), 0);
    assert_int_equal(st_writer_finish(w, &e), 0);
    st_close(f);
}

static void missing_and_surplus_tensors_are_named(void **state)
{
    (void)state;
    char dir[512], to[512];
    good(dir, sizeof dir, "tensors");
    snprintf(to, sizeof to, "%s", fresh("tensors-to"));
    rewrite(dir, to, "model.layers.1.self_attn.v_proj.weight", NULL);
    refuse(to, DHA_E_INPUT, "\"model.layers.1.self_attn.v_proj.weight\" is missing");
    rewrite(dir, to, NULL, "model.layers.0.self_attn.q_norm.weight");
    refuse(to, DHA_E_INPUT, "\"model.layers.0.self_attn.q_norm.weight\" has no place");
    rewrite(dir, to, "lm_head.weight", NULL);
    refuse(to, DHA_E_INPUT, "\"lm_head.weight\" is missing");
    rewrite(dir, to, NULL, "model.layers.0.self_attn.rotary_emb.inv_freq"); /* old LLaMA releases */
    model_free(load(to));
}

static void weights_that_are_no_numbers_are_named(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const char *const dirs[] = {"nan", "inf", "minus-inf"};
    for (int i = 0; i < 3; i++) {
        struct model *m = small_model("");
        const struct param *p = model_param(m, 1, P_DOWN);
        float *x = malloc(p->n * sizeof *x);
        char dir[512];
        assert_non_null(x);
        model_get(m, p, x);
        x[p->n - 1] = bad[i];
        model_set(m, p, x);
        free(x);
        snprintf(dir, sizeof dir, "%s", fresh(dirs[i]));
        save(m, dir, "float32", true, 0);
        model_free(m);
        refuse(dir, DHA_E_INPUT,
               i == 0 ? "\"model.layers.1.mlp.down_proj.weight\" has NaN at element"
                      : "\"model.layers.1.mlp.down_proj.weight\" has an infinity at element");
    }
}

static void other_config_damage_names_the_file(void **state)
{
    (void)state;
    char dir[512], cmd[1200];
    good(dir, sizeof dir, "config");
    snprintf(cmd, sizeof cmd, "cd %s && head -c 100 config.json > c && mv c config.json", dir);
    assert_int_equal(system(cmd), 0);
    refuse(dir, DHA_E_INPUT, "config.json");
    snprintf(cmd, sizeof cmd, "cd %s && echo '[]' > config.json", dir);
    assert_int_equal(system(cmd), 0);
    refuse(dir, DHA_E_INPUT, "config.json: not a JSON object");
}

static void every_golden_folder_loads_with_its_own_dtype(void **state)
{
    (void)state;
    static const struct {
        const char *name, *dtype;
    } folder[] = {{"attention-bias", "float32"}, {"gqa", "float32"},
                  {"headmap", "float32"},        {"headmap-uneven", "float32"},
                  {"llama3-rope", "float32"},    {"mha-bf16-sharded", "bfloat16"},
                  {"mha-f16", "float16"},        {"mha-tied", "float32"},
                  {"mha-untied", "float32"},     {"mqa", "float32"}};
    for (size_t i = 0; i < sizeof folder / sizeof *folder; i++) {
        char path[512];
        snprintf(path, sizeof path, DHA_GOLDEN "/%s", folder[i].name);
        struct model *m = load(path);
        assert_string_equal(m->cfg.dtype, folder[i].dtype);
        model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_loads_again_bit_for_bit),
        cmocka_unit_test(a_plain_save_needs_plain_maps),
        cmocka_unit_test(a_missing_directory_is_not_found),
        cmocka_unit_test(a_directory_without_weights_says_so),
        cmocka_unit_test(truncated_weights_are_refused_at_every_kind_of_place),
        cmocka_unit_test(a_config_that_does_not_match_names_the_tensor),
        cmocka_unit_test(missing_and_surplus_tensors_are_named),
        cmocka_unit_test(weights_that_are_no_numbers_are_named),
        cmocka_unit_test(other_config_damage_names_the_file),
        cmocka_unit_test(every_golden_folder_loads_with_its_own_dtype),
    };
    return cmocka_run_group_tests_name("loader", tests, begin, end);
}
