/* runas.c: see runas.h. */
#include "daemon/runas.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { KNOWN = 16, KNOWN_S = 60, NOBODY = 65534, GROUPS_MAX = 65536, PASSWD_MAX = 65536 };

#define NO_GROUPS "setgroups(2)"

static const char *state; /* these are set once, before there are threads */
static char lacks[128];
static bool blind; /* others' processes cannot be looked into */
static __thread bool away;

/* Groups of users, which are asked for too often to ask the system each time. */
static struct known {
    uid_t uid;
    gid_t gid, *groups;
    int n;
    time_t at;
} known[KNOWN];
static unsigned next_known;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* This thread only: glibc's setgroups() would change them all. */
static int thread_groups(int n, const gid_t *groups)
{
    return (int)syscall(SYS_setgroups, n, groups);
}

static bool has_cap(const struct __user_cap_data_struct *have, int cap)
{
    return have[CAP_TO_INDEX(cap)].effective & CAP_TO_MASK(cap);
}

/* A user namespace may have the capability and deny the call. */
static bool may_set_groups(void)
{
    int n = getgroups(0, NULL);
    gid_t *own = n >= 0 ? malloc(((size_t)n + 1) * sizeof *own) : NULL;
    bool may = own && getgroups(n, own) == n && thread_groups(n, own) == 0;
    free(own);
    return may;
}

static void find_lacks(void)
{
    static const struct {
        int cap;
        const char *name;
    } needed[] = {{CAP_CHOWN, "CAP_CHOWN"},
                  {CAP_KILL, "CAP_KILL"},
                  {CAP_SETGID, "CAP_SETGID"},
                  {CAP_SETUID, "CAP_SETUID"}};
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct have[_LINUX_CAPABILITY_U32S_3] = {{0}};
    lacks[0] = '\0';
    blind = false;
    if (geteuid() != 0) {
        return;
    }
    syscall(SYS_capget, &head, have); /* on a failure there are none */
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        size_t n = strlen(lacks);
        if (!has_cap(have, needed[i].cap)) {
            snprintf(lacks + n, sizeof lacks - n, "%s%s", n ? ", " : "", needed[i].name);
        }
    }
    if (!lacks[0] && !may_set_groups()) {
        snprintf(lacks, sizeof lacks, "%s", NO_GROUPS);
    }
    blind = !has_cap(have, CAP_SYS_PTRACE);
}

void runas_init(const char *state_dir)
{
    state = state_dir;
    find_lacks();
}

const char *runas_lacks(void)
{
    return lacks;
}

int runas_refuse(struct dha_err *e)
{
    dha_fail(e, DHA_E_FORBIDDEN, "this daemon cannot run jobs of others: it is root, but lacks %s",
             lacks);
    return dha_err_hint(
        e, "%s",
        strcmp(lacks, NO_GROUPS) == 0
            ? "dhad runs in a user namespace that denies it (unshare -r, a rootless container "
              "without a range of ids): run it outside, or start a dhad of your own"
            : "give it to the container or unit that dhad runs in (docker run --cap-add, "
              "CapabilityBoundingSet=), or start a dhad of your own");
}

uid_t runas_user(int64_t owner_uid)
{
    return geteuid() == 0 && owner_uid > 0 && owner_uid < (int64_t)RUNAS_SELF ? (uid_t)owner_uid
                                                                              : RUNAS_SELF;
}

static int copy_text(char *out, size_t size, const char *text)
{
    int n = snprintf(out, size, "%s", text ? text : "");
    return n >= 0 && (size_t)n < size ? 0 : -1;
}

int runas_account(uid_t uid, struct runas_account *out, struct dha_err *e)
{
    struct passwd pw, *found = NULL;
    char *buf = malloc(PASSWD_MAX);
    int rc = buf ? getpwuid_r(uid, &pw, buf, PASSWD_MAX, &found) : ENOMEM;
    if (rc == 0 && found &&
        (copy_text(out->name, sizeof out->name, pw.pw_name) != 0 || !out->name[0] ||
         copy_text(out->home, sizeof out->home, pw.pw_dir) != 0 ||
         copy_text(out->shell, sizeof out->shell, pw.pw_shell) != 0)) {
        found = NULL;
    }
    if (found) {
        out->gid = pw.pw_gid;
    }
    free(buf);
    if (rc != 0) {
        return dha_fail_errno(e, rc, "looking for uid %ld among the users", (long)uid);
    }
    if (!found) {
        dha_fail(e, DHA_E_FORBIDDEN,
                 "uid %ld is no user of this host: jobs run as who submits them", (long)uid);
        return dha_err_hint(e, "`getent passwd %ld` has to know the user", (long)uid);
    }
    return 0;
}

