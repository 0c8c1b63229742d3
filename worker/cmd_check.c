/* cmd_check.c: what can be known of a job before any work: is the model one that we compute, can the budget be met, are the data
 * there and usable? Headers and the beginnings of texts only, no weights: well under a second.
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
#define LOOK_FILES 16  /* of a corpus of texts: the others need only be there */

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

/* What the files are held against. */
struct against {
    struct corpus_options o;
    struct spm *spm; /* NULL: token files */
    int seq;
};

static int count_tokens(const char *path, const struct corpus_options *o, int64_t *n,
                        struct dha_err *e)
{
    struct corpus *corpus = NULL;
    char *one = strdup(path);
    int rc = one ? corpus_open(&corpus, &one, 1, o, e) : dha_fail(e, DHA_E_NO_MEMORY, "no memory");
    if (rc == 0)
        *n += corpus_tokens(corpus);
    corpus_close(corpus);
    free(one);
    return rc;
}

/* open: look inside, too */
static int check_file(const char *path, const struct against *a, bool open, struct token_look *look,
                      struct dha_err *e)
{
    struct stat st;
    look->whole = false;
    if (stat(path, &st))
        return dha_fail_errno(e, errno, "cannot read %s", path);
    if (!S_ISREG(st.st_mode))
        return dha_fail(e, DHA_E_INPUT, "%s is no regular file", path);
    if (st.st_size == 0)
        return dha_fail(e, DHA_E_INPUT, "%s is empty", path);
    if (!open || (!a->spm && st.st_size > SCAN_BYTES))
        return 0;
    if (a->spm)
        return token_cache_look(path, &a->o, a->spm, look, e);
    look->whole = true;
    return count_tokens(path, &a->o, &look->tokens, e);
}

/* The files of one corpus: each alone, then whether all of them together hold a sequence. */
static int check_files(const char *name, char *const *paths, int n, const struct against *a,
                       struct dha_err *e)
{
    struct token_look look = {.want = a->seq + 1};
    bool whole = true;
    for (int i = 0; i < n; i++) {
        if (check_file(paths[i], a, !a->spm || i < LOOK_FILES, &look, e))
            return n > 1 ? dha_err_context(e, "%s[%d]", name, i) : dha_err_context(e, "%s", name);
        whole &= look.whole;
    }
    /* of examples, one is enough (corpus_check()) */
    if (n == 0 || !whole || look.tokens > a->seq || !strcmp(a->o.format, "instruct"))
        return 0;
    corpus_too_short(paths[0], n, look.tokens, a->seq, e);
    return dha_err_context(e, "%s", name);
}

/* The tokenizer, if text or questions need one, and the first question of each task. */
static int check_tokenizer(const struct job_spec *s, struct against *a, struct dha_err *e)
{
    bool text = token_cache_format(a->o.format);
    struct spm *spm = NULL;
    if (!text && s->n_eval_tasks == 0)
        return 0;
    if (text && token_cache_check(&a->o, e))
        return -1;
    int rc = task_tokenizer(s->model, a->o.tokenizer, a->o.vocab, &spm, e);
    for (int i = 0; rc == 0 && i < s->n_eval_tasks; i++)
        rc = task_check(s->eval_tasks[i].name, s->eval_tasks[i].path, e)
                 ? dha_err_context(e, "eval.tasks[%d]", i)
                 : 0;
    if (rc == 0 && text)
        a->spm = spm;
    else
        spm_close(spm);
    return rc;
}

static int check_corpora(const struct data_spec *d, const struct against *a, struct dha_err *e)
{
    if (check_files("data.train", d->train, d->n_train, a, e) ||
        check_files("data.valid", &d->valid, d->valid != NULL, a, e))
        return -1;
    for (int m = 0; m < d->n_mixture; m++) {
        const struct domain_spec *in = &d->mixture[m];
        if (check_files("train", in->train, in->n_train, a, e) ||
            check_files("valid", &in->valid, in->valid != NULL, a, e))
            return dha_err_context(e, "domain %s", in->name);
    }
    return 0;
}

static int check_data(const struct job_spec *s, const struct model_config *c, struct dha_err *e)
{
    char tokenizer[PATH_MAX];
    struct against a = {.o = {.format = s->data.format,
                              .model_dir = s->model,
                              .vocab = c->vocab,
                              .bos = c->bos,
                              .eos = c->eos},
                        .seq = s->data.seq_len};
    if (fs_path(tokenizer, sizeof tokenizer, e, "%s/tokenizer.model", s->model))
        return -1;
    a.o.tokenizer = s->data.tokenizer ? s->data.tokenizer : tokenizer;
    if (a.seq == 0)
        a.seq = c->max_positions < 256 ? c->max_positions : 256;
    if (a.seq > c->max_positions) {
        dha_fail(e, DHA_E_SPEC, "data.seq_len is %d, but the model has %d positions", a.seq,
                 c->max_positions);
        return dha_err_hint(e, "use --set data.seq_len=%d or less", c->max_positions);
    }
    int rc = check_tokenizer(s, &a, e) || check_corpora(&s->data, &a, e) ? -1 : 0;
    spm_close(a.spm);
    return rc;
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
    int64_t kept = s->checkpoint.keep + s->checkpoint.keep_best + 1;
    if (s->checkpoint.keep_every > 0)
        kept += s->tokens_train / s->batch_tokens / s->checkpoint.keep_every;
    cJSON *j = cJSON_CreateObject(), *disk = cJSON_CreateObject();
    int bad = json_put_id(j, "parameters", params) |
              json_put_id(disk, "checkpoints", trains * kept * 12 * params) |
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
