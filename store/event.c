#include <stdlib.h>
#include <string.h>

#include "store/db.h"

int store_event_add(struct store *s, const char *type, int64_t job, int64_t stage, int attempt,
                    const char *data, int64_t now_us, int64_t *seq, struct dha_err *e)
{
    if (store_begin(s, e) != 0 ||
        db_run(s, e,
               "INSERT INTO event(time_us, type, job, stage, attempt, data)"
               " VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
               DB_I(now_us), DB_S(type), DB_ID(job), DB_ID(stage), DB_I(attempt),
               DB_S(data ? data : "{}")) != 0)
        return -1;
    s->event_seq = sqlite3_last_insert_rowid(s->db);
    s->now_us = now_us;
    if (seq)
        *seq = s->event_seq;
    return 0;
}

void store_set_actor(struct store *s, int64_t uid)
{
    s->actor = uid;
}

int event_json(struct store *s, const char *type, int64_t job, int64_t stage, int attempt,
               cJSON *json, int64_t now_us, struct dha_err *e)
{
    if (s->actor != STORE_NO_ACTOR && json_put_id(json, "by", s->actor) != 0) {
        cJSON_Delete(json);
        return db_no_memory(e);
    }
    char *text = json ? json_text(json) : NULL;
    cJSON_Delete(json);
    if (!text)
        return db_no_memory(e);
    int rc = store_event_add(s, type, job, stage, attempt, text, now_us, NULL, e);
    free(text);
    return rc;
}

int event_move(struct store *s, const char *type, int64_t job, int64_t stage, int attempt,
               const char *from, const char *to, const char *reason, int64_t now_us,
               struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject();
    if ((from && json_put_str(j, "from", from) != 0) || (to && json_put_str(j, "to", to) != 0) ||
        (reason && json_put_str(j, "reason", reason) != 0)) {
        cJSON_Delete(j);
        return db_no_memory(e);
    }
    return event_json(s, type, job, stage, attempt, j, now_us, e);
}

void store_events_finish(struct store_events *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->at[i].data);
    free(l->at);
    memset(l, 0, sizeof *l);
}

int store_events_list(struct store *s, int64_t after, int limit, struct store_events *out,
                      struct dha_err *e)
{
    memset(out, 0, sizeof *out);
    sqlite3_stmt *st = db_query(s, e,
                                "SELECT seq, time_us, job, stage, attempt, type, data FROM event"
                                " WHERE seq > ?1 ORDER BY seq LIMIT ?2",
                                DB_I(after), DB_I(limit > 0 ? limit : 1000));
    if (!st)
        return -1;
    int rc;
    while ((rc = db_next(s, e, st)) == 1) {
        struct store_event *v = db_grow(&out->at, &out->n, sizeof *v);
        bool ok = v != NULL;
        if (ok) {
            v->seq = sqlite3_column_int64(st, 0);
            v->time_us = sqlite3_column_int64(st, 1);
            v->job = sqlite3_column_int64(st, 2);
            v->stage = sqlite3_column_int64(st, 3);
            v->attempt = sqlite3_column_int(st, 4);
            db_copy(st, 5, v->type, sizeof v->type);
            v->data = db_dup(st, 6, &ok);
        }
        if (!ok) {
            db_reset(st);
            rc = db_no_memory(e);
            break;
        }
    }
    if (rc < 0)
        store_events_finish(out);
    return rc;
}

int64_t store_event_last(const struct store *s)
{
    return s->event_committed;
}

/* ---- outbox ---- */

void store_actions_finish(struct store_actions *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->at[i].args);
    free(l->at);
    memset(l, 0, sizeof *l);
}

int store_outbox_add(struct store *s, const char *action, int64_t job, int64_t stage, int attempt,
                     const char *args, int64_t now_us, struct dha_err *e)
{
    if (store_begin(s, e) != 0)
        return -1;
    return db_run(s, e,
                  "INSERT INTO outbox(action, job, stage, attempt, args, created_us)"
                  " VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
                  DB_S(action), DB_ID(job), DB_ID(stage), DB_I(attempt), DB_S(args ? args : "{}"),
                  DB_I(now_us));
}

int store_outbox_list(struct store *s, struct store_actions *out, struct dha_err *e)
{
    memset(out, 0, sizeof *out);
    sqlite3_stmt *st = db_query0(s, e,
                                 "SELECT id, job, stage, created_us, attempt, action, args"
                                 " FROM outbox ORDER BY id");
    if (!st)
        return -1;
    int rc;
    while ((rc = db_next(s, e, st)) == 1) {
        struct store_action *a = db_grow(&out->at, &out->n, sizeof *a);
        bool ok = a != NULL;
        if (ok) {
            a->id = sqlite3_column_int64(st, 0);
            a->job = sqlite3_column_int64(st, 1);
            a->stage = sqlite3_column_int64(st, 2);
            a->created_us = sqlite3_column_int64(st, 3);
            a->attempt = sqlite3_column_int(st, 4);
            db_copy(st, 5, a->action, sizeof a->action);
            a->args = db_dup(st, 6, &ok);
        }
        if (!ok) {
            db_reset(st);
            rc = db_no_memory(e);
            break;
        }
    }
    if (rc < 0)
        store_actions_finish(out);
    return rc;
}

int store_outbox_delete(struct store *s, int64_t id, struct dha_err *e)
{
    if (store_begin(s, e) != 0)
        return -1;
    return db_run(s, e, "DELETE FROM outbox WHERE id = ?1", DB_I(id));
}
