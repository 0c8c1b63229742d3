/* pointwise.c: RoPE, SwiGLU and the embedding table; the formulas are in reference/. */
#include "isa.h"
#include "vec.h"

#include <string.h>

void CPU(rope)(struct kern *k, struct kern_view x, size_t ld, struct kern_view cs, size_t rows,
               int seq, int heads, int dim, bool inverse)
{
    if (!kern_ok(k))
        return;
    float *X = host_f32(x);
    const float *CS = host_f32(cs);
    size_t d = (size_t)dim, half = d / 2, H = (size_t)heads;
    float sign = inverse ? -1.0F : 1.0F;
    size_t parts = (size_t)cpu_team(k, 2 * rows * H * d);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(rows, parts, part);
        for (size_t r = s.first; r < s.end; r++) {
            const float *cosine = CS + r % (size_t)seq * d, *sine = cosine + half;
            for (size_t i = 0; i < half; i += V) {
                v_mask m = v_first(half - i);
                vf c = v_load(m, cosine + i), sn = sign * v_load(m, sine + i);
                for (size_t h = 0; h < H; h++) {
                    float *v = X + r * ld + h * d + i;
                    vf a = v_load(m, v), b = v_load(m, v + half);
                    v_store(m, v, a * c - b * sn);
                    v_store(m, v + half, b * c + a * sn);
                }
            }
        }
    }
}

INLINE vf sigmoid(vf x)
{
    return 1.0F / (1.0F + v_exp(-x));
}

void CPU(swiglu_fwd)(struct kern *k, struct kern_view y, struct kern_view gu, size_t rows,
                     size_t ffn)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const float *GU = host_f32(gu);
    size_t parts = (size_t)cpu_team(k, 3 * rows * ffn);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(rows, parts, part);
        for (size_t r = s.first; r < s.end; r++) {
            const float *gate = GU + r * 2 * ffn, *up = gate + ffn;
            for (size_t c = 0; c < ffn; c += V) {
                v_mask m = v_first(ffn - c);
                vf g = v_load(m, gate + c);
                v_store(m, Y + r * ffn + c, g * sigmoid(g) * v_load(m, up + c));
            }
        }
    }
}

void CPU(swiglu_bwd)(struct kern *k, struct kern_view dgu, struct kern_view dy, struct kern_view gu,
                     size_t rows, size_t ffn)
{
    if (!kern_ok(k))
        return;
    float *DGU = host_f32(dgu);
    const float *DY = host_f32(dy), *GU = host_f32(gu);
    size_t parts = (size_t)cpu_team(k, 5 * rows * ffn);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(rows, parts, part);
        for (size_t r = s.first; r < s.end; r++) {
            /* A piece of gate and of up is read before either is written: dgu may be gu. */
            const float *gate = GU + r * 2 * ffn, *up = gate + ffn, *d = DY + r * ffn;
            float *dgate = DGU + r * 2 * ffn, *dup = dgate + ffn;
            for (size_t c = 0; c < ffn; c += V) {
                v_mask m = v_first(ffn - c);
                vf g = v_load(m, gate + c), u = v_load(m, up + c), dc = v_load(m, d + c);
                vf sig = sigmoid(g);
                v_store(m, dgate + c, dc * u * sig * (1.0F + g * (1.0F - sig)));
                v_store(m, dup + c, dc * g * sig);
            }
        }
    }
}

void CPU(embed_fwd)(struct kern *k, struct kern_view y, struct kern_view w, struct kern_view ids,
                    size_t rows, size_t dim)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const float *W = host_f32(w);
    const int32_t *id = host_i32(ids);
#pragma omp parallel for num_threads(cpu_team(k, 2 * rows * dim)) schedule(static)
    for (size_t r = 0; r < rows; r++)
        memcpy(Y + r * dim, W + (size_t)id[r] * dim, dim * sizeof *Y);
}

void CPU(embed_bwd)(struct kern *k, struct kern_view dw, struct kern_view dy, struct kern_view ids,
                    size_t rows, size_t dim)
{
    if (!kern_ok(k))
        return;
    float *DW = host_f32(dw);
    const float *DY = host_f32(dy);
    const int32_t *id = host_i32(ids);
    /* The same token may stand in many rows: a thread owns columns, so that every sum has one owner
     * and the order of the rows. Columns are cut at cache lines. */
    size_t lines = (dim + 15) / 16;
    size_t parts = (size_t)cpu_team(k, 3 * rows * dim);
    if (parts > lines)
        parts = lines;
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(lines, parts, part);
        size_t first = s.first * 16, end = s.end * 16 < dim ? s.end * 16 : dim;
        for (size_t r = 0; r < rows; r++) {
            float *to = DW + (size_t)id[r] * dim;
            const float *from = DY + r * dim;
            for (size_t c = first; c < end; c += V) {
                v_mask m = v_first(end - c);
                v_store(m, to + c, v_load(m, to + c) + v_load(m, from + c));
            }
        }
    }
}
