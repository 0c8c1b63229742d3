/* cmd_down.c: dha down */
#include <time.h>

#include "cli/client.h"
#include "cli/locate.h"
#include "cli/start.h"

#define STOP_WAIT_MS 15000
#define STOP_POLL_MS 20

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const struct timespec pause = {.tv_nsec = STOP_POLL_MS * 1000000L};
    struct locate_socket where;
    struct client *c = NULL;
    cJSON *jobs = NULL;
    int running;
    int ret = -1;

    (void)a;
    if (locate_socket(cli, &where, e)) {
        return -1;
    }
    if (!daemon_listens(where.path)) {
        cli_say("no daemon answers at %s; nothing to stop", where.path);
        return 0;
    }
    c = client_open_existing(cli, e);
    if (!c || client_get(c, &jobs, e, "/v1/jobs?state=running&limit=1000") ||
        client_post(c, "/v1/shutdown", NULL, NULL, NULL, e)) {
        goto out;
    }
    running = cJSON_GetArraySize(json_get(jobs, "jobs"));
    client_close(c); /* an open connection must not keep it up */
    c = NULL;
    for (int waited = 0; daemon_listens(where.path); waited += STOP_POLL_MS) {
        if (waited >= STOP_WAIT_MS) {
            dha_fail(e, DHA_E_TIMEOUT, "the daemon at %s still answers after %d s", where.path,
                     STOP_WAIT_MS / 1000);
            goto out;
        }
        nanosleep(&pause, NULL);
    }
    cli_say("the daemon at %s has stopped", where.path);
    if (running) {
        cli_say("%d job%s running: the stages go on and are found again by the next daemon",
                running, running == 1 ? " is" : "s are");
    }
    ret = 0;
out:
    cJSON_Delete(jobs);
    client_close(c);
    return ret;
}

const struct command cmd_down = {
    .name = "down",
    .args = "",
    .summary = "Stop the daemon; running stages go on",
    .help = "The next daemon on the same state directory finds the running stages again. To stop "
            "those too, cancel\n"
            "their jobs first.",
    .example = "dha down",
    .group = "The daemon and its nodes",
    .run = run,
};
