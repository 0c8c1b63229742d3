#include "proto/budget.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

int budget_uniform(const struct job_spec *s, int heads, int *n, struct dha_err *e)
{
    if (s->method.grouping == GROUP_ONE) {
        *n = 1;
        return 0;
    }
    double exact = s->budget * heads;
    *n = (int)lround(exact);
    bool whole = *n >= 1 && fabs(exact - *n) < 1e-6;
    if (whole && (s->method.any_count || heads % *n == 0))
        return 0;
    char list[256] = "";
    for (int i = 1; i <= heads; i++) {
        if (heads % i && !s->method.any_count)
            continue;
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, "%s%.6g", len ? ", " : "", (double)i / heads);
    }
    dha_fail(e, DHA_E_SPEC,
             "a budget of %g cannot be met by method %s: %g of %d heads in every layer is %s",
             s->budget, s->method.name, exact, heads,
             whole ? "no divisor of them" : "no whole number");
    return dha_err_hint(e, "budgets that can: %s; or method spectral, which takes any from %.6g on",
                        list, 1.0 / heads);
}

/* What the greedy allocation gives every layer's keys and values at least (METHODS 1.6.5): H/8 heads, or the next number that a
 * plan has a choice for. */
static int greedy_least(const struct job_spec *s, int heads)
{
    int n = (heads + 7) / 8;
    while (!s->method.any_count && heads % n)
        n++;
    return n;
}

int budget_total(const struct job_spec *s, int layers, int heads, int *total, struct dha_err *e)
{
    double exact = s->budget * 2 * layers * heads;
    if (lround(exact) < 2L * layers) {
        dha_fail(
            e, DHA_E_SPEC,
            "a budget of %g cannot be met: it is %.3g of %d heads, but %d layers need a key and "
            "a value head each",
            s->budget, exact, 2 * layers * heads, layers);
        return dha_err_hint(e, "the smallest budget of this model is %.6g", 1.0 / heads);
    }
    int each = greedy_least(s, heads);
    if (s->method.allocation == ALLOCATE_GREEDY && lround(exact) < 2L * layers * each) {
        dha_fail(e, DHA_E_SPEC,
                 "a budget of %g cannot be met by allocation \"greedy\": it gives every layer at "
                 "least %d of %d key and value heads",
                 s->budget, each, heads);
        return dha_err_hint(e, "its smallest budget is %.6g; allocation \"knapsack\" goes below",
                            (double)each / heads);
    }
    *total = (int)lround(exact);
    return 0;
}

int budget_check(const struct job_spec *s, int layers, int heads, struct dha_err *e)
{
    int n;
    return s->method.budget == BUDGET_UNIFORM ? budget_uniform(s, heads, &n, e)
                                              : budget_total(s, layers, heads, &n, e);
}
