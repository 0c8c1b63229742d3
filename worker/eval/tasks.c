/* tasks.c: see tasks.h. */
#include "worker/eval/tasks.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/fsutil.h"

#define MAX_QUESTIONS 10000000

struct questions {
    struct question *q;
    size_t n, cap;
};

static void questions_finish(struct questions *all)
{
    for (size_t i = 0; i < all->n; i++)
        question_finish(&all->q[i]);
    free(all->q);
}

static int add_line(struct questions *all, const char *line, size_t len, enum task t,
                    struct dha_err *e)
{
    if (all->n == all->cap) {
        size_t cap = all->cap ? 2 * all->cap : 256;
        struct question *grown = cap <= MAX_QUESTIONS ? realloc(all->q, cap * sizeof *grown) : NULL;
        if (!grown)
            return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu questions", cap);
        all->q = grown;
        all->cap = cap;
    }
    cJSON *j = json_parse(line, len, NULL, e);
    int rc = j ? question_parse(j, t, &all->q[all->n], e) : -1;
    cJSON_Delete(j);
    if (rc == 0)
        all->n++;
    else if (e && e->code == DHA_E_PROTOCOL)
        e->code = DHA_E_INPUT; /* a user's file, not a message */
    return rc;
}

/* The first `limit` questions (0: all) and those that shots need. */
static int read_questions(const char *path, enum task t, size_t limit, struct questions *all,
                          struct dha_err *e)
{
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t cap = 0;
    long number = 0;
    ssize_t n;
    int rc = 0;
    if (!f)
        return dha_fail_errno(e, errno, "opening %s", path);
    while (rc == 0 && (limit == 0 || all->n < limit) && (n = getline(&line, &cap, f)) >= 0) {
        number++;
        while (n > 0 && strchr(" \t\r\n", line[n - 1]))
            n--;
        if (n > 0 && add_line(all, line, (size_t)n, t, e)) {
            rc = dha_err_context(e, "%s, line %ld", path, number);
            dha_err_hint(e, "is it a file of task %s? one JSON object a line", task_name(t));
        }
    }
    if (rc == 0 && ferror(f))
        rc = dha_fail_errno(e, errno, "reading %s", path);
    if (rc == 0 && all->n == 0)
        rc = dha_fail(e, DHA_E_INPUT, "%s has no questions", path);
    free(line);
    fclose(f);
    return rc;
}

/* ---- requests --------------------------------------------------------------------------------------- */

/* `shots` solved examples and the context of question i, in the wording of exact match or of the choices. */
static char *with_shots(const struct questions *all, size_t i, int shots, bool asked,
                        const char *context)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    for (size_t k = 0; shots > 0 && k < all->n; k++) {
        const struct question *q = &all->q[k];
        if (k == i)
            continue;
        shots--;
        fprintf(f, "%s%s\n\n", asked ? question_ask(q) : q->context[q->gold],
                asked ? question_reply(q) : q->continuation[q->gold]);
    }
    bool bad = fputs(context, f) == EOF;
    bad = fclose(f) != 0 || bad;
    if (bad) {
        free(text);
        return NULL;
    }
    return text;
}

struct requests {
    struct request *r;
    size_t n;
    size_t *
        first; /* [questions + 1]: a question's requests; with `ask` the last one is of exact match */
};

static int add_request(struct requests *all, const struct spm *s, char *context,
                       const char *continuation, const struct request_options *o, struct dha_err *e)
{
    int rc = context ? request_make(s, context, continuation, o, &all->r[all->n], e)
                     : dha_fail(e, DHA_E_NO_MEMORY, "no memory for a context");
    free(context);
    all->n += rc == 0;
    return rc;
}

