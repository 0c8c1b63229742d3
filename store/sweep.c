#include <stdlib.h>
#include <string.h>

#include "store/db.h"

void store_sweep_finish(struct store_sweep *w)
{
    free(w->name);
    free(w->spec);
    free(w->skipped);
    memset(w, 0, sizeof *w);
}

void store_sweeps_finish(struct store_sweeps *l)
{
    for (size_t i = 0; i < l->n; i++)
        store_sweep_finish(&l->at[i]);
    free(l->at);
    memset(l, 0, sizeof *l);
}

/* *id = 0 if there is none. */
int store_sweep_find(struct store *s, int64_t owner_uid, const char *key, const char *name,
                     int64_t *id, struct dha_err *e)
{
    *id = 0;
    if (key &&
        db_scalar(s, e,
                  db_query(s, e, "SELECT sweep FROM sweep_key WHERE owner_uid = ?1 AND key = ?2",
                           DB_I(owner_uid), DB_S(key)),
                  0, id) != 0)
        return -1;
    if (*id || !name || !*name)
        return 0;
    return db_scalar(s, e,
                     db_query(s, e, "SELECT id FROM sweep WHERE owner_uid = ?1 AND name = ?2",
                              DB_I(owner_uid), DB_S(name)),
                     0, id);
}

static int insert(struct store *s, const struct store_new_sweep *w, int64_t *id, struct dha_err *e)
{
    if (db_run(
            s, e,
            "INSERT INTO sweep(owner_uid, name, spec, created_us, skipped, stop_dominated, margin)"
            " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            DB_I(w->owner_uid), DB_S(w->name), DB_S(w->spec), DB_I(w->now_us),
            DB_S(w->skipped ? w->skipped : "[]"), DB_I(w->stop_dominated), DB_D(w->margin)) != 0)
        return -1;
    *id = sqlite3_last_insert_rowid(s->db);
    if (w->idempotency_key &&
        db_run(s, e, "INSERT INTO sweep_key(owner_uid, key, sweep, time_us) VALUES(?1, ?2, ?3, ?4)",
               DB_I(w->owner_uid), DB_S(w->idempotency_key), DB_I(*id), DB_I(w->now_us)) != 0)
        return -1;
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_id(data, "sweep", *id);
    rc |= json_put_str(data, "name", w->name);
    if (rc != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    return event_json(s, "sweep.new", 0, 0, 0, data, w->now_us, e);
}

int store_sweep_new(struct store *s, const struct store_new_sweep *w, int64_t *id,
                    struct dha_err *e)
{
    struct db_mark m;
    int64_t other, sweep;
    *id = 0;
    if (store_sweep_find(s, w->owner_uid, NULL, w->name, &other, e) != 0)
        return -1;
    if (other)
        return dha_fail(e, DHA_E_CONFLICT, "sweep %lld has the name \"%s\" already",
                        (long long)other, w->name);
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (insert(s, w, &sweep, e) != 0)
        return db_undo(s, &m);
    if (db_keep(s, &m, e) != 0)
        return -1;
    *id = sweep;
    return 0;
}

#define SWEEP_COLUMNS "id, owner_uid, created_us, name, spec, skipped, stop_dominated, margin"

static int collect(struct store *s, sqlite3_stmt *q, struct store_sweeps *out, struct dha_err *e)
{
    memset(out, 0, sizeof *out);
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        struct store_sweep *w = db_grow(&out->at, &out->n, sizeof *w);
        bool ok = w != NULL;
        if (ok) {
            w->id = sqlite3_column_int64(q, 0);
            w->owner_uid = sqlite3_column_int64(q, 1);
            w->created_us = sqlite3_column_int64(q, 2);
            w->name = db_dup(q, 3, &ok);
            w->spec = db_dup(q, 4, &ok);
            w->skipped = db_dup(q, 5, &ok);
            w->stop_dominated = sqlite3_column_int(q, 6);
            w->margin = sqlite3_column_double(q, 7);
        }
        if (!ok) {
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
    }
    if (rc < 0)
        store_sweeps_finish(out);
    return rc;
}

int store_sweep_get(struct store *s, int64_t id, struct store_sweep *out, struct dha_err *e)
{
    struct store_sweeps l;
    memset(out, 0, sizeof *out);
    if (collect(s, db_query(s, e, "SELECT " SWEEP_COLUMNS " FROM sweep WHERE id = ?1", DB_I(id)),
                &l, e) != 0)
        return -1;
    if (l.n == 0)
        return dha_fail(e, DHA_E_NOT_FOUND, "there is no sweep %lld", (long long)id);
    *out = l.at[0];
    free(l.at);
    return 0;
}

int store_sweeps_list(struct store *s, const struct store_sweep_filter *f, struct store_sweeps *out,
                      struct dha_err *e)
{
    int limit = f->limit > 0 ? f->limit : 100;
    return collect(
        s,
        f->to_watch ? db_query(s, e,
                               "SELECT " SWEEP_COLUMNS " FROM sweep WHERE stop_dominated = 1"
                               " AND EXISTS(SELECT 1 FROM job WHERE job.sweep = sweep.id"
                               " AND job.state IN ('queued', 'held', 'running'))"
                               " ORDER BY id DESC LIMIT ?1",
                               DB_I(limit))
                    : db_query(s, e,
                               "SELECT " SWEEP_COLUMNS " FROM sweep WHERE (?2 IS NULL OR name = ?2)"
                               " AND (?3 = 0 OR id < ?3) ORDER BY id DESC LIMIT ?1",
                               DB_I(limit), DB_S(f->name), DB_I(f->before)),
        out, e);
}
