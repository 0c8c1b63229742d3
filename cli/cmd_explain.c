/* cmd_explain.c: dha explain */
#include "cli/client.h"

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    struct client *c = client_open(cli, e);
    cJSON *doc = NULL;
    char id[24];
    int ret = -1;

    if (!c || client_job_id(c, a->pos[0], CLIENT_NEWEST, id, e) ||
        client_get(c, &doc, e, "/v1/jobs/%s/explain", id)) {
        goto out;
    }
    ret = 0;
    if (arg_flag(a, "json")) {
        ret = cli_print_json(doc, e);
    } else {
        const char *unblock = json_str(doc, "unblock", "");
        printf("job %s is %s: %s\n", id, json_str(doc, "state", "?"), json_str(doc, "reason", "?"));
        if (*unblock) {
            printf("what would help: %s\n", unblock);
        }
    }
out:
    cJSON_Delete(doc);
    client_close(c);
    return ret;
}

const struct command cmd_explain = {
    .name = "explain",
    .args = "ID",
    .summary = "Why a job is not running, and what would change that",
    .help = "Names the first rule that keeps the job's next stage from starting.",
    .example = "dha explain 12",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .run = run,
};
