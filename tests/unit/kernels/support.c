#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BEFORE = 37, AFTER = 53 }; /* odd on purpose: views need not be aligned */

uint32_t next_random(uint32_t *state)
{
    uint32_t x = *state; /* xorshift32 */
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

void fill_random(float *x, size_t n, uint32_t seed, float scale, float shift)
{
    uint32_t state = seed * 2654435761U + 12345U;
    for (size_t i = 0; i < n; i++)
        x[i] = shift + scale * ((float)(next_random(&state) >> 8) / 8388608.0F - 1.0F);
}

void with_every_cpu(void (*check)(struct duo *d))
{
    static const char *const isas[] = {"generic", "avx2", "avx512"};
    int checked = 0;
    for (size_t i = 0; i < 3; i++) {
        for (int threads = 1; threads <= 2; threads++) {
            struct kern_err err;
            struct duo d;
            assert_int_equal(setenv("DHA_CPU_ISA", isas[i], 1), 0);
            d.k[CPU] = kern_open("cpu", threads, &err);
            unsetenv("DHA_CPU_ISA");
            if (!d.k[CPU]) {
                assert_int_equal(err.code, KERN_E_UNSUPPORTED);
                print_message("not on this machine: %s\n", isas[i]);
                break;
            }
            d.k[REF] = kern_open("reference", 1, &err);
            assert_non_null(d.k[REF]);
            d.k[CPU]->ops->describe(d.k[CPU], d.name, sizeof d.name);
            check(&d);
            for (int b = 0; b < BACKENDS; b++) {
                assert_int_equal(kern_sync(d.k[b], &err), 0);
                kern_close(d.k[b]);
            }
            checked++;
        }
    }
    assert_true(checked > 0);
}

static struct arr arr_of(struct duo *d, enum kern_dtype type, const void *x, size_t n)
{
    struct arr a = {.n = n};
    size_t total = BEFORE + n + AFTER;
    float *guard = malloc(total * sizeof *guard);
    assert_non_null(guard);
    for (size_t i = 0; i < total; i++)
        guard[i] = 777.0F;
    for (int b = 0; b < BACKENDS; b++) {
        struct kern *k = d->k[b];
        a.buf[b] = k->ops->alloc(k, type, total);
        assert_non_null(a.buf[b]);
        k->ops->upload(k, kern_at(a.buf[b], 0), guard, total);
        a.v[b] = kern_at(a.buf[b], BEFORE);
        k->ops->upload(k, a.v[b], x, n);
    }
    free(guard);
    return a;
}

struct arr arr_from(struct duo *d, const float *x, size_t n)
{
    return arr_of(d, KERN_F32, x, n);
}

struct arr arr_ints(struct duo *d, const int32_t *x, size_t n)
{
    return arr_of(d, KERN_I32, x, n);
}

struct arr arr_random(struct duo *d, size_t n, uint32_t seed, float scale, float shift)
{
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    fill_random(x, n, seed, scale, shift);
    struct arr a = arr_from(d, x, n);
    free(x);
    return a;
}

void arr_free(struct duo *d, struct arr *a)
{
    for (int b = 0; b < BACKENDS; b++)
        d->k[b]->ops->free(d->k[b], a->buf[b]);
    *a = (struct arr){0};
}

static float *whole(struct duo *d, const struct arr *a, int b)
{
    size_t total = BEFORE + a->n + AFTER;
    float *x = malloc(total * sizeof *x);
    assert_non_null(x);
    d->k[b]->ops->download(d->k[b], x, kern_at(a->buf[b], 0), total);
    assert_int_equal(kern_sync(d->k[b], NULL), 0);
    return x;
}

float *arr_get(struct duo *d, const struct arr *a, int backend)
{
    float *x = whole(d, a, backend);
    memmove(x, x + BEFORE, a->n * sizeof *x);
    return x;
}

void arr_same(struct duo *d, const struct arr *a, double absolute, double relative,
              const char *what)
{
    float *ref = whole(d, a, REF), *cpu = whole(d, a, CPU);
    for (size_t i = 0; i < BEFORE + a->n + AFTER; i++) {
        double r = (double)ref[i], c = (double)cpu[i];
        bool inside = i >= BEFORE && i < BEFORE + a->n;
        double allowed = inside ? absolute + relative * fabs(r) : 0;
        if (isnan(r) && isnan(c))
            continue;
        if (!(fabs(c - r) <= allowed))
            fail_msg("%s on %s: element %td of %zu is %.9g, reference has %.9g (allowed %.3g)",
                     what, d->name, (ptrdiff_t)i - BEFORE, a->n, c, r, allowed);
    }
    free(ref);
    free(cpu);
}

void scattered_map(int *map, int heads, int kept, uint32_t seed)
{
    uint32_t state = seed * 2654435761U + 99U;
    for (int h = 0; h < heads; h++)
        map[h] = h < kept ? h : (int)(next_random(&state) % (uint32_t)kept);
    for (int h = heads - 1; h > 0; h--) {
        int other = (int)(next_random(&state) % (uint32_t)(h + 1)), t = map[h];
        map[h] = map[other];
        map[other] = t;
    }
}
