/* cmd_logs.c: dha logs */
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/interrupt.h"
#include "cli/view.h"

static const struct cli_opt opts[] = {
    {"follow", 'f', NULL, "go on until the job ends"},
    {"stage", 0, "KIND", "search, fuse, train, eval or export (default: the newest that started)"},
    {"attempt", 0, "N", "which attempt of it (default: the newest)"},
    {"stream", 0, "S", "stderr (default), journal or launcher"},
    {NULL, 0, NULL, NULL},
};

struct source {
    const char *job, *stream;
    char stage[24];
    int64_t attempt; /* 0: the newest */
    int64_t offset;
    bool end; /* the attempt is over and all of it was read */
};

/* Copies to stdout what is there now. */
static int drain(struct client *c, struct source *s, struct dha_err *e)
{
    struct client_bytes b;
    char path[256];

    do {
        int n = snprintf(path, sizeof path, "/v1/jobs/%s/logs?stream=%s&offset=%lld", s->job,
                         s->stream, (long long)s->offset);
        if (s->stage[0]) {
            n += snprintf(path + n, sizeof path - (size_t)n, "&stage=%s", s->stage);
        }
        if (s->attempt) {
            snprintf(path + n, sizeof path - (size_t)n, "&attempt=%lld", (long long)s->attempt);
        }
        if (client_get_bytes(c, path, &b, e)) {
            return -1;
        }
        if (b.len) {
            fwrite(b.data, 1, b.len, stdout);
        }
        free(b.data);
        s->offset = b.next;
        s->end = b.end;
        if (ferror(stdout)) {
            s->end = true;
            return 0; /* main() says why */
        }
    } while (b.len > 0);
    fflush(stdout);
    return 0;
}

/* Turns to the stage that is running now, where the user named none. *over: the job has ended. */
static int turn(struct client *c, struct source *s, bool fixed, bool *over, struct dha_err *e)
{
    const cJSON *stage;
    cJSON *job;

    if (client_job(c, s->job, &job, e)) {
        return -1;
    }
    *over = view_ended(json_str(job, "state", ""));
    stage = view_active_stage(job);
    if (!fixed && stage) {
        const char *kind = json_str(stage, "kind", "");
        int64_t attempt = json_int(stage, "attempt", 0);
        if (attempt > 0 && (strcmp(kind, s->stage) || attempt != s->attempt)) {
            snprintf(s->stage, sizeof s->stage, "%s", kind);
            s->attempt = attempt;
            s->offset = 0;
            s->end = false;
            cli_say("%s, attempt %lld:", kind, (long long)attempt);
        }
    }
    cJSON_Delete(job);
    return 0;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const char *stream = arg_value(a, "stream");
    const char *stage = arg_value(a, "stage");
    struct source s = {.stream = stream ? stream : "stderr"};
    bool follow = arg_flag(a, "follow");
    bool over = false;
    struct client *c;
    char id[24];
    int ret = -1;

    if (strcmp(s.stream, "stderr") && strcmp(s.stream, "journal") && strcmp(s.stream, "launcher")) {
        return dha_fail(e, DHA_E_USAGE, "--stream: '%s' is none of stderr, journal, launcher",
                        s.stream);
    }
    if (arg_int(a, "attempt", 1, 1000000, 0, &s.attempt, e)) {
        return -1;
    }
    snprintf(s.stage, sizeof s.stage, "%s", stage ? stage : "");
    c = client_open(cli, e);
    if (!c || client_job_id(c, a->pos[0], id, e)) {
        goto out;
    }
    s.job = id;
    if (!follow) {
        ret = drain(c, &s, e);
        goto out;
    }
    interrupt_catch();
    for (;;) {
        bool was_over = over;
        bool started = stage || s.attempt;
        if (turn(c, &s, stage != NULL, &over, e)) {
            break;
        }
        started = started || s.attempt;
        if (started && drain(c, &s, e)) {
            break;
        }
        /* One more round after the end: the last lines may have come with it. */
        if (ferror(stdout) || (stage && s.end) || (over && was_over)) {
            ret = 0;
            break;
        }
        if (interrupt_sleep(0.3)) {
            ret = INTERRUPT_EXIT;
            break;
        }
    }
    interrupt_release();
out:
    client_close(c);
    return ret;
}

const struct command cmd_logs = {
    .name = "logs",
    .args = "ID [-f] [--stage KIND] [--attempt N] [--stream S]",
    .summary = "What the worker wrote",
    .help = "The bytes of the file go to stdout as they are; what is said about them goes to "
            "stderr. With -f the stages\n"
            "follow one another until the job ends.",
    .example = "dha logs 12 -f\ndha logs 12 --stage train --attempt 1 --stream journal",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .opts = opts,
    .run = run,
};
