/* cmd_tasks.c: `tasks`: a model's scores on benchmark files (worker/eval/tasks.h). */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/cmd.h"
#include "worker/eval/tasks.h"

struct wanted {
    enum task task;
    const char *path;
};

/* "arc-e=FILE" */
static int read_wanted(const char *arg, struct wanted *w, struct dha_err *e)
{
    char name[32];
    const char *eq = strchr(arg, '=');
    if (!eq || eq == arg || eq[1] == '\0' || (size_t)(eq - arg) >= sizeof name) {
        dha_fail(e, DHA_E_USAGE, "--task \"%.80s\" is not of the form TASK=FILE", arg);
        return dha_err_hint(e, "for example --task arc-e=arc-e.jsonl");
    }
    snprintf(name, sizeof name, "%.*s", (int)(eq - arg), arg);
    w->path = eq + 1;
    return task_from_name(name, &w->task, e);
}

static int print_json(const struct wanted *w, const struct task_score *v, int n, struct dha_err *e)
{
    cJSON *doc = cJSON_CreateObject(), *list = cJSON_CreateArray();
    int rc = json_put(doc, "tasks", list);
    for (int i = 0; rc == 0 && i < n; i++) {
        cJSON *o = task_score_json(w[i].task, &v[i]);
        if (!o || !cJSON_AddItemToArray(list, o)) {
            cJSON_Delete(o);
            rc = -1;
        }
    }
    char *text = rc ? NULL : json_text_pretty(doc);
    if (text)
        puts(text);
    else
        rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for the scores");
    free(text);
    cJSON_Delete(doc);
    return rc;
}

/* Shares in percent with their standard errors; " - " where there is none. */
static void print_share(double p, double err)
{
    if (isnan(p))
        printf("%17s", "-");
    else if (isnan(err))
        printf("%8.2f %8s", 100 * p, "");
    else
        printf("%8.2f +- %5.2f", 100 * p, 100 * err);
}

static void print_table(const struct wanted *w, const struct task_score *v, int n)
{
    printf("%-12s %9s %17s %17s %9s\n", "task", "questions", "acc %", "acc_norm %", "exact %");
    for (int i = 0; i < n; i++) {
        printf("%-12s %9lld ", task_name(w[i].task), (long long)v[i].questions);
        print_share(v[i].acc, v[i].acc_stderr);
        printf(" ");
        print_share(v[i].acc_norm, v[i].acc_norm_stderr);
        printf(" %9.2f", 100 * v[i].exact_match);
        if (v[i].cut > 0)
            printf("  (%lld questions cut from the left to fit)", (long long)v[i].cut);
        printf("\n");
    }
}

struct tools {
    struct kern *k;
    struct model *m;
    struct spm *spm;
    FILE *details;
};

static int open_tools(struct tools *t, const char *model, const char *tokenizer,
                      const char *details, const char *backend, int threads, bool rank0,
                      struct dha_err *e)
{
    struct kern_err ke = {0};
    t->k = kern_open(backend, threads, &ke);
    if (!t->k)
        return dha_fail(e, DHA_E_INTERNAL, "backend %s: %s", backend, ke.msg);
    if (model_load(&t->m, t->k, model, e) ||
        task_tokenizer(model, tokenizer, t->m->cfg.vocab, &t->spm, e))
        return -1;
    if (details && rank0 && !(t->details = fopen(details, "we")))
        return dha_fail_errno(e, errno, "creating %s", details);
    return 0;
}

static int close_tools(struct tools *t, const char *details, struct dha_err *e)
{
    int rc = t->details && fclose(t->details) ? dha_fail_errno(e, errno, "writing %s", details) : 0;
    spm_close(t->spm);
    model_free(t->m);
    if (t->k)
        kern_close(t->k);
    return rc;
}

int cmd_tasks(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    const char *tokenizer = NULL, *details = NULL, *backend = "cpu", *task[OPTION_MANY];
    int n = 0;
    long long shots = 0, limit = 0, threads = 0;
    bool as_json = false, bos = false;
    const struct option_spec options[] = {
        {.name = "task", .many = task, .n_many = &n, .required = true},
        {.name = "tokenizer", .str = &tokenizer},
        {.name = "shots", .num = &shots},
        {.name = "limit", .num = &limit},
        {.name = "bos", .flag = &bos},
        {.name = "details", .str = &details},
        {.name = "threads", .num = &threads},
        {.name = "backend", .str = &backend},
        {.name = "json", .flag = &as_json},
        {0}};
    struct wanted w[OPTION_MANY];
    struct task_score v[OPTION_MANY];
    struct tools t = {0};
    int first = cmd_options(argc, argv, options, e);
    if (first < 0)
        return -1;
    if (first != argc - 1)
        return dha_fail(e, DHA_E_USAGE, "exactly one model directory is needed");
    if (cmd_range("shots", shots, 0, 64, e) || cmd_range("limit", limit, 0, INT64_MAX, e) ||
        cmd_range("threads", threads, 0, 1024, e))
        return -1;
    for (int i = 0; i < n; i++)
        if (read_wanted(task[i], &w[i], e))
            return -1;
    const char *model = argv[first];
    int rc = comm_agree(
        comm, open_tools(&t, model, tokenizer, details, backend, (int)threads, comm->rank == 0, e),
        e);
    struct task_options o = {.shots = (int)shots, .limit = limit, .bos = bos, .details = t.details};
    for (int i = 0; rc == 0 && i < n; i++)
        rc = task_run(t.m, t.spm, w[i].task, w[i].path, &o, comm, &v[i], e);
    if (rc == 0 && comm->rank == 0 && as_json)
        rc = print_json(w, v, n, e);
    else if (rc == 0 && comm->rank == 0)
        print_table(w, v, n);
    struct dha_err late;
    if (close_tools(&t, details, rc ? &late : e))
        rc = -1;
    return comm_agree(comm, rc, e);
}
