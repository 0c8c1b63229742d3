/* cmd_compare.c: dha compare */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/client.h"
#include "cli/fmt.h"
#include "cli/locate.h"

static const struct cli_opt opts[] = {
    {"data", 'd', "FILE", "held-out text or tokens to measure the loss on"},
    {"seq-len", 0, "N", "tokens a window (default: the shorter context of the two, at most 1024)"},
    {"windows", 0, "N", "at most N windows (default: all of the file)"},
    {"format", 0, "F", "u16, u32, text or jsonl (default: by the file's name)"},
    {"tokenizer", 0, "FILE", "tokenizer.model for text (default: each model's own)"},
    {NULL, 0, NULL, NULL},
};

struct side {
    const char *name;
    char model[LOCATE_MAX];
    cJSON *facts, *eval;
};

/* A directory; or the id of a finished job, where no directory has that name. */
static int resolve(const struct cli *cli, const char *text, struct side *s, struct dha_err *e)
{
    struct client *c = NULL;
    cJSON *job = NULL;
    struct stat st;
    const char *checkpoint;
    char id[24];
    int ret = -1;

    s->name = text;
    if (!stat(text, &st) || !*text || strspn(text, "0123456789") != strlen(text)) {
        snprintf(s->model, sizeof s->model, "%s", text);
        return 0;
    }
    c = client_open(cli, e);
    if (!c || client_job_id(c, text, CLIENT_NEWEST, id, e) || client_job(c, id, &job, e)) {
        goto out;
    }
    checkpoint = json_str(json_get(job, "result"), "checkpoint", NULL);
    if (!checkpoint) {
        dha_fail(e, DHA_E_CONFLICT, "job %s has no checkpoint yet", text);
        goto out;
    }
    snprintf(s->model, sizeof s->model, "%s", checkpoint);
    ret = 0;
out:
    cJSON_Delete(job);
    client_close(c);
    return ret;
}

static int ask(const char *const argv[], const char *what, cJSON **out, struct dha_err *e)
{
    char *text = NULL;
    int status;

    if (child_run(argv, CHILD_STDOUT_CAPTURE, &text, &status, e)) {
        return -1;
    }
    if (status) {
        free(text);
        return child_said(what, status, e);
    }
    *out = json_parse(text, strlen(text), NULL, e);
    free(text);
    return *out ? 0 : dha_err_context(e, "the answer of %s", what);
}

static int measure(const char *worker, struct side *s, const struct args *a, const char *seq,
                   struct dha_err *e)
{
    static const char *const pass[] = {"windows", "format", "tokenizer"};
    static const char *const flags[] = {"--windows", "--format", "--tokenizer"};
    const char *argv[20];
    int n = 0;

    argv[n++] = worker;
    argv[n++] = "eval";
    argv[n++] = "--model";
    argv[n++] = s->model;
    argv[n++] = "--data";
    argv[n++] = arg_value(a, "data");
    argv[n++] = "--seq-len";
    argv[n++] = seq;
    for (int i = 0; i < 3; i++) {
        if (arg_value(a, pass[i])) {
            argv[n++] = flags[i];
            argv[n++] = arg_value(a, pass[i]);
        }
    }
    argv[n++] = "--json";
    argv[n] = NULL;
    cli_say("measuring the loss of %s on %s, in windows of %s tokens", s->name,
            arg_value(a, "data"), seq);
    return ask(argv, "dha-worker eval", &s->eval, e);
}

/* Whether --data is tokenised for each model: all but token files are (dha-worker eval tells them the same way). */
static bool data_is_text(const struct args *a)
{
    static const char *const token_files[] = {"u16", "u32", "bin"};
    const char *format = arg_value(a, "format");
    const char *dot = strrchr(arg_value(a, "data"), '.');

    format = format ? format : dot ? dot + 1 : "";
    for (size_t i = 0; i < sizeof token_files / sizeof *token_files; i++) {
        if (!strcmp(format, token_files[i])) {
            return false;
        }
    }
    return true;
}

