/* cmd_events.c: dha events */
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/fmt.h"

static const struct cli_opt opts[] = {
    {"follow", 'f', NULL, "wait for new events and print them as they come"},
    {"after", 0, "SEQ", "only events after this number (default 0: from the start)"},
    {NULL, 0, NULL, NULL},
};

static int print_event(const cJSON *ev, bool as_json, struct dha_err *e)
{
    const cJSON *data = json_get(ev, "data");
    const char *job = json_str(ev, "job", NULL);
    const char *stage = json_str(ev, "stage", NULL);
    char when[FMT_BUF];
    char *text = json_text(as_json ? ev : data);

    if (!text && (as_json || data)) {
        return dha_fail(e, DHA_E_NO_MEMORY, "printing an event");
    }
    if (as_json) {
        cli_put_json(text);
    } else {
        printf("%6lld  %s  %-20s", (long long)json_int(ev, "seq", 0),
               fmt_time(when, json_int(ev, "time_us", 0)), json_str(ev, "type", "?"));
        printf("%s%s%s%s", job ? " job " : "", job ? job : "", stage ? " stage " : "",
               stage ? stage : "");
        if (data && !cJSON_IsNull(data) && cJSON_GetArraySize(data) > 0) {
            printf("  %s", text);
        }
        putchar('\n');
    }
    free(text);
    return 0;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    bool follow = arg_flag(a, "follow");
    struct client *c;
    int64_t after;
    int ret = -1;

    if (arg_int(a, "after", 0, INT64_MAX, 0, &after, e)) {
        return -1;
    }
    c = client_open(cli, e);
    while (c) {
        const cJSON *list;
        const cJSON *ev;
        cJSON *doc;
        if (client_get(c, &doc, e, "/v1/events?after=%lld&limit=1000%s", (long long)after,
                       follow ? "&wait=30" : "")) {
            break;
        }
        list = json_get(doc, "events");
        int n = cJSON_GetArraySize(list);
        int bad = 0;
        cJSON_ArrayForEach(ev, list)
        {
            bad = bad || print_event(ev, arg_flag(a, "json"), e);
            after = json_int(ev, "seq", after);
        }
        cJSON_Delete(doc);
        if (bad || fflush(stdout)) {
            ret = bad ? -1 : 0; /* main() tells a closed pipe from a full disk */
            break;
        }
        if (n == 0 && !follow) {
            ret = 0;
            break;
        }
    }
    client_close(c);
    return ret;
}

const struct command cmd_events = {
    .name = "events",
    .args = "[-f] [--after SEQ]",
    .summary = "What happened, in order: every change of every job, stage and node",
    .help = "Each event has a number; --after continues where you stopped reading. With --json one "
            "document a line.",
    .example = "dha events -f\ndha events --after 1200 --json",
    .group = "Jobs",
    .json = true,
    .opts = opts,
    .run = run,
};
