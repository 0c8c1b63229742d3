#include "worker/train/ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "proto/json.h"
#include "worker/fsutil.h"

#define FORMAT       "dha-checkpoint-1"
#define SELF         "xxh3_128" /* of the manifest itself; those of earlier versions have none */
#define DIGEST_CHARS FS_DIGEST_CHARS

static int sha256_file(const char *path, char hex[65], struct dha_err *e)
{
    unsigned char md[32], buf[1 << 14];
    unsigned int n = 0;
    FILE *f = fopen(path, "rb");
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    int rc = -1;
    if (!f) {
        dha_fail_errno(e, errno, "cannot open %s", path);
    } else if (!c || !EVP_DigestInit_ex(c, EVP_sha256(), NULL)) {
        dha_fail(e, DHA_E_INTERNAL, "SHA-256 is not available");
    } else {
        for (size_t r; (r = fread(buf, 1, sizeof buf, f)) > 0;)
            EVP_DigestUpdate(c, buf, r);
        if (ferror(f)) {
            dha_fail(e, DHA_E_IO, "cannot read %s", path);
        } else {
            EVP_DigestFinal_ex(c, md, &n);
            for (int i = 0; i < 32; i++)
                snprintf(hex + 2 * i, 3, "%02x", md[i]);
            rc = 0;
        }
    }
    EVP_MD_CTX_free(c);
    if (f)
        fclose(f);
    return rc;
}

/* ---- save ---------------------------------------------------------------------------------------- */

struct shard_out {
    int fd;
    const char *path;
    int64_t bytes;
    XXH3_state_t *hash;
};

static int put(struct shard_out *s, const void *data, size_t n, struct dha_err *e)
{
    XXH3_128bits_update(s->hash, data, n);
    s->bytes += (int64_t)n;
    return fs_write_all(s->fd, data, n, s->path, e);
}

/* One device range, through a bounce buffer of 4 MiB. */
static int put_view(struct shard_out *s, struct kern *k, struct kern_view v, size_t n,
                    float *bounce, struct dha_err *e)
{
    const size_t step = (size_t)1 << 20;
    for (size_t at = 0; at < n; at += step) {
        size_t m = n - at < step ? n - at : step;
        k->ops->download(k, bounce, kern_plus(v, at), m);
        if (kern_sync(k, NULL))
            return dha_fail(e, DHA_E_INTERNAL, "backend: %s", k->err.msg);
        if (put(s, bounce, m * sizeof(float), e))
            return -1;
    }
    return 0;
}

static int write_shard(const char *path, const struct optim *o, int64_t *bytes,
                       char digest[DIGEST_CHARS], struct dha_err *e)
{
    struct shard_out s = {.path = path, .fd = -1, .hash = XXH3_createState()};
    float *bounce = malloc(sizeof(float) << 20);
    int rc = -1;
    if (!bounce || !s.hash) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory to write %s", path);
        goto out;
    }
    XXH3_128bits_reset(s.hash);
    s.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (s.fd < 0) {
        dha_fail_errno(e, errno, "cannot create %s", path);
        goto out;
    }
    for (int i = 0; i < o->n_groups; i++) {
        const struct optim_group *g = &o->group[i];
        size_t at = (size_t)o->comm->rank * g->chunk;
        if (g->own == 0)
            continue;
        if (put_view(&s, o->k, kern_at(g->params, at), g->own, bounce, e) ||
            put_view(&s, o->k, kern_at(g->m, 0), g->own, bounce, e) ||
            put_view(&s, o->k, kern_at(g->v, 0), g->own, bounce, e))
            goto out;
    }
    if (fsync(s.fd)) {
        dha_fail_errno(e, errno, "cannot sync %s", path);
        goto out;
    }
    XXH128_hash_t h = XXH3_128bits_digest(s.hash);
    fs_digest_hex(h.high64, h.low64, digest);
    *bytes = s.bytes;
    rc = 0;
out:
    if (s.fd >= 0)
        close(s.fd);
    free(bounce);
    XXH3_freeState(s.hash);
    return rc;
}

struct shard_line { /* what a rank tells rank 0 */
    int64_t bytes;
    char digest[DIGEST_CHARS];
};

/* Of the manifest without its own digest: a bit that turned in it must not make another run of this one. */
static int self_digest(const cJSON *j, char hex[DIGEST_CHARS])
{
    cJSON *rest = cJSON_Duplicate(j, true);
    cJSON_DeleteItemFromObjectCaseSensitive(rest, SELF);
    char *text = rest ? json_text(rest) : NULL;
    cJSON_Delete(rest);
    if (!text)
        return -1;
    XXH128_hash_t h = XXH3_128bits(text, strlen(text));
    fs_digest_hex(h.high64, h.low64, hex);
    free(text);
    return 0;
}

