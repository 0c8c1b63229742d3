#include <stdlib.h>
#include <string.h>

#include "store/db.h"

#define STAGE_COLUMNS                                                                              \
    "s.id, s.job, s.ord, s.kind, s.state, s.key, s.attempt, s.retries, s.not_before_us,"           \
    " s.reused_from, (SELECT r.job FROM stage r WHERE r.id = s.reused_from), s.out_dir,"           \
    " s.started_us, s.ended_us, s.phase, s.phase_done, s.phase_total, s.step, s.steps,"            \
    " s.step_tokens, s.tokens_per_s, s.loss, s.lm, s.kl, s.fusion_loss, s.eta_s, s.changed_us,"    \
    " s.tokens, s.peak_rss, s.kv_parent, s.kv_converted, s.seconds, s.output, s.error_code,"       \
    " s.error_message, s.error_hint"

void store_stage_finish(struct store_stage *st)
{
    free(st->out_dir);
    free(st->output);
    memset(st, 0, sizeof *st);
}

void store_stages_finish(struct store_stages *l)
{
    for (size_t i = 0; i < l->n; i++)
        store_stage_finish(&l->at[i]);
    free(l->at);
    memset(l, 0, sizeof *l);
}

/* 1 decoded, 0 damaged (*why says how), -1 out of memory. */
static int decode(sqlite3_stmt *q, struct store_stage *st, const char **why, struct dha_err *e)
{
    bool ok = true;
    int c = 0;
    memset(st, 0, sizeof *st);
    st->id = sqlite3_column_int64(q, c++);
    st->job = sqlite3_column_int64(q, c++);
    st->ord = sqlite3_column_int(q, c++);
    if (stage_kind_from_name((const char *)sqlite3_column_text(q, c++), &st->kind) != 0) {
        *why = "unknown stage kind";
        return db_starved(q) ? db_no_memory(e) : 0;
    }
    if (stage_state_from_name((const char *)sqlite3_column_text(q, c++), &st->state) != 0) {
        *why = "unknown stage state";
        return db_starved(q) ? db_no_memory(e) : 0;
    }
    db_copy(q, c++, st->key, sizeof st->key);
    st->attempt = sqlite3_column_int(q, c++);
    st->retries = sqlite3_column_int(q, c++);
    st->not_before_us = sqlite3_column_int64(q, c++);
    st->reused_from = sqlite3_column_int64(q, c++);
    st->reused_job = sqlite3_column_int64(q, c++);
    st->out_dir = db_dup(q, c++, &ok);
    st->started_us = sqlite3_column_int64(q, c++);
    st->ended_us = sqlite3_column_int64(q, c++);
    db_copy(q, c++, st->progress.phase, sizeof st->progress.phase);
    st->progress.done = sqlite3_column_int64(q, c++);
    st->progress.total = sqlite3_column_int64(q, c++);
    st->progress.step = sqlite3_column_int64(q, c++);
    st->progress.steps = sqlite3_column_int64(q, c++);
    st->progress.tokens = sqlite3_column_int64(q, c++);
    st->progress.tokens_per_s = db_real(q, c++);
    st->progress.loss = db_real(q, c++);
    st->progress.lm = db_real(q, c++);
    st->progress.kl = db_real(q, c++);
    st->progress.fusion_loss = db_real(q, c++);
    st->progress.eta_s = db_real(q, c++);
    st->progress.changed_us = sqlite3_column_int64(q, c++);
    st->tokens = sqlite3_column_int64(q, c++);
    st->peak_rss = sqlite3_column_int64(q, c++);
    st->kv_parent = sqlite3_column_int64(q, c++);
    st->kv_converted = sqlite3_column_int64(q, c++);
    st->seconds = sqlite3_column_double(q, c++);
    st->output = db_dup(q, c++, &ok);
    db_error(q, c, &st->error);
    if (!ok || db_starved(q)) {
        store_stage_finish(st);
        return db_no_memory(e);
    }
    return 1;
}

