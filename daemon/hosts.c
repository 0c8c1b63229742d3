/* hosts.c: see hosts.h. */
#include "daemon/hosts.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/spec.h"
#include "proto/text.h"

enum { HOSTS_MAX = 4096, SLOTS_MAX = 65536 };

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

static const char *const members[] = {"nodes", "ssh_args", "mpi_interface", "unreachable_s"};

bool hosts_member(const char *name)
{
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (strcmp(members[i], name) == 0) {
            return true;
        }
    }
    return false;
}

const char *const *hosts_members(size_t *n)
{
    *n = sizeof members / sizeof *members;
    return members;
}

/* A text of the alphabet that fits; "" only where that is allowed. */
static int take_text(const cJSON *obj, const char *key, const char *alphabet, char *out,
                     size_t size, struct dha_err *e)
{
    const cJSON *v = json_get(obj, key);
    if (!v) {
        return 0;
    }
    if (!cJSON_IsString(v) || strlen(v->valuestring) >= size ||
        strspn(v->valuestring, alphabet) != strlen(v->valuestring)) {
        return dha_fail(e, DHA_E_INPUT, "\"%s\" is a text of at most %zu of the characters %s", key,
                        size - 1, alphabet);
    }
    snprintf(out, size, "%s", v->valuestring);
    return 0;
}

static int take_number(const cJSON *obj, const char *key, int64_t lo, int64_t hi, int64_t *out,
                       struct dha_err *e)
{
    const cJSON *v = json_get(obj, key);
    if (!v) {
        return 0;
    }
    if (!cJSON_IsNumber(v) || !json_to_int(v, out) || *out < lo || *out > hi) {
        return dha_fail(e, DHA_E_INPUT, "\"%s\" is a whole number from %lld to %lld", key,
                        (long long)lo, (long long)hi);
    }
    return 0;
}

/* "0-7,16", or 8: the first eight. */
static int take_cores(const cJSON *obj, struct host *h, struct dha_err *e)
{
    static int cores[CORES_MAX];
    const cJSON *v = json_get(obj, "cores");
    int64_t many;
    if (!v) {
        return 0;
    }
    if (cJSON_IsNumber(v) && json_to_int(v, &many) && many >= 1 && many <= CORES_MAX) {
        snprintf(h->cores, sizeof h->cores, many > 1 ? "0-%d" : "0", (int)many - 1);
        return 0;
    }
    if (!cJSON_IsString(v) || strlen(v->valuestring) >= sizeof h->cores ||
        cores_read(v->valuestring, cores, CORES_MAX) < 0) {
        return dha_fail(e, DHA_E_INPUT,
                        "\"cores\" is how many there are, or a list in ascending order like "
                        "\"0-7,16-23\"");
    }
    snprintf(h->cores, sizeof h->cores, "%s", v->valuestring);
    return 0;
}

static int check_names(const cJSON *obj, struct dha_err *e)
{
    static const char *const names[] = {"name",  "address",    "slots",
                                        "cores", "memory_gib", "device"};
    const cJSON *c;
    cJSON_ArrayForEach(c, obj)
    {
        size_t i = 0, n = sizeof names / sizeof *names;
        while (i < n && strcmp(names[i], c->string) != 0) {
            i++;
        }
        if (i == n) {
            const char *near = text_nearest(c->string, names, n);
            dha_fail(e, DHA_E_INPUT, "a node has no \"%.40s\"", c->string);
            return near ? dha_err_hint(e, "did you mean \"%s\"?", near)
                        : dha_err_hint(e, "name, address, slots, cores, memory_gib, device");
        }
    }
    return 0;
}

