/* probe.h: what a node has, as its own worker sees it (`dha-worker probe --json`):
 *   { "format": "dha-probe-1", "cores": "0-7", "n_cores": 8, "memory": "67430170624", "backends": ["cpu"],
 *     "gpus": [ { "uuid": "GPU-5c4e...", "name": "NVIDIA H200", "memory": "150121545728" } ] }
 * GPUs of a worker without a backend for them are named, and not used. */
#ifndef DHA_PROTO_PROBE_H
#define DHA_PROTO_PROBE_H

#include "proto/cores.h"
#include "proto/json.h"

enum { PROBE_GPUS = 64 };

struct probe {
    char cores[CORES_TEXT]; /* "" = too many pieces to be written down */
    int n_cores;
    int64_t memory;
    bool cuda; /* its worker computes on GPUs */
    int n_gpus;
    struct {
        char uuid[64], name[64];
        int64_t memory;
    } gpu[PROBE_GPUS];
};

/* DHA_E_PROTOCOL. */
int probe_parse(const cJSON *doc, struct probe *out, struct dha_err *e);
cJSON *probe_to_json(const struct probe *p); /* NULL: out of memory */

#endif
