/* ingest.c: what a journal said, into the tables, with the offset to which it was read: one transaction. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/db.h"

struct target {
    int64_t attempt, stage, job;
    int number;
    bool newest; /* the stage's newest attempt: only this one changes the stage */
    int64_t now_us;
};

static int find_target(struct store *s, struct target *t, struct dha_err *e)
{
    sqlite3_stmt *q = db_query(
        s, e,
        "SELECT a.stage, s.job, a.number, a.number = s.attempt FROM attempt a"
        " JOIN stage s ON s.id = a.stage WHERE a.id = ?1",
        DB_I(t->attempt));
    int rc = q ? db_next(s, e, q) : -1;
    if (rc < 0)
        return -1;
    if (rc == 0)
        return dha_fail(e, DHA_E_NOT_FOUND, "there is no attempt %lld", (long long)t->attempt);
    t->stage = sqlite3_column_int64(q, 0);
    t->job = sqlite3_column_int64(q, 1);
    t->number = sqlite3_column_int(q, 2);
    t->newest = sqlite3_column_int(q, 3);
    db_reset(q);
    return 0;
}

/* json holds what is to be said; rc what went wrong building it. */
static int say(struct store *s, const struct target *t, const char *type, cJSON *json, int rc,
               struct dha_err *e)
{
    if (rc != 0) {
        cJSON_Delete(json);
        return db_no_memory(e);
    }
    return event_json(s, type, t->job, t->stage, t->number, json, t->now_us, e);
}

static int hello(struct store *s, const struct target *t, const struct record *r, struct dha_err *e)
{
    if (db_run(s, e,
               "UPDATE attempt SET host = ?2, backend = ?3, ranks = ?4, steps = ?5,"
               " resumed_from = ?6, hello_us = ?7,"
               " state = CASE state WHEN 'starting' THEN 'running' ELSE state END WHERE id = ?1",
               DB_I(t->attempt), DB_S(r->hello.host), DB_S(r->hello.backend), DB_I(r->hello.ranks),
               DB_I(r->hello.steps), DB_I(r->hello.resumed_from), DB_I(t->now_us)) != 0)
        return -1;
    if (t->newest && db_run(s, e,
                            "UPDATE stage SET steps = ?2, step = max(?3, 0), changed_us = ?4"
                            " WHERE id = ?1",
                            DB_I(t->stage), DB_I(r->hello.steps), DB_I(r->hello.resumed_from),
                            DB_I(t->now_us)) != 0)
        return -1;
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "host", r->hello.host);
    rc |= json_put_str(j, "backend", r->hello.backend);
    rc |= json_put_int(j, "ranks", r->hello.ranks);
    rc |= json_put_int(j, "steps", r->hello.steps);
    rc |= json_put_int(j, "resumed_from", r->hello.resumed_from);
    return say(s, t, "attempt.hello", j, rc, e);
}

/* One event a phase, not one a record of it, and none for what is only declared (no total): the log is for people. */
static int phase(struct store *s, const struct target *t, const struct record *r, struct dha_err *e)
{
    int64_t same;
    if (!t->newest)
        return 0;
    if (db_scalar(s, e,
                  db_query(s, e, "SELECT phase IS ?2 FROM stage WHERE id = ?1", DB_I(t->stage),
                           DB_S(r->phase.name)),
                  0, &same) != 0 ||
        db_run(s, e,
               "UPDATE stage SET changed_us = CASE WHEN phase IS ?2 AND phase_done = ?3"
               " THEN changed_us ELSE ?5 END, phase = ?2, phase_done = ?3, phase_total = ?4"
               " WHERE id = ?1",
               DB_I(t->stage), DB_S(r->phase.name), DB_I(r->phase.done), DB_I(r->phase.total),
               DB_I(t->now_us)) != 0)
        return -1;
    if (same || r->phase.total == 0)
        return 0;
    cJSON *j = cJSON_CreateObject();
    return say(s, t, "stage.phase", j, json_put_str(j, "phase", r->phase.name), e);
}

