/* linear.c: zeroing, vector sums and biases. */
#include "isa.h"
#include "vec.h"

#include <string.h>

void CPU(zero)(struct kern *k, struct kern_view dst, size_t n)
{
    if (!kern_ok(k))
        return;
    if (cpu_team(k, n) == 1 || dst.buf->type == KERN_BF16) {
        host_zero(k, dst, n);
        return;
    }
    float *to = host_f32(dst); /* or i32, whose zero is the same */
    size_t parts = (size_t)cpu_threads(k);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(n, parts, part);
        memset(to + s.first, 0, (s.end - s.first) * sizeof *to);
    }
}

void CPU(axpy)(struct kern *k, struct kern_view y, float a, struct kern_view x, size_t n)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const float *X = host_f32(x);
    size_t parts = (size_t)cpu_team(k, 2 * n);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(n, parts, part);
        for (size_t i = s.first; i < s.end; i += V) {
            v_mask m = v_first(s.end - i);
            v_store(m, Y + i, v_load(m, Y + i) + a * v_load(m, X + i));
        }
    }
}

void CPU(scale)(struct kern *k, struct kern_view y, float a, size_t n)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    size_t parts = (size_t)cpu_team(k, n);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(n, parts, part);
        for (size_t i = s.first; i < s.end; i += V) {
            v_mask m = v_first(s.end - i);
            v_store(m, Y + i, a * v_load(m, Y + i));
        }
    }
}

void CPU(bias_add)(struct kern *k, struct kern_view y, size_t ld, struct kern_view b, size_t rows,
                   size_t cols)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const float *B = host_f32(b);
    size_t parts = (size_t)cpu_team(k, rows * cols);
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(rows, parts, part);
        for (size_t r = s.first; r < s.end; r++)
            for (size_t c = 0; c < cols; c += V) {
                v_mask m = v_first(cols - c);
                v_store(m, Y + r * ld + c, v_load(m, Y + r * ld + c) + v_load(m, B + c));
            }
    }
}

void CPU(bias_grad)(struct kern *k, struct kern_view db, struct kern_view dy, size_t ld,
                    size_t rows, size_t cols)
{
    if (!kern_ok(k))
        return;
    float *DB = host_f32(db);
    const float *DY = host_f32(dy);
    /* A thread owns columns, four vectors at a time: each sum has one owner and one order, whatever
     * the number of threads. */
    enum { WIDE = 4 * V };
    size_t blocks = (cols + WIDE - 1) / WIDE;
#pragma omp parallel for num_threads(cpu_team(k, rows *cols)) schedule(static)
    for (size_t block = 0; block < blocks; block++) {
        size_t c = block * WIDE;
        v_mask m[4];
        vf sum[4];
        for (size_t i = 0; i < 4; i++) {
            m[i] = v_first(c + i * V < cols ? cols - c - i * V : 0);
            sum[i] = v_zero();
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < 4; i++)
                sum[i] += v_load(m[i], DY + r * ld + c + i * V);
        for (size_t i = 0; i < 4; i++)
            v_store(m[i], DB + c + i * V, v_load(m[i], DB + c + i * V) + sum[i]);
    }
}
