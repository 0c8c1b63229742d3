/* plan.c: the result of a search as a value: made, filled, written as JSON and read back.
 *
 *   {"method": "spectral", "cost_unit": "nats", "layers": 4, "heads": 8,
 *    "entries": [{"layer": 0, "kind": "key", "left": 0.2, "choices": [{"n": 1, "cost": 0.5, "groups": [0,0,0,0,0,0,0,0]}, ...]}, ...],
 *    "distance": [[...heads*heads...], ...]}          "distance" only for learned plans, "left" only for costs
 *                                                    behind a regression
 *
 * Entries come in order (layer 0 key, layer 0 value, layer 1 key ...). The reader takes nothing on trust: the file lies
 * between two stages and may be damaged.
 */
#include "worker/method/method.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/linalg.h"

static const char *kind_name(int entry)
{
    return entry % 2 ? "value" : "key";
}

int plan_alloc(struct plan *p, int layers, int heads, struct dha_err *e)
{
    memset(p, 0, sizeof *p);
    if (layers < 1 || layers > MODEL_MAX_LAYERS || heads < 1 || heads > MODEL_MAX_HEADS)
        return dha_fail(e, DHA_E_INPUT, "a plan of %d layers and %d heads; at most %d and %d",
                        layers, heads, MODEL_MAX_LAYERS, MODEL_MAX_HEADS);
    p->entries = la_alloc(2 * (size_t)layers, sizeof *p->entries, "a plan", e);
    if (!p->entries)
        return -1;
    p->layers = layers;
    p->heads = heads;
    return 0;
}

void plan_finish(struct plan *p)
{
    for (int i = 0; i < 2 * p->layers; i++) {
        for (int c = 0; c < p->entries[i].n_choices; c++)
            free(p->entries[i].choices[c].group_of);
        free(p->entries[i].choices);
    }
    free(p->entries);
    free(p->distance);
    memset(p, 0, sizeof *p);
}

int plan_add(struct plan *p, int entry, int n, double cost, const int *group_of, struct dha_err *e)
{
    struct plan_entry *en = &p->entries[entry];
    size_t bytes = (size_t)p->heads * sizeof *group_of;
    int at = 0;
    while (at < en->n_choices && en->choices[at].n < n)
        at++;
    if (at == en->n_choices || en->choices[at].n != n) {
        struct choice *grown = realloc(en->choices,
                                       ((size_t)en->n_choices + 1) * sizeof *en->choices);
        if (!grown)
            return dha_fail(e, DHA_E_NO_MEMORY, "out of memory for a plan");
        en->choices = grown;
        int *groups = malloc(bytes);
        if (!groups)
            return dha_fail(e, DHA_E_NO_MEMORY, "out of memory for a plan");
        memmove(&grown[at + 1], &grown[at], (size_t)(en->n_choices - at) * sizeof *grown);
        grown[at] = (struct choice){.group_of = groups};
        en->n_choices++;
    }
    struct choice *c = &en->choices[at];
    c->n = n;
    c->cost = cost;
    memcpy(c->group_of, group_of, bytes);
    return 0;
}

/* --- writing ------------------------------------------------------------------------------------- */

static int put_choice(cJSON *list, const struct choice *c, int heads)
{
    cJSON *o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(list, o)) {
        cJSON_Delete(o);
        return -1;
    }
    return json_put_int(o, "n", c->n) || json_put_num(o, "cost", c->cost) ||
                   json_put(o, "groups", cJSON_CreateIntArray(c->group_of, heads))
               ? -1
               : 0;
}

