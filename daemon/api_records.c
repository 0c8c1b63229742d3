/* api_records.c: what a job's attempts said: metrics, checkpoints, log files. */
#include "daemon/api.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/doc.h"
#include "daemon/logcap.h"
#include "daemon/runas.h"

enum { LOG_CHUNK = 1024 * 1024, POINTS_MAX = 100000, CHECKPOINTS_MAX = 10000, DROPPED_NOTE = 128 };

/* The stages of a job that a request is about: all, or those of `stage=`. */
static int stages_asked(struct api_call *c, struct store_stages *l, bool wanted[STAGE_KINDS])
{
    const char *name = server_query(c->rq, "stage");
    struct store_job job;
    enum stage_kind kind = STAGE_SEARCH;
    bool all = !name || !*name;
    if (!all && stage_kind_from_name(name, &kind) != 0) {
        dha_fail(&c->e, DHA_E_USAGE, "there is no stage \"%.40s\"", name);
        return dha_err_hint(&c->e, "search, fuse, train, eval, export");
    }
    for (int k = 0; k < STAGE_KINDS; k++) {
        wanted[k] = all || k == (int)kind;
    }
    if (store_job_get(c->d->store, c->id, &job, &c->e) != 0) {
        return -1;
    }
    store_job_finish(&job);
    return store_stages_of_job(c->d->store, c->id, l, &c->e);
}

static int add_points(cJSON *list, enum stage_kind kind, const struct store_point *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        cJSON *one = cJSON_CreateObject();
        if (!one || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            return -1;
        }
        if ((json_put_str(one, "stage", stage_kind_name(kind)) |
             json_put_int(one, "attempt", p[i].attempt) | json_put_int(one, "step", p[i].step) |
             json_put_int(one, "tokens", p[i].tokens) | json_put_str(one, "name", p[i].name) |
             json_put_num(one, "value", p[i].value)) != 0) {
            return -1;
        }
    }
    return 0;
}

enum api_outcome api_job_metrics(struct api_call *c)
{
    struct store_stages l = {0};
    struct store_metric_query q = {.name = server_query(c->rq, "name")};
    bool wanted[STAGE_KINDS];
    int64_t limit;
    if (q.name && !*q.name) {
        q.name = NULL;
    }
    if (api_query_int(c, "after_step", -1, INT64_MAX, -1, &q.after_step) != 0 ||
        api_query_int(c, "limit", 1, POINTS_MAX, 10000, &limit) != 0 ||
        stages_asked(c, &l, wanted) != 0) {
        return API_FAIL;
    }
    cJSON *list = cJSON_CreateArray();
    int rc = list ? 0 : -1;
    for (size_t i = 0; i < l.n && rc == 0 && limit > 0; i++) {
        struct store_point *p = NULL;
        size_t n = 0;
        if (!wanted[l.at[i].kind]) {
            continue;
        }
        q.stage = l.at[i].reused_from ? l.at[i].reused_from : l.at[i].id;
        q.limit = (int)limit;
        rc = store_metrics(c->d->store, &q, &p, &n, &c->e);
        rc = rc == 0 ? add_points(list, l.at[i].kind, p, n) : rc;
        limit -= (int64_t)n;
        free(p);
    }
    store_stages_finish(&l);
    if (rc != 0) {
        cJSON_Delete(list);
        list = NULL;
    }
    return api_answer(c, "points", list);
}

static int add_series(cJSON *list, enum stage_kind kind, const struct store_series *s)
{
    cJSON *one = cJSON_CreateObject();
    if (!one || !cJSON_AddItemToArray(list, one)) {
        cJSON_Delete(one);
        return -1;
    }
    return json_put_str(one, "stage", stage_kind_name(kind)) | json_put_str(one, "name", s->name) |
           json_put_int(one, "points", s->points) | json_put_int(one, "last_step", s->last_step) |
           json_put_num(one, "last", s->last);
}

