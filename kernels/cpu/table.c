#include "../host/host.h"
#include "../reference/reference.h"
#include "cpu.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>

struct cpu {
    int threads;
};

static int cpu_open(struct kern *k, int threads)
{
    const struct cpu *parent = k->impl;
    struct cpu *c = malloc(sizeof *c);
    if (!c) {
        host_fail(k, KERN_E_NOMEM, "cannot allocate a compute queue");
        return -1;
    }
    c->threads = parent ? parent->threads : threads > 0 ? threads : omp_get_max_threads();
    k->impl = c;
    return 0;
}

static void cpu_close(struct kern *k)
{
    free(k->impl);
}

static void cpu_describe(struct kern *k, char *buf, size_t len)
{
    const struct cpu *c = k->impl;
    const dnnl_version_t *v = dnnl_version();
    snprintf(buf, len, "oneDNN %d.%d.%d, %d threads", v->major, v->minor, v->patch, c->threads);
}

static void cpu_gemm(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
                     struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
                     struct kern_view c, size_t ldc)
{
    if (!kern_ok(k))
        return;
    const struct cpu *q = k->impl;
    omp_set_num_threads(q->threads);
    dnnl_status_t s = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', (dnnl_dim_t)m, (dnnl_dim_t)n,
                                 (dnnl_dim_t)kk, alpha, host_f32(a), (dnnl_dim_t)lda, host_f32(b),
                                 (dnnl_dim_t)ldb, beta, host_f32(c), (dnnl_dim_t)ldc);
    if (s != dnnl_success)
        host_fail(k, KERN_E_BACKEND, "oneDNN sgemm of [%zu,%zu]x[%zu,%zu] failed: status %d", m, kk,
                  kk, n, (int)s);
}

const struct kern_ops cpu_ops = {
    .name = "cpu",
    .summary = "oneDNN for matrix products, OpenMP and SIMD for the rest",
    .open = cpu_open,
    .close = cpu_close,
    .sync = host_sync,
    .wait = host_wait,
    .describe = cpu_describe,
    .alloc = host_alloc,
    .free = host_free,
    .upload = host_upload,
    .download = host_download,
    .copy = host_copy,
    .zero = host_zero,
    .host = host_address,
    .maps_new = host_maps_new,
    .maps_free = host_maps_free,
    .groups_new = host_groups_new,
    .groups_free = host_groups_free,
    .gemm = cpu_gemm,
    .axpy = reference_axpy,
    .scale = reference_scale,
    .bias_add = reference_bias_add,
    .bias_grad = reference_bias_grad,
    .rmsnorm_fwd = reference_rmsnorm_fwd,
    .rmsnorm_bwd = reference_rmsnorm_bwd,
    .rope = reference_rope,
    .attn_fwd = reference_attn_fwd,
    .attn_bwd = reference_attn_bwd,
    .attn_weights = reference_attn_weights,
    .swiglu_fwd = reference_swiglu_fwd,
    .swiglu_bwd = reference_swiglu_bwd,
    .embed_fwd = reference_embed_fwd,
    .embed_bwd = reference_embed_bwd,
    .loss = reference_loss,
    .fusion_fwd = reference_fusion_fwd,
    .fusion_bwd = reference_fusion_bwd,
    .fusion_penalty = reference_fusion_penalty,
    .adamw = reference_adamw,
    .sumsq = reference_sumsq,
};