static int put_entry(cJSON *list, const struct plan *p, int i)
{
    const struct plan_entry *en = &p->entries[i];
    cJSON *o = cJSON_CreateObject(), *choices;
    if (!o || !cJSON_AddItemToArray(list, o)) {
        cJSON_Delete(o);
        return -1;
    }
    if (json_put_int(o, "layer", i / 2) || json_put_str(o, "kind", kind_name(i)) ||
        (en->left > 0 && json_put_num(o, "left", en->left)))
        return -1;
    choices = cJSON_CreateArray();
    if (json_put(o, "choices", choices))
        return -1;
    for (int c = 0; c < en->n_choices; c++)
        if (put_choice(choices, &en->choices[c], p->heads))
            return -1;
    return 0;
}

cJSON *plan_to_json(const struct plan *p)
{
    cJSON *o = cJSON_CreateObject();
    if (!o)
        return NULL;
    cJSON *entries = cJSON_CreateArray();
    if (json_put_str(o, "method", p->method) || json_put_str(o, "cost_unit", p->cost_unit) ||
        json_put_int(o, "layers", p->layers) || json_put_int(o, "heads", p->heads)) {
        cJSON_Delete(entries);
        goto fail;
    }
    if (json_put(o, "entries", entries))
        goto fail;
    for (int i = 0; i < 2 * p->layers; i++)
        if (put_entry(entries, p, i))
            goto fail;
    if (p->distance) {
        int n = p->heads * p->heads;
        cJSON *list = cJSON_CreateArray();
        if (json_put(o, "distance", list))
            goto fail;
        for (int i = 0; i < 2 * p->layers; i++) {
            cJSON *row = cJSON_CreateDoubleArray(p->distance + (size_t)i * (size_t)n, n);
            if (!row || !cJSON_AddItemToArray(list, row)) {
                cJSON_Delete(row);
                goto fail;
            }
        }
    }
    return o;
fail:
    cJSON_Delete(o);
    return NULL;
}

/* --- reading ------------------------------------------------------------------------------------- */

/* Sums of costs over all entries stay finite. */
#define COST_MAX 1e100

static int bad(struct dha_err *e, int entry, const char *what)
{
    return dha_fail(e, DHA_E_PROTOCOL, "plan, %s heads of layer %d: %s", kind_name(entry),
                    entry / 2, what);
}

static int need_small_int(const cJSON *o, const char *key, int lo, int hi, int *out,
                          struct dha_err *e)
{
    int64_t v = 0;
    *out = lo;
    if (json_need_int(o, key, &v, e))
        return -1;
    if (v < lo || v > hi)
        return dha_fail(e, DHA_E_PROTOCOL, "plan: \"%s\" is %lld, not within %d to %d", key,
                        (long long)v, lo, hi);
    *out = (int)v;
    return 0;
}

static int copy_name(const cJSON *o, const char *key, char *dst, size_t size, struct dha_err *e)
{
    const char *s;
    if (json_need_str(o, key, &s, e))
        return -1;
    if (strlen(s) >= size)
        return dha_fail(e, DHA_E_PROTOCOL, "plan: \"%s\" is longer than %zu bytes", key, size - 1);
    memcpy(dst, s, strlen(s) + 1);
    return 0;
}

static int read_choice(const cJSON *o, struct plan *p, int entry, struct dha_err *e)
{
    int n, groups[MODEL_MAX_HEADS], canonical[MODEL_MAX_HEADS], heads = p->heads, h = 0;
    double cost;
    const struct plan_entry *en = &p->entries[entry];
    if (need_small_int(o, "n", 1, heads, &n, e) || json_need_num(o, "cost", &cost, e))
        return -1;
    if (!(fabs(cost) <= COST_MAX))
        return bad(e, entry, "a cost is not finite, or is out of any range");
    if (en->n_choices && en->choices[en->n_choices - 1].n >= n)
        return bad(e, entry, "choices are not in ascending order of n");
    const cJSON *list = json_get(o, "groups"), *v;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != heads)
        return bad(e, entry, "\"groups\" does not list every head");
    cJSON_ArrayForEach(v, list)
    {
        int64_t g;
        if (!json_to_int(v, &g) || g < 0 || g >= n)
            return bad(e, entry, "a group number is out of range");
        groups[h++] = (int)g;
    }
    memcpy(canonical, groups, (size_t)heads * sizeof *groups);
    if (groups_canonical(heads, canonical) != n)
        return bad(e, entry, "\"groups\" does not have n groups");
    if (memcmp(canonical, groups, (size_t)heads * sizeof *groups) != 0)
        return bad(e, entry, "groups are not numbered by their smallest head");
    return plan_add(p, entry, n, cost, groups, e);
}

