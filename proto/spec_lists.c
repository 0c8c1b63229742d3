/* spec_lists.c: the fields of a spec that are lists, data.mixture, eval.tasks and resources.node_names, and where in a
 * document its files are named. The rules between fields are in spec.c.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/spec_fields.h"
#include "proto/text.h"

#define MAX_DOMAINS 64
#define MAX_TASKS   64
#define MAX_NODES   256
#define WEIGHT_SLIP 1.001e-6 /* three weights of 0.333333 pass, their sum being rounded */

static void no_memory(struct spec_errors *errs)
{
    spec_error(errs, "$", "", "out of memory");
}

/* An entry that is an object with known members only. */
static bool is_entry(const cJSON *v, const char *path, const char *const *names, size_t n,
                     struct spec_errors *errs)
{
    if (!cJSON_IsObject(v)) {
        spec_error(errs, path, "", "must be an object");
        return false;
    }
    spec_check_members(v, path, names, n, errs);
    return true;
}

static bool is_list(const cJSON *v, const char *path, int most, const char *example,
                    struct spec_errors *errs)
{
    if (!cJSON_IsArray(v)) {
        spec_error(errs, path, example, "must be a list");
        return false;
    }
    if (cJSON_GetArraySize(v) > most) {
        spec_error(errs, path, "", "has more than %d entries", most);
        return false;
    }
    return true;
}

/* ---- data.mixture ---- */

static bool is_plain(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", name[i]))
            return false;
    return n > 0 && n < sizeof((struct domain_spec *)0)->name;
}

static void read_domain_name(const cJSON *v, const char *path, const struct data_spec *so_far,
                             struct domain_spec *d, struct spec_errors *errs)
{
    if (!cJSON_IsString(v) || !is_plain(v->valuestring)) {
        spec_error(errs, path, "for example \"wiki\"",
                   "must be a name of 1 to %zu letters, digits, dots, _ and -", sizeof d->name - 1);
        return;
    }
    memcpy(d->name, v->valuestring, strlen(v->valuestring) + 1);
    for (int i = 0; i < so_far->n_mixture; i++)
        if (&so_far->mixture[i] != d && strcmp(so_far->mixture[i].name, d->name) == 0)
            spec_error(errs, path, "put the files of a domain into one entry",
                       "\"%s\" is the name of entry %d, too", d->name, i);
}

/* Into d, which already belongs to out: what was read is freed with it. */
static void read_domain(const cJSON *v, const char *path, const char *base,
                        const struct data_spec *out, struct domain_spec *d,
                        struct spec_errors *errs)
{
    static const char *const names[] = {"domain", "weight", "train", "valid"};
    char at[96];
    if (!is_entry(v, path, names, sizeof names / sizeof names[0], errs))
        return;
    snprintf(at, sizeof at, "%.64s.domain", path);
    read_domain_name(json_get(v, "domain"), at, out, d, errs);
    snprintf(at, sizeof at, "%.64s.weight", path);
    const cJSON *w = json_get(v, "weight");
    if (!cJSON_IsNumber(w) || !(w->valuedouble > 0) || w->valuedouble > 1)
        spec_error(errs, at, "the share of sequences that come from this domain",
                   "must be a number above 0 and at most 1");
    else
        d->weight = w->valuedouble;
    snprintf(at, sizeof at, "%.64s.train", path);
    d->train = spec_read_paths(json_get(v, "train"), at, base, &d->n_train, errs);
    const cJSON *valid = json_get(v, "valid");
    snprintf(at, sizeof at, "%.64s.valid", path);
    if (valid && !cJSON_IsNull(valid))
        d->valid = spec_read_path(valid, at, base, errs);
}

void spec_read_mixture(const cJSON *v, const char *path, const char *base, struct data_spec *out,
                       struct spec_errors *errs)
{
    static const char example[] =
        "for example [{\"domain\": \"wiki\", \"weight\": 1, \"train\": [\"wiki.jsonl\"]}]";
    int before = errs->n, n = cJSON_GetArraySize(v);
    if (!is_list(v, path, MAX_DOMAINS, example, errs))
        return;
    if (n == 0) {
        spec_error(errs, path, example, "must name at least one domain");
        return;
    }
    out->mixture = calloc((size_t)n, sizeof *out->mixture);
    if (!out->mixture) {
        no_memory(errs);
        return;
    }
    const cJSON *c;
    double sum = 0;
    cJSON_ArrayForEach(c, v)
    {
        struct domain_spec *d = &out->mixture[out->n_mixture++];
        char at[96];
        snprintf(at, sizeof at, "%.64s[%d]", path, out->n_mixture - 1);
        read_domain(c, at, base, out, d, errs);
        sum += d->weight;
    }
    if (errs->n == before && fabs(sum - 1) > WEIGHT_SLIP)
        spec_error(errs, path, "divide each by their sum",
                   "the weights sum to %.9g, but must sum to 1", sum);
}

