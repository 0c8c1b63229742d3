/* A file of settings is refused with a word, or taken within its bounds; refused, it changes nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "daemon/settings.h"
#include "daemon/tcp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* "H" and a Host: one that is known is one of these, to the letter. */
static void check_host(const char *host)
{
    static const char *const known[] = {"127.0.0.1:8080", "localhost:8080", "proxy.example",
                                        "proxy.example:8080", "other:81"};
    int found = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        found |= strcasecmp(known[i], host) == 0;
    if (tcp_host_known("127.0.0.1:8080", "proxy.example other:81", host) != (found != 0))
        abort();
    tcp_is_address(host);
    tcp_bearer(host);
    tcp_is_json(host);
    tcp_origin_known("[::1]:80", "", host);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] == 'H') {
        char *text = strndup((const char *)data + 1, size - 1);
        if (text)
            check_host(text);
        free(text);
        return 0;
    }
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
