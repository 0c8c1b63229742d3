/* transfer.c: a job that another daemon ran, taken in with all that is known about it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/db.h"

int store_job_known(struct store *s, int64_t id, bool *known, struct dha_err *e)
{
    int64_t n;
    if (db_scalar(s, e, db_query(s, e, "SELECT 1 FROM job WHERE id = ?1", DB_I(id)), 0, &n) != 0)
        return -1;
    *known = n != 0;
    return 0;
}

static const char *or_null(const char *text)
{
    return text[0] ? text : NULL;
}

/* *out = JOBS/ID/relative (free it); NULL for NULL. */
static int below(const struct store_import *im, int64_t job, const char *relative, char **out,
                 struct dha_err *e)
{
    *out = NULL;
    if (relative && asprintf(out, "%s/%lld/%s", im->jobs_dir, (long long)job, relative) < 0) {
        *out = NULL;
        return db_no_memory(e);
    }
    return 0;
}

static int add_job(struct store *s, const struct store_import *im, int64_t *id, struct dha_err *e)
{
    const struct store_job *j = &im->job;
    if (!job_state_final(j->state))
        return dha_fail(e, DHA_E_INPUT, "the job is %s; only one that has ended can be taken in",
                        job_state_name(j->state));
    if (im->n_stages < 1 || im->n_stages > STAGE_KINDS)
        return dha_fail(e, DHA_E_INPUT, "the job has %zu stages", im->n_stages);
    if (db_run(s, e,
               "INSERT INTO job(owner_uid, name, method, budget, spec, state, priority, slots,"
               " device, submitted_us, started_us, ended_us, cancel_reason, error_code,"
               " error_message, error_hint, seed, walltime_s, nodes, slot_memory, node_names)"
               " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,"
               " coalesce(CAST(json_extract(?5, '$.resources.walltime') AS INTEGER), 0),"
               " max(coalesce(CAST(json_extract(?5, '$.resources.nodes') AS INTEGER), 1), 1),"
               " coalesce(CAST(json_extract(?5, '$.resources.memory_gib') * 1073741824 /"
               "  CASE WHEN ?9 = 'cuda' THEN 1 ELSE"
               "  max(coalesce(json_extract(?5, '$.resources.threads'), 1), 1) END AS INTEGER), 0),"
               " (SELECT coalesce(group_concat(value, ' '), '')"
               "  FROM json_each(?5, '$.resources.node_names')))",
               DB_I(j->owner_uid), DB_S(j->name), DB_S(j->method), DB_D(j->budget), DB_S(j->spec),
               DB_S(job_state_name(j->state)), DB_I(j->priority), DB_I(j->slots), DB_S(j->device),
               DB_I(j->submitted_us), DB_I(j->started_us), DB_I(j->ended_us),
               DB_S(j->cancel_reason), DB_S(or_null(j->error.code)),
               DB_S(j->error.code[0] ? j->error.message : NULL),
               DB_S(j->error.code[0] ? j->error.hint : NULL), DB_I(j->seed)) != 0)
        return -1;
    *id = sqlite3_last_insert_rowid(s->db);
    return 0;
}

