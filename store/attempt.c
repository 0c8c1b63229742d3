#include <stdlib.h>
#include <string.h>

#include "proto/text.h"
#include "store/db.h"

/* ---- a new one ---- */

static int take_slots(struct store *s, const struct store_new_attempt *a, int64_t attempt,
                      struct dha_err *e)
{
    for (size_t i = 0; i < a->n_slots; i++) {
        struct dha_err why = {0};
        /* The index allocation_live refuses a slot that is taken, whatever the caller believed. */
        if (db_run(s, &why,
                   "INSERT INTO allocation(attempt, slot, from_us) SELECT ?1, sl.id, ?3"
                   " FROM slot sl JOIN node n ON n.id = sl.node"
                   " WHERE sl.id = ?2 AND sl.gone = 0 AND n.drained = 0",
                   DB_I(attempt), DB_I(a->slots[i]), DB_I(a->now_us)) != 0) {
            if (why.code != DHA_E_CONFLICT) {
                if (e)
                    *e = why;
                return -1;
            }
            return dha_fail(e, DHA_E_CONFLICT, "slot %lld is taken", (long long)a->slots[i]);
        }
        if (sqlite3_changes(s->db) != 1)
            return dha_fail(e, DHA_E_CONFLICT, "slot %lld is not there or its node is drained",
                            (long long)a->slots[i]);
    }
    return 0;
}

/* 1 started, 0 not possible any more. Until its worker says where it goes on, the stage is where its newest checkpoint
 * is. */
