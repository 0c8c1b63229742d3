/* spec.c: what the fields of a spec mean together: defaults that depend on one another, stages, and
 * the inputs of a stage. The fields one by one are in spec_fields.c. */
#include "proto/spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/spec_fields.h"
#include "proto/text.h"

static const char *const stage_names[] = {
    [STAGE_SEARCH] = "search", [STAGE_FUSE] = "fuse",     [STAGE_TRAIN] = "train",
    [STAGE_EVAL] = "eval",     [STAGE_EXPORT] = "export",
};
_Static_assert(sizeof stage_names / sizeof stage_names[0] == STAGE_KINDS, "a name for each stage");

const char *stage_kind_name(enum stage_kind k)
{
    return (unsigned)k < STAGE_KINDS ? stage_names[k] : "?";
}

int stage_kind_from_name(const char *name, enum stage_kind *k)
{
    for (int i = 0; name && i < STAGE_KINDS; i++) {
        if (strcmp(stage_names[i], name) == 0) {
            *k = (enum stage_kind)i;
            return 0;
        }
    }
    return -1;
}

static void set_defaults(struct job_spec *s)
{
    memset(s, 0, sizeof *s);
    method_preset("spectral", &s->method);
    s->budget = 0.25;
    s->tokens_train = 1000000;
    s->batch_tokens = 4096;
    s->optim.lr = 3e-4;
    s->optim.lr_attention = 1;
    s->optim.warmup = 0.02;
    s->optim.final_lr = 0.1;
    s->optim.clip = 1.0;
    memcpy(s->dtype, "f32", sizeof "f32");
    s->seed = 1;
    s->eval_windows = 256;
    s->checkpoint.keep = 2;
    memcpy(s->format, "auto", sizeof "auto");
    s->resources.ranks = 2;
    s->resources.threads = 1;
    s->resources.nodes = 1;
    memcpy(s->resources.device, "cpu", sizeof "cpu");
}

/* ---- defaults that follow from other fields ---- */

/* "u16" for x.u16, "text" for x.txt.gz, NULL if the name does not tell. */
static const char *format_of(const char *file)
{
    static const struct {
        const char *suffix, *format;
        bool packed; /* may be followed by .gz or .zst */
    } known[] = {
        {".u16", "u16", false},  {".u32", "u32", false},    {".txt", "text", true},
        {".text", "text", true}, {".jsonl", "jsonl", true},
    };
    size_t n = strlen(file);
    bool packed = true;
    if (n > 3 && strcmp(file + n - 3, ".gz") == 0)
        n -= 3;
    else if (n > 4 && strcmp(file + n - 4, ".zst") == 0)
        n -= 4;
    else
        packed = false;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t len = strlen(known[i].suffix);
        if (n > len && memcmp(file + n - len, known[i].suffix, len) == 0 &&
            (!packed || known[i].packed))
            return known[i].format;
    }
    return NULL;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The i-th training or validation file; a validation file that is not given is NULL. */
static bool nth_file(const struct data_spec *d, int i, const char **file)
{
    for (int m = -1; m < d->n_mixture; m++) { /* -1: data.train and data.valid */
        const struct domain_spec *in = m < 0 ? NULL : &d->mixture[m];
        int n = in ? in->n_train : d->n_train;
        if (i <= n) {
            *file = i < n ? (in ? in->train : d->train)[i] : in ? in->valid : d->valid;
            return true;
        }
        i -= n + 1;
    }
    return false;
}

