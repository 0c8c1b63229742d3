#include <stdlib.h>
#include <string.h>

#include "store/db.h"

/* ---- submission ---- */

/* *id = 0 if the key is new. */
static int find_idempotent(struct store *s, const struct store_new_job *j, int64_t *id,
                           struct dha_err *e)
{
    *id = 0;
    if (!j->idempotency_key)
        return 0;
    sqlite3_stmt *st = db_query(s, e,
                                "SELECT i.job, j.spec = ?3 FROM idempotency i"
                                " JOIN job j ON j.id = i.job WHERE i.owner_uid = ?1 AND i.key = ?2",
                                DB_I(j->owner_uid), DB_S(j->idempotency_key), DB_S(j->spec));
    if (!st)
        return -1;
    int rc = db_next(s, e, st);
    if (rc <= 0)
        return rc;
    bool same = sqlite3_column_int(st, 1);
    *id = sqlite3_column_int64(st, 0);
    db_reset(st);
    if (!same) {
        dha_fail(e, DHA_E_CONFLICT, "this Idempotency-Key was used for job %lld with another spec",
                 (long long)*id);
        return dha_err_hint(e, "use a new key for a new job");
    }
    return 0;
}

static int insert_dependencies(struct store *s, const struct store_new_job *j, int64_t id,
                               struct dha_err *e)
{
    for (size_t i = 0; i < j->n_after; i++) {
        int64_t there;
        if (db_scalar(s, e,
                      db_query(s, e, "SELECT count(*) FROM job WHERE id = ?1 AND damaged = 0",
                               DB_I(j->after[i].job)),
                      0, &there) != 0)
            return -1;
        if (!there || j->after[i].job == id)
            return dha_fail(e, DHA_E_NOT_FOUND, "there is no job %lld to wait for",
                            (long long)j->after[i].job);
        /* of two conditions on one job the stricter one stays */
        if (db_run(s, e,
                   "INSERT INTO dependency(job, on_job, any_end) VALUES(?1, ?2, ?3)"
                   " ON CONFLICT(job, on_job) DO UPDATE SET any_end = min(any_end, ?3)",
                   DB_I(id), DB_I(j->after[i].job), DB_I(j->after[i].any)) != 0)
            return -1;
    }
    return 0;
}

/* All of them by one statement: each INSERT of its own would count the table's ids up by itself. */
static int insert_stages(struct store *s, const struct store_new_job *j, int64_t id,
                         struct dha_err *e)
{
#define STAGES_1 "INSERT INTO stage(job, ord, kind, key, state) VALUES(?1, 0, ?2, ?3, 'ready')"
#define STAGES_2 STAGES_1 ", (?1, 1, ?4, ?5, 'pending')"
#define STAGES_3 STAGES_2 ", (?1, 2, ?6, ?7, 'pending')"
#define STAGES_4 STAGES_3 ", (?1, 3, ?8, ?9, 'pending')"
#define STAGES_5 STAGES_4 ", (?1, 4, ?10, ?11, 'pending')"
    static const char *const sql[] = {STAGES_1, STAGES_2, STAGES_3, STAGES_4, STAGES_5};
    _Static_assert(sizeof sql / sizeof sql[0] == STAGE_KINDS, "a statement for each number");
    struct db_arg args[1 + 2 * STAGE_KINDS] = {DB_I(id)};
    size_t n = 1;
    for (int i = 0; i < j->n_stages; i++) {
        args[n++] = DB_S(stage_kind_name(j->stages[i].kind));
        args[n++] = DB_S(j->stages[i].key);
    }
    return db_run_args(s, s->db, e, sql[j->n_stages - 1], args, n);
}

