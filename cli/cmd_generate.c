/* cmd_generate.c: dha generate: finds the checkpoints and becomes dha-worker, which reads the prompt and writes the text. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/locate.h"
#include "cli/take.h"

static const struct cli_opt opts[] = {
    {"compare", 'c', "PARENT", "let a second model (a directory or a job) continue it, too"},
    {"ids", 0, "IDS", "the prompt as token ids, 1,2,3: for models without a tokenizer.model"},
    {"max-tokens", 'n', "N", "at most N new tokens (default 100)"},
    {"temperature", 't', "T",
     "0: always the likeliest token (default); else draw, sharper below 1"},
    {"top-k", 0, "K", "draw from the K likeliest tokens only"},
    {"top-p", 0, "P", "draw from the likeliest tokens that together have the share P"},
    {"seed", 's', "S", "another seed draws another text; the same one the same (default 0)"},
    {"tokenizer", 0, "FILE", "a SentencePiece model (default: tokenizer.model beside the weights)"},
    {"no-bos", 0, NULL, "do not put the beginning-of-text token before the prompt"},
    {"ignore-eos", 0, NULL, "go on after the model has ended its text"},
    {"ids-out", 0, NULL, "print token ids instead of text"},
    {"threads", 0, "N", "processor threads (default: all)"},
    {NULL, 0, NULL, NULL},
};

/* A directory; else a job by its id or name, which means the checkpoint that it made. */
static int resolve(const struct cli *cli, const char *text, char model[LOCATE_MAX],
                   struct dha_err *e)
{
    struct client *c;
    cJSON *job = NULL;
    const char *checkpoint;
    char id[24];
    struct stat st;
    int ret = -1;

    if (!stat(text, &st) || strchr(text, '/')) {
        snprintf(model, LOCATE_MAX, "%s", text);
        return 0;
    }
    c = client_open(cli, e);
    if (!c || client_job_id(c, text, CLIENT_NEWEST, id, e) || client_job(c, id, &job, e)) {
        if (e->code == DHA_E_NOT_FOUND) {
            dha_err_hint(e, "a model is a directory with a config.json, or a job's id or name: "
                            "`dha list` has them");
        }
        goto out;
    }
    checkpoint = json_str(json_get(job, "result"), "checkpoint", NULL);
    if (!checkpoint) {
        dha_fail(e, DHA_E_CONFLICT, "job %s has no checkpoint yet (it is %s)", text,
                 json_str(job, "state", "?"));
        dha_err_hint(e, "`dha watch %s` waits for it", id);
        goto out;
    }
    if (take_verify(checkpoint, e)) {
        dha_err_context(e, "the checkpoint of job %s", text);
        goto out;
    }
    snprintf(model, LOCATE_MAX, "%s", checkpoint);
    ret = 0;
out:
    cJSON_Delete(job);
    client_close(c);
    return ret;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    static const char *const pass[][2] = {
        {"ids", "--ids"},        {"max-tokens", "--max-tokens"}, {"temperature", "--temperature"},
        {"top-k", "--top-k"},    {"top-p", "--top-p"},           {"seed", "--seed"},
        {"threads", "--threads"}};
    static const char *const flags[][2] = {{"no-bos", "--no-bos"},
                                           {"ignore-eos", "--ignore-eos"},
                                           {"ids-out", "--ids-out"},
                                           {"json", "--json"}};
    char worker[LOCATE_MAX], model[LOCATE_MAX], other[LOCATE_MAX];
    const char *argv[48];
    int n = 0;

    if (locate_program("dha-worker", worker, sizeof worker, e) ||
        resolve(cli, a->pos[0], model, e) ||
        (arg_value(a, "compare") && resolve(cli, arg_value(a, "compare"), other, e))) {
        return -1;
    }
    argv[n++] = worker;
    argv[n++] = "generate";
    if (arg_value(a, "compare")) {
        argv[n++] = "--compare";
        argv[n++] = other;
    }
    if (arg_value(a, "tokenizer")) {
        argv[n++] = "--tokenizer";
        argv[n++] = arg_value(a, "tokenizer");
    }
    for (size_t i = 0; i < sizeof pass / sizeof *pass; i++) {
        if (arg_value(a, pass[i][0])) {
            argv[n++] = pass[i][1];
            argv[n++] = arg_value(a, pass[i][0]);
        }
    }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (arg_flag(a, flags[i][0])) {
            argv[n++] = flags[i][1];
        }
    }
    argv[n++] = "--"; /* a prompt may begin with a dash */
    argv[n++] = model;
    if (a->n_pos > 1) {
        argv[n++] = a->pos[1];
    }
    argv[n] = NULL;
    fflush(stdout);
    signal(SIGPIPE, SIG_DFL); /* main() ignores it, and that would be inherited */
    /* The terminal, the pipe and the signals are the worker's from here on, and its exit status is ours. */
    char *const *args;
    memcpy(&args, &(const char *const *){argv}, sizeof args); /* exec does not write through them */
    execv(worker, args);
    return dha_fail_errno(e, errno, "running %s", worker);
}

const struct command cmd_generate = {
    .name = "generate",
    .args = "MODEL [PROMPT|-]",
    .summary = "Let a checkpoint continue a text; talk to a converted model and its parent",
    .help =
        "MODEL is a directory, or the id or name of a finished job: the checkpoint that it made.\n"
        "PROMPT is text; - reads it from stdin; without one each line that you type is a prompt.\n"
        "The text goes to stdout as it is made, its cost (tokens a second, bytes of KV cache) to "
        "stderr.\n"
        "Generation keeps keys and values of the kept heads only, so the cache is as small as the\n"
        "conversion promised. It ends when the model ends its text, after --max-tokens, or when "
        "the context is full.",
    .example = "dha generate 12 \"Once upon a time\"\n"
               "dha generate my-model-25 --compare ~/models/my-llama \"Once upon a time\" -n 60\n"
               "dha generate 12 --temperature 0.8 --top-p 0.95 --seed 7 - < prompt.txt",
    .group = "Start here",
    .min_pos = 1,
    .max_pos = 2,
    .json = true,
    .opts = opts,
    .run = run,
};