static int make_requests(const struct questions *all, size_t n, const struct spm *s,
                         const struct request_options *ro, int shots, struct requests *out,
                         struct dha_err *e)
{
    out->r = calloc(n * (QUESTION_CHOICES + 1) + 1, sizeof *out->r);
    out->first = calloc(n + 1, sizeof *out->first);
    if (!out->r || !out->first)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu questions", n);
    for (size_t i = 0; i < n; i++) {
        const struct question *q = &all->q[i];
        int rc = 0;
        for (int c = 0; rc == 0 && c < q->n; c++)
            rc = add_request(out, s, with_shots(all, i, shots, false, q->context[c]),
                             q->continuation[c], ro, e);
        if (rc == 0 && q->ask)
            rc = add_request(out, s, with_shots(all, i, shots, true, q->ask), q->reply, ro, e);
        if (rc)
            return dha_err_context(e, "question %zu", i + 1);
        out->first[i + 1] = out->n;
    }
    return 0;
}

static void requests_finish(struct requests *all)
{
    for (size_t i = 0; all->r && i < all->n; i++)
        request_finish(&all->r[i]);
    free(all->r);
    free(all->first);
}

/* ---- scores ----------------------------------------------------------------------------------------- */

struct answer {
    int pick, pick_norm;
    bool exact, cut;
};

static struct answer judge(const struct question *q, const struct request *r,
                           const struct loglik *l)
{
    struct answer a = {0};
    for (int c = 0; c < q->n; c++) {
        /* as numpy.argmax: the first of equals */
        if (l[c].sum > l[a.pick].sum)
            a.pick = c;
        if (l[c].sum / (double)q->characters[c] >
            l[a.pick_norm].sum / (double)q->characters[a.pick_norm])
            a.pick_norm = c;
        a.cut = a.cut || r[c].cut;
    }
    a.exact = l[q->ask ? q->n : q->gold].greedy;
    return a;
}

static int write_details(const struct task_options *o, enum task t, size_t i,
                         const struct question *q, const struct answer *a, const struct request *r,
                         const struct loglik *l, struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject(), *sums = cJSON_CreateArray(), *tokens = cJSON_CreateArray();
    int rc = o->model ? json_put_str(j, "model", o->model) : 0;
    rc |= json_put_str(j, "task", task_name(t)) | json_put_int(j, "question", (int64_t)i) |
          json_put_int(j, "gold", q->gold) | json_put_int(j, "pick", a->pick);
    if (task_has_norm(t))
        rc |= json_put_int(j, "pick_norm", a->pick_norm);
    rc |= json_put_bool(j, "exact", a->exact) | json_put_bool(j, "cut", a->cut);
    for (int c = 0; c < q->n; c++)
        if (!cJSON_AddItemToArray(sums, cJSON_CreateNumber(l[c].sum)) ||
            !cJSON_AddItemToArray(tokens, cJSON_CreateNumber(r[c].n_cont)))
            rc = -1;
    rc |= json_put(j, "loglik", sums) | json_put(j, "tokens", tokens);
    char *text = rc ? NULL : json_text(j);
    if (!text)
        rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for the details");
    else if (fprintf(o->details, "%s\n", text) < 0)
        rc = dha_fail_errno(e, errno, "writing the details");
    free(text);
    cJSON_Delete(j);
    return rc;
}

static double standard_error(double p, int64_t n)
{
    return n > 1 ? sqrt(p * (1 - p) / (double)(n - 1)) : (double)NAN;
}

static int add_up(const struct questions *all, size_t n, const struct requests *rs,
                  const struct loglik *l, enum task t, const struct task_options *o, bool rank0,
                  struct task_score *out, struct dha_err *e)
{
    int64_t right = 0, right_norm = 0, exact = 0;
    *out = (struct task_score){.questions = (int64_t)n};
    for (size_t i = 0; i < n; i++) {
        const struct question *q = &all->q[i];
        size_t at = rs->first[i];
        struct answer a = judge(q, rs->r + at, l + at);
        right += a.pick == q->gold;
        right_norm += a.pick_norm == q->gold;
        exact += a.exact;
        out->cut += a.cut;
        if (rank0 && o->details && write_details(o, t, i, q, &a, rs->r + at, l + at, e))
            return -1;
    }
    out->acc = (double)right / (double)n;
    out->acc_stderr = standard_error(out->acc, (int64_t)n);
    bool norm = task_has_norm(t);
    out->acc_norm = norm ? (double)right_norm / (double)n : (double)NAN;
    out->acc_norm_stderr = norm ? standard_error(out->acc_norm, (int64_t)n) : (double)NAN;
    out->exact_match = (double)exact / (double)n;
    return 0;
}

