/* chore_fsck.c: fsck (fsck.h) beside a daemon at work: it looks in a thread, then the loop looks at each finding again
 * (it may have been a thing in motion), and repairs what it is told to. */
#include <stdlib.h>
#include <string.h>

#include "daemon/chores.h"
#include "daemon/fsck.h"

enum { SLICE = 64 };

struct check {
    bool deep;
    struct fsck_report report;
    size_t at; /* of the report: what is looked at or repaired next */
    char *lost;
    int64_t repaired, skipped;
    cJSON *failed;
};

static int work(struct chore *c, struct dha_err *e)
{
    struct check *k = c->arg;
    struct store *s;
    if (store_open_reader(c->state_dir, &s, e) != 0) {
        return -1;
    }
    store_interrupt(s, progress_stopped, &c->progress);
    int rc = fsck_check(s, c->state_dir, k->deep, &c->progress, &k->report, e);
    store_close(s);
    return rc;
}

static int confirm(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    struct check *k = c->arg;
    bool repairable = false;
    for (int n = 0; n < SLICE && k->at < k->report.n; n++) {
        bool so;
        if (fsck_still(c->d->store, &k->report.at[k->at], &so, e) != 0) {
            return -1;
        }
        if (so) {
            k->at++;
        } else {
            fsck_report_drop(&k->report, k->at);
        }
    }
    *next = CHORE_AGAIN;
    if (k->at < k->report.n) {
        return 0;
    }
    k->at = 0;
    for (size_t i = 0; i < k->report.n; i++) {
        repairable |= fsck_repair_of(&k->report.at[i]) != NULL;
    }
    c->result = fsck_doc(&k->report);
    *next = repairable ? CHORE_PLANNED : CHORE_DONE;
    return c->result ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static int note_failure(struct check *k, const struct fsck_finding *f, const struct dha_err *why)
{
    cJSON *one = cJSON_CreateObject();
    if (json_put_str(one, "path", f->path ? f->path : "") != 0 ||
        json_put_str(one, "message", why->msg) != 0 || !cJSON_AddItemToArray(k->failed, one)) {
        cJSON_Delete(one);
        return -1;
    }
    return 0;
}

static int repair(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    struct check *k = c->arg;
    if (!k->lost) {
        k->lost = fsck_lost_dir(c->state_dir, c->id, now_us());
        k->failed = cJSON_CreateArray();
        atomic_store(&c->progress.total, (int64_t)k->report.n);
    }
    if (!k->lost || !k->failed) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    for (int n = 0; n < SLICE && k->at < k->report.n; n++, k->at++) {
        const struct fsck_finding *f = &k->report.at[k->at];
        struct dha_err why = {0};
        bool done;
        if (fsck_repair(c->d->store, c->state_dir, k->lost, f, now_us(), &done, &why) != 0) {
            /* one that cannot be repaired is no reason to leave the others */
            if (note_failure(k, f, &why) != 0) {
                return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
            }
        } else if (done) {
            k->repaired++;
        } else {
            k->skipped += fsck_repair_of(f) != NULL;
        }
    }
    atomic_store(&c->progress.done, (int64_t)k->at);
    *next = k->at < k->report.n ? CHORE_AGAIN : CHORE_DONE;
    if (*next == CHORE_AGAIN) {
        return 0;
    }
    cJSON *failed = k->failed;
    k->failed = NULL;
    int rc = json_put(c->result, "failed", failed) |
             json_put_int(c->result, "repaired", k->repaired) |
             json_put_int(c->result, "skipped", k->skipped) |
             json_put_str(c->result, "lost", k->lost);
    return rc == 0 ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

static int step(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    return c->apply ? repair(c, next, e) : confirm(c, next, e);
}

static void destroy(void *arg)
{
    struct check *k = arg;
    fsck_report_finish(&k->report);
    cJSON_Delete(k->failed);
    free(k->lost);
    free(k);
}

static const struct chore_ops ops = {
    .name = "fsck", .work = work, .step = step, .destroy = destroy};

int chore_fsck(struct daemon *d, bool deep, struct dha_err *e)
{
    struct check *k = calloc(1, sizeof *k);
    if (!k) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    k->deep = deep;
    return chore_start(d, &ops, k, e);
}
