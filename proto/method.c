/* method.c: presets, and objects that override their parts. A new preset, part or flag is one row of a table; what
 * combinations of parts mean is in settle() and check_combination(). */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "proto/spec_fields.h"
#include "proto/text.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static const char *const grouping_names[] = {
    [GROUP_ADJACENT] = "adjacent",
    [GROUP_ONE] = "one",
    [GROUP_LEARNED] = "learned",
    [GROUP_CLOSED_FORM] = "closed-form",
    [GROUP_ALIGNED_VALUE] = "aligned-value",
    [GROUP_ALIGNED_KEY] = "aligned-key",
    [GROUP_ALIGNED] = "aligned",
};
static const char *const criterion_names[] = {
    [CRITERION_DIST] = "dist",
    [CRITERION_COS] = "cos",
};
static const char *const alignment_names[] = {
    [ALIGN_NONE] = "none",
    [ALIGN_PROCRUSTES] = "procrustes",
};
static const char *const budget_names[] = {
    [BUDGET_UNIFORM] = "uniform",
    [BUDGET_ADAPTIVE] = "adaptive",
    [BUDGET_MEASURED] = "measured",
};
static const char *const allocation_names[] = {
    [ALLOCATE_KNAPSACK] = "knapsack",
    [ALLOCATE_GREEDY] = "greedy",
};
static const char *const merge_names[] = {
    [MERGE_MEAN] = "mean",
    [MERGE_FUSION] = "fusion",
    [MERGE_SPECTRAL] = "spectral",
    [MERGE_MASKS] = "masks",
};
static const char *const masks_names[] = {
    [MASKS_LINEAR] = "linear",
    [MASKS_HARD_CONCRETE] = "hard-concrete",
    [MASKS_RELEASED] = "released",
};
static const char *const tie_names[] = {
    [TIE_HARD] = "hard",
    [TIE_CONTRACT] = "contract",
};
_Static_assert(COUNT(grouping_names) == GROUP_ALIGNED + 1, "a name for each grouping");
_Static_assert(COUNT(criterion_names) == CRITERION_COS + 1, "a name for each criterion");
_Static_assert(COUNT(alignment_names) == ALIGN_PROCRUSTES + 1, "a name for each alignment");
_Static_assert(COUNT(budget_names) == BUDGET_MEASURED + 1, "a name for each budget");
_Static_assert(COUNT(allocation_names) == ALLOCATE_GREEDY + 1, "a name for each allocation");
_Static_assert(COUNT(merge_names) == MERGE_MASKS + 1, "a name for each merge");
_Static_assert(COUNT(masks_names) == MASKS_RELEASED + 1, "a name for each kind of masks");
_Static_assert(COUNT(tie_names) == TIE_CONTRACT + 1, "a name for each tie");

static const struct method presets[] = {
    {.name = "gqa", .uniform = true},
    {.name = "mqa", .grouping = GROUP_ONE, .uniform = true},
    {.name = "dha", .grouping = GROUP_LEARNED, .budget = BUDGET_ADAPTIVE, .merge = MERGE_FUSION},
    {.name = "align-gqa",
     .alignment = ALIGN_PROCRUSTES,
     .merge = MERGE_MASKS,
     .norm_restore = true,
     .uniform = true},
    {.name = "aligned-dha",
     .grouping = GROUP_LEARNED,
     .alignment = ALIGN_PROCRUSTES,
     .budget = BUDGET_ADAPTIVE,
     .merge = MERGE_FUSION,
     .tie = TIE_CONTRACT,
     .norm_restore = true},
    {.name = "spectral",
     .grouping = GROUP_CLOSED_FORM,
     .budget = BUDGET_MEASURED,
     .merge = MERGE_SPECTRAL,
     .refit = true,
     .regress = true,
     .slow_planes = true,
     .any_count = true},
    {.name = "spectral-gqa",
     .merge = MERGE_SPECTRAL,
     .uniform = true,
     .refit = true,
     .regress = true,
     .slow_planes = true},
};
#define NAMES "gqa, mqa, dha, align-gqa, aligned-dha, spectral, spectral-gqa"

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
    return NAMES;
}

