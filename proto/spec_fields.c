#include "proto/spec_fields.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

#define AT(member) offsetof(struct job_spec, member)
#define S          (1u << STAGE_SEARCH)
#define F          (1u << STAGE_FUSE)
#define T          (1u << STAGE_TRAIN)
#define E          (1u << STAGE_EVAL)
#define X          (1u << STAGE_EXPORT)
/* 10^15: exact in JSON (see json.c), and more than any corpus or seed needs */
#define BIG 1e15

/* A stage's bit says that its result may depend on the field; spec_stage_inputs() leaves out those
 * that the method at hand does not read. */
const struct spec_field spec_field[F_COUNT] = {
    [F_NAME] = {"", "name", FIELD_NAME, AT(name), .stages = 0},
    [F_MODEL] = {"", "model", FIELD_PATH, AT(model), .stages = S | F | T | E | X},
    [F_METHOD] = {"", "method", FIELD_METHOD, AT(method), .stages = S | F | X},
    [F_BUDGET] = {"", "budget", FIELD_NUM, AT(budget), 0, 1, true, .stages = F},
    [F_DATA_TRAIN] = {"data", "train", FIELD_PATHS, AT(data.train), .stages = S | F | T | E},
    [F_DATA_VALID] = {"data", "valid", FIELD_PATH, AT(data.valid), .stages = F | T | E},
    [F_DATA_FORMAT] = {"data", "format", FIELD_CHOICE, AT(data.format),
                       .choices = "u16|u32|text|jsonl|instruct|megatron", .later = "megatron",
                       .stages = S | F | T | E},
    [F_DATA_TOKENIZER] = {"data", "tokenizer", FIELD_PATH, AT(data.tokenizer),
                          .stages = S | F | T | E},
    [F_DATA_SEQ_LEN] = {"data", "seq_len", FIELD_INT, AT(data.seq_len), 0, 1 << 20,
                        .stages = S | F | T | E},
    [F_DATA_MIXTURE] = {"data", "mixture", FIELD_MIXTURE, AT(data.mixture),
                        .stages = S | F | T | E},
    [F_TOKENS_SEARCH] = {"tokens", "search", FIELD_I64, AT(tokens_search), 0, BIG, .stages = S | F},
    [F_TOKENS_FUSE] = {"tokens", "fuse", FIELD_I64, AT(tokens_fuse), 0, BIG, .stages = F},
    [F_TOKENS_TRAIN] = {"tokens", "train", FIELD_I64, AT(tokens_train), 0, BIG, .stages = T},
    [F_RECOVERY_KL] = {"recovery", "kl", FIELD_NUM, AT(w_kl), 0, 100, .stages = F | T},
    [F_RECOVERY_LM] = {"recovery", "lm", FIELD_NUM, AT(w_lm), 0, 100, .stages = F | T},
    [F_RECOVERY_BILD] = {"recovery", "bild", FIELD_NUM, AT(w_bild), 0, 100, .stages = F | T},
    [F_BATCH_TOKENS] = {"", "batch_tokens", FIELD_I64, AT(batch_tokens), 1, 1e12,
                        .stages = S | F | T},
    /* 0: see default_rates() */
    [F_LR] = {"optim", "lr", FIELD_NUM, AT(optim.lr), 0, 10, .stages = S | F | T},
    [F_LR_ATTENTION] = {"optim", "lr_attention", FIELD_NUM, AT(optim.lr_attention), 0, 100, true,
                        .stages = S | F | T},
    [F_LR_OMEGA] = {"optim", "lr_omega", FIELD_NUM, AT(optim.lr_omega), 0, 10, false,
                    .stages = S | F},
    [F_LR_LAMBDA] = {"optim", "lr_lambda", FIELD_NUM, AT(optim.lr_lambda), 0, 10, false,
                     .stages = F},
    [F_WARMUP] = {"optim", "warmup", FIELD_NUM, AT(optim.warmup), 0, 1, .stages = S | F | T},
    [F_FINAL_LR] = {"optim", "final_lr", FIELD_NUM, AT(optim.final_lr), 0, 1, .stages = S | F | T},
    [F_CLIP] = {"optim", "clip", FIELD_NUM, AT(optim.clip), 0, 1e6, .stages = S | F | T},
    [F_WEIGHT_DECAY] = {"optim", "weight_decay", FIELD_NUM, AT(optim.weight_decay), 0, 10,
                        .stages = S | F | T},
    [F_DTYPE] = {"", "dtype", FIELD_CHOICE8, AT(dtype), .choices = "f32|bf16", .later = "bf16",
                 .stages = S | F | T | E | X},
    [F_SEED] = {"", "seed", FIELD_I64, AT(seed), 0, BIG, .stages = S | F | T},
    [F_EVAL_WINDOWS] = {"eval", "windows", FIELD_INT, AT(eval_windows), 0, 1e9,
                        .stages = F | T | E},
    [F_EVAL_TASKS] = {"eval", "tasks", FIELD_TASKS, AT(eval_tasks), .stages = E},
    [F_EVAL_SHOTS] = {"eval", "shots", FIELD_INT, AT(eval_shots), 0, 64, .stages = E},
    [F_EVAL_LIMIT] = {"eval", "limit", FIELD_INT, AT(eval_limit), 0, 1e9, .stages = E},
    [F_CHECKPOINT_EVERY] = {"checkpoint", "every", FIELD_INT, AT(checkpoint.every), .lo = 0,
                            .hi = 1e9},
    [F_CHECKPOINT_KEEP] = {"checkpoint", "keep", FIELD_INT, AT(checkpoint.keep), .lo = 1,
                           .hi = 1e6},
    [F_CHECKPOINT_KEEP_EVERY] = {"checkpoint", "keep_every", FIELD_I64, AT(checkpoint.keep_every),
                                 .lo = 0, .hi = 1e12},
    [F_CHECKPOINT_KEEP_BEST] = {"checkpoint", "keep_best", FIELD_INT, AT(checkpoint.keep_best),
                                .lo = 0, .hi = 1e6},
    [F_EXPORT_FORMAT] = {"export", "format", FIELD_CHOICE8, AT(format),
                         .choices = "auto|dha|gqa|expand", .stages = X},
    [F_RANKS] = {"resources", "ranks", FIELD_INT, AT(resources.ranks), .lo = 1, .hi = 65536},
    [F_THREADS] = {"resources", "threads", FIELD_INT, AT(resources.threads), .lo = 1, .hi = 4096},
    [F_NODES] = {"resources", "nodes", FIELD_INT, AT(resources.nodes), .lo = 1, .hi = 65536},
    [F_DEVICE] = {"resources", "device", FIELD_CHOICE8, AT(resources.device),
                  .choices = "cpu|cuda"},
    [F_MEMORY] = {"resources", "memory_gib", FIELD_NUM, AT(resources.memory_gib), .lo = 0,
                  .hi = 1 << 20},
    [F_NODE_NAMES] = {"resources", "node_names", FIELD_NODES, AT(resources.node_names),
                      .stages = 0},
    /* up to ten years: a bound that only catches slips of the unit */
    [F_WALLTIME] = {"resources", "walltime", FIELD_WALLTIME, AT(resources.walltime_s), .lo = 1,
                    .hi = 3650.0 * 86400},
    [F_PRIORITY] = {"", "priority", FIELD_INT, AT(priority), .lo = -1000, .hi = 1000},
};

