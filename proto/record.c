/* record.c: journal lines. One table of fields a record type serves reading and writing, so the two
 * cannot drift apart. Numbers are written with 17 digits (or as "nan" -> null): a loss read back is
 * the loss that was written, bit for bit. */
#include "proto/record.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/text.h"

enum field_type { TEXT, INT, I64, NUM, MAP };

struct field {
    const char *key;
    enum field_type type;
    size_t at, cap; /* offset in struct record; bytes of a TEXT */
    bool required;
    bool exact; /* TEXT that must not be cut: a path or a digest */
    bool nan;   /* NUM that is NaN when absent */
};

#define IN(member) offsetof(struct record, member)
#define STR(key, member, ...)                                                                      \
    {                                                                                              \
        key, TEXT, IN(member), sizeof((struct record *)0)->member, __VA_ARGS__                     \
    }
#define FIELD_MAX 20

static const struct {
    const char *name;
    struct field fields[FIELD_MAX];
} types[] = {
    [REC_HELLO] = {"hello",
                   {STR("stage", hello.stage, .required = true),
                    STR("backend", hello.backend, .required = false),
                    STR("version", hello.version, .required = false),
                    STR("host", hello.host, .required = false),
                    {"attempt", INT, IN(hello.attempt), .required = true},
                    {"ranks", INT, IN(hello.ranks), .required = false},
                    {"threads", INT, IN(hello.threads), .required = false},
                    {"pid", INT, IN(hello.pid), .required = false},
                    {"steps", I64, IN(hello.steps), .required = false},
                    {"resumed_from", I64, IN(hello.resumed_from), .required = false}}},
    [REC_PHASE] = {"phase",
                   {STR("name", phase.name, .required = true),
                    {"done", I64, IN(phase.done), .required = false},
                    {"total", I64, IN(phase.total), .required = false}}},
    [REC_PROGRESS] = {"progress",
                      {{"step", I64, IN(progress.step), .required = true},
                       {"steps", I64, IN(progress.steps), .required = false},
                       {"tokens", I64, IN(progress.tokens), .required = false},
                       {"loss", NUM, IN(progress.loss), .required = false},
                       {"lm", NUM, IN(progress.lm), .required = false},
                       {"kl", NUM, IN(progress.kl), .required = false},
                       {"lr", NUM, IN(progress.lr), .required = false},
                       {"grad_norm", NUM, IN(progress.grad_norm), .required = false},
                       {"tokens_per_s", NUM, IN(progress.tokens_per_s), .required = false},
                       {"comm_ms", NUM, IN(progress.comm_ms), .required = false},
                       {"eta_s", NUM, IN(progress.eta_s), .required = false},
                       {"fusion_loss", NUM, IN(progress.fusion_loss), .nan = true},
                       {"lambda", NUM, IN(progress.lambda), .nan = true},
                       {"threshold", NUM, IN(progress.threshold), .nan = true},
                       {"bild", NUM, IN(progress.bild), .nan = true},
                       {"closed", NUM, IN(progress.closed), .nan = true},
                       {"teacher_ms", NUM, IN(progress.teacher_ms), .nan = true}}},
    [REC_HEAD_BUDGET] = {"head_budget",
                         {{"layer", INT, IN(head_budget.layer), .required = true},
                          STR("kind", head_budget.kind, .required = true, .exact = true),
                          {"heads", INT, IN(head_budget.heads), .required = true},
                          {"map", MAP, IN(head_budget.map), .required = false}}},
    [REC_LAYER] = {"layer",
                   {STR("name", layer.name, .required = true, .exact = true),
                    {"layer", INT, IN(layer.layer), .required = true},
                    STR("kind", layer.kind, .required = true, .exact = true),
                    {"step", I64, IN(layer.step), .required = false},
                    {"value", NUM, IN(layer.value), .required = true}}},
    [REC_CHECKPOINT] = {"checkpoint",
                        {{"step", I64, IN(checkpoint.step), .required = true},
                         {"bytes", I64, IN(checkpoint.bytes), .required = false},
                         STR("path", checkpoint.path, .required = true, .exact = true),
                         STR("digest", checkpoint.digest, .required = true, .exact = true),
                         {"valid_loss", NUM, IN(checkpoint.valid_loss), .nan = true}}},
    [REC_EVAL] = {"eval",
                  {STR("name", eval.name, .required = true, .exact = true),
                   {"loss", NUM, IN(eval.loss), .required = true},
                   {"tokens", I64, IN(eval.tokens), .required = false},
                   {"windows", I64, IN(eval.windows), .required = false},
                   {"step", I64, IN(eval.step), .required = false},
                   {"trained_tokens", I64, IN(eval.trained_tokens), .required = false}}},
    [REC_ERROR] = {"error",
                   {STR("code", error.code, .required = true, .exact = true),
                    STR("message", error.message, .required = false),
                    STR("hint", error.hint, .required = false)}},
    [REC_BYE] = {"bye",
                 {STR("code", bye.code, .required = true, .exact = true),
                  {"tokens", I64, IN(bye.tokens), .required = false},
                  {"seconds", NUM, IN(bye.seconds), .required = false},
                  {"peak_rss", I64, IN(bye.peak_rss), .required = false},
                  {"kv_parent", I64, IN(bye.kv_parent), .required = false},
                  {"kv_converted", I64, IN(bye.kv_converted), .required = false},
                  STR("output", bye.output, .exact = true)}},
    [REC_TASK] = {"task",
                  {STR("model", task.model, .required = true, .exact = true),
                   STR("task", task.task, .required = true, .exact = true),
                   {"questions", I64, IN(task.questions), .required = true},
                   {"acc", NUM, IN(task.acc), .required = true},
                   {"acc_stderr", NUM, IN(task.acc_stderr), .nan = true},
                   {"acc_norm", NUM, IN(task.acc_norm), .nan = true},
                   {"acc_norm_stderr", NUM, IN(task.acc_norm_stderr), .nan = true},
                   {"exact_match", NUM, IN(task.exact_match), .nan = true}}},
    [REC_UNKNOWN] = {"unknown", {{.key = NULL}}},
};
_Static_assert(sizeof types / sizeof types[0] == REC_UNKNOWN + 1, "one row a record type");

