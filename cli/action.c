#include "cli/action.h"

int action_post(const struct cli *cli, const struct args *a, const char *action, const cJSON *body,
                const char *done, enum client_pick pick, struct dha_err *e)
{
    struct client *c = client_open(cli, e);
    cJSON *doc = NULL;
    char id[24];
    char path[96];
    int ret = -1;

    if (!c || client_job_id(c, a->pos[0], pick, id, e)) {
        goto out;
    }
    snprintf(path, sizeof path, "/v1/jobs/%s/%s", id, action);
    if (client_post(c, path, body, NULL, &doc, e)) {
        goto out;
    }
    if (arg_flag(a, "json")) {
        if (cli_print_json(json_get(doc, "job"), e)) {
            goto out;
        }
    } else {
        cli_say("job %s %s (state: %s)", id, done, json_str(json_get(doc, "job"), "state", "?"));
    }
    ret = 0;
out:
    cJSON_Delete(doc);
    client_close(c);
    return ret;
}
