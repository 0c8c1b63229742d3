/* settings.c: see settings.h. */
#include "daemon/settings.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/tcp.h"
#include "proto/text.h"

enum { FILE_MAX = 1024 * 1024 };

#define KIND(k) (offsetof(struct settings, stall_kind_s) + (k) * sizeof(long))
static bool is_group(const char *text)
{
    return text[0] &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
               strlen(text);
}

static bool is_others(const char *text)
{
    return strcmp(text, "none") == 0 || strcmp(text, "read") == 0;
}

/* A number from lo to hi, or (valid != NULL) a text that fits into `hi` bytes with its NUL. */
static const struct member {
    const char *name, *option; /* option NULL: only in a file */
    size_t at;
    long lo, hi;
    bool (*valid)(const char *text);
    const char *what; /* a text's values, for people */
} members[] = {
    {"slots", "slots", offsetof(struct settings, slots), 1, 65536, NULL, NULL},
    {"stall_s", "stall", offsetof(struct settings, stall_s), 0, 1000000000, NULL, NULL},
    {"stall_min_s", "stall-min", offsetof(struct settings, stall_min_s), 1, 1000000000, NULL, NULL},
    {"stall_search_s", NULL, KIND(STAGE_SEARCH), 0, 1000000000, NULL, NULL},
    {"stall_fuse_s", NULL, KIND(STAGE_FUSE), 0, 1000000000, NULL, NULL},
    {"stall_train_s", NULL, KIND(STAGE_TRAIN), 0, 1000000000, NULL, NULL},
    {"stall_eval_s", NULL, KIND(STAGE_EVAL), 0, 1000000000, NULL, NULL},
    {"stall_export_s", NULL, KIND(STAGE_EXPORT), 0, 1000000000, NULL, NULL},
    {"ageing_s", "ageing", offsetof(struct settings, ageing_s), 0, 1000000000, NULL, NULL},
    {"log_mib", "log-mib", offsetof(struct settings, log_mib), 1, 1048576, NULL, NULL},
    {"preempt", "preempt", offsetof(struct settings, preempt), 0, 1, NULL, NULL},
    {"metrics_days", NULL, offsetof(struct settings, metrics_days), 0, 36500, NULL, NULL},
    {"backup_hours", NULL, offsetof(struct settings, backup_hours), 0, 87600, NULL, NULL},
    {"backup_keep", NULL, offsetof(struct settings, backup_keep), 1, 100000, NULL, NULL},
    {"pin", NULL, offsetof(struct settings, pin), 0, 1, NULL, NULL},
    {"priority_max", NULL, offsetof(struct settings, priority_max), 0, 1000, NULL, NULL},
    {"queue_per_user", "queue-per-user", offsetof(struct settings, queue_per_user), 0, 1000000000,
     NULL, NULL},
    {"allow_root_jobs", "allow-root-jobs", offsetof(struct settings, allow_root_jobs), 0, 1, NULL,
     NULL},
    {"group", "group", offsetof(struct settings, group), 0, sizeof((struct settings *)0)->group,
     is_group, "the name of a group of this host, or its number"},
    {"others", "others", offsetof(struct settings, others), 0, sizeof((struct settings *)0)->others,
     is_others, "\"none\" or \"read\""},
    {"tcp", "tcp", offsetof(struct settings, tcp), 0, sizeof((struct settings *)0)->tcp,
     tcp_is_address, "ADDRESS:PORT, like \"127.0.0.1:8080\" or \"[::1]:8080\""},
    {"tcp_hosts", NULL, offsetof(struct settings, tcp_hosts), 0,
     sizeof((struct settings *)0)->tcp_hosts, tcp_is_hosts,
     "a list of names, with or without :PORT"},
};
enum { MEMBERS = sizeof members / sizeof *members };

static long *value_of(struct settings *s, const struct member *m)
{
    return (long *)((char *)s + m->at);
}

struct settings settings_none(void)
{
    struct settings s = {0};
    for (int i = 0; i < MEMBERS; i++) {
        if (!members[i].valid) {
            *value_of(&s, &members[i]) = -1;
        }
    }
    return s;
}

int64_t settings_stall(const struct settings *s, enum stage_kind kind, char *name, size_t size)
{
    bool own = s->stall_kind_s[kind] >= 0;
    if (own) {
        snprintf(name, size, "stall_%s_s", stage_kind_name(kind));
    } else {
        snprintf(name, size, "stall_s");
    }
    return own ? s->stall_kind_s[kind] : s->stall_s;
}

static char *text_of(struct settings *s, const struct member *m)
{
    return (char *)s + m->at;
}

static int set_text(struct settings *s, const struct member *m, const char *text)
{
    if (strlen(text) >= (size_t)m->hi || !m->valid(text)) {
        return -1;
    }
    memset(text_of(s, m), 0, (size_t)m->hi);
    memcpy(text_of(s, m), text, strlen(text));
    return 0;
}

int settings_option(struct settings *s, const char *option, const char *value)
{
    for (int i = 0; i < MEMBERS; i++) {
        const struct member *m = &members[i];
        char *end;
        if (!m->option || strcmp(m->option, option) != 0) {
            continue;
        }
        if (m->valid) {
            return set_text(s, m, value);
        }
        errno = 0;
        long v = strtol(value, &end, 10);
        if (errno || *end || end == value || v < m->lo || v > m->hi) {
            return -1;
        }
        *value_of(s, m) = v;
        return 0;
    }
    return -1;
}

