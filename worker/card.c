#include "worker/card.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/fsutil.h"

int card_read(const char *dir, cJSON **facts, struct dha_err *e)
{
    char path[PATH_MAX];
    *facts = NULL;
    if (fs_path(path, sizeof path, e, "%s/%s", dir, CARD_FACTS))
        return -1;
    if (!fs_exists(path))
        return 0;
    *facts = json_parse_file(path, 0, e);
    if (!*facts)
        return -1;
    if (!strcmp(json_str(*facts, "format", ""), "dha-conversion-1"))
        return 0;
    dha_fail(e, DHA_E_INPUT, "%s is not of format dha-conversion-1", path);
    dha_err_hint(e, "remove it: the card then leaves out how the model was made");
    cJSON_Delete(*facts);
    *facts = NULL;
    return -1;
}

/* Text that somebody else chose, as a code span: what Markdown or a terminal would act on becomes a blank or '. A table's cell
 * ends at |, also in code. */
static void put_name(FILE *f, const char *text)
{
    fputs("`", f);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) { /* U+0080 to U+009F: U+009B is ESC [ */
            fputc(' ', f);
            p++;
        } else {
            fputc(*p < 0x20 || *p == 0x7f || *p == '|' ? ' ' : *p == '`' ? '\'' : *p, f);
        }
    }
    fputs("`", f);
}

static bool known(const cJSON *o, const char *key)
{
    return isfinite(json_num(o, key, NAN));
}

/* ---- how ------------------------------------------------------------------------------------------------- */

static void put_tokens(FILE *f, const cJSON *facts)
{
    static const char *const stages[][2] = {{"calibration", "read to calibrate"},
                                            {"search", "for searching"},
                                            {"fuse", "for fusing heads"},
                                            {"train", "for training after that"}};
    const cJSON *t = json_get(facts, "tokens");
    for (size_t i = 0; t && i < sizeof stages / sizeof *stages; i++) {
        int64_t n = json_int(t, stages[i][0], 0);
        if (n > 0)
            fprintf(f, "| tokens %s | %" PRId64 " |\n", stages[i][1], n);
    }
}

static void put_recovery(FILE *f, const cJSON *facts)
{
    static const char *const parts[][2] = {{"lm", "next token"},
                                           {"kl", "KL to the parent"},
                                           {"bild", "BiLD to the parent, on answers"}};
    const cJSON *r = json_get(facts, "recovery");
    const char *between = "| loss it was trained on | ";
    for (size_t i = 0; r && i < 3; i++) {
        double w = json_num(r, parts[i][0], 0);
        if (w > 0) {
            fprintf(f, "%s%g x %s", between, w, parts[i][1]);
            between = " + ";
        }
    }
    if (*between == ' ')
        fputs(" |\n", f);
}

/* What the preset was changed to: names and values of a fixed vocabulary, but read back from a file. */
static void put_parts(FILE *f, const cJSON *parts)
{
    const char *between = ", with ";
    const cJSON *p;
    cJSON_ArrayForEach(p, parts)
    {
        if (!p->string || !strcmp(p->string, "preset") || !(cJSON_IsString(p) || cJSON_IsBool(p)))
            continue;
        fputs(between, f);
        put_name(f, p->string);
        fputs(" ", f);
        put_name(f, cJSON_IsString(p) ? p->valuestring : cJSON_IsTrue(p) ? "yes" : "no");
        between = ", ";
    }
}

