/* tmpdir.c: see tmpdir.h. */
#include "daemon/tmpdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#include <sys/random.h>
#include <sys/stat.h>

enum { RANDOM = 6, TRIES = 100 };
static const char fixed[] = "/tmp/dha-";
static const char name_file[] = "tmp.name";
_Static_assert(sizeof fixed + RANDOM <= TMPDIR_SIZE, "the name fits");

static int random_name(char out[TMPDIR_SIZE])
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    unsigned char bytes[RANDOM];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        return -1;
    }
    memcpy(out, fixed, sizeof fixed);
    for (size_t i = 0; i < RANDOM; i++) {
        out[sizeof fixed - 1 + i] = letters[bytes[i] % (sizeof letters - 1)];
    }
    out[sizeof fixed - 1 + RANDOM] = '\0';
    return 0;
}

static bool is_ours(const char *name)
{
    size_t n = sizeof fixed - 1;
    return strlen(name) == n + RANDOM && strncmp(name, fixed, n) == 0 && !strchr(name + n, '/');
}

static int write_name(int dir, const char *name)
{
    int fd = openat(dir, name_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -1;
    }
    size_t n = strlen(name);
    int rc = write(fd, name, n) == (ssize_t)n ? 0 : -1;
    return close(fd) == 0 ? rc : -1;
}

int tmpdir_make(int dir, char out[TMPDIR_SIZE])
{
    tmpdir_unmake(dir);
    for (int i = 0; i < TRIES; i++) {
        struct stat st;
        if (random_name(out) != 0) {
            return -1;
        }
        if (lstat(out, &st) == 0) {
            continue; /* somebody else's: its name is never written down */
        }
        if (write_name(dir, out) != 0) {
            return -1;
        }
        if (mkdir(out, 0700) == 0) {
            return 0;
        }
        if (errno != EEXIST) {
            return -1;
        }
    }
    return -1;
}

void tmpdir_unmake(int dir)
{
    char name[TMPDIR_SIZE];
    int fd = openat(dir, name_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : read(fd, name, sizeof name - 1);
    if (fd >= 0) {
        close(fd);
    }
    if (n > 0) {
        name[n] = '\0';
        if (is_ours(name)) {
            rmdir(name);
        }
    }
}

static int remove_tree(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return unlinkat(parent, name, 0);
    }
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return -1;
    }
    for (struct dirent *e; (e = readdir(d));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            remove_tree(fd, e->d_name);
        }
    }
    closedir(d);
    return unlinkat(parent, name, AT_REMOVEDIR);
}

int tree_remove(const char *path)
{
    return remove_tree(AT_FDCWD, path);
}

int tmpdir_remove(const char *name)
{
    if (!is_ours(name)) {
        errno = EINVAL;
        return -1;
    }
    return tree_remove(name);
}