static int start(struct store *s, const struct store_new_attempt *a, int64_t *id, int *number,
                 struct dha_err *e)
{
    if (db_run(s, e,
               "UPDATE stage SET state = 'running', attempt = attempt + 1, not_before_us = 0,"
               " started_us = CASE started_us WHEN 0 THEN ?2 ELSE started_us END, phase = NULL,"
               " phase_done = 0, phase_total = 0, step_tokens = 0, tokens_per_s = NULL,"
               " step = ifnull((SELECT max(k.step) FROM checkpoint k WHERE k.stage = stage.id"
               " AND k.state = 'complete'), 0),"
               " loss = NULL, lm = NULL, kl = NULL, fusion_loss = NULL, eta_s = NULL,"
               " changed_us = ?2, error_code = NULL, error_message = NULL, error_hint = NULL"
               " WHERE id = ?1 AND state = 'ready' AND damaged = 0 AND NOT EXISTS("
               " SELECT 1 FROM stage r WHERE r.key = stage.key AND r.state = 'running')",
               DB_I(a->stage), DB_I(a->now_us)) != 0)
        return -1;
    if (sqlite3_changes(s->db) != 1)
        return 0;
    int64_t n, job;
    if (db_scalar(s, e, db_query(s, e, "SELECT attempt FROM stage WHERE id = ?1", DB_I(a->stage)),
                  0, &n) != 0 ||
        db_scalar(s, e, db_query(s, e, "SELECT job FROM stage WHERE id = ?1", DB_I(a->stage)), 0,
                  &job) != 0 ||
        db_run(s, e,
               "INSERT INTO attempt(stage, number, uuid, state, started_us)"
               " VALUES(?1, ?2, ?3, 'starting', ?4)",
               DB_I(a->stage), DB_I(n), DB_S(a->uuid), DB_I(a->now_us)) != 0)
        return -1;
    *id = sqlite3_last_insert_rowid(s->db);
    *number = (int)n;
    if (take_slots(s, a, *id, e) != 0)
        return -1;
    cJSON *data = cJSON_CreateObject();
    if (json_put_str(data, "from", "ready") != 0 || json_put_str(data, "to", "running") != 0 ||
        json_put_int(data, "slots", (int64_t)a->n_slots) != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    if (event_json(s, "stage.state", job, a->stage, *number, data, a->now_us, e) != 0)
        return -1;
    return 1;
}

int store_attempt_new(struct store *s, const struct store_new_attempt *a, int64_t *id, int *number,
                      struct dha_err *e)
{
    struct db_mark mark;
    *id = 0;
    *number = 0;
    if (strlen(a->uuid) == 0 || strlen(a->uuid) >= STORE_UUID_SIZE)
        return dha_fail(e, DHA_E_INTERNAL, "an attempt's uuid of %zu bytes", strlen(a->uuid));
    if (db_mark(s, &mark, e) != 0)
        return -1;
    int rc = start(s, a, id, number, e);
    if (rc < 0) {
        *id = 0;
        *number = 0;
        return db_undo(s, &mark);
    }
    return db_keep(s, &mark, e);
}

/* ---- reading ---- */

#define ATTEMPT_COLUMNS                                                                            \
    "a.id, a.state, a.stage, a.number, a.uuid, a.dir, a.journal_offset, a.pid, a.pid_start,"       \
    " a.boot_id, a.host, a.backend, a.ranks, a.steps, a.resumed_from, a.started_us, a.hello_us,"   \
    " a.ended_us, a.exit_code, a.error_code, a.error_message, a.error_hint,"                       \
    " (SELECT job FROM stage s WHERE s.id = a.stage), a.unreachable_us"

void store_attempt_finish(struct store_attempt *a)
{
    free(a->dir);
    memset(a, 0, sizeof *a);
}

void store_attempts_finish(struct store_attempts *l)
{
    for (size_t i = 0; i < l->n; i++)
        store_attempt_finish(&l->at[i]);
    free(l->at);
    memset(l, 0, sizeof *l);
}

static int decode(sqlite3_stmt *q, struct store_attempt *a, const char **why, struct dha_err *e)
{
    bool ok = true;
    int c = 0;
    memset(a, 0, sizeof *a);
    a->id = sqlite3_column_int64(q, c++);
    if (attempt_state_from_name((const char *)sqlite3_column_text(q, c++), &a->state) != 0) {
        *why = "unknown attempt state";
        return db_starved(q) ? db_no_memory(e) : 0;
    }
    a->stage = sqlite3_column_int64(q, c++);
    a->number = sqlite3_column_int(q, c++);
    db_copy(q, c++, a->uuid, sizeof a->uuid);
    a->dir = db_dup(q, c++, &ok);
    a->journal_offset = sqlite3_column_int64(q, c++);
    a->pid = sqlite3_column_int64(q, c++);
    a->pid_start = sqlite3_column_int64(q, c++);
    db_copy(q, c++, a->boot_id, sizeof a->boot_id);
    db_copy(q, c++, a->host, sizeof a->host);
    db_copy(q, c++, a->backend, sizeof a->backend);
    a->ranks = sqlite3_column_int(q, c++);
    a->steps = sqlite3_column_int64(q, c++);
    a->resumed_from = sqlite3_column_int64(q, c++);
    a->started_us = sqlite3_column_int64(q, c++);
    a->hello_us = sqlite3_column_int64(q, c++);
    a->ended_us = sqlite3_column_int64(q, c++);
    a->exit_code = sqlite3_column_int(q, c++);
    db_error(q, c, &a->error);
    a->job = sqlite3_column_int64(q, c + 3);
    a->unreachable_us = sqlite3_column_int64(q, c + 4);
    if (!ok || db_starved(q)) {
        store_attempt_finish(a);
        return db_no_memory(e);
    }
    return 1;
}

static int collect(struct store *s, sqlite3_stmt *q, struct store_attempts *out, struct dha_err *e)
{
    memset(out, 0, sizeof *out);
    if (!q)
        return -1;
    int rc;
    while ((rc = db_next(s, e, q)) == 1) {
        struct store_attempt a;
        const char *why = NULL;
        int good = decode(q, &a, &why, e);
        if (good == 0) {
            aside_row(s, "attempt", a.id, why, (const char *)sqlite3_column_text(q, 1));
            continue;
        }
        struct store_attempt *at = good > 0 ? db_grow(&out->at, &out->n, sizeof *at) : NULL;
        if (!at) {
            if (good > 0)
                store_attempt_finish(&a);
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
        *at = a;
    }
    if (rc < 0)
        store_attempts_finish(out);
    return rc;
}

static int only(struct store_attempts *l, struct store_attempt *out, struct dha_err *e)
{
    if (l->n == 0)
        return dha_fail(e, DHA_E_NOT_FOUND, "there is no such attempt");
    *out = l->at[0];
    memset(&l->at[0], 0, sizeof l->at[0]);
    store_attempts_finish(l);
    return 0;
}

int store_attempt_get(struct store *s, int64_t id, struct store_attempt *out, struct dha_err *e)
{
    struct store_attempts l;
    memset(out, 0, sizeof *out);
    if (collect(s,
                db_query(s, e,
                         "SELECT " ATTEMPT_COLUMNS
                         " FROM attempt a WHERE a.id = ?1 AND a.damaged = 0",
                         DB_I(id)),
                &l, e) != 0)
        return -1;
    return only(&l, out, e);
}

int store_attempt_by_number(struct store *s, int64_t stage, int number, struct store_attempt *out,
                            struct dha_err *e)
{
    struct store_attempts l;
    memset(out, 0, sizeof *out);
    if (collect(s,
                db_query(s, e,
                         "SELECT " ATTEMPT_COLUMNS " FROM attempt a WHERE a.stage = ?1"
                         " AND a.number = ?2 AND a.damaged = 0",
                         DB_I(stage), DB_I(number)),
                &l, e) != 0)
        return -1;
    return only(&l, out, e);
}

int store_attempts_of_stage(struct store *s, int64_t stage, struct store_attempts *out,
                            struct dha_err *e)
{
    return collect(s,
                   db_query(s, e,
                            "SELECT " ATTEMPT_COLUMNS " FROM attempt a WHERE a.stage = ?1"
                            " AND a.damaged = 0 ORDER BY a.number",
                            DB_I(stage)),
                   out, e);
}

int store_attempts_live(struct store *s, struct store_attempts *out, struct dha_err *e)
{
    return collect(s,
                   db_query0(s, e,
                             "SELECT " ATTEMPT_COLUMNS " FROM attempt a WHERE a.state <> 'ended'"
                             " AND a.damaged = 0 ORDER BY a.id"),
                   out, e);
}

/* ---- changing ---- */

int store_attempt_set_dir(struct store *s, int64_t id, const char *dir, struct dha_err *e)
{
    if (store_begin(s, e) != 0)
        return -1;
    return db_run(s, e, "UPDATE attempt SET dir = ?2 WHERE id = ?1", DB_I(id), DB_S(dir));
}

int store_attempt_set_process(struct store *s, int64_t id, int64_t pid, int64_t pid_start,
                              const char *boot_id, struct dha_err *e)
{
    if (store_begin(s, e) != 0)
        return -1;
    return db_run(s, e, "UPDATE attempt SET pid = ?2, pid_start = ?3, boot_id = ?4 WHERE id = ?1",
                  DB_I(id), DB_I(pid), DB_I(pid_start), DB_S(boot_id));
}

/* What an event about an attempt says of whom. */
struct whom {
    int64_t job, stage;
    int number;
};

static int whose(struct store *s, int64_t id, struct whom *w, struct dha_err *e)
{
    sqlite3_stmt *q = db_query(s, e,
                               "SELECT s.job, s.id, a.number FROM attempt a"
                               " JOIN stage s ON s.id = a.stage WHERE a.id = ?1",
                               DB_I(id));
    int rc = q ? db_next(s, e, q) : -1;
    if (rc < 0)
        return -1;
    if (rc == 0)
        return dha_fail(e, DHA_E_NOT_FOUND, "there is no attempt %lld", (long long)id);
    w->job = sqlite3_column_int64(q, 0);
    w->stage = sqlite3_column_int64(q, 1);
    w->number = sqlite3_column_int(q, 2);
    db_reset(q);
    return 0;
}

static int set_state(struct store *s, int64_t id, enum attempt_state state, const char *reason,
                     int64_t now_us, bool *changed, struct dha_err *e)
{
    struct whom w;
    if (whose(s, id, &w, e) != 0 ||
        db_run(s, e,
               "UPDATE attempt SET state = ?2, unreachable_us = CASE WHEN ?2 = 'unreachable'"
               " AND unreachable_us = 0 THEN ?3 ELSE unreachable_us END"
               " WHERE id = ?1 AND state NOT IN ('ended', ?2)",
               DB_I(id), DB_S(attempt_state_name(state)), DB_I(now_us)) != 0)
        return -1;
    *changed = sqlite3_changes(s->db) == 1;
    return *changed ? event_move(s, "attempt.state", w.job, w.stage, w.number, NULL,
                                 attempt_state_name(state), reason, now_us, e)
                    : 0;
}

int store_attempt_set_state(struct store *s, int64_t id, enum attempt_state state,
                            const char *reason, int64_t now_us, bool *changed, struct dha_err *e)
{
    struct db_mark mark;
    *changed = false;
    if (state == ATTEMPT_ENDED)
        return dha_fail(e, DHA_E_INTERNAL, "an attempt is ended by store_attempt_end()");
    if (db_mark(s, &mark, e) != 0)
        return -1;
    if (set_state(s, id, state, reason, now_us, changed, e) != 0) {
        *changed = false;
        return db_undo(s, &mark);
    }
    return db_keep(s, &mark, e);
}

static int end(struct store *s, int64_t id, int exit_code, const struct dha_err *err,
               int64_t now_us, bool *changed, struct dha_err *e)
{
    struct whom w;
    if (whose(s, id, &w, e) != 0 ||
        db_run(s, e,
               "UPDATE attempt SET state = 'ended', ended_us = ?2, exit_code = ?3,"
               " error_code = coalesce(?4, error_code),"
               " error_message = coalesce(?5, error_message),"
               " error_hint = coalesce(?6, error_hint) WHERE id = ?1 AND state <> 'ended'",
               DB_I(id), DB_I(now_us), DB_I(exit_code), DB_S(err ? dha_code_name(err->code) : NULL),
               DB_S(err ? err->msg : NULL), DB_S(err ? err->hint : NULL)) != 0)
        return -1;
    *changed = sqlite3_changes(s->db) == 1;
    if (!*changed)
        return 0;
    if (db_run(s, e,
               "UPDATE allocation SET until_us = max(?2, 1) WHERE attempt = ?1 AND until_us = 0",
               DB_I(id), DB_I(now_us)) != 0)
        return -1;
    cJSON *data = cJSON_CreateObject();
    if (json_put_int(data, "exit_code", exit_code) != 0 ||
        (err && json_put_str(data, "code", dha_code_name(err->code)) != 0) ||
        (err && json_put_str(data, "message", err->msg) != 0)) {
        cJSON_Delete(data);
        data = NULL;
    }
    return event_json(s, "attempt.end", w.job, w.stage, w.number, data, now_us, e);
}

int store_attempt_end(struct store *s, int64_t id, int exit_code, const struct dha_err *error,
                      int64_t now_us, bool *changed, struct dha_err *e)
{
    struct db_mark mark;
    *changed = false;
    if (db_mark(s, &mark, e) != 0)
        return -1;
    if (end(s, id, exit_code, error, now_us, changed, e) != 0) {
        *changed = false;
        return db_undo(s, &mark);
    }
    return db_keep(s, &mark, e);
}
