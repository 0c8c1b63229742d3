/* cmd_prio.c: dha prio */
#include "cli/action.h"

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    cJSON *body = cJSON_CreateObject();
    int64_t n;
    int rc = -1;

    if (parse_int("the priority", a->pos[1], -1000, 1000, &n, e)) {
        cJSON_Delete(body);
        return -1;
    }
    if (!body || json_put_int(body, "priority", n)) {
        dha_fail(e, DHA_E_NO_MEMORY, "changing a priority");
    } else {
        rc = action_post(cli, a, "priority", body, "has its new priority", CLIENT_LIVE, e);
    }
    cJSON_Delete(body);
    return rc;
}

const struct command cmd_prio = {
    .name = "prio",
    .args = "ID N",
    .summary = "Change a job's priority (-1000 to 1000, higher goes first)",
    .help = "Takes effect when the next stage is chosen; a running stage is not stopped. A "
            "negative number needs\n"
            "\"--\" before it.",
    .example = "dha prio 12 10\ndha prio -- 12 -5",
    .group = "Jobs",
    .min_pos = 2,
    .max_pos = 2,
    .json = true,
    .run = run,
};
