/* dominate.h: which job of a sweep is not worth its tokens any more. A pure function: losses in, a verdict out.
 *
 * A job is dominated when another one of the sweep, with the same seed and a cache of as many bytes a token or fewer, had with
 * as many tokens or fewer a loss that is lower by more than the margin (a share of that loss). So only equal
 * work is compared: a job in its middle is never held against the end of another. Tokens are all that a job has read, those of
 * its search and fusion included. The caller takes jobs that
 * were stopped out of the comparison (kv_bytes 0), so that of two never both go.
 */
#ifndef DHA_DAEMON_DOMINATE_H
#define DHA_DAEMON_DOMINATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DOMINATE_MARGIN 0.02

struct dominate_point {
    int64_t tokens;
    double loss;
};

struct dominate_job {
    int64_t id, seed;
    int64_t kv_bytes;          /* a token; 0 = not known: it neither dominates nor is dominated */
    bool training;             /* it may be stopped: judged by its last point */
    struct dominate_point *at; /* by tokens, ascending */
    size_t n;
};

struct dominate_verdict {
    size_t by; /* index of the job that dominates */
    struct dominate_point mine, theirs;
};

/* Is jobs[i] dominated? Then *v says by whom: the one with the lowest loss. */
bool dominate(const struct dominate_job *jobs, size_t n, size_t i, double margin,
              struct dominate_verdict *v);

#endif
