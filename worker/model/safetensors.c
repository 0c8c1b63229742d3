/* safetensors.c: reading. The container is: u64 little-endian header length N, N bytes of JSON (padded with
 * spaces), then the tensors' bytes. The JSON maps a name to {dtype, shape, data_offsets: [begin, end)} with
 * offsets counted from the end of the header; "__metadata__" maps strings to strings.
 *
 * Invariants after st_open*, st_parse:
 *   - every tensor's bytes lie inside its map, and bytes == product of dims x element size;
 *   - the spans of a file follow each other without overlap or hole and end at the end of the file (the
 *     format's own rule: nothing can hide in a file, and a truncated file cannot pass);
 *   - names are unique over all shards; tensors are sorted by name.
 * A file that shrinks while it is mapped raises SIGBUS on access, as every mmap reader accepts.
 */
#include "worker/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/json.h"
#include "worker/model/dtype.h"

#define HEADER_MAX (100u << 20) /* the format's own limit */
#define INDEX_MAX  (64u << 20)

struct map {
    const uint8_t *data;
    size_t len;
    bool mapped; /* else borrowed (st_parse) */
};

struct st_file {
    struct map *maps;
    size_t n_maps;
    struct st_tensor *t;
    size_t n, cap;
};

static const struct {
    const char *name;
    enum st_dtype dtype;
    unsigned size;
} dtypes[] = {
    {"F32", ST_F32, 4},    {"F16", ST_F16, 2},       {"BF16", ST_BF16, 2},     {"F64", ST_F64, 8},
    {"I32", ST_I32, 4},    {"I64", ST_I64, 8},       {"U8", ST_U8, 1},         {"I8", ST_OTHER, 1},
    {"I16", ST_OTHER, 2},  {"U16", ST_OTHER, 2},     {"U32", ST_OTHER, 4},     {"U64", ST_OTHER, 8},
    {"BOOL", ST_OTHER, 1}, {"F8_E5M2", ST_OTHER, 1}, {"F8_E4M3", ST_OTHER, 1}, {"C64", ST_OTHER, 8},
};

static int bad(struct dha_err *e, const char *path)
{
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", path);
    return -1;
}

/* One member of the header -> t. */
static int read_entry(const cJSON *j, const char *path, const struct map *m, size_t data_start,
                      struct st_tensor *t, struct dha_err *e)
{
    const char *name = j->string;
    const cJSON *dtype = json_get(j, "dtype"), *shape = json_get(j, "shape"),
                *span = json_get(j, "data_offsets"), *d;
    size_t which = 0, n_dtypes = sizeof dtypes / sizeof *dtypes, have = m->len - data_start;
    int64_t begin, end;

    if (!cJSON_IsString(dtype) || !cJSON_IsArray(shape) || !cJSON_IsArray(span) ||
        cJSON_GetArraySize(span) != 2 || !json_to_int(span->child, &begin) ||
        !json_to_int(span->child->next, &end)) {
        dha_fail(e, DHA_E_INPUT,
                 "%s: tensor \"%.80s\": the header needs dtype, shape and data_offsets", path,
                 name);
        return bad(e, path);
    }
    while (which < n_dtypes && strcmp(dtypes[which].name, dtype->valuestring) != 0)
        which++;
    if (which == n_dtypes) {
        dha_fail(e, DHA_E_INPUT, "%s: tensor \"%.80s\" has the unknown dtype \"%.20s\"", path, name,
                 dtype->valuestring);
        return bad(e, path);
    }
    if (begin < 0 || end < begin || (uint64_t)end > have) {
        dha_fail(
            e, DHA_E_INPUT,
            "%s: tensor \"%.80s\" lies at bytes %lld..%lld of %zu: the file is truncated or its "
            "header is wrong",
            path, name, (long long)begin, (long long)end, have);
        return bad(e, path);
    }
    t->dtype = dtypes[which].dtype;
    uint64_t bytes = dtypes[which].size;
    t->n_dims = 0;
    cJSON_ArrayForEach(d, shape)
    {
        int64_t n;
        if (t->n_dims == 4 || !cJSON_IsNumber(d) || !json_to_int(d, &n) || n < 0 ||
            __builtin_mul_overflow(bytes, (uint64_t)n, &bytes)) {
            dha_fail(e, DHA_E_INPUT,
                     "%s: tensor \"%.80s\": a shape is at most 4 numbers >= 0, and no larger than "
                     "memory",
                     path, name);
            return bad(e, path);
        }
        t->dims[t->n_dims++] = n;
    }
    if (bytes != (uint64_t)(end - begin)) {
        dha_fail(e, DHA_E_INPUT,
                 "%s: tensor \"%.80s\": its shape needs %llu bytes, its data_offsets give %lld",
                 path, name, (unsigned long long)bytes, (long long)(end - begin));
        return bad(e, path);
    }
    t->data = m->data + data_start + begin;
    t->bytes = (size_t)bytes;
    t->name = strdup(name);
    return t->name ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "%s: no memory for its header", path);
}

