#include "cli/copydir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/locate.h"

#define CHUNK     ((size_t)1 << 20)
#define MAX_DEPTH 8

/* Can `out`, which is not there, be made? Its nearest parent that is there says so, before hours of work do. */
static int check_parent(const char *out, struct dha_err *e)
{
    char at[LOCATE_MAX];
    struct stat st;
    int rc;

    if (locate_absolute(NULL, out, at, sizeof at, e)) {
        return -1;
    }
    do {
        char *slash = strrchr(at, '/');
        slash[slash == at] = 0;
        rc = stat(at, &st);
    } while (rc && (errno == ENOENT || errno == ENOTDIR) && at[1]);
    if (rc) {
        return dha_fail_errno(e, errno, "looking at %s", at);
    }
    if (!S_ISDIR(st.st_mode)) {
        dha_fail(e, DHA_E_CONFLICT, "%s cannot be made: %s is no directory", out, at);
        return dha_err_hint(e, "name another directory");
    }
    if (access(at, W_OK | X_OK)) {
        dha_fail_errno(e, errno, "%s cannot be made: writing to %s", out, at);
        return dha_err_hint(e, "name a directory where you may write");
    }
    return 0;
}

int copydir_check(const char *out, struct dha_err *e)
{
    struct dirent *d;
    DIR *dir;
    bool empty = true;

    if (!*out) {
        return dha_fail(e, DHA_E_USAGE, "the directory to write to has no name");
    }
    dir = opendir(out);
    if (!dir) {
        struct stat st;
        if (errno == ENOENT || (errno == ENOTDIR && stat(out, &st))) {
            return check_parent(out, e);
        }
        if (errno == ENOTDIR) {
            dha_fail(e, DHA_E_CONFLICT, "%s is there already and is no directory", out);
            return dha_err_hint(e, "name a directory that does not exist yet");
        }
        return dha_fail_errno(e, errno, "looking at %s", out);
    }
    while ((d = readdir(dir))) {
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, "..")) {
            empty = false;
        }
    }
    closedir(dir);
    if (!empty) {
        dha_fail(e, DHA_E_CONFLICT, "the directory %s is not empty", out);
        return dha_err_hint(e, "nothing is overwritten: name another --out, or remove it first");
    }
    return 0;
}

/* Takes `in`. */
static int copy_file(int in, int to_dir, const char *name, char *buf, struct dha_err *e)
{
    int out = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int ret = -1;

    if (out < 0) {
        dha_fail_errno(e, errno, "creating %s", name);
        goto close_in;
    }
    for (;;) {
        ssize_t n = read(in, buf, CHUNK);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            dha_fail_errno(e, errno, "reading %s", name);
            goto close_out;
        }
        if (n == 0) {
            break;
        }
        for (ssize_t done = 0; done < n;) {
            ssize_t put = write(out, buf + done, (size_t)(n - done));
            if (put < 0 && errno != EINTR) {
                dha_fail_errno(e, errno, "writing %s", name);
                goto close_out;
            }
            done += put > 0 ? put : 0;
        }
    }
    if (fsync(out)) {
        dha_fail_errno(e, errno, "writing %s", name);
        goto close_out;
    }
    ret = 0;
close_out:
    if (close(out) && !ret) {
        ret = dha_fail_errno(e, errno, "writing %s", name);
    }
close_in:
    close(in);
    return ret;
}

static int make_dir(int at, const char *name, struct dha_err *e)
{
    int fd = mkdirat(at, name, 0777) && errno != EEXIST
                 ? -1
                 : openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    return fd < 0 ? dha_fail_errno(e, errno, "creating the directory %s", name) : fd;
}

/* Everything in from_fd, for want of a list. Takes both descriptors. */
static int copy_tree(const struct result_dir *from, int from_fd, int to_fd, char *buf, int depth,
                     struct dha_err *e)
{
    DIR *dir = fdopendir(from_fd);
    struct dirent *d;
    struct stat st;
    int in;
    int below;
    int ret = -1;

    if (!dir) {
        dha_fail_errno(e, errno, "reading a directory");
        close(from_fd);
        close(to_fd);
        return -1;
    }
    while ((d = readdir(dir))) {
        if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..")) {
            continue;
        }
        in = result_dir_entry(from, dirfd(dir), d->d_name, true, &st, e);
        if (in < 0) {
            goto out;
        }
        if (S_ISREG(st.st_mode)) {
            if (copy_file(in, to_fd, d->d_name, buf, e)) {
                goto out;
            }
            continue;
        }
        below = depth < MAX_DEPTH ? make_dir(to_fd, d->d_name, e)
                                  : dha_fail(e, DHA_E_INPUT, "%s is too deep", d->d_name);
        if (below < 0) {
            close(in);
            goto out;
        }
        if (copy_tree(from, in, below, buf, depth + 1, e)) {
            goto out;
        }
    }
    if (fsync(to_fd)) {
        dha_fail_errno(e, errno, "writing a directory");
        goto out;
    }
    ret = 0;