static void put_how(FILE *f, const cJSON *facts)
{
    const cJSON *data = json_get(facts, "data"), *name;
    const char *text;
    fputs("## How it was made\n\n| | |\n|---|---|\n", f);
    if ((text = json_str(facts, "method", NULL))) {
        fputs("| method | ", f);
        put_name(f, text);
        put_parts(f, json_get(facts, "method_parts"));
        fputs(" |\n", f);
    }
    if (known(facts, "budget"))
        fprintf(f, "| budget | %.4g %% of multi-head attention's key and value heads |\n",
                100 * json_num(facts, "budget", NAN));
    if ((text = json_str(json_get(facts, "parent"), "name", NULL))) {
        fputs("| parent | ", f);
        put_name(f, text);
        fputs(" |\n", f);
    }
    put_tokens(f, facts);
    put_recovery(f, facts);
    if (known(facts, "lr"))
        fprintf(f, "| peak learning rate | %.3g |\n", json_num(facts, "lr", NAN));
    if (json_get(data, "domains")) {
        const char *between = "| domains of the data | ";
        cJSON_ArrayForEach(name, json_get(data, "domains"))
        {
            fputs(between, f);
            put_name(f, cJSON_IsString(name) ? name->valuestring : "?");
            between = ", ";
        }
        if (*between == ',')
            fputs(" |\n", f);
    }
    if (json_get(facts, "seed"))
        fprintf(f, "| seed | %" PRId64 " |\n", json_int(facts, "seed", 0));
    if ((text = json_str(facts, "version", NULL))) {
        fputs("| dha | version ", f);
        put_name(f, text);
        fputs(" |\n", f);
    }
    fputc('\n', f);
}

/* ---- what it scores ------------------------------------------------------------------------------------------ */

/* A row of losses: parent, converted, final; those that are known. */
static void put_losses(FILE *f, const char *name, const cJSON *parent, const cJSON *converted,
                       const cJSON *final)
{
    const cJSON *v[] = {parent, converted, final};
    fputs("| ", f);
    if (name)
        put_name(f, name);
    else
        fputs("all", f);
    for (int i = 0; i < 3; i++)
        cJSON_IsNumber(v[i]) ? fprintf(f, " | %.4f", v[i]->valuedouble) : fputs(" | ", f);
    fputs(" |\n", f);
}

static void put_tasks(FILE *f, const cJSON *tasks)
{
    static const char *const shares[] = {"acc", "acc_norm", "exact_match"};
    const cJSON *t;
    if (cJSON_GetArraySize(tasks) == 0)
        return;
    fputs(
        "\nMultiple choice by likelihood, in percent:\n\n"
        "| task | model | questions | acc | acc_norm | exact match |\n|---|---|---|---|---|---|\n",
        f);
    cJSON_ArrayForEach(t, tasks)
    {
        fputs("| ", f);
        put_name(f, json_str(t, "task", "?"));
        fprintf(f, " | %s | %" PRId64,
                !strcmp(json_str(t, "model", ""), "parent") ? "parent" : "this one",
                json_int(t, "questions", 0));
        for (int i = 0; i < 3; i++)
            known(t, shares[i]) ? fprintf(f, " | %.2f", 100 * json_num(t, shares[i], NAN))
                                : fputs(" | ", f);
        fputs(" |\n", f);
    }
}

static void put_scores(FILE *f, const cJSON *s)
{
    const cJSON *domains = json_get(s, "domains"), *d;
    if (!s)
        return;
    fputs("## What it scores\n\n", f);
    if (known(s, "parent") || known(s, "final")) {
        fputs("Loss in nats a token on held-out text", f);
        if (json_int(s, "seq_len", 0) > 0)
            fprintf(f, ", in windows of %" PRId64 " tokens", json_int(s, "seq_len", 0));
        fputs(".\n\n| text | parent | converted, untrained | this model |\n|---|---|---|---|\n", f);
        put_losses(f, NULL, json_get(s, "parent"), json_get(s, "converted"), json_get(s, "final"));
        cJSON_ArrayForEach(d, json_get(domains, "final"))
        {
            put_losses(f, d->string, json_get(json_get(domains, "parent"), d->string),
                       json_get(json_get(domains, "converted"), d->string), d);
        }
    }
    if (json_num(s, "final", NAN) > json_num(s, "converted", NAN))
        fputs("\nTraining after the conversion did not lower the loss: with `tokens.train=0` the "
              "converted model is kept as it is; more tokens or a lower rate may help.\n",
              f);
    put_tasks(f, json_get(s, "tasks"));
    fputc('\n', f);
}

/* ---- heads and cache ----------------------------------------------------------------------------------------- */

static int64_t heads_of(const cJSON *list)
{
    int64_t sum = 0, n;
    const cJSON *v;
    cJSON_ArrayForEach(v, list) sum += json_to_int(v, &n) && n > 0 && n <= MODEL_MAX_HEADS ? n : 0;
    return sum;
}

