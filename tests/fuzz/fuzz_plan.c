/* A plan.json that is accepted is written back as a fixed point, and any budget is shared out over it or refused as the
 * user's, not as ours. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "worker/method/method.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void choose(const struct plan *p, int total)
{
    int pick[2 * MODEL_MAX_LAYERS];
    for (int greedy = 0; greedy < 2; greedy++) {
        struct dha_err e = {0};
        double cost = 0;
        int used = 0;
        if (greedy ? plan_choose_greedy(p, total, pick, &cost, &e)
                   : plan_choose(p, total, pick, &cost, &e)) {
            if (!e.msg[0] || e.code == DHA_E_INTERNAL)
                abort();
            continue;
        }
        for (int i = 0; i < 2 * p->layers; i++) {
            if (pick[i] < 0 || pick[i] >= p->entries[i].n_choices)
                abort();
            used += p->entries[i].choices[pick[i]].n;
        }
        if (used > total && !greedy)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plan p, again;
    struct dha_err e = {0};
    cJSON *j = json_parse((const char *)data, size, NULL, NULL);
    if (!j)
        return 0;
    if (plan_from_json(j, &p, &e) != 0) {
        if (e.code == DHA_E_OK || e.msg[0] == '\0')
            abort();
        cJSON_Delete(j);
        return 0;
    }
    cJSON *first = plan_to_json(&p);
    if (!first || plan_from_json(first, &again, &e) != 0)
        abort();
    cJSON *second = plan_to_json(&again);
    char *a = json_text(first), *b = second ? json_text(second) : NULL;
    if (!a || !b || strcmp(a, b) != 0)
        abort();
    for (int i = 0; i <= 8; i++)
        choose(&p, plan_total(i / 8.0, p.layers, p.heads));
    free(a);
    free(b);
    cJSON_Delete(second);
    cJSON_Delete(first);
    plan_finish(&again);
    plan_finish(&p);
    cJSON_Delete(j);
    return 0;
}
