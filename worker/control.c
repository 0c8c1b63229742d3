#include "worker/control.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static volatile sig_atomic_t checkpoint_asked, stop_asked;

static void on_signal(int sig)
{
    if (sig == SIGUSR1)
        checkpoint_asked = 1;
    else
        stop_asked = 1;
}

void control_install(void)
{
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGUSR2, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    /* Only under a launcher: a rank whose mpirun or orted was killed must not go on alone. */
    if (getenv("OMPI_COMM_WORLD_SIZE")) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == 1) /* it died before the line above */
            _exit(77);
    }
}

enum control control_agree(struct comm *c, enum control local)
{
    int64_t ask = local;
    if (checkpoint_asked && ask < CONTROL_CHECKPOINT)
        ask = CONTROL_CHECKPOINT;
    if (stop_asked)
        ask = CONTROL_STOP;
    checkpoint_asked = 0;
    comm_max_i64(c, &ask, 1);
    return (enum control)ask;
}

bool control_stop_seen(void)
{
    return stop_asked != 0;
}
