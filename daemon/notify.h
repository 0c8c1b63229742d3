/* notify.h: words to systemd (sd_notify(3)): READY=1, STOPPING=1, and WATCHDOG=1 as long as the loop turns and what it
 * changes is saved. Nothing happens where nobody asked (no NOTIFY_SOCKET). The protocol is one datagram; for it
 * alone a library is not linked. */
#ifndef DHA_DAEMON_NOTIFY_H
#define DHA_DAEMON_NOTIFY_H

#include <stdint.h>

/* Takes NOTIFY_SOCKET and WATCHDOG_USEC out of the environment: what we start must not speak for us. */
void notify_init(void);
void notify_say(const char *words);
uint64_t notify_watchdog_ms(void); /* 0 = not asked for */

#endif
