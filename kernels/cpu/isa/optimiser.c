/* optimiser.c: AdamW in one pass over memory; sum of squares.
 *
 * The moments of a parameter without gradient (the embedding of a token that does not occur) shrink
 * by beta each step until they are denormal, and would stay there: they are flushed to 0. */
#include "isa.h"
#include "vec.h"

void CPU(adamw)(struct kern *k, struct kern_view p, struct kern_view g, struct kern_view m,
                struct kern_view v, size_t n, const struct kern_adamw *a)
{
    if (!kern_ok(k))
        return;
    float *P = host_f32(p), *M = host_f32(m), *VV = host_f32(v);
    const float *G = host_f32(g);
    /* lr * (m / bias1) / (sqrt(v / bias2) + eps), with the constants drawn together */
    const float b1 = a->beta1, b2 = a->beta2, c1 = 1.0F - b1, c2 = 1.0F - b2, eps = a->eps;
    const float keep = 1.0F - a->lr * a->weight_decay, gs = a->grad_scale;
    const float rate = a->lr / a->bias1, inv2 = 1.0F / a->bias2;
    size_t parts = (size_t)cpu_team(k, 7 * n);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(n, parts, part);
        unsigned before = v_no_denormals();
        for (size_t i = s.first; i < s.end; i += V) {
            v_mask f = v_first(s.end - i);
            vf grad = v_load(f, G + i) * gs;
            vf first = b1 * v_load(f, M + i) + c1 * grad;
            vf second = b2 * v_load(f, VV + i) + c2 * (grad * grad);
            vf step = rate * first / (v_sqrt(second * inv2) + eps);
            v_store(f, M + i, first);
            v_store(f, VV + i, second);
            v_store(f, P + i, v_load(f, P + i) * keep - step);
        }
        v_denormals(before);
    }
}

/* The pieces depend on n alone: the result does not depend on the number of threads. (The order of
 * the vectorised sum is fixed when this is compiled.) */
static double sumsq_piece(const float *x, size_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

/* As sumsq. */
static double dot_piece(const float *x, const float *y, size_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

double CPU(dot)(struct kern *k, struct kern_view x, struct kern_view y, size_t n)
{
    if (!kern_ok(k))
        return 0;
    enum { PIECES = 64 };
    const float *X = host_f32(x), *Y = host_f32(y);
    double sums[PIECES], sum = 0;
#pragma omp parallel for num_threads(cpu_team(k, 2 * n)) schedule(static)
    for (size_t i = 0; i < PIECES; i++) {
        struct span s = cpu_span(n, PIECES, i);
        sums[i] = dot_piece(X + s.first, Y + s.first, s.end - s.first);
    }
    for (size_t i = 0; i < PIECES; i++)
        sum += sums[i];
    return sum;
}

double CPU(sumsq)(struct kern *k, struct kern_view x, size_t n)
{
    if (!kern_ok(k))
        return 0;
    enum { PIECES = 256 };
    const float *X = host_f32(x);
    double sums[PIECES], sum = 0;
#pragma omp parallel for num_threads(cpu_team(k, n)) schedule(static)
    for (size_t i = 0; i < PIECES; i++) {
        struct span s = cpu_span(n, PIECES, i);
        sums[i] = sumsq_piece(X + s.first, s.end - s.first);
    }
    for (size_t i = 0; i < PIECES; i++)
        sum += sums[i];
    return sum;
}
