/* checkpoint.c: see checkpoint.h. */
#include "daemon/checkpoint.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/files.h"
#include "daemon/output.h"
#include "daemon/runas.h"
#include "daemon/tmpdir.h"
#include "proto/json.h"

enum { MANIFEST_MAX = 16 * 1024 * 1024 };

static int check_shard(const char *dir, const cJSON *shard, bool deep, struct progress *p,
                       struct dha_err *why)
{
    const char *name, *want;
    char path[FILES_PATH];
    struct files_seen seen;
    struct stat st;
    int64_t bytes;
    if (json_need_str(shard, "file", &name, why) != 0 ||
        json_need_str(shard, "xxh3_128", &want, why) != 0 ||
        json_need_int(shard, "bytes", &bytes, why) != 0) {
        return dha_err_context(why, "%.200s/manifest.json", dir);
    }
    if (strchr(name, '/') || files_path(path, why, "%s/%s", dir, name) != 0) {
        return dha_fail(why, DHA_E_CHECKPOINT, "%.200s/manifest.json names the file \"%.80s\"", dir,
                        name);
    }
    if (stat(path, &st) != 0) {
        int err = errno;
        dha_fail_errno(why, err, "cannot look at %s", path);
        why->code = err == ENOENT || err == ENOTDIR ? DHA_E_CHECKPOINT : why->code;
        return -1;
    }
    if (st.st_size != bytes) {
        return dha_fail(why, DHA_E_CHECKPOINT, "%s has %lld bytes, its manifest says %lld", path,
                        (long long)st.st_size, (long long)bytes);
    }
    if (!deep) {
        return 0;
    }
    if (files_digest(path, p, &seen, why) != 0) {
        return -1;
    }
    return strcmp(seen.xxh3, want) == 0
               ? 0
               : dha_fail(why, DHA_E_CHECKPOINT, "%s does not have the digest of its manifest",
                          path);
}

/* What could not be read is not damaged: the next look may read it. */
static enum checkpoint_found judged(const struct dha_err *why)
{
    return why->code == DHA_E_STOPPED || output_is_unknown(why) ? CHECKPOINT_UNREAD
                                                                : CHECKPOINT_DAMAGED;
}

static enum checkpoint_found check_here(const char *dir, const char *digest, bool deep,
                                        struct progress *p, struct dha_err *why)
{
    char path[FILES_PATH];
    struct files_seen seen;
    struct progress none = {0}; /* a manifest is nothing beside its shards */
    cJSON *doc = NULL;
    enum checkpoint_found found = CHECKPOINT_DAMAGED;
    if (files_path(path, why, "%s/manifest.json", dir) != 0) {
        return CHECKPOINT_UNREAD;
    }
    if (!files_there(dir)) {
        dha_fail(why, DHA_E_CHECKPOINT, "%s is not there", dir);
        return CHECKPOINT_GONE;
    }
    if (!files_there(path)) {
        dha_fail(why, DHA_E_CHECKPOINT, "%s has no manifest.json", dir);
        return CHECKPOINT_DAMAGED;
    }
    if (files_digest(path, &none, &seen, why) != 0) {
        return judged(why);
    }
    if (digest && strcmp(digest, seen.sha256) != 0) {
        dha_fail(why, DHA_E_CHECKPOINT, "%s does not have the digest that was recorded", path);
        return CHECKPOINT_DAMAGED;
    }
    doc = json_parse_file(path, MANIFEST_MAX, why);
    const cJSON *shards = json_get(doc, "shards"), *s;
    if (!doc || !cJSON_IsArray(shards)) {
        if (doc) {
            dha_fail(why, DHA_E_CHECKPOINT, "%s lists no shards", path);
        } else {
            found = judged(why);
        }
        goto out;
    }
    cJSON_ArrayForEach(s, shards)
    {
        if (check_shard(dir, s, deep, p, why) != 0) {
            found = judged(why);
            goto out;
        }
    }
    found = CHECKPOINT_WHOLE;
out:
    cJSON_Delete(doc);
    return found;
}

