/* ready.c: the ready stages (and, in node.c, the slots), kept in memory between one scheduling pass and the next: reading ten
 * thousand of them takes SQLite 20 ms, and a handful have changed.
 *
 * Why what is kept cannot be stale: SQLite itself calls on_change() for each row that this connection changes, whatever
 * statement did it, and before an answer those rows are read again. A rollback, of the turn or to a mark, forgets everything,
 * and so does a change by another connection, which PRAGMA data_version tells. What SQLite does not call for: table
 * dependency (WITHOUT ROWID), whose rows come with their job's and never change; rows that go by OR REPLACE or by a
 * DELETE without WHERE, and nothing does that to these tables. What a row says of other rows: a job's end concerns the
 * jobs that depend on it, so their stages are read again with it; which stages run, and who holds a slot, is not kept at
 * all. tests/unit/store/test_ready.c compares with the tables after each of thousands of random changes, dhad-failpoints
 * at every pass of every test that runs it (plan.c). */
#include <stdlib.h>
#include <string.h>

#include "store/db.h"

/* More changed rows than that, and reading everything is as cheap. */
enum { CHANGED_MAX = 1 << 15 };

#define CANDIDATES                                                                                 \
    "SELECT s.id, s.job, j.priority, j.slots, j.device, s.key, j.submitted_us, s.not_before_us,"   \
    " (SELECT d.on_job FROM dependency d JOIN job o ON o.id = d.on_job WHERE d.job = s.job"        \
    "  AND " DB_UNMET " ORDER BY d.on_job LIMIT 1), j.walltime_s, j.nodes, j.slot_memory,"         \
    " j.node_names <> '' FROM stage s CROSS JOIN job j ON j.id = s.job"                            \
    " WHERE s.state = 'ready' AND s.damaged = 0 AND j.damaged = 0 AND j.cancel = 0"                \
    " AND j.state IN ('queued', 'running')"

static void note(struct ready *r, struct ready_ids *l, int64_t id)
{
    if (!r->known || (l->n > 0 && l->at[l->n - 1] == id))
        return;
    int64_t *at = l->n < CHANGED_MAX ? db_grow(&l->at, &l->n, sizeof *at) : NULL;
    if (at)
        *at = id;
    else
        r->known = false;
}

static void on_change(void *arg, int op, const char *db, const char *table, sqlite3_int64 id)
{
    struct store *s = arg;
    (void)db;
    if (op == SQLITE_DELETE)
        kept_forget(s);
    else if (strcmp(table, "stage") == 0)
        note(&s->ready, &s->ready.stages, id);
    else if (strcmp(table, "job") == 0)
        note(&s->ready, &s->ready.jobs, id);
    else if (strcmp(table, "slot") == 0)
        s->slots.known = false;
}

void kept_watch(struct store *s)
{
    sqlite3_update_hook(s->db, on_change, s);
}

void kept_forget(struct store *s)
{
    s->ready.known = s->slots.known = false;
}

int kept_check(struct store *s, struct dha_err *e)
{
    int64_t version;
    if (db_scalar(s, e, db_query0(s, e, "PRAGMA data_version"), 0, &version) != 0)
        return -1;
    if (version != s->data_version)
        kept_forget(s);
    s->data_version = version;
    return 0;
}

static void drop(struct ready_ids *l)
{
    free(l->at);
    *l = (struct ready_ids){0};
}

void kept_finish(struct store *s)
{
    slots_finish(s);
    drop(&s->ready.stages);
    drop(&s->ready.jobs);
    free(s->ready.at);
    s->ready = (struct ready){0};
}

/* Appends what q gives. */
static int take(struct store *s, sqlite3_stmt *q, struct store_candidate **out, size_t *n,
                struct dha_err *e)
{
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        struct store_candidate *c = db_grow(out, n, sizeof *c);
        if (!c) {
            db_reset(q);
            return db_no_memory(e);
        }
        c->stage = sqlite3_column_int64(q, 0);
        c->job = sqlite3_column_int64(q, 1);
        c->priority = sqlite3_column_int(q, 2);
        c->slots = sqlite3_column_int(q, 3);
        db_copy(q, 4, c->device, sizeof c->device);
        db_copy(q, 5, c->key, sizeof c->key);
        c->submitted_us = sqlite3_column_int64(q, 6);
        c->not_before_us = sqlite3_column_int64(q, 7);
        c->depends_on = sqlite3_column_int64(q, 8);
        c->walltime_s = sqlite3_column_int64(q, 9);
        c->nodes = sqlite3_column_int(q, 10);
        c->slot_memory = sqlite3_column_int64(q, 11);
        c->named = sqlite3_column_int(q, 12);
    }
    return rc;
}

/* ---- bringing it up to date ---- */

static int by_id(const void *pa, const void *pb)
{
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;
    return (a > b) - (a < b);
}

static bool has(const struct ready_ids *l, int64_t id)
{
    return l->n > 0 && bsearch(&id, l->at, l->n, sizeof id, by_id) != NULL;
}

static void sort_unique(struct ready_ids *l)
{
    size_t n = 0;
    if (l->n)
        qsort(l->at, l->n, sizeof *l->at, by_id);
    for (size_t i = 0; i < l->n; i++)
        if (n == 0 || l->at[n - 1] != l->at[i])
            l->at[n++] = l->at[i];
    l->n = n;
}

/* The ready stages of the jobs that changed and of those that depend on them count as changed. A stage that is kept
 * and not ready any more has changed itself. */