void spec_error(struct spec_errors *errs, const char *path, const char *hint, const char *fmt, ...)
{
    size_t i = (size_t)errs->n++;
    if (i >= sizeof errs->at / sizeof errs->at[0])
        return;
    char msg[sizeof errs->at[0].msg];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (n < 0)
        msg[0] = '\0';
    text_trim_utf8(msg);
    text_copy(errs->at[i].path, sizeof errs->at[i].path, path);
    text_copy(errs->at[i].msg, sizeof errs->at[i].msg, msg);
    text_copy(errs->at[i].hint, sizeof errs->at[i].hint, hint);
}

static void field_path(const struct spec_field *f, char path[96])
{
    snprintf(path, 96, "$.%s%s%s", f->object, f->object[0] ? "." : "", f->key);
}

/* ---- unknown names ---- */

/* Names that may stand in `object`, each once; objects themselves are names of the top level. */
static size_t names_in(const char *object, const char *names[F_COUNT])
{
    size_t n = 0;
    for (int i = 0; i < F_COUNT; i++) {
        const char *name = strcmp(spec_field[i].object, object) == 0 ? spec_field[i].key
                           : object[0] == '\0'                       ? spec_field[i].object
                                                                     : NULL;
        if (name && (n == 0 || strcmp(names[n - 1], name) != 0))
            names[n++] = name; /* rows of an object are neighbours */
    }
    return n;
}

