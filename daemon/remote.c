/* remote.c: see remote.h. */
#include "daemon/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/log.h"
#include "daemon/place.h"
#include "proto/text.h"

/* What `dha-shim --sweep` says; everything else is ssh's or the shell's, and tells nothing of the attempt. */
enum { SWEPT_ALL = 0, SWEPT_LEFT = 4 };

enum { ASK_MS = 40000, AGAIN_LEFT_MS = 1000, AGAIN_SILENT_MS = 5000, LEFT_MS = 30000 };

enum answer { NO_ANSWER, ALL_GONE, GIVEN_UP };

struct remote_node {
    char name[64], address[256];
    enum answer answer;
    bool silent;         /* the last time it was asked */
    char why[160];       /* what ssh said then, or which pids are left */
    struct asker *asker; /* ssh at work; NULL = none */
    uint64_t next_ms, kill_ms;
    uint64_t left_end_ms; /* processes are left: when the node is drained for it */
};

struct remote {
    struct attempt *a;
    struct remote_node *at;
    int n;
    uint64_t deadline_ms; /* of silence; 0 = all have answered so far */
};

struct asker {
    uv_process_t process; /* first: the handle is the asker */
    struct remote *r;     /* NULL: nobody wants to know any more */
    int node;
    int log; /* what it prints */
};
_Static_assert(offsetof(struct asker, process) == 0, "freed through its handle");

static void on_closed(uv_handle_t *h)
{
    free(h);
}

/* A node is asked also where the attempt's directory is gone: else its slots would be held for ever. */
static int open_log(const struct attempt *a, const struct remote_node *n)
{
    char path[4400];
    snprintf(path, sizeof path, "%.4200s/sweep-%s.log", a->dir, n->name);
    int fd = a->foreign ? -1 : open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return fd >= 0 ? fd : memfd_create("sweep.log", MFD_CLOEXEC);
}

/* The last line that ssh or dha-shim printed. */
static void read_why(int log, struct remote_node *n)
{
    char text[512];
    ssize_t len = pread(log, text, sizeof text - 1, 0);
    size_t got = len > 0 ? (size_t)len : 0;
    text[got] = '\0';
    while (got > 0 && strchr("\r\n ", text[got - 1])) {
        text[--got] = '\0';
    }
    const char *line = strrchr(text, '\n');
    text_copy(n->why, sizeof n->why, line ? line + 1 : text);
    text_clean_utf8(n->why);
}

static void drain(struct attempt *a, struct remote_node *n, const char *reason)
{
    struct dha_err e = {0};
    FAILPOINT(remote_before_drain);
    log_error("node %s is drained: %s", n->name, reason);
    if (store_node_drain(a->d->store, n->name, reason, now_us(), &e) != 0) {
        log_fail("drain", &e);
    }
    n->answer = GIVEN_UP;
    a->d->want_pass = true;
}

/* From the first silence on the attempt is out of sight; that outlives the daemon. */
static void lost_sight(struct remote *r, const struct remote_node *n)
{
    struct attempt *a = r->a;
    uint64_t now = uv_now(&a->d->loop), wait = (uint64_t)a->d->hosts.unreachable_s * 1000;
    struct dha_err e = {0};
    char reason[256];
    bool changed;
    if (r->deadline_ms) {
        return;
    }
    if (a->unreachable_us == 0) {
        a->unreachable_us = now_us();
        r->deadline_ms = now + wait;
    } else { /* another daemon saw it first; a clock that was set back is not held against the node */
        int64_t ms = (now_us() - a->unreachable_us) / 1000;
        uint64_t gone = ms > 0 ? (uint64_t)ms : 0;
        r->deadline_ms = now + (gone < wait ? wait - gone : 0);
    }
    snprintf(reason, sizeof reason, "node %s does not answer: %s", n->name, n->why);
    log_warn("job %lld: attempt %d: %s", (long long)a->job, a->number, reason);
    if (store_attempt_set_state(a->d->store, a->id, ATTEMPT_UNREACHABLE, reason, a->unreachable_us,
                                &changed, &e) != 0) {
        log_fail("attempt state", &e);
    }
}

