/* fsck.c: see fsck.h. */
#include "daemon/fsck.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/checkpoint.h"
#include "daemon/failpoint.h"
#include "daemon/files.h"
#include "daemon/grow.h"
#include "daemon/output.h"
#include "daemon/runas.h"

static const struct {
    const char *name, *repair;
} kinds[] = {
#define X(sym, name, repair) [FSCK_##sym] = {name, repair},
    FSCK_KINDS_TABLE(X)
#undef X
};
_Static_assert(sizeof kinds / sizeof *kinds == FSCK_KINDS, "a row each kind");

const char *fsck_kind_name(enum fsck_kind k)
{
    return kinds[k].name;
}

const char *fsck_repair_of(const struct fsck_finding *f)
{
    return f->left ? NULL : kinds[f->kind].repair;
}

static void finding_finish(struct fsck_finding *f)
{
    free(f->path);
    free(f->message);
    free(f->hint);
}

void fsck_report_finish(struct fsck_report *r)
{
    for (size_t i = 0; i < r->n; i++) {
        finding_finish(&r->at[i]);
    }
    free(r->at);
    memset(r, 0, sizeof *r);
}

void fsck_report_drop(struct fsck_report *r, size_t i)
{
    finding_finish(&r->at[i]);
    r->n--;
    memmove(&r->at[i], &r->at[i + 1], (r->n - i) * sizeof r->at[0]);
}

/* ---- looking ---- */

struct check {
    struct store *s;
    const char *state_dir;
    bool deep;
    struct progress *p;
    struct fsck_report *out;
    int64_t job, checkpoint; /* that are being looked at; 0 = none */
    const struct store_stage *stage;
    const struct store_checkpoint *known; /* its checkpoints */
    size_t n_known;
    bool failed; /* no memory, or told to stop: *e is set */
    struct dha_err *e;
};

/* In a directory of theirs users could lead us to something else between the look and the move. */
#define LEFT_THERE "it is in a directory of uid %ld and is left there: its owner can remove it"

static bool is_moved(enum fsck_kind k)
{
    return k == FSCK_UNKNOWN || k == FSCK_LEFTOVER;
}

__attribute__((format(printf, 5, 6))) static void found(struct check *c, enum fsck_kind kind,
                                                        const char *path, const char *hint,
                                                        const char *fmt, ...)
{
    struct fsck_report *r = c->out;
    if (r->n == FSCK_MAX) {
        r->more = true;
        return;
    }
    struct fsck_finding f = {.kind = kind,
                             .job = c->job,
                             .stage = c->stage ? c->stage->id : 0,
                             .checkpoint = c->checkpoint};
    char left[128];
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&f.message, fmt, ap);
    va_end(ap);
    uid_t owner = is_moved(kind) ? runas_owner(path) : RUNAS_SELF;
    f.left = owner != RUNAS_SELF;
    if (f.left) {
        snprintf(left, sizeof left, LEFT_THERE, (long)owner);
        hint = left;
    }
    f.path = path ? strdup(path) : NULL;
    f.hint = hint ? strdup(hint) : NULL;
    struct fsck_finding *at = n < 0 || (path && !f.path) || (hint && !f.hint)
                                  ? NULL
                                  : grow(&r->at, &r->n, sizeof *at);
    if (!at) {
        f.message = n < 0 ? NULL : f.message;
        finding_finish(&f);
        c->failed = true;
        dha_fail(c->e, DHA_E_NO_MEMORY, "out of memory");
        return;
    }
    *at = f;
}

static void found_in_database(void *arg, const char *problem)
{
    found(arg, FSCK_DATABASE, NULL, NULL, "%s", problem);
}

