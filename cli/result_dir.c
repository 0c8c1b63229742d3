#include "cli/result_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/locate.h"

/* The last names of a checkpoint's path that the job's owner can put a link in the place of: STAGE/out/model. */
#define OWNERS 3

static int strange(struct dha_err *e, const char *name, const char *what)
{
    dha_fail(e, DHA_E_INPUT, "%s %s", name, what);
    return dha_err_hint(e,
                        "a job makes no such thing and it is not followed: ask the job's owner, or "
                        "submit the job again");
}

int result_dir_entry(const struct result_dir *r, int dir, const char *name, bool dirs,
                     struct stat *st, struct dha_err *e)
{
    /* O_NONBLOCK: a pipe in the file's place does not hold us. */
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

    if (fd < 0) {
        return errno == ELOOP || errno == ENXIO
                   ? strange(e, name, "is neither a file nor a directory (a link?)")
                   : dha_fail_errno(e, errno, "opening %s", name);
    }
    if (fstat(fd, st)) {
        dha_fail_errno(e, errno, "looking at %s", name);
    } else if (!S_ISREG(st->st_mode) && !(dirs && S_ISDIR(st->st_mode))) {
        strange(e, name, dirs ? "is neither a file nor a directory" : "is no file");
    } else if (st->st_uid != r->owner) {
        strange(e, name, "does not belong to the owner of the job's output");
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

int result_dir_open(struct result_dir *r, const char *checkpoint, struct dha_err *e)
{
    char path[LOCATE_MAX];
    char *name[OWNERS];
    struct stat st;
    int fd;

    r->out = -1;
    if (locate_absolute(NULL, checkpoint, path, sizeof path, e)) {
        return -1;
    }
    for (int i = OWNERS - 1; i >= 0; i--) {
        char *slash = strrchr(path, '/');
        if (!slash || !slash[1]) {
            return dha_fail(e, DHA_E_INPUT, "%s is not where a job leaves its checkpoint",
                            checkpoint);
        }
        *slash = 0;
        name[i] = slash + 1;
    }
    snprintf(r->name, sizeof r->name, "%s", name[OWNERS - 1]);
    fd = open(*path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return dha_fail_errno(e, errno, "opening the job's directory %s", path);
    }
    for (int i = 0; i < OWNERS - 1; i++) {
        int below = openat(fd, name[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        int err = errno;
        close(fd);
        if (below < 0) {
            return err == ELOOP || err == ENOTDIR ? strange(e, name[i], "is no directory (a link?)")
                                                  : dha_fail_errno(e, err, "opening %s", name[i]);
        }
        fd = below;
    }
    if (fstat(fd, &st)) {
        dha_fail_errno(e, errno, "looking at %s", checkpoint);
        close(fd);
        return -1;
    }
    r->out = fd;
    r->owner = st.st_uid;
    return 0;
}

void result_dir_close(struct result_dir *r)
{
    if (r->out >= 0) {
        close(r->out);
    }
    r->out = -1;
}

int result_dir_file(const struct result_dir *r, const char *path, struct stat *st,
                    struct dha_err *e)
{
    char names[LOCATE_MAX];
    char *name = names;
    int dir = r->out;

    snprintf(names, sizeof names, "%s", path);
    for (;;) {
        size_t n = strcspn(name, "/");
        bool last = !name[n];
        int fd;
        name[n] = 0;
        if (!*name || !strcmp(name, ".") || !strcmp(name, "..")) {
            strange(e, path, "is no path below the job's output");
            fd = -1;
        } else {
            fd = result_dir_entry(r, dir, name, !last, st, e);
        }
        if (dir != r->out) {
            close(dir);
        }
        if (fd < 0 || last) {
            return fd;
        }
        dir = fd;
        name += n + 1;
    }
}

int result_dir_list(const struct result_dir *r, cJSON **list, struct dha_err *e)
{
    char path[64];
    struct dha_err why = {0};
    struct stat st;
    int fd = result_dir_file(r, "output.json", &st, &why);

    *list = NULL;
    if (fd < 0) {
        if (why.code == DHA_E_NOT_FOUND) {
            return 0;
        }
        *e = why;
        return -1;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d",
             fd); /* the file we looked at, not one of its name */
    *list = json_parse_file(path, 0, e);
    close(fd);
    return *list ? 0 : dha_err_context(e, "output.json");
}