static void judge(struct remote *r, struct remote_node *n, int log, int64_t status, int sig)
{
    struct attempt *a = r->a;
    uint64_t now = uv_now(&a->d->loop);
    read_why(log, n);
    n->silent = false;
    if (sig == 0 && status == SWEPT_ALL) {
        n->answer = ALL_GONE;
        a->d->want_pass = true; /* its other slots are free to use again */
    } else if (sig == 0 && status == SWEPT_LEFT) {
        char reason[256];
        n->left_end_ms = n->left_end_ms ? n->left_end_ms : now + LEFT_MS;
        n->next_ms = now + AGAIN_LEFT_MS;
        snprintf(reason, sizeof reason, "processes of attempt %s will not die: %s", a->uuid,
                 n->why);
        if (now >= n->left_end_ms) {
            drain(a, n, reason);
        }
    } else {
        n->silent = true;
        n->next_ms = now + AGAIN_SILENT_MS;
        if (!n->why[0]) {
            snprintf(n->why, sizeof n->why, sig ? "ssh took longer than %d s" : "ssh ended with %d",
                     sig ? ASK_MS / 1000 : (int)status);
        }
        lost_sight(r, n);
    }
}

static void on_answer(uv_process_t *p, int64_t status, int sig)
{
    struct asker *k = (struct asker *)p;
    if (k->r) {
        struct remote_node *n = &k->r->at[k->node];
        n->asker = NULL;
        judge(k->r, n, k->log, status, sig);
    }
    close(k->log);
    uv_close((uv_handle_t *)p, on_closed);
}

static int spawn(struct remote *r, int node, char **args, struct dha_err *e)
{
    struct attempt *a = r->a;
    int fd = open_log(a, &r->at[node]);
    if (fd < 0) {
        return dha_fail_errno(e, errno, "cannot make a file for the answer of node %s",
                              r->at[node].name);
    }
    struct asker *k = calloc(1, sizeof *k);
    if (!k) {
        close(fd);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    uv_stdio_container_t io[3] = {{.flags = UV_IGNORE},
                                  {.flags = UV_INHERIT_FD, .data.fd = fd},
                                  {.flags = UV_INHERIT_FD, .data.fd = fd}};
    uv_process_options_t opt = {
        .exit_cb = on_answer, .file = args[0], .args = args, .stdio_count = 3, .stdio = io};
    FAILPOINT(remote_before_ask);
    int err = uv_spawn(&a->d->loop, &k->process, &opt);
    if (err != 0) {
        close(fd);
        uv_close((uv_handle_t *)&k->process, on_closed);
        return dha_fail(e, DHA_E_IO, "cannot start %s: %s", args[0], uv_strerror(err));
    }
    uv_unref((uv_handle_t *)&k->process);
    k->r = r;
    k->node = node;
    k->log = fd;
    r->at[node].asker = k;
    r->at[node].kill_ms = uv_now(&a->d->loop) + ASK_MS;
    return 0;
}

static void ask(struct remote *r, int node)
{
    struct attempt *a = r->a;
    struct launch_argv v = {0};
    struct dha_err e = {0};
    launch_ssh(&v, &a->d->hosts, r->at[node].address);
    launch_quoted(&v, a->d->shim);
    launch_word(&v, "--sweep");
    launch_quoted(&v, a->uuid);
    if (a->tmp[0]) {
        launch_quoted(&v, a->tmp);
    }
    if (v.failed) {
        dha_fail(&e, DHA_E_NO_MEMORY, "out of memory");
    }
    if (v.failed || spawn(r, node, v.at, &e) != 0) {
        log_fail("asking a node", &e);
        r->at[node].next_ms = uv_now(&a->d->loop) + AGAIN_SILENT_MS;
    }
    launch_argv_finish(&v);
}

static struct remote *make(struct attempt *a, struct dha_err *e)
{
    struct placement p;
    if (placement_of(a->d, a->id, 1, &p, e) != 0) {
        placement_finish(&p);
        return NULL;
    }
    struct remote *r = calloc(1, sizeof *r);
    if (!r || !(r->at = calloc((size_t)p.n_nodes + 1, sizeof *r->at))) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        placement_finish(&p);
        free(r);
        return NULL;
    }
    r->a = a;
    for (int i = 0; i < p.n_nodes; i++) {
        if (!p.nodes[i].here) {
            struct remote_node *n = &r->at[r->n++];
            memcpy(n->name, p.nodes[i].name, sizeof n->name);
            memcpy(n->address, p.nodes[i].address, sizeof n->address);
        }
    }
    placement_finish(&p);
    return r;
}