static void unknown_name(const char *object, const char *key, const char *const *names, size_t n,
                         struct spec_errors *errs)
{
    char shown[48], path[96], hint[160] = "";
    text_copy(shown, sizeof shown, key);
    snprintf(path, sizeof path, "$.%s%s%s", object, object[0] ? "." : "", shown);
    const char *near = text_nearest(key, names, n);
    if (near) {
        snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    } else {
        for (int i = 0; i < F_COUNT; i++) { /* right name, wrong place */
            if (strcmp(spec_field[i].key, key) == 0) {
                char right[96];
                field_path(&spec_field[i], right);
                snprintf(hint, sizeof hint, "did you mean %s?", right);
                break;
            }
        }
    }
    spec_error(errs, path, hint, "unknown field");
}

void spec_check_members(const cJSON *obj, const char *path, const char *const *names, size_t n,
                        struct spec_errors *errs)
{
    const cJSON *c;
    cJSON_ArrayForEach(c, obj)
    {
        size_t i = 0;
        while (i < n && strcmp(names[i], c->string) != 0)
            i++;
        if (i < n)
            continue;
        char shown[48], at[160], hint[160] = "";
        text_copy(shown, sizeof shown, c->string);
        snprintf(at, sizeof at, "%.96s.%s", path, shown);
        const char *near = text_nearest(c->string, names, n);
        if (near)
            snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
        spec_error(errs, at, hint, "unknown field");
    }
}

static void check_names(const cJSON *obj, const char *object, struct spec_errors *errs)
{
    const char *names[F_COUNT];
    size_t n = names_in(object, names);
    const cJSON *c;
    cJSON_ArrayForEach(c, obj)
    {
        bool known = false;
        for (size_t i = 0; i < n && !known; i++)
            known = strcmp(names[i], c->string) == 0;
        if (!known) {
            unknown_name(object, c->string, names, n, errs);
            continue;
        }
        bool nested = false;
        for (int i = 0; i < F_COUNT && object[0] == '\0' && !nested; i++)
            nested = strcmp(spec_field[i].object, c->string) == 0;
        if (!nested || cJSON_IsNull(c))
            continue;
        if (cJSON_IsObject(c)) {
            check_names(c, c->string, errs);
        } else {
            char path[96];
            snprintf(path, sizeof path, "$.%s", c->string);
            spec_error(errs, path, "", "must be an object");
        }
    }
}

/* ---- values ---- */

static void no_memory(struct spec_errors *errs)
{
    spec_error(errs, "$", "", "out of memory");
}

/* Absolute if base is given; without slashes at the end, so that "m" and "m/" are one model. */
static char *absolute(const char *base, const char *path)
{
    char *out = NULL;
    if (base && path[0] != '/') {
        size_t n = strlen(base);
        if (asprintf(&out, "%s%s%s", base, n && base[n - 1] == '/' ? "" : "/", path) < 0)
            return NULL;
    } else {
        out = strdup(path);
    }
    for (size_t n = out ? strlen(out) : 0; n > 1 && out[n - 1] == '/'; n--)
        out[n - 1] = '\0';
    return out;
}

char *spec_read_path(const cJSON *v, const char *path, const char *base, struct spec_errors *errs)
{
    if (!cJSON_IsString(v)) {
        spec_error(errs, path, "", "must be a string (a path)");
        return NULL;
    }
    size_t n = strlen(v->valuestring);
    if (n == 0 || n >= 4096) {
        spec_error(errs, path, "", n ? "a path of more than 4095 bytes" : "an empty path");
        return NULL;
    }
    char *out = absolute(base, v->valuestring);
    if (!out)
        no_memory(errs);
    return out;
}

