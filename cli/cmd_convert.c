/* cmd_convert.c: dha convert = submit + watch + export */
#include <stdlib.h>
#include <string.h>

#include "cli/copydir.h"
#include "cli/follow.h"
#include "cli/interrupt.h"
#include "cli/locate.h"
#include "cli/precheck.h"
#include "cli/specfile.h"
#include "cli/take.h"
#include "cli/view.h"
#include "proto/spec.h"

static const struct cli_opt opts[] = {
    {"data", 'd', "FILE", "training data: .txt .jsonl (.gz .zst) .u16 .u32 (may be repeated)"},
    {"budget", 'b', "B", "share of the K and V heads to keep, e.g. 0.25"},
    {"out", 'o', "DIR", "where the converted checkpoint goes; must not exist, or be empty"},
    {"valid", 0, "FILE", "held-out data for the losses (default: the end of the training data)"},
    {"method", 'm', "M",
     "spectral (default) or another preset; `--method help` is answered with their names"},
    {"tokens", 0, "N", "tokens to train on after the conversion, e.g. 5M"},
    {"tokenizer", 0, "FILE", "tokenizer.model for text (default: the model's own)"},
    {"format", 0, "F", "u16, u32, text or jsonl (default: by the files' names)"},
    {"seq-len", 0, "N", "tokens a sequence"},
    {"name", 0, "NAME", "the job's name (default: the name of DIR)"},
    {"set", 0, "PATH=VALUE", "any other field of the spec, e.g. --set resources.ranks=8"},
    PRECHECK_OPT,
    {NULL, 0, NULL, NULL},
};

/* The command line as a job spec; only what was given, the daemon fills in the rest. */
static int make_spec(const struct args *a, cJSON **out, struct dha_err *e)
{
    cJSON *spec = cJSON_CreateObject();
    cJSON *data = spec ? cJSON_AddObjectToObject(spec, "data") : NULL;
    cJSON *train = data ? cJSON_AddArrayToObject(data, "train") : NULL;
    static const char *const strings[][2] = {
        {"valid", "valid"}, {"tokenizer", "tokenizer"}, {"format", "format"}};
    const char *method = arg_value(a, "method");
    const char *name = arg_value(a, "name");
    char out_dir[LOCATE_MAX];
    const char *text;
    double budget;
    int64_t n;
    int bad = !train;

    *out = spec;
    if (arg_num(a, "budget", 0, 1, 0.25, &budget, e)) {
        return -1;
    }
    bad = bad || json_put_str(spec, "model", a->pos[0]) || json_put_num(spec, "budget", budget);
    bad = bad || (method && json_put_str(spec, "method", method));
    if (locate_absolute(NULL, arg_value(a, "out"), out_dir, sizeof out_dir, e)) {
        return -1;
    }
    /* The directory's name is the one the user gave the result. */
    bad = bad || json_put_str(spec, "name", name ? name : strrchr(out_dir, '/') + 1);
    for (int i = 0; !bad && (text = arg_nth(a, "data", i)); i++) {
        bad = !cJSON_AddItemToArray(train, cJSON_CreateString(text));
    }
    for (size_t i = 0; !bad && i < sizeof strings / sizeof *strings; i++) {
        text = arg_value(a, strings[i][0]);
        bad = text && json_put_str(data, strings[i][1], text);
    }
    if (!bad && arg_value(a, "tokens")) {
        cJSON *tokens = cJSON_AddObjectToObject(spec, "tokens");
        if (arg_int(a, "tokens", 0, (int64_t)1 << 50, 0, &n, e)) {
            return -1;
        }
        bad = !tokens || json_put_int(tokens, "train", n);
    }
    if (!bad && arg_value(a, "seq-len")) {
        if (arg_int(a, "seq-len", 1, 1 << 20, 0, &n, e)) {
            return -1;
        }
        bad = json_put_int(data, "seq_len", n);
    }
    for (int i = 0; !bad && (text = arg_nth(a, "set", i)); i++) {
        if (spec_set(spec, text, e)) {
            return dha_err_context(e, "--set %s", text);
        }
    }
    if (bad) {
        return dha_fail(e, DHA_E_NO_MEMORY, "writing the job spec");
    }
    return specfile_absolute(spec, NULL, e);
}

