/* place.h: where an attempt runs: the slots that the database gave it, as nodes to start ranks on and as what each rank
 * may use there. */
#ifndef DHA_DAEMON_PLACE_H
#define DHA_DAEMON_PLACE_H

#include "daemon/daemon.h"
#include "proto/stage.h"

struct place_node {
    char name[64], address[256];
    bool here; /* this host: its processes are in our /proc */
    int ranks;
};

struct placement {
    struct place_node *nodes; /* n_nodes: this host first, as mpirun counts it first; then by id */
    int n_nodes;
    struct stage_place *ranks; /* n_ranks, node by node */
    int n_ranks;
};

/* 0, or -1; placement_finish() in any case. `threads`: slots that make one rank on a CPU. */
int placement_of(struct daemon *d, int64_t attempt, int threads, struct placement *out,
                 struct dha_err *e);
void placement_finish(struct placement *p);

#endif
