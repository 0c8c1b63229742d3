/* st_writer.c: writing the safetensors container.
 *
 * A shard is a hidden temp file in the target directory: room for the header first, then tensors as they
 * come, so that nothing is held in memory. finish() writes the header into the room (padded with
 * spaces, as the format allows; if the room is too small the data moves up once), syncs, and renames;
 * the index comes after its shards, the directory is synced last. Before the first rename nothing in the
 * directory has changed; on any failure the temp files go away.
 * Sharded output is refused where a model already is: several renames are not one atomic step, and a
 * reader would prefer the old model.safetensors to the new index.
 */
#include "worker/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/json.h"
#include "worker/model/dtype.h"

#define ENTRY_BYTES  160 /* header text of a usual tensor: a name of 45 bytes and 90 of the rest */
#define ENTRIES_DFLT 64
#define CHUNK        (1u << 20) /* bytes converted and written at a time */

struct entry {
    char *name;
    enum st_dtype dtype;
    int n_dims;
    int64_t dims[4];
    uint64_t begin, end; /* in its shard's data */
};

struct shard {
    struct entry *t;
    size_t n, cap;
    int fd;
    uint64_t bytes; /* of data so far */
    uint64_t room;  /* data starts here in the temp file */
    char temp[64], final[64];
};

struct st_writer {
    char *dir;
    int dirfd;
    size_t max_shard, expected;
    struct shard *shards;
    size_t n_shards;
    void *buf; /* CHUNK */
};

static int fail_io(struct st_writer *w, int errnum, const char *doing, struct dha_err *e)
{
    dha_fail_errno(e, errnum, "%s in %s; what was there before is unchanged", doing, w->dir);
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", w->dir);
    return -1;
}

static int write_all(int fd, const void *data, size_t n, uint64_t at)
{
    const char *p = data;
    while (n > 0) {
        ssize_t k = pwrite(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0) {
            errno = k < 0 ? errno : ENOSPC;
            return -1;
        }
        p += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}

/* room such that data starts at a multiple of 64 bytes in the file */
static uint64_t room_for(uint64_t header_bytes)
{
    return (8 + header_bytes + 63) / 64 * 64;
}

static int shard_begin(struct st_writer *w, struct dha_err *e)
{
    struct shard *grown = realloc(w->shards, (w->n_shards + 1) * sizeof *grown);
    if (!grown)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory to write a model");
    w->shards = grown;
    struct shard *s = &grown[w->n_shards];
    memset(s, 0, sizeof *s);
    s->room = room_for((uint64_t)w->expected * ENTRY_BYTES);
    snprintf(s->temp, sizeof s->temp, ".tmp-%ld-%zu.safetensors", (long)getpid(), w->n_shards + 1);
    s->fd = openat(w->dirfd, s->temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (s->fd < 0)
        return fail_io(w, errno, "creating a file", e);
    w->n_shards++;
    return 0;
}

int st_writer_open(struct st_writer **out, const char *dir, size_t max_shard_bytes,
                   struct dha_err *e)
{
    *out = NULL;
    struct st_writer *w = calloc(1, sizeof *w);
    if (!w)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory to write a model");
    w->dirfd = -1;
    w->max_shard = max_shard_bytes;
    w->expected = ENTRIES_DFLT;
    w->dir = strdup(dir);
    w->buf = malloc(CHUNK);
    if (!w->dir || !w->buf) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory to write a model");
        goto fail;
    }
    w->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->dirfd < 0) {
        fail_io(w, errno, "opening the directory", e);
        goto fail;
    }
    if (max_shard_bytes && (faccessat(w->dirfd, "model.safetensors", F_OK, 0) == 0 ||
                            faccessat(w->dirfd, "model.safetensors.index.json", F_OK, 0) == 0)) {
        dha_fail(e, DHA_E_CONFLICT, "%s already holds a model", dir);
        dha_err_hint(e, "write shards to a new directory");
        goto fail;
    }
    *out = w;
    return 0;
fail:
    st_writer_abort(w);
    return -1;
}

void st_writer_expect(struct st_writer *w, size_t n_tensors)
{
    if (w->n_shards == 0)
        w->expected = n_tensors;
}

void st_writer_abort(struct st_writer *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n_shards; i++) {
        struct shard *s = &w->shards[i];
        if (s->fd >= 0) {
            close(s->fd);
            unlinkat(w->dirfd, s->temp, 0);
        }
        for (size_t k = 0; k < s->n; k++)
            free(s->t[k].name);
        free(s->t);
    }
    if (w->dirfd >= 0)
        close(w->dirfd);
    free(w->shards);
    free(w->buf);
    free(w->dir);
    free(w);
}

