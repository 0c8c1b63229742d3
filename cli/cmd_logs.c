/* cmd_logs.c: dha logs
 *
 * What the processes of an attempt print lies in a file of each rank and one of mpirun. By default they are shown together,
 * line by line, with who said it in front where there are several ranks; one of them alone is shown as it is.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/interrupt.h"
#include "cli/view.h"

enum {
    RANKS_MAX = 65536,
    LINE_MAX_BYTES = 65536, /* a longer one is cut into several */
    EVERYBODY = -2,
    MPIRUN = -1
};

static const struct cli_opt opts[] = {
    {"follow", 'f', NULL, "go on until the job ends"},
    {"stage", 0, "KIND", "search, fuse, train, eval or export (default: the newest that started)"},
    {"attempt", 0, "N", "which attempt of it (default: the newest)"},
    {"rank", 0, "N", "what this rank alone printed"},
    {"stream", 0, "S", "one file alone: stderr (of mpirun), journal or launcher"},
    {NULL, 0, NULL, NULL},
};

/* One file. */
struct part {
    int64_t offset;
    bool end;   /* the attempt is over and all of it was read */
    char *line; /* the last one, while it has no end */
    size_t len;
};

struct source {
    const char *job, *stream; /* stream NULL: by rank */
    int rank;                 /* or EVERYBODY */
    char stage[24];
    int64_t attempt;    /* 0: the newest */
    struct part *parts; /* [0]: mpirun's or the only one; [1 + N]: rank N */
    int n;
    bool end; /* of all parts */
};

static void forget_parts(struct source *s)
{
    for (int i = 0; i < s->n; i++) {
        free(s->parts[i].line);
    }
    free(s->parts);
    s->parts = NULL;
    s->n = 0;
    s->end = false;
}

static int want_parts(struct source *s, int n, struct dha_err *e)
{
    struct part *grown = n > s->n ? realloc(s->parts, (size_t)n * sizeof *grown) : s->parts;
    if (!grown) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    for (; s->n < n; s->n++) {
        grown[s->n] = (struct part){0};
    }
    s->parts = grown;
    return 0;
}

static void put_line(int rank, const char *line, size_t len)
{
    if (rank == MPIRUN) {
        fputs("[mpirun] ", stdout);
    } else {
        printf("[%d] ", rank);
    }
    fwrite(line, 1, len, stdout);
    if (len == 0 || line[len - 1] != '\n') {
        putchar('\n');
    }
}

/* Whole lines go out; what has no end yet waits for it. */
static int put_lines(struct part *p, int rank, const char *data, size_t len, struct dha_err *e)
{
    while (len > 0) {
        const char *nl = memchr(data, '\n', len);
        size_t n = nl ? (size_t)(nl - data) + 1 : len;
        if (p->len == 0 && nl) {
            put_line(rank, data, n);
        } else {
            char *grown = realloc(p->line, p->len + n);
            if (!grown) {
                return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
            }
            p->line = grown;
            memcpy(p->line + p->len, data, n);
            p->len += n;
            if (nl || p->len > LINE_MAX_BYTES) {
                put_line(rank, p->line, p->len);
                p->len = 0;
            }
        }
        data += n;
        len -= n;
    }
    return 0;
}

static int fetch(struct client *c, const struct source *s, int i, struct client_bytes *b,
                 struct dha_err *e)
{
    char path[256];
    int rank = s->rank == EVERYBODY ? i - 1 : s->rank;
    int n = snprintf(path, sizeof path, "/v1/jobs/%s/logs?offset=%lld", s->job,
                     (long long)s->parts[i].offset);
    if (s->stream || rank == MPIRUN) {
        n += snprintf(path + n, sizeof path - (size_t)n, "&stream=%s",
                      s->stream ? s->stream : "stderr");
    } else {
        n += snprintf(path + n, sizeof path - (size_t)n, "&rank=%d", rank);
    }
    if (s->stage[0]) {
        n += snprintf(path + n, sizeof path - (size_t)n, "&stage=%s", s->stage);
    }
    if (s->attempt) {
        snprintf(path + n, sizeof path - (size_t)n, "&attempt=%lld", (long long)s->attempt);
    }
    return client_get_bytes(c, path, b, e);
}

