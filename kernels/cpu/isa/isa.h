/* isa.h: what the files of isa/ share. They are compiled once for each instruction set, with
 * DHA_ISA = generic, avx2 or avx512; CPU(name) is the name for this compilation. */
#ifndef DHA_KERNELS_CPU_ISA_H
#define DHA_KERNELS_CPU_ISA_H

#include "../../host/host.h"
#include "../cpu.h"

#define CPU_PASTE2(name, isa) cpu_##name##_##isa
#define CPU_PASTE(name, isa)  CPU_PASTE2(name, isa)
#define CPU(name)             CPU_PASTE(name, DHA_ISA)

static inline int cpu_threads(const struct kern *k)
{
    return ((const struct cpu *)k->impl)->threads;
}

/* Part i of n items cut into `parts` pieces as equal as can be: the items [first, end). */
struct span {
    size_t first, end;
};
static inline struct span cpu_span(size_t n, size_t parts, size_t i)
{
    return (struct span){n * i / parts, n * (i + 1) / parts};
}

/* The number of threads for an operation that touches `work` floats: one if it is small, for a
 * parallel region costs some microseconds, in which a thread touches about 16K floats; else all.
 * Nothing in between: libgomp ends threads when a team shrinks and makes them anew when it grows. */
static inline int cpu_team(const struct kern *k, size_t work)
{
    return work < 32768 ? 1 : cpu_threads(k);
}

void CPU(zero)(struct kern *k, struct kern_view dst, size_t n);
void CPU(gemm)(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
               struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
               struct kern_view c, size_t ldc);
void CPU(axpy)(struct kern *k, struct kern_view y, float a, struct kern_view x, size_t n);
void CPU(scale)(struct kern *k, struct kern_view y, float a, size_t n);
void CPU(bias_add)(struct kern *k, struct kern_view y, size_t ld, struct kern_view b, size_t rows,
                   size_t cols);
void CPU(bias_grad)(struct kern *k, struct kern_view db, struct kern_view dy, size_t ld,
                    size_t rows, size_t cols);
void CPU(rmsnorm_fwd)(struct kern *k, struct kern_view y, struct kern_view rstd, struct kern_view x,
                      struct kern_view w, size_t rows, size_t dim, float eps);
void CPU(rmsnorm_bwd)(struct kern *k, struct kern_view dx, struct kern_view dw, struct kern_view dy,
                      struct kern_view x, struct kern_view w, struct kern_view rstd, size_t rows,
                      size_t dim);
void CPU(rope)(struct kern *k, struct kern_view x, size_t ld, struct kern_view cs, size_t rows,
               int seq, int heads, int dim, bool inverse);
void CPU(attn_fwd)(struct kern *k, struct kern_view o, struct kern_view lse, struct kern_view q,
                   struct kern_view key, struct kern_view v, const struct kern_attn *a);
void CPU(attn_bwd)(struct kern *k, struct kern_view dq, struct kern_view dk, struct kern_view dv,
                   struct kern_view dout, struct kern_view q, struct kern_view key,
                   struct kern_view v, struct kern_view o, struct kern_view lse,
                   const struct kern_attn *a);
void CPU(attn_cached)(struct kern *k, struct kern_view o, struct kern_view q, struct kern_view key,
                      struct kern_view v, const struct kern_attn *a, int past, int room);
void CPU(attn_weights)(struct kern *k, struct kern_view p, struct kern_view q, struct kern_view key,
                       const struct kern_attn *a, int b, int h);
void CPU(swiglu_fwd)(struct kern *k, struct kern_view y, struct kern_view gu, size_t rows,
                     size_t ffn);
void CPU(swiglu_bwd)(struct kern *k, struct kern_view dgu, struct kern_view dy, struct kern_view gu,
                     size_t rows, size_t ffn);
void CPU(embed_fwd)(struct kern *k, struct kern_view y, struct kern_view w, struct kern_view ids,
                    size_t rows, size_t dim);
void CPU(embed_bwd)(struct kern *k, struct kern_view dw, struct kern_view dy, struct kern_view ids,
                    size_t rows, size_t dim);
void CPU(loss)(struct kern *k, struct kern_view logits, struct kern_view teacher,
               struct kern_view targets, struct kern_view weights, size_t rows, size_t vocab,
               float w_lm, float w_kl, float scale, bool grad, struct kern_view lm,
               struct kern_view kl);
void CPU(bild)(struct kern *k, struct kern_view logits, struct kern_view teacher,
               struct kern_view weights, size_t rows, size_t vocab, int top, float temperature,
               float scale, struct kern_view loss, struct kern_view index, struct kern_view value);
void CPU(scatter_add)(struct kern *k, struct kern_view y, struct kern_view index,
                      struct kern_view value, size_t rows, size_t cols, size_t per);
void CPU(fusion_fwd)(struct kern *k, struct kern_view out, struct kern_view omega,
                     struct kern_view w, const struct kern_groups *g, int heads, int dim,
                     size_t cols);
void CPU(fusion_bwd)(struct kern *k, struct kern_view dw, struct kern_view domega,
                     struct kern_view dout, struct kern_view omega, struct kern_view w,
                     const struct kern_groups *g, int heads, int dim, size_t cols);
void CPU(fusion_penalty)(struct kern *k, struct kern_view domega, struct kern_view mse,
                         struct kern_view omega, const struct kern_groups *g, int heads, int dim,
                         float coeff, float t);
void CPU(fusion_tie)(struct kern *k, struct kern_view out, struct kern_view in,
                     const struct kern_groups *g, int heads, int dim, int share, float keep,
                     const float *pull);
void CPU(adamw)(struct kern *k, struct kern_view p, struct kern_view g, struct kern_view m,
                struct kern_view v, size_t n, const struct kern_adamw *a);
double CPU(sumsq)(struct kern *k, struct kern_view x, size_t n);
double CPU(dot)(struct kern *k, struct kern_view x, struct kern_view y, size_t n);

#endif