/* What the job had taken from others came along as files of its own: so it is done, not reused. */
static int add_stage(struct store *s, const struct store_import *im, int64_t job, int ord,
                     int64_t *id, struct dha_err *e)
{
    const struct store_stage *st = &im->stages[ord].stage;
    enum stage_state state = st->state == STAGE_REUSED ? STAGE_DONE : st->state;
    char *out_dir = NULL, *output = NULL;
    int rc = -1;
    if (state == STAGE_RUNNING) {
        return dha_fail(e, DHA_E_INPUT, "stage %s of a job that has ended is running",
                        stage_kind_name(st->kind));
    }
    if (below(im, job, st->out_dir, &out_dir, e) == 0 &&
        below(im, job, st->output, &output, e) == 0)
        rc = db_run(
            s, e,
            "INSERT INTO stage(job, ord, kind, key, state, attempt, out_dir, output,"
            " started_us, ended_us, step, steps, step_tokens, loss, lm, kl, tokens, seconds,"
            " peak_rss, kv_parent, kv_converted, error_code, error_message, error_hint)"
            " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,"
            " ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)",
            DB_I(job), DB_I(ord), DB_S(stage_kind_name(st->kind)), DB_S(st->key),
            DB_S(stage_state_name(state)), DB_I(st->attempt), DB_S(out_dir), DB_S(output),
            DB_I(st->started_us), DB_I(st->ended_us), DB_I(st->progress.step),
            DB_I(st->progress.steps), DB_I(st->progress.tokens), DB_D(st->progress.loss),
            DB_D(st->progress.lm), DB_D(st->progress.kl), DB_I(st->tokens),
            DB_D(isfinite(st->seconds) ? st->seconds : 0), DB_I(st->peak_rss), DB_I(st->kv_parent),
            DB_I(st->kv_converted), DB_S(or_null(st->error.code)),
            DB_S(st->error.code[0] ? st->error.message : NULL),
            DB_S(st->error.code[0] ? st->error.hint : NULL));
    free(output);
    free(out_dir);
    *id = rc == 0 ? sqlite3_last_insert_rowid(s->db) : 0;
    return rc;
}

/* Under a new uuid: the old one may be here already, when a job comes back to where it ran. */
static int add_attempt(struct store *s, const struct store_import *im, int64_t job, int64_t stage,
                       const struct store_attempt *a, int64_t *id, struct dha_err *e)
{
    char uuid[STORE_UUID_SIZE];
    char *dir;
    snprintf(uuid, sizeof uuid, "import-%lld-%d", (long long)stage, a->number);
    if (below(im, job, a->dir, &dir, e) != 0)
        return -1;
    int rc = db_run(
        s, e,
        "INSERT INTO attempt(stage, number, uuid, state, dir, host, backend, ranks,"
        " steps, resumed_from, started_us, hello_us, ended_us, exit_code, error_code,"
        " error_message, error_hint) VALUES(?1, ?2, ?3, 'ended', ?4, ?5, ?6, ?7, ?8, ?9,"
        " ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        DB_I(stage), DB_I(a->number), DB_S(uuid), DB_S(dir), DB_S(or_null(a->host)),
        DB_S(or_null(a->backend)), DB_I(a->ranks), DB_I(a->steps), DB_I(a->resumed_from),
        DB_I(a->started_us), DB_I(a->hello_us), DB_I(a->ended_us ? a->ended_us : im->now_us),
        DB_I(a->exit_code), DB_S(or_null(a->error.code)),
        DB_S(a->error.code[0] ? a->error.message : NULL),
        DB_S(a->error.code[0] ? a->error.hint : NULL));
    free(dir);
    *id = rc == 0 ? sqlite3_last_insert_rowid(s->db) : 0;
    return rc;
}

static int add_attempts(struct store *s, const struct store_import *im, int64_t job, int64_t stage,
                        const struct store_import_stage *p, struct dha_err *e)
{
    for (size_t i = 0; i < p->attempts.n; i++) {
        const struct store_attempt *a = &p->attempts.at[i];
        int64_t id;
        if (add_attempt(s, im, job, stage, a, &id, e) != 0)
            return -1;
        for (size_t k = 0; k < p->n_points; k++)
            if (p->points[k].attempt == a->number)
                metric_add(s, id, p->points[k].name, p->points[k].step, p->points[k].tokens,
                           p->points[k].value);
    }
    return 0;
}

