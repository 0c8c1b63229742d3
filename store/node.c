#include <stdlib.h>
#include <string.h>

#include "store/db.h"

static int node_event(struct store *s, const char *type, const char *name, size_t n_slots,
                      int64_t now_us, struct dha_err *e)
{
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_str(data, "node", name);
    rc |= json_put_int(data, "slots", (int64_t)n_slots);
    if (rc != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    return event_json(s, type, 0, 0, 0, data, now_us, e);
}

/* A GPU keeps the number that it had; a new one gets the next. */
static int gpu_number(struct store *s, int64_t node, const char *uuid, int64_t *number,
                      struct dha_err *e)
{
    if (db_scalar(s, e,
                  db_query(s, e, "SELECT number FROM slot WHERE node = ?1 AND uuid = ?2",
                           DB_I(node), DB_S(uuid)),
                  -1, number) != 0)
        return -1;
    if (*number >= 0)
        return 0;
    return db_scalar(s, e,
                     db_query(s, e,
                              "SELECT coalesce(max(number) + 1, ?2) FROM slot"
                              " WHERE node = ?1 AND number >= ?2",
                              DB_I(node), DB_I(STORE_FIRST_GPU)),
                     STORE_FIRST_GPU, number);
}

static int put_slot(struct store *s, const struct store_new_node *n, int64_t node, int64_t *next,
                    const struct store_new_slot *slot, struct dha_err *e)
{
    int64_t number = *next;
    if (!slot->uuid)
        ++*next;
    else if (gpu_number(s, node, slot->uuid, &number, e) != 0)
        return -1;
    return db_run(
        s, e,
        "INSERT INTO slot(node, number, name, device, uuid, cores, memory)"
        " VALUES(?1, ?2, ?3 || ':' || CASE WHEN ?5 = '' THEN ?2 ELSE 'gpu' || (?2 - ?8) END,"
        " ?4, ?5, ?6, ?7)"
        " ON CONFLICT(node, number) DO UPDATE SET gone = 0, device = ?4, uuid = ?5, cores = ?6,"
        " memory = ?7",
        DB_I(node), DB_I(number), DB_S(n->name), DB_S(slot->device),
        DB_S(slot->uuid ? slot->uuid : ""), DB_S(slot->cores ? slot->cores : ""),
        DB_I(slot->memory), DB_I(STORE_FIRST_GPU));
}

static int put_node(struct store *s, const struct store_new_node *n, int64_t *id, struct dha_err *e)
{
    int64_t known, next = 0;
    if (db_scalar(s, e, db_query(s, e, "SELECT id FROM node WHERE name = ?1", DB_S(n->name)), 0,
                  &known) != 0 ||
        db_run(s, e,
               "INSERT INTO node(name, address) VALUES(?1, ?2)"
               " ON CONFLICT(name) DO UPDATE SET address = ?2, gone = 0",
               DB_S(n->name), DB_S(n->address ? n->address : "")) != 0)
        return -1;
    *id = known ? known : sqlite3_last_insert_rowid(s->db);
    /* One that is in use keeps its holder; as `gone` it takes no new one. */
    if (db_run(s, e, "UPDATE slot SET gone = 1 WHERE node = ?1", DB_I(*id)) != 0)
        return -1;
    for (size_t i = 0; i < n->n_slots; i++)
        if (put_slot(s, n, *id, &next, &n->slots[i], e) != 0)
            return -1;
    return node_event(s, known ? "node.register" : "node.new", n->name, n->n_slots, n->now_us, e);
}

int store_node_put(struct store *s, const struct store_new_node *n, int64_t *id, struct dha_err *e)
{
    struct db_mark m;
    *id = 0;
    if (n->name[0] == '\0')
        return dha_fail(e, DHA_E_USAGE, "a node needs a name");
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (put_node(s, n, id, e) != 0) {
        *id = 0;
        return db_undo(s, &m);
    }
    return db_keep(s, &m, e);
}

int store_node_register(struct store *s, const char *name, const char *device, int n_slots,
                        int64_t now_us, int64_t *id, struct dha_err *e)
{
    *id = 0;
    if (n_slots < 0)
        return dha_fail(e, DHA_E_USAGE, "a node needs a name and 0 or more slots");
    struct store_new_slot *slots = calloc((size_t)n_slots + 1, sizeof *slots);
    if (!slots)
        return db_no_memory(e);
    for (int i = 0; i < n_slots; i++)
        slots[i].device = device;
    struct store_new_node n = {
        .name = name, .slots = slots, .n_slots = (size_t)n_slots, .now_us = now_us};
    int rc = store_node_put(s, &n, id, e);
    free(slots);
    return rc;
}

static int remove_node(struct store *s, int64_t id, int64_t now_us, struct dha_err *e)
{
    char name[64] = "";
    if (db_run(s, e, "UPDATE node SET gone = 1 WHERE id = ?1 AND gone = 0", DB_I(id)) != 0)
        return -1;
    if (sqlite3_changes(s->db) == 0)
        return 0;
    sqlite3_stmt *q = db_query(s, e, "SELECT name FROM node WHERE id = ?1", DB_I(id));
    int rc = q ? db_next(s, e, q) : -1;
    if (rc < 0)
        return -1;
    if (rc == 1) {
        db_copy(q, 0, name, sizeof name);
        db_reset(q);
    }
    if (db_run(s, e, "UPDATE slot SET gone = 1 WHERE node = ?1", DB_I(id)) != 0)
        return -1;
    return node_event(s, "node.gone", name, 0, now_us, e);
}

int store_node_remove(struct store *s, int64_t id, int64_t now_us, struct dha_err *e)
{
    struct db_mark m;
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (remove_node(s, id, now_us, e) != 0)
        return db_undo(s, &m);
    return db_keep(s, &m, e);
}

int store_nodes(struct store *s, struct store_node **out, size_t *n, struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    sqlite3_stmt *q = db_query0(
        s, e,
        "SELECT id, name, drained, reason, address, gone FROM node WHERE gone = 0 OR EXISTS("
        " SELECT 1 FROM slot sl JOIN allocation al ON al.slot = sl.id AND al.until_us = 0"
        " WHERE sl.node = node.id) ORDER BY id");
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
        db_copy(q, 4, v->address, sizeof v->address);
        v->gone = sqlite3_column_int(q, 5);
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
        db_copy(q, 9, v->uuid, sizeof v->uuid);
        db_copy(q, 10, v->cores, sizeof v->cores);
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
                             " st.job, sl.memory, sl.uuid, sl.cores FROM slot sl"
                             " LEFT JOIN allocation al ON al.slot = sl.id AND al.until_us = 0"
                             " LEFT JOIN attempt a ON a.id = al.attempt"
                             " LEFT JOIN stage st ON st.id = a.stage"
                             " WHERE sl.gone = 0 OR al.id IS NOT NULL ORDER BY sl.node, sl.number"),
                   out, n, e);
}

