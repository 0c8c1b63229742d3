/* cmd_eval.c: `eval` and `score` (DESIGN section 13). */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/cmd.h"
#include "worker/fsutil.h"
#include "worker/model/safetensors.h"
#include "worker/train/evaluate.h"

struct source {
    const char *model, *data, *format, *tokenizer, *cache;
};

/* Format by suffix where none is given; .gz and .zst are looked through. */
static const char *format_of(const char *path)
{
    size_t n = strlen(path);
    for (int i = 0; i < 2; i++) {
        const char *end = i ? ".zst" : ".gz";
        if (n > strlen(end) && !strncmp(path + n - strlen(end), end, strlen(end)))
            n -= strlen(end);
    }
    static const char *const table[][2] = {
        {".u16", "u16"}, {".u32", "u32"}, {".txt", "text"}, {".jsonl", "jsonl"}, {".bin", "u16"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        size_t m = strlen(table[i][0]);
        if (n > m && !strncmp(path + n - m, table[i][0], m))
            return table[i][1];
    }
    return NULL;
}

static int open_source(const struct source *s, const struct model_config *cfg, struct corpus **c,
                       struct dha_err *e)
{
    char tokenizer[PATH_MAX], cache[PATH_MAX];
    const char *format = s->format ? s->format : format_of(s->data);
    if (!format) {
        dha_fail(e, DHA_E_USAGE, "cannot tell the format of %s from its name", s->data);
        return dha_err_hint(e, "give --format u16, u32, text, jsonl or instruct");
    }
    const char *home = getenv("XDG_CACHE_HOME");
    if (fs_path(tokenizer, sizeof tokenizer, e, "%s/tokenizer.model", s->model) ||
        fs_path(cache, sizeof cache, e, "%s/dha", home && *home ? home : "/tmp"))
        return -1;
    struct corpus_options o = {.format = format,
                               .tokenizer = s->tokenizer ? s->tokenizer : tokenizer,
                               .model_dir = s->model,
                               .cache_dir = s->cache ? s->cache : cache,
                               .vocab = cfg->vocab,
                               .bos = cfg->bos,
                               .eos = cfg->eos};
    char *path = strdup(s->data);
    int rc = path ? corpus_open(c, &path, 1, &o, e) : dha_fail(e, DHA_E_NO_MEMORY, "no memory");
    free(path);
    return rc;
}

int cmd_eval(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    struct source s = {0};
    long long seq = 0, windows = 0, threads = 0;
    bool as_json = false;
    const char *backend = "cpu";
    const struct option_spec options[] = {{.name = "model", .str = &s.model, .required = true},
                                          {.name = "data", .str = &s.data, .required = true},
                                          {.name = "seq-len", .num = &seq, .required = true},
                                          {.name = "format", .str = &s.format},
                                          {.name = "tokenizer", .str = &s.tokenizer},
                                          {.name = "cache", .str = &s.cache},
                                          {.name = "windows", .num = &windows},
                                          {.name = "threads", .num = &threads},
                                          {.name = "backend", .str = &backend},
                                          {.name = "json", .flag = &as_json},
                                          {0}};
    struct kern_err ke = {0};
    struct kern *k = NULL;
    struct model *m = NULL;
    struct corpus *c = NULL;
    struct eval_result v;
    int rc = -1, first = cmd_options(argc, argv, options, e);
    if (first < 0)
        return -1;
    if (first != argc)
        return dha_fail(e, DHA_E_USAGE, "too many arguments");
    if (cmd_range("seq-len", seq, 1, INT_MAX / 4096, e) ||
        cmd_range("windows", windows, 0, INT64_MAX, e) || cmd_range("threads", threads, 0, 1024, e))
        return -1;
    if (!(k = kern_open(backend, (int)threads, &ke))) {
        dha_fail(e, DHA_E_INTERNAL, "backend %s: %s", backend, ke.msg);
        goto agree;
    }
    if (model_load(&m, k, s.model, e))
        goto agree;
    if (comm->rank == 0 && open_source(&s, &m->cfg, &c, e))
        goto agree;
    rc = 0;
agree:
    rc = comm_agree(comm, rc, e);
    if (rc == 0 && comm->rank != 0)
        rc = open_source(&s, &m->cfg, &c, e);
    if (comm_agree(comm, rc, e) == 0)
        rc = evaluate(m, c, (int)seq, windows, comm, &v, e);
    else
        rc = -1;
    if (rc == 0 && comm->rank == 0 && as_json)
        printf("{\"loss\": %.9g, \"tokens\": %" PRId64 ", \"windows\": %" PRId64 "}\n", v.loss,
               v.tokens, v.windows);
    else if (rc == 0 && comm->rank == 0)
        printf("loss %.6f nats/token  perplexity %.4f  %" PRId64 " tokens in %" PRId64
               " windows of %lld\n",
               v.loss, exp(v.loss), v.tokens, v.windows, seq);
    corpus_close(c);
    model_free(m);
    if (k)
        kern_close(k);
    return rc;
}

/* ---- score ------------------------------------------------------------------------------------------ */

/* Sequences to score: rows of ids with their targets. */
struct sequences {
    int32_t *ids, *targets; /* [n * seq] */
    int64_t n;
    int seq;
};

/* input_ids [B,T] i32 of a safetensors file; targets are the next ids, or `labels` where the file has them. */
static int from_safetensors(const char *path, int seq, int vocab, struct sequences *out,
                            struct dha_err *e)
{
    struct st_file *f = NULL;
    int rc = -1;
    if (st_open(&f, path, e))
        return -1;
    const struct st_tensor *t = st_find(f, "input_ids"), *l = st_find(f, "labels");
    if (!t || t->n_dims != 2 || t->dtype != ST_I32 ||
        (l && (l->dtype != ST_I32 || l->bytes != t->bytes))) {
        dha_fail(e, DHA_E_INPUT, "%s has no input_ids of shape [B,T] in int32", path);
        goto out;
    }
    out->seq = (int)t->dims[1];
    out->n = t->dims[0];
    if (seq && seq != out->seq) {
        dha_fail(e, DHA_E_INPUT, "%s has sequences of %d tokens, not %d", path, out->seq, seq);
        goto out;
    }
    size_t n = t->bytes / 4;
    out->ids = malloc(t->bytes + 4);
    out->targets = malloc(t->bytes + 4);
    if (!out->ids || !out->targets) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu tokens", n);
        goto out;
    }
    memcpy(out->ids, t->data, t->bytes);
    if (l)
        memcpy(out->targets, l->data, l->bytes);
    for (size_t i = 0; !l && i < n; i++)
        out->targets[i] = (i + 1) % (size_t)out->seq ? out->ids[i + 1] : -1;
    for (size_t i = 0; i < n; i++) {
        if (out->ids[i] < 0 || out->ids[i] >= vocab || out->targets[i] >= vocab) {
            dha_fail(e, DHA_E_INPUT, "%s: token %d at %zu is outside the vocabulary of %d", path,
                     out->ids[i], i, vocab);
            goto out;
        }
    }
    rc = 0;
out:
    st_close(f);
    return rc;
}

