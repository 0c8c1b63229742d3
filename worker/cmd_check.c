/* cmd_check.c: what can be known of a job before any work: is the model one that we compute, can the budget be met, are the data
 * there and usable? Headers only, no weights: well under a second.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/cmd.h"
#include "worker/data/corpus.h"
#include "worker/data/token_cache.h"
#include "worker/eval/tasks.h"
#include "worker/fsutil.h"
#include "worker/method/budget.h"
#include "worker/model/model.h"
#include "worker/train/trainer.h"

#define SCAN_BYTES                                                                                 \
    ((off_t)256 << 20) /* token files up to this are scanned for tokens outside the vocabulary */

int cmd_read_spec(const char *path, struct job_spec *s, struct comm *comm, struct dha_err *e)
{
    struct spec_errors errs = {0};
    char base[PATH_MAX];
    cJSON *j = json_parse_file(path, 0, e);
    if (!j)
        return -1;
    char *real = realpath(path, NULL);
    snprintf(base, sizeof base, "%s", real ? real : path);
    free(real);
    char *slash = strrchr(base, '/');
    if (slash)
        *slash = '\0';
    int rc = spec_parse(j, slash ? base : ".", s, &errs);
    cJSON_Delete(j);
    if (rc == 0)
        return 0;
    for (int i = 0; comm->rank == 0 && i < errs.n && i < 32; i++)
        fprintf(stderr, "  %s: %s%s%s%s\n", errs.at[i].path, errs.at[i].msg,
                errs.at[i].hint[0] ? " (" : "", errs.at[i].hint, errs.at[i].hint[0] ? ")" : "");
    return dha_fail(e, DHA_E_SPEC, "%s has %d error%s", path, errs.n, errs.n == 1 ? "" : "s");
}

static int check_file(const char *path, const struct job_spec *s, const struct model_config *c,
                      const char *tokenizer, int seq, struct dha_err *e)
{
    struct corpus_options o = {.format = s->data.format,
                               .tokenizer = tokenizer,
                               .model_dir = s->model,
                               .vocab = c->vocab,
                               .bos = c->bos,
                               .eos = c->eos};
    struct stat st;
    if (stat(path, &st))
        return dha_fail_errno(e, errno, "cannot read %s", path);
    if (!S_ISREG(st.st_mode))
        return dha_fail(e, DHA_E_INPUT, "%s is no regular file", path);
    if (st.st_size == 0)
        return dha_fail(e, DHA_E_INPUT, "%s is empty", path);
    bool text = token_cache_format(o.format);
    if (text || st.st_size > SCAN_BYTES)
        return text ? token_cache_check(&o, e) : 0;
    struct corpus *corpus = NULL;
    char *one = strdup(path);
    int rc = one ? corpus_open(&corpus, &one, 1, &o, e) : dha_fail(e, DHA_E_NO_MEMORY, "no memory");
    if (rc == 0)
        rc = corpus_check(corpus, seq, e);
    corpus_close(corpus);
    free(one);
    return rc;
}

/* The tokenizer, if text or questions need one, and the first question of each task. */
static int check_tokenizer(const struct job_spec *s, const struct model_config *c,
                           const char *tokenizer, struct dha_err *e)
{
    struct spm *spm = NULL;
    if (!token_cache_format(s->data.format) && s->n_eval_tasks == 0)
        return 0;
    int rc = task_tokenizer(s->model, tokenizer, c->vocab, &spm, e);
    for (int i = 0; rc == 0 && i < s->n_eval_tasks; i++)
        rc = task_check(s->eval_tasks[i].name, s->eval_tasks[i].path, e)
                 ? dha_err_context(e, "eval.tasks[%d]", i)
                 : 0;
    spm_close(spm);
    return rc;
}