bool method_groups_by_alignment(const struct method *m)
{
    return m->grouping == GROUP_ALIGNED_VALUE || m->grouping == GROUP_ALIGNED_KEY ||
           m->grouping == GROUP_ALIGNED;
}

/* Fixed groups and a uniform budget leave nothing to search for; the calibration sums of a merge are then taken by the
 * stage that merges. */
bool method_needs_search(const struct method *m)
{
    return m->grouping == GROUP_LEARNED || m->grouping == GROUP_CLOSED_FORM ||
           method_groups_by_alignment(m) || m->budget != BUDGET_UNIFORM;
}

bool method_merge_calibrates(const struct method *m)
{
    return m->merge == MERGE_SPECTRAL || m->alignment == ALIGN_PROCRUSTES;
}

/* ---- parts and flags ---------------------------------------------------------------------------- */

static bool always(const struct method *m)
{
    (void)m;
    return true;
}

static bool merges_spectral(const struct method *m)
{
    return m->merge == MERGE_SPECTRAL;
}

static bool exchanges(const struct method *m)
{
    return m->merge == MERGE_SPECTRAL && m->budget == BUDGET_MEASURED;
}

static bool merges_otherwise(const struct method *m)
{
    return m->merge != MERGE_SPECTRAL;
}

/* a fused head's norm is restored by the contraction */
static bool restores_norms(const struct method *m)
{
    return m->merge != MERGE_SPECTRAL && (m->merge != MERGE_FUSION || m->tie == TIE_CONTRACT);
}

static bool merges_masks(const struct method *m)
{
    return m->merge == MERGE_MASKS;
}

static bool merges_fusion(const struct method *m)
{
    return m->merge == MERGE_FUSION;
}

/* a learned grouping trains the operator too */
static bool has_operator(const struct method *m)
{
    return m->merge == MERGE_FUSION || m->grouping == GROUP_LEARNED;
}

static bool has_distances(const struct method *m)
{
    return m->grouping == GROUP_LEARNED || method_groups_by_alignment(m);
}

static bool budget_is_adaptive(const struct method *m)
{
    return m->budget == BUDGET_ADAPTIVE;
}

#define S (1u << STAGE_SEARCH)
#define F (1u << STAGE_FUSE)
#define X (1u << STAGE_EXPORT)

/* names: a part, stored as an enum; NULL: a flag, stored as a bool. Where `applies` is false the row has no effect
 * and keeps its first value; another one that was asked for is refused with `why`. stages: those whose result may
 * depend on it. */
