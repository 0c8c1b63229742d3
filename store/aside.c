/* aside.c: what is damaged must not stop the controller. A row, a line or a whole file is put where it can be looked
 * at; the rest goes on. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/db.h"

int store_lost_found_add(struct store *s, const char *origin, const char *content, size_t len,
                         const char *reason, int64_t now_us, struct dha_err *e)
{
    struct db_mark m;
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (db_run(s, e,
               "INSERT INTO lost_found(time_us, origin, reason, content) VALUES(?1, ?2, ?3, ?4)",
               DB_I(now_us), DB_S(origin), DB_S(reason), DB_B(content, len)) != 0)
        return db_undo(s, &m);
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_str(data, "origin", origin);
    rc |= json_put_str(data, "reason", reason);
    if (rc != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    if (event_json(s, "lost_found", 0, 0, 0, data, now_us, e) != 0)
        return db_undo(s, &m);
    return db_keep(s, &m, e);
}

int64_t store_lost_found_count(struct store *s)
{
    int64_t n = 0;
    struct dha_err e;
    return db_scalar(s, &e, db_query0(s, &e, "SELECT count(*) FROM lost_found"), 0, &n) == 0 ? n
                                                                                             : 0;
}

/* One row as JSON, so that whoever looks at it later has all of it. */
static char *row_text(sqlite3_stmt *q)
{
    cJSON *j = cJSON_CreateObject();
    int rc = j ? 0 : -1;
    for (int i = 0; i < sqlite3_column_count(q) && rc == 0; i++) {
        const char *text = (const char *)sqlite3_column_text(q, i);
        const char *name = sqlite3_column_name(q, i);
        rc = json_put(j, name, text ? cJSON_CreateString(text) : cJSON_CreateNull());
    }
    char *text = rc == 0 ? json_text(j) : NULL;
    cJSON_Delete(j);
    return text;
}

void aside_row(struct store *s, const char *table, int64_t id, const char *reason,
               const char *content)
{
    struct dha_err e;
    char origin[48];
    char *row = NULL;
    sqlite3_stmt *q;
    snprintf(origin, sizeof origin, "%s %lld", table, (long long)id);
    if (strcmp(table, "job") == 0)
        q = db_query(s, &e, "SELECT * FROM job WHERE id = ?1", DB_I(id));
    else if (strcmp(table, "stage") == 0)
        q = db_query(s, &e, "SELECT * FROM stage WHERE id = ?1", DB_I(id));
    else
        q = db_query(s, &e, "SELECT * FROM attempt WHERE id = ?1", DB_I(id));
    if (q && db_next(s, &e, q) == 1) {
        row = row_text(q);
        db_reset(q);
    }
    if (row)
        content = row;
    if (store_lost_found_add(s, origin, content, content ? strlen(content) : 0, reason, s->now_us,
                             &e) == 0) {
        if (strcmp(table, "job") == 0)
            db_run(s, &e, "UPDATE job SET damaged = 1 WHERE id = ?1", DB_I(id));
        else if (strcmp(table, "attempt") == 0)
            /* Its processes may well be alive: the controller looks for them as for any that it lost sight of. */
            db_run(s, &e, "UPDATE attempt SET state = 'unreachable' WHERE id = ?1", DB_I(id));
        else if (db_run(s, &e, "UPDATE stage SET damaged = 1 WHERE id = ?1", DB_I(id)) == 0)
            /* a job with a hole in it cannot be finished */
            db_run(s, &e,
                   "UPDATE job SET damaged = 1 WHERE id = (SELECT job FROM stage WHERE id = ?1)",
                   DB_I(id));
    }
    free(row);
}

int aside_scan(struct store *s, struct dha_err *e)
{
    struct store_jobs jobs;
    struct store_stages stages;
    struct store_attempts attempts;
    struct store_job_filter f = {.states = 1u << JOB_QUEUED | 1u << JOB_HELD | 1u << JOB_RUNNING,
                                 .limit = INT32_MAX};
    if (store_jobs_list(s, &f, &jobs, e) != 0)
        return -1;
    for (size_t i = 0; i < jobs.n; i++) {
        struct store_job j;
        struct dha_err why = {0};
        int rc = store_job_get(s, jobs.at[i].id, &j, &why); /* decodes the spec, too */
        if (rc == 0) {
            rc = store_stages_of_job(s, j.id, &stages, &why);
            if (rc == 0)
                store_stages_finish(&stages);
            store_job_finish(&j);
        }
        if (rc != 0 && why.code != DHA_E_NOT_FOUND) {
            store_jobs_finish(&jobs);
            if (e)
                *e = why;
            return -1;
        }
    }
    store_jobs_finish(&jobs);
    if (store_attempts_live(s, &attempts, e) != 0)
        return -1;
    store_attempts_finish(&attempts);
    return 0;
}

