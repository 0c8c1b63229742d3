/* allocate.c: the head budget and its exact allocation (METHODS D5 and section 6, "Budget"). Pure. */
#include "worker/method/method.h"

#include <math.h>
#include <stdlib.h>

#include "worker/method/linalg.h"

int plan_total(double budget, int layers, int heads)
{
    double all = 2.0 * layers * heads;
    int total = (int)lround(budget * all);
    /* One key and one value head a layer is the least a model can have. */
    int least = 2 * layers;
    return total < least ? least : total > (int)all ? (int)all : total;
}

/* best[b] = least cost of the entries so far with exactly b heads, INFINITY if there is no such choice;
 * from[entry][b] = the choice that got there. Time entries * total * choices, memory entries * total * 2 bytes
 * (LLaMA-2-7B: 64 entries * 2048 heads = 256 KiB). */
int plan_choose(const struct plan *p, int total, int *pick, double *cost, struct dha_err *e)
{
    int entries = 2 * p->layers, least = 0, rc = -1;
    for (int i = 0; i < entries; i++) {
        if (p->entries[i].n_choices < 1)
            return dha_fail(e, DHA_E_INTERNAL,
                            "the plan has no choice for the %s heads of layer %d",
                            i % 2 ? "value" : "key", i / 2);
        least += p->entries[i].choices[0].n;
    }
    if (least > total) {
        dha_fail(e, DHA_E_INPUT,
                 "a budget of %d heads cannot be met: the smallest choices of all layers need %d",
                 total, least);
        return dha_err_hint(e, "the least budget that can be met is %.4f",
                            (double)least / (2.0 * p->layers * p->heads));
    }
    size_t width = (size_t)total + 1;
    double *costs = la_alloc(2 * width, sizeof *costs, "the budget allocation", e);
    unsigned short *from = la_alloc((size_t)entries * width, sizeof *from, "the budget allocation",
                                    e);
    if (!costs || !from)
        goto out;
    double *best = costs, *next = costs + width;
    for (size_t b = 0; b < width; b++)
        best[b] = b == 0 ? 0.0 : INFINITY;
    for (int i = 0; i < entries; i++) {
        const struct plan_entry *entry = &p->entries[i];
        for (size_t b = 0; b < width; b++) {
            next[b] = INFINITY;
            for (int c = 0; c < entry->n_choices; c++) {
                size_t n = (size_t)entry->choices[c].n;
                if (n > b)
                    break; /* ascending */
                double v = best[b - n] + entry->choices[c].cost;
                if (v < next[b]) {
                    next[b] = v;
                    from[(size_t)i * width + b] = (unsigned short)c;
                }
            }
        }
        double *t = best;
        best = next;
        next = t;
    }
    size_t at = 0;
    for (size_t b = 1; b < width; b++) /* fewer heads win a tie */
        if (best[b] < best[at] || isinf(best[at]))
            at = b;
    if (isinf(best[at])) {
        dha_fail(e, DHA_E_INTERNAL, "no allocation of %d heads found although %d would do", total,
                 least);
        goto out;
    }
    if (cost)
        *cost = best[at];
    for (int i = entries - 1; i >= 0; i--) {
        pick[i] = from[(size_t)i * width + at];
        at -= (size_t)p->entries[i].choices[pick[i]].n;
    }
    rc = 0;
out:
    free(from);
    free(costs);
    return rc;
}
