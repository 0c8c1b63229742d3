/* cmd_export.c: dha export */
#include <string.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/copydir.h"
#include "cli/take.h"

static const struct cli_opt opts[] = {
    {"out", 'o', "DIR", "where to put the checkpoint; must not exist, or be empty"},
    {"format", 0, "F",
     "dha, gqa (only for uniform contiguous heads), or expand (back to plain MHA)"},
    {"dtype", 0, "D", "float32, bfloat16 or float16 (default: as trained from)"},
    {NULL, 0, NULL, NULL},
};

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const char *out = arg_value(a, "out");
    const char *format = arg_value(a, "format");
    struct client *c;
    cJSON *job = NULL;
    char id[24];
    int ret = -1;

    if (!out) {
        dha_fail(e, DHA_E_USAGE, "`dha export` needs --out DIR");
        return dha_err_hint(e, "dha export %s --out my-model", a->pos[0]);
    }
    if (format && strcmp(format, "dha") && strcmp(format, "gqa") && strcmp(format, "expand")) {
        dha_fail(e, DHA_E_USAGE, "--format: '%s' is none of dha, gqa, expand", format);
        return -1;
    }
    if (copydir_check(out, e)) {
        return -1;
    }
    c = client_open(cli, e);
    if (!c || client_job_id(c, a->pos[0], CLIENT_NEWEST, id, e) || client_job(c, id, &job, e) ||
        take_checkpoint(job, out, format, arg_value(a, "dtype"), e)) {
        goto out;
    }
    puts(out);
    ret = 0;
out:
    cJSON_Delete(job);
    client_close(c);
    return ret;
}

const struct command cmd_export = {
    .name = "export",
    .args = "ID --out DIR [--format dha|gqa|expand]",
    .summary = "Take the converted checkpoint of a finished job",
    .help =
        "Without --format: the checkpoint as the job made it. `dha` loads in transformers with\n"
        "trust_remote_code=True; `gqa` is a plain LlamaForCausalLM that any server loads, possible "
        "where every\n"
        "layer's heads are in equal contiguous groups (methods gqa, mqa, spectral-gqa); `expand` "
        "repeats the heads\n"
        "back to MHA: a stock LLaMA with the same logits, for checking. DIR appears whole or not "
        "at all. (`dha admin export` takes the whole job, to another daemon.)",
    .example = "dha export 12 --out my-model-25\ndha export 12 --out check --format expand",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .opts = opts,
    .run = run,
};
