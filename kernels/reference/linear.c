/* linear.c: matrix product, vector sums, biases. */
#include "../host/host.h"
#include "reference.h"

void reference_gemm(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
                    struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
                    struct kern_view c, size_t ldc)
{
    if (!kern_ok(k))
        return;
    const float *A = host_f32(a), *B = host_f32(b);
    float *C = host_f32(c);
    /* op(A)[i,p] = A[i * a_row + p * a_col], and so for B. */
    size_t a_row = ta ? 1 : lda, a_col = ta ? lda : 1;
    size_t b_row = tb ? 1 : ldb, b_col = tb ? ldb : 1;
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t p = 0; p < kk; p++)
                sum += (double)A[i * a_row + p * a_col] * (double)B[p * b_row + j * b_col];
            double old = beta == 0 ? 0 : (double)beta * (double)C[i * ldc + j];
            C[i * ldc + j] = (float)((double)alpha * sum + old);
        }
    }
}

void reference_axpy(struct kern *k, struct kern_view y, float a, struct kern_view x, size_t n)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const float *X = host_f32(x);
    for (size_t i = 0; i < n; i++)
        Y[i] = (float)((double)Y[i] + (double)a * (double)X[i]);
}

void reference_scale(struct kern *k, struct kern_view y, float a, size_t n)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    for (size_t i = 0; i < n; i++)
        Y[i] *= a;
}

void reference_bias_add(struct kern *k, struct kern_view y, size_t ld, struct kern_view b,
                        size_t rows, size_t cols)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const float *B = host_f32(b);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            Y[r * ld + c] += B[c];
}

void reference_bias_grad(struct kern *k, struct kern_view db, struct kern_view dy, size_t ld,
                         size_t rows, size_t cols)
{
    if (!kern_ok(k))
        return;
    float *DB = host_f32(db);
    const float *DY = host_f32(dy);
    for (size_t c = 0; c < cols; c++) {
        double sum = 0;
        for (size_t r = 0; r < rows; r++)
            sum += (double)DY[r * ld + c];
        DB[c] = (float)((double)DB[c] + sum);
    }
}
