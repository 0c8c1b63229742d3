/* kern.h: the compute backend interface.
 *
 * Life cycle. kern_open() gives a `struct kern`: a backend plus one ordered queue of work (on a GPU:
 * a stream). kern_fork() gives a second queue that shares the first one's buffers; kern_wait()
 * orders one queue behind another. Buffers are made by kern_alloc() and belong to the caller, who
 * gives them back with kern_free(); maps and groups likewise. kern_close() on the last queue frees
 * the backend (buffers must be gone by then).
 *
 * Memory is opaque: a place in it is a `struct kern_view` = buffer + offset in elements. Nobody but
 * a backend may look inside; kern_host() gives a host address where there is one (CPU backends) and
 * NULL where there is none, so that callers can avoid a staging copy, never so that they can assume.
 *
 * Errors. Work is asynchronous in principle, so operations return nothing: the first failure sticks
 * in the queue, later operations on it do nothing, and kern_sync() (which blocks) or kern_error()
 * tells. kern_alloc() and the *_new() functions return NULL on failure and set the same error.
 * Shape arguments are the caller's duty: they are checked by assert in debug builds only.
 *
 * Conventions. All matrices are row-major; `ld` is the distance between rows in elements.
 * rows = batch * seq tokens; token t of sequence b is row b * seq + t.
 * An output named with += is accumulated into, all others are overwritten.
 * Results are deterministic: the same inputs, backend and number of threads give the same bits.
 *
 * A backend is one `struct kern_ops` table. reference/ is plain C and the oracle for the others.
 * This folder includes nothing of the rest of the project.
 */
#ifndef DHA_KERN_H
#define DHA_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kern_dtype { KERN_F32, KERN_BF16, KERN_I32 };

struct kern_err {
    int code; /* 0 = no error; else one of enum kern_code */
    char msg[256];
};
enum kern_code { KERN_OK = 0, KERN_E_NOMEM, KERN_E_UNSUPPORTED, KERN_E_BACKEND, KERN_E_NODEVICE };

struct kern_buf;    /* device memory */
struct kern_maps;   /* two head maps of one layer, on the device */
struct kern_groups; /* a partition of heads, on the device */
struct kern;

struct kern_view {
    struct kern_buf *buf;
    size_t off; /* elements */
};

static inline struct kern_view kern_at(struct kern_buf *buf, size_t off)
{
    return (struct kern_view){buf, off};
}
static inline struct kern_view kern_plus(struct kern_view v, size_t off)
{
    return (struct kern_view){v.buf, v.off + off};
}

/* Shape of one attention call. q is [batch*seq, heads*dim] with row distance ldq, k is
 * [batch*seq, key_heads*dim] with ldk, v is [batch*seq, value_heads*dim] with ldv,
 * o is [batch*seq, heads*dim] with ldo. q and k have RoPE applied already. Causal.
 * Query head h reads key head maps.key_of[h] and value head maps.value_of[h].
 * dq, dk, dv have the distances of q, k, v; the gradient of o has that of o. */
struct kern_attn {
    int batch, seq, heads, key_heads, value_heads, dim;
    float scale; /* 1/sqrt(dim) */
    size_t ldq, ldk, ldv, ldo;
    const struct kern_maps *maps;
};

struct kern_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    float bias1, bias2; /* 1 - beta1^t, 1 - beta2^t, t counted from 1 */
    float grad_scale;   /* gradients are multiplied by this first (clipping) */
};

#define KERN_BILD_TOP 32 /* bild(): the most logits a side */

struct kern_ops {
    const char *name;    /* "reference", "cpu", "cuda" */
    const char *summary; /* one line: what it is, for --version and hello records */

    /* queue. open: k->impl is NULL for a new backend; a fork finds its parent's impl there (and
     * threads = 0) and replaces it by its own. */
    int (*open)(struct kern *k, int threads);
    void (*close)(struct kern *k);
    void (*sync)(struct kern *k);
    void (*wait)(struct kern *k, struct kern *other);
    /* a line such as "AVX-512, oneDNN 2.6.3, 2 threads" */
    void (*describe)(struct kern *k, char *buf, size_t len);

    /* memory */
    struct kern_buf *(*alloc)(struct kern *k, enum kern_dtype t, size_t n); /* zeroed */
    void (*free)(struct kern *k, struct kern_buf *b);                       /* NULL is fine */
    void (*upload)(struct kern *k, struct kern_view dst, const void *src, size_t n);
    void (*download)(struct kern *k, void *dst, struct kern_view src, size_t n); /* blocks */
    void (*copy)(struct kern *k, struct kern_view dst, struct kern_view src, size_t n);
    void (*zero)(struct kern *k, struct kern_view dst, size_t n);
    void *(*host)(struct kern *k, struct kern_view v); /* NULL: not host memory */
    struct kern_maps *(*maps_new)(struct kern *k, int heads, const int *key_of,
                                  const int *value_of);
    void (*maps_free)(struct kern *k, struct kern_maps *m);
    struct kern_groups *(*groups_new)(struct kern *k, int heads, const int *group_of);
    void (*groups_free)(struct kern *k, struct kern_groups *g);