static void default_format(struct job_spec *s, struct spec_errors *errs)
{
    static const char hint[] = "set data.format to u16, u32, text, jsonl or instruct";
    const char *format = NULL, *first = NULL, *file;
    for (int i = 0; nth_file(&s->data, i, &file); i++) {
        char shown[120];
        if (!file)
            continue;
        const char *f = format_of(file);
        text_copy(shown, sizeof shown, last_part(file));
        if (!f) {
            spec_error(errs, "$.data.format", hint, "the name \"%s\" does not tell its format",
                       shown);
            return;
        }
        if (format && strcmp(f, format) != 0) {
            spec_error(errs, "$.data.format", "all files of a job have one format",
                       "\"%s\" looks like %s, but \"%.60s\" like %s", shown, f, last_part(first),
                       format);
            return;
        }
        format = f;
        first = file;
    }
    if (format && !(s->data.format = strdup(format)))
        spec_error(errs, "$", "", "out of memory");
}

static void default_name(struct job_spec *s, struct spec_errors *errs)
{
    char model[81], name[129];
    text_copy(model, sizeof model, last_part(s->model));
    if (model[0] == '\0')
        memcpy(model, "model", sizeof "model");
    if (s->method.grouping == GROUP_ONE) /* its budget is what one head a layer is */
        snprintf(name, sizeof name, "%s-%s", model, s->method.name);
    else
        snprintf(name, sizeof name, "%s-%s-%.4g", model, s->method.name, 100 * s->budget);
    s->name = strdup(name);
    if (!s->name)
        spec_error(errs, "$", "", "out of memory");
}

static int64_t at_least(int64_t x, int64_t low)
{
    return x > low ? x : low;
}

/* What the method does not use is written as 0, so that the stored spec says what will happen; what
 * it needs and is not given follows METHODS: 32 k tokens of calibration for the closed forms; a tenth
 * and a third of the training tokens for what is learned, one step at least. */
static void default_tokens(struct job_spec *s, const enum given given[F_COUNT],
                           struct spec_errors *errs)
{
    const struct method *m = &s->method;
    bool learned = m->grouping == GROUP_LEARNED;
    int64_t base = s->tokens_train > 0 ? s->tokens_train : 1000000;
    if (!method_needs_search(m) && !method_merge_calibrates(m))
        s->tokens_search = 0;
    else if (!given[F_TOKENS_SEARCH])
        s->tokens_search = learned ? at_least(base / 10, s->batch_tokens) : 32768;
    else if (given[F_TOKENS_SEARCH] == GIVEN && s->tokens_search == 0)
        spec_error(errs, "$.tokens.search", "leave it out for the default",
                   "method \"%s\" needs tokens to search or calibrate with", m->name);
    if (m->merge == MERGE_MEAN || m->merge == MERGE_SPECTRAL) /* nothing to train there */
        s->tokens_fuse = 0;
    else if (!given[F_TOKENS_FUSE])
        s->tokens_fuse = at_least(base / 3, s->batch_tokens);
    else if (given[F_TOKENS_FUSE] == GIVEN && s->tokens_fuse == 0 && m->merge == MERGE_FUSION)
        spec_error(errs, "$.tokens.fuse", "leave it out for the default",
                   "the fusion operator of method \"%s\" needs tokens to train on", m->name);
    else if (given[F_TOKENS_FUSE] == GIVEN && s->tokens_fuse == 0 && m->merge == MERGE_MASKS)
        spec_error(errs, "$.tokens.fuse",
                   "leave it out for the default, or use merge \"mean\": the same heads at once",
                   "the masks of method \"%s\" fall while it trains and need tokens for that",
                   m->name);
}

static void default_recovery(struct job_spec *s, const enum given given[F_COUNT],
                             struct spec_errors *errs)
{
    /* METHODS D1: LM for what follows paper 1, KL to the parent for the closed forms and paper 2, both for
     * both papers joined */
    bool kl = method_merge_calibrates(&s->method);
    bool lm = !kl || s->method.merge == MERGE_FUSION;
    if (!given[F_RECOVERY_KL] && !given[F_RECOVERY_LM] && !given[F_RECOVERY_BILD]) {
        bool answers = s->data.format && strcmp(s->data.format, "instruct") == 0;
        s->w_kl = kl || answers ? 1 : 0; /* METHODS 2.7: KL on prompts, BiLD on answers */
        s->w_lm = lm && !answers ? 1 : 0;
        s->w_bild = answers ? 1 : 0;
    } /* else what is not given is 0 */
    if (given[F_RECOVERY_KL] == WRONG || given[F_RECOVERY_LM] == WRONG ||
        given[F_RECOVERY_BILD] == WRONG)
        return;
    if (s->w_kl + s->w_lm + s->w_bild <= 0 && (s->tokens_train > 0 || s->tokens_fuse > 0))
        spec_error(errs, "$.recovery", "for example {\"kl\": 1, \"lm\": 0}",
                   "kl, lm and bild are all 0: there is nothing to train for");
}

