/* comm.c: collectives over MPI.
 *
 * The error handler is MPI_ERRORS_ARE_FATAL: a rank that sees a broken collective takes the gang down, which is what
 * the controller then sees and retries. Large sums go in slices of 1 MiB: Open MPI 4.1.4 on one host moves those three
 * times faster than one call of 60 MB (measured, DESIGN section 10).
 */
#include "worker/comm.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLICE ((size_t)1 << 18) /* floats: 1 MiB */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void comm_alone(struct comm *c)
{
    *c = (struct comm){.rank = 0, .size = 1};
}

int comm_init(struct comm *c, int *argc, char ***argv, struct dha_err *e)
{
    if (MPI_Init(argc, argv) != MPI_SUCCESS)
        return dha_fail(e, DHA_E_COMM, "MPI_Init failed");
    *c = (struct comm){.impl = c};
    MPI_Comm_rank(MPI_COMM_WORLD, &c->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &c->size);
    return 0;
}

void comm_finish(struct comm *c)
{
    if (c->impl)
        MPI_Finalize();
    c->impl = NULL;
}

void comm_abort(struct comm *c, int code)
{
    if (c->impl)
        MPI_Abort(MPI_COMM_WORLD, code);
    _Exit(code);
}

void comm_barrier(struct comm *c)
{
    if (c->size > 1)
        MPI_Barrier(MPI_COMM_WORLD);
}

void comm_bcast(struct comm *c, void *buf, size_t bytes, int root)
{
    if (c->size == 1)
        return;
    for (size_t at = 0; at < bytes; at += SLICE * 4) {
        size_t n = bytes - at < SLICE * 4 ? bytes - at : SLICE * 4;
        MPI_Bcast((char *)buf + at, (int)n, MPI_BYTE, root, MPI_COMM_WORLD);
    }
}

void comm_sum_f64(struct comm *c, double *x, size_t n)
{
    if (c->size == 1)
        return;
    double t = now_s();
    for (size_t at = 0; at < n; at += SLICE / 2) {
        size_t len = n - at < SLICE / 2 ? n - at : SLICE / 2;
        MPI_Allreduce(MPI_IN_PLACE, x + at, (int)len, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    }
    c->seconds += now_s() - t;
}

void comm_max_i64(struct comm *c, int64_t *x, size_t n)
{
    if (c->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, x, (int)n, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
}

/* Length of piece r of n cut into pieces of chunk. */
static size_t piece(size_t n, size_t chunk, size_t r)
{
    size_t at = r * chunk;
    if (at >= n)
        return 0;
    return n - at < chunk ? n - at : chunk;
}

void comm_reduce_scatter_f32(struct comm *c, float *x, size_t n, size_t chunk)
{
    if (c->size == 1)
        return;
    double t = now_s();
    for (int r = 0; r < c->size; r++) {
        size_t len = piece(n, chunk, (size_t)r);
        float *p = x + (size_t)r * chunk;
        for (size_t at = 0; at < len; at += SLICE) {
            int m = (int)(len - at < SLICE ? len - at : SLICE);
            if (c->rank == r)
                MPI_Reduce(MPI_IN_PLACE, p + at, m, MPI_FLOAT, MPI_SUM, r, MPI_COMM_WORLD);
            else
                MPI_Reduce(p + at, NULL, m, MPI_FLOAT, MPI_SUM, r, MPI_COMM_WORLD);
        }
    }
    c->seconds += now_s() - t;
}

void comm_all_gather_f32(struct comm *c, float *x, size_t n, size_t chunk)
{
    if (c->size == 1)
        return;
    double t = now_s();
    for (int r = 0; r < c->size; r++) {
        size_t len = piece(n, chunk, (size_t)r);
        for (size_t at = 0; at < len; at += SLICE) {
            int m = (int)(len - at < SLICE ? len - at : SLICE);
            MPI_Bcast(x + (size_t)r * chunk + at, m, MPI_FLOAT, r, MPI_COMM_WORLD);
        }
    }
    c->seconds += now_s() - t;
}

int comm_agree(struct comm *c, int rc, struct dha_err *e)
{
    if (c->size == 1)
        return rc;
    /* the lowest failing rank, as the maximum of (size - rank), 0 = nobody */
    int64_t who = rc ? c->size - c->rank : 0;
    comm_max_i64(c, &who, 1);
    if (who == 0)
        return 0;
    int root = c->size - (int)who;
    struct dha_err shared = {0};
    if (c->rank == root && e)
        shared = *e;
    comm_bcast(c, &shared, sizeof shared, root);
    if (e)
        *e = shared;
    return -1;
}
