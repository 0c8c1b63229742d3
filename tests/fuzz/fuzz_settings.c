/* A file of settings is refused with a word, or taken within its bounds; refused, it changes nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct settings s = settings_none(), before = s;
    struct dha_err e = {0};
    cJSON *doc = json_parse((const char *)data, size, NULL, NULL);
    if (!doc)
        return 0;
    if (settings_parse(doc, &s, &e) != 0) {
        if (e.code == DHA_E_OK || e.msg[0] == '\0' || memcmp(&s, &before, sizeof s) != 0)
            abort();
    } else if (s.slots == 0 || s.slots > 65536 || s.stall_s > 1000000000 || s.ageing_s < -1 ||
               !memchr(s.group, 0, sizeof s.group) || !memchr(s.others, 0, sizeof s.others) ||
               (s.others[0] && strcmp(s.others, "none") && strcmp(s.others, "read"))) {
        abort();
    }
    struct hosts h;
    struct dha_err he = {0};
    if (hosts_parse(doc, &h, &he) != 0) {
        if (he.code == DHA_E_OK || he.msg[0] == '\0' || h.n != 0)
            abort();
    } else {
        for (size_t i = 0; i < h.n; i++)
            if (strpbrk(h.at[i].name, " ;$'\"") || strpbrk(h.at[i].address, " ;$'\"") ||
                h.at[i].address[0] == '-' || h.at[i].slots < 0 || h.at[i].memory < 0)
                abort();
        if (strpbrk(h.ssh_args, ";$'\"`|&<>()\\\n") || h.unreachable_s < 1)
            abort();
    }
    hosts_finish(&h);
    cJSON_Delete(doc);
    return 0;
}
