/* method.c: presets, and objects that override their parts. A new preset is one row. */
#include <stdio.h>
#include <string.h>

#include "proto/spec_fields.h"
#include "proto/text.h"

static const char *const grouping_names[] = {
    [GROUP_ADJACENT] = "adjacent",
    [GROUP_ONE] = "one",
    [GROUP_LEARNED] = "learned",
    [GROUP_CLOSED_FORM] = "closed-form",
};
static const char *const budget_names[] = {
    [BUDGET_UNIFORM] = "uniform",
    [BUDGET_ADAPTIVE] = "adaptive",
    [BUDGET_MEASURED] = "measured",
};
static const char *const merge_names[] = {
    [MERGE_MEAN] = "mean",
    [MERGE_FUSION] = "fusion",
    [MERGE_SPECTRAL] = "spectral",
};
#define COUNT(a) (sizeof(a) / sizeof(a)[0])
_Static_assert(COUNT(grouping_names) == GROUP_CLOSED_FORM + 1, "a name for each grouping");
_Static_assert(COUNT(budget_names) == BUDGET_MEASURED + 1, "a name for each budget");
_Static_assert(COUNT(merge_names) == MERGE_SPECTRAL + 1, "a name for each merge");

static const struct method presets[] = {
    {.name = "gqa", .uniform = true},
    {.name = "mqa", .grouping = GROUP_ONE, .uniform = true},
    {.name = "dha", .grouping = GROUP_LEARNED, .budget = BUDGET_ADAPTIVE, .merge = MERGE_FUSION},
    {.name = "spectral",
     .grouping = GROUP_CLOSED_FORM,
     .budget = BUDGET_MEASURED,
     .merge = MERGE_SPECTRAL,
     .refit = true,
     .any_count = true},
    {.name = "spectral-gqa", .merge = MERGE_SPECTRAL, .uniform = true, .refit = true},
};

int method_preset(const char *name, struct method *m)
{
    for (size_t i = 0; i < COUNT(presets); i++) {
        if (strcmp(presets[i].name, name) == 0) {
            *m = presets[i];
            return 0;
        }
    }
    return -1;
}

const char *method_names(void)
{
    return "gqa, mqa, dha, spectral, spectral-gqa";
}

const char *method_grouping_name(enum method_grouping g)
{
    return grouping_names[g];
}

const char *method_budget_name(enum method_budget b)
{
    return budget_names[b];
}

const char *method_merge_name(enum method_merge m)
{
    return merge_names[m];
}

/* Fixed groups and a uniform budget leave nothing to search for; the calibration sums of a spectral
 * merge are then taken by the stage that merges. */
bool method_needs_search(const struct method *m)
{
    return m->grouping == GROUP_LEARNED || m->grouping == GROUP_CLOSED_FORM ||
           m->budget != BUDGET_UNIFORM;
}

static void unknown_preset(const char *path, const char *name, struct spec_errors *errs)
{
    const char *names[COUNT(presets)];
    char shown[48], hint[160];
    for (size_t i = 0; i < COUNT(presets); i++)
        names[i] = presets[i].name;
    const char *near = text_nearest(name, names, COUNT(presets));
    text_copy(shown, sizeof shown, name);
    if (near)
        snprintf(hint, sizeof hint, "did you mean \"%s\"? methods: %s", near, method_names());
    else
        snprintf(hint, sizeof hint, "methods: %s", method_names());
    spec_error(errs, path, hint, "there is no method \"%s\"", shown);
}

static void join(char *buf, size_t cap, const char *const *names, size_t n)
{
    size_t len = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < n && len < cap; i++)
        len += (size_t)snprintf(buf + len, cap - len, "%s%s", i ? ", " : "", names[i]);
}

