/* daemon.c: opening and closing of the whole, in order; see daemon.h. */
#include "daemon/daemon.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/api.h"
#include "daemon/chore.h"
#include "daemon/failpoint.h"
#include "daemon/feed.h"
#include "daemon/log.h"
#include "daemon/nodes.h"
#include "daemon/notify.h"
#include "daemon/patience.h"
#include "daemon/pool.h"
#include "daemon/probing.h"
#include "daemon/statedir.h"

enum { TICK_MS = 100 };

/* A chore that was told to stop and has not by then may wait for files that do not answer. */
#define CHORES_NS ((uint64_t)10 * 1000000000)

/* How long a damaged state.db is spoken of. */
#define NOTICE_US ((int64_t)7 * 86400 * 1000000)

/* A program of ours: named, else beside this executable, else in PATH. NULL if there is none. */
static char *find_program(const char *named, const char *name)
{
    char *out = NULL;
    if (named) {
        return strchr(named, '/') ? realpath(named, NULL) : strdup(named);
    }
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        if (slash && asprintf(&out, "%.*s/%s", (int)(slash - self), self, name) >= 0) {
            if (access(out, X_OK) == 0) {
                return out;
            }
            free(out);
        }
    }
    const char *path = getenv("PATH");
    char *copy = path ? strdup(path) : NULL, *rest = copy;
    for (char *dir; rest && (dir = strsep(&rest, ":"));) {
        if (asprintf(&out, "%s/%s", *dir ? dir : ".", name) < 0) {
            break;
        }
        if (access(out, X_OK) == 0) {
            free(copy);
            return out;
        }
        free(out);
    }
    free(copy);
    return NULL;
}

static int choose_launcher(struct daemon *d, const struct daemon_options *o, struct dha_err *e)
{
    const char *name = o->launcher ? o->launcher : "local";
    const char *worker = o->worker;
    if (strcmp(name, "local") == 0) {
        d->launch.launcher = &launcher_local;
    } else if (strcmp(name, "hosts") == 0) {
        d->launch.launcher = &launcher_hosts;
    } else if (strncmp(name, "fake:", 5) == 0) {
        d->launch.launcher = &launcher_fake;
        worker = name + 5;
    } else {
        return dha_fail(e, DHA_E_USAGE,
                        "--launcher is \"%.80s\"; there are local, hosts and fake:SCRIPT", name);
    }
    d->shim = find_program(o->shim, "dha-shim");
    if (!d->shim) {
        dha_fail(e, DHA_E_NOT_FOUND, "dha-shim is neither beside dhad nor in PATH");
        return dha_err_hint(e, "say where it is with --shim");
    }
    d->worker = find_program(worker, "dha-worker");
    if (!d->worker && worker) {
        return dha_fail(e, DHA_E_NOT_FOUND, "there is no %s", worker);
    }
    if (!d->worker) {
        log_warn("dha-worker is neither beside dhad nor in PATH: stages will fail (--worker)");
    }
    d->launch.shim = d->shim;
    d->launch.ended = attempts_child_ended;
    d->launch.ctx = d;
    d->launch.hosts = &d->hosts;
    d->launch.worker = d->worker ? d->worker : "dha-worker";
    return 0;
}

/* Nodes need a launcher that can reach them; named or not, it stays the one that it was at the start. */
static int check_launcher(struct daemon *d, const struct hosts *h, struct dha_err *e)
{
    if (!d->server && !d->options.launcher && h->n) {
        d->launch.launcher = &launcher_hosts;
    }
    if (h->n && !d->launch.launcher->many) {
        dha_fail(e, DHA_E_INPUT, "the settings name nodes, but the launcher is %s, which knows one",
                 d->launch.launcher->name);
        return dha_err_hint(e, "start dhad with --launcher hosts");
    }
    if (!h->n && d->launch.launcher->remote) {
        dha_fail(e, DHA_E_INPUT, "the launcher is hosts, and the settings name no nodes");
        return dha_err_hint(e, "give \"nodes\" in the file of --config");
    }
    return 0;
}

/* Where it listens is settled at the start. */
static int same_door(const struct daemon *d, const struct settings *s, struct dha_err *e)
{
    if (!d->server || strcmp(d->settings.tcp, s->tcp) == 0) {
        return 0;
    }
    dha_fail(e, DHA_E_CONFLICT, "\"tcp\" is %s now and would be %s: that needs a restart",
             d->settings.tcp[0] ? d->settings.tcp : "not set", s->tcp[0] ? s->tcp : "not set");
    return dha_err_hint(e, "stages that run go on meanwhile");
}