/* Of a user namespace a uid may be no part. */
static int can_be(uid_t uid, struct dha_err *e)
{
    struct runas as;
    if (runas_enter(&as, uid) != 0) {
        dha_fail(e, DHA_E_FORBIDDEN, "this daemon cannot become uid %ld, though it is root",
                 (long)uid);
        return dha_err_hint(e, "does dhad run in a user namespace (rootless container) without it? "
                               "see /proc/self/uid_map there");
    }
    runas_leave(&as);
    return 0;
}

int runas_allowed(int64_t owner_uid, bool root_jobs, struct dha_err *e)
{
    struct runas_account ignored;
    if (geteuid() != 0) {
        return 0;
    }
    uid_t uid = runas_user(owner_uid);
    if (uid != RUNAS_SELF && lacks[0]) {
        return runas_refuse(e);
    }
    if (uid != RUNAS_SELF) {
        return runas_account(uid, &ignored, e) != 0 ? -1 : can_be(uid, e);
    }
    if (owner_uid != 0 || !root_jobs) {
        dha_fail(e, DHA_E_FORBIDDEN, "jobs do not run as root in a daemon that serves a group");
        return dha_err_hint(e, "submit it as another user; or the setting allow_root_jobs = 1");
    }
    return 0;
}

/* With the lock held. A user who is none (any more) has no groups. */
static const struct known *find_groups(uid_t uid)
{
    struct known *k = NULL;
    struct timespec now;
    struct runas_account a;
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (int i = 0; i < KNOWN && !k; i++) {
        k = known[i].groups && known[i].uid == uid ? &known[i] : NULL;
    }
    if (k && now.tv_sec - k->at < KNOWN_S) {
        return k;
    }
    k = k ? k : &known[next_known++ % KNOWN];
    free(k->groups);
    *k = (struct known){.uid = uid, .gid = NOBODY, .at = now.tv_sec};
    int cap = 64;
    k->groups = malloc((size_t)cap * sizeof *k->groups);
    if (!k->groups || runas_account(uid, &a, NULL) != 0) {
        return k;
    }
    k->gid = a.gid;
    k->n = cap;
    if (getgrouplist(a.name, a.gid, k->groups, &k->n) < 0) {
        cap = k->n > 0 && k->n <= GROUPS_MAX ? k->n : 0;
        gid_t *more = cap ? realloc(k->groups, (size_t)cap * sizeof *more) : NULL;
        k->groups = more ? more : k->groups;
        k->n = more && getgrouplist(a.name, a.gid, k->groups, &k->n) >= 0 ? k->n : 0;
    }
    return k;
}

static void be_self(void)
{
    setfsuid(geteuid());
    setfsgid(getegid());
    if (thread_groups(0, NULL) != 0 || setfsuid((uid_t)-1) != (int)geteuid() ||
        setfsgid((gid_t)-1) != (int)getegid()) {
        abort(); /* never on with rights that are neither ours nor the user's */
    }
}

int runas_enter(struct runas *r, uid_t uid)
{
    r->on = false;
    if (uid == RUNAS_SELF || away) {
        return 0;
    }
    pthread_mutex_lock(&lock);
    const struct known *k = find_groups(uid);
    bool ok = thread_groups(k->n, k->groups) == 0, changed = ok;
    if (ok) {
        setfsgid(k->gid);
        ok = setfsgid((gid_t)-1) == (int)k->gid;
    }
    pthread_mutex_unlock(&lock);
    if (ok) {
        setfsuid(uid);
        ok = setfsuid((uid_t)-1) == (int)uid;
    }
    if (!ok) {
        if (changed) {
            be_self();
        }
        errno = EPERM;
        return -1;
    }
    r->on = away = true;
    return 0;
}

