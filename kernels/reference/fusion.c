/* fusion.c: the fusion operator on weights and its penalty (docs/METHOD.md, DHA 4.2-4.3). */
#include "../host/host.h"
#include "reference.h"

#include <math.h>

/* Entry (h, j, c) of omega [heads, heads, dim]. */
static size_t at(int h, int j, int c, int heads, int dim)
{
    return ((size_t)h * (size_t)heads + (size_t)j) * (size_t)dim + (size_t)c;
}

void reference_fusion_fwd(struct kern *k, struct kern_view out, struct kern_view omega,
                          struct kern_view w, const struct kern_groups *g, int heads, int dim,
                          size_t cols)
{
    if (!kern_ok(k))
        return;
    float *OUT = host_f32(out);
    const float *OM = host_f32(omega), *W = host_f32(w);
    for (int h = 0; h < heads; h++)
        for (int c = 0; c < dim; c++)
            for (size_t x = 0; x < cols; x++) {
                double sum = 0;
                for (int j = 0; j < heads; j++)
                    if (g->group_of[j] == g->group_of[h])
                        sum += (double)OM[at(h, j, c, heads, dim)] *
                               (double)W[(size_t)(j * dim + c) * cols + x];
                OUT[(size_t)(h * dim + c) * cols + x] = (float)sum;
            }
}

void reference_fusion_bwd(struct kern *k, struct kern_view dw, struct kern_view domega,
                          struct kern_view dout, struct kern_view omega, struct kern_view w,
                          const struct kern_groups *g, int heads, int dim, size_t cols)
{
    if (!kern_ok(k))
        return;
    float *DW = host_f32(dw), *DOM = host_f32(domega);
    const float *DOUT = host_f32(dout), *OM = host_f32(omega), *W = host_f32(w);
    for (int j = 0; j < heads; j++)
        for (int c = 0; c < dim; c++) {
            for (size_t x = 0; x < cols; x++) {
                double sum = 0;
                for (int h = 0; h < heads; h++)
                    if (g->group_of[j] == g->group_of[h])
                        sum += (double)OM[at(h, j, c, heads, dim)] *
                               (double)DOUT[(size_t)(h * dim + c) * cols + x];
                float *d = &DW[(size_t)(j * dim + c) * cols + x];
                *d = (float)((double)*d + sum);
            }
            for (int h = 0; h < heads; h++) {
                if (g->group_of[j] != g->group_of[h])
                    continue;
                double sum = 0;
                for (size_t x = 0; x < cols; x++)
                    sum += (double)DOUT[(size_t)(h * dim + c) * cols + x] *
                           (double)W[(size_t)(j * dim + c) * cols + x];
                float *d = &DOM[at(h, j, c, heads, dim)];
                *d = (float)((double)*d + sum);
            }
        }
}

void reference_fusion_penalty(struct kern *k, struct kern_view domega, struct kern_view mse,
                              struct kern_view omega, const struct kern_groups *g, int heads,
                              int dim, float coeff, float t)
{
    if (!kern_ok(k))
        return;
    float *DOM = host_f32(domega), *MSE = host_f32(mse);
    const float *OM = host_f32(omega);
    for (int i = 0; i < g->n; i++) {
        const int *head = g->member + g->start[i];
        int s = g->start[i + 1] - g->start[i];
        MSE[i] = 0;
        if (s < 2)
            continue;
        double pairs = s * (s - 1) / 2, per = 1.0 / (pairs * s * dim), sum = 0;
        for (int a = 0; a < s; a++)
            for (int b = a + 1; b < s; b++)
                for (int j = 0; j < s; j++)
                    for (int c = 0; c < dim; c++) {
                        double d = (double)OM[at(head[a], head[j], c, heads, dim)] -
                                   (double)OM[at(head[b], head[j], c, heads, dim)];
                        sum += d * d;
                    }
        MSE[i] = (float)(sum * per);
        if (!(MSE[i] > t))
            continue;
        for (int a = 0; a < s; a++)
            for (int j = 0; j < s; j++)
                for (int c = 0; c < dim; c++) {
                    size_t here = at(head[a], head[j], c, heads, dim);
                    double d = 0;
                    for (int b = 0; b < s; b++)
                        d += (double)OM[here] - (double)OM[at(head[b], head[j], c, heads, dim)];
                    DOM[here] = (float)((double)DOM[here] + (double)coeff * 2 * per * d);
                }
    }
}

/* Mean of in[h,j,.] over the dims that share a value with c. */
static double shared(const float *in, int h, int j, int c, int heads, int dim, int share)
{
    int each = dim / share;
    double sum = 0;
    for (int i = 0; i < share; i++)
        sum += (double)in[at(h, j, c % each + i * each, heads, dim)];
    return sum / share;
}

void reference_fusion_tie(struct kern *k, struct kern_view out, struct kern_view in,
                          const struct kern_groups *g, int heads, int dim, int share, float keep,
                          const float *pull)
{
    if (!kern_ok(k))
        return;
    float *OUT = host_f32(out);
    const float *IN = host_f32(in);
    for (int i = 0; i < g->n; i++) {
        const int *head = g->member + g->start[i];
        int s = g->start[i + 1] - g->start[i];
        for (int a = 0; a < s; a++)
            for (int j = 0; j < s; j++)
                for (int c = 0; c < dim; c++) {
                    double mean = 0;
                    for (int b = 0; b < s; b++)
                        mean += shared(IN, head[b], head[j], c, heads, dim, share) / s;
                    double own = shared(IN, head[a], head[j], c, heads, dim, share);
                    float *to = &OUT[at(head[a], head[j], c, heads, dim)];
                    *to = (float)((double)*to + (double)keep * own + (double)pull[i] * mean);
                }
    }
}