/* TCP, where the settings want it. */
static int open_tcp(struct daemon *d, struct dha_err *e)
{
    if (!d->settings.tcp[0]) {
        return 0;
    }
    int fd = tcp_listen(&d->settings, d->tcp, e);
    if (fd < 0 || server_listen_tcp(d->server, fd, e) != 0) {
        return -1;
    }
    log_info("listening on http://%s", d->tcp);
    return 0;
}

/* Settings as the command line and the file have them. In the open turn. */
static int apply_settings(struct daemon *d, struct dha_err *e)
{
    static int cores[CORES_MAX];
    struct settings s;
    struct hosts hosts;
    struct access access;
    char node[sizeof d->node];
    memcpy(node, d->node, sizeof node);
    if (settings_settle(&d->options.said, d->options.config,
                        (long)nodes_own_cores(cores, CORES_MAX), &s, &hosts, e) != 0) {
        return -1;
    }
    if (same_door(d, &s, e) != 0 || access_settle(&s, &access, e) != 0 ||
        check_launcher(d, &hosts, e) != 0 || nodes_register(d, &hosts, s.slots, e) != 0 ||
        (d->server && statedir_open_socket(d->socket_path, &access, e) != 0)) {
        hosts_finish(&hosts);
        memcpy(d->node, node, sizeof node);
        return -1;
    }
    hosts_finish(&d->hosts);
    d->hosts = hosts;
    d->settings = s;
    d->access = access;
    d->ageing_us = (int64_t)s.ageing_s * 1000000;
    d->preempt = s.preempt;
    d->log_bytes = (int64_t)s.log_mib << 20;
    d->want_pass = true;
    log_info("settings: slots %ld, stall %ld s, ageing %ld s, logs %ld MiB, group %s, others %s, "
             "%ld jobs a user",
             s.slots, s.stall_s, s.ageing_s, s.log_mib, s.group[0] ? s.group : "none", s.others,
             s.queue_per_user);
    if (access.has_group && runas_lacks()[0]) {
        struct dha_err cannot = {0};
        runas_refuse(&cannot);
        log_warn("%s (hint: %s)", cannot.msg, cannot.hint);
    }
    if (hosts.n) {
        log_info("settings: %zu nodes, ssh_args \"%s\", mpi_interface \"%s\", unreachable %ld s",
                 hosts.n, hosts.ssh_args, hosts.mpi_interface, hosts.unreachable_s);
    }
    return 0;
}

/* What cannot be used changes nothing. */
static void on_hup(uv_signal_t *h, int sig)
{
    struct daemon *d = h->data;
    struct store_mark mark;
    struct dha_err e = {0};
    (void)sig;
    log_info("SIGHUP: reading %s again", d->options.config);
    if (store_mark(d->store, &mark, &e) != 0) {
        log_fail("settings", &e);
    } else if (apply_settings(d, &e) != 0) {
        log_fail("the settings stay as they were", &e);
        store_undo(d->store, &mark);
    } else if (store_keep(d->store, &mark, &e) != 0) {
        log_fail("settings", &e);
    } else {
        probing_start(d);
    }
}

/* The loop turns; and if what it changes cannot be saved, systemd need not start us anew for that: it would not help. */
static void on_pulse(uv_timer_t *t)
{
    (void)t;
    notify_say("WATCHDOG=1");
}

static void on_tick(uv_timer_t *t)
{
    attempts_tick(t->data);
}

void daemon_want_tick(struct daemon *d)
{
    if (!uv_is_active((uv_handle_t *)&d->tick)) {
        d->last_tick_ms = 0;
        uv_timer_start(&d->tick, on_tick, TICK_MS, TICK_MS);
    }
}

static void stop(struct daemon *d, const char *why)
{
    if (!d->stopping) {
        log_info("stopping: %s; stages that run go on", why);
        notify_say("STOPPING=1");
    }
    d->stopping = true;
    uv_stop(&d->loop);
}

static void on_signal(uv_signal_t *h, int sig)
{
    stop(h->data, sig == SIGTERM ? "SIGTERM" : "SIGINT");
}

static void on_quit(uv_timer_t *t)
{
    stop(t->data, "asked to over the API");
}

