#include "proto/probe.h"

#include <stdio.h>
#include <string.h>

#include "proto/text.h"

#define FORMAT "dha-probe-1"

/* Part of an environment variable later: no comma, no blank. */
static bool is_uuid(const char *text)
{
    return text[0] && strlen(text) < 64 &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") ==
               strlen(text);
}

static int need_bytes(const cJSON *doc, const char *key, int64_t *out, struct dha_err *e)
{
    if (json_need_int(doc, key, out, e) != 0)
        return -1;
    return *out >= 0 && *out <= INT64_MAX / 2
               ? 0
               : dha_fail(e, DHA_E_PROTOCOL, "\"%s\" is no size", key);
}

static int read_gpus(const cJSON *list, struct probe *out, struct dha_err *e)
{
    const cJSON *c;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > PROBE_GPUS)
        return dha_fail(e, DHA_E_PROTOCOL, "\"gpus\" is no list of at most %d", PROBE_GPUS);
    cJSON_ArrayForEach(c, list)
    {
        const char *uuid, *name;
        int i = out->n_gpus;
        if (!cJSON_IsObject(c) || json_need_str(c, "uuid", &uuid, e) != 0 ||
            json_need_str(c, "name", &name, e) != 0 ||
            need_bytes(c, "memory", &out->gpu[i].memory, e) != 0)
            return dha_fail(e, DHA_E_PROTOCOL, "gpus[%d] lacks uuid, name or memory", i);
        if (!is_uuid(uuid))
            return dha_fail(e, DHA_E_PROTOCOL, "gpus[%d] has no uuid", i);
        for (int k = 0; k < i; k++)
            if (strcmp(out->gpu[k].uuid, uuid) == 0)
                return dha_fail(e, DHA_E_PROTOCOL, "gpus[%d] and gpus[%d] are the same", k, i);
        snprintf(out->gpu[i].uuid, sizeof out->gpu[i].uuid, "%s", uuid);
        text_copy(out->gpu[i].name, sizeof out->gpu[i].name, name);
        out->n_gpus++;
    }
    return 0;
}

static int read_all(const cJSON *doc, struct probe *out, struct dha_err *e)
{
    const char *text;
    int64_t n;
    int cores[CORES_MAX];
    const cJSON *c;
    if (!cJSON_IsObject(doc) || json_need_str(doc, "format", &text, e) != 0 ||
        strcmp(text, FORMAT) != 0)
        return dha_fail(e, DHA_E_PROTOCOL, "it is no %s", FORMAT);
    if (json_need_str(doc, "cores", &text, e) != 0 || json_need_int(doc, "n_cores", &n, e) != 0 ||
        need_bytes(doc, "memory", &out->memory, e) != 0)
        return -1;
    if (n < 1 || n > CORES_MAX || strlen(text) >= sizeof out->cores ||
        (text[0] && cores_read(text, cores, CORES_MAX) != n))
        return dha_fail(e, DHA_E_PROTOCOL, "\"cores\" is no list of %lld cores", (long long)n);
    out->n_cores = (int)n;
    snprintf(out->cores, sizeof out->cores, "%s", text);
    const cJSON *backends = json_get(doc, "backends");
    cJSON_ArrayForEach(c, backends)
        out->cuda |= cJSON_IsString(c) && strcmp(c->valuestring, "cuda") == 0;
    return read_gpus(json_get(doc, "gpus"), out, e);
}

int probe_parse(const cJSON *doc, struct probe *out, struct dha_err *e)
{
    memset(out, 0, sizeof *out);
    if (read_all(doc, out, e) == 0)
        return 0;
    memset(out, 0, sizeof *out);
    return dha_err_context(e, "what the node's worker says it has");
}

cJSON *probe_to_json(const struct probe *p)
{
    cJSON *doc = cJSON_CreateObject(), *backends = cJSON_CreateArray(), *gpus = cJSON_CreateArray();
    int rc = json_put_str(doc, "format", FORMAT) | json_put_str(doc, "cores", p->cores) |
             json_put_int(doc, "n_cores", p->n_cores) | json_put_id(doc, "memory", p->memory);
    rc |= !cJSON_AddItemToArray(backends, cJSON_CreateString("cpu"));
    if (p->cuda)
        rc |= !cJSON_AddItemToArray(backends, cJSON_CreateString("cuda"));
    for (int i = 0; i < p->n_gpus && rc == 0; i++) {
        cJSON *g = cJSON_CreateObject();
        rc = json_put_str(g, "uuid", p->gpu[i].uuid) | json_put_str(g, "name", p->gpu[i].name) |
             json_put_id(g, "memory", p->gpu[i].memory);
        if (!cJSON_AddItemToArray(gpus, g)) {
            cJSON_Delete(g);
            rc = -1;
        }
    }
    rc |= json_put(doc, "backends", backends);
    rc |= json_put(doc, "gpus", gpus);
    if (rc != 0) {
        cJSON_Delete(doc);
        return NULL;
    }
    return doc;
}