static int read_entry(const cJSON *o, struct plan *p, int entry, struct dha_err *e)
{
    const char *kind;
    int layer;
    if (need_small_int(o, "layer", 0, p->layers - 1, &layer, e) ||
        json_need_str(o, "kind", &kind, e))
        return -1;
    if (layer != entry / 2 || strcmp(kind, kind_name(entry)) != 0)
        return bad(e, entry, "entries are out of order");
    const cJSON *choices = json_get(o, "choices"), *left = json_get(o, "left"), *c;
    if (left && !(cJSON_IsNumber(left) && left->valuedouble > 0 && left->valuedouble <= 1))
        return bad(e, entry, "\"left\" is not a share");
    p->entries[entry].left = left ? left->valuedouble : 0;
    if (!cJSON_IsArray(choices) || cJSON_GetArraySize(choices) < 1)
        return bad(e, entry, "no choices");
    cJSON_ArrayForEach(c, choices) if (read_choice(c, p, entry, e)) return -1;
    return 0;
}

static int read_distance(const cJSON *list, struct plan *p, struct dha_err *e)
{
    size_t n = (size_t)p->heads * (size_t)p->heads;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != 2 * p->layers)
        return dha_fail(e, DHA_E_PROTOCOL, "plan: \"distance\" does not have %d matrices",
                        2 * p->layers);
    p->distance = la_alloc(2 * (size_t)p->layers * n, sizeof *p->distance, "a plan", e);
    if (!p->distance)
        return -1;
    double *at = p->distance;
    const cJSON *row, *v;
    int entry = 0;
    cJSON_ArrayForEach(row, list)
    {
        if (!cJSON_IsArray(row) || (size_t)cJSON_GetArraySize(row) != n)
            return bad(e, entry, "the distance matrix does not have heads x heads numbers");
        cJSON_ArrayForEach(v, row)
        {
            if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble))
                return bad(e, entry, "a distance is not a finite number");
            *at++ = v->valuedouble;
        }
        entry++;
    }
    return 0;
}

int plan_from_json(const cJSON *j, struct plan *p, struct dha_err *e)
{
    int layers, heads, entry = 0;
    memset(p, 0, sizeof *p);
    if (!cJSON_IsObject(j))
        return dha_fail(e, DHA_E_PROTOCOL, "a plan is an object");
    if (need_small_int(j, "layers", 1, MODEL_MAX_LAYERS, &layers, e) ||
        need_small_int(j, "heads", 1, MODEL_MAX_HEADS, &heads, e))
        return -1;
    if (plan_alloc(p, layers, heads, e))
        return -1;
    if (copy_name(j, "method", p->method, sizeof p->method, e) ||
        copy_name(j, "cost_unit", p->cost_unit, sizeof p->cost_unit, e))
        goto fail;
    const cJSON *entries = json_get(j, "entries"), *o;
    if (!cJSON_IsArray(entries) || cJSON_GetArraySize(entries) != 2 * layers) {
        dha_fail(e, DHA_E_PROTOCOL, "plan: \"entries\" does not have %d members", 2 * layers);
        goto fail;
    }
    cJSON_ArrayForEach(o, entries) if (read_entry(o, p, entry++, e)) goto fail;
    const cJSON *distance = json_get(j, "distance");
    if (distance && read_distance(distance, p, e))
        goto fail;
    return 0;
fail:
    plan_finish(p);
    return -1;
}
