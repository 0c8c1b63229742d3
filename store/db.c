#include "store/db.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

int db_no_memory(struct dha_err *e)
{
    return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static enum dha_code code_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_FULL: return DHA_E_NO_SPACE;
    case SQLITE_NOMEM: return DHA_E_NO_MEMORY;
    case SQLITE_IOERR:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY: return DHA_E_IO;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return DHA_E_TRANSIENT;
    case SQLITE_CONSTRAINT: return DHA_E_CONFLICT;
    default: return DHA_E_INTERNAL;
    }
}

int db_fail(struct store *s, sqlite3 *db, struct dha_err *e, const char *what)
{
    int rc = sqlite3_extended_errcode(db);
    enum dha_code code = code_of(rc);
    /* after FULL, IOERR and their like SQLite has already rolled back: the turn is gone */
    if (db == s->db && s->open && sqlite3_get_autocommit(db)) {
        s->open = false;
        s->lost = true;
        metric_rollback(s);
        s->event_seq = s->event_committed;
        queue_forget(s);
        kept_forget(s);
    }
    dha_fail(e, code, "state database, %.80s: %s", what, sqlite3_errmsg(db));
    if (code == DHA_E_NO_SPACE)
        dha_err_hint_space(e, s->dir);
    return -1;
}

bool db_is_damage(int rc)
{
    return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB;
}

static int quick_check(sqlite3 *db, bool *sound)
{
    sqlite3_stmt *st = NULL;
    *sound = false;
    int rc = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(st, 0);
        *sound = text && strcmp(text, "ok") == 0;
        rc = text ? SQLITE_OK : SQLITE_NOMEM;
    }
    sqlite3_finalize(st);
    return rc;
}

/* Every byte through SQLite's own file layer. */
static int read_through(sqlite3 *db)
{
    static char page[1 << 16];
    sqlite3_file *f = NULL;
    sqlite3_int64 size = 0;
    int rc = sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &f);
    if (rc != SQLITE_OK || !f || !f->pMethods)
        return rc;
    rc = f->pMethods->xFileSize(f, &size);
    for (sqlite3_int64 at = 0; rc == SQLITE_OK && at < size; at += (int)sizeof page) {
        sqlite3_int64 n = size - at < (int)sizeof page ? size - at : (int)sizeof page;
        rc = f->pMethods->xRead(f, page, (int)n, at);
    }
    return rc == SQLITE_IOERR_SHORT_READ ? SQLITE_OK : rc;
}

/* The check reports a page that the disk did not give as a page that is damaged: so a second opinion. */
int db_check(sqlite3 *db, bool *sound, struct dha_err *e)
{
    int rc = quick_check(db, sound);
    if (rc == SQLITE_OK && !*sound && (rc = read_through(db)) == SQLITE_OK)
        rc = quick_check(db, sound);
    if (rc == SQLITE_OK || db_is_damage(rc))
        return 0;
    return dha_fail(e, code_of(rc), "state database, checking it: %s", sqlite3_errstr(rc));
}

/* The literal's address is the key: SQL is never built at run time. */
static sqlite3_stmt *cached(struct store *s, sqlite3 *db, const char *sql, struct dha_err *e)
{
    size_t h = ((uintptr_t)sql * UINT64_C(0x9e3779b97f4a7c15)) >> 40;
    for (size_t i = 0; i < DB_CACHE; i++) {
        size_t at = (h + i) & (DB_CACHE - 1);
        if (s->cache[at].sql == sql)
            return s->cache[at].st;
        if (s->cache[at].sql)
            continue;
        sqlite3_stmt *st = NULL;
        if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL) != SQLITE_OK) {
            db_fail(s, db, e, sql);
            return NULL;
        }
        s->cache[at].sql = sql;
        s->cache[at].st = st;
        return st;
    }
    dha_fail(e, DHA_E_INTERNAL, "state database: the statement cache is full");
    return NULL;
}

