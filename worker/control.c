#include "worker/control.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static bool stop_asked;

static sigset_t ours(void)
{
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    sigaddset(&s, SIGUSR2);
    sigaddset(&s, SIGTERM);
    sigaddset(&s, SIGINT);
    return s;
}

void control_install(void)
{
    sigset_t s = ours();
    sigprocmask(SIG_BLOCK, &s, NULL);
    /* Only under a launcher: a rank whose mpirun or orted was killed must not go on alone. */
    if (getenv("OMPI_COMM_WORLD_SIZE")) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == 1) /* it died before the line above */
            _exit(77);
    }
}

/* Takes everything pending. */
static enum control poll_signals(void)
{
    sigset_t s = ours();
    struct timespec at_once = {0, 0};
    enum control seen = CONTROL_NONE;
    for (int sig; (sig = sigtimedwait(&s, NULL, &at_once)) > 0;) {
        if (sig != SIGUSR1)
            stop_asked = true;
        else if (seen == CONTROL_NONE)
            seen = CONTROL_CHECKPOINT;
    }
    return stop_asked ? CONTROL_STOP : seen;
}

enum control control_agree(struct comm *c, enum control local)
{
    enum control seen = poll_signals();
    int64_t ask = seen > local ? seen : local;
    comm_max_i64(c, &ask, 1);
    return (enum control)ask;
}
