/* open.c: taking a state directory, and giving it back. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "store/db.h"

#define LOCK_WAIT_MS 5000

/* Not in linux/magic.h */
#define MAGIC_LUSTRE 0x0bd00bd0u
#define MAGIC_CIFS   0xff534d42u
#define MAGIC_GPFS   0x47504653u
#define MAGIC_BEEGFS 0x19830326u

/* SQLite's locks and shared memory do not work over a network; reports of corruption are many. 9p is not in the list:
 * sandboxes show their local root as 9p, and where its shared memory does not work SQLite refuses WAL by
 * itself. */
static int refuse_network(const char *dir, struct dha_err *e)
{
    static const struct {
        unsigned magic;
        const char *name;
    } remote[] = {
        {NFS_SUPER_MAGIC, "NFS"}, {SMB_SUPER_MAGIC, "SMB"},   {SMB2_SUPER_MAGIC, "SMB"},
        {MAGIC_CIFS, "CIFS"},     {MAGIC_LUSTRE, "Lustre"},   {MAGIC_GPFS, "GPFS"},
        {MAGIC_BEEGFS, "BeeGFS"}, {FUSE_SUPER_MAGIC, "FUSE"}, {CEPH_SUPER_MAGIC, "Ceph"},
        {AFS_SUPER_MAGIC, "AFS"}, {CODA_SUPER_MAGIC, "Coda"}, {OCFS2_SUPER_MAGIC, "OCFS2"},
    };
    struct statfs fs;
    if (statfs(dir, &fs) != 0)
        return dha_fail_errno(e, errno, "cannot examine %s", dir);
    for (size_t i = 0; i < sizeof remote / sizeof remote[0]; i++) {
        if ((unsigned)fs.f_type == remote[i].magic) {
            dha_fail(e, DHA_E_INPUT,
                     "the state directory %s is on a network file system (%s), where a database "
                     "can be damaged",
                     dir, remote[i].name);
            return dha_err_hint(e, "use a local disk for the state (DHA_STATE, --state); models, "
                                   "data and outputs may be anywhere");
        }
    }
    return 0;
}

/* Who wrote the lock file last, as text; "" if that cannot be read. */
static void lock_owner(int fd, char *pid, size_t cap)
{
    ssize_t n = pread(fd, pid, cap - 1, 0);
    pid[n > 0 ? n : 0] = '\0';
    pid[strspn(pid, "0123456789")] = '\0';
}

/* A daemon that was killed while it started a shim leaves its lock to the fork for the moment before exec closes it: a lock
 * whose owner is gone is worth waiting for. Returns flock()'s result. */
static int lock_or_wait(int fd, char *pid, size_t cap)
{
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    for (int left = LOCK_WAIT_MS / 10;; left--) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK)
            return -1;
        lock_owner(fd, pid, cap);
        bool gone = pid[0] && kill((pid_t)strtol(pid, NULL, 10), 0) != 0 && errno == ESRCH;
        errno = EWOULDBLOCK;
        if (!gone || left <= 0)
            return -1;
        nanosleep(&pause, NULL);
    }
}

static int no_locks(const char *dir, const char *why, struct dha_err *e)
{
    dha_fail(
        e, DHA_E_INPUT,
        "the file system of the state directory %s does not keep locks (%s): two daemons could "
        "write there at once",
        dir, why);
    return dha_err_hint(e, "use a local disk for the state (DHA_STATE, --state)");
}

/* There are file systems where every lock is granted. Whoever has this one must be in the way of another open file. */
static int check_lock(const struct store *s, const char *path, struct dha_err *e)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return dha_fail_errno(e, errno, "cannot open %s", path);
    bool granted = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return granted ? no_locks(s->dir, "it grants one twice", e) : 0;
}

static int take_lock(struct store *s, struct dha_err *e)
{
    char *path, pid[32] = "";
    if (asprintf(&path, "%s/lock", s->dir) < 0)
        return db_no_memory(e);
    int rc = 0;
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0) {
        rc = dha_fail_errno(e, errno, "cannot open %s", path);
    } else if (lock_or_wait(s->lock_fd, pid, sizeof pid) != 0) {
        if (errno != EWOULDBLOCK) {
            rc = no_locks(s->dir, strerror(errno), e);
        } else {
            rc = dha_fail(e, DHA_E_CONFLICT, "the state directory %s is in use by process %s",
                          s->dir, pid[0] ? pid : "(unknown)");
            dha_err_hint(e, "stop it first (dha down), or name another directory");
        }
        close(s->lock_fd);
        s->lock_fd = -1;
        s->actor = STORE_NO_ACTOR;
    } else if ((rc = check_lock(s, path, e)) == 0) {
        int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
        /* the pid is only told to people: that it could not be written changes nothing */
        if (ftruncate(s->lock_fd, 0) != 0 || pwrite(s->lock_fd, pid, (size_t)n, 0) != n)
            rc = 0;
    }
    free(path);
    return rc;
}