static int bind(sqlite3_stmt *st, const struct db_arg *args, size_t n, void (*keep)(void *))
{
    int rc = SQLITE_OK;
    for (size_t i = 0; i < n && rc == SQLITE_OK; i++) {
        int at = (int)i + 1;
        const struct db_arg *a = &args[i];
        switch (a->type) {
        case DB_NULL_: rc = sqlite3_bind_null(st, at); break;
        case DB_INT_: rc = sqlite3_bind_int64(st, at, a->i); break;
        case DB_REAL_: rc = sqlite3_bind_double(st, at, a->d); break;
        case DB_TEXT_: rc = sqlite3_bind_text(st, at, a->s, -1, keep); break;
        case DB_BLOB_: rc = sqlite3_bind_blob64(st, at, a->s ? a->s : "", a->len, keep); break;
        }
    }
    return rc;
}

sqlite3_stmt *db_query_args(struct store *s, sqlite3 *db, struct dha_err *e, const char *sql,
                            const struct db_arg *args, size_t n)
{
    sqlite3_stmt *st = cached(s, db, sql, e);
    if (!st)
        return NULL;
    if (bind(st, args, n, SQLITE_TRANSIENT) != SQLITE_OK) {
        db_fail(s, db, e, sql);
        db_reset(st);
        return NULL;
    }
    return st;
}