/* What follows a closed form starts so near the parent that a high rate throws away what was gained: its rate is chosen
 * for the number of steps and the model (METHODS D1; worker/train/schedule.h), unless one is given, and ends at 0. */
static void default_rates(struct job_spec *s, const enum given given[F_COUNT],
                          struct spec_errors *errs)
{
    bool closed = s->method.merge == MERGE_SPECTRAL && s->method.grouping != GROUP_LEARNED;
    if (closed && !given[F_LR])
        s->optim.lr = 0;
    else if (!closed && given[F_LR] == GIVEN && s->optim.lr == 0)
        spec_error(errs, "$.optim.lr", "leave it out for the default",
                   "must be more than 0 for method \"%s\"", s->method.name);
    if (s->optim.lr == 0 && !given[F_FINAL_LR])
        s->optim.final_lr = 0;
}

static void check_nodes(const struct job_spec *s, const enum given given[F_COUNT],
                        struct spec_errors *errs)
{
    int ranks = s->resources.ranks, nodes = s->resources.nodes, names = s->resources.n_node_names;
    if (given[F_RANKS] == WRONG || given[F_NODES] == WRONG)
        return;
    if (ranks % nodes != 0)
        spec_error(errs, "$.resources.nodes",
                   "resources.ranks are those of all nodes together; make it a multiple of nodes",
                   "%d ranks cannot be spread evenly over %d nodes", ranks, nodes);
    if (given[F_NODE_NAMES] == GIVEN && names > 0 && names < nodes)
        spec_error(errs, "$.resources.node_names", "name more nodes, or leave it out for any",
                   "%d name%s for %d nodes", names, names == 1 ? "" : "s", nodes);
}

int spec_slots_per_node(const struct job_spec *s)
{
    int ranks = s->resources.ranks / s->resources.nodes;
    return strcmp(s->resources.device, "cuda") == 0 ? ranks : ranks * s->resources.threads;
}

int64_t spec_slot_memory(const struct job_spec *s)
{
    bool cuda = strcmp(s->resources.device, "cuda") == 0;
    double bytes = s->resources.memory_gib * (1 << 30) / (cuda ? 1 : s->resources.threads);
    return (int64_t)bytes; /* at most 2^50 */
}

