/* optimiser.c: AdamW and the sum of squares that clipping needs. */
#include "../host/host.h"
#include "reference.h"

#include <math.h>

void reference_adamw(struct kern *k, struct kern_view p, struct kern_view g, struct kern_view m,
                     struct kern_view v, size_t n, const struct kern_adamw *a)
{
    if (!kern_ok(k))
        return;
    float *P = host_f32(p), *M = host_f32(m), *V = host_f32(v);
    const float *G = host_f32(g);
    double lr = (double)a->lr, b1 = (double)a->beta1, b2 = (double)a->beta2;
    for (size_t i = 0; i < n; i++) {
        double grad = (double)G[i] * (double)a->grad_scale;
        double mi = b1 * (double)M[i] + (1 - b1) * grad;
        double vi = b2 * (double)V[i] + (1 - b2) * grad * grad;
        double decayed = (double)P[i] * (1 - lr * (double)a->weight_decay);
        double step = lr * (mi / (double)a->bias1) / (sqrt(vi / (double)a->bias2) + (double)a->eps);
        M[i] = (float)mi;
        V[i] = (float)vi;
        P[i] = (float)(decayed - step);
    }
}

double reference_dot(struct kern *k, struct kern_view x, struct kern_view y, size_t n)
{
    if (!kern_ok(k))
        return 0;
    const float *X = host_f32(x), *Y = host_f32(y);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)X[i] * (double)Y[i];
    return sum;
}

double reference_sumsq(struct kern *k, struct kern_view x, size_t n)
{
    if (!kern_ok(k))
        return 0;
    const float *X = host_f32(x);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)X[i] * (double)X[i];
    return sum;
}