char **spec_read_paths(const cJSON *v, const char *path, const char *base, int *n,
                       struct spec_errors *errs)
{
    *n = 0;
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) == 0) {
        spec_error(errs, path, "for example \"train\": [\"train.u16\"]",
                   "must be a list of at least one file");
        return NULL;
    }
    char **out = calloc((size_t)cJSON_GetArraySize(v), sizeof *out);
    if (!out) {
        no_memory(errs);
        return NULL;
    }
    const cJSON *c;
    int i = 0;
    cJSON_ArrayForEach(c, v)
    {
        char at[96 + 16]; /* path + "[2147483647]" */
        snprintf(at, sizeof at, "%.64s[%d]", path, i++);
        char *file = spec_read_path(c, at, base, errs);
        if (file)
            out[(*n)++] = file;
    }
    return out;
}

static bool is_choice(const char *choices, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = choices; n && *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, word, n) == 0)
            return true;
        p += len + (p[len] == '|');
    }
    return false;
}

static const char *read_choice(const cJSON *v, const struct spec_field *f, const char *path,
                               struct spec_errors *errs)
{
    char hint[160];
    snprintf(hint, sizeof hint, "one of: %s", f->choices);
    if (!cJSON_IsString(v)) {
        spec_error(errs, path, hint, "must be a string");
        return NULL;
    }
    if (!is_choice(f->choices, v->valuestring)) {
        char shown[48];
        text_copy(shown, sizeof shown, v->valuestring);
        spec_error(errs, path, hint, "\"%s\" is not a choice", shown);
        return NULL;
    }
    if (f->later && strcmp(f->later, v->valuestring) == 0) {
        spec_error(errs, path, hint, "\"%s\" is not in this version", f->later);
        return NULL;
    }
    return v->valuestring;
}

static void read_name(const cJSON *v, const char *path, char **out, struct spec_errors *errs)
{
    if (!cJSON_IsString(v)) {
        spec_error(errs, path, "", "must be a string");
        return;
    }
    size_t n = strlen(v->valuestring);
    bool control = false;
    for (size_t i = 0; i < n; i++)
        control |= (unsigned char)v->valuestring[i] < 0x20 || v->valuestring[i] == 0x7f;
    if (n == 0 || n > 128 || control) {
        spec_error(errs, path, "", "must have 1 to 128 bytes and no control characters");
        return;
    }
    *out = strdup(v->valuestring);
    if (!*out)
        no_memory(errs);
}

static bool in_range(double x, const struct spec_field *f, const char *path,
                     struct spec_errors *errs)
{
    if (x <= f->hi && (f->lo_open ? x > f->lo : x >= f->lo))
        return true;
    spec_error(errs, path, "", "%.17g is out of range: must be %s %.15g and at most %.15g", x,
               f->lo_open ? "more than" : "at least", f->lo, f->hi);
    return false;
}

/* "90m", "1h30m", "2h", "1d", "30s", "3600", 3600. */
static bool read_walltime(const cJSON *v, const struct spec_field *f, const char *path,
                          int64_t *out, struct spec_errors *errs)
{
    double total = 0;
    bool good = true;
    if (cJSON_IsNumber(v)) {
        total = v->valuedouble;
        good = total == trunc(total);
    } else if (cJSON_IsString(v)) {
        const char *p = v->valuestring;
        good = *p != '\0';
        while (good && *p) {
            char *end;
            good = *p >= '0' && *p <= '9';
            errno = 0;
            long long n = strtoll(p, &end, 10);
            good = good && errno == 0;
            double unit = *end == 's' ? 1 : *end == 'm' ? 60 : *end == 'h' ? 3600 : 86400;
            if (*end == '\0')
                unit = p == v->valuestring ? 1 : (good = false, 0.0);
            else if (!strchr("smhd", *end))
                good = false;
            total += (double)n * unit;
            p = end + (*end != '\0');
        }
    } else {
        good = false;
    }
    if (!good) {
        spec_error(errs, path, "for example \"2h\", \"90m\", \"1h30m\", \"1d\" or 3600 (seconds)",
                   "is not a time span");
        return false;
    }
    if (!in_range(total, f, path, errs))
        return false;
    *out = (int64_t)total;
    return true;
}