    /* C[m,n] = alpha * op(A) op(B) + beta * C; op(A) is [m,kk], op(B) is [kk,n].
     * ta: A is stored [kk,m]; tb: B is stored [n,kk]. beta = 0 never reads C. */
    void (*gemm)(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
                 struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
                 struct kern_view c, size_t ldc);

    /* y[n] += a * x[n];   y[n] *= a */
    void (*axpy)(struct kern *k, struct kern_view y, float a, struct kern_view x, size_t n);
    void (*scale)(struct kern *k, struct kern_view y, float a, size_t n);
    /* y[rows,cols] += b[cols];   db[cols] += column sums of dy[rows,cols] */
    void (*bias_add)(struct kern *k, struct kern_view y, size_t ld, struct kern_view b, size_t rows,
                     size_t cols);
    void (*bias_grad)(struct kern *k, struct kern_view db, struct kern_view dy, size_t ld,
                      size_t rows, size_t cols);

    /* y = x * rstd * w, rstd[rows] = 1/sqrt(mean(x^2) + eps).
     * backward: dx[rows,dim] += , dw[dim] += */
    void (*rmsnorm_fwd)(struct kern *k, struct kern_view y, struct kern_view rstd,
                        struct kern_view x, struct kern_view w, size_t rows, size_t dim, float eps);
    void (*rmsnorm_bwd)(struct kern *k, struct kern_view dx, struct kern_view dw,
                        struct kern_view dy, struct kern_view x, struct kern_view w,
                        struct kern_view rstd, size_t rows, size_t dim);

    /* In place on x [rows, heads*dim], row distance ld; HF half-split: dims i and i + dim/2 are one
     * plane. Position of a row = row % seq. cs is [positions, dim]: cos in the first dim/2 columns,
     * sin in the rest. inverse: rotate back (the backward pass). */
    void (*rope)(struct kern *k, struct kern_view x, size_t ld, struct kern_view cs, size_t rows,
                 int seq, int heads, int dim, bool inverse);

    /* Online softmax; no [seq,seq] matrix is stored. lse [batch, heads, seq] = log-sum-exp of each
     * row of scaled scores. backward overwrites dq, dk, dv. */
    void (*attn_fwd)(struct kern *k, struct kern_view o, struct kern_view lse, struct kern_view q,
                     struct kern_view key, struct kern_view v, const struct kern_attn *a);
    void (*attn_bwd)(struct kern *k, struct kern_view dq, struct kern_view dk, struct kern_view dv,
                     struct kern_view dout, struct kern_view q, struct kern_view key,
                     struct kern_view v, struct kern_view o, struct kern_view lse,
                     const struct kern_attn *a);
    /* p [seq,seq] = the attention matrix of one sequence and query head, zeros above the diagonal.
     * For calibration (METHODS section 6), not for training. */
    void (*attn_weights)(struct kern *k, struct kern_view p, struct kern_view q,
                         struct kern_view key, const struct kern_attn *a, int b, int h);

    /* Attention against a cache (generation): the last `seq` positions of each sequence see all before them.
     * q and o as above; key and v hold `room` rows a sequence: position t of sequence b is row b*room + t.
     * New row i is position past + i and reads positions 0..past+i, so the cache holds the new rows' keys
     * (after RoPE) and values already. past + seq <= room. */
    void (*attn_cached)(struct kern *k, struct kern_view o, struct kern_view q,
                        struct kern_view key, struct kern_view v, const struct kern_attn *a,
                        int past, int room);

    /* gu [rows, 2*ffn] = gate | up; y [rows,ffn] = silu(gate) * up. dgu may be gu itself. */
    void (*swiglu_fwd)(struct kern *k, struct kern_view y, struct kern_view gu, size_t rows,
                       size_t ffn);
    void (*swiglu_bwd)(struct kern *k, struct kern_view dgu, struct kern_view dy,
                       struct kern_view gu, size_t rows, size_t ffn);

    /* y[r,:] = w[ids[r],:];   dw[ids[r],:] += dy[r,:] (in row order: deterministic) */
    void (*embed_fwd)(struct kern *k, struct kern_view y, struct kern_view w, struct kern_view ids,
                      size_t rows, size_t dim);
    void (*embed_bwd)(struct kern *k, struct kern_view dw, struct kern_view dy,
                      struct kern_view ids, size_t rows, size_t dim);

    /* One chunk of the output layer's loss. logits [rows,vocab]; teacher [rows,vocab] or a view
     * with buf == NULL; targets [rows] i32, < 0 = row not counted.
     *   lm[r] = -log p[target];  kl[r] = sum_v pt log(pt/p)  (0 without a teacher; temperature 1)
     * grad: logits are overwritten with scale * (w_lm*(p - onehot) + w_kl*(p - pt)), rows not counted
     * with 0. Without grad logits are left in an undefined state.
     * weights [rows,2] are factors on w_lm and w_kl of each row (they change gradients, not lm and kl), or a view with
     * buf == NULL: all 1. */
    void (*loss)(struct kern *k, struct kern_view logits, struct kern_view teacher,
                 struct kern_view targets, struct kern_view weights, size_t rows, size_t vocab,
                 float w_lm, float w_kl, float scale, bool grad, struct kern_view lm,
                 struct kern_view kl);