static struct entry *entry_new(struct st_writer *w, struct shard *s, const char *name,
                               struct dha_err *e)
{
    for (size_t i = 0; i < w->n_shards; i++)
        for (size_t k = 0; k < w->shards[i].n; k++)
            if (strcmp(w->shards[i].t[k].name, name) == 0) {
                dha_fail(e, DHA_E_INTERNAL, "tensor \"%s\" written twice", name);
                return NULL;
            }
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        struct entry *grown = realloc(s->t, cap * sizeof *grown);
        if (!grown) {
            dha_fail(e, DHA_E_NO_MEMORY, "no memory to write a model");
            return NULL;
        }
        s->t = grown;
        s->cap = cap;
    }
    struct entry *t = &s->t[s->n];
    memset(t, 0, sizeof *t);
    t->name = strdup(name);
    if (!t->name) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory to write a model");
        return NULL;
    }
    s->n++;
    return t;
}

int st_writer_add(struct st_writer *w, const char *name, enum st_dtype dtype, int n_dims,
                  const int64_t *dims, const float *data, struct dha_err *e)
{
    size_t size = dtype == ST_F32 ? 4 : 2, n = 1;
    if (n_dims < 0 || n_dims > 4 || (dtype != ST_F32 && dtype != ST_BF16 && dtype != ST_F16))
        return dha_fail(e, DHA_E_INTERNAL, "tensor \"%s\": dtype or shape cannot be written", name);
    for (int i = 0; i < n_dims; i++)
        n *= (size_t)dims[i];
    struct shard *s = w->n_shards ? &w->shards[w->n_shards - 1] : NULL;
    if (!s || (w->max_shard && s->bytes > 0 && s->bytes + n * size > w->max_shard)) {
        if (shard_begin(w, e) < 0)
            return -1;
        s = &w->shards[w->n_shards - 1];
    }
    struct entry *t = entry_new(w, s, name, e);
    if (!t)
        return -1;
    t->dtype = dtype;
    t->n_dims = n_dims;
    for (int i = 0; i < n_dims; i++)
        t->dims[i] = dims[i];
    t->begin = s->bytes;
    for (size_t at = 0; at < n;) {
        size_t k = n - at < CHUNK / size ? n - at : CHUNK / size;
        const void *piece = data + at;
        if (dtype != ST_F32) {
            (dtype == ST_BF16 ? dtype_bf16_from_f32 : dtype_f16_from_f32)(w->buf, data + at, k);
            piece = w->buf;
        }
        if (write_all(s->fd, piece, k * size, s->room + s->bytes) < 0)
            return fail_io(w, errno, "writing weights", e);
        s->bytes += k * size;
        at += k;
    }
    t->end = s->bytes;
    return 0;
}

static char *header_text(const struct shard *s)
{
    cJSON *j = cJSON_CreateObject(), *meta = cJSON_CreateObject();
    /* transformers refuses files that do not say "pt" here */
    int failed = json_put_str(meta, "format", "pt");
    failed |= json_put(j, "__metadata__", meta);
    for (size_t i = 0; i < s->n && !failed; i++) {
        const struct entry *t = &s->t[i];
        cJSON *o = cJSON_CreateObject(), *shape = cJSON_CreateArray(), *span = cJSON_CreateArray();
        for (int d = 0; d < t->n_dims; d++)
            failed |= !cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->dims[d]));
        failed |= !cJSON_AddItemToArray(span, cJSON_CreateNumber((double)t->begin));
        failed |= !cJSON_AddItemToArray(span, cJSON_CreateNumber((double)t->end));
        failed |= json_put_str(o, "dtype",
                               t->dtype == ST_F32    ? "F32"
                               : t->dtype == ST_BF16 ? "BF16"
                                                     : "F16");
        failed |= json_put(o, "shape", shape);
        failed |= json_put(o, "data_offsets", span);
        failed |= json_put(j, t->name, o);
    }
    char *text = failed ? NULL : json_text(j);
    cJSON_Delete(j);
    return text;
}