enum api_outcome api_job_metric_names(struct api_call *c)
{
    struct store_stages l = {0};
    bool wanted[STAGE_KINDS];
    if (stages_asked(c, &l, wanted) != 0) {
        return API_FAIL;
    }
    cJSON *list = cJSON_CreateArray();
    int rc = list ? 0 : -1;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        struct store_series *s = NULL;
        size_t n = 0;
        if (!wanted[l.at[i].kind]) {
            continue;
        }
        rc = store_metric_names(c->d->store, l.at[i].reused_from ? l.at[i].reused_from : l.at[i].id,
                                &s, &n, &c->e);
        for (size_t k = 0; k < n && rc == 0; k++) {
            rc = add_series(list, l.at[i].kind, &s[k]);
        }
        free(s);
    }
    store_stages_finish(&l);
    if (rc != 0) {
        cJSON_Delete(list);
        list = NULL;
    }
    return api_answer(c, "names", list);
}

/* The n checkpoints at ck; NULL = no memory. */
static cJSON *checkpoint_list(const struct store_stages *l, const struct store_checkpoint *ck,
                              size_t n)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list && i < n; i++) {
        const char *kind = NULL;
        for (size_t k = 0; k < l->n; k++) {
            kind = l->at[k].id == ck[i].stage ? stage_kind_name(l->at[k].kind) : kind;
        }
        cJSON *one = cJSON_CreateObject();
        int rc = json_put_id(one, "id", ck[i].id) | doc_put_text(one, "stage", kind) |
                 json_put_int(one, "attempt", ck[i].attempt) |
                 json_put_int(one, "step", ck[i].step) | json_put_str(one, "path", ck[i].path) |
                 json_put_str(one, "digest", ck[i].digest) |
                 json_put_id(one, "bytes", ck[i].bytes) | json_put_str(one, "state", ck[i].state) |
                 json_put_id(one, "created_us", ck[i].created_us);
        if (rc != 0 || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            list = NULL;
        }
    }
    return list;
}

enum api_outcome api_job_checkpoints(struct api_call *c)
{
    struct store_stages l = {0};
    struct store_checkpoint *ck = NULL;
    size_t n = 0, first = 0;
    bool wanted[STAGE_KINDS];
    int64_t limit, after;
    if (api_query_int(c, "limit", 1, CHECKPOINTS_MAX, 1000, &limit) != 0 ||
        api_query_int(c, "after", 0, INT64_MAX, 0, &after) != 0 ||
        stages_asked(c, &l, wanted) != 0 ||
        store_checkpoints(c->d->store, c->id, 0, &ck, &n, &c->e) != 0) {
        store_stages_finish(&l);
        return API_FAIL;
    }
    while (first < n && ck[first].id <= after) { /* they come by id */
        first++;
    }
    size_t shown = n - first < (size_t)limit ? n - first : (size_t)limit;
    cJSON *list = checkpoint_list(&l, shown ? ck + first : NULL, shown);
    int64_t next = first + shown < n ? ck[first + shown - 1].id : 0;
    free(ck);
    store_stages_finish(&l);
    return api_answer(c, "checkpoints", list) == API_OK ? api_answer_next(c, next) : API_FAIL;
}

/* ---- logs ---- */