    /* BiLD, distillation of the differences between the largest logits (METHODS 2.7, arXiv 2406.13555). With S = the `top`
     * largest logits of one side, d_ij = z_Si - z_Sj for i < j (by rank) and softmax over all pairs at temperature T,
     *   led by X = KL(softmax(d^teacher / T) || softmax(d^student / T)) on the S of X
     *   loss[r] = led by teacher + led by student.        Equal logits rank by index; top <= KERN_BILD_TOP.
     * Rows with weights[r] = 0 are left out: their loss is 0. The gradient, times scale * weights[r], is in at most 2 * top
     * places a row: index, value [rows, 2*top], to be added by scatter_add(); left-out rows get value 0, index 0. */
    void (*bild)(struct kern *k, struct kern_view logits, struct kern_view teacher,
                 struct kern_view weights, size_t rows, size_t vocab, int top, float temperature,
                 float scale, struct kern_view loss, struct kern_view index,
                 struct kern_view value);
    /* y[r, index[r,i]] += value[r,i] for i in 0..per-1, in this order (an index may occur twice). y is [rows, cols]. */
    void (*scatter_add)(struct kern *k, struct kern_view y, struct kern_view index,
                        struct kern_view value, size_t rows, size_t cols, size_t per);

    /* Fusion operator on weights (METHODS 1.3, D2). w [heads*dim, cols] is a K or V projection,
     * omega [heads, heads, dim]; for every query head h and head dim c
     *   out[h,c,:] = sum over j in group(h) of omega[h,j,c] * w[j,c,:]
     * backward: dw += , domega += ; entries of omega outside the groups are neither read nor written. */
    void (*fusion_fwd)(struct kern *k, struct kern_view out, struct kern_view omega,
                       struct kern_view w, const struct kern_groups *g, int heads, int dim,
                       size_t cols);
    void (*fusion_bwd)(struct kern *k, struct kern_view dw, struct kern_view domega,
                       struct kern_view dout, struct kern_view omega, struct kern_view w,
                       const struct kern_groups *g, int heads, int dim, size_t cols);
    /* Fusion loss (METHODS 1.4, D3): per group g of size s >= 2
     *   mse[g] = mean over its s(s-1)/2 pairs h<h' of (1/(s*dim)) sum_{j,c} (omega[h,j,c]-omega[h',j,c])^2
     * and where mse[g] > t:  domega += coeff * d mse[g] / d omega.  Groups of one head: mse = 0.
     * mse has one entry a group (number of groups = max(group_of) + 1). */
    void (*fusion_penalty)(struct kern *k, struct kern_view domega, struct kern_view mse,
                           struct kern_view omega, const struct kern_groups *g, int heads, int dim,
                           float coeff, float t);

    /* Ties fusion coefficients (METHODS 1.3, D2; issue 4 item 3). In two linear steps, on entries inside the groups:
     *   s[h,j,c]    = mean of in[h,j,c'] over the `share` dims c' = c mod (dim/share): 1 = none shared, 2 = the two dims of
     *                 a RoPE plane, dim = one number a head pair
     *   out[h,j,c] += keep * s[h,j,c] + pull[g] * mean over h' in group(h) of s[h',j,c]
     * Both steps are symmetric matrices, so the same call with the same numbers is the backward pass.
     * pull: host, one a group. */
    void (*fusion_tie)(struct kern *k, struct kern_view out, struct kern_view in,
                       const struct kern_groups *g, int heads, int dim, int share, float keep,
                       const float *pull);

    /* AdamW, decoupled weight decay: p -= lr*wd*p; then the Adam step with bias correction. */
    void (*adamw)(struct kern *k, struct kern_view p, struct kern_view g, struct kern_view m,
                  struct kern_view v, size_t n, const struct kern_adamw *a);
    /* Sum of squares in double; blocks. NaN and Inf in x show in the result. */
    double (*sumsq)(struct kern *k, struct kern_view x, size_t n);
    /* Sum of x[i] * y[i] in double; blocks. */
    double (*dot)(struct kern *k, struct kern_view x, struct kern_view y, size_t n);
};

struct kern {
    const struct kern_ops *ops;
    struct kern_err err;
    void *impl; /* the backend's own */
};

/* name: "reference", "cpu" (later "cuda"). threads: 0 = what OpenMP says. Returns NULL and sets err. */
struct kern *kern_open(const char *name, int threads, struct kern_err *err);
void kern_close(struct kern *k);
/* A second queue on the same backend and buffers. */
struct kern *kern_fork(struct kern *k);
/* The tables themselves, for tests and listings; ends with NULL. */
const struct kern_ops *const *kern_backends(void);

/* 0 if all queued work is done and well, else -1 and the sticky error in *err (may be NULL). */
int kern_sync(struct kern *k, struct kern_err *err);
static inline bool kern_ok(const struct kern *k)
{
    return k->err.code == KERN_OK;
}

#endif
