/* loss.c: cross-entropy with the next token and Kullback-Leibler divergence from a teacher.
 *
 *   lm = lse(z) - z[target]          d lm / dz = p - onehot(target)
 *   kl = sum_v pt log(pt / p)        d kl / dz = p - pt            p = softmax(z), pt = softmax(zt)
 */
#include "../host/host.h"
#include "reference.h"

#include <math.h>

static double log_sum_exp(const float *z, size_t n)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        max = (double)z[i] > max || isnan(z[i]) ? (double)z[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)z[i] - max);
    return max + log(sum);
}

void reference_loss(struct kern *k, struct kern_view logits, struct kern_view teacher,
                    struct kern_view targets, struct kern_view weights, size_t rows, size_t vocab,
                    float w_lm, float w_kl, float scale, bool grad, struct kern_view lm,
                    struct kern_view kl)
{
    if (!kern_ok(k))
        return;
    const int32_t *target = host_i32(targets);
    const float *W = host_f32(weights);
    float *LM = host_f32(lm), *KL = host_f32(kl);
    for (size_t r = 0; r < rows; r++) {
        double a_lm = (double)w_lm * (W ? (double)W[2 * r] : 1.0);
        double a_kl = (double)w_kl * (W ? (double)W[2 * r + 1] : 1.0);
        float *z = host_f32(logits) + r * vocab;
        const float *zt = teacher.buf ? host_f32(teacher) + r * vocab : NULL;
        LM[r] = KL[r] = 0;
        if (target[r] < 0) {
            for (size_t v = 0; grad && v < vocab; v++)
                z[v] = 0;
            continue;
        }
        double l = log_sum_exp(z, vocab), lt = zt ? log_sum_exp(zt, vocab) : 0, sum = 0;
        LM[r] = (float)(l - (double)z[target[r]]);
        for (size_t v = 0; v < vocab; v++) {
            double logp = (double)z[v] - l, p = exp(logp);
            double logpt = zt ? (double)zt[v] - lt : 0, pt = zt ? exp(logpt) : 0;
            if (zt && pt > 0)
                sum += pt * (logpt - logp);
            double dlm = p - ((int32_t)v == target[r] ? 1.0 : 0.0), dkl = zt ? p - pt : 0;
            if (grad)
                z[v] = (float)((double)scale * (a_lm * dlm + a_kl * dkl));
        }
        KL[r] = (float)sum;
    }
}
