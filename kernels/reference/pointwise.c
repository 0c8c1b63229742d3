/* pointwise.c: SwiGLU and the embedding table.
 *
 * silu(g) = g * sig(g), sig(g) = 1/(1 + exp(-g)); d silu/dg = sig(g) * (1 + g * (1 - sig(g))). */
#include "../host/host.h"
#include "reference.h"

#include <math.h>

void reference_swiglu_fwd(struct kern *k, struct kern_view y, struct kern_view gu, size_t rows,
                          size_t ffn)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const float *GU = host_f32(gu);
    for (size_t r = 0; r < rows; r++) {
        const float *gate = GU + r * 2 * ffn, *up = gate + ffn;
        for (size_t c = 0; c < ffn; c++) {
            double g = (double)gate[c];
            Y[r * ffn + c] = (float)(g / (1.0 + exp(-g)) * (double)up[c]);
        }
    }
}

void reference_swiglu_bwd(struct kern *k, struct kern_view dgu, struct kern_view dy,
                          struct kern_view gu, size_t rows, size_t ffn)
{
    if (!kern_ok(k))
        return;
    float *DGU = host_f32(dgu);
    const float *DY = host_f32(dy), *GU = host_f32(gu);
    for (size_t r = 0; r < rows; r++) {
        size_t at = r * 2 * ffn;
        for (size_t c = 0; c < ffn; c++) {
            /* Both are read before either is written: dgu may be gu. */
            double g = (double)GU[at + c], u = (double)GU[at + ffn + c];
            double d = (double)DY[r * ffn + c], sig = 1.0 / (1.0 + exp(-g));
            DGU[at + c] = (float)(d * u * sig * (1.0 + g * (1.0 - sig)));
            DGU[at + ffn + c] = (float)(d * g * sig);
        }
    }
}

void reference_embed_fwd(struct kern *k, struct kern_view y, struct kern_view w,
                         struct kern_view ids, size_t rows, size_t dim)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const float *W = host_f32(w);
    const int32_t *id = host_i32(ids);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < dim; c++)
            Y[r * dim + c] = W[(size_t)id[r] * dim + c];
}

void reference_embed_bwd(struct kern *k, struct kern_view dw, struct kern_view dy,
                         struct kern_view ids, size_t rows, size_t dim)
{
    if (!kern_ok(k))
        return;
    float *DW = host_f32(dw);
    const float *DY = host_f32(dy);
    const int32_t *id = host_i32(ids);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < dim; c++)
            DW[(size_t)id[r] * dim + c] += DY[r * dim + c];
}
