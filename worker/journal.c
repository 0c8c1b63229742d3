#include "worker/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double journal_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void say_progress(struct journal *j, const struct record *r)
{
    /* on a terminal's reader: at most one line a second, and the last one */
    if (r->time - j->narrated < 1.0 && r->progress.step != r->progress.steps)
        return;
    j->narrated = r->time;
    fprintf(stderr, "%-6s step %" PRId64 "/%" PRId64 "  loss %.4f", j->stage, r->progress.step,
            r->progress.steps, r->progress.loss);
    if (isfinite(r->progress.fusion_loss))
        fprintf(stderr, "  fusion %.2e", r->progress.fusion_loss);
    fprintf(stderr, "  lr %.2e  %.0f tokens/s  eta %.0f s\n", r->progress.lr,
            r->progress.tokens_per_s, r->progress.eta_s);
}

static void say(struct journal *j, const struct record *r)
{
    switch (r->type) {
    case REC_HELLO:
        snprintf(j->stage, sizeof j->stage, "%s", r->hello.stage);
        fprintf(stderr, "%-6s %d rank(s) x %d thread(s), %s\n", r->hello.stage, r->hello.ranks,
                r->hello.threads, r->hello.backend);
        if (r->hello.resumed_from >= 0)
            fprintf(stderr, "%-6s resumes after step %" PRId64 "\n", j->stage,
                    r->hello.resumed_from);
        break;
    case REC_PHASE:
        if (r->phase.total == 0) /* for the watchdog */
            break;
        if (r->time - j->narrated < 1.0 && r->phase.done != r->phase.total)
            break;
        j->narrated = r->time;
        fprintf(stderr, "%-6s %s %" PRId64 "/%" PRId64 "\n", j->stage, r->phase.name, r->phase.done,
                r->phase.total);
        break;
    case REC_PROGRESS: say_progress(j, r); break;
    case REC_EVAL:
        fprintf(stderr, "%-6s loss of %s: %.4f nats/token (%" PRId64 " windows)\n", j->stage,
                r->eval.name, r->eval.loss, r->eval.windows);
        break;
    case REC_CHECKPOINT:
        fprintf(stderr, "%-6s checkpoint %s\n", j->stage, r->checkpoint.path);
        break;
    case REC_BYE:
        fprintf(stderr, "%-6s %s after %.1f s%s%s\n", j->stage, r->bye.code, r->bye.seconds,
                r->bye.output[0] ? ": " : "", r->bye.output);
        break;
    case REC_TASK:
        fprintf(stderr, "%-6s %s of %s: %.1f %% of %" PRId64 " questions\n", j->stage, r->task.task,
                r->task.model, 100 * r->task.acc, r->task.questions);
        break;
    case REC_LAYER:
    case REC_HEAD_BUDGET:
    case REC_ERROR:
    case REC_UNKNOWN: break;
    }
}

void journal_write(struct journal *j, struct record *r)
{
    char line[RECORD_MAX];
    r->time = journal_now();
    if (j->narrate)
        say(j, r);
    if (j->fd < 0)
        return;
    int n = record_format(r, line, sizeof line);
    if (n < 0) {
        fprintf(stderr, "journal: a record of type %s is too long and was dropped\n",
                record_type_name(r->type));
        return;
    }
    for (int at = 0; at < n;) {
        ssize_t w = write(j->fd, line + at, (size_t)(n - at));
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0) { /* a full disk must not stop the training; the next record may fit again */
            fprintf(stderr, "journal: %s\n", strerror(errno));
            return;
        }
        at += (int)w;
    }
}

void journal_phase(struct journal *j, const char *name, int64_t done, int64_t total)
{
    struct record r = {.type = REC_PHASE};
    snprintf(r.phase.name, sizeof r.phase.name, "%s", name);
    r.phase.done = done;
    r.phase.total = total;
    journal_write(j, &r);
}

void journal_eval(struct journal *j, const char *name, double loss, int64_t tokens, int64_t windows,
                  int64_t step, int64_t trained)
{
    struct record r = {.type = REC_EVAL};
    snprintf(r.eval.name, sizeof r.eval.name, "%s", name);
    r.eval.loss = loss;
    r.eval.tokens = tokens;
    r.eval.windows = windows;
    r.eval.step = step;
    r.eval.trained_tokens = trained;
    journal_write(j, &r);
}

void journal_layer(struct journal *j, const char *name, const char *kind, int layer, int64_t step,
                   double value)
{
    struct record r = {.type = REC_LAYER};
    snprintf(r.layer.name, sizeof r.layer.name, "%s", name);
    snprintf(r.layer.kind, sizeof r.layer.kind, "%s", kind);
    r.layer.layer = layer;
    r.layer.step = step;
    r.layer.value = value;
    journal_write(j, &r);
}

void journal_error(struct journal *j, const struct dha_err *e)
{
    struct record r = {.type = REC_ERROR};
    snprintf(r.error.code, sizeof r.error.code, "%s", dha_code_name(e->code));
    snprintf(r.error.message, sizeof r.error.message, "%s", e->msg);
    snprintf(r.error.hint, sizeof r.error.hint, "%s", e->hint);
    journal_write(j, &r);
}