static void put_heads(FILE *f, const struct model_config *c, const char *dtype, const cJSON *parent)
{
    int elem = strcmp(dtype, "float32") ? 2 : 4;
    const cJSON *k = json_get(parent, "key_heads"), *v = json_get(parent, "value_heads");
    bool both = cJSON_GetArraySize(k) == c->layers && cJSON_GetArraySize(v) == c->layers;
    fprintf(f,
            "## Heads and KV cache\n\n%d query heads of dimension %d a layer; kept key and value "
            "heads:\n\n",
            c->heads, c->head_dim);
    fprintf(f, "| layer | key heads | value heads |%s\n|---|---|---|%s\n",
            both ? " parent's (key, value) |" : "", both ? "---|" : "");
    for (int l = 0; l < c->layers; l++) {
        int64_t pk = 0, pv = 0;
        fprintf(f, "| %d | %d | %d |", l, c->n_key[l], c->n_value[l]);
        if (both && json_to_int(cJSON_GetArrayItem(k, l), &pk) &&
            json_to_int(cJSON_GetArrayItem(v, l), &pv))
            fprintf(f, " %" PRId64 ", %" PRId64 " |", pk, pv);
        fputc('\n', f);
    }
    int64_t now = model_config_kv_bytes(c, elem);
    fprintf(f, "\nKV cache: **%" PRId64 " bytes a token** in %s", now, dtype);
    if (both) {
        int64_t before = (heads_of(k) + heads_of(v)) * c->head_dim * elem;
        fprintf(f, ", the parent's is %" PRId64, before);
        if (before > 0)
            fprintf(f, " (%.4g %%)", 100.0 * (double)now / (double)before);
    }
    fputs(".\n\n", f);
}

static void put_use(FILE *f, bool plain)
{
    fprintf(f,
            "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM\n"
            "model = AutoModelForCausalLM.from_pretrained(\"THIS_DIRECTORY\"%s)\n```\n\n",
            plain ? "" : ", trust_remote_code=True");
    fputs(plain ? "It is a stock LlamaForCausalLM; nothing else is needed.\n\n"
                : "The model's code is `configuration_dha.py` and `modeling_dha.py` in this "
                  "directory; its cache holds the kept heads only.\n\n",
          f);
    fputs("`dha generate THIS_DIRECTORY \"Once upon a time\"` needs no Python.\n\n", f);
}

static void put_all(FILE *f, const struct model_config *cfg, bool plain, const char *dtype,
                    const cJSON *facts)
{
    fputs("---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n"
          "- dha\n- kv-cache\n---\n\n",
          f);
    if (facts) {
        fputs("# A converted checkpoint\n\nA language model whose key and value heads were merged "
              "by dha, "
              "for a smaller KV cache.\n\n",
              f);
        put_how(f, facts);
        put_scores(f, json_get(facts, "scores"));
    } else {
        fputs("# An exported checkpoint\n\nA language model written by dha; how it was made is not "
              "recorded here.\n\n",
              f);
    }
    put_heads(f, cfg, dtype, json_get(facts, "parent"));
    put_use(f, plain);
    fputs("## Licence\n\nThe weights derive from the parent model: the parent's licence applies to "
          "them. See there.\n",
          f);
}

int card_write(const char *dir, const struct model_config *cfg, bool plain, const char *dtype,
               const cJSON *facts, struct dha_err *e)
{
    char path[PATH_MAX], *text = NULL;
    size_t n = 0;
    int rc;
    if (fs_path(path, sizeof path, e, "%s/" CARD_FACTS, dir) ||
        (facts && json_write_file(path, facts, e)) ||
        fs_path(path, sizeof path, e, "%s/README.md", dir))
        return -1;
    FILE *f = open_memstream(&text, &n);
    if (!f)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %s", path);
    put_all(f, cfg, plain, dtype, facts);
    rc = ferror(f);
    rc = fclose(f) || rc ? dha_fail(e, DHA_E_NO_MEMORY, "no memory for %s", path)
                         : fs_write_file(path, text, n, e);
    free(text);
    return rc;
}
