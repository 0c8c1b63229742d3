/* dtype.h: 16-bit floats on the host: F16 and BF16 to and from f32, for files. Pure. */
#ifndef DHA_WORKER_DTYPE_H
#define DHA_WORKER_DTYPE_H

#include <stddef.h>
#include <stdint.h>

/* src may be unaligned: it lies in a mapped file. */
void dtype_f32_from_f16(float *dst, const void *src, size_t n);
void dtype_f32_from_bf16(float *dst, const void *src, size_t n);
/* Round to nearest, ties to even; NaN stays NaN (quiet), overflow becomes infinity. */
void dtype_f16_from_f32(uint16_t *dst, const float *src, size_t n);
void dtype_bf16_from_f32(uint16_t *dst, const float *src, size_t n);

#endif
