/* fusion.c: the fusion operator on weights; the formulas are in reference/fusion.c.
 *
 * A thread owns head dims c of all heads: then every row of w, out and dw, and every entry of omega,
 * that it touches is its own, and each sum has one owner and the order of the heads. */
#include "isa.h"
#include "vec.h"

#include <string.h>

/* Entry (h, j, c) of omega [heads, heads, dim]. */
static inline size_t at(int h, int j, size_t c, int heads, int dim)
{
    return ((size_t)h * (size_t)heads + (size_t)j) * (size_t)dim + c;
}

/* A group's heads. */
struct members {
    const int *head;
    int n;
};
static inline struct members members(const struct kern_groups *g, int i)
{
    return (struct members){g->member + g->start[i], g->start[i + 1] - g->start[i]};
}

/* Floats touched: each output row reads every row of its group. */
static size_t work(const struct kern_groups *g, int dim, size_t cols)
{
    size_t pairs = 0;
    for (int i = 0; i < g->n; i++)
        pairs += (size_t)(members(g, i).n * members(g, i).n);
    return pairs * (size_t)dim * cols;
}

void CPU(fusion_fwd)(struct kern *k, struct kern_view out, struct kern_view omega,
                     struct kern_view w, const struct kern_groups *g, int heads, int dim,
                     size_t cols)
{
    if (!kern_ok(k))
        return;
    float *OUT = host_f32(out);
    const float *OM = host_f32(omega), *W = host_f32(w);
    size_t d = (size_t)dim;
#pragma omp parallel for num_threads(cpu_team(k, work(g, dim, cols))) schedule(static)
    for (size_t c = 0; c < d; c++)
        for (int i = 0; i < g->n; i++) {
            struct members mem = members(g, i);
            for (int a = 0; a < mem.n; a++) {
                int h = mem.head[a];
                float *to = OUT + ((size_t)h * d + c) * cols;
                for (size_t x = 0; x < cols; x += V) {
                    v_mask m = v_first(cols - x);
                    vf sum = v_zero();
                    for (int b = 0; b < mem.n; b++) {
                        int j = mem.head[b];
                        sum += OM[at(h, j, c, heads, dim)] *
                               v_load(m, W + ((size_t)j * d + c) * cols + x);
                    }
                    v_store(m, to + x, sum);
                }
            }
        }
}

static float dot(const float *a, const float *b, size_t n)
{
    vf s = v_zero(), t = v_zero();
    size_t i = 0;
    for (; i + 2 * V <= n; i += 2 * V) {
        s += v_read(a + i) * v_read(b + i);
        t += v_read(a + i + V) * v_read(b + i + V);
    }
    for (; i < n; i += V) {
        v_mask m = v_first(n - i);
        s += v_load(m, a + i) * v_load(m, b + i);
    }
    return v_sum(s + t);
}

void CPU(fusion_bwd)(struct kern *k, struct kern_view dw, struct kern_view domega,
                     struct kern_view dout, struct kern_view omega, struct kern_view w,
                     const struct kern_groups *g, int heads, int dim, size_t cols)
{
    if (!kern_ok(k))
        return;
    float *DW = host_f32(dw), *DOM = host_f32(domega);
    const float *DOUT = host_f32(dout), *OM = host_f32(omega), *W = host_f32(w);
    size_t d = (size_t)dim;
#pragma omp parallel for num_threads(cpu_team(k, 2 * work(g, dim, cols))) schedule(static)
    for (size_t c = 0; c < d; c++)
        for (int i = 0; i < g->n; i++) {
            struct members mem = members(g, i);
            for (int b = 0; b < mem.n; b++) {
                int j = mem.head[b];
                float *to = DW + ((size_t)j * d + c) * cols;
                for (size_t x = 0; x < cols; x += V) {
                    v_mask m = v_first(cols - x);
                    vf sum = v_load(m, to + x);
                    for (int a = 0; a < mem.n; a++) {
                        int h = mem.head[a];
                        sum += OM[at(h, j, c, heads, dim)] *
                               v_load(m, DOUT + ((size_t)h * d + c) * cols + x);
                    }
                    v_store(m, to + x, sum);
                }
                for (int a = 0; a < mem.n; a++) {
                    int h = mem.head[a];
                    DOM[at(h, j, c, heads, dim)] += dot(DOUT + ((size_t)h * d + c) * cols,
                                                        W + ((size_t)j * d + c) * cols, cols);
                }
            }
        }
}

