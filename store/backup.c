/* backup.c: copies of state.db: on request, and by itself before a schema is upgraded. A copy appears whole and checked
 * or not at all; nothing is ever overwritten. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/db.h"

#define KEEP_BEFORE_MIGRATION 3

/* What was copied must be a database by itself: out of WAL mode (one file), every page and index sound. */
static int verify(sqlite3 *db, const char *path, struct dha_err *e)
{
    sqlite3_stmt *st = NULL;
    char found[200] = "nothing was said";
    int rc = sqlite3_exec(db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
        db_copy(st, 0, found, sizeof found);
    else
        snprintf(found, sizeof found, "%s", sqlite3_errmsg(db));
    sqlite3_finalize(st);
    if (strcmp(found, "ok") == 0)
        return 0;
    dha_fail(e, DHA_E_IO, "the copy %s does not pass its check: %s", path, found);
    return dha_err_hint(e,
                        "`dha admin fsck` looks at the database itself; the disk may be failing");
}

static int sync_file(const char *path, struct dha_err *e)
{
    char dir[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd >= 0 ? fsync(fd) : -1;
    if (rc != 0)
        dha_fail_errno(e, errno, "cannot sync %s", path);
    if (fd >= 0)
        close(fd);
    snprintf(dir, sizeof dir, "%.4000s", path);
    char *slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir] = '\0';
    fd = rc == 0 ? open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) { /* the file is whole either way; this makes its name last */
        fsync(fd);
        close(fd);
    }
    return rc;
}

static int is_there(const char *path)
{
    return access(path, F_OK);
}

/* What SQLite may leave beside a file: a journal that another file of that name would later be rolled back with. True if
 * with() said 0 of one of them. */
static bool beside(const char *path, int (*with)(const char *path))
{
    static const char *const ends[] = {"-journal", "-wal", "-shm"};
    char name[4200];
    bool any = false;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        int n = snprintf(name, sizeof name, "%s%s", path, ends[i]);
        any |= n > 0 && (size_t)n < sizeof name && with(name) == 0;
    }
    return any;
}

static void remove_copy(const char *path)
{
    unlink(path);
    beside(path, unlink);
}

static int copy_to(struct store *s, const char *path, struct dha_err *e)
{
    sqlite3 *to = NULL;
    int rc = -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return dha_fail_errno(e, errno, "cannot create the backup %s", path);
    close(fd);
    if (sqlite3_open_v2(path, &to, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) {
        sqlite3_backup *b = sqlite3_backup_init(to, "main", s->db, "main");
        if (b) {
            sqlite3_backup_step(b, -1);
            rc = sqlite3_backup_finish(b) == SQLITE_OK ? 0 : -1;
        }
    }
    if (rc != 0) {
        bool full = (sqlite3_errcode(to) & 0xff) == SQLITE_FULL;
        dha_fail(e, full ? DHA_E_NO_SPACE : DHA_E_IO, "cannot write the backup %s: %s", path,
                 sqlite3_errmsg(to));
    } else {
        rc = verify(to, path, e);
    }
    if (sqlite3_close(to) != SQLITE_OK && rc == 0)
        rc = dha_fail(e, DHA_E_IO, "cannot close the backup %s", path);
    if (rc == 0 && beside(path, is_there))
        rc = dha_fail(e, DHA_E_IO, "the backup %s still has a journal", path);
    return rc;
}

/* Under its name only when it is whole: killed before that, a file FILE.tmp is left, which the next one replaces. */
int store_backup(struct store *s, const char *path, struct dha_err *e)
{
    char tmp[4200];
    int n = snprintf(tmp, sizeof tmp - 16, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof tmp - 16)
        return dha_fail(e, DHA_E_USAGE, "the path of the backup is too long");
    if (is_there(path) == 0 || beside(path, is_there)) {
        dha_fail(e, DHA_E_CONFLICT, "%s is there already", path);
        return dha_err_hint(e, "a backup overwrites nothing: name a new file");
    }
    remove_copy(tmp);
    int rc = copy_to(s, tmp, e);
    if (rc == 0)
        rc = sync_file(tmp, e);
    if (rc == 0 && rename(tmp, path) != 0)
        rc = dha_fail_errno(e, errno, "cannot rename the backup to %s", path);
    if (rc == 0)
        rc = sync_file(path, e); /* its directory */
    if (rc != 0)
        remove_copy(tmp);
    return rc;
}

/* ---- by itself ---- */

static int is_copy(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return strncmp(d->d_name, "state-v", 7) == 0 && n > 10 && strcmp(d->d_name + n - 3, ".db") == 0;
}

void store_copy_name(char name[64], int64_t time_us, int64_t seq)
{
    char when[32];
    time_t t = (time_t)(time_us / 1000000);
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &tm);
    snprintf(name, 64, "auto-%s-%lld.db", when, (long long)seq);
}

