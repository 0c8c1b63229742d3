/* cmd_hold.c: dha hold */
#include "cli/action.h"

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    return action_post(cli, a, "hold", NULL, "is held", CLIENT_LIVE, e);
}

const struct command cmd_hold = {
    .name = "hold",
    .args = "ID",
    .summary = "Keep a job from starting its next stage",
    .help = "A running stage goes on to its end; nothing after it is started until `dha release`.",
    .example = "dha hold 12",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .run = run,
};
