/* metric.c: metrics.db. Points are worth less than state: a failure here is said once and costs points, never a
 * state change. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/db.h"

static int open_file(struct store *s, const char *path, struct dha_err *e)
{
    if (sqlite3_open_v2(path, &s->metrics, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) !=
            SQLITE_OK ||
        sqlite3_exec(s->metrics,
                     "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=5000;"
                     "PRAGMA temp_store=MEMORY",
                     NULL, NULL, NULL) != SQLITE_OK)
        return db_fail(s, s->metrics, e, "opening metrics.db");
    return schema_migrate(s, s->metrics, DB_METRICS, path, e);
}

static bool sound(sqlite3 *db)
{
    sqlite3_stmt *st = NULL;
    bool ok = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL) == SQLITE_OK &&
              sqlite3_step(st) == SQLITE_ROW &&
              strcmp((const char *)sqlite3_column_text(st, 0), "ok") == 0;
    sqlite3_finalize(st);
    return ok;
}

/* A metrics.db that is damaged is put aside under another name and begun anew: nothing depends on it. */
int metric_open(struct store *s, struct dha_err *e)
{
    char *path = NULL, *aside = NULL, *wal = NULL, *shm = NULL;
    int rc = -1;
    if (asprintf(&path, "%s/metrics.db", s->dir) < 0 || asprintf(&wal, "%s-wal", path) < 0 ||
        asprintf(&shm, "%s-shm", path) < 0 ||
        asprintf(&aside, "%s.damaged-%lld", path, (long long)s->now_us) < 0) {
        db_no_memory(e);
        goto out;
    }
    struct dha_err first = {0};
    rc = open_file(s, path, &first);
    if (rc == 0 && sound(s->metrics))
        goto out;
    if (rc != 0 && first.code == DHA_E_VERSION) {
        if (e)
            *e = first;
        goto out;
    }
    sqlite3_close(s->metrics);
    s->metrics = NULL;
    unlink(wal); /* it belongs to the damaged file and would be applied to the new one */
    unlink(shm);
    rename(path, aside);
    rc = open_file(s, path, e);
    if (rc == 0)
        rc = store_lost_found_add(s, aside, NULL, 0, "metrics.db was damaged; begun anew",
                                  s->now_us, e);
out:
    free(shm);
    free(aside);
    free(wal);
    free(path);
    return rc;
}

void metric_add(struct store *s, int64_t attempt, const char *name, int64_t step, int64_t tokens,
                double value)
{
    struct dha_err e;
    if (!s->metrics)
        return;
    if (!s->metrics_open) {
        if (db_run_args(s, s->metrics, &e, "BEGIN IMMEDIATE -- metrics", NULL, 0) != 0) {
            s->metrics_failed = true;
            return;
        }
        s->metrics_open = true;
    }
    if (db_run_args(s, s->metrics, &e,
                    "INSERT OR REPLACE INTO metric(attempt, name, step, tokens, value)"
                    " VALUES(?1, ?2, ?3, ?4, ?5)",
                    DB_ARGS_(DB_I(attempt), DB_S(name), DB_I(step), DB_I(tokens), DB_D(value)),
                    5) != 0)
        s->metrics_failed = true;
}

void metric_commit(struct store *s)
{
    struct dha_err e;
    if (s->metrics_open && db_run_args(s, s->metrics, &e, "COMMIT -- metrics", NULL, 0) != 0) {
        s->metrics_failed = true;
        metric_rollback(s);
    }
    s->metrics_open = false;
    if (s->metrics_failed) {
        /* said in the log of the very turn that lost them, once */
        store_event_add(s, "store.metrics_lost", 0, 0, 0, NULL, s->now_us, NULL, NULL);
        s->metrics_failed = false;
    }
}

void metric_rollback(struct store *s)
{
    if (s->metrics_open && !sqlite3_get_autocommit(s->metrics))
        sqlite3_exec(s->metrics, "ROLLBACK", NULL, NULL, NULL);
    s->metrics_open = false;
}

int store_metrics(struct store *s, const struct store_metric_query *q, struct store_point **out,
                  size_t *n, struct dha_err *e)
{
    struct store_attempts attempts;
    int64_t left = q->limit > 0 ? q->limit : 10000;
    *out = NULL;
    *n = 0;
    if (store_attempts_of_stage(s, q->stage, &attempts, e) != 0)
        return -1;
    int rc = 0;
    for (size_t i = 0; i < attempts.n && rc == 0 && left > 0; i++) {
        sqlite3_stmt *st = db_query_args(
            s, s->metrics, e,
            "SELECT step, tokens, name, value FROM metric"
            " WHERE attempt = ?1 AND (?2 IS NULL OR name = ?2) AND step > ?3"
            " ORDER BY name, step LIMIT ?4",
            DB_ARGS_(DB_I(attempts.at[i].id), DB_S(q->name), DB_I(q->after_step), DB_I(left)), 4);
        rc = st ? 0 : -1;
        while (rc == 0 && (rc = db_next(s, e, st)) == 1) {
            struct store_point *p = db_grow(out, n, sizeof *p);
            if (!p) {
                db_reset(st);
                rc = db_no_memory(e);
                break;
            }
            p->stage = q->stage;
            p->attempt = attempts.at[i].number;
            p->step = sqlite3_column_int64(st, 0);
            p->tokens = sqlite3_column_int64(st, 1);
            db_copy(st, 2, p->name, sizeof p->name);
            p->value = db_real(st, 3);
            left--;
            rc = 0;
        }
    }
    store_attempts_finish(&attempts);
    if (rc != 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

int store_metric_names(struct store *s, int64_t stage, struct store_series **out, size_t *n,
                       struct dha_err *e)
{
    struct store_attempts attempts;
    *out = NULL;
    *n = 0;
    if (store_attempts_of_stage(s, stage, &attempts, e) != 0)
        return -1;
    int rc = 0;
    for (size_t i = 0; i < attempts.n && rc == 0; i++) {
        /* a bare column beside max() is that row's (SQLite) */
        sqlite3_stmt *st = db_query_args(s, s->metrics, e,
                                         "SELECT name, count(*), max(step), value FROM metric"
                                         " WHERE attempt = ?1 GROUP BY name ORDER BY name",
                                         DB_ARGS_(DB_I(attempts.at[i].id)), 1);
        rc = st ? 0 : -1;
        while (rc == 0 && (rc = db_next(s, e, st)) == 1) {
            char name[sizeof(*out)->name];
            size_t k = 0;
            db_copy(st, 0, name, sizeof name);
            while (k < *n && strcmp((*out)[k].name, name) != 0)
                k++;
            struct store_series *p = k < *n ? &(*out)[k] : db_grow(out, n, sizeof *p);
            if (!p) {
                db_reset(st);
                rc = db_no_memory(e);
                break;
            }
            memcpy(p->name, name, sizeof name);
            p->points += sqlite3_column_int64(st, 1);
            p->last_step = sqlite3_column_int64(st, 2);
            p->last = db_real(st, 3);
            rc = 0;
        }
    }
    store_attempts_finish(&attempts);
    if (rc != 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}
