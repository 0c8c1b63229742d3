#include "cli/interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <sys/select.h>
#include <time.h>

static volatile sig_atomic_t hit;

static void on_signal(int sig)
{
    (void)sig;
    hit = 1;
}

void interrupt_catch(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    hit = 0;
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

void interrupt_release(void)
{
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}

bool interrupted(void)
{
    return hit != 0;
}

bool interrupt_sleep(double seconds)
{
    sigset_t block;
    sigset_t before;
    struct timespec ts = {.tv_sec = (time_t)seconds,
                          .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

    /* Blocked between the check and the wait, so that a signal cannot slip between them. */
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGTERM);
    sigprocmask(SIG_BLOCK, &block, &before);
    if (!hit) {
        pselect(0, NULL, NULL, NULL, &ts, &before);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return interrupted();
}
