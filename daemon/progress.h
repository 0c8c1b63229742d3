/* progress.h: what long work in a thread tells the loop while it goes on, and how it is told to stop. */
#ifndef DHA_DAEMON_PROGRESS_H
#define DHA_DAEMON_PROGRESS_H

#include <stdatomic.h>
#include <stdint.h>

#include "proto/err.h"

struct progress {
    _Atomic int64_t done, total; /* of the phase; total 0 = unknown */
    _Atomic(const char *) phase; /* static text */
    atomic_bool stop;
};

static inline void progress_phase(struct progress *p, const char *phase, int64_t total)
{
    atomic_store(&p->done, 0);
    atomic_store(&p->total, total);
    atomic_store(&p->phase, phase);
}

/* n more are done. -1 (DHA_E_STOPPED) when the work is to end. */
static inline int progress_add(struct progress *p, int64_t n, struct dha_err *e)
{
    atomic_fetch_add(&p->done, n);
    return atomic_load(&p->stop) ? dha_fail(e, DHA_E_STOPPED, "the daemon is stopping") : 0;
}

/* For store_interrupt(). */
static inline int progress_stopped(void *p)
{
    return atomic_load(&((struct progress *)p)->stop);
}

#endif