/* The newest complete checkpoint of its directory may not be missing; an older one was taken away by its worker. */
static bool has_newer(const struct check *c, const struct store_checkpoint *of)
{
    size_t dir = (size_t)(strrchr(of->path, '/') - of->path);
    for (size_t i = 0; i < c->n_known; i++) {
        const struct store_checkpoint *k = &c->known[i];
        if (k->stage == of->stage && k->step > of->step && strcmp(k->state, "complete") == 0 &&
            strncmp(k->path, of->path, dir + 1) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_complete(const struct store_stage *st)
{
    return st->state == STAGE_DONE || st->state == STAGE_REUSED;
}

static void check_checkpoint(struct check *c, const struct store_checkpoint *k)
{
    struct dha_err why = {0};
    if (!strchr(k->path, '/')) {
        found(c, FSCK_CHECKPOINT, k->path, NULL, "\"%s\" is no path", k->path);
        return;
    }
    c->out->seen.checkpoints++;
    c->checkpoint = k->id;
    enum checkpoint_found is = checkpoint_check(k, c->deep, c->p, &why);
    if (is == CHECKPOINT_GONE && (has_newer(c, k) || is_complete(c->stage))) {
        found(c, FSCK_REMOVED, k->path, NULL, "it is listed as complete, but was removed");
    } else if (is == CHECKPOINT_GONE || is == CHECKPOINT_DAMAGED) {
        found(c, FSCK_CHECKPOINT, k->path, NULL, "%s", why.msg);
    } else if (is == CHECKPOINT_UNREAD) {
        found(c, FSCK_UNREADABLE, k->path, NULL, "%s", why.msg);
        if (why.code == DHA_E_STOPPED) {
            *c->e = why;
            c->failed = true;
        }
    }
    c->checkpoint = 0;
}

static void check_output(struct check *c)
{
    struct dha_err why = {0};
    const struct store_stage *st = c->stage;
    if (st->state != STAGE_DONE) {
        return;
    }
    if (output_check(st->kind, st->out_dir, &why) != 0) {
        found(c, FSCK_OUTPUT, why.path[0] ? why.path : NULL,
              "nobody takes it as it is: a job that needs it makes it again",
              "the output of %s: %s", stage_kind_name(st->kind), why.msg);
    } else if (c->deep && output_compare(st->out_dir, c->p, &why) != 0) {
        if (why.code == DHA_E_STOPPED) {
            *c->e = why;
            c->failed = true;
            return;
        }
        found(c, output_is_unknown(&why) ? FSCK_UNREADABLE : FSCK_OUTPUT,
              why.path[0] ? why.path : st->out_dir,
              "the worker that reads it finds it so, too, and it is made again; what else was made "
              "from "
              "it may be wrong",
              "the output of %s: %s", stage_kind_name(st->kind), why.msg);
    }
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n > k && strcmp(name + n - k, end) == 0;
}

/* What is written before it is renamed, by our programs: NAME.tmp, NAME.tmp123, NAME.tmp-123, .tmp-123-1.safetensors,
 * NAME.del. */
static bool is_leftover(const char *name)
{
    const char *tmp = strstr(name, ".tmp");
    return ends_with(name, ".tmp") || ends_with(name, ".del") || strncmp(name, ".tmp-", 5) == 0 ||
           (tmp && strspn(tmp + 4, "-0123456789") == strlen(tmp + 4));
}

/* Calls fn for what lies in dir; a directory that is not there has nothing in it. */
static void each_entry(struct check *c, const char *dir,
                       void (*fn)(struct check *c, const char *dir, const char *name))
{
    struct dirent **names = NULL;
    struct runas as;
    int n = runas_enter_path(&as, dir);
    if (n == 0) {
        n = scandir(dir, &names, NULL, alphasort);
        runas_leave(&as);
    }
    if (n < 0 && errno != ENOENT) {
        found(c, FSCK_UNREADABLE, dir, NULL, "%s", strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0 &&
            !c->failed) {
            c->out->seen.files++;
            fn(c, dir, names[i]->d_name);
        }
        free(names[i]);
    }
    free(names);
}

/* path of name in dir; false = too long to be ours. */
static bool join(struct check *c, char path[FILES_PATH], const char *dir, const char *name)
{
    struct dha_err why = {0};
    if (files_path(path, &why, "%s/%s", dir, name) == 0) {
        return true;
    }
    found(c, FSCK_UNREADABLE, dir, NULL, "%s", why.msg);
    return false;
}

static bool is_directory(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void in_checkpoints(struct check *c, const char *dir, const char *name)
{
    char path[FILES_PATH];
    struct dha_err why = {0};
    if (!join(c, path, dir, name)) {
        return;
    }
    if (is_leftover(name)) {
        found(c, FSCK_LEFTOVER, path, NULL, "a checkpoint that was not finished, or not removed");
        return;
    }
    for (size_t i = 0; i < c->n_known; i++) {
        if (strcmp(c->known[i].path, path) == 0 && strcmp(c->known[i].state, "deleted") != 0) {
            return;
        }
    }
    /* A worker that died before it could say so: what is whole there is gone on from, as long as there is a way on. */
    if (!is_complete(c->stage) &&
        checkpoint_check_path(path, false, c->p, &why) == CHECKPOINT_WHOLE) {
        return;
    }
    found(c, FSCK_UNKNOWN, path, NULL, "no checkpoint of this name is recorded");
}

static void in_output(struct check *c, const char *dir, const char *name)
{
    char path[FILES_PATH];
    if (!join(c, path, dir, name)) {
        return;
    }
    if (is_leftover(name)) {
        found(c, FSCK_LEFTOVER, path, NULL, "something that was not finished");
    } else if (is_directory(path)) {
        each_entry(c, path, strcmp(name, "ckpt") == 0 ? in_checkpoints : in_output);
    }
}

static void in_stage(struct check *c, const char *dir, const char *name)
{
    char path[FILES_PATH], *end;
    if (!join(c, path, dir, name)) {
        return;
    }
    long number = name[0] == 'a' && name[1] >= '1' && name[1] <= '9' ? strtol(name + 1, &end, 10)
                                                                     : 0;
    if (strcmp(name, "out") == 0) {
        each_entry(c, path, in_output);
    } else if (is_leftover(name)) {
        found(c, FSCK_LEFTOVER, path, NULL, "something that was not finished");
    } else if (number == 0 || *end || number > c->stage->attempt) {
        found(c, FSCK_UNKNOWN, path, NULL, "no attempt of this name is recorded");
    }
}

/* In a job's directory there is one of each stage; imported: of `dha admin import`. */
static void in_job(struct check *c, const char *dir, const char *name)
{
    char path[FILES_PATH];
    struct store_stages l;
    bool known = strcmp(name, "imported") == 0;
    if (known || !join(c, path, dir, name)) {
        return;
    }
    if (store_stages_of_job(c->s, c->job, &l, c->e) != 0) {
        c->failed = true;
        return;
    }
    for (size_t i = 0; i < l.n && !known; i++) {
        if (strcmp(stage_kind_name(l.at[i].kind), name) == 0) {
            known = true;
            if (l.at[i].state != STAGE_RUNNING) {
                c->stage = &l.at[i];
                each_entry(c, path, in_stage);
                c->stage = NULL;
            }
        }
    }
    store_stages_finish(&l);
    if (!known) {
        found(c, FSCK_UNKNOWN, path, NULL, "job %lld has no stage of this name", (long long)c->job);
    }
}

static int64_t to_id(const char *name)
{
    return name[0] >= '1' && name[0] <= '9' && strspn(name, "0123456789") == strlen(name) &&
                   strlen(name) < 19
               ? strtoll(name, NULL, 10)
               : 0;
}

static void in_jobs(struct check *c, const char *dir, const char *name)
{
    char path[FILES_PATH];
    int64_t id = to_id(name);
    bool known = false;
    if (id && store_job_known(c->s, id, &known, c->e) != 0) {
        c->failed = true;
    } else if (!known && join(c, path, dir, name)) {
        found(c, FSCK_UNKNOWN, path, NULL, "no job of this name is recorded");
    }
}

static void in_cache(struct check *c, const char *dir, const char *name)
{
    char path[FILES_PATH];
    if (is_leftover(name) && join(c, path, dir, name)) {
        found(c, FSCK_LEFTOVER, path, NULL, "something that was not finished");
    }
}

static int check_job(struct check *c, int64_t job, struct dha_err *e)
{
    struct store_stages l = {0};
    struct store_checkpoint *ck = NULL;
    size_t n = 0;
    char dir[FILES_PATH];
    int rc = -1;
    if (store_stages_of_job(c->s, job, &l, e) != 0 ||
        store_checkpoints(c->s, job, 0, &ck, &n, e) != 0 ||
        files_path(dir, e, "%s/jobs/%lld", c->state_dir, (long long)job) != 0) {
        goto out;
    }
    c->job = job;
    c->known = ck;
    c->n_known = n;
    c->out->seen.jobs++;
    for (size_t i = 0; i < l.n; i++) {
        c->stage = &l.at[i];
        c->out->seen.stages++;
        check_output(c);
        for (size_t k = 0; k < n && !c->failed; k++) {
            if (ck[k].stage == l.at[i].id && strcmp(ck[k].state, "complete") == 0 &&
                l.at[i].state != STAGE_RUNNING) {
                check_checkpoint(c, &ck[k]);
            }
        }
    }
    c->stage = NULL;
    each_entry(c, dir, in_job);
    rc = c->failed ? -1 : 0;
out:
    c->job = 0;
    c->known = NULL;
    c->n_known = 0;
    free(ck);
    store_stages_finish(&l);
    return rc;
}

static int count_jobs(struct store *s, int64_t *n, struct dha_err *e)
{
    int64_t jobs[JOB_STATES], stages[STAGE_STATES];
    *n = 0;
    if (store_counts(s, jobs, stages, e) != 0) {
        return -1;
    }
    for (int i = 0; i < JOB_STATES; i++) {
        *n += jobs[i];
    }
    return 0;
}

static int check_jobs(struct check *c, struct dha_err *e)
{
    struct store_job_filter f = {.limit = 500};
    int64_t all;
    if (count_jobs(c->s, &all, e) != 0) {
        return -1;
    }
    progress_phase(c->p, "jobs", all);
    for (;;) {
        struct store_jobs l;
        if (store_jobs_list(c->s, &f, &l, e) != 0) {
            return -1;
        }
        size_t n = l.n;
        int rc = 0;
        for (size_t i = 0; i < n && rc == 0; i++) {
            f.before = l.at[i].id;
            /* bytes are counted while a shard is read; jobs, too: a rough measure, but one that moves */
            rc = check_job(c, l.at[i].id, e) != 0 ? -1 : progress_add(c->p, 1, e);
        }
        store_jobs_finish(&l);
        if (rc != 0 || n == 0) {
            return rc;
        }
    }
}

int fsck_check(struct store *s, const char *state_dir, bool deep, struct progress *p,
               struct fsck_report *out, struct dha_err *e)
{
    struct check c = {.s = s, .state_dir = state_dir, .deep = deep, .p = p, .out = out, .e = e};
    struct store_attempts live;
    char dir[FILES_PATH];
    memset(out, 0, sizeof *out);
    progress_phase(p, "database", 0);
    if (store_fsck(s, found_in_database, &c, e) < 0 || c.failed || check_jobs(&c, e) != 0) {
        return -1;
    }
    progress_phase(p, "directories", 0);
    if (files_path(dir, e, "%s/jobs", state_dir) != 0) {
        return -1;
    }
    each_entry(&c, dir, in_jobs);
    if (c.failed || store_attempts_live(s, &live, e) != 0) {
        return -1;
    }
    /* Only a worker that runs could be writing there. */
    if (live.n == 0 && files_path(dir, e, "%s/cache", state_dir) == 0) {
        each_entry(&c, dir, in_cache);
    }
    store_attempts_finish(&live);
    return c.failed ? -1 : progress_add(p, 0, e);
}

/* ---- repairing ---- */

char *fsck_lost_dir(const char *state_dir, int64_t id, int64_t now_us)
{
    char when[32], *out;
    time_t now = (time_t)(now_us / 1000000);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &tm);
    return asprintf(&out, "%s/lost+found/%s-%lld", state_dir, when, (long long)id) < 0 ? NULL : out;
}

static int say(struct store *s, const struct fsck_finding *f, const char *to, int64_t now_us,
               struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject();
    char *text = NULL;
    if (json_put_str(j, "kind", fsck_kind_name(f->kind)) == 0 &&
        json_put_str(j, "path", f->path) == 0 && (!to || json_put_str(j, "to", to) == 0) &&
        json_put_str(j, "message", f->message) == 0) {
        text = json_text(j);
    }
    cJSON_Delete(j);
    int rc = text ? store_event_add(s, "fsck.repair", f->job, f->stage, 0, text, now_us, NULL, e)
                  : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    free(text);
    return rc;
}

/* Jobs are numbered on, so what was unknown becomes known only by a job that was made, an attempt that began
 * meanwhile, or a checkpoint that was recorded. */
static int still_unknown(struct store *s, const struct fsck_finding *f, bool *so, struct dha_err *e)
{
    struct store_attempts live;
    struct store_checkpoint *ck = NULL;
    size_t n = 0;
    bool known = false;
    const char *name = strrchr(f->path, '/') + 1;
    if (!f->job && to_id(name) && store_job_known(s, to_id(name), &known, e) != 0) {
        return -1;
    }
    if (store_attempts_live(s, &live, e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < live.n; i++) {
        known |= f->job ? live.at[i].job == f->job : f->kind == FSCK_LEFTOVER;
    }
    store_attempts_finish(&live);
    if (f->stage && store_checkpoints(s, 0, f->stage, &ck, &n, e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        known |= strcmp(ck[i].path, f->path) == 0 && strcmp(ck[i].state, "deleted") != 0;
    }
    free(ck);
    *so = !known && files_there(f->path);
    return 0;
}

/* Damage of contents was seen by reading all of it; that is not done twice. */
static int still_complete(struct store *s, const struct fsck_finding *f, bool *so,
                          struct dha_err *e)
{
    struct store_checkpoint *ck;
    struct store_stage st;
    size_t n;
    if (store_stage_get(s, f->stage, &st, e) != 0) {
        return -1;
    }
    bool running = st.state == STAGE_RUNNING;
    store_stage_finish(&st);
    if (store_checkpoints(s, 0, f->stage, &ck, &n, e) != 0) {
        return -1;
    }
    *so = false;
    for (size_t i = 0; i < n; i++) {
        *so |= !running && ck[i].id == f->checkpoint && strcmp(ck[i].state, "complete") == 0 &&
               (f->kind != FSCK_REMOVED || !files_there(f->path));
    }
    free(ck);
    return 0;
}

/* Its job may have been told to go on: then it is taken away and made again. */
static int still_done(struct store *s, const struct fsck_finding *f, bool *so, struct dha_err *e)
{
    struct store_stage st;
    if (store_stage_get(s, f->stage, &st, e) != 0) {
        return -1;
    }
    *so = st.state == STAGE_DONE;
    store_stage_finish(&st);
    return 0;
}

int fsck_still(struct store *s, const struct fsck_finding *f, bool *so, struct dha_err *e)
{
    switch (f->kind) {
    case FSCK_UNKNOWN:
    case FSCK_LEFTOVER: return still_unknown(s, f, so, e);
    case FSCK_CHECKPOINT:
    case FSCK_REMOVED: return still_complete(s, f, so, e);
    case FSCK_OUTPUT: return still_done(s, f, so, e);
    case FSCK_DATABASE:
    case FSCK_UNREADABLE:
    case FSCK_KINDS: break;
    }
    *so = true;
    return 0;
}

static int move_away(struct store *s, const char *state_dir, const char *lost,
                     const struct fsck_finding *f, int64_t now_us, struct dha_err *e)
{
    char to[FILES_PATH];
    size_t n = strlen(state_dir);
    if (strncmp(f->path, state_dir, n) != 0 || f->path[n] != '/') {
        return dha_fail(e, DHA_E_INTERNAL, "%s is not below %s", f->path, state_dir);
    }
    if (files_path(to, e, "%s%s", lost, f->path + n) != 0 || files_make_parent(to, e) != 0) {
        return -1;
    }
    if (files_there(to)) {
        return dha_fail(e, DHA_E_CONFLICT, "%s is there already", to);
    }
    uid_t owner = runas_owner(f->path);
    if (owner != RUNAS_SELF) {
        dha_fail(e, DHA_E_FORBIDDEN, LEFT_THERE, (long)owner);
        return dha_err_context(e, "%s", f->path);
    }
    FAILPOINT(admin_fsck_before_move);
    if (rename(f->path, to) != 0) {
        return dha_fail_errno(e, errno, "cannot move %s to %s", f->path, to);
    }
    FAILPOINT(admin_fsck_after_move);
    if (say(s, f, to, now_us, e) != 0) { /* no move without its event */
        rename(to, f->path);
        return -1;
    }
    return 0;
}

static int mark(struct store *s, const struct fsck_finding *f, int64_t now_us, struct dha_err *e)
{
    bool removed = f->kind == FSCK_REMOVED;
    if (!removed && checkpoint_disable(f->path, e) != 0) {
        return -1;
    }
    return store_checkpoint_mark(s, f->checkpoint, removed ? "deleted" : "bad", now_us, e) != 0 ||
                   say(s, f, NULL, now_us, e) != 0
               ? -1
               : 0;
}

int fsck_repair(struct store *s, const char *state_dir, const char *lost,
                const struct fsck_finding *f, int64_t now_us, bool *done, struct dha_err *e)
{
    *done = false;
    if (!fsck_repair_of(f)) {
        return 0;
    }
    bool so = false;
    if (fsck_still(s, f, &so, e) != 0) {
        return -1;
    }
    if (!so) {
        return 0;
    }
    int rc = is_moved(f->kind) ? move_away(s, state_dir, lost, f, now_us, e)
                               : mark(s, f, now_us, e);
    *done = rc == 0;
    return rc;
}

/* ---- telling ---- */

static int put_id_or_null(cJSON *j, const char *key, int64_t id)
{
    return id ? json_put_id(j, key, id) : json_put(j, key, cJSON_CreateNull());
}

static int put_text(cJSON *j, const char *key, const char *text)
{
    return text ? json_put_str(j, key, text) : json_put(j, key, cJSON_CreateNull());
}

cJSON *fsck_doc(const struct fsck_report *r)
{
    cJSON *j = cJSON_CreateObject(), *list = cJSON_CreateArray(), *seen = cJSON_CreateObject();
    int rc = json_put_int(seen, "jobs", r->seen.jobs) |
             json_put_int(seen, "stages", r->seen.stages) |
             json_put_int(seen, "checkpoints", r->seen.checkpoints) |
             json_put_int(seen, "files", r->seen.files);
    for (size_t i = 0; list && i < r->n && rc == 0; i++) {
        const struct fsck_finding *f = &r->at[i];
        cJSON *one = cJSON_CreateObject();
        rc = json_put_str(one, "kind", fsck_kind_name(f->kind)) |
             put_id_or_null(one, "job", f->job) | put_id_or_null(one, "stage", f->stage) |
             put_text(one, "path", f->path) | json_put_str(one, "message", f->message) |
             put_text(one, "hint", f->hint) | put_text(one, "repair", fsck_repair_of(f));
        if (rc != 0 || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            rc = -1;
        }
    }
    rc |= json_put(j, "findings", list) | json_put_bool(j, "more", r->more);
    rc |= json_put(j, "seen", seen);
    if (rc != 0) {
        cJSON_Delete(j);
        j = NULL;
    }
    return j;
}