/* ---- slots and who holds them, for the scheduler ---- */

static int by_slot(const void *pa, const void *pb)
{
    const struct slot_place *a = pa, *b = pb;
    return (a->slot > b->slot) - (a->slot < b->slot);
}

void slots_finish(struct store *s)
{
    free(s->slots.at);
    free(s->slots.gone);
    free(s->slots.places);
    s->slots = (struct slots){0};
}

/* What slots are changes with the nodes only: that much is kept (ready.c says why it cannot be stale). */
static int know_slots(struct store *s, struct dha_err *e)
{
    struct slots *l = &s->slots;
    if (l->known)
        return 0;
    slots_finish(s);
    sqlite3_stmt *q = db_query0(
        s, e, "SELECT id, node, device, memory, gone FROM slot ORDER BY node, number");
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        size_t n_places = l->n, n_gone = l->n;
        struct slot_place *place = db_grow(&l->places, &n_places, sizeof *place);
        bool *gone = place ? db_grow(&l->gone, &n_gone, sizeof *gone) : NULL;
        struct store_slot_held *v = gone ? db_grow(&l->at, &l->n, sizeof *v) : NULL;
        if (!v) {
            db_reset(q);
            return db_no_memory(e);
        }
        v->id = sqlite3_column_int64(q, 0);
        v->node = sqlite3_column_int64(q, 1);
        db_copy(q, 2, v->device, sizeof v->device);
        v->memory = sqlite3_column_int64(q, 3);
        *gone = sqlite3_column_int(q, 4);
        *place = (struct slot_place){v->id, l->n - 1};
    }
    if (rc == 0 && l->n)
        qsort(l->places, l->n, sizeof *l->places, by_slot);
    l->known = rc == 0;
    return rc;
}

/* Writes the holders beside all slots, in their order. */
static int set_holders(struct store *s, struct store_slot_held *all, struct dha_err *e)
{
    const struct slots *l = &s->slots;
    sqlite3_stmt *q = db_query0(
        s, e, "SELECT slot, attempt FROM allocation WHERE until_us = 0 ORDER BY slot");
    int rc = q ? 1 : -1;
    size_t k = 0;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        int64_t slot = sqlite3_column_int64(q, 0);
        while (k < l->n && l->places[k].slot < slot)
            k++;
        if (k < l->n && l->places[k].slot == slot)
            all[l->places[k].at].attempt = sqlite3_column_int64(q, 1);
    }
    return rc;
}

int store_slots_held(struct store *s, struct store_slot_held **out, size_t *n, struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    if (kept_check(s, e) != 0 || know_slots(s, e) != 0)
        return -1;
    struct store_slot_held *all = malloc((s->slots.n + 1) * sizeof *all);
    if (!all)
        return db_no_memory(e);
    if (s->slots.n)
        memcpy(all, s->slots.at, s->slots.n * sizeof *all);
    if (set_holders(s, all, e) != 0) {
        free(all);
        return -1;
    }
    for (size_t i = 0; i < s->slots.n; i++)
        if (!s->slots.gone[i] || all[i].attempt)
            all[(*n)++] = all[i];
    *out = all;
    return 0;
}

int store_slots_of_attempt(struct store *s, int64_t attempt, struct store_slot **out, size_t *n,
                           struct dha_err *e)
{
    return collect(s,
                   db_query(s, e,
                            "SELECT sl.id, sl.node, sl.number, sl.name, sl.device, a.id, a.stage,"
                            " st.job, sl.memory, sl.uuid, sl.cores FROM allocation al JOIN slot sl "
                            "ON sl.id = al.slot"
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