static int progress(struct store *s, const struct target *t, const struct record *r,
                    struct dha_err *e)
{
    const struct {
        const char *name;
        double value;
        bool optional; /* left out when it is NaN: there is no operator */
    } points[] = {
        {"loss", r->progress.loss, false},
        {"lm", r->progress.lm, false},
        {"kl", r->progress.kl, false},
        {"lr", r->progress.lr, false},
        {"grad_norm", r->progress.grad_norm, false},
        {"tokens_per_s", r->progress.tokens_per_s, false},
        {"comm_ms", r->progress.comm_ms, false},
        {"fusion_loss", r->progress.fusion_loss, true},
        {"lambda", r->progress.lambda, true},
        {"threshold", r->progress.threshold, true},
        {"bild", r->progress.bild, true},
        {"closed", r->progress.closed, true},
        {"teacher_ms", r->progress.teacher_ms, true},
    };
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
        if (!points[i].optional || !isnan(points[i].value))
            metric_add(s, t->attempt, points[i].name, r->progress.step, r->progress.tokens,
                       points[i].value);
    if (!t->newest)
        return 0;
    return db_run(
        s, e,
        "UPDATE stage SET changed_us = CASE step WHEN ?2 THEN changed_us ELSE ?12 END, step = ?2,"
        " steps = CASE ?3 WHEN 0 THEN steps ELSE ?3 END, step_tokens = ?4, tokens_per_s = ?5,"
        " loss = ?6, lm = ?7, kl = ?8, fusion_loss = ?9, eta_s = ?10, phase = ?11 WHERE id = ?1",
        DB_I(t->stage), DB_I(r->progress.step), DB_I(r->progress.steps), DB_I(r->progress.tokens),
        DB_D(r->progress.tokens_per_s), DB_D(r->progress.loss), DB_D(r->progress.lm),
        DB_D(r->progress.kl), DB_D(r->progress.fusion_loss), DB_D(r->progress.eta_s), DB_S(NULL),
        DB_I(t->now_us));
}

/* A metric of its own for each layer and kind: "fusion_loss.3.key". */
static int layer(struct store *s, const struct target *t, const struct record *r, struct dha_err *e)
{
    char name[48];
    (void)e;
    snprintf(name, sizeof name, "%s.%d.%s", r->layer.name, r->layer.layer, r->layer.kind);
    if (isfinite(r->layer.value))
        metric_add(s, t->attempt, name, r->layer.step, 0, r->layer.value);
    return 0;
}

static int head_budget(struct store *s, const struct target *t, const struct record *r,
                       struct dha_err *e)
{
    char map[4 * 256 + 3]; /* at most "255," each */
    size_t n = 0;
    if (!t->newest)
        return 0;
    map[n++] = '[';
    for (int i = 0; i < r->head_budget.n_map && i < 256; i++)
        n += (size_t)snprintf(map + n, sizeof map - n, i ? ",%u" : "%u",
                              (unsigned)r->head_budget.map[i] & 255);
    memcpy(map + n, "]", 2);
    return db_run(s, e,
                  "INSERT OR REPLACE INTO head_budget(stage, layer, value, heads, map)"
                  " VALUES(?1, ?2, ?3, ?4, ?5)",
                  DB_I(t->stage), DB_I(r->head_budget.layer),
                  DB_I(strcmp(r->head_budget.kind, "value") == 0), DB_I(r->head_budget.heads),
                  DB_S(map));
}

static int checkpoint(struct store *s, const struct target *t, const struct record *r,
                      struct dha_err *e)
{
    if (db_run(s, e,
               "INSERT INTO checkpoint(stage, attempt, step, bytes, path, digest, state,"
               " created_us) VALUES(?1, ?2, ?3, ?4, ?5, ?6, 'complete', ?7)"
               " ON CONFLICT(stage, path) DO UPDATE SET attempt = ?2, step = ?3, bytes = ?4,"
               " digest = ?6, state = 'complete', created_us = ?7",
               DB_I(t->stage), DB_I(t->number), DB_I(r->checkpoint.step), DB_I(r->checkpoint.bytes),
               DB_S(r->checkpoint.path), DB_S(r->checkpoint.digest), DB_I(t->now_us)) != 0)
        return -1;
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_int(j, "step", r->checkpoint.step);
    rc |= json_put_id(j, "bytes", r->checkpoint.bytes);
    rc |= json_put_str(j, "path", r->checkpoint.path);
    if (!isnan(r->checkpoint.valid_loss))
        rc |= json_put_num(j, "valid_loss", r->checkpoint.valid_loss);
    return say(s, t, "checkpoint", j, rc, e);
}

