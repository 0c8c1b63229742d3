/* chore_backup.c: a copy of the database while it is in use, on request or by the daemon itself. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "daemon/chores.h"
#include "daemon/files.h"
#include "daemon/log.h"

static int copy(struct chore *c, const char *file, struct dha_err *e)
{
    struct store *s;
    if (store_open_reader(c->state_dir, &s, e) != 0) {
        return -1;
    }
    progress_phase(&c->progress, "copying and checking the database", 0);
    store_interrupt(s, progress_stopped, &c->progress);
    int rc = store_backup(s, file, e);
    store_close(s);
    return rc;
}

static int work(struct chore *c, struct dha_err *e)
{
    return copy(c, c->arg, e);
}

static int step(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    struct stat st;
    *next = CHORE_DONE;
    if (stat(c->arg, &st) != 0) {
        return dha_fail(e, DHA_E_IO, "%s was made, but is not there any more", (char *)c->arg);
    }
    c->result = cJSON_CreateObject();
    if ((json_put_str(c->result, "file", c->arg) |
         json_put_id(c->result, "bytes", (int64_t)st.st_size)) != 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return 0;
}

static const struct chore_ops ops = {.name = "backup", .work = work, .step = step, .destroy = free};

int chore_backup(struct daemon *d, const char *file, struct dha_err *e)
{
    char *copy = strdup(file);
    return copy ? chore_start(d, &ops, copy, e) : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

/* ---- the daemon's own ---- */

struct own {
    char dir[FILES_PATH], path[FILES_PATH];
    long keep;
};

/* A copy is not worth the disk that the jobs need: it is left out where less than a twentieth of the disk (or less than the
 * copy once more) would stay free. */
static int has_room(const struct chore *c, struct dha_err *e)
{
    char path[FILES_PATH];
    struct stat st;
    struct statvfs fs;
    if (files_path(path, e, "%s/state.db", c->state_dir) != 0) {
        return -1;
    }
    if (stat(path, &st) != 0 || statvfs(c->state_dir, &fs) != 0) {
        return dha_fail_errno(e, errno, "cannot look at %s", path);
    }
    uint64_t size = (uint64_t)st.st_size, available = (uint64_t)fs.f_bavail * fs.f_frsize,
             all = (uint64_t)fs.f_blocks * fs.f_frsize;
    if (available < size + (all / 20 > size ? all / 20 : size)) {
        dha_fail(e, DHA_E_NO_SPACE, "the disk of %s is nearly full: %llu of %llu MiB are free",
                 c->state_dir, (unsigned long long)(available >> 20),
                 (unsigned long long)(all >> 20));
        return dha_err_hint(e, "`dha admin prune` removes checkpoints of jobs that have ended");
    }
    return 0;
}

/* What a daemon that was killed had begun. */
static void drop_begun(const struct own *o)
{
    DIR *d = opendir(o->dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        if (strncmp(f->d_name, "auto-", 5) == 0 && strstr(f->d_name, ".db.tmp")) {
            unlinkat(dirfd(d), f->d_name, 0);
        }
    }
    if (d) {
        closedir(d);
    }
}

/* Only copies whose names are ours. */
static void drop_old(const struct chore *c, const struct own *o)
{
    struct store_copy *l = NULL;
    size_t n = 0;
    struct dha_err e = {0};
    drop_begun(o);
    if (store_copies(c->state_dir, &l, &n, &e) != 0) {
        log_fail("old backups", &e);
    }
    for (size_t i = 0; i + (size_t)o->keep < n; i++) {
        char path[FILES_PATH];
        if (files_path(path, &e, "%s/%s", o->dir, l[i].name) != 0 || unlink(path) != 0) {
            log_warn("%s could not be removed", l[i].name);
        }
    }
    free(l);
}

static int own_work(struct chore *c, struct dha_err *e)
{
    const struct own *o = c->arg;
    if (has_room(c, e) != 0) {
        return dha_err_context(e, "the backup is left out");
    }
    if (mkdir(o->dir, 0700) != 0 && errno != EEXIST) {
        return dha_fail_errno(e, errno, "cannot create %s", o->dir);
    }
    if (copy(c, o->path, e) != 0) {
        return -1;
    }
    drop_old(c, o);
    return 0;
}

static int own_step(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    (void)e;
    *next = CHORE_DONE;
    c->changed = true;
    return 0;
}

static const struct chore_ops own_ops = {
    .name = "backup", .work = own_work, .step = own_step, .destroy = free};

int chore_backup_own(struct daemon *d, int64_t now_us, int64_t seq, long keep, struct dha_err *e)
{
    char name[64];
    struct own *o = calloc(1, sizeof *o);
    if (!o) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    store_copy_name(name, now_us, seq);
    o->keep = keep;
    if (files_path(o->dir, e, "%s/backup", d->state_dir) != 0 ||
        files_path(o->path, e, "%s/%s", o->dir, name) != 0) {
        free(o);
        return -1;
    }
    return chore_start_own(d, &own_ops, o, e);
}