static int by_place(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    /* empty tensors before the one that starts at the same place */
    return p != q ? (p < q ? -1 : 1) : x->bytes != y->bytes ? (x->bytes < y->bytes ? -1 : 1) : 0;
}

static int by_name(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The spans of tensors [first, f->n) cover [start, end) exactly. */
static int check_spans(struct st_file *f, size_t first, const char *path, const struct map *m,
                       size_t data_start, struct dha_err *e)
{
    const uint8_t *at = m->data + data_start;
    qsort(f->t + first, f->n - first, sizeof *f->t, by_place);
    for (size_t i = first; i < f->n; i++) {
        const uint8_t *p = f->t[i].data;
        if (p < at) {
            dha_fail(e, DHA_E_INPUT, "%s: tensors \"%.80s\" and \"%.80s\" overlap", path,
                     f->t[i - 1].name, f->t[i].name);
            return bad(e, path);
        }
        if (p > at) {
            dha_fail(e, DHA_E_INPUT, "%s: %zu bytes before tensor \"%.80s\" belong to no tensor",
                     path, (size_t)(p - at), f->t[i].name);
            return bad(e, path);
        }
        at = p + f->t[i].bytes;
    }
    if (at != m->data + m->len) {
        dha_fail(e, DHA_E_INPUT, "%s: %zu bytes at the end belong to no tensor", path,
                 (size_t)(m->data + m->len - at));
        return bad(e, path);
    }
    return 0;
}

static int read_header(struct st_file *f, const char *path, const struct map *m, struct dha_err *e)
{
    uint64_t hlen = 0;
    if (m->len < 8) {
        dha_fail(e, DHA_E_INPUT, "%s: %zu bytes are no safetensors file", path, m->len);
        return bad(e, path);
    }
    for (int i = 7; i >= 0; i--)
        hlen = hlen << 8 | m->data[i];
    if (hlen > HEADER_MAX || hlen > m->len - 8) {
        dha_fail(e, DHA_E_INPUT,
                 "%s: its header claims %llu bytes, the file has %zu: truncated, or no safetensors "
                 "file",
                 path, (unsigned long long)hlen, m->len);
        return bad(e, path);
    }
    /* The shallowest depth that the format needs: object, entry, array. */
    struct json_limits lim = {HEADER_MAX, 8};
    cJSON *doc = json_parse((const char *)m->data + 8, (size_t)hlen, &lim, e);
    if (!doc) {
        if (e && e->code == DHA_E_PROTOCOL)
            e->code = DHA_E_INPUT;
        dha_err_context(e, "%s: safetensors header", path);
        return bad(e, path);
    }
    int rc = -1;
    size_t first = f->n, data_start = 8 + (size_t)hlen;
    if (!cJSON_IsObject(doc)) {
        dha_fail(e, DHA_E_INPUT, "%s: its header is no JSON object", path);
        bad(e, path);
        goto done;
    }
    size_t count = 0;
    for (const cJSON *j = doc->child; j; j = j->next)
        count++;
    struct st_tensor *grown = realloc(f->t, (f->n + count + 1) * sizeof *f->t);
    if (!grown) {
        dha_fail(e, DHA_E_NO_MEMORY, "%s: no memory for its header", path);
        goto done;
    }
    f->t = grown;
    for (const cJSON *j = doc->child; j; j = j->next) {
        if (strcmp(j->string, "__metadata__") == 0)
            continue;
        if (!cJSON_IsObject(j)) {
            dha_fail(e, DHA_E_INPUT, "%s: the header's \"%.80s\" is no object", path, j->string);
            bad(e, path);
            goto done;
        }
        if (read_entry(j, path, m, data_start, &f->t[f->n], e) < 0)
            goto done;
        f->n++;
    }
    rc = check_spans(f, first, path, m, data_start, e);
done:
    cJSON_Delete(doc);
    return rc;
}

static int map_file(struct map *m, const char *path, struct dha_err *e)
{
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        dha_fail_errno(e, errno, "opening %s", path);
        return bad(e, path);
    }
    if (fstat(fd, &s) < 0 || !S_ISREG(s.st_mode) || s.st_size < 8) {
        dha_fail(e, DHA_E_INPUT, "%s: not a safetensors file (not a file, or under 8 bytes)", path);
        close(fd);
        return bad(e, path);
    }
    void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int errnum = errno;
    close(fd);
    if (p == MAP_FAILED) {
        dha_fail_errno(e, errnum, "mapping %s", path);
        return bad(e, path);
    }
    *m = (struct map){p, (size_t)s.st_size, true};
    return 0;
}

