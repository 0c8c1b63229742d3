#include "cli/follow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/interrupt.h"
#include "cli/view.h"

#define POLL_S            0.5
#define PLAIN_EVERY_S     10.0
#define IDLE_S            1.0 /* between two stages there is always a moment without one */
#define DAEMON_PATIENCE_S 60.0
#define MAX_LOSSES        20000

struct followed {
    char said[96]; /* state and running stage of the last plain line */
    char *line;    /* that line */
    double said_at;
    double idle_at; /* since when the job runs but no stage of it; 0: one does */
    /* Losses of the stage `stage`, read on from `step`. */
    char stage[24];
    int64_t step;
    double *losses;
    size_t n_losses, cap;
};

struct follow {
    struct client *client;
    FILE *out;
    struct fmt fmt;
    int n;
    int drawn; /* lines of the last frame */
    struct followed *jobs;
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Reads what the sparkline lacks; without an answer it stays as it is. */
static void read_losses(struct follow *w, struct followed *j, const cJSON *job)
{
    const cJSON *stage = view_active_stage(job);
    const cJSON *p;
    const char *kind = json_str(stage, "kind", "");
    cJSON *doc = NULL;

    if (!strcmp(kind, "eval") || !strcmp(kind, "export")) {
        kind = "train"; /* they have no curve of their own: the one before stays up */
    }
    if (strcmp(kind, j->stage)) {
        snprintf(j->stage, sizeof j->stage, "%s", kind);
        j->step = 0;
        j->n_losses = 0;
    }
    if (client_get(w->client, &doc, NULL, "/v1/jobs/%s/metrics?stage=%s&name=loss&after_step=%lld",
                   json_str(job, "id", ""), kind, (long long)j->step)) {
        return;
    }
    cJSON_ArrayForEach(p, json_get(doc, "points"))
    {
        int64_t step = json_int(p, "step", 0);
        if (step <= j->step || j->n_losses == MAX_LOSSES) {
            continue;
        }
        if (j->n_losses == j->cap) {
            size_t cap = j->cap ? j->cap * 2 : 256;
            double *grown = realloc(j->losses, cap * sizeof *grown);
            if (!grown) {
                break;
            }
            j->losses = grown;
            j->cap = cap;
        }
        j->losses[j->n_losses++] = json_num(p, "value", NAN);
        j->step = step;
    }
    cJSON_Delete(doc);
}

static void draw_frame(struct follow *w, cJSON *const *docs)
{
    char *text = NULL;
    size_t len;
    FILE *mem = open_memstream(&text, &len);
    int name_cols = 0;

    if (!mem) {
        return;
    }
    for (int i = 0; i < w->n; i++) {
        int cols = (int)fmt_width(json_str(docs[i], "name", ""));
        name_cols = cols > name_cols ? cols : name_cols;
    }
    for (int i = 0; i < w->n; i++) {
        if (w->n == 1) {
            view_watch(mem, &w->fmt, docs[i], w->jobs[i].losses, w->jobs[i].n_losses);
        } else {
            view_job_line(mem, &w->fmt, docs[i], name_cols);
            if (w->jobs[i].n_losses > 1 && !view_ended(json_str(docs[i], "state", ""))) {
                fputs("  ", mem);
                fmt_spark(mem, &w->fmt, w->jobs[i].losses, w->jobs[i].n_losses, 16);
            }
            fputc('\n', mem);
        }
    }
    if (fclose(mem)) {
        free(text);
        return;
    }
    w->fmt.width = fmt_for(w->out).width; /* the window may have changed */
    if (w->drawn) {
        fprintf(w->out, "\033[%dA", w->drawn);
    }
    w->drawn = 0;
    for (char *line = text; *line; w->drawn++) {
        size_t n = strcspn(line, "\n");
        bool more = line[n] == '\n';
        line[n] = 0;
        fmt_clip(w->out, line, (size_t)(w->fmt.width > 1 ? w->fmt.width - 1 : 1));
        fprintf(w->out, "%s\033[K\n", fmt_off(&w->fmt));
        line += n + more;
    }
    fputs("\033[J", w->out);
    fflush(w->out);
    free(text);
}

static void print_plain(struct follow *w, struct followed *j, const cJSON *job)
{
    const cJSON *stage = view_running_stage(job);
    const char *state = json_str(job, "state", "");
    bool idle = !stage && !strcmp(state, "running");
    char is[sizeof j->said];
    double t = now();
    char *line = NULL;
    size_t len;
    FILE *mem;

    j->idle_at = !idle ? 0 : j->idle_at > 0 ? j->idle_at : t;
    if (idle && t - j->idle_at < IDLE_S) {
        return;
    }
    snprintf(is, sizeof is, "%s/%s/%lld", state, json_str(stage, "kind", ""),
             (long long)json_int(stage, "attempt", 0));
    /* Only a stage that runs has something new to say by itself. */
    if (!strcmp(is, j->said) && (!stage || t - j->said_at < PLAIN_EVERY_S)) {
        return;
    }
    mem = open_memstream(&line, &len);
    if (!mem) {
        return;
    }
    view_plain_line(mem, job);
    if (fclose(mem) || (j->line && !strcmp(j->line, line))) {
        free(line);
        return;
    }
    memcpy(j->said, is, sizeof is);
    j->said_at = t;
    free(j->line);
    j->line = line;
    fputs(line, w->out);
    fflush(w->out);
}

/* One round over all jobs. *ended: all have ended. */
static int poll_jobs(struct follow *w, const char *const *ids, cJSON **docs, bool *ended,
                     struct dha_err *e)
{
    *ended = true;
    for (int i = 0; i < w->n; i++) {
        cJSON *doc;
        if (docs[i] && view_ended(json_str(docs[i], "state", ""))) {
            continue;
        }
        if (client_job(w->client, ids[i], &doc, e)) {
            return -1;
        }
        cJSON_Delete(docs[i]);
        docs[i] = doc;
        if (!view_ended(json_str(doc, "state", ""))) {
            *ended = false;
        }
        if (w->fmt.tty) {
            read_losses(w, &w->jobs[i], doc);
        }
    }
    return 0;
}

int follow_jobs(struct client *c, const char *const *ids, int n, FILE *out, cJSON **docs,
                struct dha_err *e)
{
    struct follow w = {.client = c, .out = out, .fmt = fmt_for(out), .n = n};
    double lost_at = 0;
    int ret = -1;

