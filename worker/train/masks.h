/* masks.h: where the masks of a model are at a step (METHODS 2.6), and how those that are learned learn.
 *
 *   linear         z goes from 1 to 0 along a line; the heads of a layer one after another, those nearest to what they will
 *                  become first
 *   hard concrete  z is drawn from a distribution (Louizos et al.) whose parameter alpha is trained; a Lagrangian with two
 *                  multipliers drives the expected share of closed masks s to its target t (METHODS 3.2)
 *   released       the variant of paper 2's code: little noise, straight-through, |s-t| + (|s-t| + 1e-6)^2, and two
 *                  interventions on alpha that keep s near t
 *
 * In all of them every z is 0 from 80 % of the steps on, so that the last fifth trains the model that comes out. t rises from
 * 0 to 1 over the first 30 %. Noise is a function of (seed, step, mask): nothing but alpha, its moments and the multipliers
 * (struct ckpt_state) is needed to resume.
 *
 * A step: masks_open_step(); model_oper_apply(); forward and backward; model_oper_backward(); masks_backward(); optimiser;
 * masks_close_step(). All ranks call everything; dz is summed over ranks inside.
 */
#ifndef DHA_WORKER_MASKS_H
#define DHA_WORKER_MASKS_H

#include "proto/spec.h"
#include "worker/comm.h"
#include "worker/model/mask.h"

/* ---- the pure parts, one mask each ---- */
struct mask_value {
    double z, slope; /* slope = dz / dalpha as the backward pass takes it */
};
/* x = fraction of the way to the hard end (may be beyond 1), start = where this head begins. */
double mask_linear(double x, double start);
/* u in (0,1): the noise; u = NAN: without noise, as evaluations see it. */
struct mask_value mask_hard_concrete(double alpha, double u);
struct mask_value mask_released(double alpha, double u);
/* Expected share of time a mask is closed, and its slope. */
struct mask_value mask_closed(enum method_masks kind, double alpha);
/* Target share of closed masks at a step. */
double mask_target(int64_t step, int64_t steps);

/* ---- the masks of one model ---- */
struct masks {
    enum method_masks kind;
    struct model *m; /* borrowed, with masks attached */
    int64_t seed, steps;
    int n;                           /* layers * heads */
    double *start;                   /* linear */
    struct kern_buf *alpha, *dalpha; /* the others: trained, [n] */
    float *before, *host;            /* alpha before the optimiser's step; scratch */
    double *slope;                   /* of this step */
    double closed, target;           /* s and t of this step */
};
int masks_new(struct masks **x, struct model *m, enum method_masks kind, int64_t seed,
              int64_t steps, struct dha_err *e);
void masks_free(struct masks *x); /* NULL is fine */
/* Learning rate of alpha where the spec gives none, and of the multipliers: enough to cross over in `steps`. */
double masks_rate(enum method_masks kind, int64_t steps);
double masks_lambda_rate(int64_t steps);
/* z of step `step` with its noise; released: draws alpha towards the target first. */
void masks_open_step(struct masks *x, int64_t step);
/* z as it counts in evaluations after `step` finished steps. Changes nothing else. */
void masks_show(struct masks *x, int64_t step);
/* dalpha from dz and the sparsity loss (written by rank 0 for all). Returns the sparsity loss. */
double masks_backward(struct masks *x, int64_t step, const double lambda[2], struct comm *comm);
/* After the optimiser: bounds, and for hard concrete the multipliers' ascent. */
void masks_close_step(struct masks *x, int64_t step, double lambda[2]);

#endif
