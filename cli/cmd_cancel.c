/* cmd_cancel.c: dha cancel */
#include <string.h>

#include "cli/client.h"
#include "cli/view.h"

static const struct cli_opt opts[] = {
    {"reason", 0, "TEXT", "kept with the job, shown by `dha show`"},
    {"now", 0, NULL, "do not wait for a last checkpoint: kill at once"},
    {NULL, 0, NULL, NULL},
};

/* Is it being cancelled already? */
static int look(struct client *c, const char *id, bool *already, struct dha_err *e)
{
    cJSON *job;
    if (client_job(c, id, &job, e)) {
        return -1;
    }
    *already = json_bool(job, "cancelling", false);
    cJSON_Delete(job);
    return 0;
}

/* What is waited for, since when, and when it is killed: the daemon's words. It is cancelled, whether they come or not. */
static void say(struct client *c, const char *id, bool already)
{
    static const char same[] = "it is being cancelled";
    struct dha_err e = {0};
    cJSON *doc = NULL;
    if (client_get(c, &doc, &e, "/v1/jobs/%s/explain", id)) {
        cli_say("job %s is being cancelled (%s)", id, e.msg);
        return;
    }
    const char *state = json_str(doc, "state", "?"), *reason = json_str(doc, "reason", "?");
    if (view_ended(state)) {
        cli_say("job %s is %s", id, state);
    } else {
        bool begins = strncmp(reason, same, sizeof same - 1) == 0;
        cli_say("job %s is being cancelled%s%s%s", id, already ? " already" : "",
                begins ? "" : ": ", begins ? reason + sizeof same - 1 : reason);
    }
    cJSON_Delete(doc);
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const char *reason = arg_value(a, "reason");
    cJSON *body = cJSON_CreateObject(), *doc = NULL;
    struct client *c = client_open(cli, e);
    char id[24], path[64];
    bool already = false;
    int rc = -1;

    if (!c || client_job_id(c, a->pos[0], CLIENT_LIVE, id, e) || look(c, id, &already, e)) {
        goto out;
    }
    snprintf(path, sizeof path, "/v1/jobs/%s/cancel", id);
    if (!body || json_put_str(body, "reason", reason ? reason : "") ||
        json_put_bool(body, "now", arg_flag(a, "now"))) {
        dha_fail(e, DHA_E_NO_MEMORY, "cancelling");
    } else if (client_post(c, path, body, NULL, &doc, e) == 0) {
        rc = 0;
        if (arg_flag(a, "json")) {
            rc = cli_print_json(json_get(doc, "job"), e);
        } else {
            say(c, id, already);
        }
    }
out:
    cJSON_Delete(body);
    cJSON_Delete(doc);
    client_close(c);
    return rc;
}

const struct command cmd_cancel = {
    .name = "cancel",
    .args = "ID [--reason TEXT] [--now]",
    .summary = "Stop a job",
    .help =
        "A running stage writes a checkpoint and stops; what does not stop in time is killed. "
        "Finished stages are\n"
        "kept and `dha retry ID` goes on from them. Said again, it tells what is waited for, and "
        "when that is\n"
        "killed; with --now it is killed at once. A job that has ended cannot be cancelled "
        "(exit status 67).\n"
        "ID is a job's number or its name; a name that several jobs have is taken where one of "
        "them has not ended, "
        "else refused.",
    .example = "dha cancel 12 --reason \"wrong corpus\"",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .opts = opts,
    .run = run,
};
