/* bild.c: distillation of logit differences (docs/METHOD.md, recovery; arXiv 2406.13555). Written from the definition: the
 * pairs are listed, each side's softmax over them is taken, and the gradient of KL(q || p) by a student's difference is
 * (p - q) / T, which belongs to one logit with + and to the other with -.
 */
#include "../host/host.h"
#include "reference.h"

#include <assert.h>
#include <math.h>

/* pick[0..top): the largest of z, in falling order; of equal ones the lower index first. */
static void largest(const float *z, size_t vocab, int top, size_t *pick)
{
    for (int i = 0; i < top; i++) {
        size_t best = vocab;
        for (size_t v = 0; v < vocab; v++) {
            bool taken = false;
            for (int j = 0; j < i; j++)
                taken = taken || pick[j] == v;
            if (!taken && (best == vocab || z[v] > z[best]))
                best = v;
        }
        pick[i] = best;
    }
}

/* softmax of the differences of z at pick over temperature, pair (i, j) at n counted up; returns how many. */
static int pairs(const float *z, const size_t *pick, int top, double temperature, double *p)
{
    double max = -INFINITY, sum = 0;
    int n = 0;
    for (int i = 0; i < top; i++)
        for (int j = i + 1; j < top; j++, n++) {
            p[n] = ((double)z[pick[i]] - (double)z[pick[j]]) / temperature;
            max = p[n] > max || isnan(p[n]) ? p[n] : max;
        }
    for (int i = 0; i < n; i++)
        sum += p[i] = exp(p[i] - max);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
    return n;
}

/* One direction: its loss; value[i] = its derivative by the student's logit pick[i]. */
static double led(const float *z, const float *zt, const size_t *pick, int top, double temperature,
                  double *value)
{
    double q[KERN_BILD_TOP * KERN_BILD_TOP / 2], p[KERN_BILD_TOP * KERN_BILD_TOP / 2], sum = 0;
    pairs(zt, pick, top, temperature, q);
    pairs(z, pick, top, temperature, p);
    for (int i = 0; i < top; i++)
        value[i] = 0;
    int n = 0;
    for (int i = 0; i < top; i++)
        for (int j = i + 1; j < top; j++, n++) {
            if (q[n] > 0)
                sum += q[n] * (log(q[n]) - log(p[n]));
            value[i] += (p[n] - q[n]) / temperature;
            value[j] -= (p[n] - q[n]) / temperature;
        }
    return sum;
}

void reference_bild(struct kern *k, struct kern_view logits, struct kern_view teacher,
                    struct kern_view weights, size_t rows, size_t vocab, int top, float temperature,
                    float scale, struct kern_view loss, struct kern_view index,
                    struct kern_view value)
{
    if (!kern_ok(k))
        return;
    assert(top >= 2 && top <= KERN_BILD_TOP && (size_t)top <= vocab);
    const float *W = host_f32(weights);
    float *L = host_f32(loss), *VALUE = host_f32(value);
    int32_t *INDEX = host_i32(index);
    for (size_t r = 0; r < rows; r++) {
        const float *z = host_f32(logits) + r * vocab, *zt = host_f32(teacher) + r * vocab;
        double sum = 0;
        for (int side = 0; side < 2; side++) {
            size_t pick[KERN_BILD_TOP] = {0};
            double by[KERN_BILD_TOP] = {0};
            if (W[r] != 0) {
                largest(side ? z : zt, vocab, top, pick);
                sum += led(z, zt, pick, top, (double)temperature, by);
            }
            for (int i = 0; i < top; i++) {
                size_t to = (2 * r + (size_t)side) * (size_t)top + (size_t)i;
                INDEX[to] = (int32_t)pick[i];
                VALUE[to] = (float)((double)scale * (double)W[r] * by[i]);
            }
        }
        L[r] = (float)sum;
    }
}

void reference_scatter_add(struct kern *k, struct kern_view y, struct kern_view index,
                           struct kern_view value, size_t rows, size_t cols, size_t per)
{
    if (!kern_ok(k))
        return;
    float *Y = host_f32(y);
    const int32_t *INDEX = host_i32(index);
    const float *VALUE = host_f32(value);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < per; i++)
            Y[r * cols + (size_t)INDEX[r * per + i]] += VALUE[r * per + i];
}
