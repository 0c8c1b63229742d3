/* schedule.h: pure functions of the step: learning rate, fusion threshold, how tokens become steps. */
#ifndef DHA_WORKER_SCHEDULE_H
#define DHA_WORKER_SCHEDULE_H

#include <stdint.h>

/* Factor on the peak learning rate at step s (from 0) of `steps`: linear warm-up over `warmup` steps, times a cosine from
 * 1 down to `final`. Reference: shared/oracle conv.py train(); METHODS 1.9 (cosine to 10 %). */
double schedule_lr(int64_t s, int64_t steps, int64_t warmup, double final);

/* t(s) = max(0, b^s (1 - s/k)), METHODS Eq. in 1.5, with k = 0.8 steps and b^k = 0.02 (decision D3). */
double schedule_threshold(int64_t s, int64_t steps);

/* Tokens -> whole steps of batch_tokens, rounded to nearest, at least 1 for any tokens > 0. */
int64_t schedule_steps(int64_t tokens, int64_t batch_tokens);

#endif
