/* stage_data.c: the data of a stage: opening what the spec names, holding validation out of it where none is named, and the
 * loss on it.
 */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/eval/tasks.h"
#include "worker/fsutil.h"
#include "worker/stage.h"
#include "worker/train/evaluate.h"

/* Without a validation file: the last 2 % of the training tokens, but at least 16 and at most 256 windows. */
static int hold_out(struct corpus *train, int seq, struct corpus **valid, struct dha_err *e)
{
    int64_t window = seq, all = corpus_tokens(train), n = all / 50;
    if (n < 16 * window + 1)
        n = 16 * window + 1;
    if (n > 256 * window + 1)
        n = 256 * window + 1;
    if (n > all / 2) {
        dha_fail(e, DHA_E_INPUT,
                 "%" PRId64
                 " training tokens are too few to hold out 16 windows of %d for validation",
                 all, seq);
        return dha_err_hint(e, "give a validation file, more data, or a smaller data.seq_len");
    }
    return corpus_hold_out(train, n, valid, e);
}

/* One set of files: all of the job's, or a domain's. */
static int open_pair(char *const *train, int n_train, char *valid, const struct corpus_options *o,
                     int seq, struct corpus *out[2], struct dha_err *e)
{
    out[0] = out[1] = NULL;
    if (corpus_open(&out[0], train, n_train, o, e))
        return -1;
    if (corpus_check(out[0], seq, e))
        return -1;
    if (!valid)
        return hold_out(out[0], seq, &out[1], e);
    if (corpus_open(&out[1], &valid, 1, o, e) || corpus_check(out[1], seq, e))
        return dha_err_context(e, "validation");
    return 0;
}

static int open_mixture(struct stage *st, const struct corpus_options *o, struct dha_err *e)
{
    const struct data_spec *d = &st->s->spec.data;
    struct corpus_domain of[2][EVAL_DOMAINS]; /* train, valid */
    int n = 0, rc = 0;
    if (d->n_mixture > EVAL_DOMAINS)
        return dha_fail(e, DHA_E_SPEC, "a mixture of more than %d domains", EVAL_DOMAINS);
    while (rc == 0 && n < d->n_mixture) {
        const struct domain_spec *m = &d->mixture[n];
        struct corpus *pair[2];
        rc = open_pair(m->train, m->n_train, m->valid, o, st->seq, pair, e);
        if (rc)
            dha_err_context(e, "domain %s", m->name);
        for (int k = 0; k < 2; k++)
            of[k][n] = (struct corpus_domain){m->name, m->weight, pair[k]};
        n++;
    }
    if (rc) {
        for (int i = 0; i < n; i++)
            for (int k = 0; k < 2; k++)
                corpus_close(of[k][i].corpus);
        return -1;
    }
    rc = corpus_mix(&st->train, of[0], n, e);
    if (corpus_mix(&st->valid, of[1], n, rc ? NULL : e))
        rc = -1;
    return rc;
}

static int open_corpora(struct stage *st, const struct model_config *cfg, struct dha_err *e)
{
    const struct data_spec *d = &st->s->spec.data;
    struct corpus_options o = {.format = d->format,
                               .tokenizer = d->tokenizer,
                               .model_dir = st->s->spec.model,
                               .cache_dir = st->s->cache,
                               .vocab = cfg->vocab,
                               .bos = cfg->bos,
                               .eos = cfg->eos};
    char tokenizer[PATH_MAX];
    if (!o.tokenizer) {
        if (fs_path(tokenizer, sizeof tokenizer, e, "%s/tokenizer.model", st->s->spec.model))
            return -1;
        o.tokenizer = tokenizer;
    }
    if (d->n_mixture > 0)
        return open_mixture(st, &o, e);
    struct corpus *pair[2];
    int rc = open_pair(d->train, d->n_train, d->valid, &o, st->seq, pair, e);
    st->train = pair[0];
    st->valid = pair[1];
    return rc;
}

/* What the eval stage will need is asked for at the beginning, not after hours of training. */
static int check_tasks(const struct stage *st, const struct model_config *cfg, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    struct spm *spm = NULL;
    if (s->n_eval_tasks == 0)
        return 0;
    int rc = task_tokenizer(s->model, s->data.tokenizer, cfg->vocab, &spm, e);
    for (int i = 0; rc == 0 && i < s->n_eval_tasks; i++)
        rc = task_check(s->eval_tasks[i].name, s->eval_tasks[i].path, e);
    spm_close(spm);
    return rc ? dha_err_context(e, "eval.tasks") : 0;
}

