/* norm.c: RMSNorm; the formulas are in reference/norm.c. */
#include "isa.h"
#include "vec.h"

#include <math.h>
#include <string.h>

void CPU(rmsnorm_fwd)(struct kern *k, struct kern_view y, struct kern_view rstd, struct kern_view x,
                      struct kern_view w, size_t rows, size_t dim, float eps)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y), *R = host_f32(rstd);
    const float *X = host_f32(x), *W = host_f32(w);
    size_t parts = (size_t)cpu_team(k, 2 * rows * dim);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(rows, parts, part);
        for (size_t r = s.first; r < s.end; r++) {
            const float *xr = X + r * dim;
            float *yr = Y + r * dim;
            vf a = v_zero(), b = v_zero();
            size_t c = 0;
            for (; c + 2 * V <= dim; c += 2 * V) {
                vf u = v_read(xr + c), v = v_read(xr + c + V);
                a += u * u;
                b += v * v;
            }
            for (; c < dim; c += V) {
                vf u = v_load(v_first(dim - c), xr + c);
                a += u * u;
            }
            float inv = 1.0F / sqrtf(v_sum(a + b) / (float)dim + eps);
            R[r] = inv;
            for (c = 0; c < dim; c += V) {
                v_mask m = v_first(dim - c);
                v_store(m, yr + c, v_load(m, xr + c) * inv * v_load(m, W + c));
            }
        }
    }
}

/* Rows [s.first, s.end): dx, and this part's share of dw into sum [dim]. */
static void backward_rows(struct span s, float *DX, float *sum, const float *DY, const float *X,
                          const float *W, const float *R, size_t dim)
{
    memset(sum, 0, dim * sizeof *sum);
    for (size_t r = s.first; r < s.end; r++) {
        const float *xr = X + r * dim, *dyr = DY + r * dim;
        float *dxr = DX + r * dim;
        vf inv = v_set(R[r]), a = v_zero();
        for (size_t c = 0; c < dim; c += V) {
            v_mask m = v_first(dim - c);
            vf t = v_load(m, dyr + c) * (v_load(m, xr + c) * inv);
            v_store(m, sum + c, v_load(m, sum + c) + t);
            a += t * v_load(m, W + c);
        }
        vf mean = v_set(v_sum(a) / (float)dim) * inv;
        for (size_t c = 0; c < dim; c += V) {
            v_mask m = v_first(dim - c);
            vf dn = v_load(m, W + c) * v_load(m, dyr + c);
            v_store(m, dxr + c, v_load(m, dxr + c) + inv * (dn - v_load(m, xr + c) * mean));
        }
    }
}

void CPU(rmsnorm_bwd)(struct kern *k, struct kern_view dx, struct kern_view dw, struct kern_view dy,
                      struct kern_view x, struct kern_view w, struct kern_view rstd, size_t rows,
                      size_t dim)
{
    if (!kern_ok(k))
        return;
    float *DX = host_f32(dx), *DW = host_f32(dw);
    const float *DY = host_f32(dy), *X = host_f32(x), *W = host_f32(w), *R = host_f32(rstd);
    size_t parts = (size_t)cpu_team(k, 4 * rows * dim);
    size_t stride = (dim + 31) / 16 * 16; /* a cache line apart: no false sharing */
    float *sums = cpu_scratch(k, parts * stride * sizeof *sums);
    if (!sums)
        return;
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++)
        backward_rows(cpu_span(rows, parts, part), DX, sums + part * stride, DY, X, W, R, dim);
    for (size_t part = 0; part < parts; part++)
        for (size_t c = 0; c < dim; c++)
            DW[c] += sums[part * stride + c];
}