static int check_data(const struct job_spec *s, const struct model_config *c, struct dha_err *e)
{
    char tokenizer[PATH_MAX];
    int seq = s->data.seq_len ? s->data.seq_len : (c->max_positions < 256 ? c->max_positions : 256);
    if (fs_path(tokenizer, sizeof tokenizer, e, "%s/tokenizer.model", s->model))
        return -1;
    const char *t = s->data.tokenizer ? s->data.tokenizer : tokenizer;
    if (seq > c->max_positions) {
        dha_fail(e, DHA_E_SPEC, "data.seq_len is %d, but the model has %d positions", seq,
                 c->max_positions);
        return dha_err_hint(e, "use --set data.seq_len=%d or less", c->max_positions);
    }
    for (int i = 0; i < s->data.n_train; i++)
        if (check_file(s->data.train[i], s, c, t, seq, e))
            return dha_err_context(e, "data.train[%d]", i);
    if (s->data.valid && check_file(s->data.valid, s, c, t, seq, e))
        return dha_err_context(e, "data.valid");
    for (int m = 0; m < s->data.n_mixture; m++) {
        const struct domain_spec *d = &s->data.mixture[m];
        for (int i = 0; i < d->n_train; i++)
            if (check_file(d->train[i], s, c, t, seq, e))
                return dha_err_context(e, "domain %s, train[%d]", d->name, i);
        if (d->valid && check_file(d->valid, s, c, t, seq, e))
            return dha_err_context(e, "domain %s, valid", d->name);
    }
    return check_tokenizer(s, c, t, e);
}

/* {parameters, disk_bytes {checkpoints, models}}: what a job may need at once below its directory, at most: the kept
 * training checkpoints and the one being written (parameters and two moments, f32), and the models that fusion,
 * training and export leave (f32). */
static int print_needs(const struct job_spec *s, size_t n_params, struct dha_err *e)
{
    enum stage_kind kinds[STAGE_KINDS];
    int64_t params = (int64_t)n_params, models = 0, trains = 0;
    for (int i = 0, n = spec_stages(s, kinds); i < n; i++) {
        models += kinds[i] == STAGE_FUSE || kinds[i] == STAGE_TRAIN || kinds[i] == STAGE_EXPORT;
        trains |= kinds[i] == STAGE_TRAIN || (kinds[i] == STAGE_FUSE && s->tokens_fuse > 0);
    }
    cJSON *j = cJSON_CreateObject(), *disk = cJSON_CreateObject();
    int bad = json_put_id(j, "parameters", params) |
              json_put_id(disk, "checkpoints", trains * (CKPT_KEEP + 1) * 12 * params) |
              json_put_id(disk, "models", models * 4 * params);
    bad |= json_put(j, "disk_bytes", disk);
    char *text = bad ? NULL : json_text(j);
    if (text)
        puts(text);
    free(text);
    cJSON_Delete(j);
    return text ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "no memory for the answer");
}

int cmd_check(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    bool json = false;
    const struct option_spec options[] = {{.name = "json", .flag = &json}, {0}};
    struct job_spec s = {0};
    struct model_config c;
    struct kern_err ke = {0};
    size_t n_params = 0;
    int rc = -1, first = cmd_options(argc, argv, options, e);
    if (first < 0)
        return -1;
    if (first != argc - 1)
        return dha_fail(e, DHA_E_USAGE, "exactly one job spec is needed");
    struct kern *k = kern_open("reference", 1, &ke);
    if (!k)
        return dha_fail(e, DHA_E_INTERNAL, "backend reference: %s", ke.msg);
    if (cmd_read_spec(argv[first], &s, comm, e))
        goto out;
    if (model_probe(k, s.model, &c, &n_params, e)) {
        dha_err_context(e, "model");
        goto out;
    }
    rc = budget_check(&s, c.layers, c.heads, e) || check_data(&s, &c, e) ? -1 : 0;
    model_config_finish(&c);
    if (rc == 0 && json)
        rc = print_needs(&s, n_params, e);
    else if (rc == 0)
        printf("ok\n");
out:
    spec_finish(&s);
    kern_close(k);
    return rc;
}
