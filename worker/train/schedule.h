/* schedule.h: pure functions of the step: learning rate, fusion threshold, how tokens become steps. */
#ifndef DHA_WORKER_SCHEDULE_H
#define DHA_WORKER_SCHEDULE_H

#include <stdint.h>

/* Factor on the peak learning rate at step s (from 0) of `steps`: linear warm-up over `warmup` steps, times a cosine from
 * 1 down to `final`. Reference: shared/oracle conv.py train(); METHODS 1.9 (cosine to 10 %). */
double schedule_lr(int64_t s, int64_t steps, int64_t warmup, double final);

/* t(s) = max(0, b^s (1 - s/k)), METHODS Eq. in 1.5, with k = 0.8 steps and b^k = 0.02 (decision D3). */
double schedule_threshold(int64_t s, int64_t steps);

/* How far the rows of a group are drawn to their mean at step s (issue 4, item 3): 0 at the start, rising to 1 at 0.8 of the
 * steps and 1 from there on, so that the last fifth trains what fusing leaves. In between sin^2: it starts and ends without a
 * bend, and a step changes the model by at most 2/steps of the way. */
double schedule_contract(int64_t s, int64_t steps);

/* Rates of omega and lambda where the spec gives none. */
double schedule_omega_rate(int64_t steps);
double schedule_lambda_rate(int64_t steps);
/* Peak rate of the recovery that follows a closed form, where the spec gives none: 3.1e-5 sqrt(steps), measured on models
 * of width 96 to 256 (docs/METHOD.md), at most 1e-3; for wider ones in proportion to 1/width (Yang et al., 2203.03466). */
double schedule_recovery_rate(int64_t steps, int width);

/* Tokens -> whole steps of batch_tokens, rounded to nearest, at least 1 for any tokens > 0. */
int64_t schedule_steps(int64_t tokens, int64_t batch_tokens);

#endif
