#include <stdlib.h>
#include <string.h>

#include "store/db.h"

void store_sweep_finish(struct store_sweep *w)
{
    free(w->name);
    free(w->spec);
    memset(w, 0, sizeof *w);
}

void store_sweeps_finish(struct store_sweeps *l)
{
    for (size_t i = 0; i < l->n; i++)
        store_sweep_finish(&l->at[i]);
    free(l->at);
    memset(l, 0, sizeof *l);
}

int store_sweep_new(struct store *s, const char *name, const char *spec, int64_t owner_uid,
                    int64_t now_us, int64_t *id, struct dha_err *e)
{
    struct db_mark m;
    *id = 0;
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (db_run(s, e, "INSERT INTO sweep(owner_uid, name, spec, created_us) VALUES(?1, ?2, ?3, ?4)",
               DB_I(owner_uid), DB_S(name), DB_S(spec), DB_I(now_us)) != 0)
        return db_undo(s, &m);
    int64_t sweep = sqlite3_last_insert_rowid(s->db);
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_id(data, "sweep", sweep);
    rc |= json_put_str(data, "name", name);
    if (rc != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    if (event_json(s, "sweep.new", 0, 0, 0, data, now_us, e) != 0)
        return db_undo(s, &m);
    if (db_keep(s, &m, e) != 0)
        return -1;
    *id = sweep;
    return 0;
}

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
    if (collect(s,
                db_query(s, e,
                         "SELECT id, owner_uid, created_us, name, spec FROM sweep WHERE id = ?1",
                         DB_I(id)),
                &l, e) != 0)
        return -1;
    if (l.n == 0)
        return dha_fail(e, DHA_E_NOT_FOUND, "there is no sweep %lld", (long long)id);
    *out = l.at[0];
    free(l.at);
    return 0;
}

int store_sweeps_list(struct store *s, int limit, struct store_sweeps *out, struct dha_err *e)
{
    return collect(s,
                   db_query(s, e,
                            "SELECT id, owner_uid, created_us, name, spec FROM sweep"
                            " ORDER BY id DESC LIMIT ?1",
                            DB_I(limit > 0 ? limit : 100)),
                   out, e);
}
