#include "cli/view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/headmap.h"
#include "cli/scores.h"

#define BAR_COLS   22
#define SPARK_COLS 40

bool view_ended(const char *state)
{
    return !strcmp(state, "done") || !strcmp(state, "failed") || !strcmp(state, "cancelled");
}

enum fmt_colour view_state_colour(const char *state)
{
    static const struct {
        const char *state;
        enum fmt_colour colour;
    } table[] = {
        {"done", FMT_GREEN},     {"reused", FMT_GREEN},     {"running", FMT_CYAN},
        {"failed", FMT_RED},     {"cancelled", FMT_YELLOW}, {"held", FMT_YELLOW},
        {"drained", FMT_YELLOW},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (!strcmp(state, table[i].state)) {
            return table[i].colour;
        }
    }
    return FMT_PLAIN;
}

const cJSON *view_active_stage(const cJSON *job)
{
    const cJSON *stages = json_get(job, "stages");
    const cJSON *best = NULL;
    const cJSON *s;

    cJSON_ArrayForEach(s, stages)
    {
        const char *state = json_str(s, "state", "");
        if (!strcmp(state, "running") || !strcmp(state, "failed")) {
            return s;
        }
        if (!best || (strcmp(state, "pending") && strcmp(state, "ready"))) {
            best = s;
        }
    }
    return best;
}

const cJSON *view_running_stage(const cJSON *job)
{
    const cJSON *s;

    if (strcmp(json_str(job, "state", ""), "running")) {
        return NULL;
    }
    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        if (!strcmp(json_str(s, "state", ""), "running")) {
            return s;
        }
    }
    return NULL;
}

/* What keeps a job that runs from running. */
static void waiting(FILE *out, const cJSON *job)
{
    const cJSON *s;

    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        const char *other = json_str(s, "waits_for", NULL);
        if (other) {
            fprintf(out, "%s waits for the same stage of job %s", json_str(s, "kind", "?"), other);
            return;
        }
    }
    fputs("waiting for slots", out);
}

const char *view_loss_name(const cJSON *job, const cJSON *stage)
{
    const cJSON *r = json_at(job, "spec.recovery");

    return !strcmp(json_str(stage, "kind", ""), "train") && json_num(r, "kl", 0) > 0 &&
                   !(json_num(r, "lm", 1) > 0)
               ? "kl"
               : "loss";
}

static bool stage_over(const cJSON *stage)
{
    const char *state = json_str(stage, "state", "");

    return !strcmp(state, "done") || !strcmp(state, "reused");
}

double view_stage_share(const cJSON *stage)
{
    const cJSON *p = json_get(stage, "progress");
    double steps = json_num(p, "steps", 0);
    double total = json_num(p, "total", 0);

    if (stage_over(stage)) {
        return 1;
    }
    if (steps > 0) {
        return json_num(p, "step", 0) / steps;
    }
    return total > 0 ? json_num(p, "done", 0) / total : 0;
}

void view_stage_steps(FILE *out, const cJSON *stage)
{
    const cJSON *p = json_get(stage, "progress");
    const char *phase = json_str(p, "phase", "");
    double steps = json_num(p, "steps", 0);
    double total = json_num(p, "total", 0);

    if (steps > 0) {
        fprintf(out, "%.0f/%.0f steps", json_num(p, "step", 0), steps);
    } else if (stage_over(stage)) {
        return; /* how far a phase without steps got is of no interest any more */
    } else if (*phase && total > 0) {
        fprintf(out, "%s %.0f/%.0f", phase, json_num(p, "done", 0), total);
    } else {
        fputs(phase, out);
    }
}

static void speed(FILE *out, const cJSON *job, const cJSON *stage)
{
    const cJSON *p = json_get(stage, "progress");
    char buf[FMT_BUF];
    double v;

    if (isfinite(v = json_num(p, "loss", NAN))) {
        fprintf(out, "  %s %s", view_loss_name(job, stage), fmt_loss(buf, v));
    }
    if ((v = json_num(p, "tokens_per_s", 0)) > 0) {
        fprintf(out, "  %s tok/s", fmt_count(buf, v));
    }
    if ((v = json_num(p, "eta_s", -1)) > 0) {
        fprintf(out, "  eta %s", fmt_seconds(buf, v));
    }
}

