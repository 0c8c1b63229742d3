/* chore_import.c: a directory of `dha admin export` becomes a job of this daemon.
 *
 * First every file is compared with the manifest, then all are copied (and compared again) to STATE/jobs/.import-N/, then
 * the rows are written, and when those are on disk the directory gets the job's name. Dying before the last step leaves
 * a job without files, which nobody reuses and `dha admin fsck` tells, and a directory that it moves away.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/chores.h"
#include "daemon/failpoint.h"
#include "daemon/files.h"
#include "daemon/jobdoc.h"
#include "daemon/output.h"
#include "daemon/tmpdir.h"

enum { DOC_MAX = 256 * 1024 * 1024 };

struct import {
    char *dir, *tmp;
    int64_t uid, files, bytes, job;
    uid_t owner; /* of the manifest; -1 = not known yet */
    struct store_import im;
    bool placed;
};

/* A path that stays below its directory. */
static bool is_plain(const char *path)
{
    for (const char *p = path;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.')) {
            return false;
        }
        p += n;
        if (!*p) {
            return strlen(path) < 2000;
        }
    }
}

/* Where a file of the export lies in the job's directory: files/X -> X, the rest beside the stages. */
static int place_of(const struct import *k, const char *name, char out[FILES_PATH],
                    struct dha_err *e)
{
    return strncmp(name, "files/", 6) == 0 ? files_path(out, e, "%s/%s", k->tmp, name + 6)
                                           : files_path(out, e, "%s/imported/%s", k->tmp, name);
}

/* An export is closed to others than who made it (0700): another daemon's user is one of them. */
static int may_not_read(const struct import *k, struct dha_err *e)
{
    if (e->code == DHA_E_IO && geteuid() != 0 && k->owner != geteuid()) {
        dha_err_hint(e,
                     "uid %ld, who runs this daemon, has to be able to read %.120s: chown -R, or "
                     "copy it as that user",
                     (long)geteuid(), k->dir);
    }
    return -1;
}

/* One file of the manifest: read and compared; copied as well, or not. */
static int take_file(struct import *k, const cJSON *f, bool copy, struct progress *p,
                     struct dha_err *e)
{
    const char *name, *sha;
    char from[FILES_PATH], to[FILES_PATH];
    struct files_seen seen;
    int64_t bytes;
    if (json_need_str(f, "path", &name, e) != 0 || json_need_str(f, "sha256", &sha, e) != 0 ||
        json_need_int(f, "bytes", &bytes, e) != 0) {
        return dha_err_context(e, "%s/manifest.json", k->dir);
    }
    if (!is_plain(name)) {
        return dha_fail(e, DHA_E_INPUT,
                        "%s/manifest.json names the file \"%.100s\", which is not "
                        "below it",
                        k->dir, name);
    }
    if (files_path(from, e, "%s/%s", k->dir, name) != 0 || place_of(k, name, to, e) != 0 ||
        (copy && files_make_parent(to, e) != 0) ||
        (copy ? files_copy(from, to, p, &seen, e) : files_digest(from, p, &seen, e)) != 0) {
        return may_not_read(k, e);
    }
    /* Who made the directory may have put in a hard link, or a link to a directory, for us to read another's files. */
    if (seen.owner != k->owner) {
        dha_fail(e, DHA_E_FORBIDDEN, "%s is uid %ld's, and %s/manifest.json uid %ld's", from,
                 (long)seen.owner, k->dir, (long)k->owner);
        return dha_err_hint(e, "nothing was taken in; an export has one owner: if it is what it "
                               "should be, copy it (cp -r makes all of it yours)");
    }
    if (seen.bytes != bytes || strcmp(seen.sha256, sha) != 0) {
        dha_fail(e, DHA_E_INPUT, "%s is not what was exported (%lld bytes of %lld)", from,
                 (long long)seen.bytes, (long long)bytes);
        return dha_err_hint(e, "nothing was taken in; copy or export it again");
    }
    return 0;
}

static int each_file(struct import *k, const cJSON *manifest, bool copy, struct progress *p,
                     struct dha_err *e)
{
    const cJSON *f;
    progress_phase(p, copy ? "copying bytes:" : "verifying bytes:", k->bytes);
    cJSON_ArrayForEach(f, json_get(manifest, "files"))
    {
        if (take_file(k, f, copy, p, e) != 0) {
            return -1;
        }
    }
    return 0;
}