cJSON *spec_mixture_to_json(const struct data_spec *d)
{
    if (d->n_mixture == 0)
        return cJSON_CreateNull();
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; list && i < d->n_mixture; i++) {
        const struct domain_spec *m = &d->mixture[i];
        cJSON *o = cJSON_CreateObject();
        if (json_put_str(o, "domain", m->name) || json_put_num(o, "weight", m->weight) ||
            json_put(o, "train",
                     cJSON_CreateStringArray((const char *const *)m->train, m->n_train)) ||
            json_put(o, "valid", m->valid ? cJSON_CreateString(m->valid) : cJSON_CreateNull()) ||
            !cJSON_AddItemToArray(list, o)) {
            cJSON_Delete(o);
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}

/* ---- eval.tasks ---- */

static const char *const task_names[] = {"arc-e", "arc-c",      "openbookqa", "piqa",
                                         "siqa",  "winogrande", "boolq",      NULL};

const char *const *spec_task_names(void)
{
    return task_names;
}

static void read_task_name(const cJSON *v, const char *path, const struct job_spec *so_far,
                           struct task_spec *t, struct spec_errors *errs)
{
    const size_t n = sizeof task_names / sizeof task_names[0] - 1;
    char shown[48], hint[160];
    if (!cJSON_IsString(v)) {
        spec_error(errs, path, "for example \"arc-e\"", "must be the name of a task");
        return;
    }
    size_t i = 0;
    while (i < n && strcmp(task_names[i], v->valuestring) != 0)
        i++;
    if (i == n) {
        const char *near = text_nearest(v->valuestring, task_names, n);
        if (near)
            snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
        else
            snprintf(hint, sizeof hint,
                     "one of: arc-e arc-c openbookqa piqa siqa winogrande boolq");
        text_copy(shown, sizeof shown, v->valuestring);
        spec_error(errs, path, hint, "there is no task \"%s\"", shown);
        return;
    }
    snprintf(t->name, sizeof t->name, "%s", task_names[i]);
    for (int k = 0; k < so_far->n_eval_tasks; k++)
        if (&so_far->eval_tasks[k] != t && strcmp(so_far->eval_tasks[k].name, t->name) == 0)
            spec_error(errs, path, "", "task \"%s\" is entry %d, too", t->name, k);
}

void spec_read_tasks(const cJSON *v, const char *path, const char *base, struct job_spec *out,
                     struct spec_errors *errs)
{
    static const char *const names[] = {"task", "path"};
    int n = cJSON_GetArraySize(v);
    if (!is_list(v, path, MAX_TASKS,
                 "for example [{\"task\": \"arc-e\", \"path\": \"arc-e.jsonl\"}]", errs) ||
        n == 0)
        return;
    out->eval_tasks = calloc((size_t)n, sizeof *out->eval_tasks);
    if (!out->eval_tasks) {
        no_memory(errs);
        return;
    }
    const cJSON *c;
    cJSON_ArrayForEach(c, v)
    {
        struct task_spec *t = &out->eval_tasks[out->n_eval_tasks++];
        char at[96], of[112];
        snprintf(at, sizeof at, "%.64s[%d]", path, out->n_eval_tasks - 1);
        if (!is_entry(c, at, names, sizeof names / sizeof names[0], errs))
            continue;
        snprintf(of, sizeof of, "%s.task", at);
        read_task_name(json_get(c, "task"), of, out, t, errs);
        snprintf(of, sizeof of, "%s.path", at);
        if (json_get(c, "path"))
            t->path = spec_read_path(json_get(c, "path"), of, base, errs);
        else
            spec_error(errs, of, "the questions, one JSON object a line", "is required");
    }
}

cJSON *spec_tasks_to_json(const struct job_spec *s)
{
    if (s->n_eval_tasks == 0)
        return cJSON_CreateNull();
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; list && i < s->n_eval_tasks; i++) {
        cJSON *o = cJSON_CreateObject();
        if (json_put_str(o, "task", s->eval_tasks[i].name) ||
            json_put_str(o, "path", s->eval_tasks[i].path) || !cJSON_AddItemToArray(list, o)) {
            cJSON_Delete(o);
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}

/* ---- resources.node_names ---- */

bool spec_is_node_name(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && (i == 0 || !strchr("._-", c)))
            return false;
    }
    return n > 0 && n < 64;
}