static const struct row {
    const char *key;
    size_t at;
    const char *const *names;
    size_t n;
    unsigned stages;
    bool (*applies)(const struct method *m);
    const char *why, *hint;
} rows[] = {
#define PART(member) #member, offsetof(struct method, member), member##_names, COUNT(member##_names)
#define FLAG(member) #member, offsetof(struct method, member), NULL, 2
    {PART(grouping), S | F, always, NULL, NULL},
    {PART(criterion), S, method_groups_by_alignment,
     "criterion is how aligned heads are compared; this grouping does not compare them",
     "leave out criterion, or use grouping \"aligned\", \"aligned-value\" or \"aligned-key\""},
    {PART(alignment), F, merges_otherwise,
     "the spectral merge finds better transforms than rotations; aligning first changes nothing",
     "leave out alignment, or use merge \"mean\", \"masks\" or \"fusion\""},
    {PART(budget), S | F, always, NULL, NULL},
    {PART(allocation), F, budget_is_adaptive,
     "allocation distributes an adaptive budget; this budget leaves it nothing to do",
     "leave out allocation, or use budget \"adaptive\""},
    {PART(merge), S | F, always, NULL, NULL},
    {PART(masks), F, merges_masks, "masks are a part of the merge \"masks\"",
     "leave out masks, or use merge \"masks\""},
    {PART(tie), F, merges_fusion, "tie is how the fusion operator ends",
     "leave out tie, or use merge \"fusion\""},
    {FLAG(uniform), F | X, always, NULL, NULL},
    {FLAG(refit), F, merges_spectral, "refit belongs to the spectral merge",
     "leave out refit, or use merge \"spectral\""},
    {FLAG(exchange), F, exchanges, "exchange improves the measured budget of a spectral merge",
     "leave out exchange, or use merge \"spectral\" and budget \"measured\""},
    {FLAG(regress), S | F, merges_spectral, "regress belongs to the spectral merge",
     "leave out regress, or use merge \"spectral\""},
    {FLAG(slow_planes), S | F, merges_spectral, "slow_planes belongs to the spectral merge",
     "leave out slow_planes, or use merge \"spectral\""},
    {FLAG(any_count), S | F, always, NULL, NULL},
    {FLAG(scalar_omega), S | F, has_operator, "scalar_omega is an option of the fusion operator",
     "leave out scalar_omega, or use merge \"fusion\""},
    {FLAG(rope_tied), S | F, has_operator, "rope_tied is an option of the fusion operator",
     "leave out rope_tied, or use merge \"fusion\""},
    {FLAG(progressive), F, merges_fusion, "progressive is an option of the fusion operator",
     "leave out progressive, or use merge \"fusion\""},
    {FLAG(annealing), S, has_distances,
     "annealing groups heads by their distances; this grouping has none",
     "leave out annealing, or use grouping \"learned\" or \"aligned\""},
    {FLAG(norm_restore), F, restores_norms,
     "the spectral merge restores norms anyway, and the fusion operator only with tie \"contract\"",
     "leave out norm_restore, or use merge \"mean\" or \"masks\", or tie \"contract\""},
#undef PART
#undef FLAG
};
#undef S
#undef F
#undef X

/* Enums of C11 may have any integer type; ours are of int's size with every compiler we know. */
_Static_assert(sizeof(enum method_grouping) == sizeof(unsigned) &&
                   sizeof(enum method_tie) == sizeof(unsigned),
               "parts are read and written as unsigned");

static unsigned get(const struct method *m, const struct row *r)
{
    const char *at = (const char *)m + r->at;
    unsigned x = 0;
    if (!r->names)
        return *(const bool *)at;
    memcpy(&x, at, sizeof x);
    return x;
}

static void put(struct method *m, const struct row *r, unsigned x)
{
    char *at = (char *)m + r->at;
    if (r->names)
        memcpy(at, &x, sizeof x);
    else
        *(bool *)at = x != 0;
}

static int write_row(cJSON *j, const struct method *m, const struct row *r)
{
    return r->names ? json_put_str(j, r->key, r->names[get(m, r)])
                    : json_put_bool(j, r->key, get(m, r) != 0);
}

/* ---- reading ------------------------------------------------------------------------------------ */

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

/* One of the row's names into *m. Returns whether it was given. */
static bool read_part(const cJSON *v, const struct row *r, const char *path, struct method *m,
                      struct spec_errors *errs)
{
    char list[120], hint[160];
    join(list, sizeof list, r->names, r->n);
    snprintf(hint, sizeof hint, "one of: %s", list);
    if (!cJSON_IsString(v)) {
        spec_error(errs, path, hint, "must be a string");
        return false;
    }
    for (size_t i = 0; i < r->n; i++) {
        if (strcmp(r->names[i], v->valuestring) == 0) {
            put(m, r, (unsigned)i);
            return true;
        }
    }
    char shown[48];
    text_copy(shown, sizeof shown, v->valuestring);
    const char *near = text_nearest(v->valuestring, r->names, r->n);
    if (near)
        snprintf(hint, sizeof hint, "did you mean \"%s\"? one of: %s", near, list);
    spec_error(errs, path, hint, "\"%s\" is not a choice", shown);
    return false;
}