static cJSON *manifest(const struct optim *o, const struct ckpt_state *s, const char *identity,
                       const struct shard_line *lines)
{
    cJSON *j = cJSON_CreateObject(), *groups = cJSON_CreateArray(), *shards = cJSON_CreateArray();
    int bad = !j || !groups || !shards;
    bad |= json_put_str(j, "format", FORMAT) | json_put_str(j, "identity", identity) |
           json_put_int(j, "step", s->step) | json_put_int(j, "world", o->comm->size) |
           json_put_int(j, "tokens", s->tokens);
    /* hex digits: exact, and they can say nan */
    char hex[40];
    snprintf(hex, sizeof hex, "%a", s->lambda);
    bad |= json_put_str(j, "lambda", hex);
    snprintf(hex, sizeof hex, "%a", s->mask_lambda[0]);
    bad |= json_put_str(j, "mask_lambda_1", hex);
    snprintf(hex, sizeof hex, "%a", s->mask_lambda[1]);
    bad |= json_put_str(j, "mask_lambda_2", hex);
    snprintf(hex, sizeof hex, "%a", s->fusion_loss);
    bad |= json_put_str(j, "fusion_loss", hex);
    snprintf(hex, sizeof hex, "%a", s->valid_loss);
    bad |= json_put_str(j, "valid_loss", hex);
    for (int i = 0; !bad && i < o->n_groups; i++) {
        cJSON *g = cJSON_CreateObject();
        bad |= json_put_int(g, "n", (int64_t)o->group[i].n) |
               json_put_int(g, "chunk", (int64_t)o->group[i].chunk);
        if (!cJSON_AddItemToArray(groups, g))
            bad = 1;
    }
    for (int r = 0; !bad && r < o->comm->size; r++) {
        cJSON *h = cJSON_CreateObject();
        char name[32];
        snprintf(name, sizeof name, "shard-%04d.bin", r);
        bad |= json_put_str(h, "file", name) | json_put_int(h, "bytes", lines[r].bytes) |
               json_put_str(h, "xxh3_128", lines[r].digest);
        if (!cJSON_AddItemToArray(shards, h))
            bad = 1;
    }
    bad |= json_put(j, "groups", groups) | json_put(j, "shards", shards);
    char self[DIGEST_CHARS];
    bad = bad || self_digest(j, self) || json_put_str(j, SELF, self);
    if (!bad)
        return j;
    cJSON_Delete(j);
    return NULL;
}

static int newest_first(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps of complete checkpoints in dir, newest first, to be freed; removes leftovers of dead saves. Returns how many; out of
 * memory some are missing, of which nothing bad comes. */
static size_t list_steps(const char *dir, int64_t **steps)
{
    size_t n = 0, cap = 0;
    DIR *d = opendir(dir);
    *steps = NULL;
    if (!d)
        return 0;
    for (struct dirent *f; (f = readdir(d));) {
        char *end, path[PATH_MAX];
        if (strncmp(f->d_name, "step-", 5))
            continue;
        long long s = strtoll(f->d_name + 5, &end, 10);
        if (!strcmp(end, ".tmp") || !strcmp(end, ".del")) {
            if (fs_path(path, sizeof path, NULL, "%s/%s", dir, f->d_name) == 0)
                fs_remove_tree(path, NULL);
            continue;
        }
        if (*end || end == f->d_name + 5)
            continue;
        if (n == cap) {
            int64_t *more = realloc(*steps, (2 * cap + 64) * sizeof **steps);
            if (!more)
                break;
            *steps = more;
            cap = 2 * cap + 64;
        }
        (*steps)[n++] = s;
    }
    closedir(d);
    if (n)
        qsort(*steps, n, sizeof **steps, newest_first);
    return n;
}

void ckpt_choose(const struct ckpt_keep *keep, const int64_t *steps, const double *loss, size_t n,
                 bool *stay)
{
    for (size_t i = 0; i < n; i++)
        stay[i] = i == 0 || i < (size_t)keep->last ||
                  (keep->every > 0 && steps[i] % keep->every == 0);
    bool *taken = calloc(n + 1, sizeof *taken);
    for (int k = 0; k < keep->best && taken; k++) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!taken[i] && isfinite(loss[i]) && (best == n || loss[i] <= loss[best]))
                best = i;
        if (best == n)
            break;
        taken[best] = stay[best] = true;
    }
    if (keep->best > 0 && !taken) /* no memory: nothing goes */
        memset(stay, true, n * sizeof *stay);
    free(taken);
}

