/* cpu.h: the fast backend for hosts without a GPU.
 *
 * Matrix products are oneDNN's (gemm.c), but for one that is ours (isa/gemm_tn.c). Everything else
 * is ours: the files of isa/ are compiled once for each instruction set (generic, avx2, avx512) into
 * one table each; cpu_open() puts the best one the machine has into the queue.
 *
 *   DHA_CPU_ISA=generic|avx2|avx512   takes that one instead; one that the machine or the build does
 *                                     not have is an error. (oneDNN has ONEDNN_MAX_CPU_ISA.)
 *
 * A queue owns its number of threads and its scratch memory; forks have their own, so two queues may
 * work in two threads. Every parallel loop names the number of threads that kern_open was given. gemm
 * sets OpenMP's number of threads for the calling thread, because oneDNN takes it from there.
 *
 * Deterministic: work is cut into parts by the shape and the number of threads alone, a part is
 * computed by one thread in a fixed order, and partial sums are added in the order of the parts.
 */
#ifndef DHA_KERNELS_CPU_H
#define DHA_KERNELS_CPU_H

#include "../kern.h"

struct cpu {
    int threads;
    void *scratch; /* cpu_scratch() */
    size_t scratch_bytes;
};

/* The table that kern_open finds: open() replaces it by the one for this machine. */
extern const struct kern_ops cpu_ops_generic;
extern const struct kern_ops cpu_ops_avx2;
extern const struct kern_ops cpu_ops_avx512;

/* cpu.c */
int cpu_open(struct kern *k, int threads);
void cpu_close(struct kern *k);
void cpu_describe(struct kern *k, char *buf, size_t len);
/* Memory of the queue's own, 64-byte aligned, contents undefined, valid until the next call.
 * NULL: no memory, the queue has failed. */
void *cpu_scratch(struct kern *k, size_t bytes);

/* gemm.c: the entry of the table for a product that isa/gemm_tn.c does not take */
void cpu_gemm(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
              struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
              struct kern_view c, size_t ldc);

#endif