static void stage_error(FILE *out, const cJSON *stage)
{
    const char *msg = json_str(json_get(stage, "error"), "message", NULL);

    if (msg) {
        fprintf(out, "  %s", msg);
    }
}

void view_stage_line(FILE *out, const struct fmt *f, const cJSON *job, const cJSON *stage)
{
    const char *state = json_str(stage, "state", "?");
    const cJSON *from = json_get(stage, "reused_from");
    const cJSON *p = json_get(stage, "progress");
    const char *waits = json_str(stage, "waits_for", NULL);
    char buf[FMT_BUF];

    fprintf(out, "%-7s %s%-9s%s ", json_str(stage, "kind", "?"),
            fmt_on(f, view_state_colour(state)), state, fmt_off(f));
    if (!strcmp(state, "reused")) {
        fprintf(out, "from job %s", json_str(from, "job", "?"));
        return;
    }
    if (!strcmp(state, "pending") || !strcmp(state, "ready") || !strcmp(state, "cancelled")) {
        if (waits) {
            fprintf(out, "waits for the same stage of job %s", waits);
        }
        return;
    }
    fmt_bar(out, f, view_stage_share(stage), BAR_COLS);
    fputc(' ', out);
    view_stage_steps(out, stage);
    if (!strcmp(state, "running")) {
        speed(out, job, stage);
    } else {
        double loss = json_num(p, "loss", NAN);
        double seconds = json_num(stage, "seconds", -1);
        if (isfinite(loss)) {
            fprintf(out, "  %s %s", view_loss_name(job, stage), fmt_loss(buf, loss));
        }
        if (seconds >= 0) {
            fprintf(out, "  %s", fmt_seconds(buf, seconds));
        }
    }
    if (json_int(stage, "attempt", 0) > 1) {
        fprintf(out, "  attempt %lld", (long long)json_int(stage, "attempt", 0));
    }
    stage_error(out, stage);
}

bool view_reused(FILE *out, const cJSON *job)
{
    const cJSON *s;
    bool any = false;

    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        if (!strcmp(json_str(s, "state", ""), "reused")) {
            fprintf(out, "%s%s (job %s)", any ? ", " : "", json_str(s, "kind", "?"),
                    json_str(json_get(s, "reused_from"), "job", "?"));
            any = true;
        }
    }
    return any;
}

static bool all_reused(const cJSON *job)
{
    const cJSON *s;
    int n = 0;

    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        if (strcmp(json_str(s, "state", ""), "reused")) {
            return false;
        }
        n++;
    }
    return n > 0;
}

static void ended_line(FILE *out, const cJSON *job)
{
    const cJSON *loss = json_at(job, "result.loss");
    const char *code = json_str(view_job_error(job), "code", NULL);
    double final = json_num(loss, "final", NAN);
    char a[FMT_BUF];
    char b[FMT_BUF];

    if (isfinite(final)) {
        fprintf(out, "  loss %s -> %s", fmt_loss(a, json_num(loss, "converted", NAN)),
                fmt_loss(b, final));
    }
    if (all_reused(job)) {
        fputs("  (finished before: every stage reused)", out);
    }
    if (code) {
        fprintf(out, "  %s", code); /* view_outcome() has the message */
    }
}