int spec_parse(const cJSON *doc, const char *base_dir, struct job_spec *out,
               struct spec_errors *errs)
{
    enum given given[F_COUNT] = {ABSENT};
    set_defaults(out);
    memset(errs, 0, sizeof *errs);
    if (!cJSON_IsObject(doc)) {
        spec_error(errs, "$", "", "a job spec is a JSON object");
        goto fail;
    }
    spec_read_fields(doc, base_dir, out, given, errs);
    if (!given[F_MODEL])
        spec_error(errs, "$.model", "a directory with config.json and safetensors", "is required");
    if (!given[F_DATA_TRAIN] && !given[F_DATA_MIXTURE])
        spec_error(errs, "$.data.train", "for example \"data\": {\"train\": [\"train.u16\"]}",
                   "is required");
    if (given[F_DATA_MIXTURE] && (given[F_DATA_TRAIN] || given[F_DATA_VALID]))
        spec_error(errs, "$.data.mixture", "each domain of a mixture has its own train and valid",
                   "stands beside data.%s", given[F_DATA_TRAIN] ? "train" : "valid");
    if (!given[F_DATA_FORMAT] && (given[F_DATA_TRAIN] == GIVEN || given[F_DATA_MIXTURE] == GIVEN))
        default_format(out, errs);
    if (out->model && !given[F_NAME])
        default_name(out, errs);
    if (given[F_METHOD] != WRONG) {
        default_tokens(out, given, errs);
        default_recovery(out, given, errs);
        default_rates(out, given, errs);
    }
    if (out->data.seq_len > 0 && out->batch_tokens < out->data.seq_len)
        spec_error(errs, "$.batch_tokens", "a step needs at least one sequence",
                   "%lld is less than data.seq_len (%d)", (long long)out->batch_tokens,
                   out->data.seq_len);
    if (given[F_METHOD] != WRONG && !out->method.uniform && strcmp(out->format, "gqa") == 0)
        spec_error(errs, "$.export.format", "use \"dha\", \"expand\", or method \"spectral-gqa\"",
                   "method \"%s\" does not give a plain GQA checkpoint", out->method.name);
    check_nodes(out, given, errs);
    if (errs->n == 0)
        return 0;
fail:
    spec_finish(out);
    return -1;
}

cJSON *spec_to_json(const struct job_spec *s)
{
    cJSON *doc = cJSON_CreateObject();
    for (int i = 0; i < F_COUNT; i++) {
        if (spec_write_field(s, i, doc) != 0) {
            cJSON_Delete(doc);
            return NULL;
        }
    }
    return doc;
}

void spec_finish(struct job_spec *s)
{
    free(s->name);
    free(s->model);
    for (int i = 0; i < s->data.n_train; i++)
        free(s->data.train[i]);
    free(s->data.train);
    spec_lists_finish(s);
    free(s->data.valid);
    free(s->data.format);
    free(s->data.tokenizer);
    memset(s, 0, sizeof *s);
}

/* ---- path=value ---- */

static int no_way(struct dha_err *e, const char *part, const char *why)
{
    char shown[48];
    text_copy(shown, sizeof shown, part);
    return dha_fail(e, DHA_E_USAGE, "cannot set a member of \"%s\": it is not %s", shown, why);
}

int spec_set(cJSON *doc, const char *assignment, struct dha_err *e)
{
    const char *eq = strchr(assignment, '=');
    char path[256], *rest = path, *part;
    if (!cJSON_IsObject(doc))
        return dha_fail(e, DHA_E_USAGE, "a job spec is a JSON object");
    if (!eq || eq == assignment) {
        dha_fail(e, DHA_E_USAGE, "\"%.80s\" is not of the form path=value", assignment);
        return dha_err_hint(e, "for example optim.lr=1e-3");
    }
    size_t n = (size_t)(eq - assignment);
    if (n >= sizeof path)
        return dha_fail(e, DHA_E_USAGE, "a path of more than %zu bytes", sizeof path - 1);
    memcpy(path, assignment, n);
    path[n] = '\0';
    for (size_t i = 0; i < n; i++)
        if (path[i] == '.' && (i == 0 || i + 1 == n || path[i + 1] == '.'))
            return dha_fail(e, DHA_E_USAGE, "the path \"%s\" has an empty part", path);

    cJSON *obj = doc;
    for (part = strsep(&rest, "."); rest; part = strsep(&rest, ".")) {
        cJSON *next = cJSON_GetObjectItemCaseSensitive(obj, part);
        if (!next || cJSON_IsNull(next)) {
            if (next)
                cJSON_DeleteItemFromObjectCaseSensitive(obj, part);
            next = cJSON_AddObjectToObject(obj, part);
            if (!next)
                return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        }
        if (!cJSON_IsObject(next))
            return no_way(e, part, "an object");
        obj = next;
    }
    const char *text = eq + 1;
    cJSON *v = json_parse(text, strlen(text), NULL, NULL);
    if (!v) {
        /* a bare word is a string; that it is UTF-8 is checked here, as json_parse() would */
        for (size_t i = 0, len = strlen(text); i < len;) {
            size_t k = text_utf8_len((const unsigned char *)text + i, len - i);
            if (k == 0)
                return dha_fail(e, DHA_E_USAGE, "the value of %s is not UTF-8", path);
            i += k;
        }
        v = cJSON_CreateString(text);
    }
    if (json_put(obj, part, v) != 0)
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    return 0;
}

