/* recovery.h: what a training step minimises, as a function of how many rows of each class it has (METHODS 2.7).
 *
 *   LM    mean over text and answers
 *   KL    mean over text and prompts, and over answers if there is no BiLD
 *   BiLD  mean over text and answers
 *
 * each times its weight. Means are over the rows of the whole step and all ranks. Rows have classes only with instruction
 * data; otherwise all are text.
 */
#ifndef DHA_WORKER_RECOVERY_H
#define DHA_WORKER_RECOVERY_H

#include "worker/model/model.h"

struct recovery {
    double lm, kl, bild; /* weights */
};
struct recovery_loss { /* means; 0 where there is no row */
    double lm, kl, bild;
    double all; /* what is minimised */
};
/* Weights of single rows, such that the gradient of their sum is that of the means. rows: of the whole step, by class. */
void recovery_weigh(const struct recovery *w, const double rows[RUN_CLASSES],
                    struct run_objective *out);
/* sums: over all ranks. */
struct recovery_loss recovery_mean(const struct recovery *w, const double rows[RUN_CLASSES],
                                   const struct run_sums *sums);

#endif
