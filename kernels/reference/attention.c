/* attention.c: RoPE and causal attention under two head maps.
 *
 * Forward, for query head h and row i of a sequence, with K head key_of[h] and V head value_of[h]:
 *   s[j] = scale * q_i . k_j  for j <= i,  lse = log sum exp s,  p = exp(s - lse),  o_i = p V.
 * Backward, from p recomputed out of lse:
 *   dp[j] = do_i . v_j,  delta = do_i . o_i,  ds[j] = p[j] * (dp[j] - delta)
 *   dq_i = scale * ds K,  dk_j += scale * ds[j] * q_i,  dv_j += p[j] * do_i.
 */
#include "../host/host.h"
#include "reference.h"

#include <math.h>
#include <stdlib.h>

void reference_rope(struct kern *k, struct kern_view x, size_t ld, struct kern_view cs, size_t rows,
                    int seq, int heads, int dim, bool inverse)
{
    if (!kern_ok(k))
        return;
    float *X = host_f32(x);
    const float *CS = host_f32(cs);
    size_t d = (size_t)dim, half = d / 2;
    for (size_t r = 0; r < rows; r++) {
        const float *cosine = CS + r % (size_t)seq * d, *sine = cosine + half;
        for (size_t h = 0; h < (size_t)heads; h++) {
            float *v = X + r * ld + h * d;
            for (size_t i = 0; i < half; i++) {
                double c = (double)cosine[i], s = inverse ? -(double)sine[i] : (double)sine[i];
                double a = (double)v[i], b = (double)v[i + half];
                v[i] = (float)(a * c - b * s);
                v[i + half] = (float)(b * c + a * s);
            }
        }
    }
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* s[0..i] = scaled scores of query row `q` against keys 0..i; returns their log-sum-exp. */
static double scores(double *s, const float *q, const float *key, size_t ldk, size_t i, size_t dim,
                     double scale)
{
    double max = -INFINITY, sum = 0;
    for (size_t j = 0; j <= i; j++) {
        s[j] = scale * dot(q, key + j * ldk, dim);
        max = s[j] > max || isnan(s[j]) ? s[j] : max;
    }
    for (size_t j = 0; j <= i; j++)
        sum += exp(s[j] - max);
    return max + log(sum);
}

static double *scratch(struct kern *k, size_t n)
{
    double *s = malloc(n * sizeof *s);
    if (!s)
        host_fail(k, KERN_E_NOMEM, "cannot allocate %zu doubles of attention scratch", n);
    return s;
}

void reference_attn_fwd(struct kern *k, struct kern_view o, struct kern_view lse,
                        struct kern_view q, struct kern_view key, struct kern_view v,
                        const struct kern_attn *a)
{
    if (!kern_ok(k))
        return;
    size_t T = (size_t)a->seq, d = (size_t)a->dim, H = (size_t)a->heads;
    double *s = scratch(k, T);
    if (!s)
        return;
    for (size_t b = 0; b < (size_t)a->batch; b++) {
        for (size_t h = 0; h < H; h++) {
            const float *Q = host_f32(q) + b * T * a->ldq + h * d;
            const float *K = host_f32(key) + b * T * a->ldk + (size_t)a->maps->key_of[h] * d;
            const float *V = host_f32(v) + b * T * a->ldv + (size_t)a->maps->value_of[h] * d;
            float *O = host_f32(o) + b * T * a->ldo + h * d;
            float *L = host_f32(lse) + (b * H + h) * T;
            for (size_t i = 0; i < T; i++) {
                double l = scores(s, Q + i * a->ldq, K, a->ldk, i, d, (double)a->scale);
                L[i] = (float)l;
                for (size_t j = 0; j <= i; j++)
                    s[j] = exp(s[j] - l);
                for (size_t c = 0; c < d; c++) {
                    double sum = 0;
                    for (size_t j = 0; j <= i; j++)
                        sum += s[j] * (double)V[j * a->ldv + c];
                    O[i * a->ldo + c] = (float)sum;
                }
            }
        }
    }
    free(s);
}

static void store(float *dst, size_t ld, const double *src, size_t rows, size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            dst[r * ld + c] = (float)src[r * cols + c];
}

void reference_attn_bwd(struct kern *k, struct kern_view dq, struct kern_view dk,
                        struct kern_view dv, struct kern_view dout, struct kern_view q,
                        struct kern_view key, struct kern_view v, struct kern_view o,
                        struct kern_view lse, const struct kern_attn *a)
{
    if (!kern_ok(k))
        return;
    size_t T = (size_t)a->seq, d = (size_t)a->dim, H = (size_t)a->heads;
    size_t wide_k = (size_t)a->key_heads * d, wide_v = (size_t)a->value_heads * d;
    /* dk and dv of one sequence are summed over its query heads in double. */
    double *sum = scratch(k, T * (wide_k + wide_v) + d);
    if (!sum)
        return;
    double *sum_k = sum, *sum_v = sum + T * wide_k, *sum_q = sum_v + T * wide_v;
    for (size_t b = 0; b < (size_t)a->batch; b++) {
        for (size_t i = 0; i < T * (wide_k + wide_v); i++)
            sum[i] = 0;
        for (size_t h = 0; h < H; h++) {
            size_t hk = (size_t)a->maps->key_of[h] * d, hv = (size_t)a->maps->value_of[h] * d;
            const float *Q = host_f32(q) + b * T * a->ldq + h * d;
            const float *K = host_f32(key) + b * T * a->ldk + hk;
            const float *V = host_f32(v) + b * T * a->ldv + hv;
            const float *O = host_f32(o) + b * T * a->ldo + h * d;
            const float *DO = host_f32(dout) + b * T * a->ldo + h * d;
            const float *L = host_f32(lse) + (b * H + h) * T;
            float *DQ = host_f32(dq) + b * T * a->ldq + h * d;
            for (size_t i = 0; i < T; i++) {
                const float *qi = Q + i * a->ldq, *doi = DO + i * a->ldo;
                double delta = dot(doi, O + i * a->ldo, d);
                for (size_t c = 0; c < d; c++)
                    sum_q[c] = 0;
                for (size_t j = 0; j <= i; j++) {
                    const float *kj = K + j * a->ldk, *vj = V + j * a->ldv;
                    double p = exp((double)a->scale * dot(qi, kj, d) - (double)L[i]);
                    double ds = p * (dot(doi, vj, d) - delta) * (double)a->scale;
                    for (size_t c = 0; c < d; c++) {
                        sum_q[c] += ds * (double)kj[c];
                        sum_k[j * wide_k + hk + c] += ds * (double)qi[c];
                        sum_v[j * wide_v + hv + c] += p * (double)doi[c];
                    }
                }
                store(DQ + i * a->ldq, a->ldq, sum_q, 1, d);
            }
        }
        store(host_f32(dk) + b * T * a->ldk, a->ldk, sum_k, T, wide_k);
        store(host_f32(dv) + b * T * a->ldv, a->ldv, sum_v, T, wide_v);
    }
    free(sum);
}

void reference_attn_weights(struct kern *k, struct kern_view p, struct kern_view q,
                            struct kern_view key, const struct kern_attn *a, int b, int h)
{
    if (!kern_ok(k))
        return;
    size_t T = (size_t)a->seq, d = (size_t)a->dim;
    double *s = scratch(k, T);
    if (!s)
        return;
    const float *Q = host_f32(q) + (size_t)b * T * a->ldq + (size_t)h * d;
    const float *K = host_f32(key) + (size_t)b * T * a->ldk + (size_t)a->maps->key_of[h] * d;
    float *P = host_f32(p);
    for (size_t i = 0; i < T; i++) {
        double l = scores(s, Q + i * a->ldq, K, a->ldk, i, d, (double)a->scale);
        for (size_t j = 0; j < T; j++)
            P[i * T + j] = j <= i ? (float)exp(s[j] - l) : 0.0F;
    }
    free(s);
}

void reference_attn_cached(struct kern *k, struct kern_view o, struct kern_view q,
                           struct kern_view key, struct kern_view v, const struct kern_attn *a,
                           int past, int room)
{
    if (!kern_ok(k))
        return;
    size_t T = (size_t)a->seq, d = (size_t)a->dim, before = (size_t)past;
    double *s = scratch(k, before + T);
    if (!s)
        return;
    for (size_t b = 0; b < (size_t)a->batch; b++) {
        size_t base = b * (size_t)room;
        for (size_t h = 0; h < (size_t)a->heads; h++) {
            const float *K = host_f32(key) + base * a->ldk + (size_t)a->maps->key_of[h] * d;
            const float *V = host_f32(v) + base * a->ldv + (size_t)a->maps->value_of[h] * d;
            for (size_t i = 0; i < T; i++) {
                size_t row = b * T + i, last = before + i;
                double l = scores(s, host_f32(q) + row * a->ldq + h * d, K, a->ldk, last, d,
                                  (double)a->scale);
                for (size_t j = 0; j <= last; j++)
                    s[j] = exp(s[j] - l);
                for (size_t c = 0; c < d; c++) {
                    double sum = 0;
                    for (size_t j = 0; j <= last; j++)
                        sum += s[j] * (double)V[j * a->ldv + c];
                    host_f32(o)[row * a->ldo + h * d + c] = (float)sum;
                }
            }
        }
    }
    free(s);
}
