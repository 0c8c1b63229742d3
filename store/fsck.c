/* fsck.c: what SQLite can check, and what only we know must hold. */
#include <stdio.h>
#include <string.h>

#include "store/db.h"

/* Each gives one line of text a violation. */
static const char *const invariants[] = {
    "SELECT 'stage ' || id || ' is running without a live attempt of its newest number' FROM stage "
    "s"
    " WHERE state = 'running' AND damaged = 0 AND NOT EXISTS(SELECT 1 FROM attempt a"
    " WHERE a.stage = s.id AND a.number = s.attempt AND a.state <> 'ended')",
    "SELECT 'attempt ' || a.id || ' is live, but its stage is ' || s.state FROM attempt a"
    " JOIN stage s ON s.id = a.stage WHERE a.state <> 'ended' AND s.state <> 'running'",
    "SELECT 'slot ' || al.slot || ' is held by attempt ' || a.id || ', which has ended'"
    " FROM allocation al JOIN attempt a ON a.id = al.attempt"
    " WHERE al.until_us = 0 AND a.state = 'ended'",
    "SELECT 'stage ' || s.id || ' is ' || s.state || ', but a stage before it is not complete'"
    " FROM stage s WHERE s.state IN ('ready', 'running') AND s.damaged = 0"
    " AND EXISTS(SELECT 1 FROM stage p WHERE p.job = s.job AND p.ord < s.ord"
    " AND p.state NOT IN ('done', 'reused'))",
    "SELECT 'job ' || j.id || ' is done, but its stage ' || s.id || ' is ' || s.state FROM job j"
    " JOIN stage s ON s.job = j.id WHERE j.state = 'done' AND s.state NOT IN ('done', 'reused')",
    "SELECT 'stage ' || s.id || ' reuses stage ' || s.reused_from || ', which is ' || r.state"
    " FROM stage s JOIN stage r ON r.id = s.reused_from"
    " WHERE s.state = 'reused' AND r.state <> 'done'",
    "SELECT 'events are missing: ' || count(*) || ' rows for ' || min(seq) || '..' || max(seq)"
    " FROM event HAVING count(*) > 0 AND count(*) <> max(seq) - min(seq) + 1",
    "SELECT 'events after ' || coalesce((SELECT max(seq) FROM event), 0) || ' are missing: the last"
    " number given was ' || seq FROM sqlite_sequence WHERE name = 'event'"
    " AND seq > coalesce((SELECT max(seq) FROM event), 0)",
    "SELECT 'checkpoint ' || id || ' is in the unknown state \"' || state || '\"' FROM checkpoint"
    " WHERE state NOT IN ('complete', 'deleted', 'bad')",
    "SELECT 'lost and found: ' || origin || ': ' || reason FROM lost_found",
};

struct report {
    void (*found)(void *arg, const char *problem);
    void *arg;
    int n;
};

static void tell(struct report *r, const char *what, const char *text)
{
    char line[512];
    snprintf(line, sizeof line, "%s%s", what, text ? text : "(null)");
    r->n++;
    if (r->found)
        r->found(r->arg, line);
}

static int each(struct store *s, sqlite3 *db, struct report *r, const char *sql, const char *what,
                struct dha_err *e)
{
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK)
        return db_fail(s, db, e, sql);
    int rc;
    while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(q, 0);
        if (!text || strcmp(text, "ok") != 0)
            tell(r, what, text);
    }
    if (rc != SQLITE_DONE)
        tell(r, what, sqlite3_errmsg(db));
    sqlite3_finalize(q);
    return 0;
}

int store_fsck(struct store *s, void (*found)(void *arg, const char *problem), void *arg,
               struct dha_err *e)
{
    struct report r = {.found = found, .arg = arg};
    if (each(s, s->db, &r, "PRAGMA integrity_check", "state.db: ", e) != 0 ||
        each(s, s->metrics, &r, "PRAGMA integrity_check", "metrics.db: ", e) != 0 ||
        each(s, s->db, &r,
             "SELECT \"table\" || ' row ' || rowid || ' refers to a row of ' || parent"
             " || ' that is not there' FROM pragma_foreign_key_check",
             "state.db: ", e) != 0)
        return -1;
    for (size_t i = 0; i < sizeof invariants / sizeof invariants[0]; i++)
        if (each(s, s->db, &r, invariants[i], "", e) != 0)
            return -1;
    return r.n;
}
