/* probing.c: see probing.h. */
#include "daemon/probing.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/nodes.h"

enum { AGAIN_MS = 30000, ANSWER_MAX = 64 * 1024 };

/* One node that is asked or has answered; until the daemon ends. */
struct probing {
    struct probing *next;
    char node[64];
    bool known, told; /* told: that it does not answer */
    uv_process_t *process;
    struct probe answer;
};

struct prober {
    uv_process_t process; /* first: the handle is the prober */
    struct daemon *d;
    struct probing *of;
};
_Static_assert(offsetof(struct prober, process) == 0, "freed through its handle");

static void on_closed(uv_handle_t *h)
{
    free(h);
}

static void answer_path(const struct daemon *d, const char *node, char path[4400])
{
    snprintf(path, 4400, "%.4200s/probe-%s.json", d->state_dir, node);
}

static struct probing *entry(struct daemon *d, const char *node)
{
    for (struct probing *p = d->probing; p; p = p->next) {
        if (strcmp(p->node, node) == 0) {
            return p;
        }
    }
    struct probing *p = calloc(1, sizeof *p);
    if (p) {
        snprintf(p->node, sizeof p->node, "%s", node);
        p->next = d->probing;
        d->probing = p;
    }
    return p;
}

const struct probe *probing_answer(const struct daemon *d, const char *node)
{
    for (const struct probing *p = d->probing; p; p = p->next) {
        if (p->known && strcmp(p->node, node) == 0) {
            return &p->answer;
        }
    }
    return NULL;
}

/* What the settings leave open, with the answers that there are now. */
static void register_again(struct daemon *d)
{
    struct store_mark mark;
    struct dha_err e = {0};
    if (store_mark(d->store, &mark, &e) != 0) {
        log_fail("nodes", &e);
    } else if (nodes_register(d, &d->hosts, d->settings.slots, &e) != 0) {
        log_fail("nodes", &e);
        store_undo(d->store, &mark);
    } else if (store_keep(d->store, &mark, &e) != 0) {
        log_fail("nodes", &e);
    }
    d->want_pass = true;
}

static void say(const struct probing *p)
{
    const struct probe *a = &p->answer;
    log_info("node %s has %d cores, %lld MiB of memory, %d GPU(s)%s", p->node, a->n_cores,
             (long long)(a->memory >> 20), a->n_gpus,
             a->n_gpus && !a->cuda ? ", which are not used: its worker has no CUDA backend" : "");
    for (int i = 0; i < a->n_gpus; i++) {
        log_info("node %s: %s %s, %lld MiB", p->node, a->gpu[i].uuid, a->gpu[i].name,
                 (long long)(a->gpu[i].memory >> 20));
    }
}

static void on_again(uv_timer_t *t)
{
    probing_start(t->data);
}

static int take_answer(struct daemon *d, struct probing *p, int64_t status, int sig,
                       struct dha_err *e)
{
    char path[4400];
    answer_path(d, p->node, path);
    if (sig != 0 || status != 0) {
        dha_fail(e, DHA_E_UNREACHABLE, "it ended with %s %lld", sig ? "signal" : "status",
                 sig ? (long long)sig : (long long)status);
        return dha_err_hint(e, "try it there: %s probe", d->launch.worker);
    }
    cJSON *doc = json_parse_file(path, ANSWER_MAX, e);
    int rc = doc ? probe_parse(doc, &p->answer, e) : -1;
    cJSON_Delete(doc);
    return rc;
}

static void on_answer(uv_process_t *process, int64_t status, int sig)
{
    struct prober *k = (struct prober *)process;
    struct daemon *d = k->d;
    struct probing *p = k->of;
    struct dha_err e = {0};
    p->process = NULL;
    if (take_answer(d, p, status, sig, &e) == 0) {
        p->known = true;
        say(p);
        register_again(d);
    } else {
        if (!p->told) {
            p->told = true;
            dha_err_context(&e, "asking node %s what it has", p->node);
            log_fail("probe", &e);
        }
        uv_timer_start(&d->probe_again, on_again, AGAIN_MS, 0);
    }
    uv_close((uv_handle_t *)process, on_closed);
}

static int spawn(struct daemon *d, struct probing *p, char **args, struct dha_err *e)
{
    char path[4400];
    answer_path(d, p->node, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return dha_fail_errno(e, errno, "cannot open %s", path);
    }
    struct prober *k = calloc(1, sizeof *k);
    if (!k) {
        close(fd);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    uv_stdio_container_t io[3] = {
        {.flags = UV_IGNORE}, {.flags = UV_INHERIT_FD, .data.fd = fd}, {.flags = UV_IGNORE}};
    uv_process_options_t opt = {
        .exit_cb = on_answer, .file = args[0], .args = args, .stdio_count = 3, .stdio = io};
    int err = uv_spawn(&d->loop, &k->process, &opt);
    close(fd);
    if (err != 0) {
        uv_close((uv_handle_t *)&k->process, on_closed);
        return dha_fail(e, DHA_E_IO, "cannot start %s: %s", args[0], uv_strerror(err));
    }
    uv_unref((uv_handle_t *)&k->process);
    k->d = d;
    k->of = p;
    p->process = &k->process;
    return 0;
}

/* address NULL: this host. */
static void ask(struct daemon *d, const char *node, const char *address)
{
    struct launch_argv v = {0};
    struct dha_err e = {0};
    struct probing *p = entry(d, node);
    if (!p || p->known || p->process) {
        return;
    }
    if (address) {
        launch_ssh(&v, &d->hosts, address);
        launch_quoted(&v, d->launch.worker);
    } else {
        launch_word(&v, "%s", d->launch.worker);
    }
    launch_word(&v, "probe");
    launch_word(&v, "--json");
    if (v.failed) {
        dha_fail(&e, DHA_E_NO_MEMORY, "out of memory");
    }
    if (v.failed || spawn(d, p, v.at, &e) != 0) {
        log_fail("probe", &e);
        uv_timer_start(&d->probe_again, on_again, AGAIN_MS, 0);
    }
    launch_argv_finish(&v);
}

static bool is_open(const struct host *h)
{
    return strcmp(h->device, "cuda") == 0 || (h->slots == 0 && !h->cores[0]) || h->memory == 0;
}

void probing_start(struct daemon *d)
{
    bool fake = d->launch.launcher == &launcher_fake;
    if (d->hosts.n == 0 && !fake && d->worker) {
        ask(d, d->node, NULL);
    }
    for (size_t i = 0; i < d->hosts.n; i++) {
        const struct host *h = &d->hosts.at[i];
        if (is_open(h)) { /* the fake launcher has everything here */
            ask(d, h->name, fake || hosts_is_here(h->address) ? NULL : h->address);
        }
    }
}

void probing_close(struct daemon *d)
{
    while (d->probing) {
        struct probing *next = d->probing->next;
        free(
            d->probing); /* its process, if there is one, ends by itself and is closed with the loop */
        d->probing = next;
    }
}