void view_job_line(FILE *out, const struct fmt *f, const cJSON *job, int name_cols)
{
    const char *state = json_str(job, "state", "?");
    const cJSON *stage = view_running_stage(job);
    const cJSON *s;
    double done = 0;
    int n = 0;

    fprintf(out, "job %-4s %-*s ", json_str(job, "id", "?"), name_cols, json_str(job, "name", ""));
    fprintf(out, "%s%-9s%s ", fmt_on(f, view_state_colour(state)), state, fmt_off(f));
    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        done += view_stage_share(s);
        n++;
    }
    if (view_ended(state)) {
        fmt_bar(out, f, !strcmp(state, "done") ? 1 : n ? done / n : 0, BAR_COLS);
        ended_line(out, job);
        return;
    }
    if (!stage) {
        fmt_bar(out, f, n ? done / n : 0, BAR_COLS);
        if (!strcmp(state, "running")) {
            fputc(' ', out);
            waiting(out, job);
        }
        return;
    }
    fmt_bar(out, f, view_stage_share(stage), BAR_COLS);
    fprintf(out, " %s ", json_str(stage, "kind", ""));
    view_stage_steps(out, stage);
    speed(out, job, stage);
}

void view_plain_line(FILE *out, const cJSON *job)
{
    const char *state = json_str(job, "state", "?");
    const cJSON *stage = view_running_stage(job);

    fprintf(out, "job %s %s: %s", json_str(job, "id", "?"), json_str(job, "name", ""), state);
    if (view_ended(state)) {
        ended_line(out, job);
    } else if (stage) {
        fprintf(out, "  %s ", json_str(stage, "kind", ""));
        view_stage_steps(out, stage);
        speed(out, job, stage);
    } else if (!strcmp(state, "running")) {
        fputs("  ", out);
        waiting(out, job);
    }
    fputc('\n', out);
}

const cJSON *view_job_error(const cJSON *job)
{
    const cJSON *err = json_at(job, "result.error");
    const cJSON *s;

    if (cJSON_IsObject(err)) {
        return err;
    }
    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        err = json_get(s, "error");
        if (cJSON_IsObject(err) && !strcmp(json_str(s, "state", ""), "failed")) {
            return err;
        }
    }
    err = json_get(job, "error");
    return cJSON_IsObject(err) ? err : NULL;
}

int view_outcomes(cJSON *const *jobs, int n, struct dha_err *e)
{
    int bad = 0;

    for (int i = 0; i < n; i++) {
        struct dha_err why = {0};
        if (!view_outcome(jobs[i], &why)) {
            continue;
        }
        if (bad++) {
            cli_complain(e);
        }
        *e = why;
    }
    return bad ? -1 : 0;
}

/* The same spec again: of use where the machine failed, or where a file that it names can be mended. */
static bool retry_helps(enum dha_code code)
{
    return code != DHA_E_COUNT &&
           (dha_code_retry(code) == DHA_RETRY_INFRA || dha_code_retry(code) == DHA_RETRY_FREE ||
            code == DHA_E_INPUT || code == DHA_E_NOT_FOUND || code == DHA_E_FORBIDDEN);
}

int view_outcome(const cJSON *job, struct dha_err *e)
{
    const char *state = json_str(job, "state", "?");
    const char *id = json_str(job, "id", "?");
    const char *reason = json_str(job, "cancel_reason", "");
    const cJSON *err = view_job_error(job);
    const cJSON *stage = view_active_stage(job);
    char again[96] = "";
    const char *msg;
    enum dha_code code;

    if (!strcmp(state, "done")) {
        return 0;
    }
    if (!strcmp(state, "cancelled")) {
        dha_fail(e, DHA_E_CANCELLED, "job %s was cancelled%s%s", id, *reason ? ": " : "", reason);
        return dha_err_hint(e, "`dha retry %s` goes on from what is finished", id);
    }
    code = dha_code_from_name(json_str(err, "code", "failed"));
    if (retry_helps(code)) {
        snprintf(again, sizeof again, "\n`dha retry %s` goes on from what is finished%s", id,
                 dha_code_retry(code) == DHA_RETRY_USER || code == DHA_E_NO_SPACE
                     ? ", once that is mended"
                     : "");
    }
    msg = json_str(err, "message", "no reason was recorded");
    if (!strncmp(msg, "stage ", 6)) { /* the worker has said which */
        dha_fail(e, DHA_E_FAILED, "job %s failed: %s", id, msg);
    } else {
        dha_fail(e, DHA_E_FAILED, "job %s failed in %s: %s", id, json_str(stage, "kind", "?"), msg);
    }
    if (code != DHA_E_COUNT && code != DHA_E_OK) {
        e->code = code;
    }
    msg = json_str(err, "hint", "");
    dha_err_hint(e, "%s%s`dha logs %s` shows what the worker said; files are in %s%s", msg,
                 *msg ? "\n" : "", id, json_str(stage, "dir", json_str(job, "dir", "?")), again);
    return -1;
}

