/* place.c: see place.h. */
#include "daemon/place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void placement_finish(struct placement *p)
{
    free(p->nodes);
    free(p->ranks);
    *p = (struct placement){0};
}

static const struct store_node *node_of(const struct store_node *nodes, size_t n, int64_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (nodes[i].id == id) {
            return &nodes[i];
        }
    }
    return NULL;
}

/* The cores of a rank's slots, together; none if one of them has none of its own. */
static void join_cores(const struct store_slot *s, int n, char out[CORES_TEXT])
{
    int all[CORES_MAX], count = 0;
    out[0] = '\0';
    for (int i = 0; i < n; i++) {
        int got = s[i].cores[0] ? cores_read(s[i].cores, all + count, (size_t)(CORES_MAX - count))
                                : -1;
        if (got < 0) {
            return;
        }
        count += got;
    }
    cores_write(all, (size_t)count, out,
                CORES_TEXT); /* slots are by number, and so are their cores */
}

static void add_node(struct placement *p, const struct store_node *n, const struct store_slot *s,
                     int n_slots, int threads)
{
    struct place_node *node = &p->nodes[p->n_nodes++];
    int each = s->uuid[0] ? 1 : threads;
    *node = (struct place_node){.here = n->address[0] == '\0' || hosts_is_here(n->address),
                                .ranks = n_slots / each};
    snprintf(node->name, sizeof node->name, "%s", n->name);
    snprintf(node->address, sizeof node->address, "%s", n->address[0] ? n->address : "localhost");
    for (int i = 0; i + each <= n_slots; i += each) {
        struct stage_place *r = &p->ranks[p->n_ranks++];
        snprintf(r->node, sizeof r->node, "%s", n->name);
        snprintf(r->gpu, sizeof r->gpu, "%s", s[i].uuid);
        join_cores(s + i, each, r->cores);
    }
}

/* The nodes that are here, or those that are not. */
static int add_nodes(struct placement *p, const struct store_node *nodes, size_t n_nodes,
                     const struct store_slot *slots, size_t n, bool here, int threads,
                     struct dha_err *e)
{
    for (size_t i = 0; i < n;) {
        size_t k = i + 1;
        while (k < n && slots[k].node == slots[i].node) {
            k++;
        }
        const struct store_node *node = node_of(nodes, n_nodes, slots[i].node);
        if (!node) {
            return dha_fail(e, DHA_E_INTERNAL, "slot %s is of no node", slots[i].name);
        }
        if ((node->address[0] == '\0' || hosts_is_here(node->address)) == here) {
            add_node(p, node, &slots[i], (int)(k - i), threads);
        }
        i = k;
    }
    return 0;
}

int placement_of(struct daemon *d, int64_t attempt, int threads, struct placement *out,
                 struct dha_err *e)
{
    struct store_slot *slots = NULL;
    struct store_node *nodes = NULL;
    size_t n = 0, n_nodes = 0;
    int rc = -1;
    *out = (struct placement){0};
    if (store_slots_of_attempt(d->store, attempt, &slots, &n, e) != 0 ||
        store_nodes(d->store, &nodes, &n_nodes, e) != 0) {
        goto out;
    }
    out->nodes = calloc(n + 1, sizeof *out->nodes);
    out->ranks = calloc(n + 1, sizeof *out->ranks);
    if (!out->nodes || !out->ranks) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < n && !d->settings.pin; i++) {
        slots[i].cores[0] = '\0';
    }
    rc = add_nodes(out, nodes, n_nodes, slots, n, true, threads, e) == 0
             ? add_nodes(out, nodes, n_nodes, slots, n, false, threads, e)
             : -1;
out:
    free(slots);
    free(nodes);
    return rc;
}