/* Whose it is; or why it cannot be read. */
static int find_owner(struct import *k, const char *manifest, struct dha_err *e)
{
    struct stat st;
    if (lstat(manifest, &st) == 0) {
        k->owner = st.st_uid;
        return S_ISREG(st.st_mode) ? 0
                                   : dha_fail(e, DHA_E_INPUT, "%s is not a regular file", manifest);
    }
    if (errno == ENOTDIR || (errno == ENOENT && stat(k->dir, &st) != 0)) {
        return dha_fail_errno(e, errno, "cannot import %s", k->dir);
    }
    if (errno == ENOENT) {
        dha_fail(e, DHA_E_NOT_FOUND, "%s has no manifest.json: it is no finished export", k->dir);
        return dha_err_hint(e, "`dha admin export JOB --out DIR` makes one");
    }
    dha_fail_errno(e, errno, "cannot look at %s", manifest);
    return may_not_read(k, e);
}

static cJSON *read_manifest(struct import *k, struct dha_err *e)
{
    char path[FILES_PATH];
    const cJSON *f;
    bool job = false;
    if (files_path(path, e, "%s/manifest.json", k->dir) != 0 || find_owner(k, path, e) != 0) {
        return NULL;
    }
    cJSON *doc = json_parse_file(path, DOC_MAX, e);
    if (!doc) {
        may_not_read(k, e);
        return NULL;
    }
    cJSON_ArrayForEach(f, json_get(doc, "files"))
    {
        int64_t bytes = json_int(f, "bytes", 0);
        k->files++;
        k->bytes += bytes > 0 ? bytes : 0;
        job |= strcmp(json_str(f, "path", ""), "job.json") == 0;
    }
    if (!job || strcmp(json_str(doc, "format", ""), JOBDOC_MANIFEST) != 0) {
        dha_fail(e, DHA_E_INPUT, "%s is no %s document with a job.json", path, JOBDOC_MANIFEST);
        cJSON_Delete(doc);
        return NULL;
    }
    return doc;
}

static int read_points(struct import *k, struct dha_err *e)
{
    char path[FILES_PATH];
    if (files_path(path, e, "%s/imported/metrics.ndjson", k->tmp) != 0) {
        return -1;
    }
    FILE *f = fopen(path, "re");
    if (!f) {
        return errno == ENOENT ? 0 : dha_fail_errno(e, errno, "cannot open %s", path);
    }
    int rc = jobdoc_read_points(f, &k->im, e);
    fclose(f);
    return rc == 0 ? 0 : dha_err_context(e, "%s/metrics.ndjson", k->dir);
}

/* The rows may only name what came along. */
static int check_stage(struct import *k, struct store_import_stage *p, struct dha_err *e)
{
    struct store_stage *st = &p->stage;
    char path[FILES_PATH];
    struct dha_err why = {0};
    bool complete = st->state == STAGE_DONE || st->state == STAGE_REUSED;
    if ((st->out_dir && !is_plain(st->out_dir)) || (st->output && !is_plain(st->output)) ||
        (complete && !st->out_dir)) {
        return dha_fail(e, DHA_E_INPUT, "its directories are not below it");
    }
    for (size_t i = 0; i < p->attempts.n; i++) {
        if (p->attempts.at[i].dir && !is_plain(p->attempts.at[i].dir)) {
            return dha_fail(e, DHA_E_INPUT, "an attempt's directory is not below it");
        }
    }
    for (size_t i = 0; i < p->n_checkpoints; i++) {
        struct store_checkpoint *c = &p->checkpoints[i];
        if (!is_plain(c->path) || files_path(path, e, "%s/%s", k->tmp, c->path) != 0) {
            return dha_fail(e, DHA_E_INPUT, "a checkpoint is not below it");
        }
        if (strcmp(c->state, "complete") == 0 && !files_there(path)) {
            snprintf(c->state, sizeof c->state, "deleted");
        }
    }
    if (!complete) {
        return 0;
    }
    if (files_path(path, e, "%s/%s", k->tmp, st->out_dir) != 0 ||
        output_check(st->kind, path, &why) != 0) {
        return dha_fail(e, DHA_E_INPUT, "its output was damaged when it was exported: %s", why.msg);
    }
    return 0;
}

static int read_job(struct import *k, struct dha_err *e)
{
    char path[FILES_PATH];
    if (files_path(path, e, "%s/imported/job.json", k->tmp) != 0) {
        return -1;
    }
    cJSON *doc = json_parse_file(path, DOC_MAX, e);
    int rc = doc ? jobdoc_parse(doc, &k->im, e) : -1;
    cJSON_Delete(doc);
    if (rc != 0) {
        return dha_err_context(e, "%s/job.json", k->dir);
    }
    for (size_t i = 0; i < k->im.n_stages; i++) {
        if (check_stage(k, &k->im.stages[i], e) != 0) {
            return dha_err_context(e, "%s/job.json, stage %s", k->dir,
                                   stage_kind_name(k->im.stages[i].stage.kind));
        }
    }
    return read_points(k, e);
}