static int insert_job(struct store *s, const struct store_new_job *j, int64_t *id,
                      struct dha_err *e)
{
    if (db_run(s, e,
               "INSERT INTO job(owner_uid, sweep, name, method, budget, spec, state, priority,"
               " slots, device, submitted_us, seed, walltime_s, nodes, slot_memory, node_names)"
               " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
               DB_I(j->owner_uid), DB_ID(j->sweep), DB_S(j->name), DB_S(j->method), DB_D(j->budget),
               DB_S(j->spec), DB_S(job_state_name(j->hold ? JOB_HELD : JOB_QUEUED)),
               DB_I(j->priority), DB_I(j->slots), DB_S(j->device), DB_I(j->now_us), DB_I(j->seed),
               DB_I(j->walltime_s), DB_I(j->nodes > 1 ? j->nodes : 1), DB_I(j->slot_memory),
               DB_S(j->node_names ? j->node_names : "")) != 0)
        return -1;
    *id = sqlite3_last_insert_rowid(s->db);
    if (insert_dependencies(s, j, *id, e) != 0 || insert_stages(s, j, *id, e) != 0)
        return -1;
    if (j->idempotency_key &&
        db_run(s, e, "INSERT INTO idempotency(owner_uid, key, job, time_us) VALUES(?1, ?2, ?3, ?4)",
               DB_I(j->owner_uid), DB_S(j->idempotency_key), DB_I(*id), DB_I(j->now_us)) != 0)
        return -1;
    cJSON *data = cJSON_CreateObject();
    if (json_put_str(data, "name", j->name) != 0 ||
        json_put_str(data, "state", job_state_name(j->hold ? JOB_HELD : JOB_QUEUED)) != 0) {
        cJSON_Delete(data);
        return db_no_memory(e);
    }
    return event_json(s, "job.submit", *id, 0, 0, data, j->now_us, e);
}

int store_job_submit(struct store *s, const struct store_new_job *j, int64_t *id, bool *existed,
                     struct dha_err *e)
{
    struct db_mark m;
    *existed = false;
    if (j->n_stages < 1 || j->n_stages > STAGE_KINDS)
        return dha_fail(e, DHA_E_INTERNAL, "a job of %d stages", j->n_stages);
    for (int i = 0; i < j->n_stages; i++)
        if (strlen(j->stages[i].key) == 0 || strlen(j->stages[i].key) >= STORE_KEY_SIZE)
            return dha_fail(e, DHA_E_INTERNAL, "stage key \"%.80s\" is no digest",
                            j->stages[i].key);
    if (find_idempotent(s, j, id, e) != 0)
        return -1;
    if (*id) {
        *existed = true;
        return 0;
    }
    if (store_queue_check(s, j->owner_uid, j->queue_limit, 1, e) != 0 || db_mark(s, &m, e) != 0)
        return -1;
    queue_added(s, j->owner_uid);
    if (insert_job(s, j, id, e) != 0)
        return db_undo(s, &m);
    return db_keep(s, &m, e);
}

/* ---- reading ---- */

#define JOB_COLUMNS                                                                                \
    "id, owner_uid, sweep, name, method, budget, state, priority, slots, device, submitted_us,"    \
    " started_us, ended_us, cancel, cancel_now, cancel_reason, error_code, error_message,"         \
    " error_hint, seed, spared, loss_parent, loss_converted, loss_final, spec"
enum { SPEC_COLUMN = 24 };

void store_job_finish(struct store_job *j)
{
    free(j->name);
    free(j->method);
    free(j->spec);
    free(j->cancel_reason);
    memset(j, 0, sizeof *j);
}