static int add_map(struct st_file *f, const struct map *m, struct dha_err *e)
{
    struct map *grown = realloc(f->maps, (f->n_maps + 1) * sizeof *grown);
    if (!grown)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a file table");
    f->maps = grown;
    f->maps[f->n_maps++] = *m;
    return 0;
}

static int add_file(struct st_file *f, const char *path, struct dha_err *e)
{
    struct map m;
    if (map_file(&m, path, e) < 0)
        return -1;
    if (add_map(f, &m, e) < 0) {
        munmap((void *)(uintptr_t)m.data, m.len);
        return -1;
    }
    return read_header(f, path, &m, e);
}

static void sort_names(struct st_file *f)
{
    if (f->n)
        qsort(f->t, f->n, sizeof *f->t, by_name);
}

static struct st_file *file_new(struct dha_err *e)
{
    struct st_file *f = calloc(1, sizeof *f);
    if (!f)
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for a file table");
    return f;
}

int st_open(struct st_file **out, const char *path, struct dha_err *e)
{
    struct st_file *f = file_new(e);
    *out = NULL;
    if (!f || add_file(f, path, e) < 0) {
        st_close(f);
        return -1;
    }
    sort_names(f);
    *out = f;
    return 0;
}

int st_parse(struct st_file **out, const uint8_t *data, size_t len, struct dha_err *e)
{
    struct st_file *f = file_new(e);
    struct map m = {data, len, false};
    *out = NULL;
    if (!f || add_map(f, &m, e) < 0 || read_header(f, "(memory)", &m, e) < 0) {
        st_close(f);
        return -1;
    }
    sort_names(f);
    *out = f;
    return 0;
}

/* Shards may come in any order in the index; each is opened once. weight_map is sorted by nobody, so
 * the check that both sides name the same tensors goes through the sorted table. */
static int read_index(struct st_file *f, const char *dir, const char *index, struct dha_err *e)
{
    char path[4200];
    int rc = -1;
    cJSON *doc = json_parse_file(index, INDEX_MAX, e);
    if (!doc) {
        if (e && e->code == DHA_E_PROTOCOL)
            e->code = DHA_E_INPUT;
        return bad(e, index);
    }
    const cJSON *map = json_get(doc, "weight_map"), *j;
    const char **opened = NULL;
    size_t n_opened = 0, n_named = 0;
    if (!cJSON_IsObject(map) || !map->child) {
        dha_fail(e, DHA_E_INPUT, "%s: \"weight_map\" is missing or empty", index);
        goto done;
    }
    cJSON_ArrayForEach(j, map)
    {
        size_t i = 0;
        n_named++;
        if (!cJSON_IsString(j) || !j->valuestring[0] || strchr(j->valuestring, '/') ||
            strlen(j->valuestring) > 255) {
            dha_fail(e, DHA_E_INPUT, "%s: \"%.80s\" must name a file beside the index", index,
                     j->string);
            goto done;
        }
        while (i < n_opened && strcmp(opened[i], j->valuestring) != 0)
            i++;
        if (i < n_opened)
            continue;
        const char **grown = realloc(opened, (n_opened + 1) * sizeof *opened);
        if (!grown) {
            dha_fail(e, DHA_E_NO_MEMORY, "no memory for a file table");
            goto done;
        }
        opened = grown;
        opened[n_opened++] = j->valuestring;
        snprintf(path, sizeof path, "%s/%s", dir, j->valuestring);
        if (add_file(f, path, e) < 0) {
            if (e && e->code == DHA_E_NOT_FOUND) {
                e->code = DHA_E_INPUT;
                dha_err_context(e, "%s names a shard that is not there", index);
                dha_err_hint(e, "download or copy the missing shard beside the index");
            }
            goto done_path_set;
        }
    }
    sort_names(f);
    for (size_t i = 1; i < f->n; i++)
        if (strcmp(f->t[i - 1].name, f->t[i].name) == 0) {
            dha_fail(e, DHA_E_INPUT, "%s: tensor \"%.80s\" is in two shards", index, f->t[i].name);
            goto done;
        }
    cJSON_ArrayForEach(j, map)
    {
        if (!st_find(f, j->string)) {
            dha_fail(e, DHA_E_INPUT, "%s: tensor \"%.80s\" is in no shard (it should be in %.80s)",
                     index, j->string, j->valuestring);
            goto done;
        }
    }
    /* names are unique on both sides and every indexed one is there: only a surplus is left */
    if (f->n != n_named) {
        dha_fail(e, DHA_E_INPUT, "%s: names %zu tensors, the shards hold %zu", index, n_named,
                 f->n);
        goto done;
    }
    rc = 0;
done:
    if (rc < 0)
        bad(e, index);
done_path_set:
    free(opened);
    cJSON_Delete(doc);
    return rc;
}