/* Whether the stage reads tokens.search tokens to calibrate (a search that trains does not). */
static bool calibrates(const struct stage *st)
{
    const struct method *m = &st->s->spec.method;
    if (st->s->kind == STAGE_SEARCH)
        return m->grouping != GROUP_LEARNED;
    return st->s->kind == STAGE_FUSE &&
           (method_merge_calibrates(m) || method_groups_by_alignment(m));
}

/* What is no error, but nobody would want: said once, by rank 0. */
static void warn(const struct stage *st, const struct model_config *cfg)
{
    const struct job_spec *s = &st->s->spec;
    int64_t cut = corpus_overlong(st->train, st->seq), calib = s->tokens_search;
    int64_t distinct = corpus_tokens(st->train);
    if (cut > 0)
        fprintf(stderr,
                "warning: %" PRId64 " examples have more than %d tokens: the beginning of their "
                "prompts is cut off (raise data.seq_len)\n",
                cut, st->seq + 1);
    if (calib > distinct)
        calib = distinct;
    if (!calibrates(st))
        return;
    if (calib > 0 && calib < cfg->hidden)
        fprintf(stderr,
                "warning: %" PRId64 " tokens to calibrate with are fewer than the model's width of "
                "%d: second moments are singular and their smallest eigenvalues are clamped (raise "
                "tokens.search%s)\n",
                calib, cfg->hidden, calib < s->tokens_search ? " and give more data" : "");
    if (calib < s->tokens_search)
        fprintf(stderr,
                "warning: %" PRId64 " distinct tokens for %" PRId64 " of calibration: they are "
                "read %.1f times over; more text gives a better plan\n",
                distinct, s->tokens_search, (double)s->tokens_search / (double)distinct);
}

int stage_open_data(struct stage *st, const struct model_config *cfg, struct dha_err *e)
{
    int rc = 0;
    st->seq = st->s->spec.data.seq_len;
    if (st->seq == 0)
        st->seq = cfg->max_positions < 256 ? cfg->max_positions : 256;
    if (st->seq > cfg->max_positions) {
        rc = dha_fail(e, DHA_E_SPEC, "data.seq_len is %d, but the model has %d positions", st->seq,
                      cfg->max_positions);
        dha_err_hint(e, "use --set data.seq_len=%d or less", cfg->max_positions);
    }
    /* rank 0 first: it may have to tokenise, the others then find the cache */
    if (rc == 0 && st->comm->rank == 0)
        rc = check_tasks(st, cfg, e) || open_corpora(st, cfg, e) ? -1 : 0;
    if (comm_agree(st->comm, rc, e))
        return -1;
    if (st->comm->rank != 0)
        rc = open_corpora(st, cfg, e);
    rc = comm_agree(st->comm, rc, e);
    if (rc == 0 && st->comm->rank == 0)
        warn(st, cfg);
    return rc;
}

/* A loss that says the model was never trained, or on other tokens. */
static int check_parent(const struct stage *st, const struct model *m, double loss,
                        struct dha_err *e)
{
    double uniform = log((double)m->cfg.vocab);
    /* a good base model may find the form of answers stranger than chance: their end, for one */
    if (loss <= uniform || corpus_has_classes(st->valid))
        return 0;
    dha_fail(e, DHA_E_INPUT,
             "the parent's loss is %.3f nats a token, worse than guessing evenly among its %d "
             "tokens (%.3f)",
             loss, m->cfg.vocab, uniform);
    return dha_err_hint(e, "is the data tokenised with this model's tokenizer, and %s trained?",
                        st->s->spec.model);
}

int stage_evaluate_all(struct stage *st, struct model *m, const char *name, struct eval_result *v,
                       struct dha_err *e)
{
    bool parent = !strcmp(name, "parent"); /* it came like that; of ours: a merge or a training */
    if (evaluate(m, st->valid, st->seq, st->s->spec.eval_windows, st->comm, v, e))
        return dha_err_context(e, "evaluating the %s model", name);
    if (!isfinite(v->loss)) {
        dha_fail(e, parent ? DHA_E_INPUT : DHA_E_DIVERGED,
                 "the loss of the %s model is not a finite number", name);
        return dha_err_hint(e,
                            parent ? "its weights are damaged, or overflow in f32: %s"
                                   : "see the stages before; the parent is %s",
                            st->s->spec.model);
    }
    if (parent && check_parent(st, m, v->loss, e))
        return -1;
    evaluate_journal(st->journal, name, v, 0, 0);
    return 0;
}

int stage_evaluate(struct stage *st, struct model *m, const char *name, double *loss,
                   struct dha_err *e)
{
    struct eval_result v;
    if (stage_evaluate_all(st, m, name, &v, e))
        return -1;
    if (loss)
        *loss = v.loss;
    return 0;
}
