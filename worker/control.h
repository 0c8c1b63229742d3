/* control.h: what the controller may ask of a running gang, by signals (DESIGN section 4.6).
 *   SIGUSR1  checkpoint now        SIGUSR2, SIGTERM, SIGINT  checkpoint and stop
 *
 * The signals are blocked in every thread and polled. There must be no handler: code that oneDNN 2.6.3 generates for its
 * f32 GEMM keeps live data below the stack pointer's red zone, so the frame of any handler that interrupts it corrupts
 * the heap (reproduced with a loop of dnnl_sgemm under a 1 ms timer and an empty handler). Ranks agree on what was asked
 * at a step boundary (control_agree), so none leaves alone.
 */
#ifndef DHA_WORKER_CONTROL_H
#define DHA_WORKER_CONTROL_H

#include "worker/comm.h"

enum control { CONTROL_NONE = 0, CONTROL_CHECKPOINT = 1, CONTROL_STOP = 2 };

/* Blocks the signals: before any thread is started. Also asks the kernel to kill this process when its parent (mpirun, orted)
 * dies. */
void control_install(void);
/* All ranks. The strongest request any rank has seen, or that `local` brings; CHECKPOINT is consumed. */
enum control control_agree(struct comm *c, enum control local);

#endif
