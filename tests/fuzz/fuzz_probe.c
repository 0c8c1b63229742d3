/* What a node says is refused with a word, or is within its bounds. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/probe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct probe p;
    struct dha_err e = {0};
    cJSON *doc = json_parse((const char *)data, size, NULL, NULL);
    if (!doc)
        return 0;
    if (probe_parse(doc, &p, &e) != 0) {
        if (e.msg[0] == '\0' || p.n_gpus != 0)
            abort();
    } else if (p.n_cores < 1 || p.n_cores > CORES_MAX || p.memory < 0 || p.n_gpus > PROBE_GPUS) {
        abort();
    }
    for (int i = 0; i < p.n_gpus; i++)
        if (strpbrk(p.gpu[i].uuid, ", ='\"$") || !p.gpu[i].uuid[0] || p.gpu[i].memory < 0)
            abort();
    cJSON_Delete(doc);
    return 0;
}