static bool read_value(const cJSON *v, const struct spec_field *f, const char *base,
                       struct job_spec *out, struct spec_errors *errs)
{
    char path[96];
    field_path(f, path);
    void *at = (char *)out + f->at;
    int before = errs->n;
    int64_t i;
    const char *word;
    switch (f->type) {
    case FIELD_NAME: read_name(v, path, at, errs); break;
    case FIELD_PATH: *(char **)at = spec_read_path(v, path, base, errs); break;
    case FIELD_PATHS:
        out->data.train = spec_read_paths(v, path, base, &out->data.n_train, errs);
        break;
    case FIELD_MIXTURE: spec_read_mixture(v, path, base, &out->data, errs); break;
    case FIELD_TASKS: spec_read_tasks(v, path, base, out, errs); break;
    case FIELD_NODES: spec_read_nodes(v, path, out, errs); break;
    case FIELD_METHOD: method_read(v, at, errs); break;
    case FIELD_CHOICE:
        word = read_choice(v, f, path, errs);
        if (word && !(*(char **)at = strdup(word)))
            no_memory(errs);
        break;
    case FIELD_CHOICE8:
        word = read_choice(v, f, path, errs);
        if (word)
            text_copy(at, 8, word);
        break;
    case FIELD_NUM:
        if (!cJSON_IsNumber(v))
            spec_error(errs, path, "", "must be a number");
        else if (in_range(v->valuedouble, f, path, errs))
            *(double *)at = v->valuedouble;
        break;
    case FIELD_I64:
    case FIELD_INT:
        if (cJSON_IsNumber(v) && v->valuedouble == trunc(v->valuedouble) &&
            !in_range(v->valuedouble, f, path, errs))
            break; /* also what no int64_t could hold */
        if (!json_to_int(v, &i))
            spec_error(errs, path, "", "must be a whole number");
        else if (!in_range((double)i, f, path, errs))
            break;
        else if (f->type == FIELD_INT)
            *(int *)at = (int)i;
        else
            *(int64_t *)at = i;
        break;
    case FIELD_WALLTIME: read_walltime(v, f, path, at, errs); break;
    }
    return errs->n == before;
}

void spec_read_fields(const cJSON *doc, const char *base_dir, struct job_spec *out,
                      enum given given[F_COUNT], struct spec_errors *errs)
{
    check_names(doc, "", errs);
    for (int i = 0; i < F_COUNT; i++) {
        const struct spec_field *f = &spec_field[i];
        const cJSON *obj = f->object[0] ? json_get(doc, f->object) : doc;
        const cJSON *v = json_get(obj, f->key);
        if (!v || cJSON_IsNull(v))
            given[i] = ABSENT;
        else
            given[i] = read_value(v, f, base_dir, out, errs) ? GIVEN : WRONG;
    }
}

/* ---- writing ---- */

static cJSON *value_of(const struct job_spec *s, const struct spec_field *f)
{
    const void *at = (const char *)s + f->at;
    const char *text;
    switch (f->type) {
    case FIELD_NAME:
    case FIELD_PATH:
    case FIELD_CHOICE:
        text = *(char *const *)at;
        return text ? cJSON_CreateString(text) : cJSON_CreateNull();
    case FIELD_PATHS:
        if (s->data.n_train == 0)
            return cJSON_CreateNull();
        return cJSON_CreateStringArray((const char *const *)s->data.train, s->data.n_train);
    case FIELD_MIXTURE: return spec_mixture_to_json(&s->data);
    case FIELD_TASKS: return spec_tasks_to_json(s);
    case FIELD_NODES: return spec_nodes_to_json(s);
    case FIELD_METHOD: return method_to_json(at);
    case FIELD_CHOICE8: return cJSON_CreateString(at);
    case FIELD_NUM: return cJSON_CreateNumber(*(const double *)at);
    case FIELD_I64: return cJSON_CreateNumber((double)*(const int64_t *)at); /* <= 10^15 */
    case FIELD_INT: return cJSON_CreateNumber(*(const int *)at);
    case FIELD_WALLTIME:
        return *(const int64_t *)at ? cJSON_CreateNumber((double)*(const int64_t *)at)
                                    : cJSON_CreateNull();
    }
    return NULL;
}

int spec_write_field(const struct job_spec *s, int row, cJSON *doc)
{
    const struct spec_field *f = &spec_field[row];
    cJSON *obj = doc;
    if (f->object[0]) {
        obj = cJSON_GetObjectItemCaseSensitive(doc, f->object);
        if (!obj)
            obj = cJSON_AddObjectToObject(doc, f->object);
    }
    return json_put(obj, f->key, value_of(s, f));
}
