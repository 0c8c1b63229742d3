/* cmd_probe.c: what this host has: cores, memory, GPUs. The daemon asks it of each node. */
#include "worker/cmd.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/kern.h"
#include "worker/gpus.h"

static void find_cores(struct probe *p)
{
    cpu_set_t set;
    int cores[CPU_SETSIZE], n = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (size_t c = 0; c < CPU_SETSIZE; c++)
            if (CPU_ISSET(c, &set))
                cores[n++] = (int)c;
        cores_write(cores, (size_t)n, p->cores, sizeof p->cores);
    } else { /* more cores than the set has room for */
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        n = online > 0 && online <= CORES_MAX ? (int)online : 1;
    }
    p->n_cores = n;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    p->memory = pages > 0 && size > 0 ? (int64_t)pages * size : 0;
}

static void print(const struct probe *p, const char *why)
{
    printf("cores   %d (%s)\nmemory  %.4g GiB\n", p->n_cores, p->cores[0] ? p->cores : "?",
           (double)p->memory / (1 << 30));
    for (int i = 0; i < p->n_gpus; i++)
        printf("gpu     %s  %s  %.4g GiB\n", p->gpu[i].uuid, p->gpu[i].name,
               (double)p->gpu[i].memory / (1 << 30));
    if (p->n_gpus == 0)
        printf("gpus    none: %s\n", why[0] ? why : "the driver has none");
    else if (!p->cuda)
        printf("        this worker has no CUDA backend: they are not used\n");
}

int cmd_probe(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    bool json = false;
    const struct option_spec options[] = {{.name = "json", .flag = &json}, {0}};
    struct probe p = {0};
    struct kern_err ke = {0};
    char why[128];
    int first = cmd_options(argc, argv, options, e);
    (void)comm;
    if (first < 0)
        return -1;
    if (first != argc)
        return dha_fail(e, DHA_E_USAGE, "takes options only");
    find_cores(&p);
    gpus_find(&p, why, sizeof why);
    struct kern *k = kern_open("cuda", 1, &ke);
    p.cuda = k != NULL;
    if (k)
        kern_close(k);
    if (!json) {
        print(&p, why);
        return 0;
    }
    cJSON *doc = probe_to_json(&p);
    char *text = doc ? json_text(doc) : NULL;
    cJSON_Delete(doc);
    if (!text)
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}