/* An evaluation at a step that was repeated after a resume is the same number again. */
static int eval(struct store *s, const struct target *t, const struct record *r, struct dha_err *e)
{
    if (db_run(s, e,
               "INSERT INTO eval(stage, attempt, name, step, loss, tokens, windows,"
               " trained_tokens, time_us) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
               " ON CONFLICT(stage, name, step) DO UPDATE SET attempt = ?2, loss = ?5,"
               " tokens = ?6, windows = ?7, trained_tokens = ?8, time_us = ?9 WHERE ?10",
               DB_I(t->stage), DB_I(t->number), DB_S(r->eval.name), DB_I(r->eval.step),
               DB_D(r->eval.loss), DB_I(r->eval.tokens), DB_I(r->eval.windows),
               DB_I(r->eval.trained_tokens), DB_I(t->now_us), DB_I(t->newest)) != 0)
        return -1;
    if (strcmp(r->eval.name, "valid") != 0 && job_refresh_losses(s, t->job, e) != 0)
        return -1;
    if (strcmp(r->eval.name, "valid") == 0)
        metric_add(s, t->attempt, "eval_valid", r->eval.step, r->eval.trained_tokens, r->eval.loss);
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "name", r->eval.name);
    rc |= json_put_num(j, "loss", r->eval.loss);
    rc |= json_put_int(j, "step", r->eval.step);
    rc |= json_put_int(j, "trained_tokens", r->eval.trained_tokens);
    return say(s, t, "eval", j, rc, e);
}

/* Scores go into the stage's eval.json; here they are told to whoever listens. */
static int task(struct store *s, const struct target *t, const struct record *r, struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "model", r->task.model);
    rc |= json_put_str(j, "task", r->task.task);
    rc |= json_put_int(j, "questions", r->task.questions);
    rc |= json_put_num(j, "acc", r->task.acc);
    rc |= json_put_num(j, "acc_stderr", r->task.acc_stderr);
    rc |= json_put_num(j, "acc_norm", r->task.acc_norm);
    rc |= json_put_num(j, "acc_norm_stderr", r->task.acc_norm_stderr);
    rc |= json_put_num(j, "exact_match", r->task.exact_match);
    return say(s, t, "task", j, rc, e);
}

/* The first error is the cause; what follows it are its consequences. */
static int error(struct store *s, const struct target *t, const struct record *r, struct dha_err *e)
{
    if (db_run(s, e,
               "UPDATE attempt SET error_code = ?2, error_message = ?3, error_hint = ?4"
               " WHERE id = ?1 AND error_code IS NULL",
               DB_I(t->attempt), DB_S(r->error.code), DB_S(r->error.message),
               DB_S(r->error.hint)) != 0)
        return -1;
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "code", r->error.code);
    rc |= json_put_str(j, "message", r->error.message);
    rc |= json_put_str(j, "hint", r->error.hint);
    return say(s, t, "attempt.error", j, rc, e);
}

static int bye(struct store *s, const struct target *t, const struct record *r, struct dha_err *e)
{
    if (t->newest &&
        db_run(s, e,
               "UPDATE stage SET tokens = ?2, seconds = ?3, peak_rss = ?4, kv_parent = ?5,"
               " kv_converted = ?6, output = nullif(?7, '') WHERE id = ?1",
               DB_I(t->stage), DB_I(r->bye.tokens),
               DB_D(isfinite(r->bye.seconds) ? r->bye.seconds : 0), DB_I(r->bye.peak_rss),
               DB_I(r->bye.kv_parent), DB_I(r->bye.kv_converted), DB_S(r->bye.output)) != 0)
        return -1;
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "code", r->bye.code);
    rc |= json_put_int(j, "tokens", r->bye.tokens);
    rc |= json_put_num(j, "seconds", r->bye.seconds);
    return say(s, t, "attempt.bye", j, rc, e);
}

