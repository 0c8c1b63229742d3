#include <stdlib.h>
#include <string.h>

#include "store/db.h"

static int register_node(struct store *s, const char *name, const char *device, int n_slots,
                         int64_t now_us, int64_t *id, struct dha_err *e)
{
    if (db_run(s, e, "INSERT INTO node(name) VALUES(?1) ON CONFLICT(name) DO NOTHING",
               DB_S(name)) != 0)
        return -1;
    bool added = sqlite3_changes(s->db) == 1;
    if (db_scalar(s, e, db_query(s, e, "SELECT id FROM node WHERE name = ?1", DB_S(name)), 0, id) !=
        0)
        return -1;
    for (int i = 0; i < n_slots; i++)
        if (db_run(
                s, e,
                "INSERT INTO slot(node, number, name, device) VALUES(?1, ?2, ?3 || ':' || ?2, ?4)"
                " ON CONFLICT(node, number) DO UPDATE SET gone = 0, device = ?4",
                DB_I(*id), DB_I(i), DB_S(name), DB_S(device)) != 0)
            return -1;
    /* One that is in use keeps its holder; as `gone` it takes no new one. */
    if (db_run(s, e, "UPDATE slot SET gone = 1 WHERE node = ?1 AND number >= ?2", DB_I(*id),
               DB_I(n_slots)) != 0)
        return -1;
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_str(data, "node", name);
    rc |= json_put_int(data, "slots", n_slots);
    if (rc != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    return event_json(s, added ? "node.new" : "node.register", 0, 0, 0, data, now_us, e);
}

int store_node_register(struct store *s, const char *name, const char *device, int n_slots,
                        int64_t now_us, int64_t *id, struct dha_err *e)
{
    struct db_mark m;
    *id = 0;
    if (n_slots < 0 || name[0] == '\0')
        return dha_fail(e, DHA_E_USAGE, "a node needs a name and 0 or more slots");
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (register_node(s, name, device, n_slots, now_us, id, e) != 0)
        return db_undo(s, &m);
    return db_keep(s, &m, e);
}

int store_nodes(struct store *s, struct store_node **out, size_t *n, struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    sqlite3_stmt *q = db_query0(s, e, "SELECT id, name, drained, reason FROM node ORDER BY id");
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        struct store_node *v = db_grow(out, n, sizeof *v);
        if (!v) {
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
        v->id = sqlite3_column_int64(q, 0);
        db_copy(q, 1, v->name, sizeof v->name);
        v->drained = sqlite3_column_int(q, 2);
        db_copy(q, 3, v->reason, sizeof v->reason);
    }
    if (rc < 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

static int collect(struct store *s, sqlite3_stmt *q, struct store_slot **out, size_t *n,
                   struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        struct store_slot *v = db_grow(out, n, sizeof *v);
        if (!v) {
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
        v->id = sqlite3_column_int64(q, 0);
        v->node = sqlite3_column_int64(q, 1);
        v->number = sqlite3_column_int(q, 2);
        db_copy(q, 3, v->name, sizeof v->name);
        db_copy(q, 4, v->device, sizeof v->device);
        v->attempt = sqlite3_column_int64(q, 5);
        v->stage = sqlite3_column_int64(q, 6);
        v->job = sqlite3_column_int64(q, 7);
        v->memory = sqlite3_column_int64(q, 8);
    }
    if (rc < 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

int store_slots(struct store *s, struct store_slot **out, size_t *n, struct dha_err *e)
{
    return collect(s,
                   db_query0(s, e,
                             "SELECT sl.id, sl.node, sl.number, sl.name, sl.device, a.id, a.stage,"
                             " st.job, sl.memory FROM slot sl"
                             " LEFT JOIN allocation al ON al.slot = sl.id AND al.until_us = 0"
                             " LEFT JOIN attempt a ON a.id = al.attempt"
                             " LEFT JOIN stage st ON st.id = a.stage"
                             " WHERE sl.gone = 0 OR al.id IS NOT NULL ORDER BY sl.node, sl.number"),
                   out, n, e);
}

int store_slots_of_attempt(struct store *s, int64_t attempt, struct store_slot **out, size_t *n,
                           struct dha_err *e)
{
    return collect(s,
                   db_query(s, e,
                            "SELECT sl.id, sl.node, sl.number, sl.name, sl.device, a.id, a.stage,"
                            " st.job, sl.memory FROM allocation al JOIN slot sl ON sl.id = al.slot"
                            " JOIN attempt a ON a.id = al.attempt JOIN stage st ON st.id = a.stage"
                            " WHERE al.attempt = ?1 ORDER BY sl.node, sl.number",
                            DB_I(attempt)),
                   out, n, e);
}

static int set_drained(struct store *s, const char *name, bool drained, const char *reason,
                       int64_t now_us, struct dha_err *e)
{
    struct db_mark m;
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (db_run(s, e, "UPDATE node SET drained = ?2, reason = ?3 WHERE name = ?1", DB_S(name),
               DB_I(drained), DB_S(reason)) != 0)
        return db_undo(s, &m);
    if (sqlite3_changes(s->db) != 1) {
        dha_fail(e, DHA_E_NOT_FOUND, "there is no node \"%.60s\"", name);
        return db_undo(s, &m);
    }
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_str(data, "node", name);
    rc |= json_put_str(data, "reason", reason);
    if (rc != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    if (event_json(s, drained ? "node.drain" : "node.resume", 0, 0, 0, data, now_us, e) != 0)
        return db_undo(s, &m);
    return db_keep(s, &m, e);
}

int store_node_drain(struct store *s, const char *name, const char *reason, int64_t now_us,
                     struct dha_err *e)
{
    return set_drained(s, name, true, reason ? reason : "", now_us, e);
}

int store_node_resume(struct store *s, const char *name, int64_t now_us, struct dha_err *e)
{
    return set_drained(s, name, false, "", now_us, e);
}
