/* cmd_inspect.c: dha inspect */
#include <signal.h>

#include "cli/child.h"
#include "cli/locate.h"

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    char worker[LOCATE_MAX];
    int status;

    (void)cli; /* no daemon is asked */
    if (locate_program("dha-worker", worker, sizeof worker, e)) {
        return -1;
    }
    const char *argv[] = {
        worker, "inspect", "--model", a->pos[0], arg_flag(a, "json") ? "--json" : NULL, NULL};
    if (child_run(argv, CHILD_STDOUT_INHERIT, NULL, &status, e)) {
        return -1;
    }
    return status > 128 && status != 128 + SIGPIPE ? child_failed("dha-worker inspect", status, e)
                                                   : status;
}

const struct command cmd_inspect = {
    .name = "inspect",
    .args = "MODEL",
    .summary = "What a checkpoint is: shape, KV bytes a token, head map, how alike its heads are",
    .help = "MODEL is a Hugging Face directory (config.json and safetensors), converted or not. "
            "Says before any work\n"
            "whether dha can read it.",
    .example = "dha inspect ~/models/my-llama",
    .group = "Start here",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .run = run,
};
