/* gemm_tn.c: C[m,n] (+)= A^T B, the product of every weight gradient, with both operands stored k
 * rows high.
 *
 * This is the one product that is ours: oneDNN 2.6.3 is at 97 % of the peak where A is not
 * transposed, but slower here where A has many columns, and neither operand needs a transposition to
 * be packed. Measured on one Sapphire Rapids core, GFLOP/s, peak 200 (with AVX2 100):
 *
 *     m x k x n           AVX-512: sgemm matmul  ours      AVX2: sgemm matmul  ours
 *   32000 x 256 x 288              131    148    158             90     86     98
 *    1536 x 1024 x 288             139    155    160             94     95     98
 *     864 x 1024 x 288             171    162    168            100    100     98
 *     288 x 1024 x 768             172    162    170             98     98     96
 *     288 x 1024 x 288             180    170    173            112    111    100
 *
 * (matmul: oneDNN's matmul primitive, made once and kept; sgemm is faster than it everywhere else.)
 *
 * The blocking is the usual one: KC rows of B, NC columns wide, are packed in panels that stay in the
 * second-level cache; a thread packs MC columns of A and runs over the panels with a tile of MR x NB
 * sums in registers. The tile of C is prefetched before the sum over k and touched after it. A tile
 * has one owner and k one order: the bits do not depend on the number of threads.
 */
#include "isa.h"
#include "tile.h"

#include <omp.h>
#include <string.h>

enum { KC = 256, NC = 16 * NB, MC = 48, AHEAD = 8 /* rows of B to prefetch */ };

