/* api_nodes.c: nodes and their slots. */
#include "daemon/api.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/doc.h"

/* All nodes as a list, or the one called `name` by itself. */
static cJSON *nodes_doc(struct api_call *c, const char *name)
{
    struct store_node *nodes = NULL;
    struct store_slot *slots = NULL;
    size_t n = 0, n_slots = 0;
    cJSON *out = NULL;
    if (store_nodes(c->d->store, &nodes, &n, &c->e) != 0 ||
        store_slots(c->d->store, &slots, &n_slots, &c->e) != 0) {
        goto out;
    }
    out = name ? NULL : cJSON_CreateArray();
    for (size_t i = 0; i < n; i++) {
        if (name && strcmp(nodes[i].name, name) != 0) {
            continue;
        }
        cJSON *one = doc_node(c->d, &nodes[i], slots, n_slots, &c->e);
        if (name) {
            out = one;
            break;
        }
        if (!one || !cJSON_AddItemToArray(out, one)) {
            cJSON_Delete(one);
            cJSON_Delete(out);
            out = NULL;
            break;
        }
    }
out:
    free(nodes);
    free(slots);
    return out;
}

enum api_outcome api_nodes(struct api_call *c)
{
    return api_answer(c, "nodes", nodes_doc(c, NULL));
}

enum api_outcome api_node_drain(struct api_call *c)
{
    const cJSON *reason = json_get(c->body, "reason");
    if (reason && !cJSON_IsString(reason)) {
        dha_fail(&c->e, DHA_E_USAGE, "\"reason\" is a string");
        return API_FAIL;
    }
    if (store_node_drain(c->d->store, c->name, reason ? reason->valuestring : "", now_us(),
                         &c->e) != 0) {
        return API_FAIL;
    }
    return api_answer(c, "node", nodes_doc(c, c->name));
}

enum api_outcome api_node_resume(struct api_call *c)
{
    if (store_node_resume(c->d->store, c->name, now_us(), &c->e) != 0) {
        return API_FAIL;
    }
    c->d->want_pass = true;
    return api_answer(c, "node", nodes_doc(c, c->name));
}