static void method_of(FILE *out, const cJSON *spec)
{
    const cJSON *m = json_get(spec, "method");

    fputs(cJSON_IsString(m) ? m->valuestring : json_str(m, "preset", "?"), out);
}

static void heading(FILE *out, const struct fmt *f, const cJSON *job)
{
    const char *state = json_str(job, "state", "?");
    const cJSON *spec = json_get(job, "spec");

    fprintf(out, "%sjob %s%s  %s  ", fmt_on(f, FMT_BOLD), json_str(job, "id", "?"), fmt_off(f),
            json_str(job, "name", ""));
    method_of(out, spec);
    fprintf(out, " at %.4g %% of the cache  %s%s%s\n", json_num(spec, "budget", NAN) * 100,
            fmt_on(f, view_state_colour(state)), state, fmt_off(f));
}

/* Whose losses the sparkline draws: eval and export have none, so the training's stay up. */
static const cJSON *curve_stage(const cJSON *job)
{
    const cJSON *stage = view_active_stage(job);
    const char *kind = json_str(stage, "kind", "");
    const cJSON *s;

    if (!strcmp(kind, "eval") || !strcmp(kind, "export")) {
        cJSON_ArrayForEach(s, json_get(job, "stages"))
        {
            if (!strcmp(json_str(s, "kind", ""), "train")) {
                return s;
            }
        }
    }
    return stage;
}

void view_watch(FILE *out, const struct fmt *f, const cJSON *job, const double *losses, size_t n)
{
    const cJSON *s;
    char a[FMT_BUF];
    char b[FMT_BUF];

    heading(out, f, job);
    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        fputs("  ", out);
        view_stage_line(out, f, job, s);
        fputc('\n', out);
    }
    if (n > 1) {
        fprintf(out, "  %-7s ", view_loss_name(job, curve_stage(job)));
        fmt_spark(out, f, losses, n, SPARK_COLS);
        fprintf(out, "  %s -> %s\n", fmt_loss(a, losses[0]), fmt_loss(b, losses[n - 1]));
    }
}

static void heads_row(FILE *out, const char *what, const cJSON *list)
{
    const cJSON *v;

    if (cJSON_GetArraySize(list) == 0) {
        return;
    }
    fprintf(out, "  %-18s", what);
    cJSON_ArrayForEach(v, list)
    {
        int64_t heads;
        if (json_to_int(v, &heads)) {
            fprintf(out, " %lld", (long long)heads);
        }
    }
    fputs("  (per layer)\n", out);
}

/* The result counts a stage when it has ended: what runs now counts what it has trained on so far. */
static int64_t tokens_spent(const cJSON *job)
{
    const cJSON *running = view_running_stage(job);
    int64_t ended = json_int(json_get(job, "result"), "tokens_spent", -1);

    return ended < 0 || json_int(running, "tokens", 0) > 0
               ? ended
               : ended + json_int(json_get(running, "progress"), "tokens", 0);
}

