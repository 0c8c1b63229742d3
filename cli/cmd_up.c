/* cmd_up.c: dha up */
#include "cli/client.h"
#include "cli/locate.h"
#include "cli/start.h"

static const struct cli_opt opts[] = {
    {"state", 0, "DIR", "state directory (default: $DHA_STATE, else ~/.dha)"},
    {NULL, 0, NULL, NULL},
};

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    struct locate_socket where;
    char state[LOCATE_MAX];
    struct client *c = NULL;
    cJSON *v = NULL;
    bool started = false;
    int ret = -1;

    if (locate_socket(cli, &where, e)) {
        return -1;
    }
    if (!daemon_listens(where.path)) {
        const char *given = arg_value(a, "state");
        if ((given ? locate_absolute(NULL, given, state, sizeof state, e)
                   : locate_state(state, sizeof state, e)) ||
            daemon_start(state, where.path, e)) {
            return -1;
        }
        started = true;
    }
    c = client_open_existing(cli, e);
    if (!c || client_get(c, &v, e, "/v1/version")) {
        goto out;
    }
    ret = 0;
    if (arg_flag(a, "json")) {
        ret = cli_print_json(v, e);
    } else {
        printf("dhad %s (pid %lld) %s %s, state in %s\n", json_str(v, "version", "?"),
               (long long)json_int(v, "pid", 0), started ? "started; it answers at" : "answers at",
               where.path, json_str(v, "state_dir", "?"));
    }
    if (json_str(v, "notice", NULL)) {
        cli_say("%s", json_str(v, "notice", ""));
    }
out:
    cJSON_Delete(v);
    client_close(c);
    return ret;
}

const struct command cmd_up = {
    .name = "up",
    .args = "[--state DIR]",
    .summary = "Start the daemon, or say where it is",
    .help = "Other commands start your own daemon when they need it; `up` also starts one at a "
            "named socket.",
    .example = "dha up\ndha up --socket /tmp/lab/sock --state /scratch/dha",
    .group = "The daemon and its nodes",
    .json = true,
    .opts = opts,
    .run = run,
};
