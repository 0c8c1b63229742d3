/* loss.c: cross-entropy and KL; the formulas are in reference/loss.c.
 *
 * A row of 32,000 logits is 128 KB: it fits the second-level cache, so a row is fetched from memory
 * once and everything is done to it by one thread. First pass, in blocks that fit the first-level
 * cache: maximum of the block, e = exp(z - max) stored in place of z, and its sum. Second pass: the
 * gradient, which is only e times a factor of its block, so each logit costs one exp in all. With a
 * teacher the first pass also sums exp(zt - max_t) * (zt - z), which is what KL needs, and keeps the
 * teacher's e in a row of scratch: the teacher's logits are not ours to overwrite.
 * While a block's exps are computed the next block is prefetched (past the end of the last row that
 * does nothing): a quarter of the time of the whole.
 */
#include "isa.h"
#include "vec.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 2048 }; /* floats: 8 KB of logits and as much of the teacher's */

struct row {
    float *z;
    const float *zt; /* NULL: no teacher */
    size_t vocab;
    bool grad;
    float *max, *max_t; /* of each block; -inf if all its exps are 0 */
    float *e_t;         /* [vocab] exp(zt - maximum of the block), for the gradient */
    /* log-sum-exp of z and zt, sum of exp(zt - lse_t) * (zt - z) */
    double lse, lse_t, cross;
};

static float block_max(const float *z, size_t n)
{
    vf top = v_set(-INFINITY);
    size_t c = 0;
    for (; c + V <= n; c += V)
        top = v_max(v_read(z + c), top);
    if (c < n) {
        v_mask m = v_first(n - c);
        top = v_max(v_pick(m, v_load(m, z + c), top), top);
    }
    float max = v_top(top);
    return max == -INFINITY ? 0 : max; /* all -inf: their exp is 0, not exp(-inf + inf) */
}

/* Sum of exp(z - max) over a block; stored over z if asked. */
static float block_exp(float *z, size_t n, float max, bool keep)
{
    vf sum = v_zero();
    for (size_t c = 0; c < n; c += V) {
        v_mask m = v_first(n - c);
        vf e = v_pick(m, v_exp(v_load(m, z + c) - max), v_zero());
        __builtin_prefetch(z + c + BLOCK, 1);
        if (keep)
            v_store(m, z + c, e);
        sum += e;
    }
    return v_sum(sum);
}

/* Sums of e = exp(zt - max) and of e * (zt - z) over a block; e stored if there is a place. */
static float block_cross(const float *z, const float *zt, size_t n, float max, float *e_t,
                         float *cross)
{
    vf sum = v_zero(), mix = v_zero();
    for (size_t c = 0; c < n; c += V) {
        v_mask m = v_first(n - c);
        vf t = v_load(m, zt + c);
        __builtin_prefetch(zt + c + BLOCK);
        vf e = v_pick(m, v_exp(t - max), v_zero());
        if (e_t)
            v_store(m, e_t + c, e);
        sum += e;
        mix += e * (t - v_load(m, z + c));
    }
    *cross = v_sum(mix);
    return v_sum(sum);
}

/* A sum of exp kept relative to the largest maximum so far. */
struct running {
    double max, sum, cross;
};

static void running_add(struct running *r, float max, float sum, float cross)
{
    if (sum == 0)
        return; /* its maximum says nothing */
    if ((double)max > r->max) {
        double shrink = exp(r->max - (double)max);
        r->sum *= shrink;
        r->cross *= shrink;
        r->max = (double)max;
    }
    double f = exp((double)max - r->max);
    r->sum += (double)sum * f;
    r->cross += (double)cross * f;
}