/* Opens and checks; *sound = false if the file opened but is damaged. */
static int open_state(struct store *s, const char *path, bool *sound, struct dha_err *e)
{
    *sound = false;
    if (sqlite3_open_v2(path, &s->db, DB_OPEN, NULL) != SQLITE_OK)
        return db_fail(s, s->db, e, "opening it");
    int rc = sqlite3_exec(s->db,
                          "PRAGMA busy_timeout=5000; PRAGMA journal_mode=WAL;"
                          "PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
                          "PRAGMA temp_store=MEMORY; PRAGMA cell_size_check=ON",
                          NULL, NULL, NULL);
    if (db_is_damage(rc))
        return 0;
    if (rc != SQLITE_OK)
        return db_fail(s, s->db, e, "opening it");
    return db_check(s->db, sound, e);
}

static int open_files(struct store *s, struct dha_err *e)
{
    char *path;
    bool sound;
    if (asprintf(&path, "%s/state.db", s->dir) < 0)
        return db_no_memory(e);
    int rc = open_state(s, path, &sound, e);
    if (rc == 0 && !sound) {
        sqlite3_close(s->db);
        s->db = NULL;
        rc = aside_salvage(path, s->now_us, e);
        if (rc == 0)
            rc = open_state(s, path, &sound, e);
        if (rc == 0 && !sound)
            rc = dha_fail(e, DHA_E_IO, "%s is damaged and could not be repaired", path);
    }
    if (rc == 0)
        rc = backup_before_migration(s, e);
    if (rc == 0)
        rc = schema_migrate(s, s->db, DB_STATE, path, e);
    free(path);
    if (rc != 0)
        return -1;
    kept_watch(s);
    if (db_scalar(s, e, db_query0(s, e, "SELECT max(seq) FROM event"), 0, &s->event_seq) != 0)
        return -1;
    s->event_committed = s->event_seq;
    if (db_prepare_undo(s, e) != 0)
        return -1;
    if (metric_open(s, e) != 0 || aside_scan(s, e) != 0)
        return -1;
    return store_commit(s, e);
}

int store_open(const char *state_dir, unsigned flags, int64_t now_us, struct store **out,
               struct dha_err *e)
{
    *out = NULL;
    /* Its statistics, which nobody reads, cost a lock for each block. Refused where SQLite is in use already: they stay. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return db_no_memory(e);
    s->lock_fd = -1;
    s->actor = STORE_NO_ACTOR;
    s->now_us = now_us;
    s->dir = strdup(state_dir);
    if (!s->dir) {
        free(s);
        return db_no_memory(e);
    }
    if (mkdir(state_dir, 0700) != 0 && errno != EEXIST) {
        dha_fail_errno(e, errno, "cannot create the state directory %s", state_dir);
        goto fail;
    }
    if (!(flags & STORE_ALLOW_NETWORK_FS) && refuse_network(state_dir, e) != 0)
        goto fail;
    if (take_lock(s, e) != 0 || open_files(s, e) != 0)
        goto fail;
    *out = s;
    return 0;
fail:
    store_close(s);
    return -1;
}

static int open_to_read(struct store *s, const char *name, sqlite3 **db, struct dha_err *e)
{
    char *path;
    int version = 0;
    sqlite3_stmt *st = NULL;
    if (asprintf(&path, "%s/%s", s->dir, name) < 0)
        return db_no_memory(e);
    int rc = sqlite3_open_v2(path, db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(*db, "PRAGMA busy_timeout=5000; PRAGMA temp_store=MEMORY", NULL, NULL,
                          NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(*db, "PRAGMA user_version", -1, &st, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        version = sqlite3_column_int(st, 0);
        rc = SQLITE_OK;
    }
    sqlite3_finalize(st);
    if (rc != SQLITE_OK) {
        dha_fail(e, DHA_E_IO, "cannot read %s: %s", path, sqlite3_errmsg(*db));
    } else if (version != STORE_SCHEMA) {
        rc = dha_fail(e, DHA_E_VERSION, "%s has schema version %d; this dha (%s) reads %d", path,
                      version, DHA_VERSION, STORE_SCHEMA);
        dha_err_hint(e, version < STORE_SCHEMA
                            ? "start its daemon once (dha up): that upgrades it and keeps a copy"
                            : "use the newer dha that wrote it");
    }
    free(path);
    return rc == SQLITE_OK ? 0 : -1;
}

int store_open_reader(const char *state_dir, struct store **out, struct dha_err *e)
{
    *out = NULL;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return db_no_memory(e);
    s->lock_fd = -1;
    s->actor = STORE_NO_ACTOR;
    s->dir = strdup(state_dir);
    if (!s->dir) {
        free(s);
        return db_no_memory(e);
    }
    if (open_to_read(s, "state.db", &s->db, e) != 0 ||
        open_to_read(s, "metrics.db", &s->metrics, e) != 0) {
        store_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void store_interrupt(struct store *s, int (*stop)(void *arg), void *arg)
{
    sqlite3_progress_handler(s->db, 10000, stop, arg);
    sqlite3_progress_handler(s->metrics, 10000, stop, arg);
}

void store_close(struct store *s)
{
    if (!s)
        return;
    if (s->db)
        store_rollback(s);
    kept_finish(s);
    for (size_t i = 0; i < DB_CACHE; i++)
        sqlite3_finalize(s->cache[i].st);
    sqlite3_close(s->metrics);
    sqlite3_close(s->db);
    if (s->lock_fd >= 0)
        close(s->lock_fd); /* releases the lock */
    free(s->dir);
    free(s);
}
