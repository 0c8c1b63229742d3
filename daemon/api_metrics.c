/* api_metrics.c: the daemon's numbers as Prometheus text (version 0.0.4). */
#include "daemon/api.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

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

static void add_histogram(struct text *t, const char *name, const struct histogram *h,
                          const char *help)
{
    int64_t n = 0;
    head(t, name, "histogram", help);
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        n += h->count[i];
        add(t, "%s_bucket{le=\"%g\"} %lld\n", name, (double)histogram_bound(i) / 1e6, (long long)n);
    }
    add(t, "%s_bucket{le=\"+Inf\"} %lld\n%s_sum %.17g\n%s_count %lld\n", name, (long long)h->n,
        name, (double)h->sum_us / 1e6, name, (long long)h->n);
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
        {"dha_commit_max_seconds", "gauge", "Longest commit.", (double)d->stat.commit_max_us / 1e6},
        {"dha_schedule_max_seconds", "gauge", "Longest scheduling pass.",
         (double)d->stat.pass_max_us / 1e6},
        {"dha_lost_found_total", "counter", "Damaged rows, files and lines set aside.",
         (double)store_lost_found_count(d->store)},
        {"dha_backup_last_seconds", "gauge", "When state.db was last copied; 0 = never.",
         (double)d->upkeep.copied_us / 1e6},
        {"dha_backups_total", "counter", "Copies of state.db that the daemon made by itself.",
         (double)d->upkeep.copies},
        {"dha_backup_failures_total", "counter", "Those that failed.", (double)d->upkeep.failures},
        {"dha_connections", "gauge", "Connections open.", server_connections(d->server)},
        {"dha_event_streams", "gauge", "Event streams open.", server_streams(d->server)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        head(t, rows[i].name, rows[i].type, rows[i].help);
        add(t, "%s %.17g\n", rows[i].name, rows[i].value);
    }
    add_histogram(t, "dha_turn_seconds", &d->stat.turn,
                  "What the loop does between two sleeps, commit and replies included.");
    add_histogram(
        t, "dha_turn_cpu_seconds", &d->stat.turn_cpu,
        "What of it the processor was really at work: the rest is disk and other processes.");
    add_histogram(t, "dha_commit_seconds", &d->stat.commit, "Transactions.");
    add_histogram(t, "dha_schedule_seconds", &d->stat.pass, "Scheduling passes.");
}

enum api_outcome api_prometheus(struct api_call *c)
{
    int64_t jobs[JOB_STATES], stages[STAGE_STATES], busy = 0;
    struct store_slot_held *slots = NULL;
    size_t n = 0;
    struct text t = {0};
    if (store_counts(c->d->store, jobs, stages, &c->e) != 0 ||
        store_slots_held(c->d->store, &slots, &n, &c->e) != 0) {
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
