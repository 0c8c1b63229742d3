/* An attempt's spec.json that is accepted is written back as a fixed point. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/stage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stage_spec s, again;
    struct dha_err e = {0};
    cJSON *j = json_parse((const char *)data, size, NULL, NULL);
    if (!j)
        return 0;
    if (stage_spec_parse(j, &s, &e) != 0) {
        if (e.code == DHA_E_OK || e.msg[0] == '\0')
            abort();
        cJSON_Delete(j);
        return 0;
    }
    cJSON *first = stage_spec_to_json(&s);
    if (!first || stage_spec_parse(first, &again, &e) != 0)
        abort();
    cJSON *second = stage_spec_to_json(&again);
    char *a = json_text(first), *b = second ? json_text(second) : NULL;
    if (!a || !b || strcmp(a, b) != 0)
        abort();
    free(a);
    free(b);
    cJSON_Delete(second);
    cJSON_Delete(first);
    stage_spec_finish(&again);
    stage_spec_finish(&s);
    cJSON_Delete(j);
    return 0;
}