static void give_up(struct remote *r, struct remote_node *n)
{
    struct attempt *a = r->a;
    char reason[256];
    snprintf(reason, sizeof reason, "no answer for %ld s (%.100s); attempt %s may still run there",
             a->d->hosts.unreachable_s, n->why, a->uuid);
    drain(a, n, reason);
    a->launch_failed = true; /* what the worker said of its end goes before this */
    dha_fail(&a->launch_error, DHA_E_LOST, "node %s vanished: no answer for %ld s", n->name,
             a->d->hosts.unreachable_s);
    dha_err_hint(&a->launch_error, "see to the node, then: dha nodes resume %s", n->name);
}

bool remote_step(struct attempt *a)
{
    uint64_t now = uv_now(&a->d->loop);
    struct dha_err e = {0};
    bool over = true;
    if (!a->remote && !(a->remote = make(a, &e))) {
        log_fail("asking nodes", &e);
        a->not_before_ms = now + AGAIN_SILENT_MS;
        return false;
    }
    for (int i = 0; i < a->remote->n; i++) {
        struct remote_node *n = &a->remote->at[i];
        if (n->answer != NO_ANSWER) {
            continue;
        }
        if (n->asker && now >= n->kill_ms) {
            uv_process_kill(&n->asker->process, SIGKILL);
        } else if (!n->asker && n->silent && now >= a->remote->deadline_ms) {
            give_up(a->remote, n);
        } else if (!n->asker && now >= n->next_ms) {
            ask(a->remote, i);
        }
        over &= n->answer != NO_ANSWER;
    }
    return over;
}

void remote_away(struct remote *r, uint64_t ms)
{
    r->deadline_ms += r->deadline_ms ? ms : 0;
    for (int i = 0; i < r->n; i++) {
        struct remote_node *n = &r->at[i];
        n->kill_ms += n->asker ? ms : 0;
        n->left_end_ms += n->left_end_ms ? ms : 0;
    }
}

void remote_destroy(struct remote *r)
{
    for (int i = 0; r && i < r->n; i++) {
        if (r->at[i].asker) {
            r->at[i].asker->r = NULL;
            uv_process_kill(&r->at[i].asker->process, SIGKILL);
        }
    }
    if (r) {
        free(r->at);
        free(r);
    }
}

bool remote_any(const struct daemon *d)
{
    for (const struct attempt *a = d->attempts; a; a = a->next) {
        if (a->remote) {
            return true;
        }
    }
    return false;
}

bool remote_is_silent(const struct daemon *d, const char *node)
{
    for (const struct attempt *a = d->attempts; a; a = a->next) {
        for (int i = 0; a->remote && i < a->remote->n; i++) {
            const struct remote_node *n = &a->remote->at[i];
            if (n->silent && n->answer == NO_ANSWER && strcmp(n->name, node) == 0) {
                return true;
            }
        }
    }
    return false;
}

bool remote_waits(const struct daemon *d, int64_t job, char *text, size_t size)
{
    for (const struct attempt *a = d->attempts; a; a = a->next) {
        for (int i = 0; a->job == job && a->remote && i < a->remote->n; i++) {
            const struct remote_node *n = &a->remote->at[i];
            uint64_t now = uv_now(&d->loop), end = a->remote->deadline_ms;
            if (n->silent && n->answer == NO_ANSWER) {
                snprintf(
                    text, size,
                    "node %s does not answer (%.80s), and something of it may still run there; "
                    "it is given up in %llu s",
                    n->name, n->why, (unsigned long long)(end > now ? (end - now) / 1000 + 1 : 0));
                return true;
            }
        }
    }
    return false;
}