/* Copies to stdout what is there now of part i; -1 also when stdout is broken (main() says why). */
static int drain_part(struct client *c, struct source *s, int i, struct dha_err *e)
{
    struct client_bytes b;
    do {
        if (fetch(c, s, i, &b, e)) {
            return -1;
        }
        int rc = 0;
        if (s->rank == EVERYBODY && i == 0) {
            rc = want_parts(s, 1 + (b.ranks < RANKS_MAX ? b.ranks : RANKS_MAX), e);
        }
        struct part *p = &s->parts[i];
        if (rc == 0 && s->n > 2) {
            rc = put_lines(p, i - 1, b.data, b.len, e);
        } else if (rc == 0 && b.len) {
            fwrite(b.data, 1, b.len, stdout);
        }
        if (rc == 0 && s->rank >= 0 && b.end && b.len == 0 && p->offset == 0 && b.ranks > 0 &&
            s->rank >= b.ranks) {
            rc = dha_fail(e, DHA_E_NOT_FOUND, "there is no rank %d: the attempt had %d", s->rank,
                          b.ranks);
            dha_err_hint(e, b.ranks > 1 ? "--rank takes 0 to %d" : "--rank takes %d", b.ranks - 1);
        }
        free(b.data);
        p->offset = b.next;
        p->end = b.end;
        if (rc) {
            return -1;
        }
    } while (b.len > 0 && !ferror(stdout));
    return 0;
}

static int drain(struct client *c, struct source *s, struct dha_err *e)
{
    if (want_parts(s, 1, e)) {
        return -1;
    }
    s->end = true;
    for (int i = 0; i < s->n && !ferror(stdout); i++) {
        if (drain_part(c, s, i, e)) {
            return -1;
        }
        struct part *p = &s->parts[i];
        if (p->end && p->len) { /* a last line without an end */
            put_line(i - 1, p->line, p->len);
            p->len = 0;
        }
        s->end = s->end && p->end;
    }
    fflush(stdout);
    return 0;
}

/* Goes to that attempt, after the one before said all. */
static int go_to(struct client *c, struct source *s, const char *kind, int64_t attempt,
                 struct dha_err *e)
{
    if (s->attempt && drain(c, s, e)) {
        return -1;
    }
    forget_parts(s);
    snprintf(s->stage, sizeof s->stage, "%s", kind);
    s->attempt = attempt;
    cli_say("%s, attempt %lld:", kind, (long long)attempt);
    return 0;
}

/* Goes on, attempt by attempt, to the newest of the stage that is at work: those that came and ended since the last look
 * are not left out. From nowhere it goes straight there. */
static int catch_up(struct client *c, struct source *s, const cJSON *job, struct dha_err *e)
{
    const cJSON *active = view_active_stage(job), *stage;
    bool ahead = s->attempt == 0;
    cJSON_ArrayForEach(stage, json_get(job, "stages"))
    {
        const char *kind = json_str(stage, "kind", "");
        int64_t newest = json_int(stage, "attempt", 0), from = 1;
        bool here = !ahead && strcmp(kind, s->stage) == 0;
        if (here) {
            ahead = true;
            from = s->attempt + 1;
        } else if (!s->stage[0]) {
            from = stage == active ? newest : newest + 1;
        }
        for (int64_t n = from > 0 ? from : 1; ahead && n <= newest; n++) {
            if (go_to(c, s, kind, n, e)) {
                return -1;
            }
        }
        if (stage == active) {
            break;
        }
    }
    return 0;
}

