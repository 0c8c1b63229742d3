/* settings.c: see settings.h. */
#include "daemon/settings.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

enum { FILE_MAX = 64 * 1024 };

#define KIND(k) (offsetof(struct settings, stall_kind_s) + (k) * sizeof(long))
static const struct member {
    const char *name, *option; /* option NULL: only in a file */
    size_t at;
    long lo, hi;
} members[] = {
    {"slots", "slots", offsetof(struct settings, slots), 1, 65536},
    {"stall_s", "stall", offsetof(struct settings, stall_s), 0, 1000000000},
    {"stall_min_s", "stall-min", offsetof(struct settings, stall_min_s), 1, 1000000000},
    {"stall_search_s", NULL, KIND(STAGE_SEARCH), 0, 1000000000},
    {"stall_fuse_s", NULL, KIND(STAGE_FUSE), 0, 1000000000},
    {"stall_train_s", NULL, KIND(STAGE_TRAIN), 0, 1000000000},
    {"stall_eval_s", NULL, KIND(STAGE_EVAL), 0, 1000000000},
    {"stall_export_s", NULL, KIND(STAGE_EXPORT), 0, 1000000000},
    {"ageing_s", "ageing", offsetof(struct settings, ageing_s), 0, 1000000000},
    {"log_mib", "log-mib", offsetof(struct settings, log_mib), 1, 1048576},
    {"preempt", "preempt", offsetof(struct settings, preempt), 0, 1},
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
        *value_of(&s, &members[i]) = -1;
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

int settings_option(struct settings *s, const char *option, const char *value)
{
    for (int i = 0; i < MEMBERS; i++) {
        const struct member *m = &members[i];
        char *end;
        if (!m->option || strcmp(m->option, option) != 0) {
            continue;
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
    const char *names[MEMBERS];
    for (int i = 0; i < MEMBERS; i++) {
        names[i] = members[i].name;
    }
    const char *near = text_nearest(name, names, MEMBERS);
    dha_fail(e, DHA_E_INPUT, "there is no setting \"%.40s\"", name);
    return near ? dha_err_hint(e, "did you mean \"%s\"?", near)
                : dha_err_hint(e, "slots, stall_s, stall_min_s, stall_train_s (and other stages), "
                                  "ageing_s, log_mib, preempt");
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
        if (!m) {
            return unknown(v->string, e);
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
                    struct settings *out, struct dha_err *e)
{
    struct settings read = settings_none();
    read.slots = online;
    read.stall_s = 3600;
    read.stall_min_s = 300;
    read.log_mib = 64;
    read.ageing_s = read.preempt = 0;
    if (file) {
        cJSON *doc = json_parse_file(file, FILE_MAX, e);
        int rc = doc ? settings_parse(doc, &read, e) : -1;
        cJSON_Delete(doc);
        if (rc != 0) {
            return dha_err_context(e, "%s", file);
        }
    }
    for (int i = 0; i < MEMBERS; i++) {
        struct settings copy = *said;
        long v = *value_of(&copy, &members[i]);
        if (v >= 0) {
            *value_of(&read, &members[i]) = v;
        }
    }
    *out = read;
    return 0;
}
