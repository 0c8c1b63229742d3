/* support.h: the same operation on two backends, compared.
 *
 * A `struct duo` holds the reference queue and a cpu queue. A `struct arr` is one array on both, with
 * the same contents; its view starts at a non-zero offset and the buffer goes on after its end, so
 * that comparing whole buffers also catches writes outside the array or between rows.
 */
#ifndef DHA_TEST_KERNELS_SUPPORT_H
#define DHA_TEST_KERNELS_SUPPORT_H

#include "kernels/kern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the above first */
#include <cmocka.h>

enum { REF, CPU, BACKENDS };

/* One half ulp of a float near 1: the relative error of one rounding. */
#define ROUNDING 6e-8

struct duo {
    struct kern *k[BACKENDS];
    char name[128]; /* of the cpu queue, for messages */
};

/* Calls check for cpu queues of every instruction set this machine has, with 1 and 2 threads. */
void with_every_cpu(void (*check)(struct duo *d));

struct arr {
    size_t n;
    struct kern_buf *buf[BACKENDS];
    struct kern_view v[BACKENDS];
};

/* Numbers in [-1, 1) times scale plus shift; the same for the same seed. */
struct arr arr_random(struct duo *d, size_t n, uint32_t seed, float scale, float shift);
struct arr arr_from(struct duo *d, const float *x, size_t n);
struct arr arr_ints(struct duo *d, const int32_t *x, size_t n);
void arr_free(struct duo *d, struct arr *a);
/* |cpu - ref| <= absolute + relative * |ref| for every element, also outside the array; NaN = NaN. */
void arr_same(struct duo *d, const struct arr *a, double absolute, double relative,
              const char *what);
/* Copies the array as that backend has it; the caller frees. */
float *arr_get(struct duo *d, const struct arr *a, int backend);

void fill_random(float *x, size_t n, uint32_t seed, float scale, float shift);
uint32_t next_random(uint32_t *state);

/* Two heads maps made of pieces of different sizes, not contiguous. */
void scattered_map(int *map, int heads, int kept, uint32_t seed);

#endif
