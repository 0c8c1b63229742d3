/* chore.c: see chore.h. */
#include "daemon/chore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/doc.h"
#include "daemon/log.h"

enum { AGAIN_MS = 1 }; /* not 0: that would be the same turn */

static const char *const state_names[] = {[CHORE_STATE_RUNNING] = "running",
                                          [CHORE_STATE_PLANNED] = "planned",
                                          [CHORE_STATE_DONE] = "done",
                                          [CHORE_STATE_FAILED] = "failed"};

static void destroy(struct chore *c)
{
    if (c->ops->destroy) {
        c->ops->destroy(c->arg);
    }
    cJSON_Delete(c->result);
    free(c->state_dir);
    free(c);
}

static void say_end(struct chore *c)
{
    char type[32];
    struct dha_err e = {0};
    cJSON *j = cJSON_CreateObject();
    bool failed = c->state == CHORE_STATE_FAILED;
    snprintf(type, sizeof type, "%s.%s", c->own ? "upkeep" : "admin", c->ops->name);
    int rc = json_put_str(j, "state", state_names[c->state]) |
             json_put_str(j, "code", dha_code_name(failed ? c->error.code : DHA_E_OK)) |
             json_put_str(j, "message", failed ? c->error.msg : "") | json_put_id(j, "by", c->by);
    char *text = rc == 0 ? json_text(j) : NULL;
    if (text && store_event_add(c->d->store, type, 0, 0, 0, text, now_us(), NULL, &e) != 0) {
        log_fail(type, &e);
    }
    if (failed) {
        log_fail(type, &c->error);
    } else {
        log_info("%s: %s", type, state_names[c->state]);
    }
    free(text);
    cJSON_Delete(j);
}

static void come_to_rest(struct chore *c, enum chore_state state)
{
    c->state = state;
    if (!c->own || state == CHORE_STATE_FAILED || c->changed) {
        say_end(c);
    }
    if (c->own) {
        upkeep_ended(c->d, c);
    }
}

static void fail(struct chore *c, const struct dha_err *e)
{
    c->error = *e;
    come_to_rest(c, CHORE_STATE_FAILED);
}

/* ---- the thread ---- */

static void in_thread(uv_work_t *w)
{
    struct chore *c = w->data;
    c->work_rc = c->ops->work(c, &c->work_error);
}

static void step(struct chore *c);

static void after_thread(uv_work_t *w, int status)
{
    struct chore *c = w->data;
    c->in_thread = false;
    if (c->orphan) {
        destroy(c);
    } else if (status != 0 || c->work_rc != 0) {
        if (status != 0) {
            dha_fail(&c->work_error, DHA_E_INTERNAL, "the thread ended: %s", uv_strerror(status));
        }
        fail(c, &c->work_error);
    } else {
        step(c);
    }
}

static void work(struct chore *c)
{
    struct dha_err e = {0};
    c->work.data = c;
    c->work_error = (struct dha_err){0};
    c->in_thread = uv_queue_work(&c->d->loop, &c->work, in_thread, after_thread) == 0;
    if (!c->in_thread) {
        dha_fail(&e, DHA_E_INTERNAL, "no thread could be started");
        fail(c, &e);
    }
}

/* ---- the loop ---- */

static void on_again(uv_timer_t *t)
{
    struct chore *c = t->data;
    if (store_dirty(c->d->store)) { /* the turn is not on disk yet */
        uv_timer_start(t, on_again, AGAIN_MS, 0);
    } else {
        step(c);
    }
}

/* What the thread does may rest on what step() changed: not before it is on disk. */
static void on_work(uv_timer_t *t)
{
    struct chore *c = t->data;
    if (store_dirty(c->d->store)) {
        uv_timer_start(t, on_work, AGAIN_MS, 0);
    } else {
        work(c);
    }
}

static void later(struct chore *c, uv_timer_cb then)
{
    uv_timer_t *t = c->own ? &c->d->own_again : &c->d->chore_again;
    t->data = c;
    uv_timer_start(t, then, AGAIN_MS, 0);
}

/* With what was planned. */
static void go_on(struct chore *c)
{
    c->state = CHORE_STATE_RUNNING;
    c->apply = c->changed = true;
    progress_phase(&c->progress, "changing", 0);
    later(c, on_again);
}

