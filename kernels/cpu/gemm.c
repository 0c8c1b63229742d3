/* gemm.c: matrix products through oneDNN's C API.
 *
 * dnnl_sgemm, not a cached dnnl matmul primitive: measured (oneDNN 2.6.3, Sapphire Rapids, 2 cores,
 * GFLOP/s at beta = 0, peak about 400, buffers on huge pages; m x k x n):
 *
 *                                      sgemm  matmul                            sgemm  matmul
 *   x W^T  1024 x 288 x 864              382     358   dy W  1024 x 864 x 288     390     361
 *          1024 x 288 x 1536             340     339         1024 x 1536 x 288    387     347
 *          1024 x 768 x 288              379     366         1024 x 288 x 768     383     364
 *           256 x 288 x 32000            312     311          256 x 32000 x 288   354     275
 *
 * Cutting these into blocks of rows, columns or k made neither faster. The product with A transposed
 * is in isa/gemm_tn.c, with its own figures. On pages of 4 KB the last line is at half its speed.
 */
#include "../host/host.h"
#include "cpu.h"

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>

static void scale_rows(float *c, size_t ldc, size_t m, size_t n, float beta)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

void cpu_gemm(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
              struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
              struct kern_view c, size_t ldc)
{
    if (!kern_ok(k) || m == 0 || n == 0)
        return;
    const struct cpu *cpu = k->impl;
    if (kk == 0) { /* oneDNN has no empty sum */
        scale_rows(host_f32(c), ldc, m, n, beta);
        return;
    }
    omp_set_num_threads(cpu->threads);
    dnnl_status_t s = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', (dnnl_dim_t)m, (dnnl_dim_t)n,
                                 (dnnl_dim_t)kk, alpha, host_f32(a), (dnnl_dim_t)lda, host_f32(b),
                                 (dnnl_dim_t)ldb, beta, host_f32(c), (dnnl_dim_t)ldc);
    if (s != dnnl_success)
        host_fail(k, s == dnnl_out_of_memory ? KERN_E_NOMEM : KERN_E_BACKEND,
                  "oneDNN product of %s[%zu,%zu] and %s[%zu,%zu] failed: status %d",
                  ta ? "transposed " : "", m, kk, tb ? "transposed " : "", kk, n, (int)s);
}