int db_run_args(struct store *s, sqlite3 *db, struct dha_err *e, const char *sql,
                const struct db_arg *args, size_t n)
{
    sqlite3_stmt *st = cached(s, db, sql, e);
    if (!st)
        return -1;
    int rc = bind(st, args, n, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        while ((rc = sqlite3_step(st)) == SQLITE_ROW)
            ;
    if (rc != SQLITE_DONE && rc != SQLITE_OK) {
        db_fail(s, db, e, sql);
        db_reset(st);
        return -1;
    }
    db_reset(st);
    return 0;
}

int db_next(struct store *s, struct dha_err *e, sqlite3_stmt *st)
{
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        return 1;
    if (rc != SQLITE_DONE)
        db_fail(s, sqlite3_db_handle(st), e, sqlite3_sql(st));
    db_reset(st);
    return rc == SQLITE_DONE ? 0 : -1;
}

void db_reset(sqlite3_stmt *st)
{
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
}

int db_scalar(struct store *s, struct dha_err *e, sqlite3_stmt *st, int64_t none, int64_t *out)
{
    if (!st)
        return -1;
    int rc = db_next(s, e, st);
    if (rc < 0)
        return -1;
    *out = rc ? sqlite3_column_int64(st, 0) : none;
    if (rc)
        db_reset(st);
    return 0;
}

int db_ids(struct store *s, struct dha_err *e, sqlite3_stmt *st, int64_t **out, size_t *n)
{
    *out = NULL;
    *n = 0;
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, st)) == 1) {
        int64_t *id = db_grow(out, n, sizeof *id);
        if (!id) {
            db_reset(st);
            rc = db_no_memory(e);
            break;
        }
        *id = sqlite3_column_int64(st, 0);
    }
    if (rc < 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

char *db_dup(sqlite3_stmt *st, int col, bool *ok)
{
    const char *text = (const char *)sqlite3_column_text(st, col);
    if (!text) {
        if (sqlite3_column_type(st, col) != SQLITE_NULL)
            *ok = false;
        return NULL;
    }
    char *copy = strdup(text);
    if (!copy)
        *ok = false;
    return copy;
}

void db_copy(sqlite3_stmt *st, int col, char *buf, size_t cap)
{
    const char *text = (const char *)sqlite3_column_text(st, col);
    size_t n = text ? strlen(text) : 0;
    if (n >= cap)
        n = cap - 1;
    if (n)
        memcpy(buf, text, n);
    buf[n] = '\0';
    text_trim_utf8(buf);
}

bool db_starved(sqlite3_stmt *st)
{
    return sqlite3_errcode(sqlite3_db_handle(st)) == SQLITE_NOMEM;
}

double db_real(sqlite3_stmt *st, int col)
{
    return sqlite3_column_type(st, col) == SQLITE_NULL ? NAN : sqlite3_column_double(st, col);
}

void db_error(sqlite3_stmt *st, int col, struct store_error *err)
{
    db_copy(st, col, err->code, sizeof err->code);
    db_copy(st, col + 1, err->message, sizeof err->message);
    db_copy(st, col + 2, err->hint, sizeof err->hint);
}

void *db_grow(void *p_to_array, size_t *n, size_t size)
{
    void *old;
    memcpy(&old, p_to_array, sizeof old); /* any pointer type */
    if ((*n & (*n - 1)) == 0) {           /* full at 0, 1, 2, 4, 8 ... */
        void *bigger = realloc(old, (*n ? 2 * *n : 1) * size);
        if (!bigger)
            return NULL;
        memcpy(p_to_array, &bigger, sizeof bigger);
        old = bigger;
    }
    void *at = (char *)old + *n * size;
    memset(at, 0, size);
    (*n)++;
    return at;
}

/* ---- transactions ---- */

/* Prepared while there is memory: undoing must work when there is none. */
static const char sql_rollback[] = "ROLLBACK", sql_undo[] = "ROLLBACK TO f",
                  sql_release[] = "RELEASE f";

int db_prepare_undo(struct store *s, struct dha_err *e)
{
    return cached(s, s->db, sql_rollback, e) && cached(s, s->db, sql_undo, e) &&
                   cached(s, s->db, sql_release, e)
               ? 0
               : -1;
}

/* All of the turn is gone, and commit has to say so. */
static void lose_turn(struct store *s)
{
    store_rollback(s);
    s->lost = true;
}

int store_begin(struct store *s, struct dha_err *e)
{
    if (s->lost) {
        dha_fail(e, DHA_E_TRANSIENT,
                 "the changes of this turn were rolled back by an earlier error");
        return -1;
    }
    if (s->open)
        return 0;
    if (!sqlite3_get_autocommit(s->db)) /* a rollback that failed is owed */
        store_rollback(s);
    if (db_run0(s, e, "BEGIN IMMEDIATE") != 0)
        return -1;
    s->open = true;
    return 0;
}

int store_commit(struct store *s, struct dha_err *e)
{
    if (s->lost) {
        s->lost = false;
        return dha_fail(e, DHA_E_IO,
                        "the changes of this turn were rolled back by an earlier error");
    }
    if (!s->open)
        return 0;
    metric_commit(s);
    if (db_run0(s, e, "COMMIT") != 0) {
        store_rollback(s);
        return -1;
    }
    s->open = false;
    s->event_committed = s->event_seq;
    return 0;
}

void store_rollback(struct store *s)
{
    if (!sqlite3_get_autocommit(s->db))
        db_run0(s, NULL, sql_rollback);
    metric_rollback(s);
    s->open = false;
    s->lost = false;
    s->event_seq = s->event_committed;
    queue_forget(s);
    kept_forget(s);
}

bool store_dirty(const struct store *s)
{
    return s->open || s->lost;
}

int db_mark(struct store *s, struct db_mark *m, struct dha_err *e)
{
    if (store_begin(s, e) != 0)
        return -1;
    m->event_seq = s->event_seq;
    return db_run0(s, e, "SAVEPOINT f");
}

int db_keep(struct store *s, const struct db_mark *m, struct dha_err *e)
{
    if (db_run0(s, e, sql_release) != 0)
        return db_undo(s, m);
    return 0;
}

int db_undo(struct store *s, const struct db_mark *m)
{
    queue_forget(s);
    kept_forget(s);
    if (s->open) { /* else SQLite has undone more than this already */
        if (db_run0(s, NULL, sql_undo) != 0 || db_run0(s, NULL, sql_release) != 0)
            lose_turn(s);
        else
            s->event_seq = m->event_seq;
    }
    return -1;
}

int store_mark(struct store *s, struct store_mark *m, struct dha_err *e)
{
    struct db_mark mark = {0};
    int rc = db_mark(s, &mark, e);
    m->event_seq = mark.event_seq;
    return rc;
}

int store_keep(struct store *s, const struct store_mark *m, struct dha_err *e)
{
    return db_keep(s, &(struct db_mark){.event_seq = m->event_seq}, e);
}

void store_undo(struct store *s, const struct store_mark *m)
{
    db_undo(s, &(struct db_mark){.event_seq = m->event_seq});
}