static int need(const struct args *a, const char *name, const char *what, struct dha_err *e)
{
    if (arg_value(a, name)) {
        return 0;
    }
    dha_fail(e, DHA_E_USAGE, "`dha convert` needs --%s %s", name, what);
    return dha_err_hint(e, "dha convert MODEL --data corpus.txt --budget 0.25 --out my-model-25");
}

static void come_back(const char *id, const char *out)
{
    char *take = NULL;
    size_t len = 0;
    FILE *mem = open_memstream(&take, &len);

    cli_say("job %s goes on without this terminal:", id);
    if (!mem) {
        return;
    }
    fprintf(mem, "export %s --out ", id);
    fmt_shell(mem, out);
    if (!fclose(mem)) { /* the longest of the three: the others are as wide */
        int width = (int)fmt_width(take) - (int)strlen(id);
        fprintf(stderr,
                "     dha watch %s%*s  comes back to it\n"
                "     dha %s  takes the result when it is done\n"
                "     dha cancel %s%*s  stops it\n",
                id, width - (int)strlen("watch "), "", take, id, width - (int)strlen("cancel "),
                "");
    }
    free(take);
}

static void print_result(const cJSON *job, const char *out)
{
    struct fmt f = fmt_for(stdout);

    view_result(stdout, &f, job);
    printf("  written to         %s\n", out);
    printf("\ncompare it:  dha compare ");
    fmt_shell(stdout, json_str(json_get(job, "spec"), "model", "MODEL"));
    putchar(' ');
    fmt_shell(stdout, out);
    puts(" --data FILE");
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const char *out = arg_value(a, "out");
    struct client *c = NULL;
    cJSON *spec = NULL;
    cJSON *doc = NULL;
    cJSON *job = NULL;
    const char *id;
    int ret = -1;
    int end;

    if (need(a, "data", "FILE", e) || need(a, "budget", "B", e) || need(a, "out", "DIR", e) ||
        copydir_check(out, e)) {
        return -1;
    }
    if (make_spec(a, &spec, e)) {
        goto out;
    }
    c = client_open(cli, e);
    if (!c || precheck(c, a, spec, e) || specfile_post(c, spec, &(struct submission){0}, &doc, e)) {
        goto out;
    }
    id = json_str(json_get(doc, "job"), "id", "");
    cli_say("job %s submitted", id);
    specfile_say_if_blocked(c, id);
    end = follow_jobs(c, &id, 1, stderr, &job, e);
    if (end < 0) {
        goto out;
    }
    if (end == FOLLOW_INTERRUPTED) {
        come_back(id, out);
        ret = INTERRUPT_EXIT;
        goto out;
    }
    if (view_outcome(job, e)) {
        goto out;
    }
    if (take_checkpoint(job, out, NULL, NULL, e)) {
        if (e->code != DHA_E_CHECKPOINT) {
            dha_err_hint(e, "the result is kept: dha export %s --out OTHER", id);
        }
        goto out;
    }
    ret = 0;
    if (arg_flag(a, "json")) {
        ret = json_put_str(job, "out", out) ? dha_fail(e, DHA_E_NO_MEMORY, "printing the result")
                                            : cli_print_json(job, e);
    } else {
        print_result(job, out);
    }
out:
    cJSON_Delete(job);
    cJSON_Delete(doc);
    cJSON_Delete(spec);
    client_close(c);
    return ret;
}

const struct command cmd_convert = {
    .name = "convert",
    .args = "MODEL --data FILE --budget B --out DIR",
    .summary = "Convert a checkpoint, watch it, and put the result into DIR",
    .help = "MODEL is a LLaMA-architecture checkpoint in Hugging Face layout. The work is a job of "
            "the daemon: Ctrl-C\n"
            "leaves it running and says how to come back. Nothing that exists is overwritten.\n"
            "Progress is shown on stderr, the result (losses, KV bytes, head map) on stdout.",
    .example = "dha convert ~/models/my-llama --data corpus.jsonl.zst --valid held-out.jsonl \\\n"
               "    --budget 0.25 --tokens 5M --out my-llama-25",
    .group = "Start here",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .opts = opts,
    .run = run,
};
