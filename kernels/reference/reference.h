/* reference.h: the reference backend, the oracle for the others.
 *
 * One thread, naive loops, float in memory and double in every sum, in the order the formula has
 * it. It is meant to be read beside docs/METHOD.md; nothing in it is fast on purpose.
 * One file per family of operations; the table is in table.c. Shapes and meaning: kern.h.
 */
#ifndef DHA_KERNELS_REFERENCE_H
#define DHA_KERNELS_REFERENCE_H

#include "../kern.h"

extern const struct kern_ops reference_ops;

/* linear.c */
void reference_gemm(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
                    struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
                    struct kern_view c, size_t ldc);
void reference_axpy(struct kern *k, struct kern_view y, float a, struct kern_view x, size_t n);
void reference_scale(struct kern *k, struct kern_view y, float a, size_t n);
void reference_bias_add(struct kern *k, struct kern_view y, size_t ld, struct kern_view b,
                        size_t rows, size_t cols);
void reference_bias_grad(struct kern *k, struct kern_view db, struct kern_view dy, size_t ld,
                         size_t rows, size_t cols);

/* norm.c */
void reference_rmsnorm_fwd(struct kern *k, struct kern_view y, struct kern_view rstd,
                           struct kern_view x, struct kern_view w, size_t rows, size_t dim,
                           float eps);
void reference_rmsnorm_bwd(struct kern *k, struct kern_view dx, struct kern_view dw,
                           struct kern_view dy, struct kern_view x, struct kern_view w,
                           struct kern_view rstd, size_t rows, size_t dim);

/* attention.c */
void reference_rope(struct kern *k, struct kern_view x, size_t ld, struct kern_view cs, size_t rows,
                    int seq, int heads, int dim, bool inverse);
void reference_attn_fwd(struct kern *k, struct kern_view o, struct kern_view lse,
                        struct kern_view q, struct kern_view key, struct kern_view v,
                        const struct kern_attn *a);
void reference_attn_bwd(struct kern *k, struct kern_view dq, struct kern_view dk,
                        struct kern_view dv, struct kern_view dout, struct kern_view q,
                        struct kern_view key, struct kern_view v, struct kern_view o,
                        struct kern_view lse, const struct kern_attn *a);
void reference_attn_cached(struct kern *k, struct kern_view o, struct kern_view q,
                           struct kern_view key, struct kern_view v, const struct kern_attn *a,
                           int past, int room);
void reference_attn_weights(struct kern *k, struct kern_view p, struct kern_view q,
                            struct kern_view key, const struct kern_attn *a, int b, int h);

/* pointwise.c */
void reference_swiglu_fwd(struct kern *k, struct kern_view y, struct kern_view gu, size_t rows,
                          size_t ffn);
void reference_swiglu_bwd(struct kern *k, struct kern_view dgu, struct kern_view dy,
                          struct kern_view gu, size_t rows, size_t ffn);
void reference_embed_fwd(struct kern *k, struct kern_view y, struct kern_view w,
                         struct kern_view ids, size_t rows, size_t dim);
void reference_embed_bwd(struct kern *k, struct kern_view dw, struct kern_view dy,
                         struct kern_view ids, size_t rows, size_t dim);

/* loss.c */
void reference_loss(struct kern *k, struct kern_view logits, struct kern_view teacher,
                    struct kern_view targets, struct kern_view weights, size_t rows, size_t vocab,
                    float w_lm, float w_kl, float scale, bool grad, struct kern_view lm,
                    struct kern_view kl);

/* bild.c */
void reference_bild(struct kern *k, struct kern_view logits, struct kern_view teacher,
                    struct kern_view weights, size_t rows, size_t vocab, int top, float temperature,
                    float scale, struct kern_view loss, struct kern_view index,
                    struct kern_view value);
void reference_scatter_add(struct kern *k, struct kern_view y, struct kern_view index,
                           struct kern_view value, size_t rows, size_t cols, size_t per);

/* fusion.c */
void reference_fusion_fwd(struct kern *k, struct kern_view out, struct kern_view omega,
                          struct kern_view w, const struct kern_groups *g, int heads, int dim,
                          size_t cols);
void reference_fusion_bwd(struct kern *k, struct kern_view dw, struct kern_view domega,
                          struct kern_view dout, struct kern_view omega, struct kern_view w,
                          const struct kern_groups *g, int heads, int dim, size_t cols);
void reference_fusion_penalty(struct kern *k, struct kern_view domega, struct kern_view mse,
                              struct kern_view omega, const struct kern_groups *g, int heads,
                              int dim, float coeff, float t);
void reference_fusion_tie(struct kern *k, struct kern_view out, struct kern_view in,
                          const struct kern_groups *g, int heads, int dim, int share, float keep,
                          const float *pull);

/* optimiser.c */
void reference_adamw(struct kern *k, struct kern_view p, struct kern_view g, struct kern_view m,
                     struct kern_view v, size_t n, const struct kern_adamw *a);
double reference_sumsq(struct kern *k, struct kern_view x, size_t n);
double reference_dot(struct kern *k, struct kern_view x, struct kern_view y, size_t n);

#endif