const char *record_type_name(enum record_type t)
{
    return types[(unsigned)t <= REC_UNKNOWN ? t : REC_UNKNOWN].name;
}

/* ---- reading ---- */

static int wrong(const struct field *f, const char *what, struct dha_err *e)
{
    return dha_fail(e, DHA_E_PROTOCOL, "\"%s\" %s", f->key, what);
}

static int read_text(const struct field *f, const cJSON *v, char *at, struct dha_err *e)
{
    if (!cJSON_IsString(v))
        return wrong(f, "is not a string", e);
    size_t n = strlen(v->valuestring);
    if (n >= f->cap && f->exact)
        return wrong(f, "is too long", e);
    if (n >= f->cap)
        n = f->cap - 1;
    memcpy(at, v->valuestring, n);
    at[n] = '\0';
    text_trim_utf8(at);
    return 0;
}

static int read_map(const struct field *f, const cJSON *v, struct record *r, struct dha_err *e)
{
    const int cap = (int)(sizeof r->head_budget.map / sizeof r->head_budget.map[0]);
    const cJSON *c;
    int n = 0;
    if (!cJSON_IsArray(v))
        return wrong(f, "is not a list", e);
    cJSON_ArrayForEach(c, v)
    {
        int64_t x;
        if (n == cap)
            return wrong(f, "has more than 256 heads", e);
        if (!cJSON_IsNumber(c) || !json_to_int(c, &x) || x < 0 || x >= r->head_budget.heads)
            return wrong(f, "has an entry that is none of the kept heads", e);
        r->head_budget.map[n++] = (int)x;
    }
    r->head_budget.n_map = n;
    return 0;
}

static int read_field(const struct field *f, const cJSON *v, struct record *r, struct dha_err *e)
{
    void *at = (char *)r + f->at;
    int64_t x;
    switch (f->type) {
    case TEXT: return read_text(f, v, at, e);
    case MAP: return read_map(f, v, r, e);
    case NUM:
        if (cJSON_IsNull(v))
            *(double *)at = NAN; /* JSON has no other way to say so */
        else if (cJSON_IsNumber(v))
            *(double *)at = v->valuedouble;
        else
            return wrong(f, "is not a number", e);
        return 0;
    case INT:
    case I64:
        if (!json_to_int(v, &x))
            return wrong(f, "is not a whole number", e);
        if (f->type == INT && (x < INT_MIN || x > INT_MAX))
            return wrong(f, "is out of range", e);
        if (f->type == INT)
            *(int *)at = (int)x;
        else
            *(int64_t *)at = x;
        return 0;
    }
    return 0;
}

static int read_fields(const cJSON *doc, struct record *r, struct dha_err *e)
{
    for (const struct field *f = types[r->type].fields; f->key; f++) {
        const cJSON *v = json_get(doc, f->key);
        if (v) {
            if (read_field(f, v, r, e) != 0)
                return -1;
        } else if (f->required) {
            return wrong(f, "is missing", e);
        } else if (f->nan) {
            *(double *)((char *)r + f->at) = NAN;
        }
    }
    return 0;
}

static int check(const struct record *r, struct dha_err *e)
{
    if (r->type == REC_HEAD_BUDGET) {
        if (strcmp(r->head_budget.kind, "key") != 0 && strcmp(r->head_budget.kind, "value") != 0)
            return dha_fail(e, DHA_E_PROTOCOL, "\"kind\" is neither key nor value");
        if (r->head_budget.layer < 0 || r->head_budget.heads < 1)
            return dha_fail(e, DHA_E_PROTOCOL, "a layer under 0 or less than one head");
    }
    if ((r->type == REC_PROGRESS && (r->progress.step < 0 || r->progress.tokens < 0)) ||
        (r->type == REC_CHECKPOINT && (r->checkpoint.step < 0 || r->checkpoint.bytes < 0)) ||
        (r->type == REC_BYE && r->bye.tokens < 0))
        return dha_fail(e, DHA_E_PROTOCOL, "a negative count");
    return 0;
}

