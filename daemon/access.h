/* access.h: who may do what. One table (access.c), asked once for every request, before its handler is called.
 *
 * Roles, from the uid and the groups of the socket's other end (all of them: supplementary ones as well):
 *   owner     the user the daemon runs as, and root: everything
 *   operator  a member of the group of settings `group`: submits, changes jobs and reads logs of its own, reads the rest
 *   viewer    everybody else on this host, where settings `others` is "read": reads, but no logs of others
 *   none      everybody else, where it is "none"
 *
 * Logs are not in "reads": what a worker, its launcher or its libraries write there is not made for others' eyes.
 */
#ifndef DHA_DAEMON_ACCESS_H
#define DHA_DAEMON_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/settings.h"

enum access_role { ACCESS_NONE, ACCESS_VIEWER, ACCESS_OPERATOR, ACCESS_OWNER, ACCESS_ROLES };

/* What a route needs. */
enum access_need {
    ACCESS_ADMIN,  /* nodes, chores, tokens, the daemon itself; and what says nothing else */
    ACCESS_READ,   /* documents, events, metrics: of all jobs */
    ACCESS_LOGS,   /* a job's logs */
    ACCESS_SUBMIT, /* new jobs and sweeps */
    ACCESS_JOB,    /* a change of one job */
    ACCESS_NEEDS
};
enum access_answer { ACCESS_NO, ACCESS_OWN, ACCESS_YES }; /* OWN: where the job is the caller's */

/* The settings, resolved. */
struct access {
    bool has_group, others_read;
    gid_t group;
    char group_name[sizeof((struct settings *)0)->group];
};

/* DHA_E_INPUT if there is no such group. */
int access_settle(const struct settings *s, struct access *out, struct dha_err *e);
enum access_role access_role(const struct access *a, uid_t uid, const gid_t *groups, size_t n);
enum access_answer access_may(enum access_role role, enum access_need need);
const char *access_role_name(enum access_role role);
enum access_role access_role_named(const char *name); /* ACCESS_NONE if there is no such role */

#endif
