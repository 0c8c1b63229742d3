/* locate.h: where things are: the daemon's socket, the state directory, our sister programs, the demo. */
#ifndef DHA_CLI_LOCATE_H
#define DHA_CLI_LOCATE_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/cli.h"

#define LOCATE_MAX 4096

struct locate_socket {
    char path[LOCATE_MAX];
    bool named; /* by $DHA_SOCKET or --socket: never started behind the user's back */
};

/* $DHA_SOCKET, else --socket, else $XDG_RUNTIME_DIR/dha/sock where that directory is there and ours, else
 * ~/.dha/run/sock. A path that does not fit a socket address is an error. */
int locate_socket(const struct cli *cli, struct locate_socket *out, struct dha_err *e);
/* $DHA_STATE, else ~/.dha; absolute. */
int locate_state(char *out, size_t cap, struct dha_err *e);
/* dhad, dha-worker: beside this program, else on PATH. */
int locate_program(const char *name, char *out, size_t cap, struct dha_err *e);
/* The demo's directory: ../share/dha/demo from this program, else the source tree it was built from. */
int locate_demo(char *out, size_t cap, struct dha_err *e);
/* Absolute form of path: relative to base (NULL: the current directory). Removes "." and doubled slashes; leaves
 * ".." and symbolic links alone, so that what is stored is what the user wrote. */
int locate_absolute(const char *base, const char *path, char *out, size_t cap, struct dha_err *e);
/* mkdir -p, with this mode (before the umask) for what is missing. */
int locate_mkdirs(const char *dir, unsigned mode, struct dha_err *e);

#endif