int record_parse(const char *line, size_t len, struct record *r, struct dha_err *e)
{
    const struct json_limits lim = {.max_bytes = RECORD_MAX, .max_depth = 8};
    memset(r, 0, sizeof *r);
    cJSON *doc = json_parse(line, len, &lim, e);
    if (!doc)
        return e && e->code == DHA_E_TOO_LARGE
                   ? dha_fail(e, DHA_E_PROTOCOL, "a journal line of more than %d bytes", RECORD_MAX)
                   : dha_err_context(e, "journal line");
    const char *t;
    int rc = json_need_str(doc, "t", &t, e);
    if (rc == 0)
        rc = json_need_num(doc, "time", &r->time, e);
    if (rc == 0) {
        int k = 0;
        while (k < REC_UNKNOWN && strcmp(types[k].name, t) != 0)
            k++;
        r->type = (enum record_type)k;
        rc = read_fields(doc, r, e);
        if (rc == 0)
            rc = check(r, e);
        if (rc != 0)
            dha_err_context(e, "%s record", record_type_name(r->type));
    }
    if (rc != 0)
        dha_err_context(e, "journal line");
    cJSON_Delete(doc);
    return rc;
}

/* ---- writing ---- */

struct out {
    char *p;
    size_t n, cap;
    bool full;
};

static void put(struct out *o, const char *s, size_t n)
{
    if (o->full || o->cap - o->n <= n) {
        o->full = true;
        return;
    }
    memcpy(o->p + o->n, s, n);
    o->n += n;
}

static void puts_(struct out *o, const char *s)
{
    put(o, s, strlen(s));
}

/* Bytes that are not UTF-8 (a file name may have them) become '?': the line stays a record. */
static void put_text(struct out *o, const char *s, size_t cap)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t n = strnlen(s, cap);
    puts_(o, "\"");
    for (size_t i = 0; i < n;) {
        size_t len = text_utf8_len(u + i, n - i);
        if (u[i] == '"' || u[i] == '\\') {
            char two[2] = {'\\', (char)u[i]};
            put(o, two, 2);
        } else if (u[i] < 0x20) {
            char esc[8];
            put(o, esc, (size_t)snprintf(esc, sizeof esc, "\\u%04x", u[i]));
        } else if (len == 0) {
            puts_(o, "?");
        } else {
            put(o, s + i, len);
        }
        i += len ? len : 1;
    }
    puts_(o, "\"");
}

static void put_num(struct out *o, double v)
{
    char text[40];
    if (!isfinite(v)) {
        puts_(o, "null");
        return;
    }
    snprintf(text, sizeof text, "%.15g", v); /* short where that is exact */
    double back = 0;
    if (sscanf(text, "%lf", &back) != 1 || back < v || back > v)
        snprintf(text, sizeof text, "%.17g", v);
    puts_(o, text);
}

static void put_int(struct out *o, int64_t v)
{
    char text[32];
    /* beyond 2^53 only a string survives a JSON reader */
    const bool quote = v > (INT64_C(1) << 53) || v < -(INT64_C(1) << 53);
    snprintf(text, sizeof text, quote ? "\"%lld\"" : "%lld", (long long)v);
    puts_(o, text);
}

static void put_field(struct out *o, const struct field *f, const struct record *r)
{
    const void *at = (const char *)r + f->at;
    puts_(o, ",\"");
    puts_(o, f->key);
    puts_(o, "\":");
    switch (f->type) {
    case TEXT: put_text(o, at, f->cap); break;
    case NUM: put_num(o, *(const double *)at); break;
    case INT: put_int(o, *(const int *)at); break;
    case I64: put_int(o, *(const int64_t *)at); break;
    case MAP:
        puts_(o, "[");
        for (int i = 0; i < r->head_budget.n_map && i < 256; i++) {
            if (i)
                puts_(o, ",");
            put_int(o, r->head_budget.map[i]);
        }
        puts_(o, "]");
        break;
    }
}

int record_format(const struct record *r, char *buf, size_t cap)
{
    struct out o = {.p = buf, .cap = cap};
    if ((unsigned)r->type > REC_UNKNOWN)
        return -1;
    puts_(&o, "{\"t\":\"");
    puts_(&o, types[r->type].name);
    puts_(&o, "\",\"time\":");
    put_num(&o, isfinite(r->time) ? r->time : 0);
    for (const struct field *f = types[r->type].fields; f->key; f++) {
        double num = f->nan ? *(const double *)(const void *)((const char *)r + f->at) : 0;
        if (!isnan(num))
            put_field(&o, f, r);
    }
    puts_(&o, "}\n");
    if (o.full || o.n > RECORD_MAX || o.n > INT_MAX)
        return -1;
    buf[o.n] = '\0'; /* put() always leaves room for it */
    return (int)o.n;
}
