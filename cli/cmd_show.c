/* cmd_show.c: dha show */
#include "cli/client.h"
#include "cli/view.h"

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    struct client *c = client_open(cli, e);
    struct fmt f = fmt_for(stdout);
    cJSON *job = NULL;
    char id[24];
    int ret = -1;

    if (!c || client_job_id(c, a->pos[0], CLIENT_NEWEST, id, e) || client_job(c, id, &job, e)) {
        goto out;
    }
    ret = 0;
    if (arg_flag(a, "json")) {
        ret = cli_print_json(job, e);
    } else {
        view_show(stdout, &f, job);
    }
out:
    cJSON_Delete(job);
    client_close(c);
    return ret;
}

const struct command cmd_show = {
    .name = "show",
    .args = "ID",
    .summary = "Everything about one job: stages, losses, head map, files",
    .help = "ID is a job's number or its name (then the newest of that name). --json prints the "
            "API's job document. Its time is from its start to its end, or to now.",
    .example = "dha show 12\ndha show 12 --json | jq .result.loss",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .run = run,
};
