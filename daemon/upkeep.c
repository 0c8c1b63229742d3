/* upkeep.c: see upkeep.h. */
#include "daemon/upkeep.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/chores.h"
#include "daemon/log.h"

/* The first look is late enough not to be in the way of what a start has to do. */
enum { FIRST_MS = 10000, LOOK_MS = 60000, AGAIN_MS = 15 * 60000, THIN_MS = 3600000 };
#define HOUR_US INT64_C(3600000000)

static bool copy_is_due(const struct daemon *d)
{
    const struct upkeep *u = &d->upkeep;
    int64_t now = now_us();
    return d->settings.backup_hours > 0 && uv_now(&d->loop) >= u->copy_again_ms &&
           store_event_last(d->store) != u->copied_seq &&
           /* a copy of the future: the clock was set back */
           (now - u->copied_us >= d->settings.backup_hours * HOUR_US || now < u->copied_us);
}

static void on_look(uv_timer_t *t)
{
    struct daemon *d = t->data;
    struct upkeep *u = &d->upkeep;
    struct dha_err e = {0};
    if (!chore_own_rests(d) || d->stopping) {
        return;
    }
    if (copy_is_due(d)) {
        if (chore_backup_own(d, now_us(), store_event_last(d->store), d->settings.backup_keep,
                             &e) != 0) {
            log_fail("backup", &e);
        }
    } else if (d->settings.metrics_days > 0 && uv_now(&d->loop) >= u->thin_ms) {
        struct prune_what w = {.metrics_before_us = now_us() -
                                                    d->settings.metrics_days * 24 * HOUR_US};
        u->thin_ms = uv_now(&d->loop) + THIN_MS;
        if (chore_prune_own(d, &w, &e) != 0) {
            log_fail("thinning metrics", &e);
        }
    }
}

static void find_last_copy(struct daemon *d)
{
    struct store_copy *l = NULL;
    size_t n = 0;
    struct dha_err e = {0};
    if (store_copies(d->state_dir, &l, &n, &e) != 0) {
        log_fail("looking for backups", &e);
    } else if (n > 0) {
        d->upkeep.copied_us = l[n - 1].time_us;
        d->upkeep.copied_seq = l[n - 1].seq;
    }
    free(l);
}

void upkeep_ended(struct daemon *d, const struct chore *c)
{
    struct upkeep *u = &d->upkeep;
    if (strcmp(c->ops->name, "backup") != 0) {
        return;
    }
    if (c->state == CHORE_STATE_FAILED) {
        u->failures++;
        u->failed = c->error;
        u->copy_again_ms = uv_now(&d->loop) + AGAIN_MS;
        return;
    }
    u->copies++;
    u->failed = (struct dha_err){0};
    find_last_copy(d);
    if (u->copied_seq == store_event_last(d->store) - 1) {
        u->copied_seq++; /* that it was made is no change to copy */
    }
}

void upkeep_start(struct daemon *d)
{
    find_last_copy(d);
    uv_timer_init(&d->loop, &d->upkeep_timer);
    d->upkeep_timer.data = d;
    uv_timer_start(&d->upkeep_timer, on_look, FIRST_MS, LOOK_MS);
}