/* 1: both are there and differ, 0: they do not, or one is missing (which dha-worker eval says better), -1: *e */
static int files_differ(const char *const path[2], struct dha_err *e)
{
    FILE *f[2] = {fopen(path[0], "rb"), fopen(path[1], "rb")};
    char buf[2][4096];
    size_t n[2] = {1, 1};
    int differ = 0;

    while (f[0] && f[1] && !differ && n[0] > 0) {
        for (int i = 0; i < 2; i++) {
            n[i] = fread(buf[i], 1, sizeof buf[i], f[i]);
            if (ferror(f[i])) {
                differ = dha_fail_errno(e, errno, "reading %s", path[i]);
            }
        }
        differ = differ ? differ : n[0] != n[1] || memcmp(buf[0], buf[1], n[0]) != 0;
    }
    for (int i = 0; i < 2; i++) {
        if (f[i]) {
            fclose(f[i]);
        }
    }
    return differ;
}

/* A loss a token says something only beside another one over the same tokens. */
static int same_tokens(const struct side s[2], const struct args *a, struct dha_err *e)
{
    int64_t vocab[2];
    char path[2][LOCATE_MAX + 32];
    const char *paths[2] = {path[0], path[1]};
    int differ;

    for (int i = 0; i < 2; i++) {
        vocab[i] = json_int(s[i].facts, "vocab", 0);
        snprintf(path[i], sizeof path[i], "%s/tokenizer.model", s[i].model);
    }
    if (vocab[0] != vocab[1]) {
        dha_fail(
            e, DHA_E_INPUT,
            "the vocabularies differ: %s has %lld tokens, %s %lld, so their losses a token are "
            "not over the same tokens",
            s[0].name, (long long)vocab[0], s[1].name, (long long)vocab[1]);
        return dha_err_hint(e,
                            "compare a conversion with the model it was made of, or with another "
                            "conversion of that");
    }
    if (!data_is_text(a) || arg_value(a, "tokenizer")) {
        return 0;
    }
    differ = files_differ(paths, e);
    if (differ > 0) {
        dha_fail(e, DHA_E_INPUT,
                 "the tokenizers differ: %s and %s are not the same file, so the losses a token "
                 "are not over the same tokens",
                 path[0], path[1]);
        dha_err_hint(e, "where one of them is right for both models, name it with --tokenizer "
                        "FILE; or give a token file (u16, u32)");
    }
    return differ ? -1 : 0;
}

static void number_row(struct table *t, const char *what, const char *const cell[2],
                       const char *change)
{
    table_cell(t, "%s", what);
    table_cell(t, "%s", cell[0]);
    table_cell(t, "%s", cell[1]);
    table_cell(t, "%s", change);
}

static int report(const struct side s[2], struct dha_err *e)
{
    static const enum fmt_align align[] = {FMT_LEFT, FMT_RIGHT, FMT_RIGHT, FMT_RIGHT};
    const char *heads[] = {"", s[0].name, s[1].name, "second against first"};
    struct fmt f = fmt_for(stdout);
    struct table *t = table_create(4, heads, align);
    double loss[2];
    char cells[2][FMT_BUF];
    const char *row[2] = {cells[0], cells[1]};
    char change[64];
    int64_t windows;

    if (!t) {
        return dha_fail(e, DHA_E_NO_MEMORY, "comparing");
    }
    for (int i = 0; i < 2; i++) {
        loss[i] = json_num(s[i].eval, "loss", NAN);
        fmt_loss(cells[i], loss[i]);
    }
    snprintf(change, sizeof change, "%+.4f", loss[1] - loss[0]);
    number_row(t, "loss (nats/token)", row, change);
    for (int i = 0; i < 2; i++) {
        snprintf(cells[i], FMT_BUF, "%.4f", exp(loss[i]));
    }
    snprintf(change, sizeof change, "%+.2f %%", (exp(loss[1] - loss[0]) - 1) * 100);
    number_row(t, "perplexity", row, change);
    static const char *const counts[][2] = {{"kv_bytes_per_token", "KV bytes a token"},
                                            {"parameters", "parameters"}};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        int64_t v[2];
        for (int i = 0; i < 2; i++) {
            v[i] = json_int(s[i].facts, counts[k][0], 0);
            snprintf(cells[i], FMT_BUF, "%lld", (long long)v[i]);
        }
        snprintf(change, sizeof change, "%.1f %%",
                 v[0] > 0 ? 100.0 * (double)v[1] / (double)v[0] : NAN);
        number_row(t, counts[k][1], row, change);
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    windows = json_int(s[0].eval, "windows", 0);
    printf("%lld tokens in %lld window%s.  ", (long long)json_int(s[0].eval, "tokens", 0),
           (long long)windows, windows == 1 ? "" : "s");
    if (loss[0] == loss[1]) {
        puts("Both predict the text equally well.");
    } else {
        int better = loss[1] < loss[0];
        printf("%s predicts the text better, by %.4f nats a token (perplexity %.2f %% lower).\n",
               s[better].name, fabs(loss[1] - loss[0]), (1 - exp(-fabs(loss[1] - loss[0]))) * 100);
    }
    return 0;
}

