#include "proto/stage.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

#define FORMAT "dha-stage-1"

static int check_names(const cJSON *doc, struct dha_err *e)
{
    static const char *const names[] = {"format", "job", "stage", "attempt", "uuid",   "kind",
                                        "dir",    "out", "cache", "spec",    "inputs", "places"};
    const cJSON *c;
    cJSON_ArrayForEach(c, doc)
    {
        size_t i = 0, n = sizeof names / sizeof names[0];
        while (i < n && strcmp(names[i], c->string) != 0)
            i++;
        if (i == n) {
            char shown[48];
            text_copy(shown, sizeof shown, c->string);
            return dha_fail(e, DHA_E_PROTOCOL, "unknown field \"%s\"", shown);
        }
    }
    return 0;
}

static int need_abs(const char *path, const char *what, struct dha_err *e)
{
    if (path && path[0] != '/')
        return dha_fail(e, DHA_E_PROTOCOL, "%s is not an absolute path: \"%.200s\"", what, path);
    return 0;
}

static int read_dir(const cJSON *doc, const char *key, char **out, struct dha_err *e)
{
    const char *s;
    if (json_need_str(doc, key, &s, e) != 0 || need_abs(s, key, e) != 0)
        return -1;
    *out = strdup(s);
    return *out ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static int read_inputs(const cJSON *obj, struct stage_spec *out, struct dha_err *e)
{
    const cJSON *c;
    if (obj && !cJSON_IsObject(obj))
        return dha_fail(e, DHA_E_PROTOCOL, "\"inputs\" is not an object");
    cJSON_ArrayForEach(c, obj)
    {
        enum stage_kind k;
        if (stage_kind_from_name(c->string, &k) != 0) {
            char shown[48];
            text_copy(shown, sizeof shown, c->string);
            return dha_fail(e, DHA_E_PROTOCOL, "inputs: there is no stage \"%s\"", shown);
        }
        if (read_dir(obj, c->string, &out->inputs[k], e) != 0)
            return dha_err_context(e, "inputs");
    }
    return 0;
}

static int take_place(const cJSON *v, const char *key, char *out, size_t size, struct dha_err *e)
{
    const char *text;
    if (json_need_str(v, key, &text, e) != 0)
        return -1;
    if (strlen(text) >= size)
        return dha_fail(e, DHA_E_PROTOCOL, "%s has more than %zu characters", key, size - 1);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int read_places(const cJSON *list, struct stage_spec *out, struct dha_err *e)
{
    const cJSON *c;
    int cores[CORES_MAX];
    if (!list)
        return 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != out->spec.resources.ranks)
        return dha_fail(e, DHA_E_PROTOCOL, "\"places\" is no list of one entry a rank");
    out->places = calloc((size_t)out->spec.resources.ranks, sizeof *out->places);
    if (!out->places)
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    cJSON_ArrayForEach(c, list)
    {
        struct stage_place *p = &out->places[out->n_places];
        if (!cJSON_IsObject(c) || take_place(c, "node", p->node, sizeof p->node, e) != 0 ||
            take_place(c, "cores", p->cores, sizeof p->cores, e) != 0 ||
            take_place(c, "gpu", p->gpu, sizeof p->gpu, e) != 0)
            return dha_err_context(e, "places[%d]", out->n_places);
        if (p->cores[0] && cores_read(p->cores, cores, CORES_MAX) < 0)
            return dha_fail(e, DHA_E_PROTOCOL, "places[%d]: \"%.60s\" is no list of cores",
                            out->n_places, p->cores);
        out->n_places++;
    }
    return 0;
}

static int read_spec(const cJSON *v, struct job_spec *out, struct dha_err *e)
{
    struct spec_errors errs;
    if (!v)
        return dha_fail(e, DHA_E_PROTOCOL, "\"spec\" is missing");
    if (spec_parse(v, NULL, out, &errs) != 0) {
        dha_fail(e, DHA_E_SPEC, "spec: %s: %s", errs.at[0].path, errs.at[0].msg);
        if (errs.n > 1)
            dha_err_context(e, "%d errors, the first", errs.n);
        dha_err_hint(e, "%s", errs.at[0].hint);
        if (e)
            text_copy(e->path, sizeof e->path, errs.at[0].path);
        return -1;
    }
    if (need_abs(out->model, "spec.model", e) != 0 ||
        need_abs(out->data.valid, "spec.data.valid", e) != 0 ||
        need_abs(out->data.tokenizer, "spec.data.tokenizer", e) != 0)
        return -1;
    for (int i = 0; i < out->data.n_train; i++)
        if (need_abs(out->data.train[i], "spec.data.train", e) != 0)
            return -1;
    for (int i = 0; i < out->data.n_mixture; i++) {
        const struct domain_spec *d = &out->data.mixture[i];
        for (int k = 0; k < d->n_train; k++)
            if (need_abs(d->train[k], "spec.data.mixture's train", e) != 0)
                return -1;
        if (need_abs(d->valid, "spec.data.mixture's valid", e) != 0)
            return -1;
    }
    for (int i = 0; i < out->n_eval_tasks; i++)
        if (need_abs(out->eval_tasks[i].path, "spec.eval.tasks", e) != 0)
            return -1;
    return 0;
}

static int read_all(const cJSON *doc, struct stage_spec *out, struct dha_err *e)
{
    const char *s;
    int64_t attempt;
    if (!cJSON_IsObject(doc))
        return dha_fail(e, DHA_E_PROTOCOL, "not an object");
    if (json_need_str(doc, "format", &s, e) != 0)
        return -1;
    if (strcmp(s, FORMAT) != 0) {
        char shown[48];
        text_copy(shown, sizeof shown, s);
        dha_fail(e, DHA_E_VERSION, "its format is \"%s\"; this worker reads %s", shown, FORMAT);
        return dha_err_hint(e, "use the worker of the same dha as the controller");
    }
    if (check_names(doc, e) != 0 || json_need_int(doc, "job", &out->job, e) != 0 ||
        json_need_int(doc, "stage", &out->stage, e) != 0 ||
        json_need_int(doc, "attempt", &attempt, e) != 0)
        return -1;
    if (out->job < 0 || out->stage < 0)
        return dha_fail(e, DHA_E_PROTOCOL, "a negative id");
    if (attempt < 0 || attempt > INT_MAX)
        return dha_fail(e, DHA_E_PROTOCOL, "attempt %lld is out of range", (long long)attempt);
    out->attempt = (int)attempt;
    if (json_need_str(doc, "uuid", &s, e) != 0)
        return -1;
    if (strlen(s) >= sizeof out->uuid)
        return dha_fail(e, DHA_E_PROTOCOL, "uuid is longer than %zu characters",
                        sizeof out->uuid - 1);
    memcpy(out->uuid, s, strlen(s) + 1);
    if (json_need_str(doc, "kind", &s, e) != 0)
        return -1;
    if (stage_kind_from_name(s, &out->kind) != 0) {
        char shown[48];
        text_copy(shown, sizeof shown, s);
        return dha_fail(e, DHA_E_PROTOCOL, "there is no stage kind \"%s\"", shown);
    }
    if (read_dir(doc, "dir", &out->dir, e) != 0 || read_dir(doc, "out", &out->out, e) != 0 ||
        read_dir(doc, "cache", &out->cache, e) != 0)
        return -1;
    if (read_spec(json_get(doc, "spec"), &out->spec, e) != 0)
        return -1;
    return read_inputs(json_get(doc, "inputs"), out, e) == 0 &&
                   read_places(json_get(doc, "places"), out, e) == 0
               ? 0
               : -1;
}

int stage_spec_parse(const cJSON *doc, struct stage_spec *out, struct dha_err *e)
{
    memset(out, 0, sizeof *out);
    if (read_all(doc, out, e) == 0)
        return 0;
    stage_spec_finish(out);
    return dha_err_context(e, "stage spec");
}

static int put_places(cJSON *doc, const struct stage_spec *s)
{
    cJSON *list = cJSON_AddArrayToObject(doc, "places");
    int rc = list ? 0 : -1;
    for (int i = 0; i < s->n_places && rc == 0; i++) {
        cJSON *o = cJSON_CreateObject();
        rc = json_put_str(o, "node", s->places[i].node) |
             json_put_str(o, "cores", s->places[i].cores) |
             json_put_str(o, "gpu", s->places[i].gpu);
        if (rc != 0 || !cJSON_AddItemToArray(list, o)) {
            cJSON_Delete(o);
            rc = -1;
        }
    }
    return rc;
}

cJSON *stage_spec_to_json(const struct stage_spec *s)
{
    cJSON *doc = cJSON_CreateObject();
    int rc = json_put_str(doc, "format", FORMAT);
    rc |= json_put_id(doc, "job", s->job);
    rc |= json_put_id(doc, "stage", s->stage);
    rc |= json_put_int(doc, "attempt", s->attempt);
    rc |= json_put_str(doc, "uuid", s->uuid);
    rc |= json_put_str(doc, "kind", stage_kind_name(s->kind));
    rc |= json_put_str(doc, "dir", s->dir);
    rc |= json_put_str(doc, "out", s->out);
    rc |= json_put_str(doc, "cache", s->cache);
    rc |= json_put(doc, "spec", spec_to_json(&s->spec));
    cJSON *inputs = cJSON_CreateObject();
    for (int i = 0; i < STAGE_KINDS; i++)
        if (s->inputs[i])
            rc |= json_put_str(inputs, stage_kind_name((enum stage_kind)i), s->inputs[i]);
    rc |= json_put(doc, "inputs", inputs);
    if (s->n_places)
        rc |= put_places(doc, s);
    if (rc != 0) {
        cJSON_Delete(doc);
        return NULL;
    }
    return doc;
}

void stage_spec_finish(struct stage_spec *s)
{
    free(s->dir);
    free(s->out);
    free(s->cache);
    for (int i = 0; i < STAGE_KINDS; i++)
        free(s->inputs[i]);
    free(s->places);
    spec_finish(&s->spec);
    memset(s, 0, sizeof *s);
}
