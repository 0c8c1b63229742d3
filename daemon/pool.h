/* pool.h: chore.c's threads are those of libuv's pool. It would make them with the first work that it is given, and ends the
 * process if it cannot: a daemon that has run for days would end with a backup, where what it started has used up the processes
 * that it may have. So they are made at the start, when there is one for draft.c as well. */
#ifndef DHA_DAEMON_POOL_H
#define DHA_DAEMON_POOL_H

#include <uv.h>

#include "proto/err.h"

/* Once in a process, after its last fork(). 0 / -1. */
int pool_start(uv_loop_t *loop, struct dha_err *e);

#endif