int st_open_dir(struct st_file **out, const char *dir, struct dha_err *e)
{
    char one[4096], index[4128];
    *out = NULL;
    if (snprintf(one, sizeof one, "%s/model.safetensors", dir) >= (int)sizeof one)
        return dha_fail(e, DHA_E_INPUT, "the model's path is too long: %.100s...", dir);
    if (access(one, F_OK) == 0)
        return st_open(out, one, e);
    snprintf(index, sizeof index, "%s.index.json", one);
    if (access(index, F_OK) != 0) {
        dha_fail(e, DHA_E_NOT_FOUND,
                 "%s holds neither model.safetensors nor model.safetensors.index.json", dir);
        dha_err_hint(e, "convert other formats with transformers: "
                        "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)");
        return bad(e, dir);
    }
    struct st_file *f = file_new(e);
    if (!f || read_index(f, dir, index, e) < 0) {
        st_close(f);
        return -1;
    }
    *out = f;
    return 0;
}

void st_close(struct st_file *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->n; i++)
        free((void *)(uintptr_t)f->t[i].name);
    for (size_t i = 0; i < f->n_maps; i++)
        if (f->maps[i].mapped)
            munmap((void *)(uintptr_t)f->maps[i].data, f->maps[i].len);
    free(f->t);
    free(f->maps);
    free(f);
}

size_t st_count(const struct st_file *f)
{
    return f->n;
}

const struct st_tensor *st_at(const struct st_file *f, size_t i)
{
    return i < f->n ? &f->t[i] : NULL;
}

const struct st_tensor *st_find(const struct st_file *f, const char *name)
{
    struct st_tensor key = {.name = name};
    return f->n ? bsearch(&key, f->t, f->n, sizeof *f->t, by_name) : NULL;
}

int st_read_f32(const struct st_tensor *t, float *dst, size_t n, struct dha_err *e)
{
    size_t have = 1;
    for (int i = 0; i < t->n_dims; i++)
        have *= (size_t)t->dims[i];
    if (n != have)
        return dha_fail(e, DHA_E_INPUT, "tensor \"%.80s\" has %zu elements, %zu were asked for",
                        t->name, have, n);
    switch (t->dtype) {
    case ST_F32: memcpy(dst, t->data, n * sizeof *dst); return 0;
    case ST_F16: dtype_f32_from_f16(dst, t->data, n); return 0;
    case ST_BF16: dtype_f32_from_bf16(dst, t->data, n); return 0;
    case ST_F64:
        for (size_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, (const char *)t->data + i * sizeof d, sizeof d);
            dst[i] = (float)d;
        }
        return 0;
    case ST_I32:
    case ST_I64:
    case ST_U8:
    case ST_OTHER: break;
    }
    return dha_fail(e, DHA_E_INPUT, "tensor \"%.80s\" does not hold floating-point numbers",
                    t->name);
}
