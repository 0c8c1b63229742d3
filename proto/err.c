#include "proto/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/text.h"

struct row {
    const char *name, *meaning;
    int http, rc;
    enum dha_retry retry;
};

static const struct row table[] = {
#define X(sym, name, http, rc, retry, text)                                                        \
    [DHA_E_##sym] = {name, text, http, rc, DHA_RETRY_##retry},
    DHA_ERR_TABLE(X)
#undef X
};
_Static_assert(sizeof table / sizeof table[0] == DHA_E_COUNT, "one row an error code");

/* A code that is none (from a newer peer, say) is reported as a defect, not read past the table. */
static const struct row *row_of(enum dha_code c)
{
    return (unsigned)c < DHA_E_COUNT ? &table[c] : &table[DHA_E_INTERNAL];
}

const char *dha_code_name(enum dha_code c)
{
    return row_of(c)->name;
}

const char *dha_code_meaning(enum dha_code c)
{
    return row_of(c)->meaning;
}

int dha_code_http(enum dha_code c)
{
    return row_of(c)->http;
}

int dha_code_exit(enum dha_code c)
{
    return row_of(c)->rc;
}

enum dha_retry dha_code_retry(enum dha_code c)
{
    return row_of(c)->retry;
}

enum dha_code dha_code_from_name(const char *name)
{
    for (int i = 0; name && i < DHA_E_COUNT; i++)
        if (strcmp(table[i].name, name) == 0)
            return (enum dha_code)i;
    return DHA_E_COUNT;
}

enum dha_code dha_code_from_exit(int rc)
{
    for (int i = 0; i < DHA_E_COUNT; i++)
        if (table[i].rc == rc)
            return (enum dha_code)i;
    return DHA_E_COUNT;
}

__attribute__((format(printf, 3, 0))) static void format(char *buf, size_t cap, const char *fmt,
                                                         va_list ap)
{
    int n = vsnprintf(buf, cap, fmt, ap);
    if (n < 0)
        buf[0] = '\0';
    else if ((size_t)n >= cap)
        text_trim_utf8(buf);
}

int dha_fail(struct dha_err *e, enum dha_code c, const char *fmt, ...)
{
    if (!e)
        return -1;
    char msg[sizeof e->msg]; /* the arguments may point into *e */
    va_list ap;
    va_start(ap, fmt);
    format(msg, sizeof msg, fmt, ap);
    va_end(ap);
    e->code = c;
    memcpy(e->msg, msg, sizeof msg);
    e->hint[0] = '\0';
    e->path[0] = '\0';
    return -1;
}

static enum dha_code code_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT: return DHA_E_NO_SPACE;
    case ENOMEM: return DHA_E_NO_MEMORY;
    case ENOENT: return DHA_E_NOT_FOUND;
    default: return DHA_E_IO;
    }
}

int dha_fail_errno(struct dha_err *e, int errnum, const char *fmt, ...)
{
    if (!e)
        return -1;
    char what[sizeof e->msg];
    va_list ap;
    va_start(ap, fmt);
    format(what, sizeof what, fmt, ap);
    va_end(ap);
    char why[128];
    /* GNU strerror_r may answer with a constant string instead of filling `why` */
    const char *text = strerror_r(errnum, why, sizeof why);
    return dha_fail(e, code_of_errno(errnum), "%.500s: %s", what, text);
}

int dha_err_hint(struct dha_err *e, const char *fmt, ...)
{
    if (!e)
        return -1;
    char hint[sizeof e->hint];
    va_list ap;
    va_start(ap, fmt);
    format(hint, sizeof hint, fmt, ap);
    va_end(ap);
    memcpy(e->hint, hint, sizeof hint);
    return -1;
}

void dha_space_words(const struct statvfs *fs, const char *dir, char *text, size_t size)
{
    unsigned long long mib = (unsigned long long)fs->f_bavail * fs->f_frsize >> 20;
    if (fs->f_files > 0 && fs->f_favail == 0) { /* 0 of 0: this file system does not count them */
        snprintf(text, size,
                 "remove files first: the disk of %.120s had room for no more of them (inodes), "
                 "and %llu MiB free",
                 dir, mib);
    } else {
        snprintf(text, size, "free space first: the disk of %.120s had %llu MiB free", dir, mib);
    }
}

int dha_err_hint_space(struct dha_err *e, const char *dir)
{
    struct statvfs fs;
    char text[256];
    if (statvfs(dir, &fs) != 0)
        return dha_err_hint(e, "free space in %.200s", dir);
    dha_space_words(&fs, dir, text, sizeof text);
    return dha_err_hint(e, "%s", text);
}

int dha_err_context(struct dha_err *e, const char *fmt, ...)
{
    if (!e || !e->msg[0])
        return -1;
    char old[sizeof e->msg], front[sizeof e->msg];
    va_list ap;
    va_start(ap, fmt);
    format(front, sizeof front, fmt, ap);
    va_end(ap);
    memcpy(old, e->msg, sizeof old);
    int n = snprintf(e->msg, sizeof e->msg, "%s: %s", front, old);
    if (n < 0 || (size_t)n >= sizeof e->msg)
        text_trim_utf8(e->msg);
    return -1;
}
