/* chore_export.c: a job that has ended as a directory (jobdoc.h). It is DIR.tmp until it is whole; what a
 * killed daemon left there the next export takes away. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/chores.h"
#include "daemon/doc.h"
#include "daemon/failpoint.h"
#include "daemon/files.h"
#include "daemon/jobdoc.h"
#include "daemon/tmpdir.h"

struct export
{
    int64_t job, files, bytes;
    char *out, *tmp;
    cJSON *manifest; /* list of files */
    int mark;        /* MARK in `tmp`, locked; -1 = not yet */
};

/* The file in DIR.tmp that says whose it is. */
#define MARK ".dha-export"

struct copying {
    struct export *x;
    struct progress *p;
    const char *from, *to; /* a directory; relative to files/ */
    int64_t *total;        /* counting only */
    struct dha_err *e;
};

static int list_file(struct export *x, const char *relative, const struct files_seen *seen,
                     struct dha_err *e)
{
    cJSON *one = cJSON_CreateObject();
    if (json_put_str(one, "path", relative) != 0 || json_put_id(one, "bytes", seen->bytes) != 0 ||
        json_put_str(one, "sha256", seen->sha256) != 0 || !cJSON_AddItemToArray(x->manifest, one)) {
        cJSON_Delete(one);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    x->files++;
    x->bytes += seen->bytes;
    return 0;
}

static int count_one(void *arg, const char *relative, int64_t bytes)
{
    struct copying *c = arg;
    (void)relative;
    *c->total += bytes;
    return 0;
}

static int copy_one(void *arg, const char *relative, int64_t bytes)
{
    struct copying *c = arg;
    char from[FILES_PATH], to[FILES_PATH], name[FILES_PATH];
    struct files_seen seen;
    if (files_path(from, c->e, "%s/%s", c->from, relative) != 0 ||
        files_path(name, c->e, "files/%s/%s", c->to, relative) != 0 ||
        files_path(to, c->e, "%s/%s", c->x->tmp, name) != 0 || files_make_parent(to, c->e) != 0 ||
        files_copy(from, to, c->p, &seen, c->e) != 0) {
        return -1;
    }
    if (seen.bytes != bytes) {
        return dha_fail(c->e, DHA_E_CONFLICT, "%s changed while it was copied", from);
    }
    return list_file(c->x, name, &seen, c->e);
}

static int each_dir(struct export *x, const struct jobdoc_dirs *dirs, struct progress *p,
                    int64_t *total, struct dha_err *e)
{
    for (size_t i = 0; i < dirs->n; i++) {
        struct copying c = {x, p, dirs->at[i].from, dirs->at[i].to, total, e};
        if (files_there(c.from) && files_walk(c.from, total ? count_one : copy_one, &c, e) != 0) {
            return -1;
        }
    }
    return 0;
}

/* What we write ourselves: named in the manifest like what is copied. */
static int list_own(struct export *x, const char *name, struct dha_err *e)
{
    char path[FILES_PATH];
    struct files_seen seen;
    struct progress none = {0};
    return files_path(path, e, "%s/%s", x->tmp, name) != 0 ||
                   files_digest(path, &none, &seen, e) != 0
               ? -1
               : list_file(x, name, &seen, e);
}

static FILE *open_own(struct export *x, const char *name, struct dha_err *e)
{
    char path[FILES_PATH];
    FILE *f = files_path(path, e, "%s/%s", x->tmp, name) == 0 ? fopen(path, "we") : NULL;
    if (!f) {
        dha_fail_errno(e, errno, "cannot create %s/%s", x->tmp, name);
    }
    return f;
}

/* Closes f; what was written to it is on disk. */
static int close_own(struct export *x, FILE *f, const char *name, int rc, struct dha_err *e)
{
    if (fflush(f) != 0 || fsync(fileno(f)) != 0) {
        rc = -1;
    }
    if (fclose(f) != 0 || rc != 0) {
        return dha_fail_errno(e, errno, "cannot write %s/%s", x->tmp, name);
    }
    return list_own(x, name, e);
}

static int write_event(FILE *f, const struct store_event *ev, struct dha_err *e)
{
    cJSON *j = doc_event(ev, e);
    char *text = j ? json_text(j) : NULL;
    int rc = text && fprintf(f, "%s\n", text) >= 0 ? 0 : -1;
    free(text);
    cJSON_Delete(j);
    return rc;
}

static int write_events(struct store *s, struct export *x, FILE *f, struct progress *p,
                        struct dha_err *e)
{
    struct store_events l;
    int64_t after = 0;
    int rc = 0;
    do {
        if (store_events_list(s, after, 1000, &l, e) != 0) {
            return -1;
        }
        size_t n = l.n;
        for (size_t i = 0; i < n && rc == 0; i++) {
            after = l.at[i].seq;
            rc = l.at[i].job == x->job ? write_event(f, &l.at[i], e) : 0;
        }
        store_events_finish(&l);
        if (n == 0) {
            return rc;
        }
    } while (rc == 0 && (rc = progress_add(p, 0, e)) == 0);
    return rc;
}

static int write_own(struct store *s, struct export *x, const struct store_import *im,
                     struct progress *p, struct dha_err *e)
{
    char path[FILES_PATH];
    FAILPOINT(admin_export_before_records);
    cJSON *doc = jobdoc_to_json(im);
    int rc = doc ? files_path(path, e, "%s/job.json", x->tmp)
                 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    rc = rc == 0 ? json_write_file(path, doc, e) : rc;
    cJSON_Delete(doc);
    if (rc != 0 || list_own(x, "job.json", e) != 0) {
        return -1;
    }
    FILE *f = open_own(x, "metrics.ndjson", e);
    if (!f || close_own(x, f, "metrics.ndjson", jobdoc_write_points(im, f), e) != 0) {
        return -1;
    }
    f = open_own(x, "events.ndjson", e);
    return f ? close_own(x, f, "events.ndjson", write_events(s, x, f, p, e), e) : -1;
}

static int write_manifest(struct export *x, struct dha_err *e)
{
    char path[FILES_PATH];
    cJSON *doc = cJSON_CreateObject(), *files = x->manifest;
    x->manifest = NULL;
    FAILPOINT(admin_export_before_manifest);
    int rc = json_put_str(doc, "format", JOBDOC_MANIFEST) | json_put(doc, "files", files);
    if (rc != 0) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    } else {
        rc = files_path(path, e, "%s/manifest.json", x->tmp) != 0 ? -1
                                                                  : json_write_file(path, doc, e);
    }
    cJSON_Delete(doc);
    return rc;
}