/* Root's own jobs run as root in root's private daemon; where a group submits, only if the settings say so. */
int daemon_may_run(const struct daemon *d, int64_t owner_uid, struct dha_err *e)
{
    long said = d->settings.allow_root_jobs;
    if (runas_user(owner_uid) != RUNAS_SELF && d->launch.launcher->remote) {
        dha_fail(e, DHA_E_FORBIDDEN, "jobs of other users run on the daemon's own host only");
        return dha_err_hint(e, "the launcher of this daemon is %s, which goes to others as root",
                            d->launch.launcher->name);
    }
    return runas_allowed(owner_uid, said < 0 ? !d->access.has_group : said != 0, e);
}

/* Jobs of others that have not ended would be nobody's: neither watched nor ended, their slots given away or kept for
 * ever. Not taking them over is safe: what runs of them goes on. */
static int check_others(struct daemon *d, struct dha_err *e)
{
    int64_t n, uid;
    if (!runas_lacks()[0] || store_queue_of_others(d->store, 0, &n, &uid, e) != 0) {
        return runas_lacks()[0] ? -1 : 0;
    }
    if (n == 0) {
        return 0;
    }
    runas_refuse(e);
    return dha_err_context(e, "%lld job(s) of others (uid %lld) have not ended", (long long)n,
                           (long long)uid);
}

void daemon_quit_soon(struct daemon *d)
{
    /* The reply to the request should still go out. */
    uv_timer_start(&d->quit, on_quit, 50, 0);
}

static bool uncommitted(void *ctx)
{
    struct daemon *d = ctx;
    return store_dirty(d->store);
}

static void init_handles(struct daemon *d)
{
    turn_init(d);
    uv_timer_init(&d->loop, &d->tick);
    uv_timer_init(&d->loop, &d->backoff);
    d->backoff.data = d;
    uv_timer_init(&d->loop, &d->quit);
    uv_timer_init(&d->loop, &d->readopt);
    uv_timer_init(&d->loop, &d->chore_again);
    uv_timer_init(&d->loop, &d->probe_again);
    d->probe_again.data = d;
    uv_timer_init(&d->loop, &d->own_again);
    uv_signal_init(&d->loop, &d->on_term);
    uv_signal_init(&d->loop, &d->on_int);
    uv_signal_init(&d->loop, &d->on_hup);
    uv_timer_init(&d->loop, &d->pulse);
    d->tick.data = d->quit.data = d->readopt.data = d->on_term.data = d->on_int.data = d;
    d->on_hup.data = d;
    if (d->options.config) {
        uv_signal_start(&d->on_hup, on_hup, SIGHUP); /* one that comes while we start waits */
    }
    uv_signal_start(&d->on_term, on_signal, SIGTERM);
    uv_signal_start(&d->on_int, on_signal, SIGINT);
}

/* A copy is of use to who finds that the repair lost something. */
static void name_newest_copy(struct daemon *d)
{
    char copy[4200];
    size_t n = strlen(d->notice);
    store_newest_copy(d->state_dir, copy, sizeof copy);
    if (copy[0]) {
        snprintf(d->notice + n, sizeof d->notice - n,
                 "; to go back to the newest copy: dha down, then cp %s %s/state.db", copy,
                 d->state_dir);
    }
}

static void hint_newest_copy(const char *state_dir, struct dha_err *e)
{
    char copy[4200];
    if (e->code != DHA_E_IO || e->hint[0]) {
        return;
    }
    store_newest_copy(state_dir, copy, sizeof copy);
    if (copy[0]) {
        dha_err_hint(e, "if the disk is sound: move %s/state.db* aside, then cp %s %s/state.db",
                     state_dir, copy, state_dir);
    }
}