/* ---- a file that does not pass its check ---- */

struct salvage {
    sqlite3 *from, *to;
    int64_t copied, refused;
    bool incomplete;
    int rc; /* what stopped it: not damage, so nothing to make the best of */
};

/* Rows of one table, forward until an error, then backward until what is there already: what a damaged page hides lies
 * between. */
static void copy_table(struct salvage *v, const char *table)
{
    char sql[1024];
    int copied_before = 0;
    for (int backward = 0; backward < 2; backward++) {
        sqlite3_stmt *q = NULL, *ins = NULL;
        snprintf(sql, sizeof sql, "SELECT * FROM \"%s\" ORDER BY 1%s", table,
                 backward ? " DESC" : "");
        int rc = sqlite3_prepare_v2(v->from, sql, -1, &q, NULL);
        int cols = q ? sqlite3_column_count(q) : 0;
        if (rc == SQLITE_ERROR && strncmp(sqlite3_errmsg(v->from), "no such table", 13) == 0 &&
            (strcmp(table, "sweep_key") == 0 || strcmp(table, "dependency") == 0))
            return; /* written by a version that did not have it yet */
        /* by name: an older file has fewer columns */
        int n = snprintf(sql, sizeof sql, "INSERT OR IGNORE INTO \"%s\"(", table);
        for (int i = 0; i < cols && n > 0 && (size_t)n < sizeof sql; i++)
            n += snprintf(sql + n, sizeof sql - (size_t)n, i ? ",%s" : "%s",
                          sqlite3_column_name(q, i));
        for (int i = 0; i < cols && n > 0 && (size_t)n < sizeof sql; i++)
            n += snprintf(sql + n, sizeof sql - (size_t)n, i ? ",?%d" : ") VALUES(?%d", i + 1);
        if (n > 0 && (size_t)n < sizeof sql)
            snprintf(sql + n, sizeof sql - (size_t)n, ")");
        if (rc == SQLITE_OK)
            rc = sqlite3_prepare_v2(v->to, sql, -1, &ins, NULL);
        while (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
            for (int i = 0; i < cols && rc == SQLITE_ROW; i++)
                if (sqlite3_bind_value(ins, i + 1, sqlite3_column_value(q, i)) != SQLITE_OK)
                    rc = v->rc = sqlite3_errcode(v->to);
            int done = rc == SQLITE_ROW && sqlite3_step(ins) == SQLITE_DONE;
            if (done && sqlite3_changes(v->to) == 1) {
                v->copied++;
                copied_before++;
            } else {
                int why = done ? SQLITE_OK : sqlite3_errcode(v->to);
                v->refused += !done;
                if (!done && why != SQLITE_CONSTRAINT && why != SQLITE_MISMATCH)
                    v->rc = why; /* not for a value of the wrong type, say */
            }
            sqlite3_reset(ins);
            rc = v->rc;
        }
        sqlite3_finalize(q);
        sqlite3_finalize(ins);
        if (rc == SQLITE_DONE)
            return; /* all of it */
        /* a missing table or column is damage, too: of the schema */
        if (!db_is_damage(rc) && rc != SQLITE_ERROR)
            v->rc = rc;
        if (v->rc != SQLITE_OK)
            return;
        v->incomplete = true;
    }
}

static const char *const tables[] = {
    "sweep",      "job",         "stage",     "attempt",    "node",        "slot",
    "allocation", "event",       "outbox",    "checkpoint", "head_budget", "eval",
    "lost_found", "idempotency", "sweep_key", "dependency", "token"};

