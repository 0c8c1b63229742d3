/* One scheduling pass over 10,000 ready stages and 1,000 nodes of 8 slots: nothing free (without and with walltimes:
 * the most promises), everything free (one slot a stage: the most starts), and everything free with gangs of 4.
 * Goal: 20 ms. The simulator (tests/sim) times whole days of mixed work. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "daemon/sched.h"

enum { STAGES = 10000, NODES = 1000, PER_NODE = 8, ROUNDS = 20 };

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int measure(const char *what, int gang, bool busy, int64_t walltime_us)
{
    const struct sched_options o = {.now_us = 1};
    struct sched_stage *stages = calloc(STAGES, sizeof *stages);
    struct sched_slot *slots = calloc((size_t)NODES * PER_NODE, sizeof *slots);
    double best = 1e9;
    size_t starts = 0;
    int rc = stages && slots ? 0 : 1;
    for (int round = 0; round < ROUNDS && rc == 0; round++) {
        struct sched_result r;
        for (int i = 0; i < STAGES; i++) {
            stages[i] = (struct sched_stage){.id = i + 1,
                                             .slots = gang,
                                             .age_us = (i * 7919) % STAGES,
                                             .walltime_us = walltime_us,
                                             .priority = i % 3};
        }
        for (int i = 0; i < NODES * PER_NODE; i++) {
            slots[i] = (struct sched_slot){.id = i + 1,
                                           .node = i / PER_NODE + 1,
                                           .until_us = walltime_us ? walltime_us + i % 997 : 0,
                                           .busy = busy};
        }
        double begin = now_ms();
        rc = sched_pass(stages, STAGES, slots, (size_t)NODES * PER_NODE, &o, &r);
        double took = now_ms() - begin;
        best = took < best ? took : best;
        starts = r.n_slots / (size_t)gang;
        sched_result_finish(&r);
    }
    printf("sched    %-34s %6.2f ms (goal 20), %zu starts\n", what, best, starts);
    free(stages);
    free(slots);
    return rc;
}

int main(void)
{
    return measure("10,000 stages, all slots busy", 1, true, 0) |
           measure("the same, all with walltimes", 2, true, 1000000) |
           measure("10,000 stages of 1 slot, all free", 1, false, 0) |
           measure("10,000 gangs of 4, all free", 4, false, 1000000);
}
