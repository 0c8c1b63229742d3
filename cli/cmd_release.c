/* cmd_release.c: dha release */
#include "cli/action.h"

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    return action_post(cli, a, "release", NULL, "is released", CLIENT_LIVE, e);
}

const struct command cmd_release = {
    .name = "release",
    .args = "ID",
    .summary = "Let a held job go on",
    .help = "The job goes back into the queue with its old priority and age.",
    .example = "dha release 12",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .run = run,
};