out:
    closedir(dir);
    close(to_fd);
    return ret;
}

/* A file of the list, `name` below the directory to. Takes `in`. */
static int copy_listed(int in, int to, const char *name, char *buf, struct dha_err *e)
{
    const char *slash = strchr(name, '/');
    char first[256];
    int below;
    int ret;

    if (!slash) {
        return copy_file(in, to, name, buf, e);
    }
    snprintf(first, sizeof first, "%.*s", (int)(slash - name), name);
    below = make_dir(to, first, e);
    if (below < 0) {
        close(in);
        return -1;
    }
    ret = copy_listed(in, below, slash + 1, buf, e);
    if (!ret && fsync(below)) {
        ret = dha_fail_errno(e, errno, "writing the directory %s", first);
    }
    close(below);
    return ret;
}

/* What the list names below the checkpoint's directory, and nothing else that stands there. */
static int copy_list(const struct result_dir *from, const cJSON *files, int to, char *buf,
                     struct dha_err *e)
{
    size_t n = strlen(from->name);
    const cJSON *file;
    struct stat st;

    cJSON_ArrayForEach(file, files)
    {
        const char *path = json_str(file, "path", "");
        int in;
        if (strncmp(path, from->name, n) || path[n] != '/') {
            continue;
        }
        /* Also: no "..", before a directory is made for it. */
        in = result_dir_file(from, path, &st, e);
        if (in < 0 || copy_listed(in, to, path + n + 1, buf, e)) {
            return -1;
        }
    }
    return fsync(to) ? dha_fail_errno(e, errno, "writing a directory") : 0;
}

static void remove_below(int at, const char *name, int depth)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *d;

    if (!dir) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    while ((d = readdir(dir))) {
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, "..") &&
            unlinkat(dirfd(dir), d->d_name, 0) && depth < MAX_DEPTH) {
            remove_below(dirfd(dir), d->d_name, depth + 1);
        }
    }
    closedir(dir);
    unlinkat(at, name, AT_REMOVEDIR);
}

void copydir_remove(const char *path)
{
    remove_below(AT_FDCWD, path, 0);
}

int copydir(const struct result_dir *from, const cJSON *files, const char *out, struct dha_err *e)
{
    struct stat st;
    char to[LOCATE_MAX];
    char part[LOCATE_MAX + 24];
    char parent[LOCATE_MAX];
    char *slash;
    char *buf;
    int from_fd = -1;
    int to_fd = -1;
    int parent_fd = -1;
    int ret = -1;

    if (locate_absolute(NULL, out, to, sizeof to, e) || copydir_check(to, e)) {
        return -1;
    }
    snprintf(parent, sizeof parent, "%s", to);
    slash = strrchr(parent, '/');
    slash[slash == parent] = 0;
    snprintf(part, sizeof part, "%s.part-%ld", to, (long)getpid());
    buf = malloc(CHUNK);
    if (!buf) {
        return dha_fail(e, DHA_E_NO_MEMORY, "copying to %s", out);
    }
    if (locate_mkdirs(parent, 0777, e)) {
        goto free_buf;
    }
    from_fd = result_dir_entry(from, from->out, from->name, true, &st, e);
    if (from_fd < 0) {
        dha_err_context(e, "the checkpoint");
        goto free_buf;
    }
    if (!S_ISDIR(st.st_mode)) {
        dha_fail(e, DHA_E_INPUT, "%s is no directory", from->name);
        goto close_from;
    }
    parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent_fd < 0 || mkdir(part, 0777)) {
        dha_fail_errno(e, errno, "creating %s", part);
        goto close_from;
    }
    to_fd = open(part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (to_fd < 0) {
        dha_fail_errno(e, errno, "opening %s", part);
        goto remove_part;
    }
    if (files) {
        ret = copy_list(from, files, to_fd, buf, e);
        close(to_fd);
    } else {
        ret = copy_tree(from, from_fd, to_fd, buf, 0, e);
        from_fd = -1; /* copy_tree closed it */
    }
    if (ret) {
        dha_err_context(e, "copying the checkpoint to %s", out);
        goto remove_part;
    }
    if (rename(part, to)) {
        ret = dha_fail_errno(e, errno, "renaming %s to %s", part, to);
        goto remove_part;
    }
    fsync(parent_fd); /* the copy is whole either way; this only makes its name last */
    goto close_from;
remove_part:
    copydir_remove(part);
close_from:
    if (parent_fd >= 0) {
        close(parent_fd);
    }
    if (from_fd >= 0) {
        close(from_fd);
    }
free_buf:
    free(buf);
    return ret;
}