/* What its manifest says of the validation; NaN also where it cannot be read. */
static double read_loss(const char *dir, int64_t step)
{
    char path[PATH_MAX];
    if (fs_path(path, sizeof path, NULL, "%s/step-%08" PRId64 "/manifest.json", dir, step))
        return NAN;
    cJSON *j = json_parse_file(path, 0, NULL);
    double loss = strtod(json_str(j, "valid_loss", "nan"), NULL);
    cJSON_Delete(j);
    return loss;
}

static void remove_one(const char *dir, int64_t step)
{
    char at[PATH_MAX], gone[PATH_MAX];
    /* manifest first: half a checkpoint must not look whole */
    if (fs_path(at, sizeof at, NULL, "%s/step-%08" PRId64 "/manifest.json", dir, step) == 0)
        unlink(at);
    if (fs_path(at, sizeof at, NULL, "%s/step-%08" PRId64, dir, step) == 0)
        fs_sync_dir(at, NULL);
    if (fs_path(at, sizeof at, NULL, "%s/step-%08" PRId64, dir, step) ||
        fs_path(gone, sizeof gone, NULL, "%s/step-%08" PRId64 ".del", dir, step))
        return;
    if (rename(at, gone) == 0)
        fs_remove_tree(gone, NULL);
}

void ckpt_retain(const char *dir, const struct ckpt_keep *keep)
{
    int64_t *steps;
    size_t n = list_steps(dir, &steps);
    double *loss = calloc(n + 1, sizeof *loss);
    bool *stay = calloc(n + 1, sizeof *stay);
    if (loss && stay) {
        for (size_t i = 0; i < n; i++)
            loss[i] = keep->best > 0 ? read_loss(dir, steps[i]) : NAN;
        ckpt_choose(keep, steps, loss, n, stay);
        for (size_t i = 0; i < n; i++)
            if (!stay[i])
                remove_one(dir, steps[i]);
    }
    free(stay);
    free(loss);
    free(steps);
}

int ckpt_save(const char *dir, const struct optim *o, const struct ckpt_state *s,
              const char *identity, struct ckpt_info *out, struct dha_err *e)
{
    char tmp[PATH_MAX], final[PATH_MAX], path[PATH_MAX];
    struct comm *c = o->comm;
    struct shard_line *lines = calloc((size_t)c->size, sizeof *lines);
    cJSON *j = NULL;
    int rc = 0;
    if (!lines)
        rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for a checkpoint");
    if (rc == 0)
        rc = fs_path(tmp, sizeof tmp, e, "%s/step-%08" PRId64 ".tmp", dir, s->step);
    if (rc == 0)
        rc = fs_path(final, sizeof final, e, "%s/step-%08" PRId64, dir, s->step);
    if (rc == 0 && c->rank == 0) {
        rc = fs_make_dirs(dir, e);
        if (rc == 0)
            rc = fs_remove_tree(tmp, e);
        if (rc == 0)
            rc = fs_make_dirs(tmp, e);
    }
    if ((rc = comm_agree(c, rc, e)))
        goto out;
    rc = fs_path(path, sizeof path, e, "%s/shard-%04d.bin", tmp, c->rank);
    if (rc == 0)
        rc = write_shard(path, o, &lines[c->rank].bytes, lines[c->rank].digest, e);
    if ((rc = comm_agree(c, rc, e)))
        goto undo;
    for (int r = 0; r < c->size; r++)
        comm_bcast(c, &lines[r], sizeof lines[r], r);
    if (c->rank == 0) {
        j = manifest(o, s, identity, lines);
        rc = j ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "no memory for a manifest");
        if (rc == 0)
            rc = fs_path(path, sizeof path, e, "%s/manifest.json", tmp);
        if (rc == 0)
            rc = json_write_file(path, j, e); /* syncs the file and the directory */
        /* The same step again (a resume that saved at once): the old one is as good, but has to go first. */
        if (rc == 0 && fs_exists(final))
            rc = fs_remove_tree(final, e);
        if (rc == 0 && rename(tmp, final))
            rc = dha_fail_errno(e, errno, "cannot rename %s to %s", tmp, final);
        if (rc == 0)
            rc = fs_sync_dir(dir, e);
        if (rc == 0 && out) {
            *out = (struct ckpt_info){.step = s->step};
            for (int r = 0; r < c->size; r++)
                out->bytes += lines[r].bytes;
            snprintf(out->path, sizeof out->path, "%s", final);
            rc = fs_path(path, sizeof path, e, "%s/manifest.json", final);
            if (rc == 0)
                rc = sha256_file(path, out->digest, e);
        }
    }
    rc = comm_agree(c, rc, e);