/* 1 decoded, 0 damaged (*why says how), -1 out of memory. */
static int decode(sqlite3_stmt *st, bool with_spec, struct store_job *j, const char **why,
                  struct dha_err *e)
{
    bool ok = true;
    memset(j, 0, sizeof *j);
    j->id = sqlite3_column_int64(st, 0);
    if (job_state_from_name((const char *)sqlite3_column_text(st, 6), &j->state) != 0) {
        *why = "unknown job state";
        return db_starved(st) ? db_no_memory(e) : 0;
    }
    j->owner_uid = sqlite3_column_int64(st, 1);
    j->sweep = sqlite3_column_int64(st, 2);
    j->name = db_dup(st, 3, &ok);
    j->method = db_dup(st, 4, &ok);
    j->budget = sqlite3_column_double(st, 5);
    j->priority = sqlite3_column_int(st, 7);
    j->slots = sqlite3_column_int(st, 8);
    db_copy(st, 9, j->device, sizeof j->device);
    j->submitted_us = sqlite3_column_int64(st, 10);
    j->started_us = sqlite3_column_int64(st, 11);
    j->ended_us = sqlite3_column_int64(st, 12);
    j->cancel = sqlite3_column_int(st, 13);
    j->cancel_now = sqlite3_column_int(st, 14);
    j->cancel_reason = db_dup(st, 15, &ok);
    db_error(st, 16, &j->error);
    j->seed = sqlite3_column_int64(st, 19);
    j->spared = sqlite3_column_int(st, 20);
    j->loss_parent = db_real(st, 21);
    j->loss_converted = db_real(st, 22);
    j->loss_final = db_real(st, 23);
    if (with_spec) {
        const char *text = (const char *)sqlite3_column_text(st, SPEC_COLUMN);
        bool good = text && text[0] == '{' && json_check(text, strlen(text), NULL) == 0;
        ok = ok && !db_starved(st);
        if (!good && ok) {
            *why = "its spec is not valid JSON";
            store_job_finish(j);
            return 0;
        }
        j->spec = db_dup(st, SPEC_COLUMN, &ok);
    }
    if (!ok || db_starved(st)) {
        store_job_finish(j);
        return db_no_memory(e);
    }
    return 1;
}

static int get(struct store *s, int64_t id, bool with_spec, struct store_job *out,
               struct dha_err *e)
{
    const char *why = NULL;
    memset(out, 0, sizeof *out);
    sqlite3_stmt *st = db_query(s, e, "SELECT " JOB_COLUMNS ", damaged FROM job WHERE id = ?1",
                                DB_I(id));
    int rc = st ? db_next(s, e, st) : -1;
    if (rc < 0)
        return -1;
    if (rc == 0) {
        dha_fail(e, DHA_E_NOT_FOUND, "there is no job %lld", (long long)id);
        return dha_err_hint(e, "`dha list` shows those that there are");
    }
    bool damaged = sqlite3_column_int(st, SPEC_COLUMN + 1);
    rc = damaged ? 0 : decode(st, with_spec, out, &why, e);
    if (rc == 0 && !damaged)
        aside_row(s, "job", id, why, (const char *)sqlite3_column_text(st, SPEC_COLUMN));
    db_reset(st);
    if (rc == 0) {
        dha_fail(e, DHA_E_NOT_FOUND, "job %lld is damaged and was set aside", (long long)id);
        return dha_err_hint(e, "its row is in table lost_found of the state database");
    }
    return rc < 0 ? -1 : 0;
}

int store_job_get(struct store *s, int64_t id, struct store_job *out, struct dha_err *e)
{
    return get(s, id, true, out, e);
}

int store_job_brief(struct store *s, int64_t id, struct store_job *out, struct dha_err *e)
{
    return get(s, id, false, out, e);
}

