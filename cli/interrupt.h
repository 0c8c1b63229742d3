/* interrupt.h: Ctrl-C while following a job leaves the job alone: the first one asks the loop to end, a second one
 * ends the process in the ordinary way. */
#ifndef DHA_CLI_INTERRUPT_H
#define DHA_CLI_INTERRUPT_H

#include <stdbool.h>

#define INTERRUPT_EXIT 130 /* 128 + SIGINT, as a shell says it */

void interrupt_catch(void);
void interrupt_release(void);
bool interrupted(void);
/* Sleeps, but wakes at once for Ctrl-C (also for one that came just before). Returns interrupted(). */
bool interrupt_sleep(double seconds);

#endif