void runas_leave(struct runas *r)
{
    if (!r->on) {
        return;
    }
    int err = errno;
    be_self();
    away = false;
    r->on = false;
    errno = err;
}

/* 0: into dir[cap] the STATE/jobs/ID that the path lies in, or is. */
static int job_dir(const char *path, char *dir, size_t cap)
{
    size_t n = state ? strlen(state) : 0;
    if (!path || n == 0 || strncmp(path, state, n) != 0 || strncmp(path + n, "/jobs/", 6) != 0) {
        return -1;
    }
    size_t digits = strspn(path + n + 6, "0123456789"), all = n + 6 + digits;
    if (digits == 0 || (path[all] != '/' && path[all] != '\0') || all >= cap) {
        return -1;
    }
    memcpy(dir, path, all);
    dir[all] = '\0';
    return 0;
}

uid_t runas_owner(const char *path)
{
    char dir[4200];
    struct stat st;
    if (geteuid() != 0 || away || job_dir(path, dir, sizeof dir) != 0 || lstat(dir, &st) != 0 ||
        st.st_uid == 0) {
        return RUNAS_SELF;
    }
    return st.st_uid;
}

int runas_enter_path(struct runas *r, const char *path)
{
    return runas_enter(r, runas_owner(path));
}

int runas_enter_procs(struct runas *r, uid_t uid)
{
    return runas_enter(r, blind ? uid : RUNAS_SELF);
}

int runas_enter_named(struct runas *r, const char *path)
{
    char dir[4200];
    bool ours = geteuid() != 0 || !state ||
                (job_dir(path, dir, sizeof dir) == 0 && !strstr(path, "/../"));
    return runas_enter(r, ours ? runas_owner(path) : (uid_t)NOBODY);
}

int runas_stat(const char *path, struct stat *st)
{
    struct runas as;
    if (runas_enter_path(&as, path) != 0) {
        return -1;
    }
    int rc = stat(path, st);
    runas_leave(&as);
    return rc;
}

cJSON *runas_json(const char *path, size_t max_bytes, struct dha_err *e)
{
    struct runas as;
    if (runas_enter_path(&as, path) != 0) {
        dha_fail_errno(e, errno, "cannot open %s as its owner", path);
        return NULL;
    }
    cJSON *doc = json_parse_file(path, max_bytes, e);
    runas_leave(&as);
    return doc;
}

int runas_open(const char *path, int flags)
{
    struct runas as;
    struct stat st;
    if (runas_enter_path(&as, path) != 0) {
        return -1;
    }
    int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC | (as.on ? O_NOFOLLOW : 0), 0600);
    runas_leave(&as);
    if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))) {
        close(fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

bool runas_spoiled(const char *path, int err)
{
    return err == ELOOP || err == ENOTDIR || err == EISDIR || err == EINVAL || err == ENXIO ||
           (err == EACCES && runas_owner(path) != RUNAS_SELF);
}

int runas_own_dir(const char *path, uid_t uid, struct dha_err *e)
{
    struct runas_account a;
    struct stat st;
    int rc = -1;
    if (runas_account(uid, &a, e) != 0) {
        return -1;
    }
    /* what a daemon that died made and did not give away yet is empty: made anew */
    bool made = mkdir(path, 0700) == 0 || (rmdir(path) == 0 && mkdir(path, 0700) == 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        dha_fail_errno(e, errno, "cannot make the directory %s", path);
    } else if (made ? fchown(fd, uid, a.gid) != 0 : st.st_uid != uid) {
        dha_fail(e, DHA_E_CONFLICT, "%s is uid %ld's, and not %s's", path, (long)st.st_uid, a.name);
        dha_err_hint(e, "it was made when the daemon ran every job as itself, or imported: submit "
                        "the job again");
    } else {
        rc = 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

int runas_open_state(struct dha_err *e)
{
    static const char *const parts[] = {"", "/jobs", "/cache"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char path[4200];
        struct stat st;
        snprintf(path, sizeof path, "%.4100s%s", state, parts[i]);
        if (stat(path, &st) != 0 || ((st.st_mode & 0711) != 0711 && chmod(path, 0711) != 0)) {
            return dha_fail_errno(e, errno, "cannot let users go through %s", path);
        }
    }
    return 0;
}
