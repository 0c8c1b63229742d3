/* attempt_start.c: a stage's next attempt, from its row to its shim. The row, its slots and its directory's
 * name are the turn's; the processes come after the commit. */
#include "daemon/attempt.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/runas.h"
#include "daemon/log.h"
#include "daemon/output.h"
#include "daemon/patience.h"
#include "daemon/place.h"
#include "daemon/stagekey.h"
#include "proto/text.h"

/* A shim that does not even write shim.json three times in a row will not the fourth time. */
enum { SPAWNS_MAX = 3 };

static int new_uuid(char out[STORE_UUID_SIZE], struct dha_err *e)
{
    int fd = open("/proc/sys/kernel/random/uuid", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, STORE_UUID_SIZE - 1);
    if (fd >= 0) {
        close(fd);
    }
    if (n < 36) {
        return dha_fail(e, DHA_E_IO, "cannot read a random uuid");
    }
    out[36] = '\0';
    return 0;
}

static int stage_dirs(struct daemon *d, int64_t job, enum stage_kind kind, int number, char **dir,
                      char **out, struct dha_err *e)
{
    *dir = *out = NULL;
    if (asprintf(dir, "%s/jobs/%lld/%s/a%d", d->state_dir, (long long)job, stage_kind_name(kind),
                 number) < 0 ||
        asprintf(out, "%s/jobs/%lld/%s/out", d->state_dir, (long long)job, stage_kind_name(kind)) <
            0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return 0;
}

static int job_is_running(struct daemon *d, int64_t job, struct dha_err *e)
{
    bool changed;
    struct store_job_move m = {
        .job = job, .from = JOB_QUEUED, .to = JOB_RUNNING, .now_us = now_us()};
    return store_job_transition(d->store, &m, &changed, e);
}

/* The attempt's rows, all that belongs to it. n->stage ready no more: *row is zeroed. */
static int make_rows(struct daemon *d, const struct store_new_attempt *n, struct store_attempt *row,
                     struct dha_err *e)
{
    char *dir = NULL, *out = NULL;
    struct store_stage st = {0};
    int64_t id = 0;
    int number = 0, rc = -1;
    *row = (struct store_attempt){0};
    if (store_attempt_new(d->store, n, &id, &number, e) != 0) {
        return -1;
    }
    if (id == 0) {
        return 0; /* somebody was faster; the next pass sees it */
    }
    if (store_stage_get(d->store, n->stage, &st, e) == 0 &&
        stage_dirs(d, st.job, st.kind, number, &dir, &out, e) == 0 &&
        store_attempt_set_dir(d->store, id, dir, e) == 0 &&
        store_stage_set_out_dir(d->store, n->stage, out, e) == 0 &&
        job_is_running(d, st.job, e) == 0) {
        rc = store_attempt_get(d->store, id, row, e);
    }
    store_stage_finish(&st);
    free(out);
    free(dir);
    return rc;
}

/* All of it or nothing: a live row that no struct attempt stands for would keep its slots until the daemon ends. */
static int make(struct daemon *d, const struct store_new_attempt *n, struct attempt **out,
                struct dha_err *e)
{
    struct store_attempt row;
    struct store_mark mark;
    *out = NULL;
    if (store_mark(d->store, &mark, e) != 0) {
        return -1;
    }
    int rc = make_rows(d, n, &row, e);
    if (rc == 0 && row.id && !(*out = attempt_add(d, &row))) {
        rc = dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    store_attempt_finish(&row);
    if (rc != 0) {
        store_undo(d->store, &mark);
        return -1;
    }
    rc = store_keep(d->store, &mark, e);
    if (rc != 0 && *out) {
        attempt_drop(*out);
        *out = NULL;
    }
    return rc;
}

int attempt_start(struct daemon *d, int64_t stage, const int64_t *slots, size_t n_slots,
                  bool *started, struct dha_err *e)
{
    char uuid[STORE_UUID_SIZE];
    struct attempt *a;
    bool whole;
    *started = false;
    if (new_uuid(uuid, e) != 0 || stages_check_input(d, stage, &whole, e) != 0) {
        return -1;
    }
    if (!whole) {
        return 0; /* the next pass starts what it needs first */
    }
    struct store_new_attempt n = {
        .stage = stage, .uuid = uuid, .slots = slots, .n_slots = n_slots, .now_us = now_us()};
    if (make(d, &n, &a, e) != 0) {
        return -1;
    }
    if (a) {
        a->phase = A_NEW;
        a->launch_next = d->to_launch;
        d->to_launch = a;
        *started = true;
    }
    return 0;
}

/* The stage's spec, put together from the store. */
static int build_spec(struct attempt *a, const struct store_job *job, const struct store_stages *l,
                      struct stage_spec *spec, struct dha_err *e)
{
    struct daemon *d = a->d;
    *spec = (struct stage_spec){.job = a->job, .stage = a->stage, .attempt = a->number};
    snprintf(spec->uuid, sizeof spec->uuid, "%s", a->uuid);
    struct spec_errors errs;
    cJSON *doc = json_parse(job->spec, strlen(job->spec), NULL, e);
    if (!doc) {
        return dha_err_context(e, "stored spec of job %lld", (long long)a->job);
    }
    int rc = spec_parse(doc, NULL, &spec->spec, &errs);
    cJSON_Delete(doc);
    if (rc != 0) {
        return dha_fail(e, DHA_E_INTERNAL, "the stored spec of job %lld is not valid: %s %s",
                        (long long)a->job, errs.at[0].path, errs.at[0].msg);
    }
    for (size_t i = 0; i < l->n; i++) {
        if (l->at[i].id == a->stage) {
            spec->kind = l->at[i].kind;
            spec->out = l->at[i].out_dir ? strdup(l->at[i].out_dir) : NULL;
            break;
        }
        spec->inputs[l->at[i].kind] = l->at[i].out_dir ? strdup(l->at[i].out_dir) : NULL;
    }
    spec->dir = strdup(a->dir);
    uid_t user = runas_user(job->owner_uid);
    if (user == RUNAS_SELF) {
        spec->cache = strdup(d->cache_dir);
    } else if (asprintf(&spec->cache, "%s/uid-%lu", d->cache_dir, (unsigned long)user) < 0) {
        spec->cache = NULL;
    }
    if (!spec->out || !spec->dir || !spec->cache) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return 0;
}

/* Of the files as they are now: is the stage's key still what it was? */
struct key_check {
    struct job_spec spec;
    int64_t owner_uid, submitted_us;
    enum stage_kind kind;
    char promised[STAGEKEY_SIZE];
    struct dha_err e; /* OK: it is */
};

static void key_check_drop(void *arg)
{
    struct key_check *k = arg;
    spec_finish(&k->spec);
    free(k);
}

static void key_check_work(void *arg)
{
    struct key_check *k = arg;
    struct stagekey keys[STAGE_KINDS];
    int n = 0;
    bool changed = false;
    if (stages_keys(&k->spec, k->owner_uid, keys, &n, &k->e) != 0) {
        if (k->e.code != DHA_E_INPUT) {
            return;
        }
        changed = true; /* at submission they could be looked at */
        n = 0;
    }
    for (int i = 0; i < n; i++) {
        changed |= keys[i].kind == k->kind && strcmp(keys[i].key, k->promised) != 0;
    }
    if (changed) {
        stages_changed(&k->spec, k->owner_uid, k->submitted_us, &k->e);
    }
}

/* A stage's key promises what its result was made from; files that changed while the job waited would make it
 * a lie that other jobs then reuse. */
static int check_key(const struct store_job *job, struct attempt *a, const struct stage_spec *spec,
                     const struct store_stages *l, struct dha_err *e)
{
    struct key_check *k = calloc(1, sizeof *k);
    cJSON *doc = spec_to_json(&spec->spec); /* a spec of its own: the work may outlive this one */
    struct spec_errors errs = {0};
    int rc = k && doc ? spec_parse(doc, NULL, &k->spec, &errs) : -1;
    cJSON_Delete(doc);
    if (rc != 0) {
        free(k);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    k->owner_uid = job->owner_uid;
    k->submitted_us = job->submitted_us;
    k->kind = spec->kind;
    for (size_t i = 0; i < l->n; i++) {
        if (l->at[i].id == a->stage) {
            snprintf(k->promised, sizeof k->promised, "%s", l->at[i].key);
        }
    }
    if (patience_run(key_check_work, key_check_drop, k, k->owner_uid, k->spec.model, e) != 0) {
        a->files_hang = e->code == DHA_E_TRANSIENT;
        return -1;
    }
    if (k->e.code != DHA_E_OK) {
        *e = k->e;
        rc = -1;
    }
    key_check_drop(k);
    return rc;
}

static int launch(struct attempt *a, struct dha_err *e)
{
    struct store_job job = {0};
    struct store_stages l = {0};
    struct stage_spec spec = {0};
    struct placement place = {0};
    int rc = -1;
    if (store_job_get(a->d->store, a->job, &job, e) != 0 ||
        store_stages_of_job(a->d->store, a->job, &l, e) != 0 ||
        daemon_may_run(a->d, job.owner_uid, e) != 0 || build_spec(a, &job, &l, &spec, e) != 0 ||
        check_key(&job, a, &spec, &l, e) != 0 ||
        output_clear_damaged(spec.kind, spec.out, e) != 0 ||
        placement_of(a->d, a->id, spec.spec.resources.threads, &place, e) != 0) {
        goto out;
    }
    if (place.n_ranks != spec.spec.resources.ranks) {
        dha_fail(e, DHA_E_INTERNAL, "the attempt's slots are for %d ranks, its spec asks for %d",
                 place.n_ranks, spec.spec.resources.ranks);
        goto out;
    }
    spec.places = place.ranks;
    spec.n_places = place.n_ranks;
    place.ranks = NULL;
    a->user = runas_user(job.owner_uid);
    a->walltime_s = spec.spec.resources.walltime_s;
    a->ranks = spec.spec.resources.ranks;
    struct launch_attempt la = {.spec = &spec,
                                .ranks = spec.spec.resources.ranks,
                                .threads = spec.spec.resources.threads,
                                .nodes = place.nodes,
                                .n_nodes = place.n_nodes,
                                .user = a->user};
    FAILPOINT(launch_before_spawn);
    rc = launch_attempt(&a->d->loop, &a->d->launch, &la, &a->child, e);
    if (rc == 0) {
        FAILPOINT(launch_after_spawn);
        a->d->stat.launches++;
        log_info("job %lld: %s attempt %d started (shim %d)", (long long)a->job,
                 stage_kind_name(spec.kind), a->number, (int)a->child);
    }
out:
    placement_finish(&place);
    stage_spec_finish(&spec);
    store_stages_finish(&l);
    store_job_finish(&job);
    return rc;
}

/* The last line that the shim printed, "" if there is none. */
static const char *last_words(const struct attempt *a, char text[256])
{
    char path[4200];
    snprintf(path, sizeof path, "%.4000s/launcher.log", a->dir);
    int fd = runas_open(path, O_RDONLY);
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    ssize_t n = size > 0 ? pread(fd, text, 255, size > 255 ? size - 255 : 0) : 0;
    if (fd >= 0) {
        close(fd);
    }
    while (n > 0 && text[n - 1] == '\n') {
        n--;
    }
    text[n > 0 ? n : 0] = '\0';
    text_clean_utf8(text);
    const char *line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

void attempt_launch(struct attempt *a)
{
    a->phase = A_STARTING;
    if (a->spawns >= SPAWNS_MAX) {
        char text[256];
        a->launch_failed = true;
        const char *words = last_words(a, text);
        dha_fail(&a->launch_error, DHA_E_LOST, "the shim did not start %d times%s%s", SPAWNS_MAX,
                 words[0] ? ": " : "", words);
        dha_err_hint(&a->launch_error, "see launcher.log in %s", a->dir);
        return;
    }
    a->spawns++;
    if (launch(a, &a->launch_error) != 0) {
        a->launch_failed = true;
        log_fail("launch", &a->launch_error);
    }
}

void attempts_launch(struct daemon *d)
{
    struct attempt *a = d->to_launch;
    d->to_launch = NULL;
    while (a) {
        struct attempt *next = a->launch_next;
        a->launch_next = NULL;
        attempt_launch(a);
        a = next;
    }
}
