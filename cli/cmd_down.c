/* cmd_down.c: dha down */
#include <poll.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/locate.h"
#include "cli/start.h"

#define STOP_WAIT_MS 30000

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    struct locate_socket where;
    struct client *c = NULL;
    cJSON *version = NULL;
    cJSON *jobs = NULL;
    struct pollfd process = {.fd = -1, .events = POLLIN};
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
    if (!c || client_get(c, &version, e, "/v1/version") ||
        client_get(c, &jobs, e, "/v1/jobs?state=running&limit=1000")) {
        goto out;
    }
    /* Taken before it is asked to end: a number alone could be another process's by then. */
    process.fd = pidfd_open((pid_t)json_int(version, "pid", -1), 0);
    if (client_post(c, "/v1/shutdown", NULL, NULL, NULL, e)) {
        goto out;
    }
    running = cJSON_GetArraySize(json_get(jobs, "jobs"));
    client_close(c); /* an open connection must not keep it up */
    c = NULL;
    if (process.fd >= 0 && poll(&process, 1, STOP_WAIT_MS) == 0) {
        dha_fail(e, DHA_E_TIMEOUT, "the daemon (pid %lld) is still there after %d s",
                 (long long)json_int(version, "pid", -1), STOP_WAIT_MS / 1000);
        goto out;
    }
    cli_say("the daemon at %s has stopped", where.path);
    if (running) {
        cli_say("%d job%s running: the stages go on and are found again by the next daemon",
                running, running == 1 ? " is" : "s are");
    }
    ret = 0;
out:
    if (process.fd >= 0) {
        close(process.fd);
    }
    cJSON_Delete(version);
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
