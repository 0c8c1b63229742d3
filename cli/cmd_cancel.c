/* cmd_cancel.c: dha cancel */
#include "cli/action.h"

static const struct cli_opt opts[] = {
    {"reason", 0, "TEXT", "kept with the job, shown by `dha show`"},
    {"now", 0, NULL, "do not wait for a last checkpoint: kill at once"},
    {NULL, 0, NULL, NULL},
};

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const char *reason = arg_value(a, "reason");
    cJSON *body = cJSON_CreateObject();
    int rc = -1;

    if (!body || json_put_str(body, "reason", reason ? reason : "") ||
        json_put_bool(body, "now", arg_flag(a, "now"))) {
        dha_fail(e, DHA_E_NO_MEMORY, "cancelling");
    } else {
        rc = action_post(cli, a, "cancel", body, "is being cancelled", e);
    }
    cJSON_Delete(body);
    return rc;
}

const struct command cmd_cancel = {
    .name = "cancel",
    .args = "ID [--reason TEXT] [--now]",
    .summary = "Stop a job",
    .help = "A running stage writes a checkpoint and stops; what does not stop in time is killed. "
            "Finished stages are\n"
            "kept and `dha retry ID` goes on from them. A job that has ended cannot be cancelled "
            "(exit status 67).",
    .example = "dha cancel 12 --reason \"wrong corpus\"",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .opts = opts,
    .run = run,
};
