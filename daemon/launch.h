/* launch.h: from an attempt that the database knows to a running shim.
 *
 * The attempt row and its slots are committed first; then launch_attempt() writes the attempt's
 * directory (spec.json, hostfile) and starts dha-shim detached. It may be called again for the same
 * attempt after a crash: files are replaced by equal ones, and of two shims only one gets the lock and
 * runs (daemon/shim/shim.c).
 *
 * What the shim runs is the launcher's business: `local` is mpirun on this host, `hosts` mpirun over ssh
 * with a hostfile of the attempt's nodes, `fake` a script that gets the path of spec.json (tests, and
 * trying the daemon without a worker).
 *
 * On every node of `hosts` dha is installed at the same path, and the directories jobs/ and cache/ of the
 * state directory, the models and the data are mounted there at the same paths.
 */
#ifndef DHA_DAEMON_LAUNCH_H
#define DHA_DAEMON_LAUNCH_H

#include <uv.h>

#include "daemon/hosts.h"
#include "daemon/runas.h"
#include "proto/stage.h"

/* A growing argument vector; out of memory is remembered and reported at the end. */
struct launch_argv {
    char **at;
    size_t n;
    int failed;
};

struct place_node;

struct launch_attempt {
    struct stage_spec *spec; /* borrowed */
    int ranks, threads;
    const struct place_node *nodes; /* n_nodes, borrowed */
    int n_nodes;
    uid_t user; /* as whom (runas.h) */
};

struct launch_config;

struct launcher {
    const char *name;
    bool many;   /* knows nodes other than this host */
    bool remote; /* reaches them by ssh: what an attempt left there is looked for (remote.h) */
    /* Appends the command's words with launch_word(). */
    int (*command)(const struct launch_config *c, const struct launch_attempt *a,
                   struct launch_argv *v, struct dha_err *e);
};

struct launch_config {
    const struct launcher *launcher;
    const char *shim;   /* path of dha-shim */
    const char *worker; /* dha-worker, or the script of `fake` */
    const struct hosts *hosts;
    /* A shim that this daemon started has ended (and is reaped). */
    void (*ended)(void *ctx, int pid);
    void *ctx;
};

extern const struct launcher launcher_local, launcher_hosts, launcher_fake;

/* Words for a command. */
void launch_word(struct launch_argv *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* For the shell on the other side of ssh. */
void launch_quoted(struct launch_argv *v, const char *text);
/* ssh, its options and the address: a command's words may follow. */
void launch_ssh(struct launch_argv *v, const struct hosts *h, const char *address);
void launch_argv_finish(struct launch_argv *v);

/* Starts the shim; *pid is the child (which may lose the race for the lock to an older shim). */
int launch_attempt(uv_loop_t *loop, const struct launch_config *c, const struct launch_attempt *a,
                   int *pid, struct dha_err *e);

#endif
