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

int store_backup(struct store *s, const char *path, struct dha_err *e)
{
    sqlite3 *to = NULL;
    int rc = -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST) {
        dha_fail(e, DHA_E_CONFLICT, "%s is there already", path);
        return dha_err_hint(e, "a backup overwrites nothing: name a new file");
    }
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
    if (rc == 0)
        rc = sync_file(path, e);
    if (rc != 0)
        unlink(path);
    return rc;
}

/* ---- before an upgrade ---- */

static int is_copy(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return strncmp(d->d_name, "state-v", 7) == 0 && n > 10 && strcmp(d->d_name + n - 3, ".db") == 0;
}

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
