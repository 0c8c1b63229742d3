/* runas.h: a daemon that runs as root and serves several users: whose a job is, its processes run as, and whatever the
 * daemon does with files that this user could have put anything into, it does with that user's rights.
 *
 *   - processes: the shim becomes the user before it touches anything (shim.c);
 *   - files: a job's directory STATE/jobs/ID belongs to the user (made here, in a directory that is root's). Between
 *     runas_enter() and runas_leave() this thread's file system uid, gid and groups are the user's, and the kernel takes
 *     the capabilities that go past permissions away: a link to somewhere else leads where the user may go, and no further.
 *     Nothing of SQLite may be called in between.
 *
 * In every other daemon (not root), and for jobs of root itself, all of this does nothing.
 */
#ifndef DHA_DAEMON_RUNAS_H
#define DHA_DAEMON_RUNAS_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "proto/json.h"

#define RUNAS_SELF ((uid_t)-1)

/* Before anything else: where the jobs' directories are. The text is kept. */
void runas_init(const char *state_dir);
/* What this root lacks to act as others and to end what they run ("CAP_SETGID, CAP_KILL"): a container may have taken it
 * away. "" where nothing is lacking, or we are not root. */
const char *runas_lacks(void);
/* The same as an error, with what to do. */
int runas_refuse(struct dha_err *e);

/* As whom a job of that owner runs: RUNAS_SELF if as the daemon itself. */
uid_t runas_user(int64_t owner_uid);
/* Is there such a user, and if it is root: may jobs run as root? DHA_E_FORBIDDEN. */
int runas_allowed(int64_t owner_uid, bool root_jobs, struct dha_err *e);

struct runas_account {
    gid_t gid;
    char name[64], home[1024], shell[256];
};
int runas_account(uid_t uid, struct runas_account *out, struct dha_err *e);

/* A directory of that user alone (0700), in a directory of ours. Refuses what is there and is another's. */
int runas_own_dir(const char *path, uid_t uid, struct dha_err *e);
/* Lets users go through STATE to what is theirs: 0711. */
int runas_open_state(struct dha_err *e);

struct runas {
    bool on;
};
/* Nothing for RUNAS_SELF, and inside of another one. -1 where the kernel refuses (errno EPERM): then the rights are ours,
 * and what was to be done with the other's must not be. */
#define RUNAS_CHECK __attribute__((warn_unused_result))
RUNAS_CHECK int runas_enter(struct runas *r, uid_t uid);
/* As the owner of the job's directory that the path lies in; elsewhere nothing. */
RUNAS_CHECK int runas_enter_path(struct runas *r, const char *path);
/* The same for a path that a worker named: where it lies in no job's directory, as one who may do nothing. */
RUNAS_CHECK int runas_enter_named(struct runas *r, const char *path);
/* Who looks at a user's processes: as that user where this root may not look at others' (CAP_SYS_PTRACE), else as it is. */
RUNAS_CHECK int runas_enter_procs(struct runas *r, uid_t uid);
/* Ends the process where the kernel does not give our own rights back. */
void runas_leave(struct runas *r);
/* One file, with those rights: as stat(2), json_parse_file() and open(2), but that only a regular file is opened, which
 * nothing waits for, and in a user's directory no link. */
int runas_stat(const char *path, struct stat *st);
cJSON *runas_json(const char *path, size_t max_bytes, struct dha_err *e);
int runas_open(const char *path, int flags);
/* Opening it failed with err: because somebody made something else of it, or the user closed what is theirs? Then it will
 * not get better, and the file counts as not there. */
bool runas_spoiled(const char *path, int err);
/* The owner of the job's directory that the path lies in; RUNAS_SELF if that is us, or it lies elsewhere. */
uid_t runas_owner(const char *path);

#endif
