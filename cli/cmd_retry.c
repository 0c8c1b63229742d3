/* cmd_retry.c: dha retry */
#include "cli/action.h"

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    return action_post(cli, a, "retry", NULL, "is queued again", CLIENT_ONLY, e);
}

const struct command cmd_retry = {
    .name = "retry",
    .args = "ID",
    .summary = "Run a failed or cancelled job again from what is finished",
    .help = "Stages that finished are kept; the failed one starts a new attempt, from its last "
            "checkpoint where it has one. A name that several jobs have is refused: give the id.",
    .example = "dha retry 12 && dha watch 12",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .run = run,
};
