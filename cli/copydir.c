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
        if (errno == ENOENT) {
            return 0;
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

static int copy_file(int from_dir, int to_dir, const char *name, char *buf, struct dha_err *e)
{
    int in = openat(from_dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int out = -1;
    int ret = -1;

    if (in < 0) {
        return dha_fail_errno(e, errno, "opening %s", name);
    }
    out = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
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

/* Takes both descriptors. */
static int copy_tree(int from_fd, int to_fd, char *buf, int depth, struct dha_err *e)
{
    DIR *dir = fdopendir(from_fd);
    struct dirent *d;
    struct stat st;
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
        if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
            dha_fail_errno(e, errno, "looking at %s", d->d_name);
            goto out;
        }
        if (S_ISREG(st.st_mode)) {
            if (copy_file(dirfd(dir), to_fd, d->d_name, buf, e)) {
                goto out;
            }
        } else if (S_ISDIR(st.st_mode) && depth < MAX_DEPTH) {
            int a = openat(dirfd(dir), d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            int b = -1;
            if (a >= 0 && !mkdirat(to_fd, d->d_name, 0777)) {
                b = openat(to_fd, d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            }
            if (a < 0 || b < 0) {
                dha_fail_errno(e, errno, "copying the directory %s", d->d_name);
                if (a >= 0) {
                    close(a);
                }
                goto out;
            }
            if (copy_tree(a, b, buf, depth + 1, e)) {
                goto out;
            }
        } else {
            dha_fail(e, DHA_E_INPUT, "%s is neither a file nor a directory", d->d_name);
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

static void remove_tree(int at, const char *name, int depth)
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
            remove_tree(dirfd(dir), d->d_name, depth + 1);
        }
    }
    closedir(dir);
    unlinkat(at, name, AT_REMOVEDIR);
}

int copydir(const char *from, const char *out, struct dha_err *e)
{
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
        return dha_fail(e, DHA_E_NO_MEMORY, "copying %s", from);
    }
    if (locate_mkdirs(parent, 0777, e)) {
        goto free_buf;
    }
    from_fd = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from_fd < 0) {
        dha_fail_errno(e, errno, "opening the checkpoint %s", from);
        goto free_buf;
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
    ret = copy_tree(from_fd, to_fd, buf, 0, e);
    from_fd = -1; /* copy_tree closed it */
    if (ret) {
        dha_err_context(e, "copying %s to %s", from, out);
        goto remove_part;
    }
    if (rename(part, to)) {
        ret = dha_fail_errno(e, errno, "renaming %s to %s", part, to);
        goto remove_part;
    }
    fsync(parent_fd); /* the copy is whole either way; this only makes its name last */
    goto close_from;
remove_part:
    remove_tree(AT_FDCWD, part, 0);
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
