/* logcap.c: see logcap.h. */
#include "daemon/logcap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/runas.h"

enum { BLOCK = 4096 };

int logcap_trim(const char *path, int64_t limit, int64_t *dropped)
{
    struct stat st, after;
    int rc = 0;
    *dropped = 0;
    int fd = runas_open(path, O_WRONLY);
    if (fd < 0) {
        return errno == ENOENT ? 0 : -1;
    }
    if (fstat(fd, &st) != 0) {
        rc = -1;
    } else if ((int64_t)st.st_blocks * 512 > limit) {
        int64_t from = limit / 16 / BLOCK * BLOCK;
        int64_t to = ((int64_t)st.st_size - limit / 4) / BLOCK * BLOCK;
        if (to > from) {
            rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, to - from);
        }
        if (rc == 0 && fstat(fd, &after) == 0) {
            *dropped = ((int64_t)st.st_blocks - (int64_t)after.st_blocks) * 512;
        }
    }
    int err = errno;
    close(fd);
    errno = err;
    return rc;
}

ssize_t logcap_read(int fd, int64_t *offset, char *buf, size_t cap)
{
    off_t data = lseek(fd, *offset, SEEK_DATA);
    if (data < 0) {
        return errno == ENXIO ? 0 : -1; /* at or behind the end */
    }
    off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole > data && (size_t)(hole - data) < cap) {
        cap = (size_t)(hole - data);
    }
    *offset = data;
    return pread(fd, buf, cap, data);
}