int store_dependencies(struct store *s, int64_t job, struct store_dependency **out, size_t *n,
                       struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    sqlite3_stmt *st = db_query(s, e,
                                "SELECT d.on_job, d.any_end, o.state FROM dependency d"
                                " JOIN job o ON o.id = d.on_job WHERE d.job = ?1 ORDER BY d.on_job",
                                DB_I(job));
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, st)) == 1) {
        struct store_dependency *d = db_grow(out, n, sizeof *d);
        if (!d) {
            db_reset(st);
            rc = db_no_memory(e);
            break;
        }
        d->job = sqlite3_column_int64(st, 0);
        d->any = sqlite3_column_int(st, 1);
        if (job_state_from_name((const char *)sqlite3_column_text(st, 2), &d->state) != 0)
            d->state = JOB_FAILED; /* damaged: it will not end any better */
    }
    if (rc < 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

int store_job_node_names(struct store *s, int64_t job, char **out, struct dha_err *e)
{
    bool ok = true;
    *out = NULL;
    sqlite3_stmt *st = db_query(s, e, "SELECT node_names FROM job WHERE id = ?1", DB_I(job));
    int rc = st ? db_next(s, e, st) : -1;
    if (rc < 0)
        return -1;
    if (rc == 0)
        return dha_fail(e, DHA_E_NOT_FOUND, "there is no job %lld", (long long)job);
    *out = db_dup(st, 0, &ok);
    db_reset(st);
    return *out ? 0 : db_no_memory(e);
}

void store_jobs_finish(struct store_jobs *l)
{
    for (size_t i = 0; i < l->n; i++)
        store_job_finish(&l->at[i]);
    free(l->at);
    memset(l, 0, sizeof *l);
}

int store_jobs_list(struct store *s, const struct store_job_filter *f, struct store_jobs *out,
                    struct dha_err *e)
{
    memset(out, 0, sizeof *out);
    size_t limit = f->limit > 0 ? (size_t)f->limit : 100;
    /* The states are filtered here: a walk down the primary key stops at the limit whatever the filter. */
    sqlite3_stmt *st =
        f->name    ? db_query(s, e,
                              "SELECT " JOB_COLUMNS " FROM job WHERE id < ?1 AND damaged = 0"
                                 " AND name = ?2 ORDER BY id DESC",
                              DB_I(f->before > 0 ? f->before : INT64_MAX), DB_S(f->name))
        : f->sweep ? db_query(s, e,
                              "SELECT " JOB_COLUMNS " FROM job WHERE id < ?1 AND damaged = 0"
                              " AND sweep = ?2 ORDER BY id DESC",
                              DB_I(f->before > 0 ? f->before : INT64_MAX), DB_I(f->sweep))
                   : db_query(s, e,
                              "SELECT " JOB_COLUMNS " FROM job WHERE id < ?1 AND damaged = 0"
                              " ORDER BY id DESC",
                              DB_I(f->before > 0 ? f->before : INT64_MAX));
    if (!st)
        return -1;
    int rc = 0;
    while (out->n < limit && (rc = db_next(s, e, st)) == 1) {
        struct store_job j;
        const char *why = NULL;
        enum job_state state;
        if (f->states &&
            job_state_from_name((const char *)sqlite3_column_text(st, 6), &state) == 0 &&
            !(f->states & 1u << state))
            continue;
        int good = decode(st, false, &j, &why, e);
        if (good == 0)
            aside_row(s, "job", j.id, why, (const char *)sqlite3_column_text(st, SPEC_COLUMN));
        if (good == 0 || (good > 0 && f->name && f->sweep && j.sweep != f->sweep)) {
            if (good > 0)
                store_job_finish(&j);
            continue;
        }
        struct store_job *at = good > 0 ? db_grow(&out->at, &out->n, sizeof *at) : NULL;
        if (!at) {
            if (good > 0)
                store_job_finish(&j);
            rc = db_no_memory(e);
            break;
        }
        *at = j;
    }
    db_reset(st);
    if (rc < 0)
        store_jobs_finish(out);
    return rc < 0 ? -1 : 0;
}

int store_counts(struct store *s, int64_t jobs[JOB_STATES], int64_t stages[STAGE_STATES],
                 struct dha_err *e)
{
    enum job_state js;
    enum stage_state ss;
    memset(jobs, 0, JOB_STATES * sizeof *jobs);
    memset(stages, 0, STAGE_STATES * sizeof *stages);
    sqlite3_stmt *st = db_query0(s, e, "SELECT state, count(*) FROM job GROUP BY state");
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, st)) == 1)
        if (job_state_from_name((const char *)sqlite3_column_text(st, 0), &js) == 0)
            jobs[js] = sqlite3_column_int64(st, 1);
    if (rc < 0)
        return -1;
    st = db_query0(s, e, "SELECT state, count(*) FROM stage GROUP BY state");
    rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, st)) == 1)
        if (stage_state_from_name((const char *)sqlite3_column_text(st, 0), &ss) == 0)
            stages[ss] = sqlite3_column_int64(st, 1);
    return rc < 0 ? -1 : 0;
}

