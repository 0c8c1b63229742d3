/* patience.c: see patience.h. */
#include "daemon/patience.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

struct task {
    void (*work)(void *arg);
    void (*drop)(void *arg);
    void *arg;
    char *what;
    bool done, left; /* left: nobody waits for it any more */
    uv_cond_t over;
    struct task *next;
};

static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* over all that follows, and `done` and `left` */
static struct task *hanging;
static unsigned n_hanging;

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
    bool left = t->left;
    if (left) {
        struct task **at = &hanging;
        while (*at != t) {
            at = &(*at)->next;
        }
        *at = t->next;
        n_hanging--;
    } else {
        uv_cond_signal(&t->over); /* from here on it is who waits that frees it */
    }
    pthread_mutex_unlock(&lock);
    if (left) {
        t->drop(t->arg);
        task_free(t);
    }
}

static struct task *task_new(const char *what)
{
    struct task *t = calloc(1, sizeof *t);
    if (!t || !(t->what = strdup(what)) || uv_cond_init(&t->over) != 0) {
        free(t ? t->what : NULL);
        free(t);
        return NULL;
    }
    return t;
}

/* True: it came back. False: it is left to itself. */
static bool wait_for(struct task *t)
{
    uint64_t until = uv_hrtime() + (uint64_t)PATIENCE_MS * 1000000, now;
    pthread_mutex_lock(&lock);
    while (!t->done && (now = uv_hrtime()) < until) {
        uv_cond_timedwait(&t->over, &lock, until - now);
    }
    bool done = t->done;
    if (!done) {
        t->left = true;
        t->next = hanging;
        hanging = t;
        n_hanging++;
    }
    pthread_mutex_unlock(&lock);
    return done;
}

static bool hangs(const char *what)
{
    pthread_mutex_lock(&lock);
    bool yes = n_hanging >= PATIENCE_HANGING_MAX;
    for (const struct task *t = hanging; t && !yes; t = t->next) {
        yes = strcmp(t->what, what) == 0;
    }
    pthread_mutex_unlock(&lock);
    return yes;
}

static int no_answer(const char *what, struct dha_err *e)
{
    dha_fail(e, DHA_E_TRANSIENT,
             "the file system of %.300s, or of another file that goes with it, "
             "does not answer",
             what);
    return dha_err_hint(e, "does it hang (NFS, automount)? `stat` on that path would, too");
}

int patience_run(void (*work)(void *arg), void (*drop)(void *arg), void *arg, const char *named,
                 struct dha_err *e)
{
    char what[320]; /* `named` may be in arg, and go with it */
    snprintf(what, sizeof what, "%s", named);
    if (hangs(what)) {
        drop(arg);
        return no_answer(what, e);
    }
    struct task *t = task_new(what);
    if (!t) {
        drop(arg);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    t->work = work;
    t->drop = drop;
    t->arg = arg;
    uv_thread_t thread;
    int rc = uv_thread_create(&thread, in_thread, t);
    if (rc != 0) {
        task_free(t);
        drop(arg);
        dha_fail_errno(e, -rc, "no thread could be started to look at %.300s", what);
        e->code = DHA_E_TRANSIENT;
        return -1;
    }
    pthread_detach(thread);
    if (!wait_for(t)) {
        return no_answer(what, e);
    }
    task_free(t);
    return 0;
}
