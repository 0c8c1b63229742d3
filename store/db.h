/* db.h: SQLite as the store's files use it (private to store/).
 *
 * Statements are prepared once and kept: the cache's key is the address of the SQL literal, so the SQL stands where
 * it is used. A statement is in use from db_query() until db_next() said anything but 1 or db_reset();
 * it must not be asked for again in between.
 * Parameters are ?1, ?2 ... in the order of the DB_* arguments.
 */
#ifndef DHA_STORE_DB_H
#define DHA_STORE_DB_H

#include <sqlite3.h>

#include "store/store.h"

#define DB_CACHE     512 /* a power of two, well over the number of statements */

#define QUEUE_BOUNDS 16 /* users whose number of jobs is kept in mind (queue.c) */
struct queue_bound {
    int64_t owner_uid, jobs;
    bool known;
};

/* The ready stages, kept from one answer to the next (ready.c). */
struct ready_ids {
    int64_t *at;
    size_t n;
};
struct ready {
    struct store_candidate *at;
    size_t n;
    bool known;                    /* `at` is what the tables say but for what follows */
    struct ready_ids stages, jobs; /* rows changed since */
};

/* What is kept of the slots (node.c): by node and number, who holds them left out. */
struct slot_place {
    int64_t slot;
    size_t at;
};
struct slots {
    struct store_slot_held *at;
    bool *gone;
    struct slot_place *places; /* by the slot's id */
    size_t n;                  /* of each of the three */
    bool known;
};

/* A store belongs to one thread (chores open one of their own): its connections need no locks. */
#define DB_OPEN (SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX)

struct store {
    sqlite3 *db;      /* state.db */
    sqlite3 *metrics; /* metrics.db */
    char *dir;
    int lock_fd;
    bool open;         /* a transaction is open */
    bool lost;         /* SQLite rolled the turn back by itself; commit has to say so */
    bool metrics_open; /* a transaction on metrics.db is open */
    bool metrics_failed;
    int64_t event_seq, event_committed;
    struct queue_bound queue[QUEUE_BOUNDS];
    unsigned queue_next;
    struct ready ready;
    struct slots slots;
    int64_t data_version; /* of the database when the two were read */
    int64_t actor;        /* uid, or STORE_NO_ACTOR */
    int64_t now_us;       /* the last time a caller gave: stamps what has no caller */
    struct {
        const char *sql;
        sqlite3_stmt *st;
    } cache[DB_CACHE];
};

enum db_type { DB_NULL_, DB_INT_, DB_REAL_, DB_TEXT_, DB_BLOB_ };
struct db_arg {
    enum db_type type;
    int64_t i;
    double d;
    const char *s;
    size_t len;
};
#define DB_I(x) ((struct db_arg){.type = DB_INT_, .i = (int64_t)(x)})
#define DB_D(x) ((struct db_arg){.type = DB_REAL_, .d = (x)}) /* NaN becomes NULL */
#define DB_S(x) ((struct db_arg){.type = DB_TEXT_, .s = (x)}) /* NULL becomes NULL */
#define DB_ID(x)                                                                                   \
    ((struct db_arg){.type = (x) ? DB_INT_ : DB_NULL_, .i = (int64_t)(x)}) /* 0 -> NULL */
#define DB_B(p, n)     ((struct db_arg){.type = DB_BLOB_, .s = (p), .len = (n)})

#define DB_ARGS_(...)  ((const struct db_arg[]){__VA_ARGS__})
#define DB_COUNT_(...) (sizeof(DB_ARGS_(__VA_ARGS__)) / sizeof(struct db_arg))

/* A statement without rows, start to end. `db` is s->db or s->metrics. */
int db_run_args(struct store *s, sqlite3 *db, struct dha_err *e, const char *sql,
                const struct db_arg *args, size_t n);
sqlite3_stmt *db_query_args(struct store *s, sqlite3 *db, struct dha_err *e, const char *sql,
                            const struct db_arg *args, size_t n);
#define db_run(s, e, sql, ...)                                                                     \
    db_run_args(s, (s)->db, e, sql, DB_ARGS_(__VA_ARGS__), DB_COUNT_(__VA_ARGS__))
#define db_query(s, e, sql, ...)                                                                   \
    db_query_args(s, (s)->db, e, sql, DB_ARGS_(__VA_ARGS__), DB_COUNT_(__VA_ARGS__))
#define db_run0(s, e, sql)   db_run_args(s, (s)->db, e, sql, NULL, 0)
#define db_query0(s, e, sql) db_query_args(s, (s)->db, e, sql, NULL, 0)