struct daemon *daemon_open(const struct daemon_options *o, struct dha_err *e)
{
    struct daemon *d = calloc(1, sizeof *d);
    char *log = NULL;
    int fd = -1;
    if (!d) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        return NULL;
    }
    if (uv_loop_init(&d->loop) != 0) {
        dha_fail(e, DHA_E_INTERNAL, "the event loop did not start");
        free(d);
        return NULL;
    }
    d->options = *o;
    init_handles(d);
    d->started_us = now_us();
    if (pool_start(&d->loop, e) != 0 || drafts_init(d, e) != 0 ||
        !(d->state_dir = statedir_make(o->state, e))) {
        goto fail;
    }
    runas_init(d->state_dir);
    if (asprintf(&log, "%s/dhad.log", d->state_dir) < 0 ||
        asprintf(&d->cache_dir, "%s/cache", d->state_dir) < 0 ||
        !(d->socket_path = strdup(o->socket))) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto fail;
    }
    /* The store's lock first: until we hold it, the log is another daemon's. */
    if (store_open(d->state_dir, 0, d->started_us, &d->store, e) != 0) {
        hint_newest_copy(d->state_dir, e);
        goto fail;
    }
    if (log_open(o->log ? o->log : log, o->copy_log, e) != 0 || choose_launcher(d, o, e) != 0 ||
        check_others(d, e) != 0 || apply_settings(d, e) != 0) {
        goto fail;
    }
    FAILPOINT(start_before_commit);
    if (store_commit(d->store, e) != 0) {
        goto fail;
    }
    FAILPOINT(start_after_commit);
    if (store_salvage_note(d->store, d->started_us - NOTICE_US, d->notice, sizeof d->notice, e) !=
        0) {
        goto fail;
    }
    if (d->notice[0]) {
        name_newest_copy(d);
        log_warn("%s; models that were finished are in %s/jobs/*/export/out/model", d->notice,
                 d->state_dir);
    }
    fd = statedir_listen(o->socket, &d->access, e);
    if (fd < 0) {
        free(d->socket_path); /* not ours to remove */
        d->socket_path = NULL;
        goto fail;
    }
    log_info("dhad %s, pid %d, state %s, socket %s, launcher %s, worker %s", DHA_VERSION,
             (int)getpid(), d->state_dir, o->socket, d->launch.launcher->name, d->launch.worker);
    d->events_seen = store_event_last(d->store);
    if (attempts_adopt(d, e) != 0) {
        goto fail;
    }
    d->feed = feed_open(d->store, e);
    if (!d->feed) {
        goto fail;
    }
    struct server_ops ops = {.ctx = d, .handle = api_handle, .uncommitted = uncommitted};
    d->server = server_open(&d->loop, fd, &ops, e);
    if (!d->server || open_tcp(d, e) != 0) {
        goto fail;
    }
    upkeep_start(d);
    d->want_pass = d->want_watch = true;
    probing_start(d);
    if (notify_watchdog_ms()) {
        uv_timer_start(&d->pulse, on_pulse, 0, notify_watchdog_ms() / 2);
    }
    free(log);
    return d;
fail:
    if (d->store && !o->copy_log) { /* the log is ours, and the caller tells the terminal */
        log_fail("dhad does not start", e);
    }
    if (fd >= 0 && !d->server) {
        close(fd);
    }
    free(log);
    daemon_close(d);
    return NULL;
}

void daemon_run(struct daemon *d)
{
    uv_run(&d->loop, UV_RUN_DEFAULT);
}

static void free_handle(uv_handle_t *h)
{
    free(h);
}

static void close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h)) {
        /* Only shims that wait to be reaped are on the heap (launch.c). */
        uv_close(h, h->type == UV_PROCESS ? free_handle : NULL);
    }
}

/* Runs what is left of the loop, which waits for the threads of chores. False: one did not come back. */
static bool end_loop(struct daemon *d)
{
    /* What is left are handles of this struct, and shims that only wait to be reaped (by init now). */
    uv_walk(&d->loop, close_handle, NULL);
    uint64_t until = uv_hrtime() + CHORES_NS;
    while (uv_run(&d->loop, UV_RUN_NOWAIT) != 0) {
        if (uv_hrtime() > until) {
            return false;
        }
        uv_sleep(1);
    }
    if (uv_loop_close(&d->loop) != 0) {
        log_warn("the event loop still had handles at the end");
    }
    return true;
}

bool daemon_close(struct daemon *d)
{
    if (!d) {
        return true;
    }
    d->stopping = true;
    bool ran = d->server != NULL;
    if (ran) {
        turn_end(d);
        FAILPOINT(stop_before_unlink);
        unlink(d->socket_path);
    }
    server_close(d->server);
    d->server = NULL;
    feed_close(d->feed);
    attempts_close(d);
    chore_close(d);
    bool alone = drafts_stop(d);
    store_close(d->store);
    alone = end_loop(d) && alone && patience_hanging() == 0;
    if (!alone) {
        log_warn("stopped, and left threads to themselves that wait for files which do not answer");
        return false;
    }
    if (ran) {
        log_info("stopped");
    }
    drafts_finish(d);
    hosts_finish(&d->hosts);
    probing_close(d);
    free(d->state_dir);
    free(d->socket_path);
    free(d->shim);
    free(d->worker);
    free(d->cache_dir);
    free(d->ended);
    free(d);
    return true;
}