static bool read_row(const cJSON *obj, const struct row *r, struct method *m,
                     struct spec_errors *errs)
{
    const cJSON *v = json_get(obj, r->key);
    char path[48];
    snprintf(path, sizeof path, "$.method.%s", r->key);
    if (!v || cJSON_IsNull(v))
        return false;
    if (r->names)
        return read_part(v, r, path, m, errs);
    if (!cJSON_IsBool(v)) {
        spec_error(errs, path, "", "must be true or false");
        return false;
    }
    put(m, r, cJSON_IsTrue(v) ? 1 : 0);
    return true;
}

static void check_keys(const cJSON *v, struct spec_errors *errs)
{
    const char *keys[COUNT(rows) + 1] = {"preset"};
    for (size_t i = 0; i < COUNT(rows); i++)
        keys[i + 1] = rows[i].key;
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

/* Of keys and values apart, so that plain GQA cannot hold them. */
static bool chooses_any_groups(const struct method *m)
{
    return m->grouping == GROUP_LEARNED || m->grouping == GROUP_CLOSED_FORM ||
           m->grouping == GROUP_ALIGNED;
}

static bool groups_layers(const struct method *m)
{
    return method_groups_by_alignment(m) && m->grouping != GROUP_ALIGNED;
}

/* What was not said follows from what was: {"preset": "spectral", "uniform": true} means the grouping and budget of a
 * uniform result, {"preset": "spectral-gqa", "budget": "measured"} gives uniformity up. What was said is never
 * changed, only refused. */
static void settle(struct method *m, const bool *said)
{
    bool set_grouping = false, set_budget = false, set_uniform = false, set_any = false;
    for (size_t i = 0; i < COUNT(rows); i++) {
        set_grouping |= said[i] && rows[i].at == offsetof(struct method, grouping);
        set_budget |= said[i] && rows[i].at == offsetof(struct method, budget);
        set_uniform |= said[i] && rows[i].at == offsetof(struct method, uniform);
        set_any |= said[i] && rows[i].at == offsetof(struct method, any_count);
    }
    if (set_uniform && m->uniform) {
        if (!set_grouping && chooses_any_groups(m))
            m->grouping = GROUP_ADJACENT;
        if (!set_budget)
            m->budget = BUDGET_UNIFORM;
    }
    if (!set_any && (m->uniform || m->grouping == GROUP_ONE || groups_layers(m)))
        m->any_count = false;
    if (!set_uniform && (m->budget != BUDGET_UNIFORM || m->any_count || chooses_any_groups(m)))
        m->uniform = false;
    for (size_t i = 0; i < COUNT(rows); i++)
        if (!said[i] && !rows[i].applies(m))
            put(m, &rows[i], 0);
}

/* METHODS D1: "any other combination is allowed when it makes sense, refused with a reason when it
 * does not". */
static void check_combination(const struct method *m, struct spec_errors *errs)
{
    const char *at = "$.method";
    for (size_t i = 0; i < COUNT(rows); i++)
        if (get(m, &rows[i]) != 0 && !rows[i].applies(m))
            spec_error(errs, at, rows[i].hint, "%s", rows[i].why);
    if (m->uniform && chooses_any_groups(m))
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
    if (m->any_count && groups_layers(m))
        spec_error(errs, at, "leave out any_count",
                   "grouping \"%s\" makes groups of equal size, so head counts divide H",
                   grouping_names[m->grouping]);
    if (m->annealing && m->any_count)
        spec_error(errs, at, "leave out one of the two",
                   "any_count allows unequal groups; annealing swaps heads between equal ones");
    if (m->exchange && m->regress)
        spec_error(
            errs, at, "leave out exchange, or set regress to false",
            "exchanges are judged by losses before the regression, which repairs some merges "
            "far better than others");
    if (m->rope_tied && m->scalar_omega)
        spec_error(errs, at, "leave out rope_tied",
                   "with scalar_omega all dims of a head share omega already");
    if (m->grouping == GROUP_ONE && m->budget != BUDGET_UNIFORM)
        spec_error(errs, at, "use budget \"uniform\"",
                   "with one group a layer there is no budget to distribute");
    if (m->grouping == GROUP_CLOSED_FORM && m->merge != MERGE_SPECTRAL)
        spec_error(errs, at, "use merge \"spectral\", or grouping \"learned\" or \"adjacent\"",
                   "closed-form grouping minimises the error of the spectral merge, not of \"%s\"",
                   merge_names[m->merge]);
    if (m->budget == BUDGET_MEASURED && m->merge != MERGE_SPECTRAL)
        spec_error(errs, at, "use merge \"spectral\", or budget \"adaptive\" or \"uniform\"",
                   "a measured budget weighs what the spectral merge costs, not \"%s\"",
                   merge_names[m->merge]);
    if (m->budget == BUDGET_MEASURED && has_distances(m))
        spec_error(errs, at, "use grouping \"closed-form\" or \"adjacent\", or another budget",
                   "a measured budget needs the loss of each grouping; \"%s\" gives distances",
                   grouping_names[m->grouping]);
    if (m->budget == BUDGET_ADAPTIVE && groups_layers(m))
        spec_error(errs, at,
                   "use grouping \"aligned\", which groups them apart, or budget \"uniform\"",
                   "grouping \"%s\" is one grouping for K and V of a layer; an adaptive budget "
                   "gives them different numbers of heads",
                   grouping_names[m->grouping]);
    else if (m->budget == BUDGET_ADAPTIVE && !has_distances(m))
        spec_error(
            errs, at,
            "use grouping \"learned\" or \"aligned\", or budget \"measured\" or \"uniform\"",
            "an adaptive budget comes from distances between heads; grouping \"%s\" has none",
            grouping_names[m->grouping]);
}

void method_read(const cJSON *v, struct method *out, struct spec_errors *errs)
{
    struct method m;
    bool said[COUNT(rows)];
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
    for (size_t i = 0; i < COUNT(rows); i++)
        said[i] = read_row(v, &rows[i], &m, errs);
    settle(&m, said);
    if (errs->n == before)
        check_combination(&m, errs);
    *out = m;
}

/* ---- writing ------------------------------------------------------------------------------------ */

cJSON *method_to_json(const struct method *m)
{
    struct method p;
    bool same = method_preset(m->name, &p) == 0;
    for (size_t i = 0; same && i < COUNT(rows); i++)
        same = get(&p, &rows[i]) == get(m, &rows[i]);
    if (same)
        return cJSON_CreateString(m->name);
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "preset", m->name);
    for (size_t i = 0; i < COUNT(rows); i++)
        rc |= write_row(j, m, &rows[i]);
    if (rc != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

/* Whether search reads the row: what becomes of the distances (budget, merge) does not change them, so that a sweep
 * over dha, aligned-dha and their ablations searches once. */
static bool search_reads(const struct method *m, const struct row *r)
{
    static const size_t later[] = {offsetof(struct method, budget), offsetof(struct method, merge),
                                   offsetof(struct method, regress),
                                   offsetof(struct method, slow_planes)};
    bool is_later = false;
    for (size_t i = 0; i < COUNT(later); i++)
        is_later |= r->at == later[i];
    return !has_distances(m) || !is_later;
}

cJSON *method_stage_inputs(const struct method *m, enum stage_kind k)
{
    cJSON *j = cJSON_CreateObject();
    int rc = j ? 0 : -1;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct row *r = &rows[i];
        if ((r->stages & (1u << k)) && r->applies(m) && (k != STAGE_SEARCH || search_reads(m, r)))
            rc |= write_row(j, m, r);
    }
    if (rc != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}