/* It may have been retried meanwhile: then its files were not those of its rows. */
static int still_the_same(struct store *s, const struct store_job *was, struct dha_err *e)
{
    struct store_job now;
    if (store_job_get(s, was->id, &now, e) != 0) {
        return -1;
    }
    bool same = now.state == was->state && now.ended_us == was->ended_us;
    store_job_finish(&now);
    return same ? 0
                : dha_fail(e, DHA_E_CONFLICT, "job %lld went on while it was copied",
                           (long long)was->id);
}

static int fill(struct store *s, struct export *x, const struct store_import *im,
                const struct jobdoc_dirs *dirs, struct progress *p, struct dha_err *e)
{
    int64_t total = 0;
    progress_phase(p, "counting", 0);
    if (each_dir(x, dirs, p, &total, e) != 0 || files_need_space(x->tmp, total, e) != 0) {
        return -1;
    }
    progress_phase(p, "copying bytes:", total);
    if (each_dir(x, dirs, p, NULL, e) != 0) {
        return -1;
    }
    progress_phase(p, "writing records", 0);
    return write_own(s, x, im, p, e) != 0 || still_the_same(s, &im->job, e) != 0 ||
                   write_manifest(x, e) != 0 || files_sync_dir(x->tmp, e) != 0
               ? -1
               : 0;
}

static int say_foreign(const struct export *x, const char *what, const char *hint,
                       struct dha_err *e)
{
    dha_fail(e, DHA_E_CONFLICT, "%s is there: %s", x->tmp, what);
    return dha_err_hint(e, "%s", hint);
}

/* DIR.tmp is there. If our mark is in it and nobody holds that, its writer was killed: then it goes. Anything else is
 * somebody's. */