undo:
    if (rc && c->rank == 0)
        fs_remove_tree(tmp, NULL);
out:
    if (rc)
        dha_err_context(e, "saving a checkpoint of step %" PRId64 " in %s", s->step, dir);
    cJSON_Delete(j);
    free(lines);
    return rc;
}

/* ---- load ---------------------------------------------------------------------------------------- */

static int check_shard(const char *path, const cJSON *shard, struct dha_err *e)
{
    const char *name, *want;
    int64_t bytes;
    char file[PATH_MAX], got[DIGEST_CHARS];
    if (json_need_str(shard, "file", &name, e) || json_need_str(shard, "xxh3_128", &want, e) ||
        json_need_int(shard, "bytes", &bytes, e))
        return -1;
    if (strchr(name, '/'))
        return dha_fail(e, DHA_E_CHECKPOINT, "shard name %s has a slash", name);
    if (fs_path(file, sizeof file, e, "%s/%s", path, name))
        return -1;
    int64_t total = 0;
    if (fs_digest(file, got, &total, e)) {
        if (e && e->code == DHA_E_NOT_FOUND)
            e->code = DHA_E_CHECKPOINT;
        return -1;
    }
    if (total != bytes)
        return dha_fail(e, DHA_E_CHECKPOINT, "%s has %" PRId64 " bytes, its manifest says %" PRId64,
                        file, total, bytes);
    if (strcmp(got, want))
        return dha_fail(e, DHA_E_CHECKPOINT, "%s does not have the digest of its manifest", file);
    return 0;
}

static cJSON *read_manifest(const char *path, const char *identity, struct dha_err *e)
{
    char file[PATH_MAX];
    if (fs_path(file, sizeof file, e, "%s/manifest.json", path))
        return NULL;
    cJSON *j = json_parse_file(file, 0, e);
    if (!j)
        return NULL;
    char self[DIGEST_CHARS];
    const char *want = json_str(j, SELF, NULL);
    if (want && (self_digest(j, self) || strcmp(self, want))) {
        dha_fail(e, DHA_E_CHECKPOINT, "%s does not have the digest that it names", file);
    } else if (strcmp(json_str(j, "format", ""), FORMAT)) {
        dha_fail(e, DHA_E_CHECKPOINT, "%s: format is \"%s\", not " FORMAT, file,
                 json_str(j, "format", "?"));
    } else if (identity && strcmp(json_str(j, "identity", ""), identity)) {
        dha_fail(e, DHA_E_CHECKPOINT, "%s is of another run (its identity differs)", file);
    } else {
        return j;
    }
    cJSON_Delete(j);
    return NULL;
}

int ckpt_verify(const char *path, const char *identity, struct dha_err *e)
{
    cJSON *j = read_manifest(path, identity, e);
    if (!j)
        return -1;
    int rc = 0;
    const cJSON *shards = json_get(j, "shards"), *s;
    if (!cJSON_IsArray(shards) || cJSON_GetArraySize(shards) != (int)json_int(j, "world", -1))
        rc = dha_fail(e, DHA_E_CHECKPOINT, "%s: the manifest's shards are incomplete", path);
    else
        cJSON_ArrayForEach(s, shards) if (rc == 0) rc = check_shard(path, s, e);
    cJSON_Delete(j);
    return rc;
}

/* Reads [from, from+n) of group `g`'s section (0 parameters, 1 and 2 moments) of a checkpoint that was saved with pieces of
 * old_chunk by old_world ranks, into view. */
