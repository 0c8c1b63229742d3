/* test_comm.c: every collective of worker/comm.h, run as a gang of 1, 2 and 3 ranks. Exits non-zero on the first
 * difference (of any rank: mpirun then does). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/comm.h"

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "rank %d: %s:%d: %s\n", c.rank, __FILE__, __LINE__, #x);               \
            comm_abort(&c, 1);                                                                     \
        }                                                                                          \
    } while (0)

int main(int argc, char **argv)
{
    struct comm c;
    struct dha_err e = {0};
    if (comm_init(&c, &argc, &argv, &e))
        return 1;
    /* larger than a slice, and not a multiple of anything */
    size_t n = 700001, chunk = (n + (size_t)c.size - 1) / (size_t)c.size;
    float *x = malloc(n * sizeof *x);
    CHECK(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((i % 100) * ((size_t)c.rank + 1));
    comm_reduce_scatter_f32(&c, x, n, chunk);
    float factor = (float)(c.size * (c.size + 1) / 2);
    size_t from = (size_t)c.rank * chunk, to = from + chunk < n ? from + chunk : n;
    for (size_t i = from; i < to; i++)
        CHECK(x[i] == factor * (float)(i % 100));
    comm_all_gather_f32(&c, x, n, chunk);
    for (size_t i = 0; i < n; i++)
        CHECK(x[i] == factor * (float)(i % 100));
    free(x);

    double d[3] = {1, (double)c.rank, 0.5};
    comm_sum_f64(&c, d, 3);
    CHECK(d[0] == c.size && d[1] == c.size * (c.size - 1) / 2 && d[2] == 0.5 * c.size);
    int64_t m[2] = {c.rank, -c.rank};
    comm_max_i64(&c, m, 2);
    CHECK(m[0] == c.size - 1 && m[1] == 0);
    char text[16] = "";
    if (c.rank == 0)
        strcpy(text, "hello");
    comm_bcast(&c, text, sizeof text, 0);
    CHECK(!strcmp(text, "hello"));

    CHECK(comm_agree(&c, 0, &e) == 0);
    /* the last rank fails: all hear its error */
    if (c.rank == c.size - 1)
        dha_fail(&e, DHA_E_INPUT, "rank %d says no", c.rank);
    CHECK(comm_agree(&c, c.rank == c.size - 1 ? -1 : 0, &e) == -1);
    CHECK(e.code == DHA_E_INPUT && strstr(e.msg, "says no"));
    comm_barrier(&c);
    comm_finish(&c);
    return 0;
}
