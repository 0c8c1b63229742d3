/* failpoint.c: see failpoint.h. */
#include "daemon/failpoint.h"

#ifdef DHA_FAILPOINTS
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef DHA_FAILPOINT_VARIABLE
#define DHA_FAILPOINT_VARIABLE "DHA_FAILPOINT"
#endif

static int hit_before(void)
{
    const char *once = getenv("DHA_FAILPOINT_ONCE");
    return once && open(once, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) < 0;
}

void failpoint_hit(const char *name)
{
    static int hits;
    const char *want = getenv(DHA_FAILPOINT_VARIABLE);
    size_t n = strlen(name);
    if (!want || strncmp(want, name, n) != 0 || (want[n] != '\0' && want[n] != ':')) {
        return;
    }
    int at = want[n] == ':' ? atoi(want + n + 1) : 1;
    if (++hits == at && !hit_before()) {
        kill(getpid(), SIGKILL);
        pause();
    }
}

void failpoint_list(void)
{
#define X(name, where) printf("%s\t%s\n", #name, where);
    DHA_FAILPOINT_TABLE(X)
#undef X
}
#else
typedef int failpoint_not_compiled_in; /* ISO C wants a declaration in every file */
#endif