static int read_range(const char *path, const size_t *ns, const size_t *chunks, int g, int section,
                      size_t from, size_t n, struct kern *k, struct kern_view to, float *bounce,
                      struct dha_err *e)
{
    while (n > 0) {
        size_t r = from / chunks[g], in = from % chunks[g];
        size_t own = 0, offset = 0;
        for (int i = 0; i <= g; i++) {
            size_t at = r * chunks[i];
            own = at >= ns[i] ? 0 : (ns[i] - at < chunks[i] ? ns[i] - at : chunks[i]);
            if (i < g)
                offset += 3 * own;
        }
        size_t m = own - in;
        if (m > n)
            m = n;
        if (m > (size_t)1 << 20)
            m = (size_t)1 << 20;
        char file[PATH_MAX];
        if (fs_path(file, sizeof file, e, "%s/shard-%04zu.bin", path, r))
            return -1;
        int fd = open(file, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return dha_fail_errno(e, errno, "cannot open %s", file);
        off_t at = (off_t)((offset + (size_t)section * own + in) * sizeof(float));
        ssize_t got = pread(fd, bounce, m * sizeof(float), at);
        close(fd);
        if (got != (ssize_t)(m * sizeof(float)))
            return dha_fail(e, DHA_E_CHECKPOINT, "%s ended early", file);
        k->ops->upload(k, to, bounce, m);
        if (kern_sync(k, NULL)) /* bounce is used again */
            return dha_fail(e, DHA_E_INTERNAL, "backend: %s", k->err.msg);
        to = kern_plus(to, m);
        from += m;
        n -= m;
    }
    return 0;
}

static int load_one(const char *path, struct optim *o, struct ckpt_state *s, const char *identity,
                    struct dha_err *e)
{
    size_t ns[OPTIM_GROUPS], chunks[OPTIM_GROUPS];
    cJSON *j = read_manifest(path, identity, e);
    float *bounce = malloc(sizeof(float) << 20);
    int rc = -1;
    if (!j)
        goto out;
    if (!bounce) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory to read %s", path);
        goto out;
    }
    const cJSON *groups = json_get(j, "groups");
    if (cJSON_GetArraySize(groups) != o->n_groups) {
        dha_fail(e, DHA_E_CHECKPOINT, "%s has %d optimiser groups, this run has %d", path,
                 cJSON_GetArraySize(groups), o->n_groups);
        goto out;
    }
    for (int i = 0; i < o->n_groups; i++) {
        const cJSON *g = cJSON_GetArrayItem(groups, i);
        ns[i] = (size_t)json_int(g, "n", 0);
        chunks[i] = (size_t)json_int(g, "chunk", 0);
        if (ns[i] != o->group[i].n || chunks[i] == 0) {
            dha_fail(e, DHA_E_CHECKPOINT, "%s: group %d has %zu values, this run has %zu", path, i,
                     ns[i], o->group[i].n);
            goto out;
        }
    }
    for (int i = 0; i < o->n_groups; i++) {
        struct optim_group *g = &o->group[i];
        size_t at = (size_t)o->comm->rank * g->chunk;
        if (read_range(path, ns, chunks, i, 0, 0, g->n, o->k, kern_at(g->params, 0), bounce, e) ||
            read_range(path, ns, chunks, i, 1, at, g->own, o->k, kern_at(g->m, 0), bounce, e) ||
            read_range(path, ns, chunks, i, 2, at, g->own, o->k, kern_at(g->v, 0), bounce, e))
            goto out;
    }
    *s = (struct ckpt_state){.step = json_int(j, "step", 0),
                             .tokens = json_int(j, "tokens", 0),
                             .lambda = strtod(json_str(j, "lambda", "0"), NULL),
                             .mask_lambda = {strtod(json_str(j, "mask_lambda_1", "0"), NULL),
                                             strtod(json_str(j, "mask_lambda_2", "0"), NULL)},
                             .fusion_loss = strtod(json_str(j, "fusion_loss", "nan"), NULL),
                             .valid_loss = strtod(json_str(j, "valid_loss", "nan"), NULL)};
    rc = 0;
out:
    free(bounce);
    cJSON_Delete(j);
    return rc;
}

int ckpt_load(const char *dir, struct optim *o, struct ckpt_state *s, const char *identity,
              void (*warn)(void *arg, const char *text), void *arg, struct dha_err *e)
{
    int64_t pick = -1;
    char path[PATH_MAX];
    /* Rank 0 chooses: the newest one that verifies. Reading everything once more is cheap beside training on damage. */
    if (o->comm->rank == 0) {
        int64_t *steps;
        size_t n = list_steps(dir, &steps);
        for (size_t i = 0; i < n && pick < 0; i++) {
            struct dha_err why = {0};
            if (fs_path(path, sizeof path, &why, "%s/step-%08" PRId64, dir, steps[i]) == 0 &&
                ckpt_verify(path, identity, &why) == 0) {
                pick = steps[i];
            } else if (warn) {
                char text[1024];
                snprintf(text, sizeof text, "passing over a checkpoint: %s", why.msg);
                warn(arg, text);
            }
        }
        free(steps);
    }
    comm_bcast(o->comm, &pick, sizeof pick, 0);
    if (pick < 0)
        return 0;
    int rc = fs_path(path, sizeof path, e, "%s/step-%08" PRId64, dir, pick);
    if (rc == 0)
        rc = load_one(path, o, s, identity, e);
    rc = comm_agree(o->comm, rc, e);
    if (rc)
        return dha_err_context(e, "resuming from %s", path);
    return 1;
}
