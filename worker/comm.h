/* comm.h: collectives between the ranks of a gang, behind one small interface: MPI now, NCCL on GPUs later.
 * All ranks call in the same order. A failed collective aborts the gang: a rank never leaves alone.
 */
#ifndef DHA_WORKER_COMM_H
#define DHA_WORKER_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/err.h"

struct comm {
    int rank, size;
    double seconds; /* spent in collectives so far */
    void *impl;
};

/* A gang of one, without MPI: for unit tests and tools. */
void comm_alone(struct comm *c);
int comm_init(struct comm *c, int *argc, char ***argv, struct dha_err *e);
void comm_finish(struct comm *c);
/* Ends all ranks now with this exit code. */
void comm_abort(struct comm *c, int code) __attribute__((noreturn));

void comm_barrier(struct comm *c);
void comm_bcast(struct comm *c, void *buf, size_t bytes, int root);
/* In place; deterministic for a given number of ranks. */
void comm_sum_f64(struct comm *c, double *x, size_t n);
void comm_max_i64(struct comm *c, int64_t *x, size_t n);
/* x [n] is cut into `size` pieces of `chunk` (the last ones shorter or empty): rank r gets the sum of piece r,
 * in place at x + r*chunk; the rest of x is undefined afterwards. */
void comm_reduce_scatter_f32(struct comm *c, float *x, size_t n, size_t chunk);
/* The other way: piece r of rank r goes to everyone. */
void comm_all_gather_f32(struct comm *c, float *x, size_t n, size_t chunk);
/* Error agreement: every rank passes its own result; if any failed, all get -1 and the lowest failing rank's
 * error. */
int comm_agree(struct comm *c, int rc, struct dha_err *e);

#endif
