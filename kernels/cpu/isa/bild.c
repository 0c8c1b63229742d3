/* bild.c: distillation of logit differences; the formulas are in reference/bild.c.
 *
 * A row's cost is finding the largest logits: one pass over the row, a vector at a time, that looks closer only where
 * something beats the smallest of those kept so far, which after the first blocks is rare. The rest is a few hundred exps a
 * row. A row belongs to one thread. */
#include "isa.h"
#include "vec.h"

#include <math.h>

struct kept {
    int n;
    float z[KERN_BILD_TOP];
    int32_t at[KERN_BILD_TOP];
};

/* Keeps the order falling, and of equal ones the earlier first. */
static void keep(struct kept *t, int top, float z, int32_t at)
{
    int i = t->n < top ? t->n++ : top - 1;
    for (; i > 0 && t->z[i - 1] < z; i--) {
        t->z[i] = t->z[i - 1];
        t->at[i] = t->at[i - 1];
    }
    t->z[i] = z;
    t->at[i] = at;
}

static void largest(const float *z, size_t vocab, int top, struct kept *t)
{
    t->n = 0;
    size_t v = 0;
    for (; v < (size_t)top; v++)
        keep(t, top, z[v], (int32_t)v);
    for (; v + V <= vocab; v += V) {
        if (!(v_top(v_read(z + v)) > t->z[top - 1]))
            continue;
        for (size_t i = v; i < v + V; i++)
            if (z[i] > t->z[top - 1])
                keep(t, top, z[i], (int32_t)i);
    }
    for (; v < vocab; v++)
        if (z[v] > t->z[top - 1])
            keep(t, top, z[v], (int32_t)v);
}

enum { PAIRS = KERN_BILD_TOP * (KERN_BILD_TOP - 1) / 2 };

/* Differences over temperature and their log-sum-exp. */
static double differences(const float *z, const struct kept *t, float temperature, float *d)
{
    int n = 0;
    float max = -INFINITY;
    double sum = 0;
    for (int i = 0; i < t->n; i++)
        for (int j = i + 1; j < t->n; j++, n++) {
            d[n] = (z[t->at[i]] - z[t->at[j]]) / temperature;
            max = d[n] > max ? d[n] : max;
        }
    for (int i = 0; i < n; i++)
        sum += exp((double)(d[i] - max));
    return (double)max + log(sum);
}

static double led(const float *z, const float *zt, const struct kept *t, float temperature,
                  float scale, float *value)
{
    float p[PAIRS], q[PAIRS];
    double lp = differences(z, t, temperature, p), lq = differences(zt, t, temperature, q), sum = 0;
    double by[KERN_BILD_TOP] = {0};
    int n = 0;
    for (int i = 0; i < t->n; i++)
        for (int j = i + 1; j < t->n; j++, n++) {
            double log_p = (double)p[n] - lp, log_q = (double)q[n] - lq, at_q = exp(log_q);
            double g = exp(log_p) - at_q;
            sum += at_q * (log_q - log_p);
            by[i] += g;
            by[j] -= g;
        }
    for (int i = 0; i < t->n; i++)
        value[i] = (float)((double)scale * by[i] / (double)temperature);
    return sum;
}

void CPU(bild)(struct kern *k, struct kern_view logits, struct kern_view teacher,
               struct kern_view weights, size_t rows, size_t vocab, int top, float temperature,
               float scale, struct kern_view loss, struct kern_view index, struct kern_view value)
{
    if (!kern_ok(k))
        return;
    const float *Z = host_f32(logits), *ZT = host_f32(teacher), *W = host_f32(weights);
    float *L = host_f32(loss), *VALUE = host_f32(value);
    int32_t *INDEX = host_i32(index);
    size_t parts = (size_t)cpu_team(k, 2 * rows * vocab), n = (size_t)top;
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(rows, parts, part);
        for (size_t r = s.first; r < s.end; r++) {
            const float *z = Z + r * vocab, *zt = ZT + r * vocab;
            double sum = 0;
            for (size_t side = 0; side < 2; side++) {
                float *by = VALUE + (2 * r + side) * n;
                struct kept t = {.n = 0};
                if (W[r] != 0) {
                    largest(side ? z : zt, vocab, top, &t);
                    sum += led(z, zt, &t, temperature, scale * W[r], by);
                }
                for (size_t i = 0; i < n; i++)
                    INDEX[(2 * r + side) * n + i] = t.n ? t.at[i] : 0;
                for (size_t i = 0; t.n == 0 && i < n; i++)
                    by[i] = 0;
            }
            L[r] = (float)sum;
        }
    }
}

void CPU(scatter_add)(struct kern *k, struct kern_view y, struct kern_view index,
                      struct kern_view value, size_t rows, size_t cols, size_t per)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const int32_t *INDEX = host_i32(index);
    const float *VALUE = host_f32(value);
    size_t parts = (size_t)cpu_team(k, rows * per);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(rows, parts, part);
        for (size_t r = s.first; r < s.end; r++)
            for (size_t i = 0; i < per; i++)
                Y[r * cols + (size_t)INDEX[r * per + i]] += VALUE[r * per + i];
    }
}