/* One of names into *out, which keeps its value if v is absent. Returns whether it was given. */
static bool read_part(const cJSON *v, const char *path, const char *const *names, size_t n,
                      size_t *out, struct spec_errors *errs)
{
    char list[120], hint[160];
    if (!v || cJSON_IsNull(v))
        return false;
    join(list, sizeof list, names, n);
    snprintf(hint, sizeof hint, "one of: %s", list);
    if (!cJSON_IsString(v)) {
        spec_error(errs, path, hint, "must be a string");
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], v->valuestring) == 0) {
            *out = i;
            return true;
        }
    }
    char shown[48];
    text_copy(shown, sizeof shown, v->valuestring);
    const char *near = text_nearest(v->valuestring, names, n);
    if (near)
        snprintf(hint, sizeof hint, "did you mean \"%s\"? one of: %s", near, list);
    spec_error(errs, path, hint, "\"%s\" is not a choice", shown);
    return false;
}

static bool read_flag(const cJSON *obj, const char *key, bool *out, struct spec_errors *errs)
{
    const cJSON *v = json_get(obj, key);
    if (!v || cJSON_IsNull(v))
        return false;
    if (!cJSON_IsBool(v)) {
        char path[48];
        snprintf(path, sizeof path, "$.method.%s", key);
        spec_error(errs, path, "", "must be true or false");
        return false;
    }
    *out = cJSON_IsTrue(v);
    return true;
}

/* METHODS D1: "any other combination is allowed when it makes sense, refused with a reason when it
 * does not". */
static void check_combination(const struct method *m, struct spec_errors *errs)
{
    const char *at = "$.method";
    if (m->uniform && (m->grouping == GROUP_LEARNED || m->grouping == GROUP_CLOSED_FORM))
        spec_error(errs, at, "leave out uniform, or use grouping \"adjacent\"",
                   "uniform means equal, contiguous groups; grouping \"%s\" chooses its own",
                   grouping_names[m->grouping]);
    if (m->uniform && m->budget != BUDGET_UNIFORM)
        spec_error(errs, at, "leave out uniform, or use budget \"uniform\"",
                   "uniform means as many heads in every layer; budget \"%s\" differs by layer",
                   budget_names[m->budget]);
    if (m->uniform && m->any_count)
        spec_error(errs, at, "leave out one of the two",
                   "any_count allows unequal groups, which uniform excludes");
    if (m->grouping == GROUP_ONE && m->budget != BUDGET_UNIFORM)
        spec_error(errs, at, "use budget \"uniform\"",
                   "with one group a layer there is no budget to distribute");
    if (m->refit && m->merge != MERGE_SPECTRAL)
        spec_error(errs, at, "leave out refit, or use merge \"spectral\"",
                   "refit belongs to the spectral merge");
    if (m->scalar_omega && m->merge != MERGE_FUSION)
        spec_error(errs, at, "leave out scalar_omega, or use merge \"fusion\"",
                   "scalar_omega is an option of the fusion operator");
    if (m->grouping == GROUP_CLOSED_FORM && m->merge != MERGE_SPECTRAL)
        spec_error(errs, at, "use merge \"spectral\", or grouping \"learned\" or \"adjacent\"",
                   "closed-form grouping minimises the error of the spectral merge, not of \"%s\"",
                   merge_names[m->merge]);
    if (m->budget == BUDGET_MEASURED && m->merge != MERGE_SPECTRAL)
        spec_error(errs, at, "use merge \"spectral\", or budget \"adaptive\" or \"uniform\"",
                   "a measured budget weighs what the spectral merge costs, not \"%s\"",
                   merge_names[m->merge]);
    if (m->budget == BUDGET_ADAPTIVE && m->grouping != GROUP_LEARNED)
        spec_error(errs, at, "use grouping \"learned\", or budget \"measured\" or \"uniform\"",
                   "an adaptive budget comes from the distances that a learned grouping finds");
}

static void check_keys(const cJSON *v, struct spec_errors *errs)
{
    static const char *const keys[] = {"preset",  "grouping", "budget",    "merge",
                                       "uniform", "refit",    "any_count", "scalar_omega"};
    const cJSON *c;
    cJSON_ArrayForEach(c, v)
    {
        bool known = false;
        for (size_t i = 0; i < COUNT(keys) && !known; i++)
            known = strcmp(keys[i], c->string) == 0;
        if (known)
            continue;
        char key[48], path[96], hint[160] = "";
        text_copy(key, sizeof key, c->string);
        snprintf(path, sizeof path, "$.method.%s", key);
        const char *near = text_nearest(c->string, keys, COUNT(keys));
        if (near)
            snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
        spec_error(errs, path, hint, "unknown field");
    }
}

