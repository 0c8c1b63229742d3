/* notify.c: see notify.h. */
#include "daemon/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un where;
static socklen_t where_len; /* 0 = nobody asked */
static uint64_t watchdog_ms;

void notify_init(void)
{
    const char *path = getenv("NOTIFY_SOCKET"), *every = getenv("WATCHDOG_USEC");
    const char *whose = getenv("WATCHDOG_PID");
    size_t n = path ? strlen(path) : 0;
    if (n > 1 && n < sizeof where.sun_path && (path[0] == '/' || path[0] == '@')) {
        where.sun_family = AF_UNIX;
        memcpy(where.sun_path, path, n);
        if (path[0] == '@') {
            where.sun_path[0] = '\0';
        }
        where_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    }
    if (every && (!whose || strtol(whose, NULL, 10) == (long)getpid())) {
        watchdog_ms = strtoull(every, NULL, 10) / 1000;
    }
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void notify_say(const char *words)
{
    int fd = where_len ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    if (fd >= 0) {
        /* that nobody listens any more changes nothing for us */
        (void)!sendto(fd, words, strlen(words), MSG_NOSIGNAL | MSG_DONTWAIT,
                      (const struct sockaddr *)&where, where_len);
        close(fd);
    }
}

uint64_t notify_watchdog_ms(void)
{
    return where_len ? watchdog_ms : 0;
}