    for (int i = 0; i < n; i++) {
        docs[i] = NULL;
    }
    w.jobs = calloc((size_t)n, sizeof *w.jobs);
    if (!w.jobs) {
        return dha_fail(e, DHA_E_NO_MEMORY, "following %d jobs", n);
    }
    interrupt_catch();
    for (;;) {
        struct dha_err why = {0};
        bool ended = false;
        if (!poll_jobs(&w, ids, docs, &ended, &why)) {
            if (lost_at > 0) {
                cli_say("the daemon answers again");
                lost_at = 0;
                w.drawn = 0;
            }
            if (w.fmt.tty) {
                draw_frame(&w, docs);
            }
            for (int i = 0; i < n && !w.fmt.tty; i++) {
                print_plain(&w, &w.jobs[i], docs[i]);
            }
            if (ended) {
                ret = FOLLOW_ENDED;
                break;
            }
        } else if (why.code != DHA_E_UNREACHABLE || !docs[0] ||
                   (lost_at > 0 && now() - lost_at > DAEMON_PATIENCE_S)) {
            *e = why;
            if (why.code == DHA_E_UNREACHABLE && docs[0]) {
                dha_err_hint(e, "running stages go on without it; `dha up`, then `dha watch %s`",
                             ids[0]);
            }
            break;
        } else if (!(lost_at > 0)) {
            lost_at = now();
            cli_say(
                "the daemon does not answer; waiting up to %.0f s for it (running stages go on)",
                DAEMON_PATIENCE_S);
        }
        if (interrupt_sleep(POLL_S)) {
            ret = FOLLOW_INTERRUPTED;
            break;
        }
    }
    interrupt_release();
    for (int i = 0; i < n; i++) {
        free(w.jobs[i].losses);
        free(w.jobs[i].line);
    }
    free(w.jobs);
    return ret;
}