static bool has_node(const struct job_spec *s, const char *name)
{
    for (int i = 0; i < s->resources.n_node_names; i++)
        if (strcmp(s->resources.node_names[i], name) == 0)
            return true;
    return false;
}

void spec_read_nodes(const cJSON *v, const char *path, struct job_spec *out,
                     struct spec_errors *errs)
{
    int n = cJSON_GetArraySize(v), i = 0;
    if (!is_list(v, path, MAX_NODES, "for example [\"node-1\", \"node-2\"]", errs) || n == 0)
        return;
    out->resources.node_names = calloc((size_t)n, sizeof *out->resources.node_names);
    if (!out->resources.node_names) {
        no_memory(errs);
        return;
    }
    const cJSON *c;
    cJSON_ArrayForEach(c, v)
    {
        char at[96];
        snprintf(at, sizeof at, "%.64s[%d]", path, i++);
        if (!cJSON_IsString(c) || !spec_is_node_name(c->valuestring)) {
            spec_error(errs, at, "the names that `dha nodes` shows",
                       "must be a node's name: at most 63 letters, digits, dots, _ and -");
        } else if (has_node(out, c->valuestring)) {
            spec_error(errs, at, "", "\"%s\" stands there twice", c->valuestring);
        } else {
            char *name = strdup(c->valuestring);
            if (name)
                out->resources.node_names[out->resources.n_node_names++] = name;
            else
                no_memory(errs);
        }
    }
}

cJSON *spec_nodes_to_json(const struct job_spec *s)
{
    if (s->resources.n_node_names == 0)
        return cJSON_CreateNull();
    return cJSON_CreateStringArray((const char *const *)s->resources.node_names,
                                   s->resources.n_node_names);
}

void spec_lists_finish(struct job_spec *s)
{
    for (int i = 0; i < s->resources.n_node_names; i++)
        free(s->resources.node_names[i]);
    free(s->resources.node_names);
    for (int i = 0; i < s->data.n_mixture; i++) {
        struct domain_spec *d = &s->data.mixture[i];
        for (int k = 0; k < d->n_train; k++)
            free(d->train[k]);
        free(d->train);
        free(d->valid);
    }
    free(s->data.mixture);
    for (int i = 0; i < s->n_eval_tasks; i++)
        free(s->eval_tasks[i].path);
    free(s->eval_tasks);
}

/* ---- files ---- */

/* Where files are named; "[]" stands for each element of a list. */
static const char *const file_places[] = {"data.train[]",         "data.valid",
                                          "data.tokenizer",       "data.mixture[].train[]",
                                          "data.mixture[].valid", "eval.tasks[].path"};

/* Follows `place` from v on; path[0..n) is what was followed so far. */
static int each_at(cJSON *v, const char *place, char *path, size_t n,
                   int (*f)(void *arg, cJSON *item, const char *where), void *arg)
{
    char key[32];
    if (*place == '\0')
        return cJSON_IsString(v) ? f(arg, v, path) : 0;
    if (strncmp(place, "[]", 2) == 0) {
        cJSON *c;
        int i = 0, rc = 0;
        if (!cJSON_IsArray(v))
            return 0;
        cJSON_ArrayForEach(c, v)
        {
            int k = snprintf(path + n, 96 - n, "[%d]", i++);
            if (rc == 0 && k > 0 && n + (size_t)k < 96)
                rc = each_at(c, place + 2, path, n + (size_t)k, f, arg);
        }
        return rc;
    }
    place += *place == '.';
    size_t len = strcspn(place, ".[");
    if (len >= sizeof key || n + 1 + len >= 96)
        return 0;
    memcpy(key, place, len);
    key[len] = '\0';
    cJSON *next = cJSON_IsObject(v) ? cJSON_GetObjectItemCaseSensitive(v, key) : NULL;
    if (!next)
        return 0;
    path[n++] = '.';
    memcpy(path + n, key, len + 1);
    return each_at(next, place + len, path, n + len, f, arg);
}

int spec_each_file(cJSON *doc, int (*f)(void *arg, cJSON *item, const char *where), void *arg)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof file_places / sizeof file_places[0]; i++) {
        char path[96] = "$";
        rc = each_at(doc, file_places[i], path, 1, f, arg);
    }
    return rc;
}