static int add_heads(struct store *s, int64_t stage, const struct store_head_budget *h,
                     struct dha_err *e)
{
    cJSON *list = cJSON_CreateIntArray(h->map, h->n_map);
    char *map = list ? json_text(list) : NULL;
    cJSON_Delete(list);
    if (!map)
        return db_no_memory(e);
    int rc = db_run(s, e,
                    "INSERT INTO head_budget(stage, layer, value, heads, map)"
                    " VALUES(?1, ?2, ?3, ?4, ?5)",
                    DB_I(stage), DB_I(h->layer), DB_I(h->value), DB_I(h->heads), DB_S(map));
    free(map);
    return rc;
}

static int add_records(struct store *s, const struct store_import *im, int64_t job, int64_t stage,
                       const struct store_import_stage *p, struct dha_err *e)
{
    for (size_t i = 0; i < p->n_evals; i++) {
        const struct store_eval *v = &p->evals[i];
        if (db_run(s, e,
                   "INSERT INTO eval(stage, attempt, name, step, loss, tokens, windows,"
                   " trained_tokens, time_us) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                   DB_I(stage), DB_I(v->attempt), DB_S(v->name), DB_I(v->step), DB_D(v->loss),
                   DB_I(v->tokens), DB_I(v->windows), DB_I(v->trained_tokens),
                   DB_I(v->time_us)) != 0)
            return -1;
    }
    for (size_t i = 0; i < p->n_heads; i++)
        if (add_heads(s, stage, &p->heads[i], e) != 0)
            return -1;
    for (size_t i = 0; i < p->n_checkpoints; i++) {
        const struct store_checkpoint *c = &p->checkpoints[i];
        char *path;
        if (below(im, job, c->path, &path, e) != 0)
            return -1;
        int rc = db_run(s, e,
                        "INSERT INTO checkpoint(stage, attempt, step, bytes, path, digest, state,"
                        " created_us) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                        DB_I(stage), DB_I(c->attempt), DB_I(c->step), DB_I(c->bytes), DB_S(path),
                        DB_S(c->digest), DB_S(c->state), DB_I(c->created_us));
        free(path);
        if (rc != 0)
            return -1;
    }
    return 0;
}

static int add_all(struct store *s, const struct store_import *im, int64_t *id, struct dha_err *e)
{
    if (add_job(s, im, id, e) != 0)
        return -1;
    for (size_t i = 0; i < im->n_stages; i++) {
        int64_t stage;
        if (add_stage(s, im, *id, (int)i, &stage, e) != 0 ||
            add_attempts(s, im, *id, stage, &im->stages[i], e) != 0 ||
            add_records(s, im, *id, stage, &im->stages[i], e) != 0)
            return dha_err_context(e, "stage %s", stage_kind_name(im->stages[i].stage.kind));
    }
    if (job_refresh_losses(s, *id, e) != 0)
        return -1;
    cJSON *data = cJSON_CreateObject();
    int rc = json_put_str(data, "name", im->job.name) |
             json_put_str(data, "state", job_state_name(im->job.state)) |
             json_put_str(data, "from", im->origin) | json_put_id(data, "was_job", im->job.id);
    if (rc != 0) {
        cJSON_Delete(data);
        data = NULL;
    }
    return event_json(s, "job.import", *id, 0, 0, data, im->now_us, e);
}

int store_import(struct store *s, const struct store_import *im, int64_t *id, struct dha_err *e)
{
    struct db_mark m;
    *id = 0;
    if (db_mark(s, &m, e) != 0)
        return -1;
    if (add_all(s, im, id, e) != 0) {
        *id = 0;
        return db_undo(s, &m);
    }
    return db_keep(s, &m, e);
}

void store_import_finish(struct store_import *im)
{
    store_job_finish(&im->job);
    for (size_t i = 0; i < im->n_stages; i++) {
        struct store_import_stage *p = &im->stages[i];
        store_stage_finish(&p->stage);
        store_attempts_finish(&p->attempts);
        free(p->evals);
        free(p->heads);
        free(p->checkpoints);
        free(p->points);
    }
    free(im->jobs_dir);
    free(im->origin);
    memset(im, 0, sizeof *im);
}
