/* patience.c: see patience.h. */
#include "daemon/patience.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "proto/text.h"

struct task {
    void (*work)(void *arg);
    void (*drop)(void *arg);
    void *arg;
    char *what;
    bool done, alone; /* alone: nobody waits for it any more */
    struct patience_left left;
    uv_cond_t over;
};

static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* over all that follows, and `done` and `alone` */
static struct patience_left *hanging;
static unsigned n_hanging;

/* ---- what is left to itself ---- */

static void add(struct patience_left *l)
{
    l->next = hanging;
    hanging = l;
    n_hanging++;
}

bool patience_leave(struct patience_left *l)
{
    pthread_mutex_lock(&lock);
    bool room = n_hanging < PATIENCE_HANGING_MAX;
    if (room) {
        add(l);
    }
    pthread_mutex_unlock(&lock);
    return room;
}

void patience_back(struct patience_left *l)
{
    pthread_mutex_lock(&lock);
    struct patience_left **at = &hanging;
    while (*at != l) {
        at = &(*at)->next;
    }
    *at = l->next;
    n_hanging--;
    pthread_mutex_unlock(&lock);
}

unsigned patience_hanging(void)
{
    pthread_mutex_lock(&lock);
    unsigned n = n_hanging;
    pthread_mutex_unlock(&lock);
    return n;
}

int patience_thread(void (*run)(void *arg), void *arg, const char *purpose, struct dha_err *e)
{
    uv_thread_t thread;
    int rc = uv_thread_create(&thread, run, arg);
    if (rc != 0) {
        dha_fail_errno(e, -rc, "no thread could be started to %.300s", purpose);
        e->code = DHA_E_TRANSIENT;
        return -1;
    }
    pthread_detach(thread);
    return 0;
}

/* ---- what the loop waits for ---- */

static void task_free(struct task *t)
{
    uv_cond_destroy(&t->over);
    free(t->what);
    free(t);
}

static void in_thread(void *arg)
{
    struct task *t = arg;
    t->work(t->arg);
    pthread_mutex_lock(&lock);
    t->done = true;
    bool alone = t->alone;
    if (!alone) {
        uv_cond_signal(&t->over); /* from here on it is who waits that frees it */
    }
    pthread_mutex_unlock(&lock);
    if (alone) {
        t->drop(t->arg);
        patience_back(&t->left);
        task_free(t);
    }
}

static struct task *task_new(int64_t owner, const char *what)
{
    struct task *t = calloc(1, sizeof *t);
    if (!t || !(t->what = strdup(what)) || uv_cond_init(&t->over) != 0) {
        free(t ? t->what : NULL);
        free(t);
        return NULL;
    }
    t->left = (struct patience_left){.owner = owner, .what = t->what};
    return t;
}

/* True: it came back. False: it is left to itself. */
static bool wait_for(struct task *t, unsigned ms)
{
    uint64_t until = uv_hrtime() + (uint64_t)ms * 1000000, now;
    pthread_mutex_lock(&lock);
    while (!t->done && (now = uv_hrtime()) < until) {
        uv_cond_timedwait(&t->over, &lock, until - now);
    }
    bool done = t->done;
    if (!done) {
        t->alone = true;
        add(&t->left);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

static int no_answer(const char *what, struct dha_err *e)
{
    dha_fail(e, DHA_E_TRANSIENT,
             "the file system of %.300s, or of another file that goes with it, "
             "does not answer",
             what);
    return dha_err_hint(e, "does it hang (NFS, automount)? `stat` on that path would, too");
}

static int no_thread_left(const char *what, struct dha_err *e)
{
    dha_fail(e, DHA_E_TRANSIENT,
             "%.300s was not looked at: %d threads wait for files of users that do not answer, "
             "as many as there may be",
             what, PATIENCE_HANGING_MAX);
    return dha_err_hint(e,
                        "does a file system hang (NFS, automount)? When it answers this goes on");
}

/* How long the loop may wait for those files, in *ms. What hangs for one user says nothing of another: it may be named
 * beside a file that does hang. -1: not at all. */
static int patience_for(int64_t owner, const char *what, unsigned *ms, struct dha_err *e)
{
    pthread_mutex_lock(&lock);
    bool full = n_hanging >= PATIENCE_HANGING_MAX, hangs = false;
    unsigned n = 0;
    for (const struct patience_left *l = hanging; l && !hangs; l = l->next) {
        if (l->what && l->owner == owner) {
            hangs = ++n == PATIENCE_OF_ONE || strcmp(l->what, what) == 0;
        }
    }
    pthread_mutex_unlock(&lock);
    *ms = n > 0 ? PATIENCE_AGAIN_MS : PATIENCE_MS;
    return hangs ? no_answer(what, e) : full ? no_thread_left(what, e) : 0;
}

int patience_run(void (*work)(void *arg), void (*drop)(void *arg), void *arg, int64_t owner_uid,
                 const char *named, struct dha_err *e)
{
    char what[320], purpose[340]; /* `named` may be in arg, and go with it */
    unsigned ms;
    text_copy(what, sizeof what, named);
    if (patience_for(owner_uid, what, &ms, e) != 0) {
        drop(arg);
        return -1;
    }
    struct task *t = task_new(owner_uid, what);
    if (!t) {
        drop(arg);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    t->work = work;
    t->drop = drop;
    t->arg = arg;
    snprintf(purpose, sizeof purpose, "look at %s", what);
    if (patience_thread(in_thread, t, purpose, e) != 0) {
        task_free(t);
        drop(arg);
        return -1;
    }
    if (!wait_for(t, ms)) {
        return no_answer(what, e);
    }
    task_free(t);
    return 0;
}