static enum checkpoint_found check(const char *dir, const char *digest, bool deep,
                                   struct progress *p, struct dha_err *why)
{
    struct runas as;
    if (runas_enter_named(&as, dir) != 0) {
        dha_fail_errno(why, errno, "cannot look at %s as its owner", dir);
        return judged(why);
    }
    enum checkpoint_found found = check_here(dir, digest, deep, p, why);
    runas_leave(&as);
    return found;
}

enum checkpoint_found checkpoint_check(const struct store_checkpoint *c, bool deep,
                                       struct progress *p, struct dha_err *why)
{
    return check(c->path, c->digest, deep, p, why);
}

enum checkpoint_found checkpoint_check_path(const char *path, bool deep, struct progress *p,
                                            struct dha_err *why)
{
    return check(path, NULL, deep, p, why);
}

/* A stage of several parts has a directory of checkpoints for each. */
static bool same_series(const struct store_checkpoint *a, const struct store_checkpoint *b)
{
    const char *x = strrchr(a->path, '/'), *y = strrchr(b->path, '/');
    return x && y && x - a->path == y - b->path &&
           strncmp(a->path, b->path, (size_t)(x - a->path)) == 0;
}

void checkpoint_choose(const struct checkpoint_policy *policy, const struct store_checkpoint *c,
                       const double *loss, size_t n, bool *keep)
{
    int last = policy->last > 0 || !policy->spare ? policy->last : 1;
    for (size_t i = 0; i < n; i++) {
        int newer = 0;
        bool best = policy->best && isfinite(loss[i]);
        for (size_t k = 0; k < n; k++) {
            if (k == i || !same_series(&c[i], &c[k])) {
                continue;
            }
            newer += c[k].step > c[i].step || (c[k].step == c[i].step && c[k].id > c[i].id);
            best = best && !(loss[k] < loss[i] || (loss[k] == loss[i] && k < i));
        }
        keep[i] = newer < last || best || (policy->every > 0 && c[i].step % policy->every == 0);
    }
}

static int retire(const char *path, struct dha_err *e)
{
    char manifest[FILES_PATH], gone[FILES_PATH];
    if (files_path(manifest, e, "%s/manifest.json", path) != 0 ||
        files_path(gone, e, "%s.del", path) != 0) {
        return -1;
    }
    if (unlink(manifest) != 0 && errno != ENOENT && errno != ENOTDIR) {
        return dha_fail_errno(e, errno, "cannot remove %s", manifest);
    }
    if (!files_there(path)) {
        return 0;
    }
    FAILPOINT(admin_prune_no_manifest);
    if (files_sync_dir(path, e) != 0) {
        return -1;
    }
    if (rename(path, gone) != 0) {
        return dha_fail_errno(e, errno, "cannot rename %s", path);
    }
    FAILPOINT(admin_prune_retired);
    return 0;
}

static int disable(const char *path, struct dha_err *e)
{
    char manifest[FILES_PATH], bad[FILES_PATH];
    if (files_path(manifest, e, "%s/manifest.json", path) != 0 ||
        files_path(bad, e, "%s.bad", manifest) != 0) {
        return -1;
    }
    if (rename(manifest, bad) != 0 && errno != ENOENT && errno != ENOTDIR) {
        return dha_fail_errno(e, errno, "cannot rename %s", manifest);
    }
    FAILPOINT(admin_fsck_disabled);
    return 0;
}

/* A worker said where its checkpoints are: with its user's rights, whatever it said. */
int checkpoint_retire(const char *path, struct dha_err *e)
{
    struct runas as;
    if (runas_enter_named(&as, path) != 0) {
        return dha_fail_errno(e, errno, "cannot touch %s as its owner", path);
    }
    int rc = retire(path, e);
    runas_leave(&as);
    return rc;
}

int checkpoint_disable(const char *path, struct dha_err *e)
{
    struct runas as;
    if (runas_enter_named(&as, path) != 0) {
        return dha_fail_errno(e, errno, "cannot touch %s as its owner", path);
    }
    int rc = disable(path, e);
    runas_leave(&as);
    return rc;
}

int checkpoint_remove(const char *retired)
{
    struct runas as;
    if (runas_enter_named(&as, retired) != 0) {
        return -1;
    }
    int rc = files_there(retired) ? tree_remove(retired) : 0;
    runas_leave(&as);
    return rc;
}
