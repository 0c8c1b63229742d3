/* stage_eval.c: the loss of the finished model on the validation windows (of a mixture, of each domain), and with eval.tasks the
 * scores of the parent and the finished model. Leaves eval.json:
 *   {"loss", "seq_len", "model", "domains": {NAME: loss, ...}, "tasks": [{"model": "parent" | "final", "task", "questions",
 *    "acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "exact_match", "cut"}, ...]}
 * and with tasks details.jsonl, one line a question and model.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "worker/eval/tasks.h"
#include "worker/stage.h"

static void journal_task(struct stage *st, const char *model, enum task t,
                         const struct task_score *v)
{
    struct record r = {.type = REC_TASK};
    snprintf(r.task.model, sizeof r.task.model, "%s", model);
    snprintf(r.task.task, sizeof r.task.task, "%s", task_name(t));
    r.task.questions = v->questions;
    r.task.acc = v->acc;
    r.task.acc_stderr = v->acc_stderr;
    r.task.acc_norm = v->acc_norm;
    r.task.acc_norm_stderr = v->acc_norm_stderr;
    r.task.exact_match = v->exact_match;
    journal_write(st->journal, &r);
}

/* All tasks of one model, appended to `list`. */
static int score(struct stage *st, struct model *m, const char *name, const struct spm *spm,
                 FILE *details, cJSON *list, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    struct task_options o = {
        .shots = s->eval_shots, .limit = s->eval_limit, .details = details, .model = name};
    for (int i = 0; i < s->n_eval_tasks; i++) {
        enum task t;
        struct task_score v;
        if (task_from_name(s->eval_tasks[i].name, &t, e) ||
            task_run(m, spm, t, s->eval_tasks[i].path, &o, st->comm, &v, e))
            return dha_err_context(e, "the %s model", name);
        journal_task(st, name, t, &v);
        cJSON *j = task_score_json(t, &v);
        if (!j || json_put_str(j, "model", name) || !cJSON_AddItemToArray(list, j)) {
            cJSON_Delete(j);
            return dha_fail(e, DHA_E_NO_MEMORY, "no memory for the scores");
        }
    }
    return 0;
}

static int score_both(struct stage *st, struct model *final, cJSON *list, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    struct model *parent = NULL;
    struct spm *spm = NULL;
    FILE *details = NULL;
    char path[PATH_MAX];
    int rc = stage_load_parent(st, &parent, e);
    if (rc)
        return -1;
    rc = task_tokenizer(s->model, s->data.tokenizer, parent->cfg.vocab, &spm, e);
    if (rc == 0 && st->comm->rank == 0) {
        rc = stage_out(st, path, sizeof path, "details.jsonl", e);
        if (rc == 0 && !(details = fopen(path, "we")))
            rc = dha_fail_errno(e, errno, "creating %s", path);
    }
    rc = comm_agree(st->comm, rc, e);
    if (rc == 0)
        rc = score(st, parent, "parent", spm, details, list, e) ||
                     score(st, final, "final", spm, details, list, e)
                 ? -1
                 : 0;
    if (details && fclose(details) != 0 && rc == 0)
        rc = dha_fail_errno(e, errno, "writing %s", path);
    spm_close(spm);
    model_free(parent);
    return comm_agree(st->comm, rc, e);
}

static cJSON *describe(const struct stage *st, const struct eval_result *v, const char *model)
{
    cJSON *j = cJSON_CreateObject(), *domains = NULL;
    int rc = json_put_num(j, "loss", v->loss) | json_put_int(j, "seq_len", st->seq) |
             json_put_str(j, "model", model);
    if (v->n_domains > 0)
        rc |= json_put(j, "domains", domains = cJSON_CreateObject());
    for (int i = 0; rc == 0 && i < v->n_domains; i++)
        rc = json_put_num(domains, v->domain[i].name, v->domain[i].loss);
    if (rc == 0)
        return j;
    cJSON_Delete(j);
    return NULL;
}

int stage_eval(struct stage *st, struct dha_err *e)
{
    struct model *m = NULL;
    struct eval_result v;
    cJSON *j = NULL, *tasks = NULL;
    char path[PATH_MAX];
    int rc = -1;
    stage_hello(st, 0, -1);
    if (stage_input_model(st, path, sizeof path, e) || model_load(&m, st->k, path, e) ||
        stage_open_data(st, &m->cfg, e) || stage_evaluate_all(st, m, "final", &v, e))
        goto out;
    j = describe(st, &v, path);
    if (j && st->s->spec.n_eval_tasks > 0 &&
        json_put(j, "tasks", tasks = cJSON_CreateArray()) != 0) {
        cJSON_Delete(j);
        j = NULL;
    }
    rc = j ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "no memory for eval.json");
    rc = comm_agree(st->comm, rc, e);
    if (rc == 0 && tasks)
        rc = score_both(st, m, tasks, e);
    if (rc == 0 && st->comm->rank == 0) {
        rc = stage_out(st, path, sizeof path, "eval.json", e);
        if (rc == 0)
            rc = json_write_file(path, j, e);
    }
    rc = comm_agree(st->comm, rc, e);
    stage_output(st, "eval.json");
out:
    cJSON_Delete(j);
    model_free(m);
    return rc;
}
