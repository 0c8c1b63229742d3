/* stall.c: see stall.h. */
#include "daemon/stall.h"

#include <stdio.h>
#include <string.h>

#define AFTER "after "

static struct stall_work *find(struct stall *s, const char *name, bool make)
{
    for (int i = 0; i < STALL_WORKS; i++) {
        struct stall_work *w = &s->works[i];
        if (w->name[0] == '\0' && make) {
            snprintf(w->name, sizeof w->name, "%s", name);
        }
        if (strcmp(w->name, name) == 0) {
            return w;
        }
        if (w->name[0] == '\0') {
            break;
        }
    }
    return NULL; /* more kinds of work than rows: of the last ones nothing is learned */
}

void stall_work_name(const char *name, int64_t done, int64_t of, char *work, size_t size)
{
    snprintf(work, size, "%s%s", of > 0 && done >= of ? AFTER : "", name);
}

void stall_see(struct stall *s, const char *work, int64_t done, int64_t of, int64_t stamp,
               uint64_t now_ms)
{
    bool moved = !s->begun || stamp != s->stamp;
    if (!moved) {
        return;
    }
    /* What just ended began when the one before it was seen; the first that this daemon sees began before it looked. */
    if (s->begun) {
        struct stall_work *w = find(s, s->now, true);
        uint64_t took = now_ms - s->moved_ms;
        if (w) {
            w->seen += w->seen < STALL_SEEN;
            w->longest_ms = took > w->longest_ms ? took : w->longest_ms;
        }
    }
    snprintf(s->now, sizeof s->now, "%s", work);
    s->done = done;
    s->of = of;
    s->stamp = stamp;
    s->moved_ms = now_ms;
    s->begun = true;
}

struct stall_limit stall_limit(const struct stall *s, int64_t bound_s, int64_t least_s)
{
    struct stall_limit l = {.ms = (uint64_t)bound_s * 1000};
    struct stall copy = *s;
    const struct stall_work *w = find(&copy, s->now, false);
    if (bound_s <= 0) {
        return (struct stall_limit){0};
    }
    if (!w || w->seen < STALL_SEEN) {
        return l;
    }
    uint64_t least = (uint64_t)least_s * 1000, learned = STALL_TIMES * w->longest_ms;
    uint64_t ms = learned > least ? learned : least;
    if (ms < l.ms) {
        l = (struct stall_limit){
            .ms = ms, .learned = true, .least = learned <= least, .longest_ms = w->longest_ms};
    }
    return l;
}

bool stall_frozen(const struct stall *s, const struct stall_limit *l, uint64_t now_ms)
{
    return l->ms > 0 && s->begun && now_ms - s->moved_ms > l->ms;
}

void stall_limit_text(const struct stall_limit *l, const char *setting, char *text, size_t size)
{
    if (!l->learned) {
        snprintf(text, size, "setting %s", setting);
    } else if (l->least) {
        snprintf(text, size, "setting stall_min_s; the longest before it took %.1f s",
                 (double)l->longest_ms / 1e3);
    } else {
        snprintf(text, size, "%d times the longest before it, %.1f s", (int)STALL_TIMES,
                 (double)l->longest_ms / 1e3);
    }
}

void stall_work_text(const struct stall *s, char *text, size_t size)
{
    if (strncmp(s->now, AFTER, strlen(AFTER)) == 0) {
        snprintf(text, size, "what comes after the %s %s",
                 strcmp(s->now + strlen(AFTER), STALL_STEP) == 0 ? "last" : "phase",
                 s->now + strlen(AFTER));
    } else if (strcmp(s->now, STALL_START) == 0) {
        snprintf(text, size, "its start");
    } else if (strcmp(s->now, STALL_STEP) == 0) {
        if (s->of > 0) {
            snprintf(text, size, "step %lld of %lld", (long long)s->done + 1, (long long)s->of);
        } else {
            snprintf(text, size, "step %lld", (long long)s->done + 1);
        }
    } else if (s->of > 0) {
        snprintf(text, size, "phase %s, %lld of %lld done", s->now, (long long)s->done,
                 (long long)s->of);
    } else {
        snprintf(text, size, "phase %s", s->now);
    }
}