/* The data moves up by `by` bytes: from its end, so that no byte is overwritten before it is read. */
static int move_data(struct st_writer *w, struct shard *s, uint64_t by)
{
    for (uint64_t left = s->bytes; left > 0;) {
        size_t k = left < CHUNK ? (size_t)left : CHUNK;
        uint64_t at = s->room + left - k;
        size_t got = 0;
        while (got < k) {
            ssize_t r = pread(s->fd, (char *)w->buf + got, k - got, (off_t)(at + got));
            if (r < 0 && errno == EINTR)
                continue;
            if (r <= 0) {
                errno = r < 0 ? errno : EIO;
                return -1;
            }
            got += (size_t)r;
        }
        if (write_all(s->fd, w->buf, k, at + by) < 0)
            return -1;
        left -= k;
    }
    s->room += by;
    return 0;
}

static int shard_end(struct st_writer *w, struct shard *s, struct dha_err *e)
{
    char *text = header_text(s);
    if (!text)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a safetensors header");
    size_t len = strlen(text);
    int rc = -1;
    uint64_t need = room_for(len);
    if (need > s->room && move_data(w, s, need - s->room) < 0) {
        fail_io(w, errno, "writing weights", e);
        goto done;
    }
    uint64_t hlen = s->room - 8;
    char *padded = realloc(text, hlen);
    if (!padded) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for a safetensors header");
        goto done;
    }
    text = padded;
    memset(text + len, ' ', hlen - len);
    unsigned char le[8];
    for (int i = 0; i < 8; i++)
        le[i] = (unsigned char)(hlen >> 8 * i);
    if (write_all(s->fd, le, sizeof le, 0) < 0 || write_all(s->fd, text, hlen, 8) < 0 ||
        fsync(s->fd) < 0) {
        fail_io(w, errno, "writing weights", e);
        goto done;
    }
    rc = 0;
done:
    free(text);
    return rc;
}

static int write_index(struct st_writer *w, struct dha_err *e)
{
    char path[4200];
    uint64_t total = 0;
    cJSON *j = cJSON_CreateObject(), *meta = cJSON_CreateObject(), *map = cJSON_CreateObject();
    int failed = !j || !meta || !map, rc = -1;
    for (size_t i = 0; i < w->n_shards; i++) {
        total += w->shards[i].bytes;
        for (size_t k = 0; k < w->shards[i].n && !failed; k++)
            failed |= json_put_str(map, w->shards[i].t[k].name, w->shards[i].final);
    }
    failed |= json_put_int(meta, "total_size", (int64_t)total);
    failed |= json_put(j, "metadata", meta);
    failed |= json_put(j, "weight_map", map);
    snprintf(path, sizeof path, "%.4095s/model.safetensors.index.json", w->dir);
    if (failed)
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for the weight index");
    else
        rc = json_write_file(path, j, e);
    cJSON_Delete(j);
    return rc;
}

int st_writer_finish(struct st_writer *w, struct dha_err *e)
{
    size_t renamed = 0;
    if (w->n_shards == 0) { /* a file without tensors is a file, too */
        if (shard_begin(w, e) < 0)
            goto fail;
    }
    for (size_t i = 0; i < w->n_shards; i++)
        if (shard_end(w, &w->shards[i], e) < 0)
            goto fail;
    for (size_t i = 0; i < w->n_shards; i++) {
        struct shard *s = &w->shards[i];
        if (w->max_shard)
            snprintf(s->final, sizeof s->final, "model-%05u-of-%05u.safetensors",
                     (unsigned)(i + 1) % 100000, (unsigned)w->n_shards % 100000);
        else
            snprintf(s->final, sizeof s->final, "model.safetensors");
        int closed = close(s->fd), errnum = errno;
        s->fd = -1;
        if (closed < 0 || renameat(w->dirfd, s->temp, w->dirfd, s->final) < 0) {
            errnum = closed < 0 ? errnum : errno;
            unlinkat(w->dirfd, s->temp, 0);
            fail_io(w, errnum, "renaming weights into place", e);
            goto fail;
        }
        renamed++;
    }
    if (w->max_shard && write_index(w, e) < 0)
        goto fail;
    if (fsync(w->dirfd) < 0) {
        fail_io(w, errno, "syncing the directory", e);
        renamed = 0; /* the files are complete: leave them */
        goto fail;
    }
    st_writer_abort(w);
    return 0;
fail:
    /* shards that are already in place are ours alone (open() saw no model) and useless without an index */
    for (size_t i = 0; w->max_shard && i < renamed; i++)
        unlinkat(w->dirfd, w->shards[i].final, 0);
    st_writer_abort(w);
    return -1;
}