/* ---- changing ---- */

#define LOSS_OF_JOB(name)                                                                          \
    "(SELECT e.loss FROM stage s JOIN eval e ON e.stage = coalesce(s.reused_from, s.id)"           \
    " WHERE s.job = job.id AND e.name = '" name                                                    \
    "' ORDER BY s.ord DESC, e.step DESC, e.id DESC LIMIT 1)"

int job_refresh_losses(struct store *s, int64_t job, struct dha_err *e)
{
    return db_run(
        s, e,
        "UPDATE job SET loss_parent = " LOSS_OF_JOB("parent") ", loss_converted = " LOSS_OF_JOB(
            "converted") ", loss_final = " LOSS_OF_JOB("final") " WHERE id = ?1",
        DB_I(job));
}

static int apply_move(struct store *s, const struct store_job_move *m, struct dha_err *e)
{
    const struct dha_err *err = m->error;
    bool final = job_state_final(m->to);
    if (db_run(s, e,
               "UPDATE job SET state = ?3, error_code = ?4, error_message = ?5, error_hint = ?6,"
               " started_us = CASE WHEN ?7 AND started_us = 0 THEN ?8 ELSE started_us END,"
               " ended_us = CASE WHEN ?9 THEN ?8 ELSE 0 END,"
               " cancel = CASE WHEN ?10 THEN 0 ELSE cancel END,"
               " cancel_now = CASE WHEN ?10 THEN 0 ELSE cancel_now END,"
               " cancel_reason = CASE WHEN ?10 THEN NULL ELSE cancel_reason END,"
               " spared = max(spared, ?10)"
               " WHERE id = ?1 AND state = ?2 AND damaged = 0",
               DB_I(m->job), DB_S(job_state_name(m->from)), DB_S(job_state_name(m->to)),
               DB_S(err ? dha_code_name(err->code) : NULL), DB_S(err ? err->msg : NULL),
               DB_S(err ? err->hint : NULL), DB_I(m->to == JOB_RUNNING), DB_I(m->now_us),
               DB_I(final), DB_I(m->to == JOB_QUEUED && job_state_final(m->from))) != 0)
        return -1;
    if (sqlite3_changes(s->db) != 1)
        return 0;
    if (job_state_final(m->from))
        queue_forget(s);
    if (event_move(s, "job.state", m->job, 0, 0, job_state_name(m->from), job_state_name(m->to),
                   m->reason, m->now_us, e) != 0)
        return -1;
    if (m->outbox &&
        store_outbox_add(s, m->outbox, m->job, 0, 0, m->outbox_args, m->now_us, e) != 0)
        return -1;
    return 1;
}

int store_job_transition(struct store *s, const struct store_job_move *m, bool *changed,
                         struct dha_err *e)
{
    struct db_mark mark;
    *changed = false;
    if (!job_move_allowed(m->from, m->to))
        return dha_fail(e, DHA_E_CONFLICT, "a job cannot go from %s to %s", job_state_name(m->from),
                        job_state_name(m->to));
    if (db_mark(s, &mark, e) != 0)
        return -1;
    int rc = apply_move(s, m, e);
    if (rc < 0)
        return db_undo(s, &mark);
    *changed = rc;
    return db_keep(s, &mark, e);
}