static int unknown(const char *name, struct dha_err *e)
{
    const char *names[MEMBERS + 8];
    size_t n = 0, n_hosts;
    const char *const *of_hosts = hosts_members(&n_hosts);
    for (int i = 0; i < MEMBERS; i++) {
        names[n++] = members[i].name;
    }
    for (size_t i = 0; i < n_hosts && i < 8; i++) {
        names[n++] = of_hosts[i];
    }
    const char *near = text_nearest(name, names, n);
    dha_fail(e, DHA_E_INPUT, "there is no setting \"%.40s\"", name);
    if (near) {
        return dha_err_hint(e, "did you mean \"%s\"?", near);
    }
    char all[sizeof e->hint] = "";
    for (size_t i = 0, len = 0; i < n && len < sizeof all; i++) {
        len += (size_t)snprintf(all + len, sizeof all - len, "%s%s", i ? ", " : "", names[i]);
    }
    return dha_err_hint(e, "%s", all);
}

/* ["a", "b"] -> "a b"; false if it is no list of words, or too long. */
static bool join(const cJSON *list, char *out, size_t size)
{
    const cJSON *v;
    size_t n = 0;
    out[0] = '\0';
    cJSON_ArrayForEach(v, list)
    {
        const char *word = cJSON_IsString(v) ? v->valuestring : "";
        if (!word[0] || strchr(word, ' ') || n + strlen(word) + 2 > size) {
            return false;
        }
        n += (size_t)snprintf(out + n, size - n, "%s%s", n ? " " : "", word);
    }
    return true;
}

/* A group may also be given as a number: its gid; hosts are a list. */
static int take_text(struct settings *s, const struct member *m, const cJSON *v, struct dha_err *e)
{
    char digits[24];
    int64_t number;
    const char *text = cJSON_IsString(v) ? v->valuestring : NULL;
    if (m->valid == is_group && cJSON_IsNumber(v) && json_to_int(v, &number) && number >= 0) {
        snprintf(digits, sizeof digits, "%lld", (long long)number);
        text = digits;
    }
    char all[sizeof s->tcp_hosts];
    if (m->valid == tcp_is_hosts) {
        text = cJSON_IsArray(v) && join(v, all, sizeof all) ? all : NULL;
    }
    if (!text || set_text(s, m, text) != 0) {
        return dha_fail(e, DHA_E_INPUT, "\"%s\" is %s", m->name, m->what);
    }
    return 0;
}

int settings_parse(const cJSON *doc, struct settings *s, struct dha_err *e)
{
    struct settings read = *s;
    const cJSON *v;
    if (!cJSON_IsObject(doc)) {
        return dha_fail(e, DHA_E_INPUT, "settings are a JSON object");
    }
    cJSON_ArrayForEach(v, doc)
    {
        const struct member *m = NULL;
        int64_t number;
        for (int i = 0; i < MEMBERS; i++) {
            m = strcmp(members[i].name, v->string) == 0 ? &members[i] : m;
        }
        if (!m && hosts_member(v->string)) {
            continue;
        }
        if (!m) {
            return unknown(v->string, e);
        }
        if (m->valid) {
            if (take_text(&read, m, v, e) != 0) {
                return -1;
            }
            continue;
        }
        if (!cJSON_IsNumber(v) || !json_to_int(v, &number) || number < m->lo || number > m->hi) {
            return dha_fail(e, DHA_E_INPUT, "\"%s\" is a whole number from %ld to %ld", m->name,
                            m->lo, m->hi);
        }
        *value_of(&read, m) = (long)number;
    }
    *s = read;
    return 0;
}

int settings_settle(const struct settings *said, const char *file, long online,
                    struct settings *out, struct hosts *hosts, struct dha_err *e)
{
    *hosts = HOSTS_NONE;
    struct settings read = settings_none();
    read.slots = online;
    read.stall_s = 3600;
    read.stall_min_s = 300;
    read.log_mib = 64;
    read.metrics_days = 30;
    read.backup_hours = 1;
    read.backup_keep = 24;
    read.ageing_s = read.preempt = 0;
    read.priority_max = 0;
    read.queue_per_user = 100000;
    snprintf(read.others, sizeof read.others, "none");
    if (file) {
        cJSON *doc = json_parse_file(file, FILE_MAX, e);
        int rc = doc && settings_parse(doc, &read, e) == 0 ? hosts_parse(doc, hosts, e) : -1;
        cJSON_Delete(doc);
        if (rc != 0) {
            return dha_err_context(e, "%s", file);
        }
    }
    for (int i = 0; i < MEMBERS; i++) {
        struct settings copy = *said;
        const struct member *m = &members[i];
        if (m->valid) {
            const char *text = text_of(&copy, m);
            if (text[0]) {
                memcpy(text_of(&read, m), text, (size_t)m->hi);
            }
        } else if (*value_of(&copy, m) >= 0) {
            *value_of(&read, m) = *value_of(&copy, m);
        }
    }
    if (read.pin < 0) {
        read.pin = hosts->n > 0;
    }
    *out = read;
    return 0;
}