int db_next(struct store *s, struct dha_err *e, sqlite3_stmt *st); /* 1 row, 0 end, -1 error */
void db_reset(sqlite3_stmt *st);
/* First column of the first row; `none` if there is no row. -1 on error. */
int db_scalar(struct store *s, struct dha_err *e, sqlite3_stmt *st, int64_t none, int64_t *out);

/* The first column of every row, 0 / -1. *out: free(). */
int db_ids(struct store *s, struct dha_err *e, sqlite3_stmt *st, int64_t **out, size_t *n);

/* Of dependency d on job o: its condition is not met. */
#define DB_UNMET "o.state <> 'done' AND NOT (d.any_end AND o.state IN ('failed', 'cancelled'))"

/* Columns. db_dup: strdup or NULL for NULL; clears *ok when out of memory. db_copy: into a buffer of cap bytes, cut
 * at a character. db_real: NULL is NaN. */
char *db_dup(sqlite3_stmt *st, int col, bool *ok);
void db_copy(sqlite3_stmt *st, int col, char *buf, size_t cap);
double db_real(sqlite3_stmt *st, int col);
/* Was there no memory for a text of this row? Then its columns say nothing, least of all that it is damaged. */
bool db_starved(sqlite3_stmt *st);
/* Three columns from col on: code, message, hint. */
void db_error(sqlite3_stmt *st, int col, struct store_error *err);

int db_fail(struct store *s, sqlite3 *db, struct dha_err *e, const char *what);
int db_no_memory(struct dha_err *e);

/* A changing function of several statements: mark, statements, then db_keep() or db_undo(). db_undo returns -1. */
struct db_mark {
    int64_t event_seq;
};
int db_prepare_undo(struct store *s, struct dha_err *e); /* once, when the file is open */
int db_mark(struct store *s, struct db_mark *m, struct dha_err *e);
int db_keep(struct store *s, const struct db_mark *m, struct dha_err *e);
int db_undo(struct store *s, const struct db_mark *m);

/* Is the file what SQLite calls sound? -1: it cannot be read now (I/O, memory, locks), which says nothing about it:
 * only SQLITE_CORRUPT, SQLITE_NOTADB and a check that fails twice on a file that can be read are damage. */
int db_check(sqlite3 *db, bool *sound, struct dha_err *e);
bool db_is_damage(int rc);

/* Grows *p for one more element of `size` bytes: returns the zeroed element or NULL. cap 2^k growth. */
void *db_grow(void *p_to_array, size_t *n, size_t size);

/* queue.c: a job of the owner was added; a job that had ended goes on, whose ever. */
void queue_added(struct store *s, int64_t owner_uid);
void queue_forget(struct store *s);

/* ready.c: what is kept in memory of the tables. Every change is seen from kept_watch() on; a change by somebody else is when
 * kept_check() is asked before use; a rollback must say kept_forget(). */
void kept_watch(struct store *s);
int kept_check(struct store *s, struct dha_err *e);
void kept_forget(struct store *s);
void kept_finish(struct store *s);
void slots_finish(struct store *s); /* node.c */

/* schema.c: brings a file to STORE_SCHEMA. */
enum db_file { DB_STATE, DB_METRICS };
int schema_migrate(struct store *s, sqlite3 *db, enum db_file which, const char *path,
                   struct dha_err *e);

/* backup.c: a copy of state.db into STATE/backup/, if it is of an earlier schema. */
int backup_before_migration(struct store *s, struct dha_err *e);

/* metric.c */
int metric_open(struct store *s, struct dha_err *e);
void metric_add(struct store *s, int64_t attempt, const char *name, int64_t step, int64_t tokens,
                double value);
void metric_commit(struct store *s);
void metric_rollback(struct store *s);

/* aside.c: a damaged row: copied to lost_found, marked, said in an event. table is "job", "stage" or
 * "attempt". */
void aside_row(struct store *s, const char *table, int64_t id, const char *reason,
               const char *content);
/* Decodes what is not final, so that what is damaged is set aside at the start. */
int aside_scan(struct store *s, struct dha_err *e);
/* aside.c: a state.db that does not pass its check: everything readable goes into a new file; the old one is kept
 * beside it. */
int aside_salvage(const char *path, int64_t now_us, struct dha_err *e);

/* job.c: brings the losses beside a job up to what its stages' evaluations say. */
int job_refresh_losses(struct store *s, int64_t job, struct dha_err *e);

/* event.c: event with {"from","to","reason"}; each may be NULL. */
int event_move(struct store *s, const char *type, int64_t job, int64_t stage, int attempt,
               const char *from, const char *to, const char *reason, int64_t now_us,
               struct dha_err *e);
/* Adds json to the log and frees it; NULL json = out of memory. */
int event_json(struct store *s, const char *type, int64_t job, int64_t stage, int attempt,
               cJSON *json, int64_t now_us, struct dha_err *e);

#endif
