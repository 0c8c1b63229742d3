/* api_daemon.c: the daemon about itself. */
#include "daemon/api.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/doc.h"

enum api_outcome api_version(struct api_call *c)
{
    int64_t now = now_us();
    if (api_answer(c, "version", cJSON_CreateString(DHA_VERSION)) != API_OK) {
        return API_FAIL;
    }
    cJSON *j = c->doc;
    int rc = json_put_int(j, "pid", (int64_t)getpid()) |
             json_put_str(j, "state_dir", c->d->state_dir) |
             json_put_id(j, "started_us", c->d->started_us) |
             json_put_num(j, "uptime_s", (double)(now - c->d->started_us) / 1e6) |
             json_put_str(j, "worker", c->d->launch.worker) |
             json_put_str(j, "launcher", c->d->launch.launcher->name) |
             json_put_int(j, "schema", STORE_SCHEMA) | doc_put_trouble(j, c->d) |
             doc_put_notice(j, c->d);
    if (rc != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
    }
    return rc == 0 ? API_OK : API_FAIL;
}

enum api_outcome api_alive(struct api_call *c)
{
    return api_answer(c, "ok", cJSON_CreateTrue());
}

/* Ready = the database answers. */
enum api_outcome api_ready(struct api_call *c)
{
    int64_t jobs[JOB_STATES], stages[STAGE_STATES];
    if (store_counts(c->d->store, jobs, stages, &c->e) != 0) {
        return API_FAIL;
    }
    return api_answer(c, "ok", cJSON_CreateTrue());
}

enum api_outcome api_shutdown(struct api_call *c)
{
    daemon_quit_soon(c->d);
    return api_answer(c, "ok", cJSON_CreateTrue());
}

/* ---- Prometheus text ---- */

struct text {
    char *at;
    size_t n, cap;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n < 0 || t->cap == SIZE_MAX) {
        return;
    }
    if (t->n + (size_t)n + 1 > t->cap) {
        size_t cap = 2 * t->cap + 4096;
        char *more = realloc(t->at, cap);
        if (!more) {
            free(t->at);
            *t = (struct text){.cap = SIZE_MAX}; /* remembered: no half a page */
            return;
        }
        t->at = more;
        t->cap = cap;
    }
    for (int i = 0; i < n; i++) {
        t->at[t->n++] = line[i];
    }
    t->at[t->n] = '\0';
}

static void head(struct text *t, const char *name, const char *type, const char *help)
{
    add(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_states(struct text *t, const int64_t *jobs, const int64_t *stages)
{
    head(t, "dha_jobs", "gauge", "Jobs by state.");
    for (int i = 0; i < JOB_STATES; i++) {
        add(t, "dha_jobs{state=\"%s\"} %lld\n", job_state_name((enum job_state)i),
            (long long)jobs[i]);
    }
    head(t, "dha_stages", "gauge", "Stages by state.");
    for (int i = 0; i < STAGE_STATES; i++) {
        add(t, "dha_stages{state=\"%s\"} %lld\n", stage_state_name((enum stage_state)i),
            (long long)stages[i]);
    }
}

static void add_daemon(struct text *t, const struct daemon *d)
{
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"dha_uptime_seconds", "gauge", "Since the daemon started.",
         (double)(now_us() - d->started_us) / 1e6},
        {"dha_events_total", "counter", "Events in the log.", (double)store_event_last(d->store)},
        {"dha_requests_total", "counter", "Requests answered.", (double)d->stat.requests},
        {"dha_launches_total", "counter", "Attempts launched.", (double)d->stat.launches},
        {"dha_commits_total", "counter", "Transactions.", (double)d->stat.commits},
        {"dha_commit_seconds_total", "counter", "Time in commits.",
         (double)d->stat.commit_us / 1e6},
        {"dha_commit_seconds_max", "gauge", "Longest commit.", (double)d->stat.commit_max_us / 1e6},
        {"dha_schedule_passes_total", "counter", "Scheduling passes.", (double)d->stat.passes},
        {"dha_schedule_seconds_total", "counter", "Time in scheduling passes.",
         (double)d->stat.pass_us / 1e6},
        {"dha_schedule_seconds_max", "gauge", "Longest scheduling pass.",
         (double)d->stat.pass_max_us / 1e6},
        {"dha_lost_found_total", "counter", "Damaged rows, files and lines set aside.",
         (double)store_lost_found_count(d->store)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        head(t, rows[i].name, rows[i].type, rows[i].help);
        add(t, "%s %.17g\n", rows[i].name, rows[i].value);
    }
}

enum api_outcome api_prometheus(struct api_call *c)
{
    int64_t jobs[JOB_STATES], stages[STAGE_STATES], busy = 0;
    struct store_slot *slots = NULL;
    size_t n = 0;
    struct text t = {0};
    if (store_counts(c->d->store, jobs, stages, &c->e) != 0 ||
        store_slots(c->d->store, &slots, &n, &c->e) != 0) {
        return API_FAIL;
    }
    for (size_t i = 0; i < n; i++) {
        busy += slots[i].attempt != 0;
    }
    free(slots);
    add_states(&t, jobs, stages);
    head(&t, "dha_slots", "gauge", "Slots by use.");
    add(&t, "dha_slots{use=\"busy\"} %lld\ndha_slots{use=\"free\"} %lld\n", (long long)busy,
        (long long)n - busy);
    add_daemon(&t, c->d);
    if (!t.at) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        return API_FAIL;
    }
    c->rq->reply.status = 200;
    c->rq->reply.body = t.at;
    c->rq->reply.len = t.n;
    c->rq->reply.content_type = "text/plain; version=0.0.4";
    return API_OK;
}
