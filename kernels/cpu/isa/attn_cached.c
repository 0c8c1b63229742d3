/* attn_cached.c: attention of few new positions against cached keys and values (kern.h, attn_cached).
 *
 * With one new position nothing can be reused between rows, so the cost is reading the cache once a query
 * head: a dot product a key, a softmax over the row, a weighted sum of the values. A task is one (sequence,
 * query head, new row); consecutive tasks of a sequence share K and V heads where the map does, and find them
 * in the processor's cache. A task's arithmetic does not depend on the number of threads.
 */
#include "isa.h"
#include "vec.h"

#include <math.h>

enum { WIDE = 4 }; /* vectors of head dims summed at a time */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static float dot(const float *a, const float *b, size_t n)
{
    vf sum = v_zero();
    for (size_t c = 0; c < n; c += V) {
        v_mask m = v_first(n - c);
        sum += v_load(m, a + c) * v_load(m, b + c);
    }
    return v_sum(sum);
}

/* s[0..n) = exp(s - max), zero up to whole vectors; returns 1 / sum. */
static float softmax(float *s, size_t n)
{
    float max = -INFINITY;
    vf total = v_zero();
    for (size_t j = 0; j < n; j++)
        max = s[j] > max || isnan(s[j]) ? s[j] : max;
    for (size_t j = 0; j < n; j += V) {
        vf e = v_pick(v_first(n - j), v_exp(v_read(s + j) - max), v_zero());
        v_write(s + j, e);
        total += e;
    }
    return 1.0F / v_sum(total);
}

/* o[0..dim) = scale * sum_j s[j] v[j, :] */
static void weigh(float *o, const float *s, size_t n, const float *v, size_t ldv, size_t dim,
                  float scale)
{
    for (size_t c0 = 0; c0 < dim; c0 += WIDE * V) {
        vf sum[WIDE];
        v_mask m[WIDE];
        size_t used = smaller((dim - c0 + V - 1) / V, WIDE);
        for (size_t x = 0; x < used; x++) {
            sum[x] = v_zero();
            m[x] = v_first(dim - c0 - x * V);
        }
        for (size_t j = 0; j < n; j++)
            for (size_t x = 0; x < used; x++)
                sum[x] += v_load(m[x], v + j * ldv + c0 + x * V) * s[j];
        for (size_t x = 0; x < used; x++)
            v_store(m[x], o + c0 + x * V, sum[x] * scale);
    }
}

void CPU(attn_cached)(struct kern *k, struct kern_view o, struct kern_view q, struct kern_view key,
                      struct kern_view v, const struct kern_attn *a, int past, int room)
{
    if (!kern_ok(k))
        return;
    size_t T = (size_t)a->seq, H = (size_t)a->heads, d = (size_t)a->dim;
    size_t tasks = (size_t)a->batch * H * T, most = (size_t)past + T;
    size_t floats = (most + V + 15) / 16 * 16; /* softmax works on whole vectors */
    size_t team = (size_t)cpu_team(k, tasks * most * d);
    float *scratch = cpu_scratch(k, team * floats * sizeof *scratch);
    if (!scratch)
        return;
    const float *Q = host_f32(q), *K = host_f32(key), *values = host_f32(v);
    float *O = host_f32(o);
#pragma omp parallel for num_threads((int)team) schedule(static, 1)
    for (size_t part = 0; part < team; part++) {
        float *s = scratch + part * floats;
        struct span mine = cpu_span(tasks, team, part);
        for (size_t task = mine.first; task < mine.end; task++) {
            size_t b = task / (H * T), h = task / T % H, i = task % T, n = (size_t)past + i + 1;
            size_t row = b * T + i, base = b * (size_t)room;
            const float *qs = Q + row * a->ldq + h * d;
            const float *keys = K + base * a->ldk + (size_t)a->maps->key_of[h] * d;
            for (size_t j = 0; j < n; j++)
                s[j] = a->scale * dot(qs, keys + j * a->ldk, d);
            float inv = softmax(s, n);
            weigh(O + row * a->ldo + h * d, s, n,
                  values + base * a->ldv + (size_t)a->maps->value_of[h] * d, a->ldv, d, inv);
        }
    }
}
