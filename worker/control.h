/* control.h: what the controller may ask of a running gang, by signals (DESIGN section 4.6).
 *   SIGUSR1  checkpoint now        SIGUSR2, SIGTERM, SIGINT  checkpoint and stop
 * Handlers only set a flag. Ranks agree on the flags at a step boundary (control_agree), so none leaves alone.
 */
#ifndef DHA_WORKER_CONTROL_H
#define DHA_WORKER_CONTROL_H

#include "worker/comm.h"

enum control { CONTROL_NONE = 0, CONTROL_CHECKPOINT = 1, CONTROL_STOP = 2 };

/* Handlers in; also asks the kernel to kill this process when its parent (mpirun, orted) dies. */
void control_install(void);
/* All ranks. The strongest request any rank has seen, or that `local` brings; CHECKPOINT is consumed. */
enum control control_agree(struct comm *c, enum control local);
/* This rank alone: has a stop been asked for? For loops without collectives. */
bool control_stop_seen(void);

#endif
