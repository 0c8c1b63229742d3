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

double schedule_contract(int64_t s, int64_t steps)
{
    double x = (double)s / (0.8 * (double)steps);
    if (x >= 1.0)
        return 1.0;
    return sin(0.5 * M_PI * x) * sin(0.5 * M_PI * x);
}

/* An entry of omega has up to 1 - 1/g to go from its start to the group's mean, and Adam moves it by at most its rate a step,
 * which the learning rate schedule halves on average: 4 / steps is about twice what that takes. */
double schedule_omega_rate(int64_t steps)
{
    double rate = 4.0 / (double)(steps > 0 ? steps : 1);
    return rate < 1e-2 ? 1e-2 : rate > 0.2 ? 0.2 : rate;
}

/* 1e-2 for the paper's 1,000 steps. Its ascent is a sum over steps of what is violated, so a run of a tenth of the steps needs
 * ten times the rate for the same multiplier, and as it has a tenth of the time to act, ten times the multiplier. */
double schedule_lambda_rate(int64_t steps)
{
    double n = 1000.0 / (double)(steps > 0 ? steps : 1), rate = 1e-2 * n * n;
    return rate < 1e-2 ? 1e-2 : rate > 5.0 ? 5.0 : rate;
}

double schedule_recovery_rate(int64_t steps, int width)
{
    double rate = 3.1e-5 * sqrt((double)(steps > 0 ? steps : 1));
    rate = rate < 1e-3 ? rate : 1e-3;
    return width > 256 ? rate * 256 / width : rate;
}

int64_t schedule_steps(int64_t tokens, int64_t batch_tokens)
{
    if (tokens <= 0)
        return 0;
    int64_t n = (tokens + batch_tokens / 2) / batch_tokens;
    return n > 0 ? n : 1;
}
