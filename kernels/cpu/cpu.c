#include "cpu.h"
#include "../host/host.h"

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct isa {
    const char *name;
    const struct kern_ops *ops;
    bool (*supported)(void);
};

#ifdef DHA_CPU_X86
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

static bool always(void)
{
    return true;
}

/* Best first. */
static const struct isa isas[] = {
#ifdef DHA_CPU_X86
    {"avx512", &cpu_ops_avx512, has_avx512},
    {"avx2", &cpu_ops_avx2, has_avx2},
#endif
    {"generic", &cpu_ops_generic, always},
};
enum { ISAS = sizeof isas / sizeof isas[0] };

static const struct isa *choose(struct kern *k)
{
    const char *wanted = getenv("DHA_CPU_ISA");
    for (int i = 0; i < ISAS; i++) {
        if (wanted && *wanted && strcmp(wanted, isas[i].name) != 0)
            continue;
        if (isas[i].supported())
            return &isas[i];
    }
    host_fail(
        k, KERN_E_UNSUPPORTED,
        "DHA_CPU_ISA=%.32s: not in this build or not on this machine; unset it, or use one of "
        "generic, avx2, avx512 that the machine has",
        wanted ? wanted : "");
    return NULL;
}

int cpu_open(struct kern *k, int threads)
{
    const struct cpu *parent = k->impl;
    if (!parent) {
        const struct isa *isa = choose(k);
        if (!isa)
            return -1;
        k->ops = isa->ops;
    }
    struct cpu *c = calloc(1, sizeof *c);
    if (!c) {
        host_fail(k, KERN_E_NOMEM, "cannot allocate a compute queue");
        return -1;
    }
    c->threads = parent ? parent->threads : threads > 0 ? threads : omp_get_max_threads();
    k->impl = c;
    return 0;
}

void cpu_close(struct kern *k)
{
    struct cpu *c = k->impl;
    free(c->scratch);
    free(c);
    k->impl = NULL;
}

void cpu_describe(struct kern *k, char *buf, size_t len)
{
    const struct cpu *c = k->impl;
    const dnnl_version_t *v = dnnl_version();
    const char *isa = "?";
    for (int i = 0; i < ISAS; i++)
        if (isas[i].ops == k->ops)
            isa = isas[i].name;
    snprintf(buf, len, "%s kernels, oneDNN %d.%d.%d, %d thread%s", isa, v->major, v->minor,
             v->patch, c->threads, c->threads == 1 ? "" : "s");
}

void *cpu_scratch(struct kern *k, size_t bytes)
{
    struct cpu *c = k->impl;
    if (bytes <= c->scratch_bytes)
        return c->scratch;
    size_t size = (bytes + 4095) / 4096 * 4096;
    void *p = NULL;
    if (posix_memalign(&p, 4096, size) != 0) {
        host_fail(k, KERN_E_NOMEM, "cannot allocate %zu bytes of kernel scratch", size);
        return NULL;
    }
    free(c->scratch);
    c->scratch = p;
    c->scratch_bytes = size;
    return p;
}