static int salvage_into(struct salvage *v, const char *old, const char *fresh, int64_t now_us,
                        struct dha_err *e)
{
    struct store tmp = {.lock_fd = -1}; /* only lends its connection to the schema */
    char note[256], sql[160];
    if (sqlite3_open_v2(fresh, &v->to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) !=
        SQLITE_OK)
        return dha_fail(e, DHA_E_IO, "cannot create %s: %s", fresh, sqlite3_errmsg(v->to));
    tmp.db = v->to;
    if (schema_migrate(&tmp, v->to, DB_STATE, fresh, e) != 0)
        return -1;
    int rc = sqlite3_exec(v->to, "PRAGMA foreign_keys=OFF; BEGIN", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_open_v2(old, &v->from, SQLITE_OPEN_READWRITE, NULL);
    for (size_t i = 0; i < sizeof tables / sizeof tables[0] && rc == SQLITE_OK; i++) {
        copy_table(v, tables[i]);
        rc = v->rc;
    }
    /* A disk that does not answer, no memory, no room: what is not copied now may be read another time. */
    if (rc != SQLITE_OK)
        return dha_fail(e, DHA_E_IO, "cannot repair %s now: %s", old, sqlite3_errstr(rc));
    if (v->incomplete) {
        /* Rows are missing: numbers must not be given a second time, so go on from the clock. */
        static const char *const counted[] = {"job",   "stage", "attempt",
                                              "event", "sweep", "lost_found"};
        for (size_t i = 0; i < sizeof counted / sizeof counted[0] && rc == SQLITE_OK; i++) {
            snprintf(sql, sizeof sql,
                     "DELETE FROM sqlite_sequence WHERE name='%s';"
                     "INSERT INTO sqlite_sequence VALUES('%s', %lld)",
                     counted[i], counted[i], (long long)(now_us / 1000000));
            rc = sqlite3_exec(v->to, sql, NULL, NULL, NULL);
        }
    }
    snprintf(note, sizeof note,
             "it did not pass its check: %lld rows kept, %lld not acceptable, %s; the old file is "
             "beside it",
             (long long)v->copied, (long long)v->refused,
             v->incomplete ? "some not readable" : "all readable");
    sqlite3_stmt *st = NULL;
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(v->to,
                                "INSERT INTO lost_found(time_us, origin, reason)"
                                " VALUES(?1, 'state.db', ?2)",
                                -1, &st, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(st, 1, now_us);
        sqlite3_bind_text(st, 2, note, -1, SQLITE_STATIC);
        rc = sqlite3_step(st) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(v->to);
    }
    sqlite3_finalize(st);
    st = NULL;
    /* and an event, for who reads those */
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(v->to,
                                "INSERT INTO event(time_us, type, data) VALUES(?1,"
                                " 'store.salvaged',"
                                " json_object('reason', ?2, 'incomplete', json(?3)))",
                                -1, &st, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(st, 1, now_us);
        sqlite3_bind_text(st, 2, note, -1, SQLITE_STATIC);
        sqlite3_bind_text(st, 3, v->incomplete ? "true" : "false", -1, SQLITE_STATIC);
        rc = sqlite3_step(st) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(v->to);
    }
    sqlite3_finalize(st);
    if (rc != SQLITE_OK || sqlite3_exec(v->to, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        return dha_fail(e, DHA_E_IO, "cannot write %s: %s", fresh, sqlite3_errmsg(v->to));
    return 0;
}

int aside_salvage(const char *path, int64_t now_us, struct dha_err *e)
{
    struct salvage v = {0};
    char *fresh = NULL, *old = NULL, *wal = NULL, *old_wal = NULL, *shm = NULL;
    int rc = -1;
    if (asprintf(&fresh, "%s.salvage", path) < 0 ||
        asprintf(&old, "%s.damaged-%lld", path, (long long)now_us) < 0 ||
        asprintf(&wal, "%s-wal", path) < 0 || asprintf(&old_wal, "%s-wal", old) < 0 ||
        asprintf(&shm, "%s-shm", path) < 0) {
        db_no_memory(e);
        goto out;
    }
    unlink(fresh); /* of an earlier try that was cut short */
    rc = salvage_into(&v, path, fresh, now_us, e);
    sqlite3_close(v.from);
    if (sqlite3_close(v.to) != SQLITE_OK && rc == 0)
        rc = dha_fail(e, DHA_E_IO, "cannot close %s", fresh);
    if (rc == 0 && link(path, old) != 0)
        rc = dha_fail_errno(e, errno, "cannot keep the damaged %s as %s", path, old);
    if (rc == 0) {
        rename(wal, old_wal); /* may not exist; must not be applied to the new file */
        unlink(shm);
        if (rename(fresh, path) != 0)
            rc = dha_fail_errno(e, errno, "cannot rename %s", fresh);
    }
out:
    free(shm);
    free(old_wal);
    free(wal);
    free(old);
    free(fresh);
    return rc;
}

int store_salvage_note(struct store *s, int64_t since_us, char *text, size_t size,
                       struct dha_err *e)
{
    text[0] = '\0';
    sqlite3_stmt *q = db_query(s, e,
                               "SELECT strftime('%Y-%m-%d %H:%M UTC', time_us / 1000000,"
                               " 'unixepoch'), reason FROM lost_found WHERE origin = 'state.db'"
                               " AND time_us >= ?1 ORDER BY id DESC LIMIT 1",
                               DB_I(since_us));
    int rc = q ? db_next(s, e, q) : -1;
    if (rc == 1) {
        snprintf(text, size, "%s/state.db was found damaged at %s: %s", s->dir,
                 (const char *)sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 1));
        db_reset(q);
    }
    return rc < 0 ? -1 : 0;
}
