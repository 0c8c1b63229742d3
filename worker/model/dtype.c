/* dtype.c: see dtype.h. Plain integer code: the compiler vectorises it, and files are read at the disk's pace. */
#include "worker/model/dtype.h"

#include <string.h>

static inline uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

void dtype_f32_from_bf16(float *dst, const void *src, size_t n)
{
    const unsigned char *p = src;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        dst[i] = float_of((uint32_t)h << 16);
    }
}

void dtype_f32_from_f16(float *dst, const void *src, size_t n)
{
    const unsigned char *p = src;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
        /* Exponent bias 15 -> 127. A subnormal gets an implicit one that the subtraction takes away again:
         * no f32 subnormal on the way, so flush-to-zero modes do no harm. */
        uint32_t v = rest + (112u << 23);
        if (rest < 0x0400u << 13)
            v = bits_of(float_of(v + (1u << 23)) - 0x1p-14f);
        if (rest >= 0x7c00u << 13) /* infinity, NaN */
            v = rest | 0x7f800000u;
        dst[i] = float_of(sign | v);
    }
}

void dtype_bf16_from_f32(uint16_t *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u = bits_of(src[i]);
        uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
        uint32_t nan = u >> 16 | 0x40;
        dst[i] = (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : rounded);
    }
}

static uint16_t f16_of(float f)
{
    uint32_t u = bits_of(f), a = u & 0x7fffffff;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (a >= 0x47800000) /* 65536 and above; the round below takes care of 65520..65535 */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) {
        /* Subnormal or zero: adding 0.5 puts the last bit of an f16 subnormal, 2^-24, at the last bit of the
         * f32, so that the addition rounds. */
        return (uint16_t)(sign | (uint16_t)(bits_of(float_of(a) + 0.5f) - 0x3f000000u));
    }
    uint32_t rounded = a - (112u << 23) + 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | (uint16_t)(rounded >> 13));
}

void dtype_f16_from_f32(uint16_t *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = f16_of(src[i]);
}