void method_read(const cJSON *v, struct method *out, struct spec_errors *errs)
{
    struct method m;
    method_preset("spectral", &m);
    *out = m;
    if (cJSON_IsString(v)) {
        if (method_preset(v->valuestring, out) != 0)
            unknown_preset("$.method", v->valuestring, errs);
        return;
    }
    if (!cJSON_IsObject(v)) {
        spec_error(errs, "$.method", "", "must be a preset's name or an object; presets: %s",
                   method_names());
        return;
    }
    int before = errs->n;
    check_keys(v, errs);
    const cJSON *preset = json_get(v, "preset");
    if (preset && !cJSON_IsNull(preset)) {
        if (!cJSON_IsString(preset))
            spec_error(errs, "$.method.preset", "", "must be a string");
        else if (method_preset(preset->valuestring, &m) != 0)
            unknown_preset("$.method.preset", preset->valuestring, errs);
    }
    size_t part = m.grouping;
    bool set_grouping = read_part(json_get(v, "grouping"), "$.method.grouping", grouping_names,
                                  COUNT(grouping_names), &part, errs);
    m.grouping = (enum method_grouping)part;
    part = m.budget;
    bool set_budget = read_part(json_get(v, "budget"), "$.method.budget", budget_names,
                                COUNT(budget_names), &part, errs);
    m.budget = (enum method_budget)part;
    part = m.merge;
    read_part(json_get(v, "merge"), "$.method.merge", merge_names, COUNT(merge_names), &part, errs);
    m.merge = (enum method_merge)part;
    bool set_uniform = read_flag(v, "uniform", &m.uniform, errs);
    bool set_refit = read_flag(v, "refit", &m.refit, errs);
    bool set_any = read_flag(v, "any_count", &m.any_count, errs);
    read_flag(v, "scalar_omega", &m.scalar_omega, errs);

    /* What was not said follows from what was: {"preset": "spectral", "uniform": true} means the
     * grouping and budget of a uniform result, {"preset": "spectral-gqa", "budget": "measured"}
     * gives uniformity up. What was said is never changed, only refused. */
    if (set_uniform && m.uniform) {
        if (!set_grouping && m.grouping != GROUP_ONE)
            m.grouping = GROUP_ADJACENT;
        if (!set_budget)
            m.budget = BUDGET_UNIFORM;
    }
    if (!set_any && (m.uniform || m.grouping == GROUP_ONE))
        m.any_count = false;
    if (!set_uniform && (m.budget != BUDGET_UNIFORM || m.any_count || m.grouping == GROUP_LEARNED ||
                         m.grouping == GROUP_CLOSED_FORM))
        m.uniform = false;
    if (!set_refit && m.merge != MERGE_SPECTRAL)
        m.refit = false;
    if (errs->n == before)
        check_combination(&m, errs);
    *out = m;
}

cJSON *method_to_json(const struct method *m)
{
    struct method p;
    if (method_preset(m->name, &p) == 0 && p.grouping == m->grouping && p.budget == m->budget &&
        p.merge == m->merge && p.uniform == m->uniform && p.refit == m->refit &&
        p.any_count == m->any_count && p.scalar_omega == m->scalar_omega)
        return cJSON_CreateString(m->name);
    cJSON *j = cJSON_CreateObject();
    if (json_put_str(j, "preset", m->name) != 0 ||
        json_put_str(j, "grouping", grouping_names[m->grouping]) != 0 ||
        json_put_str(j, "budget", budget_names[m->budget]) != 0 ||
        json_put_str(j, "merge", merge_names[m->merge]) != 0 ||
        json_put_bool(j, "uniform", m->uniform) != 0 || json_put_bool(j, "refit", m->refit) != 0 ||
        json_put_bool(j, "any_count", m->any_count) != 0 ||
        json_put_bool(j, "scalar_omega", m->scalar_omega) != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}
