/* vec.h: one vector type for the instruction set this translation unit is compiled for.
 *
 * V floats: 16 with AVX-512, 8 with AVX2, 4 otherwise (GCC/clang vector extensions, any machine).
 * Arithmetic is written with plain operators on vf. Loops run to the end of a row with a mask for
 * the last piece:  for (c = 0; c < n; c += V) { v_mask m = v_first(n - c); ... v_load(m, p + c) ... }
 * Lanes outside the mask read as 0 and are not stored.
 *
 * NaN: v_max(a, b) and v_min(a, b) give b when either is NaN, so a clamp written
 * v_max(limit, x) lets a NaN in x through.
 */
#ifndef DHA_KERNELS_CPU_VEC_H
#define DHA_KERNELS_CPU_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)
#include <immintrin.h>

enum { V = 16 };
typedef __m512 vf;
typedef __mmask16 v_mask;

INLINE v_mask v_first(size_t left)
{
    unsigned mask = left >= V ? 0xFFFFU : (1U << left) - 1U;
    return (v_mask)mask;
}
INLINE vf v_load(v_mask m, const float *p)
{
    return _mm512_maskz_loadu_ps(m, p);
}
INLINE void v_store(v_mask m, float *p, vf x)
{
    _mm512_mask_storeu_ps(p, m, x);
}
/* x in the lanes of m, other elsewhere */
INLINE vf v_pick(v_mask m, vf x, vf other)
{
    return _mm512_mask_blend_ps(m, other, x);
}
INLINE vf v_read(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void v_write(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
INLINE vf v_set(float x)
{
    return _mm512_set1_ps(x);
}
INLINE vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf v_sqrt(vf x)
{
    return _mm512_sqrt_ps(x);
}
INLINE vf v_round(vf x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT);
}
/* x * 2^n for a whole n */
INLINE vf v_scale2(vf x, vf n)
{
    return _mm512_scalef_ps(x, n);
}

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

enum { V = 8 };
typedef __m256 vf;
typedef size_t v_mask; /* how many lanes from the first */

INLINE __m256i v_lanes(v_mask m)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)m), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE v_mask v_first(size_t left)
{
    return left >= V ? V : left;
}
INLINE vf v_load(v_mask m, const float *p)
{
    return m == V ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, v_lanes(m));
}
INLINE void v_store(v_mask m, float *p, vf x)
{
    if (m == V)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, v_lanes(m), x);
}
INLINE vf v_pick(v_mask m, vf x, vf other)
{
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(v_lanes(m)));
}
INLINE vf v_read(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE void v_write(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}
INLINE vf v_set(float x)
{
    return _mm256_set1_ps(x);
}
INLINE vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
INLINE vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
INLINE vf v_sqrt(vf x)
{
    return _mm256_sqrt_ps(x);
}
INLINE vf v_round(vf x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf v_scale2(vf x, vf n)
{
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)),
                                  23);
    return x * _mm256_castsi256_ps(e);
}

#else

enum { V = 4 };
typedef float vf __attribute__((vector_size(16), may_alias));
typedef float vf_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(16), may_alias));
typedef size_t v_mask;

INLINE v_mask v_first(size_t left)
{
    return left >= V ? V : left;
}
INLINE vf v_read(const float *p)
{
    return *(const vf_unaligned *)p;
}
INLINE void v_write(float *p, vf x)
{
    *(vf_unaligned *)p = x;
}
INLINE vf v_set(float x)
{
    return (vf){x, x, x, x};
}
INLINE vf v_load(v_mask m, const float *p)
{
    if (m == V)
        return v_read(p);
    vf x = v_set(0);
    for (size_t i = 0; i < m; i++)
        x[i] = p[i];
    return x;
}
INLINE void v_store(v_mask m, float *p, vf x)
{
    if (m == V) {
        v_write(p, x);
        return;
    }
    for (size_t i = 0; i < m; i++)
        p[i] = x[i];
}
INLINE vf v_blend(vi mask, vf x, vf other)
{
    return (vf)(((vi)x & mask) | ((vi)other & ~mask));
}
INLINE vf v_pick(v_mask m, vf x, vf other)
{
    int32_t n = (int32_t)m;
    return v_blend((vi){0, 1, 2, 3} < (vi){n, n, n, n}, x, other);
}
INLINE vf v_max(vf a, vf b)
{
    return v_blend(a > b, a, b);
}
INLINE vf v_min(vf a, vf b)
{
    return v_blend(a < b, a, b);
}
INLINE vf v_sqrt(vf x)
{
    for (int i = 0; i < V; i++)
        x[i] = __builtin_sqrtf(x[i]);
    return x;
}
INLINE vf v_round(vf x)
{
    /* 1.5 * 2^23: adding it leaves no bits for a fraction. Good for |x| < 2^22. */
    const float magic = 12582912.0F;
    return (x + magic) - magic;
}
INLINE vf v_scale2(vf x, vf n)
{
    vi e = (__builtin_convertvector(n, vi) + 127) << 23;
    return x * (vf)e;
}

#endif

/* Denormal results become 0, denormal operands count as 0, until v_denormals(what this returned):
 * arithmetic on them is a hundred times slower on x86. */
INLINE unsigned v_no_denormals(void)
{
#ifdef __SSE2__
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | 0x8040U); /* flush to zero, denormals are zero */
    return old;
#else
    return 0;
#endif
}
INLINE void v_denormals(unsigned old)
{
#ifdef __SSE2__
    _mm_setcsr(old);
#else
    (void)old;
#endif
}

INLINE vf v_zero(void)
{
    return v_set(0.0F);
}

/* Sum and maximum over the lanes, always in the same order. */
#if defined(__AVX512F__)
INLINE float v_sum(vf x)
{
    return _mm512_reduce_add_ps(x);
}
INLINE float v_top(vf x)
{
    return _mm512_reduce_max_ps(x);
}
#else
INLINE float v_sum(vf x)
{
    float lane[V];
    v_write(lane, x);
    for (size_t half = V / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}
INLINE float v_top(vf x)
{
    float lane[V];
    v_write(lane, x);
    for (size_t half = V / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}
#endif

/* exp to within 2 ulp (tested over the whole range); exp(x) = 0 below -87.3, saturates above 88.3 at
 * about 2.2e38 and lets NaN through.
 * x = n ln2 + r with |r| <= ln2/2; e^r = 1 + r + r^2 P(r), where P of degree 4 is the minimax fit
 * of the relative error of e^r (3.1e-9, far below one half ulp = 6e-8). ln2 is split in two so that
 * n * LN2_HIGH is exact. */
INLINE vf v_exp(vf x)
{
    const float low = -87.3F, high = 88.3F;
    const float ln2_high = 0.693359375F, ln2_low = -2.12194440e-4F;
    vf y = v_min(v_set(high), v_max(v_set(low), x));
    vf n = v_round(y * 1.44269504F);
    vf r = y - n * ln2_high;
    r = r - n * ln2_low;
    vf p = v_set(0.00138144649F);
    p = p * r + 0.00836878084F;
    p = p * r + 0.0416683927F;
    p = p * r + 0.166665196F;
    p = p * r + 0.49999994F;
    vf e = v_scale2(p * (r * r) + r + 1.0F, n);
#if defined(__AVX512F__)
    return _mm512_mask_mov_ps(e, _mm512_cmp_ps_mask(x, v_set(low), _CMP_LT_OQ), v_zero());
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_andnot_ps(_mm256_cmp_ps(x, v_set(low), _CMP_LT_OQ), e);
#else
    return v_blend(x < v_set(low), v_zero(), e);
#endif
}

#endif