static int add_stages_of_jobs(struct store *s, struct dha_err *e)
{
    struct ready *r = &s->ready;
    for (size_t i = 0; i < r->jobs.n; i++) {
        int64_t *ids;
        size_t n;
        if (db_ids(s, e,
                   db_query(s, e,
                            "SELECT id FROM stage WHERE job = ?1 AND state = 'ready' UNION ALL"
                            " SELECT s.id FROM dependency d CROSS JOIN stage s ON s.job = d.job"
                            " WHERE d.on_job = ?1 AND s.state = 'ready'",
                            DB_I(r->jobs.at[i])),
                   &ids, &n) != 0)
            return -1;
        for (size_t k = 0; k < n; k++)
            note(r, &r->stages, ids[k]);
        free(ids);
    }
    return 0;
}

static int read_changed(struct store *s, struct dha_err *e)
{
    struct ready *r = &s->ready;
    size_t n = 0;
    sort_unique(&r->stages);
    for (size_t i = 0; i < r->n; i++)
        if (!has(&r->stages, r->at[i].stage))
            r->at[n++] = r->at[i];
    r->n = n;
    for (size_t i = 0; i < r->stages.n; i++)
        if (take(s, db_query(s, e, CANDIDATES " AND s.id = ?1", DB_I(r->stages.at[i])), &r->at,
                 &r->n, e) != 0)
            return -1;
    return 0;
}

static int read_all(struct store *s, struct store_candidate **out, size_t *n, struct dha_err *e)
{
    return take(s, db_query0(s, e, CANDIDATES), out, n, e);
}

static int update(struct store *s, struct dha_err *e)
{
    struct ready *r = &s->ready;
    if (kept_check(s, e) != 0 || (r->known && add_stages_of_jobs(s, e) != 0))
        return -1;
    /* each of them is looked for by itself */
    r->known = r->known && r->stages.n <= 64 + r->n / 8;
    if (!r->known)
        r->n = 0;
    if ((r->known ? read_changed(s, e) : read_all(s, &r->at, &r->n, e)) != 0)
        return -1;
    drop(&r->stages);
    drop(&r->jobs);
    r->known = true;
    return 0;
}

/* On failure nothing is known any more. */
static int refresh(struct store *s, struct dha_err *e)
{
    int rc = update(s, e);
    if (rc != 0)
        s->ready.known = false;
    return rc;
}

/* ---- answers ---- */

struct running {
    char key[STORE_KEY_SIZE];
    int64_t stage;
};

static int by_key(const void *pa, const void *pb)
{
    const struct running *a = pa, *b = pb;
    return strcmp(a->key, b->key);
}

/* Which of them wait for a running stage with the same key. */
static int set_waits(struct store *s, struct store_candidate *c, size_t n, struct dha_err *e)
{
    struct running *l = NULL, *at;
    size_t n_running = 0;
    sqlite3_stmt *q = db_query0(s, e,
                                "SELECT key, id FROM stage WHERE state = 'running' ORDER BY key");
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        if (!(at = db_grow(&l, &n_running, sizeof *at))) {
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
        db_copy(q, 0, at->key, sizeof at->key);
        at->stage = sqlite3_column_int64(q, 1);
    }
    for (size_t i = 0; i < n && rc == 0 && n_running > 0; i++) {
        struct running key = {.stage = 0};
        memcpy(key.key, c[i].key, sizeof key.key);
        at = bsearch(&key, l, n_running, sizeof *l, by_key);
        c[i].waits_for = at ? at->stage : 0;
    }
    free(l);
    return rc;
}

static int answer(struct store *s, struct store_candidate **out, size_t *n, int rc,
                  struct dha_err *e)
{
    if (rc == 0)
        rc = set_waits(s, *out, *n, e);
    if (rc != 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

int store_candidates(struct store *s, struct store_candidate **out, size_t *n, struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    if (refresh(s, e) != 0)
        return -1;
    *out = malloc((s->ready.n + 1) * sizeof **out);
    if (!*out)
        return db_no_memory(e);
    if (s->ready.n)
        memcpy(*out, s->ready.at, s->ready.n * sizeof **out);
    *n = s->ready.n;
    return answer(s, out, n, 0, e);
}

int store_candidates_afresh(struct store *s, struct store_candidate **out, size_t *n,
                            struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    return answer(s, out, n, read_all(s, out, n, e), e);
}

static int by_priority(const void *pa, const void *pb)
{
    const struct store_candidate *a = *(struct store_candidate *const *)pa,
                                 *b = *(struct store_candidate *const *)pb;
    if (a->priority != b->priority)
        return a->priority > b->priority ? -1 : 1;
    return (a->job > b->job) - (a->job < b->job);
}

int store_jobs_ready_for(struct store *s, const char *key, int64_t **out, size_t *n,
                         struct dha_err *e)
{
    const struct store_candidate **found = NULL, **at;
    size_t n_found = 0;
    *out = NULL;
    *n = 0;
    if (refresh(s, e) != 0)
        return -1;
    for (size_t i = 0; i < s->ready.n; i++) {
        if (strcmp(s->ready.at[i].key, key) != 0)
            continue;
        if (!(at = db_grow(&found, &n_found, sizeof *at))) {
            free(found);
            return db_no_memory(e);
        }
        *at = &s->ready.at[i];
    }
    *out = malloc((n_found + 1) * sizeof **out);
    if (!*out) {
        free(found);
        return db_no_memory(e);
    }
    if (n_found)
        qsort(found, n_found, sizeof(struct store_candidate *), by_priority);
    for (size_t i = 0; i < n_found; i++)
        (*out)[(*n)++] = found[i]->job;
    free(found);
    return 0;
}
