/* allocate.c: the head budget, its exact allocation (METHODS D5 and section 6, "Budget") and paper 1's greedy one. Pure. */
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

static int check_choices(const struct plan *p, struct dha_err *e)
{
    for (int i = 0; i < 2 * p->layers; i++)
        if (p->entries[i].n_choices < 1)
            return dha_fail(e, DHA_E_INTERNAL,
                            "the plan has no choice for the %s heads of layer %d",
                            i % 2 ? "value" : "key", i / 2);
    return 0;
}

/* best[b] = least cost of the entries so far with exactly b heads, INFINITY if there is no such choice;
 * from[entry][b] = the choice that got there. Time entries * total * choices, memory entries * total * 2 bytes
 * (LLaMA-2-7B: 64 entries * 2048 heads = 256 KiB). */
int plan_choose(const struct plan *p, int total, int *pick, double *cost, struct dha_err *e)
{
    int entries = 2 * p->layers, least = 0, rc = -1;
    if (check_choices(p, e))
        return -1;
    for (int i = 0; i < entries; i++)
        least += p->entries[i].choices[0].n;
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

/* --- greedy -------------------------------------------------------------------------------------- */

/* Every entry at its smallest choice of at least H/8 heads, or its largest if all are smaller. */
static int start_at_an_eighth(const struct plan *p, int *pick)
{
    int used = 0;
    for (int i = 0; i < 2 * p->layers; i++) {
        const struct plan_entry *en = &p->entries[i];
        pick[i] = 0;
        while (pick[i] < en->n_choices - 1 && 8 * en->choices[pick[i]].n < p->heads)
            pick[i]++;
        used += en->choices[pick[i]].n;
    }
    return used;
}

/* An entry's loss: of all its heads in as few groups as there may be. With one group that is the sum over all pairs, which
 * is what the paper's layer loss is, up to a factor. */
static double entry_loss(const struct plan *p, int i)
{
    return p->entries[i].choices[0].cost;
}

static int choice_of_half(const struct plan *p, int i)
{
    const struct plan_entry *en = &p->entries[i];
    int c = en->n_choices - 1;
    while (c > 0 && 2 * en->choices[c].n > p->heads)
        c--;
    return c;
}

static bool lift(const struct plan *p, int i, int to, int *pick, int *left)
{
    const struct choice *c = p->entries[i].choices;
    int more = c[to].n - c[pick[i]].n;
    if (more <= 0 || more > *left)
        return false;
    *left -= more;
    pick[i] = to;
    return true;
}

/* The entries of highest loss to H/2, while the budget lasts, but a quarter of them at most: the paper's cap is not printed,
 * and without one nothing would be left for its last step. */
static void lift_highest(const struct plan *p, int *pick, int *left)
{
    int entries = 2 * p->layers, lifts = (entries + 3) / 4;
    for (; lifts > 0; lifts--) {
        int best = -1;
        for (int i = 0; i < entries; i++)
            if (pick[i] < choice_of_half(p, i) &&
                (best < 0 || entry_loss(p, i) > entry_loss(p, best)))
                best = i;
        if (best < 0 || !lift(p, best, choice_of_half(p, best), pick, left))
            return;
    }
}

/* The rest to the largest ratio of loss to heads, from one choice to the next. An entry whose next choice does not fit any
 * more never will. */
static void lift_by_ratio(const struct plan *p, int *pick, int *left)
{
    for (;;) {
        int best = -1;
        double most = 0;
        for (int i = 0; i < 2 * p->layers; i++) {
            const struct plan_entry *en = &p->entries[i];
            const struct choice *now = &en->choices[pick[i]];
            if (pick[i] + 1 == en->n_choices || now[1].n - now->n > *left)
                continue;
            double ratio = entry_loss(p, i) / now->n;
            if (best < 0 || ratio > most) {
                best = i;
                most = ratio;
            }
        }
        if (best < 0)
            return;
        lift(p, best, pick[best] + 1, pick, left);
    }
}

int plan_choose_greedy(const struct plan *p, int total, int *pick, double *cost, struct dha_err *e)
{
    if (check_choices(p, e))
        return -1;
    int least = start_at_an_eighth(p, pick), left = total - least;
    if (left < 0) {
        dha_fail(e, DHA_E_INPUT,
                 "a budget of %d heads cannot be met greedily: an eighth of the heads everywhere "
                 "is %d",
                 total, least);
        return dha_err_hint(e,
                            "the least budget that can be met is %.4f; allocation \"knapsack\" "
                            "goes below",
                            (double)least / (2.0 * p->layers * p->heads));
    }
    lift_highest(p, pick, &left);
    lift_by_ratio(p, pick, &left);
    if (cost)
        *cost = 0;
    for (int i = 0; cost && i < 2 * p->layers; i++)
        *cost += p->entries[i].choices[pick[i]].cost;
    return 0;
}
