/* metric.c: metrics.db. Points are worth less than state: a failure here is said once and costs points, never a
 * state change. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/db.h"

/* *sound = false if the file opened but is damaged. */
static int open_file(struct store *s, const char *path, bool *sound, struct dha_err *e)
{
    int rc = sqlite3_open_v2(path, &s->metrics, DB_OPEN, NULL);
    *sound = false;
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(s->metrics,
                          "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                          "PRAGMA busy_timeout=5000; PRAGMA temp_store=MEMORY",
                          NULL, NULL, NULL);
    if (db_is_damage(rc))
        return 0;
    if (rc != SQLITE_OK)
        return db_fail(s, s->metrics, e, "opening metrics.db");
    if (db_check(s->metrics, sound, e) != 0)
        return dha_err_context(e, "metrics.db");
    struct dha_err why = {0};
    if (!*sound || schema_migrate(s, s->metrics, DB_METRICS, path, &why) == 0)
        return 0;
    if (why.code == DHA_E_INPUT) { /* its head says that it is something else */
        *sound = false;
        return 0;
    }
    if (e)
        *e = why;
    return -1;
}

/* A metrics.db that is damaged is put aside under another name and begun anew: nothing depends on it. One that cannot be
 * read now is left alone, and the store is not opened. */
int metric_open(struct store *s, struct dha_err *e)
{
    char *path = NULL, *aside = NULL, *wal = NULL, *shm = NULL;
    bool sound;
    int rc = -1;
    if (asprintf(&path, "%s/metrics.db", s->dir) < 0 || asprintf(&wal, "%s-wal", path) < 0 ||
        asprintf(&shm, "%s-shm", path) < 0 ||
        asprintf(&aside, "%s.damaged-%lld", path, (long long)s->now_us) < 0) {
        db_no_memory(e);
        goto out;
    }
    rc = open_file(s, path, &sound, e);
    if (rc != 0 || sound)
        goto out;
    sqlite3_close(s->metrics);
    s->metrics = NULL;
    unlink(wal); /* it belongs to the damaged file and would be applied to the new one */
    unlink(shm);
    rename(path, aside);
    rc = open_file(s, path, &sound, e);
    if (rc == 0 && !sound)
        rc = dha_fail(e, DHA_E_IO, "%s is damaged and could not be begun anew", path);
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

static int begin(struct store *s, struct dha_err *e)
{
    if (!s->metrics_open &&
        db_run_args(s, s->metrics, e, "BEGIN IMMEDIATE -- metrics", NULL, 0) != 0)
        return -1;
    s->metrics_open = true;
    return 0;
}

void metric_add(struct store *s, int64_t attempt, const char *name, int64_t step, int64_t tokens,
                double value)
{
    struct dha_err e;
    if (!s->metrics)
        return;
    if (begin(s, &e) != 0) {
        s->metrics_failed = true;
        return;
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

/* ---- thinning ---- */

int store_metric_series(struct store *s, int64_t job, struct store_long_series **out, size_t *n,
                        struct dha_err *e)
{
    struct store_stages stages;
    int rc = store_stages_of_job(s, job, &stages, e);
    *out = NULL;
    *n = 0;
    for (size_t i = 0; rc == 0 && i < stages.n; i++) {
        struct store_attempts attempts;
        rc = store_attempts_of_stage(s, stages.at[i].id, &attempts, e);
        for (size_t k = 0; rc == 0 && k < attempts.n; k++) {
            sqlite3_stmt *q = db_query_args(s, s->metrics, e,
                                            "SELECT name, count(*) FROM metric WHERE attempt = ?1"
                                            " GROUP BY name",
                                            DB_ARGS_(DB_I(attempts.at[k].id)), 1);
            rc = q ? 1 : -1;
            while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
                struct store_long_series *p = db_grow(out, n, sizeof *p);
                if (!p) {
                    db_reset(q);
                    rc = db_no_memory(e);
                    break;
                }
                p->attempt = attempts.at[k].id;
                db_copy(q, 0, p->name, sizeof p->name);
                p->points = sqlite3_column_int64(q, 1);
            }
        }
        store_attempts_finish(&attempts);
    }
    store_stages_finish(&stages);
    if (rc != 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

int store_metrics_count(struct store *s, int64_t job, int buckets, int64_t *points,
                        int64_t *thinned, struct dha_err *e)
{
    struct store_long_series *l;
    size_t n;
    *points = *thinned = 0;
    if (store_metric_series(s, job, &l, &n, e) != 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        *points += l[i].points;
        *thinned += l[i].points < 4 * buckets ? l[i].points : 4 * buckets;
    }
    free(l);
    return 0;
}

#define OF_BUCKET " FROM metric WHERE attempt = ?1 AND name = ?2 AND step BETWEEN ?3 AND ?4"

/* One range of steps. */
static int thin_bucket(struct store *s, int64_t attempt, const char *name, int64_t from, int64_t to,
                       int64_t *gone, struct dha_err *e)
{
    /* a bare column beside min() or max() is that row's (SQLite) */
    if (db_run_args(s, s->metrics, e,
                    "DELETE" OF_BUCKET " AND step NOT IN ("
                    "SELECT min(step)" OF_BUCKET " UNION SELECT max(step)" OF_BUCKET
                    " UNION SELECT step FROM (SELECT step, min(value)" OF_BUCKET ")"
                    " UNION SELECT step FROM (SELECT step, max(value)" OF_BUCKET "))",
                    DB_ARGS_(DB_I(attempt), DB_S(name), DB_I(from), DB_I(to)), 4) != 0)
        return -1;
    *gone += sqlite3_changes(s->metrics);
    return 0;
}

int store_metric_thin(struct store *s, const struct store_long_series *p, int buckets, int *bucket,
                      int64_t most, int64_t *gone, struct dha_err *e)
{
    struct db_arg of[] = {DB_I(p->attempt), DB_S(p->name)};
    int64_t lo, hi;
    *gone = 0;
    if (db_scalar(s, e,
                  db_query_args(s, s->metrics, e,
                                "SELECT min(step) FROM metric WHERE attempt = ?1 AND name = ?2", of,
                                2),
                  0, &lo) != 0 ||
        db_scalar(s, e,
                  db_query_args(s, s->metrics, e,
                                "SELECT max(step) FROM metric WHERE attempt = ?1 AND name = ?2", of,
                                2),
                  0, &hi) != 0 ||
        /* the state's turn, too: metrics are committed with it */
        store_begin(s, e) != 0 || begin(s, e) != 0)
        return -1;
    /* First and last step stay, so the ranges are the same the next time. Unsigned: steps may be anything. */
    uint64_t span = (uint64_t)hi - (uint64_t)lo, width = span / (uint64_t)buckets + 1;
    for (; *bucket < buckets && *gone < most; ++*bucket) {
        uint64_t from = (uint64_t)*bucket * width, to = from + width - 1;
        if (from > span) {
            *bucket = buckets;
            break;
        }
        to = to > span ? span : to;
        if (thin_bucket(s, p->attempt, p->name, (int64_t)((uint64_t)lo + from),
                        (int64_t)((uint64_t)lo + to), gone, e) != 0)
            return -1;
    }
    return 0;
}

int store_metrics_thin(struct store *s, int64_t job, int buckets, int64_t now_us, int64_t *before,
                       int64_t *after, struct dha_err *e)
{
    struct store_long_series *l;
    size_t n;
    int64_t gone = 0;
    *before = *after = 0;
    if (store_metric_series(s, job, &l, &n, e) != 0)
        return -1;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        int bucket = 0;
        int64_t went = 0;
        *before += l[i].points;
        if (l[i].points > 4 * buckets)
            rc = store_metric_thin(s, &l[i], buckets, &bucket, INT64_MAX, &went, e);
        gone += went;
    }
    free(l);
    *after = *before - gone;
    if (rc != 0 || gone == 0)
        return rc;
    cJSON *data = cJSON_CreateObject();
    if ((json_put_int(data, "before", *before) | json_put_int(data, "after", *after)) != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    return event_json(s, "metrics.thin", job, 0, 0, data, now_us, e);
}