static void first_pass(struct row *r)
{
    struct running z = {-INFINITY, 0, 0}, t = {-INFINITY, 0, 0};
    for (size_t at = 0, b = 0; at < r->vocab; at += BLOCK, b++) {
        size_t n = r->vocab - at < BLOCK ? r->vocab - at : BLOCK;
        if (r->zt) {
            float top = block_max(r->zt + at, n), cross;
            float mass = block_cross(r->z + at, r->zt + at, n, top, r->grad ? r->e_t + at : NULL,
                                     &cross);
            running_add(&t, top, mass, cross);
            r->max_t[b] = mass == 0 ? -INFINITY : top;
        }
        float max = block_max(r->z + at, n), sum = block_exp(r->z + at, n, max, r->grad);
        running_add(&z, max, sum, 0);
        r->max[b] = sum == 0 ? -INFINITY : max; /* so that the block's factor is 0, too */
    }
    r->lse = z.max + log(z.sum);
    r->lse_t = t.max + log(t.sum);
    r->cross = t.cross / t.sum;
}

/* z = a * softmax(z) - b * softmax(zt) from the exps of both */
static void second_pass(const struct row *r, float a, float b)
{
    for (size_t at = 0, i = 0; at < r->vocab; at += BLOCK, i++) {
        size_t n = r->vocab - at < BLOCK ? r->vocab - at : BLOCK;
        float *z = r->z + at;
        vf f = v_set(a * (float)exp((double)r->max[i] - r->lse));
        if (!r->zt) {
            for (size_t c = 0; c < n; c += V) {
                v_mask m = v_first(n - c);
                v_store(m, z + c, f * v_load(m, z + c));
            }
            continue;
        }
        const float *e_t = r->e_t + at;
        vf g = v_set(b * (float)exp((double)r->max_t[i] - r->lse_t));
        for (size_t c = 0; c < n; c += V) {
            v_mask m = v_first(n - c);
            v_store(m, z + c, f * v_load(m, z + c) - g * v_load(m, e_t + c));
        }
    }
}

void CPU(loss)(struct kern *k, struct kern_view logits, struct kern_view teacher,
               struct kern_view targets, struct kern_view weights, size_t rows, size_t vocab,
               float w_lm, float w_kl, float scale, bool grad, struct kern_view lm,
               struct kern_view kl)
{
    if (!kern_ok(k))
        return;
    const int32_t *target = host_i32(targets);
    float *LM = host_f32(lm), *KL = host_f32(kl), *Z = host_f32(logits);
    const float *ZT = host_f32(teacher), *W = host_f32(weights);
    size_t parts = (size_t)cpu_team(k, 4 * rows * vocab);
    size_t blocks = (vocab + BLOCK - 1) / BLOCK, stride = (blocks + 31) / 16 * 16;
    size_t own = 2 * stride + (ZT && grad ? (vocab + 31) / 16 * 16 : 0); /* a part's scratch */
    float *scratch = cpu_scratch(k, parts * own * sizeof *scratch);
    if (!scratch)
        return;
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (size_t part = 0; part < parts; part++) {
        struct span s = cpu_span(rows, parts, part);
        for (size_t i = s.first; i < s.end; i++) {
            struct row r = {.z = Z + i * vocab,
                            .zt = ZT ? ZT + i * vocab : NULL,
                            .vocab = vocab,
                            .grad = grad,
                            .max = scratch + part * own,
                            .max_t = scratch + part * own + stride,
                            .e_t = scratch + part * own + 2 * stride};
            LM[i] = KL[i] = 0;
            if (target[i] < 0) {
                if (grad)
                    memset(r.z, 0, vocab * sizeof *r.z);
                continue;
            }
            double z_target = (double)r.z[target[i]];
            first_pass(&r);
            LM[i] = (float)(r.lse - z_target);
            if (r.zt)
                KL[i] = (float)(r.cross - r.lse_t + r.lse);
            if (grad) {
                /* Without a teacher there is no KL, whatever its weight. */
                float a_lm = W ? w_lm * W[2 * i] : w_lm, a_kl = W ? w_kl * W[2 * i + 1] : w_kl;
                second_pass(&r, scale * (r.zt ? a_lm + a_kl : a_lm), scale * a_kl);
                r.z[target[i]] -= scale * a_lm;
            }
        }
    }
}
