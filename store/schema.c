/* schema.c: the tables, as numbered migrations. A migration that has been released is never edited: a change is a new
 * one at the end. Each runs in one transaction with its user_version.
 *
 * Invariants that the schema itself keeps:
 *   - a slot is in at most one live allocation                (index allocation_live)
 *   - two stages with the same key never run at the same time (index stage_running)
 *   - an attempt's number and uuid are used once              (UNIQUE)
 * States are text, decoded in one place; there is no CHECK on them, because a damaged row must be set aside by us, not
 * stop the database.
 */
#include <stdio.h>
#include <string.h>

#include "store/db.h"

#define APPLICATION_ID 0x64686131 /* "dha1" */

#define ERROR_COLUMNS  "error_code TEXT, error_message TEXT, error_hint TEXT"

/* The newest word of a job's stages on one of its losses, as migration 2 found it. */
#define LOSS_2(name)                                                                               \
    "(SELECT e.loss FROM stage s JOIN eval e ON e.stage = coalesce(s.reused_from, s.id)"           \
    " WHERE s.job = job.id AND e.name = '" name                                                    \
    "' ORDER BY s.ord DESC, e.step DESC, e.id DESC LIMIT 1)"

static const char *const state_migrations[] = {
    /* 1 */
    "CREATE TABLE sweep("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, owner_uid INTEGER NOT NULL, name TEXT NOT NULL,"
    " spec TEXT NOT NULL, created_us INTEGER NOT NULL) STRICT;"

    "CREATE TABLE job("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, owner_uid INTEGER NOT NULL,"
    " sweep INTEGER REFERENCES sweep(id), name TEXT NOT NULL, method TEXT NOT NULL,"
    " budget REAL NOT NULL, spec TEXT NOT NULL, state TEXT NOT NULL, priority INTEGER NOT NULL,"
    " slots INTEGER NOT NULL, device TEXT NOT NULL, submitted_us INTEGER NOT NULL,"
    " started_us INTEGER NOT NULL DEFAULT 0, ended_us INTEGER NOT NULL DEFAULT 0,"
    " cancel INTEGER NOT NULL DEFAULT 0, cancel_now INTEGER NOT NULL DEFAULT 0,"
    " cancel_reason TEXT, " ERROR_COLUMNS ","
    " damaged INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE INDEX job_name ON job(name);"
    "CREATE INDEX job_sweep ON job(sweep) WHERE sweep IS NOT NULL;"
    "CREATE INDEX job_cancel ON job(id) WHERE cancel = 1;"
    "CREATE INDEX job_state ON job(state);"

    "CREATE TABLE stage("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL REFERENCES job(id),"
    " ord INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL,"
    " attempt INTEGER NOT NULL DEFAULT 0, retries INTEGER NOT NULL DEFAULT 0,"
    " not_before_us INTEGER NOT NULL DEFAULT 0, reused_from INTEGER REFERENCES stage(id),"
    " out_dir TEXT, started_us INTEGER NOT NULL DEFAULT 0, ended_us INTEGER NOT NULL DEFAULT 0,"
    /* progress of the newest attempt */
    " phase TEXT, phase_done INTEGER NOT NULL DEFAULT 0, phase_total INTEGER NOT NULL DEFAULT 0,"
    " step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0,"
    " step_tokens INTEGER NOT NULL DEFAULT 0, tokens_per_s REAL, loss REAL, lm REAL, kl REAL,"
    " fusion_loss REAL, eta_s REAL, changed_us INTEGER NOT NULL DEFAULT 0,"
    /* from `bye` */
    " tokens INTEGER NOT NULL DEFAULT 0, peak_rss INTEGER NOT NULL DEFAULT 0,"
    " kv_parent INTEGER NOT NULL DEFAULT 0, kv_converted INTEGER NOT NULL DEFAULT 0,"
    " seconds REAL NOT NULL DEFAULT 0, output TEXT, " ERROR_COLUMNS ","
    " damaged INTEGER NOT NULL DEFAULT 0, UNIQUE(job, ord)) STRICT;"
    "CREATE INDEX stage_ready ON stage(job) WHERE state = 'ready';"
    "CREATE UNIQUE INDEX stage_running ON stage(key) WHERE state = 'running';"
    "CREATE INDEX stage_done ON stage(key) WHERE state = 'done';"

    "CREATE TABLE attempt("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, stage INTEGER NOT NULL REFERENCES stage(id),"
    " number INTEGER NOT NULL, uuid TEXT NOT NULL UNIQUE, state TEXT NOT NULL, dir TEXT,"
    " journal_offset INTEGER NOT NULL DEFAULT 0, pid INTEGER NOT NULL DEFAULT 0,"
    " pid_start INTEGER NOT NULL DEFAULT 0, boot_id TEXT, host TEXT, backend TEXT,"
    " ranks INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0,"
    " resumed_from INTEGER NOT NULL DEFAULT -1, started_us INTEGER NOT NULL,"
    " hello_us INTEGER NOT NULL DEFAULT 0, ended_us INTEGER NOT NULL DEFAULT 0,"
    " exit_code INTEGER NOT NULL DEFAULT -1, " ERROR_COLUMNS ","
    " damaged INTEGER NOT NULL DEFAULT 0, UNIQUE(stage, number)) STRICT;"
    "CREATE INDEX attempt_live ON attempt(id) WHERE state <> 'ended';"

    "CREATE TABLE node("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
    " drained INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '') STRICT;"
    "CREATE TABLE slot("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, node INTEGER NOT NULL REFERENCES node(id),"
    " number INTEGER NOT NULL, name TEXT NOT NULL, device TEXT NOT NULL,"
    " gone INTEGER NOT NULL DEFAULT 0, UNIQUE(node, number)) STRICT;"
    "CREATE TABLE allocation("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, attempt INTEGER NOT NULL REFERENCES attempt(id),"
    " slot INTEGER NOT NULL REFERENCES slot(id), from_us INTEGER NOT NULL,"
    " until_us INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE UNIQUE INDEX allocation_live ON allocation(slot) WHERE until_us = 0;"
    "CREATE INDEX allocation_attempt ON allocation(attempt);"

    "CREATE TABLE event("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, time_us INTEGER NOT NULL, type TEXT NOT NULL,"
    " job INTEGER, stage INTEGER, attempt INTEGER NOT NULL DEFAULT 0, data TEXT NOT NULL) STRICT;"
    "CREATE TABLE outbox("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, action TEXT NOT NULL, job INTEGER, stage INTEGER,"
    " attempt INTEGER NOT NULL DEFAULT 0, args TEXT NOT NULL, created_us INTEGER NOT NULL) STRICT;"

    "CREATE TABLE checkpoint("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, stage INTEGER NOT NULL REFERENCES stage(id),"
    " attempt INTEGER NOT NULL, step INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " path TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL, created_us INTEGER NOT NULL,"
    " UNIQUE(stage, path)) STRICT;"
    "CREATE TABLE head_budget("
    " stage INTEGER NOT NULL REFERENCES stage(id), layer INTEGER NOT NULL, value INTEGER NOT NULL,"
    " heads INTEGER NOT NULL, map TEXT NOT NULL, PRIMARY KEY(stage, layer, value))"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE eval("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, stage INTEGER NOT NULL REFERENCES stage(id),"
    " attempt INTEGER NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, loss REAL,"
    " tokens INTEGER NOT NULL, windows INTEGER NOT NULL, trained_tokens INTEGER NOT NULL,"
    " time_us INTEGER NOT NULL, UNIQUE(stage, name, step)) STRICT;"

    "CREATE TABLE lost_found("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, time_us INTEGER NOT NULL, origin TEXT NOT NULL,"
    " reason TEXT NOT NULL, content BLOB) STRICT;"
    "CREATE TABLE idempotency("
    " owner_uid INTEGER NOT NULL, key TEXT NOT NULL, job INTEGER NOT NULL REFERENCES job(id),"
    " time_us INTEGER NOT NULL, PRIMARY KEY(owner_uid, key)) STRICT, WITHOUT ROWID;",

    /* 2: sweeps with seeds, names, keys and early stops; a job's losses beside it. Names become unique among an
     * owner's sweeps: of those that share one, the oldest keeps it. */
    "ALTER TABLE sweep ADD COLUMN skipped TEXT NOT NULL DEFAULT '[]';"
    "ALTER TABLE sweep ADD COLUMN stop_dominated INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sweep ADD COLUMN margin REAL NOT NULL DEFAULT 0.02;"
    "UPDATE sweep SET name = name || '-' || id WHERE name <> '' AND EXISTS("
    " SELECT 1 FROM sweep o WHERE o.owner_uid = sweep.owner_uid AND o.name = sweep.name"
    " AND o.id < sweep.id);"
    "CREATE INDEX sweep_name ON sweep(owner_uid, name);"
    "CREATE TABLE sweep_key("
    " owner_uid INTEGER NOT NULL, key TEXT NOT NULL, sweep INTEGER NOT NULL REFERENCES sweep(id),"
    " time_us INTEGER NOT NULL, PRIMARY KEY(owner_uid, key)) STRICT, WITHOUT ROWID;"
    "ALTER TABLE job ADD COLUMN seed INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job ADD COLUMN spared INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job ADD COLUMN loss_parent REAL;"
    "ALTER TABLE job ADD COLUMN loss_converted REAL;"
    "ALTER TABLE job ADD COLUMN loss_final REAL;"
    /* a spec that is damaged is found and set aside elsewhere */
    "UPDATE job SET seed = coalesce(CASE WHEN json_valid(spec) THEN"
    " CAST(json_extract(spec, '$.seed') AS INTEGER) END, 0),"
    " loss_parent = " LOSS_2("parent") ", loss_converted = " LOSS_2(
        "converted") ", loss_final = " LOSS_2("final") ";",

    /* 3: walltimes where the scheduler sees them; jobs that wait for the end of others */
    "ALTER TABLE job ADD COLUMN walltime_s INTEGER NOT NULL DEFAULT 0;"
    "UPDATE job SET walltime_s = coalesce(CASE WHEN json_valid(spec) THEN"
    " CAST(json_extract(spec, '$.resources.walltime') AS INTEGER) END, 0);"
    "CREATE TABLE dependency("
    " job INTEGER NOT NULL REFERENCES job(id), on_job INTEGER NOT NULL REFERENCES job(id),"
    " any_end INTEGER NOT NULL, PRIMARY KEY(job, on_job)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX dependency_on ON dependency(on_job);",

    /* 4: several nodes: what their slots are, what a gang asks of them; tokens for TCP; attempts out of sight */
    "ALTER TABLE node ADD COLUMN address TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE node ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE slot ADD COLUMN uuid TEXT NOT NULL DEFAULT '';"  /* of a GPU */
    "ALTER TABLE slot ADD COLUMN cores TEXT NOT NULL DEFAULT '';" /* "0-3,8" */
    "ALTER TABLE slot ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job ADD COLUMN nodes INTEGER NOT NULL DEFAULT 1;"
    "ALTER TABLE job ADD COLUMN slot_memory INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job ADD COLUMN node_names TEXT NOT NULL DEFAULT '';" /* "a b" */
    "ALTER TABLE attempt ADD COLUMN unreachable_us INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE token("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL,"
    " role TEXT NOT NULL, owner_uid INTEGER NOT NULL, created_us INTEGER NOT NULL) STRICT;",
};
_Static_assert(sizeof state_migrations / sizeof state_migrations[0] == STORE_SCHEMA,
               "a migration for each version");

static const char *const metrics_migrations[] = {
    /* 1 */
    "CREATE TABLE metric("
    " attempt INTEGER NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL,"
    " tokens INTEGER NOT NULL, value REAL, PRIMARY KEY(attempt, name, step))"
    " STRICT, WITHOUT ROWID;",
    /* 2, 3, 4: nothing changed here */
    "",
    "",
    "",
};
_Static_assert(sizeof metrics_migrations / sizeof metrics_migrations[0] == STORE_SCHEMA,
               "a migration for each version");

/* What a migration of state.db read out of specs, asked again before it is committed: not 0 = it got something wrong. SQLite's
 * json_valid() says "no" also when it has no memory, and a seed or a walltime would silently be 0. */
#define SPEC_DIFFERS(column, path)                                                                 \
    "SELECT count(*) FROM job WHERE json_valid(spec) AND " column                                  \
    " IS NOT coalesce(CAST(json_extract(spec, '" path "') AS INTEGER), 0)"
static const char *const state_checks[STORE_SCHEMA] = {
    [1] = SPEC_DIFFERS("seed", "$.seed"),
    [2] = SPEC_DIFFERS("walltime_s", "$.resources.walltime"),
};

static int pragma_int(sqlite3 *db, const char *sql, int *out)
{
    sqlite3_stmt *st;
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
        return -1;
    int rc = sqlite3_step(st) == SQLITE_ROW ? 0 : -1;
    *out = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    return rc;
}

int schema_migrate(struct store *s, sqlite3 *db, enum db_file which, const char *path,
                   struct dha_err *e)
{
    int version, id, tables;
    if (pragma_int(db, "PRAGMA user_version", &version) != 0 ||
        pragma_int(db, "PRAGMA application_id", &id) != 0 ||
        pragma_int(db, "SELECT count(*) FROM sqlite_schema", &tables) != 0)
        return db_fail(s, db, e, "reading its version");
    if (id != APPLICATION_ID && (id != 0 || tables != 0))
        return dha_fail(e, DHA_E_INPUT, "%s is not a database of dha", path);
    if (version > STORE_SCHEMA) {
        dha_fail(e, DHA_E_VERSION, "%s has schema version %d; this dha (%s) knows up to %d", path,
                 version, DHA_VERSION, STORE_SCHEMA);
        return dha_err_hint(e, "use the newer dha that wrote it, or another state directory");
    }
    for (int v = version; v < STORE_SCHEMA; v++) {
        char end[128];
        const char *sql = which == DB_STATE ? state_migrations[v] : metrics_migrations[v];
        const char *check = which == DB_STATE ? state_checks[v] : NULL;
        int wrong = 0;
        snprintf(end, sizeof end, "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT;",
                 APPLICATION_ID, v + 1);
        if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK ||
            sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK ||
            (check && pragma_int(db, check, &wrong) != 0) || wrong != 0 ||
            sqlite3_exec(db, end, NULL, NULL, NULL) != SQLITE_OK) {
            if (wrong != 0)
                db_no_memory(e);
            else
                db_fail(s, db, e, "upgrading it");
            sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
            return -1;
        }
    }
    return 0;
}
