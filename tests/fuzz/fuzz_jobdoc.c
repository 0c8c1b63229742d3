/* A job.json that is accepted is written back as a fixed point; one that is refused says why. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/jobdoc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store_import im, again;
    struct dha_err e = {0};
    cJSON *j = json_parse((const char *)data, size, NULL, NULL);
    if (!j)
        return 0;
    if (jobdoc_parse(j, &im, &e) != 0) {
        if (e.code == DHA_E_OK || e.msg[0] == '\0')
            abort();
        store_import_finish(&im);
        cJSON_Delete(j);
        return 0;
    }
    cJSON *first = jobdoc_to_json(&im);
    if (!first || jobdoc_parse(first, &again, &e) != 0)
        abort();
    cJSON *second = jobdoc_to_json(&again);
    char *a = json_text(first), *b = second ? json_text(second) : NULL;
    if (!a || !b || strcmp(a, b) != 0)
        abort();
    free(a);
    free(b);
    cJSON_Delete(second);
    cJSON_Delete(first);
    store_import_finish(&again);
    store_import_finish(&im);
    cJSON_Delete(j);
    return 0;
}
