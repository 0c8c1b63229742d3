/* What json_parse() accepts must print, as cJSON prints it, and the print must be accepted and print the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dha_err e = {0};
    cJSON *j = json_parse((const char *)data, size, NULL, &e);
    if (j && json_check((const char *)data, size, NULL) != 0)
        abort();
    if (!j) {
        if (e.code == DHA_E_OK || e.msg[0] == '\0')
            abort(); /* a refusal without a reason */
        return 0;
    }
    char *a = json_text(j), *theirs = cJSON_PrintUnformatted(j);
    if (!a || !theirs || strcmp(a, theirs) != 0)
        abort();
    free(theirs);
    cJSON *k = json_parse(a, strlen(a), &(struct json_limits){.max_bytes = 8 << 20}, &e);
    char *b = k ? json_text(k) : NULL;
    if (!b || strcmp(a, b) != 0)
        abort();
    json_at(j, "a.b.0.c");
    json_int(j, "a", 0);
    free(b);
    cJSON_Delete(k);
    free(a);
    cJSON_Delete(j);
    return 0;
}
