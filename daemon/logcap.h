/* logcap.h: what an attempt's launcher (stderr.log) and each of its ranks (rank-N.log) write is kept on disk to so many bytes. Who writes has the file open for appending and
 * cannot be made to turn to another; so the middle is taken out of the file where it lies (a hole: offsets stay what
 * they were, the blocks go back to the file system). The first and the last lines are what people look for. */
#ifndef DHA_DAEMON_LOGCAP_H
#define DHA_DAEMON_LOGCAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define RANK_LOG "rank-%d.log"

/* Where the file takes more than `limit` bytes of disk, all but its first limit/16 and its last limit/4 become a hole.
 * *dropped: bytes that are gone by this call. 0, or -1 with errno (EOPNOTSUPP: the file system has no holes). */
int logcap_trim(const char *path, int64_t limit, int64_t *dropped);

/* Reads at most `cap` bytes from *offset on: of a hole nothing, but what comes after it; *offset is then where that begins.
 * Returns the number of bytes, 0 at the end, or -1 with errno. */
ssize_t logcap_read(int fd, int64_t *offset, char *buf, size_t cap);

#endif