static int take_host(const cJSON *obj, const struct hosts *so_far, struct host *h,
                     struct dha_err *e)
{
    int64_t slots = 0, gib = 0;
    memset(h, 0, sizeof *h);
    snprintf(h->device, sizeof h->device, "cpu");
    if (!cJSON_IsObject(obj)) {
        return dha_fail(e, DHA_E_INPUT, "it is an object like {\"name\": \"node-1\"}");
    }
    const char *name = json_str(obj, "name", "");
    if (!spec_is_node_name(name)) {
        return dha_fail(e, DHA_E_INPUT,
                        "\"name\" is at most 63 letters, digits, dots, _ and -, a letter or digit "
                        "first");
    }
    if (hosts_find(so_far, name)) {
        return dha_fail(e, DHA_E_INPUT, "there is a node \"%s\" already", name);
    }
    snprintf(h->name, sizeof h->name, "%s", name);
    snprintf(h->address, sizeof h->address, "%s", name);
    if (check_names(obj, e) != 0 ||
        take_text(obj, "address", LETTERS ".:_-", h->address, sizeof h->address, e) != 0 ||
        take_text(obj, "device", LETTERS, h->device, sizeof h->device, e) != 0 ||
        take_number(obj, "slots", 1, SLOTS_MAX, &slots, e) != 0 ||
        take_number(obj, "memory_gib", 1, 1 << 20, &gib, e) != 0 || take_cores(obj, h, e) != 0) {
        return -1;
    }
    if (h->address[0] == '-' || h->address[0] == '\0') { /* it would be an option of ssh's */
        return dha_fail(e, DHA_E_INPUT, "\"address\" begins with a letter or digit");
    }
    if (strcmp(h->device, "cpu") != 0 && strcmp(h->device, "cuda") != 0) {
        return dha_fail(e, DHA_E_INPUT, "\"device\" is \"cpu\" or \"cuda\"");
    }
    h->slots = (int)slots;
    h->memory = gib << 30;
    return 0;
}

static int take_nodes(const cJSON *v, struct hosts *out, struct dha_err *e)
{
    const cJSON *c;
    if (!v) {
        return 0;
    }
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) > HOSTS_MAX) {
        return dha_fail(e, DHA_E_INPUT, "\"nodes\" is a list of at most %d nodes", HOSTS_MAX);
    }
    out->at = calloc((size_t)cJSON_GetArraySize(v) + 1, sizeof *out->at);
    if (!out->at) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    cJSON_ArrayForEach(c, v)
    {
        if (take_host(c, out, &out->at[out->n], e) != 0) {
            return dha_err_context(e, "nodes[%zu]", out->n);
        }
        out->n++;
    }
    return 0;
}

int hosts_parse(const cJSON *doc, struct hosts *out, struct dha_err *e)
{
    struct hosts h = HOSTS_NONE;
    int64_t unreachable_s = h.unreachable_s;
    if (take_nodes(json_get(doc, "nodes"), &h, e) != 0 ||
        take_text(doc, "ssh_args", LETTERS " -_./=:,@+", h.ssh_args, sizeof h.ssh_args, e) != 0 ||
        take_text(doc, "mpi_interface", LETTERS "./:,_-", h.mpi_interface, sizeof h.mpi_interface,
                  e) != 0 ||
        take_number(doc, "unreachable_s", 1, 1000000000, &unreachable_s, e) != 0) {
        hosts_finish(&h);
        *out = HOSTS_NONE;
        return -1;
    }
    h.unreachable_s = (long)unreachable_s;
    *out = h;
    return 0;
}

void hosts_finish(struct hosts *h)
{
    free(h->at);
    *h = HOSTS_NONE;
}

const struct host *hosts_find(const struct hosts *h, const char *name)
{
    for (size_t i = 0; i < h->n; i++) {
        if (strcmp(h->at[i].name, name) == 0) {
            return &h->at[i];
        }
    }
    return NULL;
}

bool hosts_is_here(const char *address)
{
    char own[256] = "";
    struct ifaddrs *all, *i;
    bool here = gethostname(own, sizeof own - 1) == 0 && strcmp(own, address) == 0;
    if (here || strcmp(address, "localhost") == 0) {
        return true;
    }
    if (getifaddrs(&all) != 0) {
        return false;
    }
    for (i = all; i && !here; i = i->ifa_next) {
        int family = i->ifa_addr ? i->ifa_addr->sa_family : AF_UNSPEC;
        socklen_t len = family == AF_INET ? sizeof(struct sockaddr_in)
                                          : sizeof(struct sockaddr_in6);
        char text[256];
        here = (family == AF_INET || family == AF_INET6) &&
               getnameinfo(i->ifa_addr, len, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0 &&
               strcmp(text, address) == 0;
    }
    freeifaddrs(all);
    return here;
}
