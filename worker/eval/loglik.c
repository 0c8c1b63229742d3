/* loglik.c: see loglik.h. */
#include "worker/eval/loglik.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/data/question.h"
#include "worker/model/model_impl.h"
#include "worker/train/evaluate.h"

#define LOGIT_ROWS 64 /* rows of logits on the device at a time */

int request_make(const struct spm *s, const char *context, const char *continuation,
                 const struct request_options *o, struct request *r, struct dha_err *e)
{
    size_t end = question_context_end(context), space = strlen(context) - end;
    size_t n_text = strlen(context) + strlen(continuation), n_all = 0, n_context = 0;
    char *text = malloc(n_text + 1);
    int32_t *all = NULL, *before = NULL;
    int rc = -1;
    memset(r, 0, sizeof *r);
    if (!text) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for a question of %zu bytes", n_text);
        goto out;
    }
    memcpy(text, context, end + space);
    memcpy(text + end + space, continuation, strlen(continuation) + 1);
    if (spm_encode(s, text, n_text, &all, &n_all, e) ||
        spm_encode(s, text, end, &before, &n_context, e))
        goto out;
    int start = end == 0 ? o->start_empty : o->start;
    if (n_all <= n_context || (start < 0 && n_context == 0)) {
        dha_fail(e, DHA_E_INPUT, "%s",
                 n_all <= n_context ? "its continuation has no token of its own"
                                    : "its context is empty and the model has no BOS");
        goto out;
    }
    size_t cont = n_all - n_context, total = n_all + (start >= 0);
    size_t most = (size_t)o->positions + 1, keep = total < most ? total : most;
    if (cont >= keep)
        cont = keep - 1; /* longer than the model's positions: what fits of it */
    r->tokens = malloc(keep * sizeof *r->tokens);
    if (!r->tokens) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu tokens", keep);
        goto out;
    }
    size_t from_all = keep < n_all ? keep : n_all; /* the last of all */
    memcpy(r->tokens + (keep - from_all), all + (n_all - from_all), from_all * sizeof *all);
    if (keep > n_all)
        r->tokens[0] = start;
    r->n = (int)keep;
    r->n_cont = (int)cont;
    r->cut = keep < total;
    rc = 0;
out:
    free(before);
    free(all);
    free(text);
    return rc;
}

void request_finish(struct request *r)
{
    free(r->tokens);
    memset(r, 0, sizeof *r);
}

/* ---- batches ---------------------------------------------------------------------------------------- */

/* Rows of a run for n tokens: few different lengths, little filler (an eighth at most from 128 on). */
static int padded(int n, int positions)
{
    int step = 16;
    while (8 * step < n)
        step *= 2;
    int to = (n + step - 1) / step * step;
    return to < positions ? to : positions;
}

/* One row of a batch: requests [index, index + count), whose tokens but the last are the same (" yes" and " no" after one
 * context) and which read their likelihoods from the same logits. */
struct row {
    size_t index, count;
    int seq;
};

static bool same_input(const struct request *a, const struct request *b)
{
    return a->n == b->n && a->n_cont == b->n_cont &&
           memcmp(a->tokens, b->tokens, (size_t)(a->n - 1) * sizeof *a->tokens) == 0;
}

/* Returns the number of rows [<= n]. */
static size_t make_rows(const struct request *r, size_t n, int positions, struct row *out)
{
    size_t rows = 0;
    for (size_t i = 0; i < n; i++) {
        if (rows > 0 && same_input(&r[i], &r[out[rows - 1].index]))
            out[rows - 1].count++;
        else
            out[rows++] = (struct row){i, 1, padded(r[i].n - 1, positions)};
    }
    return rows;
}

