/* hosts.h: the nodes that the settings file names, and how they are reached:
 *   {"nodes": [{"name": "gpu-1", "address": "10.0.0.11", "slots": 8, "cores": "0-15", "memory_gib": 64,
 *               "device": "cpu"}, ...],
 *    "ssh_args": "-F /etc/dha/ssh_config", "mpi_interface": "10.0.0.0/24", "unreachable_s": 600}
 * They stand beside the members of settings.h. Of a node only its name has to be said: its address is its name then,
 * and what is left out its worker tells (`dha-worker probe`). Without `nodes` this host is the only one.
 *
 * Nothing of it comes to a shell of this host, but mpirun and ssh split ssh_args at blanks and a remote shell reads
 * what they make of it: so names, addresses, interface and arguments are held to alphabets without quotes, dollars,
 * semicolons and the like.
 */
#ifndef DHA_DAEMON_HOSTS_H
#define DHA_DAEMON_HOSTS_H

#include "proto/cores.h"
#include "proto/json.h"

struct host {
    char name[64], address[256];
    char device[8];         /* "cpu" | "cuda" */
    int slots;              /* 0: one a core or GPU */
    char cores[CORES_TEXT]; /* "" = not said */
    int64_t memory;         /* bytes of the whole node; 0 = not said */
};

struct hosts {
    struct host *at; /* n of them, owned */
    size_t n;
    char ssh_args[512];
    char mpi_interface[128];
    long unreachable_s; /* so long an attempt waits for a node that does not answer; default 600 */
};
#define HOSTS_NONE                                                                                 \
    (struct hosts)                                                                                 \
    {                                                                                              \
        .unreachable_s = 600                                                                       \
    }

/* ssh never asks anybody anything, and gives up on a node that is not there. */
#define HOSTS_SSH_OPTIONS "-o BatchMode=yes -o ConnectTimeout=10"

/* Is this member of the settings file one of these? */
bool hosts_member(const char *name);
const char *const *hosts_members(size_t *n);
/* Reads them from a whole settings document. DHA_E_INPUT names what is wrong; *out is then HOSTS_NONE. */
int hosts_parse(const cJSON *doc, struct hosts *out, struct dha_err *e);
void hosts_finish(struct hosts *h);
const struct host *hosts_find(const struct hosts *h, const char *name);
/* Is the address one of this host's own? Only what needs no name server is asked. */
bool hosts_is_here(const char *address);

#endif
