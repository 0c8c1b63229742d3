/* stamp.c: preloaded into an attempt's programs (bench_handover.py): writes when each of them comes to main() and when it
 * exits, as lines "NAME PID begin|end NANOSECONDS" (CLOCK_MONOTONIC) at the end of the file $DHA_STAMPS. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void stamp(const char *what)
{
    const char *path = getenv("DHA_STAMPS");
    struct timespec t;
    char line[160];
    clock_gettime(CLOCK_MONOTONIC, &t);
    int n = snprintf(line, sizeof line, "%.60s %ld %s %lld\n", program_invocation_short_name,
                     (long)getpid(), what, (long long)t.tv_sec * 1000000000 + t.tv_nsec);
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd >= 0 && write(fd, line, (size_t)n) != n) {
        _exit(90);
    }
    close(fd);
}

__attribute__((constructor)) static void begin(void)
{
    stamp("begin");
}

__attribute__((destructor)) static void end(void)
{
    stamp("end");
}