static int remove_leftover(struct export *x, struct dha_err *e)
{
    char path[FILES_PATH];
    if (rmdir(x->tmp) == 0) { /* nothing was in it */
        return 0;
    }
    if (files_path(path, e, "%s/" MARK, x->tmp) != 0) {
        return -1;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return say_foreign(x, "it is no export that was cut short",
                           "remove it if nobody needs it, or name another --out", e);
    }
    int rc = flock(fd, LOCK_EX | LOCK_NB);
    if (rc != 0) {
        say_foreign(x, "another export is writing it", "wait for its end, or name another --out",
                    e);
    } else if ((rc = tree_remove(x->tmp)) != 0) {
        dha_fail_errno(e, errno, "cannot remove %s, which an export that was cut short left",
                       x->tmp);
    }
    close(fd);
    return rc == 0 ? 0 : -1;
}

/* The lock lasts as long as we live: it tells a leftover from an export at work. */
static int make_mark(struct export *x, struct dha_err *e)
{
    char path[FILES_PATH];
    if (files_path(path, e, "%s/" MARK, x->tmp) != 0) {
        return -1;
    }
    x->mark = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return x->mark >= 0 && flock(x->mark, LOCK_EX | LOCK_NB) == 0
               ? 0
               : dha_fail_errno(e, errno, "cannot create %s", path);
}

static int make_tmp(struct export *x, struct dha_err *e)
{
    if (files_there(x->out)) {
        dha_fail(e, DHA_E_CONFLICT, "%s is there already", x->out);
        return dha_err_hint(e, "an export overwrites nothing: name a new --out");
    }
    if (files_make_parent(x->out, e) != 0 || (files_there(x->tmp) && remove_leftover(x, e) != 0)) {
        return -1;
    }
    if (mkdir(x->tmp, 0700) != 0) {
        return dha_fail_errno(e, errno, "cannot create %s", x->tmp);
    }
    return make_mark(x, e);
}

static int publish(struct export *x, struct dha_err *e)
{
    char parent[FILES_PATH], mark[FILES_PATH];
    FAILPOINT(admin_export_before_rename);
    if (rename(x->tmp, x->out) != 0) {
        return dha_fail_errno(e, errno, "cannot rename %s to %s", x->tmp, x->out);
    }
    FAILPOINT(admin_export_after_rename);
    if (files_path(mark, e, "%s/" MARK, x->out) != 0 ||
        files_path(parent, e, "%s/..", x->out) != 0) {
        return -1;
    }
    unlink(mark); /* left there it does no harm: the manifest does not name it */
    return files_sync_dir(parent, e);
}

static int work(struct chore *c, struct dha_err *e)
{
    struct export *x = c->arg;
    struct store *s;
    struct store_import im = {0};
    struct jobdoc_dirs dirs = {0};
    if (store_open_reader(c->state_dir, &s, e) != 0) {
        return -1;
    }
    store_interrupt(s, progress_stopped, &c->progress);
    int rc = jobdoc_load(s, x->job, &im, &dirs, e);
    if (rc == 0) {
        rc = make_tmp(x, e);
    }
    if (rc == 0) {
        rc = fill(s, x, &im, &dirs, &c->progress, e) != 0 ? -1 : publish(x, e);
        if (rc != 0) {
            tree_remove(x->tmp);
        }
    }
    jobdoc_dirs_finish(&dirs);
    store_import_finish(&im);
    store_close(s);
    return rc;
}

static int step(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    struct export *x = c->arg;
    *next = CHORE_DONE;
    c->result = cJSON_CreateObject();
    if ((json_put_id(c->result, "job", x->job) | json_put_str(c->result, "out", x->out) |
         json_put_int(c->result, "files", x->files) | json_put_id(c->result, "bytes", x->bytes)) !=
        0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return 0;
}

static void destroy(void *arg)
{
    struct export *x = arg;
    if (x->mark >= 0) {
        close(x->mark);
    }
    cJSON_Delete(x->manifest);
    free(x->out);
    free(x->tmp);
    free(x);
}

static const struct chore_ops ops = {
    .name = "export", .work = work, .step = step, .destroy = destroy};

int chore_export(struct daemon *d, int64_t job, const char *out, struct dha_err *e)
{
    struct export *x = calloc(1, sizeof *x);
    if (!x) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    x->job = job;
    x->mark = -1;
    x->out = strdup(out);
    x->manifest = cJSON_CreateArray();
    if (asprintf(&x->tmp, "%s.tmp", out) < 0) {
        x->tmp = NULL;
    }
    if (!x->out || !x->manifest || !x->tmp) {
        destroy(x);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return chore_start(d, &ops, x, e);
}