/* ---- stages ---- */

int spec_stages(const struct job_spec *s, enum stage_kind out[STAGE_KINDS])
{
    int n = 0;
    if (method_needs_search(&s->method))
        out[n++] = STAGE_SEARCH;
    out[n++] = STAGE_FUSE;
    if (s->tokens_train > 0)
        out[n++] = STAGE_TRAIN;
    out[n++] = STAGE_EVAL;
    out[n++] = STAGE_EXPORT;
    return n;
}

/* Whether stage k reads the field, given that some method's stage k does. */
static bool reads(const struct job_spec *s, enum stage_kind k, int row)
{
    const struct method *m = &s->method;
    bool trains = k == STAGE_TRAIN || (k == STAGE_FUSE && s->tokens_fuse > 0) ||
                  (k == STAGE_SEARCH && m->grouping == GROUP_LEARNED);
    switch (row) {
    case F_BUDGET: return m->grouping != GROUP_ONE;
    case F_DATA_TRAIN:
        if (s->data.n_mixture > 0)
            return false;
        /* eval reads only the held-out part; a fuse that neither trains nor calibrates likewise */
        if (k == STAGE_EVAL || (k == STAGE_FUSE && !trains && !method_merge_calibrates(m)))
            return s->data.valid == NULL;
        return true;
    case F_TOKENS_SEARCH: return k == STAGE_SEARCH || method_merge_calibrates(m);
    case F_LR_OMEGA: /* masks that are learned have its rate */
        return trains && (k == STAGE_SEARCH || m->merge == MERGE_FUSION ||
                          (m->merge == MERGE_MASKS && m->masks != MASKS_LINEAR));
    case F_LR_LAMBDA: return trains && m->merge == MERGE_FUSION;
    case F_DATA_MIXTURE: return s->data.n_mixture > 0;
    case F_EVAL_TASKS:
    case F_EVAL_SHOTS:
    case F_EVAL_LIMIT: return s->n_eval_tasks > 0;
    case F_RECOVERY_BILD: return trains && s->w_bild > 0;
    case F_RECOVERY_KL:
    case F_RECOVERY_LM:
    case F_BATCH_TOKENS:
    case F_LR:
    case F_LR_ATTENTION:
    case F_WARMUP:
    case F_FINAL_LR:
    case F_CLIP:
    case F_WEIGHT_DECAY: return trains;
    case F_SEED: return trains || k == STAGE_SEARCH || method_merge_calibrates(m);
    default: return true;
    }
}

cJSON *spec_stage_inputs(const struct job_spec *s, enum stage_kind k)
{
    cJSON *doc = cJSON_CreateObject();
    int rc = json_put_str(doc, "kind", stage_kind_name(k));
    for (int i = 0; i < F_COUNT; i++) {
        if (!(spec_field[i].stages & (1u << k)) || !reads(s, k, i))
            continue;
        if (i == F_METHOD)
            rc |= json_put(doc, "method", method_stage_inputs(&s->method, k));
        else
            rc |= spec_write_field(s, i, doc);
    }
    /* without a file of its own, validation takes the end of the training data away from it */
    if (spec_field[F_DATA_TRAIN].stages & (1u << k))
        rc |= json_put_bool(doc, "holdout", s->data.valid == NULL);
    if (rc != 0) {
        cJSON_Delete(doc);
        return NULL;
    }
    return doc;
}
