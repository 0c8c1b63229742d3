/* start.h: starting and stopping a dhad of one's own. */
#ifndef DHA_CLI_START_H
#define DHA_CLI_START_H

#include "cli/cli.h"

/* Runs `dhad --state STATE --socket SOCKET --detach` and waits until something listens on the socket (15 s). Of
 * several commands that start at once one starts it and the others find it. */
int daemon_start(const char *state, const char *socket, struct dha_err *e);
/* A connection to the socket, or -1 with errno. Where there is no room for one more it waits for it (8 s): EAGAIN. */
int daemon_connect(const char *socket);
/* True while something listens on the socket, also where it has no room. */
bool daemon_listens(const char *socket);

#endif
