#include "worker/train/schedule.h"

#include <math.h>

double schedule_lr(int64_t s, int64_t steps, int64_t warmup, double final)
{
    double up = s + 1 >= warmup ? 1.0 : (double)(s + 1) / (double)warmup;
    double cosine = 0.5 * (1.0 + cos(M_PI * (double)s / (double)steps));
    return up * (final + (1.0 - final) * cosine);
}

double schedule_threshold(int64_t s, int64_t steps)
{
    double k = 0.8 * (double)steps;
    if ((double)s >= k)
        return 0.0;
    return pow(0.02, (double)s / k) * (1.0 - (double)s / k);
}

int64_t schedule_steps(int64_t tokens, int64_t batch_tokens)
{
    if (tokens <= 0)
        return 0;
    int64_t n = (tokens + batch_tokens / 2) / batch_tokens;
    return n > 0 ? n : 1;
}
