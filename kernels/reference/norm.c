/* norm.c: RMSNorm. With n = x * rstd and dn = w * dy,
 *   dx += rstd * (dn - n * mean(dn * n)),  dw += sum over rows of dy * n. */
#include "../host/host.h"
#include "reference.h"

#include <math.h>

void reference_rmsnorm_fwd(struct kern *k, struct kern_view y, struct kern_view rstd,
                           struct kern_view x, struct kern_view w, size_t rows, size_t dim,
                           float eps)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y), *R = host_f32(rstd);
    const float *X = host_f32(x), *W = host_f32(w);
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < dim; c++)
            sum += (double)X[r * dim + c] * (double)X[r * dim + c];
        double inv = 1.0 / sqrt(sum / (double)dim + (double)eps);
        R[r] = (float)inv;
        for (size_t c = 0; c < dim; c++)
            Y[r * dim + c] = (float)((double)X[r * dim + c] * inv * (double)W[c]);
    }
}

void reference_rmsnorm_bwd(struct kern *k, struct kern_view dx, struct kern_view dw,
                           struct kern_view dy, struct kern_view x, struct kern_view w,
                           struct kern_view rstd, size_t rows, size_t dim)
{
    if (!kern_ok(k))
        return;
    float *DX = host_f32(dx), *DW = host_f32(dw);
    const float *DY = host_f32(dy), *X = host_f32(x), *W = host_f32(w), *R = host_f32(rstd);
    for (size_t r = 0; r < rows; r++) {
        double inv = (double)R[r], dot = 0;
        for (size_t c = 0; c < dim; c++)
            dot += (double)W[c] * (double)DY[r * dim + c] * (double)X[r * dim + c] * inv;
        dot /= (double)dim;
        for (size_t c = 0; c < dim; c++) {
            double n = (double)X[r * dim + c] * inv;
            double dn = (double)W[c] * (double)DY[r * dim + c];
            DX[r * dim + c] = (float)((double)DX[r * dim + c] + inv * (dn - n * dot));
        }
    }
    for (size_t c = 0; c < dim; c++) {
        double sum = 0;
        for (size_t r = 0; r < rows; r++)
            sum += (double)DY[r * dim + c] * (double)X[r * dim + c] * (double)R[r];
        DW[c] = (float)((double)DW[c] + sum);
    }
}