static void step(struct chore *c)
{
    enum chore_next next = CHORE_DONE;
    struct dha_err e = {0};
    if (c->ops->step && c->ops->step(c, &next, &e) != 0) {
        fail(c, &e);
        return;
    }
    switch (next) {
    case CHORE_AGAIN: later(c, on_again); break;
    case CHORE_WORK: later(c, on_work); break;
    case CHORE_PLANNED:
        if (c->own) { /* nobody is asked */
            go_on(c);
        } else {
            come_to_rest(c, CHORE_STATE_PLANNED);
        }
        break;
    case CHORE_DONE: come_to_rest(c, CHORE_STATE_DONE); break;
    }
}

static int start(struct daemon *d, struct chore **slot, const struct chore_ops *ops, void *arg,
                 struct dha_err *e)
{
    struct chore *c = NULL;
    if (*slot && (*slot)->state == CHORE_STATE_RUNNING) {
        dha_fail(e, DHA_E_CONFLICT, "`dha admin %s` is at work", (*slot)->ops->name);
        dha_err_hint(e, "one at a time: try again when it has ended");
        goto fail;
    }
    c = calloc(1, sizeof *c);
    char *state_dir = strdup(d->state_dir);
    if (!c || !state_dir) {
        free(state_dir);
        free(c);
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto fail;
    }
    if (*slot) {
        destroy(*slot);
    }
    c->d = d;
    c->own = slot == &d->own_chore;
    c->by = (int64_t)geteuid();
    c->ops = ops;
    c->arg = arg;
    c->state_dir = state_dir;
    c->id = c->own ? 0 : ++d->chores;
    progress_phase(&c->progress, "starting", 0);
    *slot = c;
    work(c);
    return 0;
fail:
    if (ops->destroy) {
        ops->destroy(arg);
    }
    return -1;
}

int chore_start(struct daemon *d, const struct chore_ops *ops, void *arg, struct dha_err *e)
{
    return start(d, &d->chore, ops, arg, e);
}

int chore_start_own(struct daemon *d, const struct chore_ops *ops, void *arg, struct dha_err *e)
{
    return start(d, &d->own_chore, ops, arg, e);
}

static struct chore *find(struct daemon *d, int64_t id, struct dha_err *e)
{
    if (d->chore && d->chore->id == id) {
        return d->chore;
    }
    dha_fail(e, DHA_E_NOT_FOUND, "there is no administrator's chore %lld", (long long)id);
    dha_err_hint(
        e, "the last one only is remembered, until the daemon ends: ask again from the start");
    return NULL;
}

int chore_apply(struct daemon *d, int64_t id, struct dha_err *e)
{
    struct chore *c = find(d, id, e);
    if (!c) {
        return -1;
    }
    if (c->state != CHORE_STATE_PLANNED) {
        return dha_fail(e, DHA_E_CONFLICT, "`dha admin %s` has planned nothing (it is %s)",
                        c->ops->name, state_names[c->state]);
    }
    go_on(c);
    return 0;
}

static bool rests(const struct chore *c)
{
    return !c || c->state != CHORE_STATE_RUNNING;
}

bool chore_rests(const struct daemon *d)
{
    return rests(d->chore);
}

bool chore_own_rests(const struct daemon *d)
{
    return rests(d->own_chore);
}

cJSON *chore_doc(struct daemon *d, int64_t id, struct dha_err *e)
{
    struct chore *c = find(d, id, e);
    if (!c) {
        return NULL;
    }
    struct store_error error = {{0}, {0}, {0}};
    if (c->state == CHORE_STATE_FAILED) {
        snprintf(error.code, sizeof error.code, "%s", dha_code_name(c->error.code));
        snprintf(error.message, sizeof error.message, "%s", c->error.msg);
        snprintf(error.hint, sizeof error.hint, "%s", c->error.hint);
    }
    bool told = c->result && c->state != CHORE_STATE_RUNNING;
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_id(j, "id", c->id) | json_put_str(j, "kind", c->ops->name) |
             json_put_str(j, "state", state_names[c->state]) |
             json_put_str(j, "phase", atomic_load(&c->progress.phase)) |
             json_put_int(j, "done", atomic_load(&c->progress.done)) |
             json_put_int(j, "total", atomic_load(&c->progress.total)) |
             doc_put_error(j, "error", &error) |
             json_put(j, "result", told ? cJSON_Duplicate(c->result, true) : cJSON_CreateNull());
    return rc == 0 ? j : doc_oom(j, e);
}

static void close_one(struct chore **slot)
{
    struct chore *c = *slot;
    *slot = NULL;
    if (c && c->in_thread) {
        c->orphan = true; /* the loop's last run waits for the thread */
        atomic_store(&c->progress.stop, true);
    } else if (c) {
        destroy(c);
    }
}

void chore_close(struct daemon *d)
{
    close_one(&d->chore);
    close_one(&d->own_chore);
}
