/* access.c: see access.h. */
#include "daemon/access.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const enum access_answer table[ACCESS_ROLES][ACCESS_NEEDS] = {
    /*                   admin      read        logs        submit      job */
    [ACCESS_NONE] = {ACCESS_NO, ACCESS_NO, ACCESS_NO, ACCESS_NO, ACCESS_NO},
    [ACCESS_VIEWER] = {ACCESS_NO, ACCESS_YES, ACCESS_OWN, ACCESS_NO, ACCESS_NO},
    [ACCESS_OPERATOR] = {ACCESS_NO, ACCESS_YES, ACCESS_OWN, ACCESS_YES, ACCESS_OWN},
    [ACCESS_OWNER] = {ACCESS_YES, ACCESS_YES, ACCESS_YES, ACCESS_YES, ACCESS_YES},
};

enum access_answer access_may(enum access_role role, enum access_need need)
{
    return (unsigned)role < ACCESS_ROLES && (unsigned)need < ACCESS_NEEDS ? table[role][need]
                                                                          : ACCESS_NO;
}

static const char *const names[ACCESS_ROLES] = {"none", "viewer", "operator", "owner"};

enum access_role access_role_named(const char *name)
{
    for (int r = ACCESS_VIEWER; r < ACCESS_ROLES; r++) {
        if (strcmp(names[r], name) == 0) {
            return (enum access_role)r;
        }
    }
    return ACCESS_NONE;
}

const char *access_role_name(enum access_role role)
{
    return (unsigned)role < ACCESS_ROLES ? names[role] : "?";
}

/* A name, or a number that need not have one. */
static int find_group(const char *text, gid_t *gid)
{
    if (strspn(text, "0123456789") == strlen(text)) {
        errno = 0;
        unsigned long v = strtoul(text, NULL, 10);
        *gid = (gid_t)v;
        return errno == 0 && v < (gid_t)-1 ? 0 : -1;
    }
    const struct group *g = getgrnam(text);
    if (g) {
        *gid = g->gr_gid;
    }
    return g ? 0 : -1;
}

int access_settle(const struct settings *s, struct access *out, struct dha_err *e)
{
    *out = (struct access){.has_group = s->group[0] != '\0',
                           .others_read = strcmp(s->others, "read") == 0};
    if (out->has_group && find_group(s->group, &out->group) != 0) {
        dha_fail(e, DHA_E_INPUT, "\"group\": there is no group \"%s\" on this host", s->group);
        return dha_err_hint(e, "getent group lists them; a number is taken as it is");
    }
    snprintf(out->group_name, sizeof out->group_name, "%s", s->group);
    return 0;
}

enum access_role access_role(const struct access *a, uid_t uid, const gid_t *groups, size_t n)
{
    if (uid == 0 || uid == geteuid()) {
        return ACCESS_OWNER;
    }
    for (size_t i = 0; i < n && a->has_group; i++) {
        if (groups[i] == a->group) {
            return ACCESS_OPERATOR;
        }
    }
    return a->others_read ? ACCESS_VIEWER : ACCESS_NONE;
}