int task_run(struct model *m, const struct spm *s, enum task t, const char *path,
             const struct task_options *o, struct comm *comm, struct task_score *out,
             struct dha_err *e)
{
    struct questions all = {0};
    struct requests rs = {0};
    struct loglik *l = NULL;
    const struct model_config *c = &m->cfg;
    struct request_options ro = {.positions = c->max_positions,
                                 .start = o->bos ? c->bos : -1,
                                 .start_empty = c->bos >= 0 ? c->bos : c->eos};
    size_t need = o->limit > 0 ? (size_t)o->limit : 0, n = 0;
    /* shots beyond the limit are read, too */
    int rc = read_questions(path, t, need ? need + (size_t)o->shots : 0, &all, e);
    if (rc == 0) {
        n = need && need < all.n ? need : all.n;
        rc = make_requests(&all, n, s, &ro, o->shots, &rs, e);
        if (rc)
            dha_err_context(e, "%s", path);
    }
    if (rc == 0 && !(l = calloc(rs.n + 1, sizeof *l)))
        rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu log-likelihoods", rs.n);
    rc = comm_agree(comm, rc, e);
    if (rc == 0)
        rc = loglik_all(m, rs.r, rs.n, comm, l, e);
    if (rc == 0)
        rc = add_up(&all, n, &rs, l, t, o, comm->rank == 0, out, e);
    rc = comm_agree(comm, rc, e);
    free(l);
    requests_finish(&rs);
    questions_finish(&all);
    return rc ? dha_err_context(e, "task %s", task_name(t)) : 0;
}

int task_check(const char *task, const char *path, struct dha_err *e)
{
    struct questions all = {0};
    enum task t;
    int rc = task_from_name(task, &t, e) || read_questions(path, t, 1, &all, e) ? -1 : 0;
    questions_finish(&all);
    return rc;
}

cJSON *task_score_json(enum task t, const struct task_score *v)
{
    cJSON *o = cJSON_CreateObject();
    int rc = json_put_str(o, "task", task_name(t)) | json_put_int(o, "questions", v->questions) |
             json_put_num(o, "acc", v->acc) | json_put_num(o, "acc_stderr", v->acc_stderr) |
             json_put_num(o, "acc_norm", v->acc_norm) |
             json_put_num(o, "acc_norm_stderr", v->acc_norm_stderr) |
             json_put_num(o, "exact_match", v->exact_match) | json_put_int(o, "cut", v->cut);
    if (rc == 0)
        return o;
    cJSON_Delete(o);
    return NULL;
}

int task_tokenizer(const char *dir, const char *tokenizer, int vocab, struct spm **s,
                   struct dha_err *e)
{
    char path[PATH_MAX];
    *s = NULL;
    if (!tokenizer) {
        if (fs_path(path, sizeof path, e, "%s/tokenizer.model", dir))
            return -1;
        tokenizer = path;
    }
    if (!fs_exists(tokenizer)) {
        dha_fail(e, DHA_E_INPUT, "tasks need a SentencePiece model, and there is no %.400s",
                 tokenizer);
        return dha_err_hint(e, "name one (--tokenizer, data.tokenizer)");
    }
    return spm_open(s, tokenizer, e) || spm_fits(*s, tokenizer, vocab, e) ? -1 : 0;
}
