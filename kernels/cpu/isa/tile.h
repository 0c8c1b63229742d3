/* tile.h: the register-tiled product under the attention kernels.
 *
 * strip():  C[MR, n] (+)= A[MR, kk] B[kk, n] for n a multiple of V. MR rows of A are broadcast, B is
 * read as vectors along its rows, MR x NV vectors of sums stay in registers: 24 of the 32 of
 * AVX-512, 12 of the 16 of AVX2 and SSE. A has any strides, so a transposed A costs nothing.
 * Everything attention needs is such a product, once K and V are also at hand transposed: pack().
 */
#ifndef DHA_KERNELS_CPU_TILE_H
#define DHA_KERNELS_CPU_TILE_H

#include "vec.h"

#if defined(__AVX512F__)
enum { MR = 8 };
#else
enum { MR = 4 };
#endif
enum { NV = 3, NB = NV * V }; /* NB: columns of one panel of pack() */

INLINE size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

INLINE void tile(float *c, size_t ldc, const float *a, size_t a_row, size_t a_k, const float *b,
                 size_t ldb, size_t kk, const size_t nv, bool add)
{
    vf sum[MR][NV];
#pragma GCC unroll 8
    for (size_t r = 0; r < MR; r++)
#pragma GCC unroll 3
        for (size_t j = 0; j < nv; j++)
            sum[r][j] = add ? v_read(c + r * ldc + j * V) : v_zero();
    for (size_t p = 0; p < kk; p++) {
        vf row[NV];
#pragma GCC unroll 3
        for (size_t j = 0; j < nv; j++)
            row[j] = v_read(b + p * ldb + j * V);
#pragma GCC unroll 8
        for (size_t r = 0; r < MR; r++) {
            vf x = v_set(a[r * a_row + p * a_k]);
#pragma GCC unroll 3
            for (size_t j = 0; j < nv; j++)
                sum[r][j] += x * row[j];
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < MR; r++)
#pragma GCC unroll 3
        for (size_t j = 0; j < nv; j++)
            v_write(c + r * ldc + j * V, sum[r][j]);
}

INLINE void tile_any(float *c, size_t ldc, const float *a, size_t a_row, size_t a_k, const float *b,
                     size_t ldb, size_t kk, size_t nv, bool add)
{
    if (nv == 3)
        tile(c, ldc, a, a_row, a_k, b, ldb, kk, 3, add);
    else if (nv == 2)
        tile(c, ldc, a, a_row, a_k, b, ldb, kk, 2, add);
    else
        tile(c, ldc, a, a_row, a_k, b, ldb, kk, 1, add);
}

INLINE void strip(float *c, size_t ldc, const float *a, size_t a_row, size_t a_k, const float *b,
                  size_t ldb, size_t n, size_t kk, bool add)
{
    for (size_t left = n / V; left > 0;) {
        size_t nv = left == NV + 1 ? 2 : left < NV ? left : NV; /* four are 2 + 2, not 3 + 1 */
        tile_any(c, ldc, a, a_row, a_k, b, ldb, kk, nv, add);
        c += nv * V;
        b += nv * V;
        left -= nv;
    }
}

/* C[MR, n] = A[MR, kk] B where B is packed: panel j holds columns [j * NB, (j + 1) * NB). */
INLINE void strip_packed(float *c, size_t ldc, const float *a, size_t a_row, const float *panels,
                         size_t n, size_t kk)
{
    for (size_t left = n / V; left > 0;) {
        size_t nv = left < NV ? left : NV;
        tile_any(c, ldc, a, a_row, 1, panels, NB, kk, nv, false);
        c += NB;
        panels += NB * kk;
        left -= nv;
    }
}

/* to [cols, ld_to] = x^T for x [rows, cols] */
static inline void transpose(float *to, size_t ld_to, const float *x, size_t ld, size_t rows,
                             size_t cols)
{
    size_t i = 0;
#ifdef __SSE2__
    size_t cols4 = cols / 4 * 4;
    for (; i + 4 <= rows; i += 4) {
        for (size_t c = 0; c < cols4; c += 4) {
            __m128 r0 = _mm_loadu_ps(x + i * ld + c), r1 = _mm_loadu_ps(x + (i + 1) * ld + c);
            __m128 r2 = _mm_loadu_ps(x + (i + 2) * ld + c), r3 = _mm_loadu_ps(x + (i + 3) * ld + c);
            _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
            _mm_storeu_ps(to + c * ld_to + i, r0);
            _mm_storeu_ps(to + (c + 1) * ld_to + i, r1);
            _mm_storeu_ps(to + (c + 2) * ld_to + i, r2);
            _mm_storeu_ps(to + (c + 3) * ld_to + i, r3);
        }
        for (size_t c = cols4; c < cols; c++)
            for (size_t r = i; r < i + 4; r++)
                to[c * ld_to + r] = x[r * ld + c];
    }
#endif
    for (; i < rows; i++)
        for (size_t c = 0; c < cols; c++)
            to[c * ld_to + i] = x[i * ld + c];
}

/* panels of x^T for x [rows, cols]: panel j, entry (c, i) = x[j * NB + i, c], zero past the last row.
 * Takes round_up(rows, NB) * cols floats. */
static inline void pack(float *panels, const float *x, size_t ld, size_t rows, size_t cols)
{
    for (size_t j = 0; j < rows; j += NB, panels += NB * cols) {
        size_t n = rows - j < NB ? rows - j : NB;
        transpose(panels, NB, x + j * ld, ld, n, cols);
        for (size_t c = 0; n < NB && c < cols; c++)
            memset(panels + c * NB + n, 0, (NB - n) * sizeof *panels);
    }
}

/* to [rows_to, wide] = f * x [rows, cols], zero elsewhere. wide is a multiple of V. */
static inline void copy_padded(float *to, size_t wide, size_t rows_to, const float *x, size_t ld,
                               size_t rows, size_t cols, float f)
{
    for (size_t r = 0; r < rows_to; r++)
        for (size_t c = 0; c < wide; c += V) {
            vf row = v_zero();
            if (r < rows && c < cols)
                row = f * v_load(v_first(cols - c), x + r * ld + c);
            v_write(to + r * wide + c, row);
        }
}

#endif
