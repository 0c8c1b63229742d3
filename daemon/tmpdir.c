/* tmpdir.c: see tmpdir.h. */
#include "daemon/tmpdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char pattern[] = "/tmp/dha-XXXXXX";
_Static_assert(sizeof pattern <= TMPDIR_SIZE, "the name fits");

int tmpdir_make(char out[TMPDIR_SIZE])
{
    memcpy(out, pattern, sizeof pattern);
    return mkdtemp(out) ? 0 : -1;
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
    size_t fixed = strlen(pattern) - strlen("XXXXXX");
    if (strlen(name) != strlen(pattern) || strncmp(name, pattern, fixed) != 0 ||
        strchr(name + fixed, '/')) {
        errno = EINVAL;
        return -1;
    }
    return tree_remove(name);
}
