/* dominate.c: see dominate.h. */
#include "daemon/dominate.h"

#include <math.h>

bool dominate(const struct dominate_job *jobs, size_t n, size_t i, double margin,
              struct dominate_verdict *v)
{
    const struct dominate_job *me = &jobs[i];
    bool found = false;
    if (!me->training || me->n == 0 || me->kv_bytes <= 0) {
        return false;
    }
    v->mine = me->at[me->n - 1];
    for (size_t k = 0; k < n; k++) {
        const struct dominate_job *other = &jobs[k];
        if (k == i || other->seed != me->seed || other->kv_bytes <= 0 ||
            other->kv_bytes > me->kv_bytes) {
            continue;
        }
        for (size_t p = 0; p < other->n && other->at[p].tokens <= v->mine.tokens; p++) {
            double loss = other->at[p].loss;
            /* NaN compares false; a job that diverges fails by itself */
            if (isfinite(loss) && v->mine.loss > loss * (1 + margin) &&
                (!found || loss < v->theirs.loss)) {
                found = true;
                v->by = k;
                v->theirs = other->at[p];
            }
        }
    }
    return found;
}