typedef int apply_fn(struct store *, const struct target *, const struct record *,
                     struct dha_err *);

static apply_fn *const apply[] = {
    [REC_HELLO] = hello,
    [REC_PHASE] = phase,
    [REC_PROGRESS] = progress,
    [REC_HEAD_BUDGET] = head_budget,
    [REC_CHECKPOINT] = checkpoint,
    [REC_EVAL] = eval,
    [REC_ERROR] = error,
    [REC_BYE] = bye,
    [REC_TASK] = task,
    [REC_LAYER] = layer,
    [REC_UNKNOWN] = NULL, /* of a newer worker: skipped, but counted in the offset */
};
_Static_assert(sizeof apply / sizeof apply[0] == REC_UNKNOWN + 1, "a row each record type");

static int move_offset(struct store *s, int64_t attempt, int64_t from, int64_t to, bool *stale,
                       struct dha_err *e)
{
    if (db_run(s, e, "UPDATE attempt SET journal_offset = ?3 WHERE id = ?1 AND journal_offset = ?2",
               DB_I(attempt), DB_I(from), DB_I(to)) != 0)
        return -1;
    *stale = sqlite3_changes(s->db) != 1;
    return 0;
}

static int ingest(struct store *s, struct target *t, int64_t from, int64_t to,
                  const struct record *records, size_t n, bool *stale, struct dha_err *e)
{
    if (find_target(s, t, e) != 0 || move_offset(s, t->attempt, from, to, stale, e) != 0)
        return -1;
    for (size_t i = 0; i < n && !*stale; i++) {
        enum record_type type = records[i].type;
        apply_fn *fn = (unsigned)type <= REC_UNKNOWN ? apply[type] : NULL;
        if (fn && fn(s, t, &records[i], e) != 0)
            return dha_err_context(e, "record %zu of %zu (%s)", i + 1, n, record_type_name(type));
    }
    return 0;
}

int store_ingest(struct store *s, int64_t attempt, int64_t from_offset, int64_t to_offset,
                 const struct record *records, size_t n, int64_t now_us, bool *stale,
                 struct dha_err *e)
{
    struct db_mark m;
    struct target t = {.attempt = attempt, .now_us = now_us};
    *stale = false;
    if (to_offset < from_offset)
        return dha_fail(e, DHA_E_INTERNAL, "a journal is not read backwards");
    s->now_us = now_us;
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (ingest(s, &t, from_offset, to_offset, records, n, stale, e) != 0) {
        *stale = false;
        return db_undo(s, &m);
    }
    return db_keep(s, &m, e);
}

int store_ingest_back(struct store *s, int64_t attempt, int64_t from_offset, int64_t to_offset,
                      bool *stale, struct dha_err *e)
{
    *stale = false;
    if (to_offset >= from_offset || to_offset < 0)
        return dha_fail(e, DHA_E_INTERNAL, "a journal that was cut is shorter than before");
    return move_offset(s, attempt, from_offset, to_offset, stale, e);
}

/* ---- what the records said ---- */