static int collect(struct store *s, sqlite3_stmt *q, struct store_stages *out, struct dha_err *e)
{
    memset(out, 0, sizeof *out);
    if (!q)
        return -1;
    int rc;
    while ((rc = db_next(s, e, q)) == 1) {
        struct store_stage st;
        const char *why = NULL;
        int good = decode(q, &st, &why, e);
        if (good == 0) {
            aside_row(s, "stage", st.id, why, (const char *)sqlite3_column_text(q, 4));
            continue;
        }
        struct store_stage *at = good > 0 ? db_grow(&out->at, &out->n, sizeof *at) : NULL;
        if (!at) {
            if (good > 0)
                store_stage_finish(&st);
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
        *at = st;
    }
    if (rc < 0)
        store_stages_finish(out);
    return rc;
}

/* The first stage that q gives, or DHA_E_NOT_FOUND. */
static int only(struct store *s, sqlite3_stmt *q, struct store_stage *out, struct dha_err *e)
{
    struct store_stages l;
    memset(out, 0, sizeof *out);
    if (collect(s, q, &l, e) != 0)
        return -1;
    if (l.n == 0)
        return dha_fail(e, DHA_E_NOT_FOUND,
                        "there is no such stage, or it was set aside as damaged");
    *out = l.at[0];
    memset(&l.at[0], 0, sizeof l.at[0]);
    store_stages_finish(&l);
    return 0;
}

int store_stage_get(struct store *s, int64_t id, struct store_stage *out, struct dha_err *e)
{
    if (only(s,
             db_query(s, e,
                      "SELECT " STAGE_COLUMNS " FROM stage s WHERE s.id = ?1 AND s.damaged = 0",
                      DB_I(id)),
             out, e) != 0)
        return dha_err_context(e, "stage %lld", (long long)id);
    return 0;
}

int store_stages_of_job(struct store *s, int64_t job, struct store_stages *out, struct dha_err *e)
{
    return collect(s,
                   db_query(s, e,
                            "SELECT " STAGE_COLUMNS " FROM stage s WHERE s.job = ?1"
                            " AND s.damaged = 0 ORDER BY s.ord",
                            DB_I(job)),
                   out, e);
}

int store_stages_in_state(struct store *s, enum stage_state state, struct store_stages *out,
                          struct dha_err *e)
{
    /* running: said literally, so that its partial index is used; this is asked once a turn */
    sqlite3_stmt *q = state == STAGE_RUNNING
                          ? db_query0(s, e,
                                      "SELECT " STAGE_COLUMNS
                                      " FROM stage s WHERE s.state = 'running'"
                                      " AND s.damaged = 0 ORDER BY s.id")
                          : db_query(s, e,
                                     "SELECT " STAGE_COLUMNS " FROM stage s WHERE s.state = ?1"
                                     " AND s.damaged = 0 ORDER BY s.id",
                                     DB_S(stage_state_name(state)));
    return collect(s, q, out, e);
}

int store_stage_done_by_key(struct store *s, const char *key, struct store_stage *out,
                            struct dha_err *e)
{
    return only(s,
                db_query(s, e,
                         "SELECT " STAGE_COLUMNS " FROM stage s WHERE s.key = ?1"
                         " AND s.state = 'done' AND s.damaged = 0 ORDER BY s.id DESC LIMIT 1",
                         DB_S(key)),
                out, e);
}

int store_stage_running_by_key(struct store *s, const char *key, struct store_stage *out,
                               struct dha_err *e)
{
    return only(s,
                db_query(s, e,
                         "SELECT " STAGE_COLUMNS " FROM stage s WHERE s.key = ?1"
                         " AND s.state = 'running' AND s.damaged = 0",
                         DB_S(key)),
                out, e);
}

/* ---- transitions ---- */

/* Moves the stage (id, job, attempt) that the query finds, with its event: 1 moved, 0 there is none, -1. */
static int move_found(struct store *s, sqlite3_stmt *q, const char *from, const char *to,
                      int64_t now_us, struct dha_err *e)
{
    int rc = q ? db_next(s, e, q) : -1;
    if (rc <= 0)
        return rc;
    int64_t id = sqlite3_column_int64(q, 0), job = sqlite3_column_int64(q, 1);
    int attempt = sqlite3_column_int(q, 2);
    db_reset(q);
    if (db_run(s, e, "UPDATE stage SET state = ?2 WHERE id = ?1", DB_I(id), DB_S(to)) != 0 ||
        event_move(s, "stage.state", job, id, attempt, from, to, NULL, now_us, e) != 0)
        return -1;
    return 1;
}

/* A stage is ready exactly when all before it are complete. */
static int make_next_ready(struct store *s, int64_t stage, int64_t now_us, struct dha_err *e)
{
    sqlite3_stmt *q = db_query(s, e,
                               "SELECT n.id, n.job, n.attempt FROM stage d JOIN stage n"
                               " ON n.job = d.job AND n.ord = d.ord + 1"
                               " WHERE d.id = ?1 AND n.state = 'pending' AND NOT EXISTS("
                               " SELECT 1 FROM stage p WHERE p.job = n.job AND p.ord < n.ord"
                               " AND p.state NOT IN ('done', 'reused'))",
                               DB_I(stage));
    return move_found(s, q, "pending", "ready", now_us, e) < 0 ? -1 : 0;
}

/* What comes after a stage that is not complete any more waits again, and says so. */
static int make_rest_wait(struct store *s, int64_t stage, int64_t now_us, struct dha_err *e)
{
    int rc;
    do {
        sqlite3_stmt *q = db_query(s, e,
                                   "SELECT n.id, n.job, n.attempt FROM stage d JOIN stage n"
                                   " ON n.job = d.job AND n.ord > d.ord"
                                   " WHERE d.id = ?1 AND n.state = 'ready' ORDER BY n.ord LIMIT 1",
                                   DB_I(stage));
        rc = move_found(s, q, "ready", "pending", now_us, e);
    } while (rc > 0);
    return rc;
}

/* Back to pending: ready at once if nothing before it is missing. */
static int settle_pending(struct store *s, const struct store_stage_move *m, enum stage_state *to,
                          struct dha_err *e)
{
    if (db_run(s, e,
               "UPDATE stage SET state = CASE WHEN EXISTS(SELECT 1 FROM stage p"
               " WHERE p.job = stage.job AND p.ord < stage.ord"
               " AND p.state NOT IN ('done', 'reused')) THEN 'pending' ELSE 'ready' END,"
               " retries = 0, not_before_us = 0, reused_from = NULL, output = NULL, tokens = 0,"
               " seconds = 0, peak_rss = 0, kv_parent = 0, kv_converted = 0, started_us = 0,"
               " ended_us = 0 WHERE id = ?1",
               DB_I(m->stage)) != 0)
        return -1;
    int64_t ready;
    if (db_scalar(s, e,
                  db_query(s, e, "SELECT state = 'ready' FROM stage WHERE id = ?1", DB_I(m->stage)),
                  0, &ready) != 0)
        return -1;
    *to = ready ? STAGE_READY : STAGE_PENDING;
    return 0;
}

static int take_results(struct store *s, const struct store_stage_move *m, struct dha_err *e)
{
    if (db_run(s, e,
               "UPDATE stage SET reused_from = r.id, out_dir = r.out_dir, output = r.output,"
               " tokens = r.tokens, seconds = r.seconds, peak_rss = r.peak_rss,"
               " kv_parent = r.kv_parent, kv_converted = r.kv_converted, steps = r.steps,"
               " step = r.step, step_tokens = r.step_tokens, loss = r.loss, lm = r.lm, kl = r.kl"
               " FROM stage r WHERE stage.id = ?1 AND r.id = ?2 AND r.state = 'done'"
               " AND r.key = stage.key AND r.id <> stage.id",
               DB_I(m->stage), DB_I(m->reused_from)) != 0)
        return -1;
    if (sqlite3_changes(s->db) != 1)
        return dha_fail(e, DHA_E_CONFLICT, "stage %lld is not done or has another key than %lld",
                        (long long)m->reused_from, (long long)m->stage);
    return 0;
}

static int apply_move(struct store *s, const struct store_stage_move *m, struct dha_err *e)
{
    const struct dha_err *err = m->error;
    enum stage_state to = m->to;
    if (db_run(s, e,
               "UPDATE stage SET state = ?4, retries = CASE WHEN ?13 THEN 0 ELSE retries END + ?5,"
               " not_before_us = ?6,"
               " error_code = ?7, error_message = ?8, error_hint = ?9,"
               " out_dir = coalesce(?10, out_dir), ended_us = CASE WHEN ?11 THEN ?12 ELSE 0 END"
               " WHERE id = ?1 AND state = ?2 AND attempt = ?3 AND damaged = 0",
               DB_I(m->stage), DB_S(stage_state_name(m->from)), DB_I(m->attempt),
               DB_S(stage_state_name(m->to)), DB_I(m->count_retry), DB_I(m->not_before_us),
               DB_S(err ? dha_code_name(err->code) : NULL), DB_S(err ? err->msg : NULL),
               DB_S(err ? err->hint : NULL), DB_S(m->out_dir), DB_I(stage_state_final(m->to)),
               DB_I(m->now_us), DB_I(m->renew_retries)) != 0)
        return -1;
    if (sqlite3_changes(s->db) != 1)
        return 0;
    int64_t job;
    if (db_scalar(s, e, db_query(s, e, "SELECT job FROM stage WHERE id = ?1", DB_I(m->stage)), 0,
                  &job) != 0 ||
        (to == STAGE_PENDING && settle_pending(s, m, &to, e) != 0) ||
        (to == STAGE_REUSED && take_results(s, m, e) != 0) ||
        ((to == STAGE_REUSED || m->from == STAGE_REUSED) && job_refresh_losses(s, job, e) != 0) ||
        event_move(s, "stage.state", job, m->stage, m->attempt, stage_state_name(m->from),
                   stage_state_name(to), m->reason, m->now_us, e) != 0 ||
        (m->to == STAGE_PENDING && make_rest_wait(s, m->stage, m->now_us, e) != 0))
        return -1;
    if (m->outbox && store_outbox_add(s, m->outbox, job, m->stage, m->attempt, m->outbox_args,
                                      m->now_us, e) != 0)
        return -1;
    if ((to == STAGE_DONE || to == STAGE_REUSED) && make_next_ready(s, m->stage, m->now_us, e) != 0)
        return -1;
    return 1;
}

int store_stage_transition(struct store *s, const struct store_stage_move *m, bool *changed,
                           struct dha_err *e)
{
    struct db_mark mark;
    *changed = false;
    if (!stage_move_allowed(m->from, m->to) || m->to == STAGE_RUNNING)
        return dha_fail(e, DHA_E_CONFLICT, "a stage cannot be moved from %s to %s",
                        stage_state_name(m->from), stage_state_name(m->to));
    if ((m->to == STAGE_REUSED) != (m->reused_from != 0))
        return dha_fail(e, DHA_E_INTERNAL, "reused_from goes with a move to reused");
    if (db_mark(s, &mark, e) != 0)
        return -1;
    int rc = apply_move(s, m, e);
    if (rc < 0)
        return db_undo(s, &mark);
    *changed = rc;
    return db_keep(s, &mark, e);
}

int store_stage_set_out_dir(struct store *s, int64_t stage, const char *out_dir, struct dha_err *e)
{
    if (store_begin(s, e) != 0)
        return -1;
    return db_run(s, e, "UPDATE stage SET out_dir = ?2 WHERE id = ?1", DB_I(stage), DB_S(out_dir));
}