/* The penalty of one group, by the identity
 *   sum over pairs of |w_h - w_h'|^2 = s * sum over h of |w_h - mean|^2
 * whose gradient in w_h is 2 s (w_h - mean): O(s) a number instead of O(s^2). */
static float penalty(float *DOM, const float *OM, struct members mem, int heads, int dim,
                     float coeff, float t)
{
    double pairs = mem.n * (mem.n - 1) / 2, sum = 0;
    for (int b = 0; b < mem.n; b++)
        for (size_t c = 0; c < (size_t)dim; c++) {
            double mean = 0;
            for (int a = 0; a < mem.n; a++)
                mean += (double)OM[at(mem.head[a], mem.head[b], c, heads, dim)];
            mean /= mem.n;
            for (int a = 0; a < mem.n; a++) {
                double e = (double)OM[at(mem.head[a], mem.head[b], c, heads, dim)] - mean;
                sum += e * e;
            }
        }
    float mse = (float)(sum / (pairs * dim));
    if (!(mse > t))
        return mse;
    float f = (float)((double)coeff * 2.0 / (pairs * dim));
    for (int b = 0; b < mem.n; b++)
        for (size_t c = 0; c < (size_t)dim; c++) {
            double mean = 0;
            for (int a = 0; a < mem.n; a++)
                mean += (double)OM[at(mem.head[a], mem.head[b], c, heads, dim)];
            mean /= mem.n;
            for (int a = 0; a < mem.n; a++) {
                size_t e = at(mem.head[a], mem.head[b], c, heads, dim);
                DOM[e] += f * (float)((double)OM[e] - mean);
            }
        }
    return mse;
}

void CPU(fusion_penalty)(struct kern *k, struct kern_view domega, struct kern_view mse,
                         struct kern_view omega, const struct kern_groups *g, int heads, int dim,
                         float coeff, float t)
{
    if (!kern_ok(k))
        return;
    float *DOM = host_f32(domega), *MSE = host_f32(mse);
    const float *OM = host_f32(omega);
#pragma omp parallel for num_threads(cpu_team(k, 4 * work(g, dim, 1))) schedule(static)
    for (int i = 0; i < g->n; i++) {
        struct members mem = members(g, i);
        MSE[i] = mem.n < 2 ? 0 : penalty(DOM, OM, mem, heads, dim, coeff, t);
    }
}

/* row[c] = mean over the dims that share a value with c, and the same for its mates. */
static void share_dims(const float *in, double *row, size_t dim, size_t share)
{
    size_t each = dim / share;
    for (size_t c = 0; c < each; c++) {
        double sum = 0;
        for (size_t i = 0; i < share; i++)
            sum += (double)in[c + i * each];
        for (size_t i = 0; i < share; i++)
            row[c + i * each] = sum / (double)share;
    }
}

void CPU(fusion_tie)(struct kern *k, struct kern_view out, struct kern_view in,
                     const struct kern_groups *g, int heads, int dim, int share, float keep,
                     const float *pull)
{
    if (!kern_ok(k))
        return;
    float *OUT = host_f32(out);
    const float *IN = host_f32(in);
    size_t d = (size_t)dim;
    double *row = cpu_scratch(k, 2 * d * sizeof *row), *mean = row + d;
    if (!row)
        return;
    /* a few passes over some hundred KB: not worth a team of threads */
    for (int i = 0; i < g->n; i++) {
        struct members mem = members(g, i);
        for (int b = 0; b < mem.n; b++) {
            int j = mem.head[b];
            memset(mean, 0, d * sizeof *mean);
            for (int a = 0; a < mem.n; a++) {
                share_dims(IN + at(mem.head[a], j, 0, heads, dim), row, d, (size_t)share);
                for (size_t c = 0; c < d; c++)
                    mean[c] += row[c];
            }
            double f = (double)pull[i] / mem.n;
            for (int a = 0; a < mem.n; a++) {
                size_t to = at(mem.head[a], j, 0, heads, dim);
                share_dims(IN + to, row, d, (size_t)share);
                for (size_t c = 0; c < d; c++)
                    OUT[to + c] = (float)((double)OUT[to + c] + (double)keep * row[c] +
                                          f * mean[c]);
            }
        }
    }
}
