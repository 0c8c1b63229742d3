/* What a model's card is made of: dha_conversion.json beside a checkpoint, and losses.json, trained.json and eval.json that
 * stages left (in this order, "====" between them; a missing one is missing). What is written from them is text that a
 * terminal can show, and a dha_conversion.json that was read comes back the same. */
#include "worker/stage_export.c"

#include <stdint.h>

#include "fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The rest of the worker, which gather_facts() does not reach. */
int stage_out(const struct stage *st, char *buf, size_t cap, const char *name, struct dha_err *e)
{
    (void)st, (void)buf, (void)cap, (void)name, (void)e;
    abort();
}
bool stage_has_output(const struct stage *st, const char *name)
{
    (void)st, (void)name;
    abort();
}
int stage_input_model(const struct stage *st, char *buf, size_t cap, struct dha_err *e)
{
    (void)st, (void)buf, (void)cap, (void)e;
    abort();
}
void stage_output(struct stage *st, const char *name)
{
    (void)st, (void)name;
    abort();
}
void stage_hello(struct stage *st, int64_t steps, int64_t resumed_from)
{
    (void)st, (void)steps, (void)resumed_from;
    abort();
}
int export_model(struct kern *k, const char *from, const char *files_from, const char *to,
                 const char *format, const char *dtype, const cJSON *facts, struct dha_err *e)
{
    (void)k, (void)from, (void)files_from, (void)to, (void)format, (void)dtype, (void)facts,
        (void)e;
    abort();
}

static struct model_config parent;
static struct stage_spec spec;

static void start(void)
{
    static const char config[] =
        "{\"model_type\":\"llama\",\"vocab_size\":8,\"hidden_size\":8,\"intermediate_size\":8,"
        "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"rms_norm_eps\":1e-5}";
    static const char job[] =
        "{\"model\":\"/m\",\"data\":{\"train\":[\"/t.u16\"]},\"method\":\"dha\"}";
    struct spec_errors errs = {0};
    struct dha_err e = {0};
    cJSON *c = json_parse(config, sizeof config - 1, NULL, &e),
          *s = json_parse(job, sizeof job - 1, NULL, &e);
    if (!c || !s || model_config_parse(c, "(config)", &parent, &e) < 0 ||
        spec_parse(s, "/", &spec.spec, &errs) != 0)
        abort();
    cJSON_Delete(c);
    cJSON_Delete(s);
    fuzz_dir_make();
    spec.inputs[STAGE_FUSE] = spec.inputs[STAGE_TRAIN] = spec.inputs[STAGE_EVAL] = fuzz_dir;
}

static void write_card(const cJSON *facts)
{
    char path[256];
    struct dha_err e = {0};
    if (card_write(fuzz_dir, &parent, true, "float32", facts, &e) != 0)
        abort();
    snprintf(path, sizeof path, "%s/README.md", fuzz_dir);
    FILE *f = fopen(path, "rb");
    if (!f)
        abort();
    for (int c, before = 0; (c = getc(f)) != EOF; before = c)
        if ((c < 0x20 && c != '\n') || c == 0x7f || (before == 0xc2 && c < 0xa0))
            abort();
    fclose(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {CARD_FACTS, "losses.json", "trained.json", "eval.json"};
    struct stage st = {.s = &spec};
    struct dha_err e = {0};
    cJSON *facts, *again;
    size_t n;
    if (!fuzz_dir[0])
        start();
    for (int i = 0; i < 4; i++) {
        const uint8_t *text = fuzz_next(&data, &size, &n);
        fuzz_dir_put(names[i], text, n);
    }
    int rc = card_read(fuzz_dir, &facts, &e);
    fuzz_said(rc, &e);
    if (facts) {
        write_card(facts);
        if (card_read(fuzz_dir, &again, &e) != 0 || !cJSON_Compare(facts, again, true))
            abort();
        cJSON_Delete(again);
    }
    cJSON_Delete(facts);
    e = (struct dha_err){0};
    rc = gather_facts(&st, &parent, &facts, &e);
    fuzz_said(rc, &e);
    if (rc == 0)
        write_card(facts);
    cJSON_Delete(facts);
    return 0;
}