void view_result(FILE *out, const struct fmt *f, const cJSON *job)
{
    const cJSON *r = json_get(job, "result");
    const cJSON *loss = json_get(r, "loss");
    const cJSON *kv = json_get(r, "kv_bytes_per_token");
    double parent = json_num(loss, "parent", NAN);
    double converted = json_num(loss, "converted", NAN);
    double final = json_num(loss, "final", NAN);
    double budget = json_num(r, "head_budget", NAN);
    int64_t kv_parent = json_int(kv, "parent", -1);
    int64_t kv_now = json_int(kv, "converted", -1);
    int64_t tokens = tokens_spent(job);
    double wall = json_num(r, "wall_s", -1);
    char a[FMT_BUF];

    if (!cJSON_IsObject(r)) {
        return;
    }
    if (isfinite(parent)) {
        fprintf(out, "  loss               parent %s\n", fmt_loss(a, parent));
    }
    if (isfinite(converted)) {
        fprintf(out, "                     right after conversion %s", fmt_loss(a, converted));
        fprintf(out, isfinite(parent) ? "  (%+.4f)\n" : "\n", converted - parent);
    }
    if (isfinite(final)) {
        fprintf(out, "                     final  %s", fmt_loss(a, final));
        fprintf(out, isfinite(parent) ? "  (%+.4f)\n" : "\n", final - parent);
    }
    if (final > converted) {
        fputs("                     training did not lower it; tokens.train=0 keeps the converted "
              "model\n",
              out);
    }
    scores_show(out, r);
    if (kv_now >= 0) {
        fprintf(out, "  KV cache           %lld bytes a token", (long long)kv_now);
        if (kv_parent > 0) {
            fprintf(out, ", was %lld: %s", (long long)kv_parent,
                    fmt_percent(a, (double)kv_now / (double)kv_parent));
        }
        fputc('\n', out);
    }
    if (isfinite(budget)) {
        fprintf(out, "  head budget        %s of the K and V heads kept\n", fmt_percent(a, budget));
    }
    heads_row(out, "key heads", json_get(r, "key_heads"));
    heads_row(out, "value heads", json_get(r, "value_heads"));
    if (tokens >= 0) {
        fprintf(out, "  tokens spent       %lld\n", (long long)tokens);
    }
    if (wall >= 0) {
        fprintf(out, "  time               %s\n", fmt_seconds(a, wall));
    }
    if (json_str(r, "checkpoint", NULL)) {
        fprintf(out, "  checkpoint         %s\n", json_str(r, "checkpoint", ""));
    }
    if (cJSON_GetArraySize(json_get(r, "key_of")) > 0) {
        fputs("  heads that share   (one letter a query head; equal letters share a key or value "
              "head)\n",
              out);
        headmap_print(out, f, r, "    ");
    }
}

void view_show(FILE *out, const struct fmt *f, const cJSON *job)
{
    const cJSON *spec = json_get(job, "spec");
    const cJSON *err = view_job_error(job);
    const cJSON *s;
    char a[FMT_BUF];
    FILE *mem;
    char *text = NULL;
    size_t len;

    heading(out, f, job);
    fprintf(out, "  model              %s\n", json_str(spec, "model", "?"));
    fprintf(out, "  submitted          %s", fmt_time(a, json_int(job, "submitted_us", 0)));
    if (json_int(job, "ended_us", 0) > 0) {
        fprintf(out, ", ended %s", fmt_time(a, json_int(job, "ended_us", 0)));
    }
    fputc('\n', out);
    if (json_int(job, "priority", 0) != 0) {
        fprintf(out, "  priority           %lld\n", (long long)json_int(job, "priority", 0));
    }
    if (json_str(job, "sweep", NULL)) {
        fprintf(out, "  sweep              %s\n", json_str(job, "sweep", ""));
    }
    fputs("  stages\n", out);
    cJSON_ArrayForEach(s, json_get(job, "stages"))
    {
        fputs("    ", out);
        view_stage_line(out, f, job, s);
        fputc('\n', out);
    }
    mem = open_memstream(&text, &len);
    if (mem) {
        bool any = view_reused(mem, job);
        fclose(mem);
        if (any) {
            fprintf(out, "  reused             %s\n", text);
        }
        free(text);
    }
    view_result(out, f, job);
    if (err) {
        fprintf(out, "  %serror%s              %s\n", fmt_on(f, FMT_RED), fmt_off(f),
                json_str(err, "message", "?"));
        if (*json_str(err, "hint", "")) {
            fprintf(out, "  hint               %s\n", json_str(err, "hint", ""));
        }
    }
    fprintf(out, "  files              %s\n", json_str(job, "dir", "?"));
}