int store_job_set_priority(struct store *s, int64_t job, int priority, int64_t now_us,
                           struct dha_err *e)
{
    struct db_mark mark;
    if (db_mark(s, &mark, e) != 0)
        return -1;
    if (db_run(s, e, "UPDATE job SET priority = ?2 WHERE id = ?1", DB_I(job), DB_I(priority)) != 0)
        return db_undo(s, &mark);
    if (sqlite3_changes(s->db) != 1) {
        dha_fail(e, DHA_E_NOT_FOUND, "there is no job %lld", (long long)job);
        return db_undo(s, &mark);
    }
    cJSON *data = cJSON_CreateObject();
    if (json_put_int(data, "priority", priority) != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    if (event_json(s, "job.priority", job, 0, 0, data, now_us, e) != 0)
        return db_undo(s, &mark);
    return db_keep(s, &mark, e);
}

int store_job_cancel(struct store *s, int64_t job, const char *reason, bool now, int64_t now_us,
                     bool *changed, struct dha_err *e)
{
    struct db_mark mark;
    *changed = false;
    if (db_mark(s, &mark, e) != 0)
        return -1;
    /* a second cancel may only add urgency */
    if (db_run(s, e,
               "UPDATE job SET cancel = 1, cancel_now = max(cancel_now, ?2),"
               " cancel_reason = coalesce(cancel_reason, ?3)"
               " WHERE id = ?1 AND state IN ('queued', 'held', 'running')"
               " AND (cancel = 0 OR cancel_now < ?2)",
               DB_I(job), DB_I(now), DB_S(reason)) != 0)
        return db_undo(s, &mark);
    if (sqlite3_changes(s->db) == 1) {
        *changed = true;
        if (event_move(s, "job.cancel", job, 0, 0, NULL, now ? "now" : NULL, reason, now_us, e) !=
            0)
            return db_undo(s, &mark);
    }
    return db_keep(s, &mark, e);
}

int store_job_cancelled_since(struct store *s, int64_t job, int64_t *us, struct dha_err *e)
{
    enum { NEWEST = 2000 }; /* events have no index by job, and the loop waits for this */
    sqlite3_stmt *st = db_query(s, e,
                                "SELECT time_us, type = 'job.cancel' FROM event"
                                " WHERE seq > ?2 AND job = ?1"
                                " AND type IN ('job.cancel', 'job.state') ORDER BY seq DESC",
                                DB_I(job), DB_I(s->event_seq - NEWEST));
    int rc = st ? 1 : -1;
    *us = 0;
    while (rc == 1 && (rc = db_next(s, e, st)) == 1) {
        if (!sqlite3_column_int(st, 1)) { /* an earlier life of the job */
            db_reset(st);
            rc = 0;
            break;
        }
        *us = sqlite3_column_int64(st, 0);
    }
    return rc;
}

int store_jobs_cancelling(struct store *s, int64_t **out, size_t *n, struct dha_err *e)
{
    return db_ids(s, e,
                  db_query0(s, e,
                            "SELECT id FROM job WHERE cancel = 1 AND damaged = 0"
                            " AND state IN ('queued', 'held', 'running') ORDER BY id"),
                  out, n);
}

int store_job_waits_for(struct store *s, int64_t job, int64_t *on, struct dha_err *e)
{
    return db_scalar(s, e,
                     db_query(s, e,
                              "SELECT d.on_job FROM dependency d JOIN job o ON o.id = d.on_job"
                              " WHERE d.job = ?1 AND " DB_UNMET " ORDER BY d.on_job LIMIT 1",
                              DB_I(job)),
                     0, on);
}

int store_jobs_freed_by(struct store *s, int64_t on, int64_t **out, size_t *n, struct dha_err *e)
{
    return db_ids(s, e,
                  db_query(s, e,
                           "SELECT j.id FROM dependency w JOIN job j ON j.id = w.job"
                           " WHERE w.on_job = ?1 AND j.damaged = 0"
                           " AND j.state IN ('queued', 'running') AND NOT EXISTS("
                           " SELECT 1 FROM dependency d JOIN job o ON o.id = d.on_job"
                           " WHERE d.job = w.job AND " DB_UNMET ") ORDER BY j.id",
                           DB_I(on)),
                  out, n);
}
