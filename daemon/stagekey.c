/* stagekey.c: see stagekey.h. */
#include "daemon/stagekey.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <openssl/evp.h>

#include "daemon/grow.h"

/* Who the files are, each asked once for all stages of a job: as the text that goes into their keys. */
struct identity {
    char *path, *text;
};

struct identities {
    struct identity *at;
    size_t n;
    cJSON *list; /* what add_identity() adds to */
    struct dha_err *e;
};

static void identities_finish(struct identities *ids)
{
    for (size_t i = 0; i < ids->n; i++) {
        free(ids->at[i].path);
        free(ids->at[i].text);
    }
    free(ids->at);
}

static int no_memory(struct dha_err *e)
{
    return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static char *identity_text(const char *path, const struct stat *st)
{
    int64_t mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
    /* what sets the times of a changed file back cannot set this one */
    int64_t ctime_ns = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec;
    cJSON *id = cJSON_CreateObject(); /* in the order of the names, as all of a key's text */
    bool good = json_put_id(id, "ctime_ns", ctime_ns) == 0 &&
                json_put_id(id, "inode", (int64_t)st->st_ino) == 0 &&
                json_put_id(id, "mtime_ns", mtime_ns) == 0 && json_put_str(id, "path", path) == 0 &&
                json_put_id(id, "size", (int64_t)st->st_size) == 0;
    char *text = good ? json_text(id) : NULL;
    cJSON_Delete(id);
    return text;
}

/* The file's identity, or NULL with e set. */
static const char *identify(struct identities *ids, const char *path)
{
    struct stat st;
    for (size_t i = 0; i < ids->n; i++) {
        if (strcmp(ids->at[i].path, path) == 0) {
            return ids->at[i].text;
        }
    }
    if (stat(path, &st) != 0) {
        int err = errno;
        dha_fail(ids->e, DHA_E_INPUT, "%s: %s", path, strerror(err));
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        dha_fail(ids->e, DHA_E_INPUT, "%s is not a regular file", path);
        return NULL;
    }
    struct identity *id = grow(&ids->at, &ids->n, sizeof *id);
    if (!id || !(id->path = strdup(path)) || !(id->text = identity_text(path, &st))) {
        no_memory(ids->e);
        return NULL;
    }
    return id->text;
}

static int add_identity(struct identities *ids, const char *path)
{
    const char *text = identify(ids, path);
    cJSON *id = text ? cJSON_CreateRaw(text) : NULL;
    if (text && (!id || !cJSON_AddItemToArray(ids->list, id))) {
        cJSON_Delete(id);
        return no_memory(ids->e);
    }
    return text ? 0 : -1;
}

/* What a worker may read of a model directory. Others (README, .git, images) do not change a result. */
static int model_file(const struct dirent *d)
{
    static const char *const suffix[] = {".json", ".safetensors", ".model", ".txt"};
    size_t n = strlen(d->d_name);
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix && d->d_name[0] != '.'; i++) {
        size_t k = strlen(suffix[i]);
        if (n > k && strcmp(d->d_name + n - k, suffix[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_model(struct identities *ids, const char *dir)
{
    struct dirent **names = NULL;
    int n = scandir(dir, &names, model_file, by_name);
    if (n < 0) {
        int err = errno;
        return dha_fail(ids->e, DHA_E_INPUT, "model directory %s: %s", dir, strerror(err));
    }
    int rc = 0;
    for (int i = 0; i < n; i++) {
        char path[4096];
        if (rc == 0) {
            int len = snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
            rc = len < 0 || (size_t)len >= sizeof path
                     ? dha_fail(ids->e, DHA_E_INPUT, "the path %.200s... is too long", dir)
                     : add_identity(ids, path);
        }
        free(names[i]);
    }
    free(names);
    return rc;
}

static int add_file(void *arg, cJSON *item, const char *where)
{
    (void)where;
    return add_identity(arg, item->valuestring);
}

/* Identities of the files that the inputs name; `model` holds those of the model's, which every stage
 * that reads the model shares. */
static cJSON *files_of(struct identities *ids, cJSON *inputs, const cJSON *model)
{
    ids->list = json_get(inputs, "model") ? cJSON_Duplicate(model, true) : cJSON_CreateArray();
    if (!ids->list) {
        no_memory(ids->e);
        return NULL;
    }
    if (spec_each_file(inputs, add_file, ids) != 0) {
        cJSON_Delete(ids->list);
        return NULL;
    }
    return ids->list;
}

/* Members in byte order of their names, all the way down: what was written first must not matter. By insertion: objects of
 * a spec are small. */
static void sort_members(cJSON *v)
{
    cJSON *sorted = NULL, *last = NULL;
    for (cJSON *c = v->child; c; c = c->next) {
        sort_members(c);
    }
    if (!cJSON_IsObject(v) || !v->child) {
        return;
    }
    for (cJSON *c = v->child, *next; c; c = next) {
        next = c->next;
        cJSON **at = &sorted;
        while (*at && strcmp((*at)->string, c->string) < 0) {
            at = &(*at)->next;
        }
        c->next = *at;
        *at = c;
    }
    for (cJSON *c = sorted; c; last = c, c = c->next) {
        c->prev = last;
    }
    sorted->prev = last; /* cJSON's way to the end of the list */
    v->child = sorted;
}

int stagekey_digest(const char *text, char out[STAGEKEY_SIZE], struct dha_err *e)
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    if (!EVP_Digest(text, strlen(text), md, &len, EVP_sha256(), NULL) || len != 32) {
        return dha_fail(e, DHA_E_INTERNAL, "SHA-256 is not available");
    }
    for (unsigned i = 0; i < len; i++) {
        out[2 * i] = "0123456789abcdef"[md[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[md[i] & 15];
    }
    out[2 * len] = '\0';
    return 0;
}

static int stage_key(const struct job_spec *s, enum stage_kind k, const char *from,
                     const cJSON *model, struct identities *ids, char out[STAGEKEY_SIZE],
                     struct dha_err *e)
{
    int rc = -1;
    char *text = NULL;
    cJSON *doc = cJSON_CreateObject();
    cJSON *inputs = spec_stage_inputs(s, k);
    cJSON *files = inputs ? files_of(ids, inputs, model) : NULL;
    if (inputs && !files) {
        goto out; /* e says which file */
    }
    if (!doc || !inputs || json_put_int(doc, "version", STAGEKEY_VERSION) != 0 ||
        json_put_str(doc, "kind", stage_kind_name(k)) != 0 ||
        json_put_str(doc, "from", from) != 0) {
        no_memory(e);
        goto out;
    }
    int put = json_put(doc, "inputs", inputs);
    inputs = NULL;
    put |= json_put(doc, "files", files);
    files = NULL;
    if (put != 0) {
        no_memory(e);
        goto out;
    }
    sort_members(doc);
    text = json_text(doc);
    if (!text) {
        no_memory(e);
        goto out;
    }
    rc = stagekey_digest(text, out, e);
out:
    free(text);
    cJSON_Delete(files);
    cJSON_Delete(inputs);
    cJSON_Delete(doc);
    return rc;
}

int stagekey_job(const struct job_spec *s, struct stagekey out[STAGE_KINDS], int *n,
                 struct dha_err *e)
{
    enum stage_kind kinds[STAGE_KINDS];
    const char *from = "";
    int rc = -1;
    cJSON *model = cJSON_CreateArray();
    struct identities ids = {.list = model, .e = e};
    if (!model) {
        return no_memory(e);
    }
    *n = spec_stages(s, kinds);
    if (add_model(&ids, s->model) != 0) {
        goto out;
    }
    for (int i = 0; i < *n; i++) {
        out[i].kind = kinds[i];
        if (stage_key(s, kinds[i], from, model, &ids, out[i].key, e) != 0) {
            dha_err_context(e, "inputs of stage %s", stage_kind_name(kinds[i]));
            goto out;
        }
        /* eval and export both start from the last model; neither changes it. */
        if (kinds[i] != STAGE_EVAL && kinds[i] != STAGE_EXPORT) {
            from = out[i].key;
        }
    }
    rc = 0;
out:
    identities_finish(&ids);
    cJSON_Delete(model);
    return rc;
}

__attribute__((format(printf, 3, 4))) static void add_error(struct spec_errors *errs,
                                                            const char *path, const char *fmt, ...)
{
    int i = errs->n++;
    if ((size_t)i >= sizeof errs->at / sizeof *errs->at) {
        return;
    }
    snprintf(errs->at[i].path, sizeof errs->at[i].path, "%s", path);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(errs->at[i].msg, sizeof errs->at[i].msg, fmt, ap);
    va_end(ap);
    snprintf(errs->at[i].hint, sizeof errs->at[i].hint,
             "it must be readable on this machine by the user as whom the job runs");
}

/* The daemon's working directory is nobody's business: a client makes its paths absolute. */
static bool is_absolute(const char *path, const char *where, struct spec_errors *errs)
{
    if (path[0] != '/') {
        add_error(errs, where, "\"%.180s\" is not an absolute path", path);
    }
    return path[0] == '/';
}

static void check_file(const char *path, const char *where, struct spec_errors *errs)
{
    struct stat st;
    if (!is_absolute(path, where, errs)) {
        return;
    }
    if (stat(path, &st) != 0) {
        add_error(errs, where, "%.180s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        add_error(errs, where, "%.180s is not a regular file", path);
    } else if (faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) !=
               0) { /* with the rights we have now (runas.h) */
        add_error(errs, where, "%.180s: %s", path, strerror(errno));
    }
}

int stagekey_check_files(const struct job_spec *s, struct spec_errors *errs)
{
    int before = errs->n;
    struct stat st;
    char path[4200], where[96];
    if (!s->model || !is_absolute(s->model, "$.model", errs)) {
        /* not known, or said */
    } else if (stat(s->model, &st) != 0) {
        add_error(errs, "$.model", "%.180s: %s", s->model, strerror(errno));
    } else if (!S_ISDIR(st.st_mode)) {
        add_error(errs, "$.model", "%.180s is not a directory", s->model);
    } else {
        snprintf(path, sizeof path, "%.4096s/config.json", s->model);
        if (stat(path, &st) != 0) {
            add_error(errs, "$.model", "%.180s has no config.json", s->model);
        }
    }
    for (int i = 0; i < s->data.n_train; i++) {
        snprintf(where, sizeof where, "$.data.train[%d]", i);
        check_file(s->data.train[i], where, errs);
    }
    if (s->data.valid) {
        check_file(s->data.valid, "$.data.valid", errs);
    }
    if (s->data.tokenizer) {
        check_file(s->data.tokenizer, "$.data.tokenizer", errs);
    }
    for (int m = 0; m < s->data.n_mixture; m++) {
        const struct domain_spec *d = &s->data.mixture[m];
        for (int i = 0; i < d->n_train; i++) {
            snprintf(where, sizeof where, "$.data.mixture[%d].train[%d]", m, i);
            check_file(d->train[i], where, errs);
        }
        if (d->valid) {
            snprintf(where, sizeof where, "$.data.mixture[%d].valid", m);
            check_file(d->valid, where, errs);
        }
    }
    for (int i = 0; i < s->n_eval_tasks; i++) {
        snprintf(where, sizeof where, "$.eval.tasks[%d].path", i);
        check_file(s->eval_tasks[i].path, where, errs);
    }
    return errs->n - before;
}

/* ---- which of them is another than at submission ---- */

enum {
    INDEX_MAX = 1 << 20,
    CLOCK_STEP_US = 10000 /* times of files lag behind the clock by at most this */
};

struct change {
    int64_t since_us;
    int err;                                  /* why `gone` cannot be looked at */
    char gone[4096 + 256], newer[4096 + 256]; /* the first of each; "" = none */
};

static bool is_newer(const struct stat *st, int64_t since_us)
{
    return (int64_t)st->st_ctim.tv_sec * 1000000 + st->st_ctim.tv_nsec / 1000 >=
           since_us - CLOCK_STEP_US;
}

static void look_at(struct change *c, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        if (!c->gone[0]) {
            c->err = errno;
            snprintf(c->gone, sizeof c->gone, "%s", path);
        }
    } else if (!c->newer[0] && is_newer(&st, c->since_us)) {
        snprintf(c->newer, sizeof c->newer, "%s", path);
    }
}

static int look_at_data(void *arg, cJSON *item, const char *where)
{
    (void)where;
    look_at(arg, item->valuestring);
    return 0;
}

static void look_in(struct change *c, const char *dir, const char *name)
{
    char path[sizeof c->gone];
    snprintf(path, sizeof path, "%.4000s/%.255s", dir, name);
    look_at(c, path);
}

/* What must be there (its index names the shards), then what is. */
static void look_at_model(struct change *c, const char *dir)
{
    struct dirent **names = NULL;
    struct dha_err ignored = {0}; /* no index, or none that can be read: then it names nothing */
    char path[4200];
    look_in(c, dir, "config.json");
    snprintf(path, sizeof path, "%.4096s/model.safetensors.index.json", dir);
    cJSON *index = json_parse_file(path, INDEX_MAX, &ignored), *shard;
    cJSON_ArrayForEach(shard, json_get(index, "weight_map"))
    {
        if (cJSON_IsString(shard) && !strchr(shard->valuestring, '/')) {
            look_in(c, dir, shard->valuestring);
        }
    }
    cJSON_Delete(index);
    int n = scandir(dir, &names, model_file, by_name);
    for (int i = 0; i < n; i++) {
        look_in(c, dir, names[i]->d_name);
        free(names[i]);
    }
    free(names);
}

int stagekey_changed(const struct job_spec *s, int64_t since_us, struct dha_err *e)
{
    struct change c = {.since_us = since_us};
    struct stat st;
    enum stage_kind kinds[STAGE_KINDS];
    if (stat(s->model, &st) != 0) {
        c.err = errno;
        snprintf(c.gone, sizeof c.gone, "the model directory %s", s->model);
    } else {
        look_at_model(&c, s->model);
    }
    for (int i = 0, n = spec_stages(s, kinds); i < n; i++) {
        cJSON *inputs = spec_stage_inputs(s, kinds[i]);
        if (inputs) {
            spec_each_file(inputs, look_at_data, &c);
        }
        cJSON_Delete(inputs);
    }
    if (c.gone[0] && (c.err == ENOENT || c.err == ENOTDIR)) {
        dha_fail(e, DHA_E_INPUT, "%.400s is gone; it was there when the job was submitted", c.gone);
        return dha_err_hint(e, "put it back and submit the job again");
    }
    if (c.gone[0]) {
        dha_fail(e, DHA_E_INPUT, "%.400s: %s; it could be read when the job was submitted", c.gone,
                 strerror(c.err));
        return dha_err_hint(e, "make it readable and submit the job again");
    }
    if (c.newer[0]) {
        dha_fail(e, DHA_E_INPUT, "%.400s was changed after the job was submitted", c.newer);
    } else if (is_newer(&st, since_us)) {
        dha_fail(e, DHA_E_INPUT,
                 "a file of the model directory %.400s was removed or renamed after the job was "
                 "submitted",
                 s->model);
        return dha_err_hint(e, "put it back if the model needs it, and submit the job again");
    } else {
        dha_fail(e, DHA_E_INPUT,
                 "the model's or data files were changed after the job was submitted");
    }
    return dha_err_hint(e, "submit the job again: it then uses the files as they are");
}