static int longest_first(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    if (x->seq != y->seq)
        return x->seq > y->seq ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

struct scorer {
    struct model *m;
    const struct request *r;
    struct kern_buf *logits; /* [LOGIT_ROWS, vocab] */
    float *host;
    int32_t *ids;
};

static void read_row(const float *z, size_t vocab, int32_t target, struct loglik *out)
{
    size_t top = 0;
    double sum = 0;
    for (size_t v = 1; v < vocab; v++)
        if (z[v] > z[top])
            top = v;
    for (size_t v = 0; v < vocab; v++)
        sum += exp((double)(z[v] - z[top]));
    out->sum += (double)(z[target] - z[top]) - log(sum);
    out->greedy = out->greedy && top == (size_t)target;
}

/* One request whose tokens are rows [first, first + n - 1) of the run. */
static void read_request(struct scorer *s, struct run *run, size_t first, const struct request *q,
                         struct loglik *out)
{
    size_t vocab = (size_t)s->m->cfg.vocab;
    *out = (struct loglik){.greedy = true};
    for (int at = q->n - q->n_cont; at < q->n; at += LOGIT_ROWS) {
        int rows = q->n - at < LOGIT_ROWS ? q->n - at : LOGIT_ROWS;
        run_logits(run, first + (size_t)at - 1, (size_t)rows, kern_at(s->logits, 0));
        s->m->k->ops->download(s->m->k, s->host, kern_at(s->logits, 0), (size_t)rows * vocab);
        for (int i = 0; i < rows; i++)
            read_row(s->host + (size_t)i * vocab, vocab, q->tokens[at + i], out);
    }
}

static int score_batch(struct scorer *s, struct run *run, const struct row *of, int n, int batch,
                       struct loglik *out, struct dha_err *e)
{
    int seq = of[0].seq;
    memset(s->ids, 0, (size_t)batch * (size_t)seq * sizeof *s->ids);
    for (int i = 0; i < n; i++) {
        const struct request *q = &s->r[of[i].index];
        memcpy(s->ids + (size_t)i * (size_t)seq, q->tokens, (size_t)(q->n - 1) * sizeof *s->ids);
    }
    run_forward(run, s->ids);
    for (int i = 0; i < n; i++)
        for (size_t k = of[i].index; k < of[i].index + of[i].count; k++)
            read_request(s, run, (size_t)i * (size_t)seq, &s->r[k], &out[k]);
    return model_check(s->m->k, "scoring continuations", e);
}

/* Batches of one length; batch b goes to rank b % size. Returns the number of batches so far, or -1. */
static int64_t score_length(struct scorer *s, const struct row *of, size_t n, int64_t b,
                            const struct comm *comm, struct loglik *out, struct dha_err *e)
{
    struct run *run = NULL;
    int batch = run_batch_for(of[0].seq, (int64_t)n), rc = 0;
    for (size_t at = 0; rc == 0 && at < n; at += (size_t)batch, b++) {
        int rows = n - at < (size_t)batch ? (int)(n - at) : batch;
        if (b % comm->size != comm->rank)
            continue;
        if (!run)
            rc = run_new(&run, s->m, batch, of[0].seq, RUN_INFER, e);
        if (rc == 0)
            rc = score_batch(s, run, of + at, rows, batch, out, e);
    }
    run_free(run);
    return rc ? -1 : b;
}

static int score_mine(struct scorer *s, const struct row *of, size_t n, const struct comm *comm,
                      struct loglik *out, struct dha_err *e)
{
    size_t vocab = (size_t)s->m->cfg.vocab;
    s->logits = s->m->k->ops->alloc(s->m->k, KERN_F32, LOGIT_ROWS * vocab);
    s->host = malloc(LOGIT_ROWS * vocab * sizeof *s->host);
    /* run_batch_for(): 2048 tokens, or one sequence */
    size_t tokens = 2048 + (size_t)s->m->cfg.max_positions;
    s->ids = malloc(tokens * sizeof *s->ids);
    if (!s->logits || !s->host || !s->ids)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for logits of %zu tokens", vocab);
    int64_t b = 0;
    for (size_t at = 0, to; b >= 0 && at < n; at = to) {
        for (to = at; to < n && of[to].seq == of[at].seq;)
            to++;
        b = score_length(s, of + at, to - at, b, comm, out, e);
    }
    return b < 0 ? -1 : 0;
}

int loglik_all(struct model *m, const struct request *r, size_t n, struct comm *comm,
               struct loglik *out, struct dha_err *e)
{
    struct scorer s = {.m = m, .r = r};
    struct row *of = calloc(n + 1, sizeof *of);
    double *sums = calloc(2 * n + 1, sizeof *sums);
    int rc = 0;
    memset(out, 0, n * sizeof *out);
    if (!of || !sums)
        rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu questions", n);
    if (rc == 0) {
        size_t rows = make_rows(r, n, m->cfg.max_positions, of);
        qsort(of, rows, sizeof *of, longest_first);
        rc = score_mine(&s, of, rows, comm, out, e);
    }
    rc = comm_agree(comm, rc, e);
    if (rc == 0) { /* each is known to one rank; the others hold 0 */
        for (size_t i = 0; i < n; i++) {
            sums[2 * i] = out[i].sum;
            sums[2 * i + 1] = out[i].greedy;
        }
        comm_sum_f64(comm, sums, 2 * n);
        for (size_t i = 0; i < n; i++)
            out[i] = (struct loglik){sums[2 * i], sums[2 * i + 1] > 0};
    }
    free(s.ids);
    free(s.host);
    m->k->ops->free(m->k, s.logits);
    free(sums);
    free(of);
    return rc;
}