static int work(struct chore *c, struct dha_err *e)
{
    struct import *k = c->arg;
    cJSON *manifest = NULL;
    int rc = -1;
    if (asprintf(&k->tmp, "%s/jobs/.import-%lld", c->state_dir, (long long)c->id) < 0) {
        k->tmp = NULL;
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    if (!(manifest = read_manifest(k, e)) || files_need_space(c->state_dir, k->bytes, e) != 0 ||
        each_file(k, manifest, false, &c->progress, e) != 0) {
        goto out;
    }
    tree_remove(k->tmp); /* of a daemon that died */
    if (mkdir(k->tmp, 0700) != 0) {
        dha_fail_errno(e, errno, "cannot create %s", k->tmp);
        goto out;
    }
    FAILPOINT(admin_import_before_copy);
    rc = each_file(k, manifest, true, &c->progress, e) != 0 ? -1 : read_job(k, e);
    FAILPOINT(admin_import_copied);
    if (rc != 0) {
        tree_remove(k->tmp);
    }
out:
    cJSON_Delete(manifest);
    return rc;
}

static int write_rows(struct chore *c, struct import *k, struct dha_err *e)
{
    k->im.job.owner_uid = k->uid;
    k->im.now_us = now_us();
    k->im.origin = strdup(k->dir);
    if (asprintf(&k->im.jobs_dir, "%s/jobs", c->state_dir) < 0) {
        k->im.jobs_dir = NULL;
    }
    if (!k->im.origin || !k->im.jobs_dir) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return store_import(c->d->store, &k->im, &k->job, e);
}

static int put_in_place(struct chore *c, struct import *k, struct dha_err *e)
{
    char path[FILES_PATH], jobs[FILES_PATH];
    bool known;
    if (store_job_known(c->d->store, k->job, &known, e) != 0) {
        return -1;
    }
    if (!known) { /* the turn was lost */
        return dha_fail(e, DHA_E_TRANSIENT, "the job could not be saved; see the daemon's log");
    }
    if (files_path(path, e, "%s/%lld", k->im.jobs_dir, (long long)k->job) != 0 ||
        files_path(jobs, e, "%s", k->im.jobs_dir) != 0) {
        return -1;
    }
    FAILPOINT(admin_import_before_rename);
    if (rename(k->tmp, path) != 0) {
        k->placed = true; /* not removed: it is all there is */
        dha_fail_errno(e, errno, "job %lld was taken in, but %s cannot be renamed to %s",
                       (long long)k->job, k->tmp, path);
        return dha_err_hint(e, "move what is in the way and rename it by hand");
    }
    FAILPOINT(admin_import_after_rename);
    k->placed = true;
    c->result = cJSON_CreateObject();
    if ((json_put_id(c->result, "job", k->job) | json_put_str(c->result, "name", k->im.job.name) |
         json_put_str(c->result, "state", job_state_name(k->im.job.state)) |
         json_put_int(c->result, "files", k->files) | json_put_id(c->result, "bytes", k->bytes)) !=
        0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return files_sync_dir(jobs, e);
}

static int step(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    struct import *k = c->arg;
    bool first = k->job == 0;
    *next = first ? CHORE_AGAIN : CHORE_DONE;
    int rc = first ? write_rows(c, k, e) : put_in_place(c, k, e);
    if (first) {
        FAILPOINT(admin_import_before_commit);
    }
    if (rc != 0 && !k->placed) {
        tree_remove(k->tmp);
    }
    return rc;
}

static void destroy(void *arg)
{
    struct import *k = arg;
    store_import_finish(&k->im);
    free(k->dir);
    free(k->tmp);
    free(k);
}

static const struct chore_ops ops = {
    .name = "import", .work = work, .step = step, .destroy = destroy};

int chore_import(struct daemon *d, const char *dir, int64_t uid, struct dha_err *e)
{
    struct import *k = calloc(1, sizeof *k);
    if (!k || !(k->dir = strdup(dir))) {
        if (k) {
            destroy(k);
        }
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    k->uid = uid;
    k->owner = (uid_t)-1;
    return chore_start(d, &ops, k, e);
}
