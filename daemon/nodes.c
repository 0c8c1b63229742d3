/* nodes.c: see nodes.h. */
#include "daemon/nodes.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/probing.h"

size_t nodes_own_cores(int *out, size_t cap)
{
    cpu_set_t set;
    size_t n = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (size_t c = 0; c < CPU_SETSIZE && n < cap; c++) {
            if (CPU_ISSET(c, &set)) {
                out[n++] = (int)c;
            }
        }
        return n;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    for (; (long)n < (online > 0 ? online : 1) && n < cap; n++) {
        out[n] = (int)n;
    }
    return n;
}

static int64_t own_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (int64_t)pages * size : 0;
}

struct make {
    const char *name, *address;
    const int *cores;
    size_t n_cores, n_cpu; /* CPU slots */
    int64_t memory;
    const struct probe *probe; /* n_gpus of its GPUs are slots, too; NULL = none */
    size_t n_gpus;
};

/* CPU slots over the cores, with equal parts of the memory; and the GPUs. */
static int put(struct daemon *d, const struct make *m, int64_t *id, struct dha_err *e)
{
    size_t n = m->n_cpu + m->n_gpus;
    struct store_new_slot *slots = calloc(n + 1, sizeof *slots);
    char(*texts)[CORES_TEXT] = calloc(m->n_cpu + 1, sizeof *texts);
    int rc = -1;
    if (!slots || !texts) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < m->n_cpu; i++) {
        cores_of_slot(m->cores, m->n_cores, i, m->n_cpu, texts[i]);
        slots[i] = (struct store_new_slot){
            .device = "cpu", .cores = texts[i], .memory = m->memory / (int64_t)m->n_cpu};
    }
    for (size_t i = 0; i < m->n_gpus; i++) {
        slots[m->n_cpu + i] = (struct store_new_slot){
            .device = "cuda", .uuid = m->probe->gpu[i].uuid, .memory = m->probe->gpu[i].memory};
    }
    struct store_new_node node = {
        .name = m->name, .address = m->address, .slots = slots, .n_slots = n, .now_us = now_us()};
    rc = store_node_put(d->store, &node, id, e);
out:
    free(texts);
    free(slots);
    return rc;
}

/* A worker without a backend for them leaves GPUs unused: a job on one would fail. */
static size_t usable_gpus(const struct probe *p)
{
    return p && p->cuda ? (size_t)p->n_gpus : 0;
}

/* The settings first, then what the node itself says, then what this host knows of itself. */
static int put_host(struct daemon *d, const struct host *h, int64_t *id, struct dha_err *e)
{
    static int cores[CORES_MAX];
    const struct probe *p = probing_answer(d, h->name);
    bool here = hosts_is_here(h->address), cuda = strcmp(h->device, "cuda") == 0;
    int n_cores = h->cores[0]        ? cores_read(h->cores, cores, CORES_MAX)
                  : p && p->cores[0] ? cores_read(p->cores, cores, CORES_MAX)
                  : here             ? (int)nodes_own_cores(cores, CORES_MAX)
                                     : 0;
    size_t slots = h->slots      ? (size_t)h->slots
                   : n_cores > 0 ? (size_t)n_cores
                   : p           ? (size_t)p->n_cores
                                 : 0; /* until it has answered */
    struct make m = {.name = h->name,
                     .address = h->address,
                     .cores = cores,
                     .n_cores = n_cores > 0 ? (size_t)n_cores : 0,
                     .n_cpu = cuda ? 0 : slots,
                     .memory = h->memory ? h->memory
                               : p       ? p->memory
                               : here    ? own_memory()
                                         : 0,
                     .probe = p,
                     .n_gpus = cuda ? usable_gpus(p) : 0};
    if (cuda && h->slots && m.n_gpus > (size_t)h->slots) {
        m.n_gpus = (size_t)h->slots;
    }
    if (here) {
        snprintf(d->node, sizeof d->node, "%s", h->name);
    }
    return put(d, &m, id, e);
}

/* This host alone, under the name that it has. */
static int put_this(struct daemon *d, long slots, int64_t *id, struct dha_err *e)
{
    static int cores[CORES_MAX];
    char name[sizeof d->node] = "";
    if (gethostname(name, sizeof name - 1) != 0 || !name[0]) {
        snprintf(name, sizeof name, "localhost");
    }
    memcpy(d->node, name, sizeof name);
    const struct probe *p = probing_answer(d, name);
    struct make m = {.name = name,
                     .address = "",
                     .cores = cores,
                     .n_cores = nodes_own_cores(cores, CORES_MAX),
                     .n_cpu = (size_t)slots,
                     .memory = own_memory(),
                     .probe = p,
                     .n_gpus = usable_gpus(p)};
    return put(d, &m, id, e);
}

/* What is not among ids[0..n) is no node of ours any more. */
static int remove_others(struct daemon *d, const int64_t *ids, size_t n, struct dha_err *e)
{
    struct store_node *nodes;
    size_t n_nodes;
    if (store_nodes(d->store, &nodes, &n_nodes, e) != 0) {
        return -1;
    }
    int rc = 0;
    for (size_t i = 0; i < n_nodes && rc == 0; i++) {
        bool stays = nodes[i].gone;
        for (size_t k = 0; k < n && !stays; k++) {
            stays = ids[k] == nodes[i].id;
        }
        if (!stays) {
            log_info("node %s is gone", nodes[i].name);
            rc = store_node_remove(d->store, nodes[i].id, now_us(), e);
        }
    }
    free(nodes);
    return rc;
}

int nodes_register(struct daemon *d, const struct hosts *hosts, long slots, struct dha_err *e)
{
    size_t n = hosts->n ? hosts->n : 1;
    int64_t *ids = calloc(n, sizeof *ids);
    if (!ids) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    int rc = 0;
    d->nodes_changed++;
    d->node[0] = '\0';
    if (hosts->n == 0) {
        rc = put_this(d, slots, &ids[0], e);
    }
    for (size_t i = 0; i < hosts->n && rc == 0; i++) {
        rc = put_host(d, &hosts->at[i], &ids[i], e);
    }
    if (rc == 0) {
        rc = remove_others(d, ids, n, e);
    }
    free(ids);
    return rc;
}