int store_checkpoints(struct store *s, int64_t job, int64_t stage, struct store_checkpoint **out,
                      size_t *n, struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    sqlite3_stmt *q =
        job ? db_query(s, e,
                       "SELECT c.id, c.stage, c.attempt, c.step, c.bytes, c.created_us, c.path,"
                       " c.digest, c.state FROM stage s JOIN checkpoint c ON c.stage = s.id"
                       " WHERE s.job = ?1 ORDER BY c.id",
                       DB_I(job))
            : db_query(s, e,
                       "SELECT id, stage, attempt, step, bytes, created_us, path, digest, state"
                       " FROM checkpoint WHERE stage = ?1 ORDER BY id",
                       DB_I(stage));
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        struct store_checkpoint *c = db_grow(out, n, sizeof *c);
        if (!c) {
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
        c->id = sqlite3_column_int64(q, 0);
        c->stage = sqlite3_column_int64(q, 1);
        c->attempt = sqlite3_column_int64(q, 2);
        c->step = sqlite3_column_int64(q, 3);
        c->bytes = sqlite3_column_int64(q, 4);
        c->created_us = sqlite3_column_int64(q, 5);
        db_copy(q, 6, c->path, sizeof c->path);
        db_copy(q, 7, c->digest, sizeof c->digest);
        db_copy(q, 8, c->state, sizeof c->state);
    }
    if (rc < 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

int store_checkpoint_mark(struct store *s, int64_t id, const char *state, int64_t now_us,
                          struct dha_err *e)
{
    struct db_mark m;
    if (strcmp(state, "complete") != 0 && strcmp(state, "deleted") != 0 &&
        strcmp(state, "bad") != 0)
        return dha_fail(e, DHA_E_INTERNAL, "\"%.20s\" is no state of a checkpoint", state);
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (db_run(s, e, "UPDATE checkpoint SET state = ?2 WHERE id = ?1", DB_I(id), DB_S(state)) != 0)
        return db_undo(s, &m);
    if (sqlite3_changes(s->db) != 1) {
        dha_fail(e, DHA_E_NOT_FOUND, "there is no checkpoint %lld", (long long)id);
        return db_undo(s, &m);
    }
    int64_t stage, job;
    if (db_scalar(s, e, db_query(s, e, "SELECT stage FROM checkpoint WHERE id = ?1", DB_I(id)), 0,
                  &stage) != 0 ||
        db_scalar(s, e, db_query(s, e, "SELECT job FROM stage WHERE id = ?1", DB_I(stage)), 0,
                  &job) != 0 ||
        event_move(s, "checkpoint.state", job, stage, 0, NULL, state, NULL, now_us, e) != 0)
        return db_undo(s, &m);
    return db_keep(s, &m, e);
}

/* "[0,0,1]" as head_budget() writes it; a map that is damaged reads as empty. -1: out of memory. */
static int read_map(const char *text, struct store_head_budget *b)
{
    struct dha_err bad = {0};
    cJSON *j = text ? json_parse(text, strlen(text), NULL, &bad) : NULL;
    const cJSON *c;
    cJSON_ArrayForEach(c, j)
    {
        int64_t v;
        if (b->n_map == 256 || !json_to_int(c, &v) || v < 0 || v > 255) {
            b->n_map = 0;
            break;
        }
        b->map[b->n_map++] = (int)v;
    }
    cJSON_Delete(j);
    return bad.code == DHA_E_NO_MEMORY ? -1 : 0;
}

int store_head_budgets(struct store *s, int64_t stage, struct store_head_budget **out, size_t *n,
                       struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    sqlite3_stmt *q = db_query(s, e,
                               "SELECT layer, value, heads, map FROM head_budget WHERE stage = ?1"
                               " ORDER BY layer, value",
                               DB_I(stage));
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        struct store_head_budget *b = db_grow(out, n, sizeof *b);
        if (!b) {
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
        b->layer = sqlite3_column_int(q, 0);
        b->value = sqlite3_column_int(q, 1);
        b->heads = sqlite3_column_int(q, 2);
        if (read_map((const char *)sqlite3_column_text(q, 3), b) != 0) {
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
    }
    if (rc < 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

int store_evals(struct store *s, int64_t stage, struct store_eval **out, size_t *n,
                struct dha_err *e)
{
    *out = NULL;
    *n = 0;
    sqlite3_stmt *q = db_query(s, e,
                               "SELECT attempt, name, loss, tokens, windows, step, trained_tokens,"
                               " time_us FROM eval WHERE stage = ?1 ORDER BY step, id",
                               DB_I(stage));
    int rc = q ? 1 : -1;
    while (rc == 1 && (rc = db_next(s, e, q)) == 1) {
        struct store_eval *v = db_grow(out, n, sizeof *v);
        if (!v) {
            db_reset(q);
            rc = db_no_memory(e);
            break;
        }
        v->stage = stage;
        v->attempt = sqlite3_column_int(q, 0);
        db_copy(q, 1, v->name, sizeof v->name);
        v->loss = db_real(q, 2);
        v->tokens = sqlite3_column_int64(q, 3);
        v->windows = sqlite3_column_int64(q, 4);
        v->step = sqlite3_column_int64(q, 5);
        v->trained_tokens = sqlite3_column_int64(q, 6);
        v->time_us = sqlite3_column_int64(q, 7);
    }
    if (rc < 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}
