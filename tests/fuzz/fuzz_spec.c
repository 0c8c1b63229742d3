/* A spec that is accepted is written with every default; that text is a fixed point. Every stage of it
 * has inputs. A spec that is refused says why. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct job_spec s, again;
    struct spec_errors errs;
    cJSON *j = json_parse((const char *)data, size, NULL, NULL);
    if (!j)
        return 0;
    if (spec_parse(j, "/base", &s, &errs) != 0) {
        if (errs.n == 0 || errs.at[0].msg[0] == '\0')
            abort();
        cJSON_Delete(j);
        return 0;
    }
    cJSON *first = spec_to_json(&s);
    if (!first || spec_parse(first, NULL, &again, &errs) != 0)
        abort();
    cJSON *second = spec_to_json(&again);
    char *a = json_text(first), *b = second ? json_text(second) : NULL;
    if (!a || !b || strcmp(a, b) != 0)
        abort();
    for (int k = 0; k < STAGE_KINDS; k++) {
        cJSON *in = spec_stage_inputs(&s, (enum stage_kind)k);
        if (!in)
            abort();
        cJSON_Delete(in);
    }
    free(a);
    free(b);
    cJSON_Delete(second);
    cJSON_Delete(first);
    spec_finish(&again);
    spec_finish(&s);
    cJSON_Delete(j);
    return 0;
}