static int report_json(const struct side s[2], struct dha_err *e)
{
    cJSON *doc = cJSON_CreateObject();
    cJSON *models = doc ? cJSON_AddArrayToObject(doc, "models") : NULL;
    int rc = models ? 0 : -1;

    for (int i = 0; i < 2 && !rc; i++) {
        cJSON *m = cJSON_Duplicate(s[i].eval, true);
        rc = json_put_str(m, "model", s[i].model) ||
             json_put_num(m, "perplexity", exp(json_num(s[i].eval, "loss", NAN))) ||
             json_put_id(m, "kv_bytes_per_token", json_int(s[i].facts, "kv_bytes_per_token", 0)) ||
             json_put_id(m, "parameters", json_int(s[i].facts, "parameters", 0)) ||
             !cJSON_AddItemToArray(models, m);
    }
    rc = rc ? dha_fail(e, DHA_E_NO_MEMORY, "comparing") : cli_print_json(doc, e);
    cJSON_Delete(doc);
    return rc;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    struct side s[2] = {0};
    char worker[LOCATE_MAX];
    char seq[24];
    int64_t shorter = 1024;
    int64_t seq_len;
    int ret = -1;

    if (!arg_value(a, "data")) {
        dha_fail(e, DHA_E_USAGE, "`dha compare` needs --data FILE");
        return dha_err_hint(e, "dha compare %s %s --data valid.txt", a->pos[0], a->pos[1]);
    }
    if (access(arg_value(a, "data"), R_OK)) {
        return dha_fail_errno(e, errno, "reading %s", arg_value(a, "data"));
    }
    if (locate_program("dha-worker", worker, sizeof worker, e)) {
        return -1;
    }
    for (int i = 0; i < 2; i++) {
        if (resolve(cli, a->pos[i], &s[i], e)) {
            goto out;
        }
        const char *argv[] = {worker, "inspect", "--model", s[i].model, "--json", NULL};
        if (ask(argv, "dha-worker inspect", &s[i].facts, e)) {
            goto out;
        }
        int64_t positions = json_int(s[i].facts, "positions", shorter);
        shorter = positions < shorter ? positions : shorter;
    }
    if (same_tokens(s, a, e)) {
        goto out;
    }
    if (arg_int(a, "seq-len", 1, 1 << 20, shorter, &seq_len, e)) {
        goto out;
    }
    snprintf(seq, sizeof seq, "%lld", (long long)seq_len);
    if (measure(worker, &s[0], a, seq, e) || measure(worker, &s[1], a, seq, e)) {
        goto out;
    }
    ret = arg_flag(a, "json") ? report_json(s, e) : report(s, e);
out:
    for (int i = 0; i < 2; i++) {
        cJSON_Delete(s[i].facts);
        cJSON_Delete(s[i].eval);
    }
    return ret;
}

const struct command cmd_compare = {
    .name = "compare",
    .args = "MODEL MODEL --data FILE",
    .summary = "Two checkpoints side by side: loss on held-out data, KV bytes a token, parameters",
    .help = "MODEL is a directory, or the id of a finished job. The loss is the mean over windows "
            "that do not overlap,\n"
            "in nats a token; both models see the same windows, so they must have one tokenizer.",
    .example = "dha compare ~/models/my-llama 12 --data valid.txt --windows 256",
    .group = "Start here",
    .min_pos = 2,
    .max_pos = 2,
    .json = true,
    .opts = opts,
    .run = run,
};