/* Only a name that would be made again from what it says is ours. */
static bool read_copy_name(const char *name, struct store_copy *c)
{
    struct tm tm = {0};
    char again[64];
    if (strncmp(name, "auto-", 5) != 0 || strlen(name) >= sizeof c->name)
        return false;
    const char *end = strptime(name + 5, "%Y%m%dT%H%M%SZ", &tm);
    if (!end || *end != '-')
        return false;
    *c = (struct store_copy){.time_us = (int64_t)timegm(&tm) * 1000000,
                             .seq = strtoll(end + 1, NULL, 10)};
    store_copy_name(again, c->time_us, c->seq);
    snprintf(c->name, sizeof c->name, "%s", name);
    return strcmp(again, name) == 0;
}

static int older_copy(const void *a, const void *b)
{
    const struct store_copy *x = a, *y = b;
    return x->time_us != y->time_us ? (x->time_us > y->time_us) - (x->time_us < y->time_us)
                                    : (x->seq > y->seq) - (x->seq < y->seq);
}

int store_copies(const char *state_dir, struct store_copy **out, size_t *n, struct dha_err *e)
{
    char *path;
    int rc = 0;
    *out = NULL;
    *n = 0;
    if (asprintf(&path, "%s/backup", state_dir) < 0)
        return db_no_memory(e);
    DIR *d = opendir(path);
    if (!d && errno != ENOENT)
        rc = dha_fail_errno(e, errno, "cannot read %s", path);
    for (struct dirent *f; d && rc == 0 && (f = readdir(d));) {
        struct store_copy one, *c;
        if (!read_copy_name(f->d_name, &one))
            continue;
        if ((c = db_grow(out, n, sizeof *c)))
            *c = one;
        else
            rc = db_no_memory(e);
    }
    if (d)
        closedir(d);
    free(path);
    if (rc != 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    } else if (*n) {
        qsort(*out, *n, sizeof **out, older_copy);
    }
    return rc;
}

void store_newest_copy(const char *state_dir, char *path, size_t size)
{
    char dir[4096];
    struct timespec newest = {0};
    path[0] = '\0';
    snprintf(dir, sizeof dir, "%.4000s/backup", state_dir);
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        struct store_copy ours;
        struct stat st;
        if ((!read_copy_name(f->d_name, &ours) && !is_copy(f)) ||
            fstatat(dirfd(d), f->d_name, &st, 0) != 0 || st.st_size == 0)
            continue;
        if (!path[0] || st.st_mtim.tv_sec > newest.tv_sec ||
            (st.st_mtim.tv_sec == newest.tv_sec && st.st_mtim.tv_nsec > newest.tv_nsec)) {
            newest = st.st_mtim;
            snprintf(path, size, "%s/%s", dir, f->d_name);
        }
    }
    if (d)
        closedir(d);
}

/* ---- before an upgrade ---- */

/* The name ends with the time, of one width: "state-v2-20261123T161640Z.db". */
static int by_time(const struct dirent **a, const struct dirent **b)
{
    const char *x = strrchr((*a)->d_name, '-'), *y = strrchr((*b)->d_name, '-');
    return strcmp(x, y);
}

static void drop_old(const char *dir)
{
    struct dirent **names = NULL;
    int n = scandir(dir, &names, is_copy, by_time);
    for (int i = 0; i < n; i++) {
        char *path;
        if (i < n - KEEP_BEFORE_MIGRATION && asprintf(&path, "%s/%s", dir, names[i]->d_name) >= 0) {
            unlink(path);
            free(path);
        }
        free(names[i]);
    }
    free(names);
}

int backup_before_migration(struct store *s, struct dha_err *e)
{
    char *dir = NULL, *path = NULL, when[32];
    int64_t version, tables;
    int rc = -1;
    if (db_scalar(s, e, db_query0(s, e, "PRAGMA user_version"), 0, &version) != 0 ||
        db_scalar(s, e, db_query0(s, e, "SELECT count(*) FROM sqlite_schema"), 0, &tables) != 0)
        return -1;
    if (version >= STORE_SCHEMA || tables == 0)
        return 0;
    time_t now = (time_t)(s->now_us / 1000000);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &tm);
    if (asprintf(&dir, "%s/backup", s->dir) < 0 ||
        asprintf(&path, "%s/state-v%lld-%s.db", dir, (long long)version, when) < 0) {
        db_no_memory(e);
        goto out;
    }
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        dha_fail_errno(e, errno, "cannot create %s", dir);
        goto out;
    }
    struct dha_err why = {0};
    rc = store_backup(s, path, &why);
    if (rc != 0 && why.code == DHA_E_CONFLICT) /* an upgrade that was cut short a moment ago */
        rc = 0;
    if (rc != 0) {
        if (e)
            *e = why;
        dha_err_context(e, "the copy that is kept before an upgrade");
        goto out;
    }
    drop_old(dir);
out:
    free(path);
    free(dir);
    return rc;
}
