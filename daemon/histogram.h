/* histogram.h: how long something takes, as Prometheus counts it. Zeroed = empty; no upkeep. */
#ifndef DHA_DAEMON_HISTOGRAM_H
#define DHA_DAEMON_HISTOGRAM_H

#include <stdint.h>

/* Upper bounds in microseconds: from a commit on a fast disk to a loop that was blocked. */
#define HISTOGRAM_BOUNDS                                                                           \
    {                                                                                              \
        100, 200, 500, 1000, 2000, 3000, 5000, 7500, 10000, 20000, 50000, 100000, 200000, 500000,  \
            1000000, 2000000, 5000000, 10000000                                                    \
    }
#define HISTOGRAM_BUCKETS 18

struct histogram {
    int64_t count[HISTOGRAM_BUCKETS + 1]; /* the last one: over all bounds */
    int64_t n, sum_us;
};

/* Counts one duration. */
void histogram_add(struct histogram *h, int64_t us);
/* Upper bound of bucket i in microseconds. */
int64_t histogram_bound(int i);

#endif