/* sum[MR][nv] over kk of a[p][MR] b[p][NB] into C, or added to it. */
INLINE void tile_tn(float *c, size_t ldc, const float *a, const float *b, size_t kk, bool add)
{
    vf sum[MR][NV];
#pragma GCC unroll 8
    for (size_t r = 0; r < MR; r++)
#pragma GCC unroll 3
        for (size_t j = 0; j < NV; j++) {
            sum[r][j] = v_zero();
            __builtin_prefetch(c + r * ldc + j * V, 1);
        }
    for (size_t p = 0; p < kk; p++) {
        vf row[NV];
#pragma GCC unroll 3
        for (size_t j = 0; j < NV; j++) {
            row[j] = v_read(b + p * NB + j * V);
            __builtin_prefetch(b + (p + AHEAD) * NB + j * V);
        }
#pragma GCC unroll 8
        for (size_t r = 0; r < MR; r++) {
            vf x = v_set(a[p * MR + r]);
#pragma GCC unroll 3
            for (size_t j = 0; j < NV; j++)
                sum[r][j] += x * row[j];
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < MR; r++)
#pragma GCC unroll 3
        for (size_t j = 0; j < NV; j++) {
            float *to = c + r * ldc + j * V;
            if (add)
                sum[r][j] += v_read(to);
            v_write(to, sum[r][j]);
        }
}

struct block {
    size_t i, rows; /* of C */
    size_t j, cols;
    size_t p, kk; /* of the sum */
};

/* Panel x of B's block: [kk][NB], zero past the last column. */
static void pack_b(float *to, const float *B, size_t ldb, const struct block *b, size_t x)
{
    size_t col = x * NB;
    for (size_t p = 0; p < b->kk; p++)
        for (size_t c = 0; c < NB; c += V) {
            v_mask m = v_first(col + c < b->cols ? b->cols - col - c : 0);
            v_write(to + p * NB + c, v_load(m, B + (b->p + p) * ldb + b->j + col + c));
        }
}

/* A's block in tiles: tile t is [kk][MR], zero past the last column of A. */
static void pack_a(float *to, const float *A, size_t lda, const struct block *b)
{
    size_t whole = b->rows / MR * MR;
    for (size_t p = 0; p < b->kk; p++) {
        const float *from = A + (b->p + p) * lda + b->i;
        float *row = to + p * MR; /* of the first tile */
        for (size_t r = 0; r < whole; r += MR)
            memcpy(row + r * b->kk, from + r, MR * sizeof *row);
        for (size_t r = whole; r < round_up(b->rows, MR); r++)
            row[whole * b->kk + r - whole] = r < b->rows ? from[r] : 0.0F;
    }
}

/* A tile that sticks out over the edge of C goes through a buffer. */
static void edge_tile(float *C, size_t ldc, const float *a, const float *b, size_t kk, size_t rows,
                      size_t cols, bool add)
{
    float whole[MR * NB];
    tile_tn(whole, NB, a, b, kk, false);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            C[r * ldc + c] = whole[r * NB + c] + (add ? C[r * ldc + c] : 0.0F);
}

static void multiply(float *C, size_t ldc, const float *a, const float *b, const struct block *k,
                     bool add)
{
    for (size_t j = 0; j < k->cols; j += NB)
        for (size_t i = 0; i < k->rows; i += MR) {
            float *c = C + (k->i + i) * ldc + k->j + j;
            const float *ai = a + i * k->kk, *bj = b + j * k->kk;
            size_t rows = k->rows - i, cols = k->cols - j;
            if (rows >= MR && cols >= NB)
                tile_tn(c, ldc, ai, bj, k->kk, add);
            else
                edge_tile(c, ldc, ai, bj, k->kk, rows < MR ? rows : MR, cols < NB ? cols : NB, add);
        }
}

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void gemm_tn(struct kern *k, size_t m, size_t n, size_t kk, const float *A, size_t lda,
                    const float *B, size_t ldb, bool add, float *C, size_t ldc)
{
    size_t threads = (size_t)cpu_threads(k);
    /* At least two pieces a thread, if C has the rows. */
    size_t mc = min(MC, round_up((m + 2 * threads - 1) / (2 * threads), MR));
    /* AHEAD rows more than are packed: a prefetch may name them */
    size_t b_floats = (KC + AHEAD) * min(NC, round_up(n, NB)), a_floats = KC * MC;
    float *packed_b = cpu_scratch(k, (b_floats + threads * a_floats) * sizeof *packed_b);
    if (!packed_b)
        return;
    size_t pieces = (m + mc - 1) / mc;
#pragma omp parallel num_threads((int)threads)
    {
        float *packed_a = packed_b + b_floats + (size_t)omp_get_thread_num() * a_floats;
        for (size_t j = 0; j < n; j += NC)
            for (size_t p = 0; p < kk; p += KC) {
                struct block b = {0, 0, j, min(NC, n - j), p, min(KC, kk - p)};
                size_t panels = (b.cols + NB - 1) / NB;
#pragma omp for schedule(static)
                for (size_t x = 0; x < panels; x++)
                    pack_b(packed_b + x * NB * b.kk, B, ldb, &b, x);
#pragma omp for schedule(static)
                for (size_t x = 0; x < pieces; x++) {
                    struct block piece = b;
                    piece.i = x * mc;
                    piece.rows = min(mc, m - piece.i);
                    pack_a(packed_a, A, lda, &piece);
                    multiply(C, ldc, packed_a, packed_b, &piece, add || p > 0);
                }
            }
    }
}

/* By the table above; and with fewer rows or a small product, the packing is not worth it. */
enum { OURS_FROM_ROWS = 1024, OURS_FROM_COLS = 16, OURS_FROM_DEPTH = 16 };

void CPU(gemm)(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
               struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
               struct kern_view c, size_t ldc)
{
    if (!kern_ok(k))
        return;
    bool fast = V >= 8 && m >= OURS_FROM_ROWS && n >= OURS_FROM_COLS && kk >= OURS_FROM_DEPTH;
    if (fast && ta && !tb && alpha == 1.0F && (beta == 0.0F || beta == 1.0F))
        gemm_tn(k, m, n, kk, host_f32(a), lda, host_f32(b), ldb, beta == 1.0F, host_f32(c), ldc);
    else
        cpu_gemm(k, ta, tb, m, n, kk, alpha, a, lda, b, ldb, beta, c, ldc);
}
