#include "../host/host.h"
#include "reference.h"

#include <stdio.h>

static int reference_open(struct kern *k, int threads)
{
    (void)threads; /* one thread, whatever is asked: the order of sums is the formula's */
    k->impl = NULL;
    return 0;
}

static void reference_close(struct kern *k)
{
    (void)k;
}

static void reference_describe(struct kern *k, char *buf, size_t len)
{
    (void)k;
    snprintf(buf, len, "plain C, double sums, 1 thread");
}

const struct kern_ops reference_ops = {
    .name = "reference",
    .summary = "plain C with double sums, one thread: the oracle for the others",
    .open = reference_open,
    .close = reference_close,
    .sync = host_sync,
    .wait = host_wait,
    .describe = reference_describe,
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
    .gemm = reference_gemm,
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
    .attn_cached = reference_attn_cached,
    .swiglu_fwd = reference_swiglu_fwd,
    .swiglu_bwd = reference_swiglu_bwd,
    .embed_fwd = reference_embed_fwd,
    .embed_bwd = reference_embed_bwd,
    .loss = reference_loss,
    .bild = reference_bild,
    .scatter_add = reference_scatter_add,
    .fusion_fwd = reference_fusion_fwd,
    .fusion_bwd = reference_fusion_bwd,
    .fusion_penalty = reference_fusion_penalty,
    .fusion_tie = reference_fusion_tie,
    .adamw = reference_adamw,
    .sumsq = reference_sumsq,
    .dot = reference_dot,
};