/* Why there are no logs of the job, or of the one stage that was asked for, and what they wait for. */
static void say_not_started(struct api_call *c, const struct store_stages *l,
                            const bool wanted[STAGE_KINDS])
{
    const struct store_stage *st = NULL,
                             *before = NULL; /* the one asked for; what has to end first */
    const char *kind = server_query(c->rq, "stage");
    struct plan_explanation x;
    struct store_job job;
    char what[64];
    long long id = (long long)c->id;
    for (size_t i = 0; kind && *kind && i < l->n && !st; i++) {
        const struct store_stage *one = &l->at[i];
        st = wanted[one->kind] ? one : NULL;
        before = !st && !before && one->state != STAGE_DONE ? one : before;
    }
    snprintf(what, sizeof what, "%s of job %lld", st ? stage_kind_name(st->kind) : "nothing", id);
    if (kind && *kind && !st) {
        dha_fail(&c->e, DHA_E_NOT_FOUND, "job %lld has no stage %s", id, kind);
        dha_err_hint(&c->e, "dha show %lld lists those it has", id);
        return;
    }
    if (store_job_brief(c->d->store, c->id, &job, &c->e) != 0) {
        return;
    }
    if (plan_explain(c->d, &job, &x, &c->e) != 0) {
        store_job_finish(&job);
        return;
    }
    if (job_state_final(job.state)) {
        dha_fail(&c->e, DHA_E_NOT_FOUND, "%s%s started, and the job is %s: %s", what,
                 st ? " was never" : " was ever", job_state_name(job.state), x.reason);
    } else if (before && before->attempt > 0) {
        dha_fail(&c->e, DHA_E_NOT_FOUND, "%s has not started: it comes after %s, which is %s", what,
                 stage_kind_name(before->kind), stage_state_name(before->state));
    } else {
        dha_fail(&c->e, DHA_E_NOT_FOUND, "%s has %sstarted yet: %s", what, st ? "not " : "",
                 x.reason);
    }
    dha_err_hint(&c->e,
                 "dha explain %lld says what would help; dha logs %lld -f waits for it, and goes "
                 "on from stage to stage",
                 id, id);
    store_job_finish(&job);
}

/* The attempt asked for; by default the newest one of the newest stage that was started. A reused stage's log
 * is that of the stage it came from. */
static int find_attempt(struct api_call *c, struct store_attempt *a)
{
    struct store_stages l = {0};
    bool wanted[STAGE_KINDS];
    int64_t number;
    const struct store_stage *st = NULL;
    int rc = -1;
    if (api_query_int(c, "attempt", 1, INT32_MAX, 0, &number) != 0 ||
        stages_asked(c, &l, wanted) != 0) {
        return -1;
    }
    for (size_t i = 0; i < l.n; i++) {
        bool ran = l.at[i].attempt > 0 || l.at[i].reused_from;
        if (wanted[l.at[i].kind] && ran && (!st || l.at[i].attempt > 0 || st->attempt == 0)) {
            st = &l.at[i];
        }
    }
    if (!st) {
        say_not_started(c, &l, wanted);
    } else if (st->attempt == 0) {
        struct store_stage from;
        if (store_stage_get(c->d->store, st->reused_from, &from, &c->e) == 0) {
            rc = store_attempt_by_number(c->d->store, from.id, number ? (int)number : from.attempt,
                                         a, &c->e);
            store_stage_finish(&from);
        }
    } else {
        rc = store_attempt_by_number(c->d->store, st->id, number ? (int)number : st->attempt, a,
                                     &c->e);
    }
    if (rc != 0 && st && st->attempt > 0 && number > st->attempt) {
        dha_fail(&c->e, DHA_E_NOT_FOUND, "%s of job %lld has no attempt %lld",
                 stage_kind_name(st->kind), (long long)c->id, (long long)number);
        dha_err_hint(&c->e, "the newest is %d", st->attempt);
    }
    store_stages_finish(&l);
    return rc;
}

/* How many ranks have a log in that directory: one more than the highest number. */
static int count_rank_logs(const char *dir)
{
    int ranks = 0;
    struct runas as;
    if (runas_enter_path(&as, dir) != 0) {
        return 0;
    }
    DIR *d = opendir(dir);
    runas_leave(&as);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char name[32];
        int rank;
        if (sscanf(entry->d_name, RANK_LOG, &rank) == 1 && rank >= ranks && rank < INT_MAX) {
            snprintf(name, sizeof name, RANK_LOG, rank);
            ranks = strcmp(name, entry->d_name) == 0 ? rank + 1 : ranks;
        }
    }
    if (d) {
        closedir(d);
    }
    return ranks;
}

