/* histogram.c: see histogram.h. */
#include "daemon/histogram.h"

static const int64_t bounds[] = HISTOGRAM_BOUNDS;
_Static_assert(sizeof bounds / sizeof *bounds == HISTOGRAM_BUCKETS, "a bound for each bucket");

void histogram_add(struct histogram *h, int64_t us)
{
    int i = 0;
    while (i < HISTOGRAM_BUCKETS && us > bounds[i]) {
        i++;
    }
    h->count[i]++;
    h->n++;
    h->sum_us += us;
}

int64_t histogram_bound(int i)
{
    return bounds[i];
}