/* Turns to the stage that is running now, where the user named none. *over: the job has ended. */
static int turn(struct client *c, struct source *s, bool fixed, bool *over, struct dha_err *e)
{
    cJSON *job;
    if (client_job(c, s->job, &job, e)) {
        return -1;
    }
    *over = view_ended(json_str(job, "state", ""));
    int rc = fixed || !view_active_stage(job) ? 0 : catch_up(c, s, job, e);
    cJSON_Delete(job);
    return rc;
}

/* Once, where nothing has started: why one sees nothing. */
static int say_waiting(struct client *c, const char *job, struct dha_err *e)
{
    cJSON *doc = NULL;
    if (client_get(c, &doc, e, "/v1/jobs/%s/explain", job)) {
        return -1;
    }
    cli_say("nothing of job %s runs: it is %s, %s (dha explain %s)", job,
            json_str(doc, "state", "?"), json_str(doc, "reason", "?"), job);
    cJSON_Delete(doc);
    return 0;
}

static int follow_job(struct client *c, struct source *s, bool fixed, struct dha_err *e)
{
    bool over = false, said = false;
    int ret = -1;
    interrupt_catch();
    for (;;) {
        bool was_over = over;
        bool started = fixed || s->attempt;
        if (turn(c, s, fixed, &over, e)) {
            break;
        }
        started = started || s->attempt;
        if ((started && drain(c, s, e)) || (!started && !said && say_waiting(c, s->job, e))) {
            break;
        }
        said = true;
        /* One more round after the end: the last lines may have come with it. */
        if (ferror(stdout) || (fixed && s->end) || (over && was_over)) {
            ret = 0;
            break;
        }
        if (interrupt_sleep(0.3)) {
            ret = INTERRUPT_EXIT;
            break;
        }
    }
    interrupt_release();
    return ret;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const char *stage = arg_value(a, "stage");
    struct source s = {.stream = arg_value(a, "stream"), .rank = EVERYBODY};
    int64_t rank;
    struct client *c;
    char id[24];
    int ret = -1;

    if (s.stream && strcmp(s.stream, "stderr") && strcmp(s.stream, "journal") &&
        strcmp(s.stream, "launcher")) {
        return dha_fail(e, DHA_E_USAGE, "--stream: '%s' is none of stderr, journal, launcher",
                        s.stream);
    }
    if (arg_int(a, "attempt", 1, 1000000, 0, &s.attempt, e) ||
        arg_int(a, "rank", 0, RANKS_MAX, EVERYBODY, &rank, e)) {
        return -1;
    }
    if (s.stream && rank != EVERYBODY) {
        return dha_fail(e, DHA_E_USAGE, "either --rank or --stream: each is a file");
    }
    s.rank = s.stream ? MPIRUN : (int)rank;
    snprintf(s.stage, sizeof s.stage, "%s", stage ? stage : "");
    c = client_open(cli, e);
    if (!c || client_job_id(c, a->pos[0], CLIENT_NEWEST, id, e)) {
        goto out;
    }
    s.job = id;
    ret = arg_flag(a, "follow") ? follow_job(c, &s, stage || s.attempt, e) : drain(c, &s, e);
out:
    forget_parts(&s);
    client_close(c);
    return ret;
}

const struct command cmd_logs = {
    .name = "logs",
    .args = "ID [-f] [--stage KIND] [--attempt N] [--rank N | --stream S]",
    .summary = "What the worker wrote",
    .help =
        "What mpirun and the ranks printed goes to stdout, each line with [RANK] in front where "
        "there are several\n"
        "ranks; what is said about it goes to stderr. A single rank or stream is copied byte for "
        "byte. With -f the\n"
        "stages and attempts follow one another until the job ends. These are the job's own bytes, "
        "control characters\n"
        "and all: another user's log is better read through `cat -v` or `less`.",
    .example = "dha logs 12 -f\ndha logs 12 --stage train --attempt 1 --rank 3\n"
               "dha logs 12 --stage train --stream journal",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .opts = opts,
    .run = run,
};