static int from_corpus(const struct source *s, const struct model_config *cfg, int seq,
                       struct sequences *out, struct dha_err *e)
{
    struct corpus *c = NULL;
    int rc = -1;
    if (open_source(s, cfg, &c, e))
        return -1;
    out->seq = seq;
    out->n = corpus_windows(c, seq);
    if (out->n < 1 && corpus_check(c, seq, e))
        goto out;
    size_t n = (size_t)out->n * (size_t)seq;
    out->ids = malloc(n * 4 + 4);
    out->targets = malloc(n * 4 + 4);
    if (!out->ids || !out->targets) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu tokens", n);
        goto out;
    }
    rc = 0;
    for (int64_t i = 0; rc == 0 && i < out->n; i++)
        rc = corpus_window(c, i, seq, out->ids + i * seq, out->targets + i * seq, e);
out:
    corpus_close(c);
    return rc;
}

/* The file is written beside its name and renamed, so that half a result is never taken for one. */
static int score_all(struct model *m, const struct sequences *q, const char *out, struct dha_err *e)
{
    struct run *r = NULL;
    size_t total = (size_t)q->n * (size_t)q->seq, at = 0;
    float *loss = malloc(total * sizeof *loss + 4);
    int rc = -1;
    if (!loss) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for %zu losses", total);
        goto out;
    }
    if (run_new(&r, m, 1, q->seq, RUN_INFER, e))
        goto out;
    for (int64_t i = 0; i < q->n; i++) {
        const int32_t *t = q->targets + i * q->seq;
        run_forward(r, q->ids + i * q->seq);
        if (run_token_losses(r, t, loss + at, e))
            goto out;
        for (int j = 0; j < q->seq; j++)
            at += t[j] >= 0;
    }
    rc = fs_write_file(out, loss, at * sizeof *loss, e);
    if (rc == 0)
        printf("%zu losses of %" PRId64 " sequences -> %s\n", at, q->n, out);
out:
    run_free(r);
    free(loss);
    return rc;
}

int cmd_score(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    struct source s = {0};
    const char *out = NULL, *backend = "cpu";
    long long seq = 0;
    const struct option_spec options[] = {{.name = "model", .str = &s.model, .required = true},
                                          {.name = "tokens", .str = &s.data, .required = true},
                                          {.name = "out", .str = &out, .required = true},
                                          {.name = "seq-len", .num = &seq},
                                          {.name = "format", .str = &s.format},
                                          {.name = "tokenizer", .str = &s.tokenizer},
                                          {.name = "cache", .str = &s.cache},
                                          {.name = "backend", .str = &backend},
                                          {0}};
    struct kern_err ke = {0};
    struct kern *k = NULL;
    struct model *m = NULL;
    struct sequences q = {0};
    int rc = -1, first = cmd_options(argc, argv, options, e);
    if (first < 0)
        return -1;
    if (comm->size > 1)
        return dha_fail(e, DHA_E_USAGE, "score runs as one process, not under mpirun -n %d",
                        comm->size);
    if (first != argc)
        return dha_fail(e, DHA_E_USAGE, "too many arguments");
    if (cmd_range("seq-len", seq, 0, INT_MAX / 4096, e))
        return -1;
    if (!(k = kern_open(backend, 0, &ke)))
        return dha_fail(e, DHA_E_INTERNAL, "backend %s: %s", backend, ke.msg);
    if (model_load(&m, k, s.model, e))
        goto out;
    size_t n = strlen(s.data);
    if (n > 12 && !strcmp(s.data + n - 12, ".safetensors"))
        rc = from_safetensors(s.data, (int)seq, m->cfg.vocab, &q, e);
    else if (seq == 0)
        rc = dha_fail(e, DHA_E_USAGE, "option --seq-len is missing");
    else
        rc = from_corpus(&s, &m->cfg, (int)seq, &q, e);
    if (rc == 0)
        rc = score_all(m, &q, out, e);
out:
    free(q.targets);
    free(q.ids);
    model_free(m);
    kern_close(k);
    return rc;
}