/* The name of the file that `stream` or `rank` asks for. */
static int file_asked(struct api_call *c, char *name, size_t size)
{
    static const char *const streams[][2] = {
        {"stderr", "stderr.log"}, {"journal", "journal.ndjson"}, {"launcher", "launcher.log"}};
    const char *want = server_query(c->rq, "stream"), *rank = server_query(c->rq, "rank");
    int64_t number;
    if (rank && *rank) {
        if (want && *want) {
            return dha_fail(&c->e, DHA_E_USAGE, "either \"rank\" or \"stream\": each is a file");
        }
        if (api_query_int(c, "rank", 0, INT32_MAX, 0, &number) != 0) {
            return -1;
        }
        snprintf(name, size, RANK_LOG, (int)number);
        return 0;
    }
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        if (!want || !*want || strcmp(want, streams[i][0]) == 0) {
            snprintf(name, size, "%s", streams[i][1]);
            return 0;
        }
    }
    dha_fail(&c->e, DHA_E_USAGE, "there is no stream \"%.40s\"", want);
    return dha_err_hint(&c->e, "stderr, journal, launcher");
}

/* At most LOG_CHUNK bytes from *offset; a file that is not there yet is empty. Where the middle of the log was dropped
 * (logcap.h) a line says so, and *offset is where it goes on; *next is where the next piece begins. */
static int read_log(struct api_call *c, const char *path, int64_t offset, int64_t *next,
                    int64_t *size)
{
    struct server_reply *rp = &c->rq->reply;
    struct stat st;
    int64_t at = offset, note = 0;
    *size = 0;
    *next = offset;
    rp->body = malloc(LOG_CHUNK + DROPPED_NOTE);
    if (!rp->body) {
        return dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
    }
    int fd = runas_open(path, O_RDONLY);
    if (fd < 0 && errno == ENOENT) {
        return 0;
    }
    ssize_t n = -1;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        *size = (int64_t)st.st_size;
        n = offset < *size ? logcap_read(fd, &at, rp->body + DROPPED_NOTE, LOG_CHUNK) : 0;
    }
    int err = errno;
    if (fd >= 0) {
        close(fd);
    }
    if (n < 0) {
        free(rp->body);
        rp->body = NULL;
        return dha_fail_errno(&c->e, err, "cannot read %s", path);
    }
    if (n > 0 && at > offset) {
        note = snprintf(rp->body, DROPPED_NOTE,
                        "\n[dhad: %lld bytes of the log were dropped here]\n",
                        (long long)(at - offset));
    }
    memmove(rp->body + note, rp->body + DROPPED_NOTE, (size_t)n);
    rp->len = (size_t)(note + n);
    *next = n > 0 ? at + n : offset;
    return 0;
}

enum api_outcome api_job_logs(struct api_call *c)
{
    struct store_attempt a = {0};
    struct server_reply *rp = &c->rq->reply;
    int64_t offset, size, next;
    char path[4200], file[32];
    if (file_asked(c, file, sizeof file) != 0 ||
        api_query_int(c, "offset", 0, INT64_MAX, 0, &offset) != 0 || find_attempt(c, &a) != 0) {
        return API_FAIL;
    }
    snprintf(path, sizeof path, "%.4000s/%s", a.dir ? a.dir : "", file);
    bool over = a.state == ATTEMPT_ENDED; /* before reading: what comes later is not missed */
    int ranks = a.dir ? count_rank_logs(a.dir) : 0;
    store_attempt_finish(&a);
    if (read_log(c, path, offset, &next, &size) != 0) {
        return API_FAIL;
    }
    rp->status = 200;
    rp->content_type = "text/plain; charset=utf-8";
    server_reply_header(c->rq, "X-Dha-Offset", "%lld", (long long)next);
    server_reply_header(c->rq, "X-Dha-Path", "%s", path);
    server_reply_header(c->rq, "X-Dha-Ranks", "%d", ranks);
    if (over && next >= size) {
        server_reply_header(c->rq, "X-Dha-End", "1");
    }
    return API_OK;
}
