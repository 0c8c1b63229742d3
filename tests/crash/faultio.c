/* faultio.c: LD_PRELOAD for dhad: while the file named by DHA_FAULTIO exists and holds an errno's number, what
 * writes below DHA_FAULTIO_DIR fails with it: write, sync, truncate, and open for writing, mkdir, rename, unlink.
 * What stat() and open() are asked of a path that begins with DHA_FAULTIO_HUNG, they do not answer before that file is gone; with
 * DHA_FAULTIO_SYNC in the environment, fdatasync() neither. The first that waits makes the file's name + ".waits".
 * What begins with DHA_FAULTIO_DEAD cannot be looked at, opened or read at all: a mount whose server is dead.
 * DHA_FAULTIO_FLOCK: what flock() below DHA_FAULTIO_DIR comes to: an errno's number, or 0 for success that locks nothing.
 * DHA_FAULTIO_OFD: the same of fcntl()'s locks of open files, in every program.
 * DHA_FAULTIO_CLOCK names a file with seconds that the wall clock is off by, DHA_FAULTIO_BOOT one for the clock that goes on in
 * suspend, DHA_FAULTIO_MONOTONIC one for the clock that does not.
 * The daemon only: what it starts inherits the environment, but is another program. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The number in a file, 0 = none. Asked with bare system calls: the wrappers below would ask again. */
static int number_in(const char *file)
{
    char text[16] = "";
    if (!file || strncmp(program_invocation_short_name, "dhad", 4) != 0)
        return 0;
    long fd = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return n > 0 ? atoi(text) : 0;
}

static int fails_path(const char *path)
{
    const char *dir = getenv("DHA_FAULTIO_DIR");
    int keep = errno, err = 0;
    if (dir && path && strncmp(path, dir, strlen(dir)) == 0)
        err = number_in(getenv("DHA_FAULTIO"));
    errno = err ? err : keep;
    return err;
}

static int is_dead(const char *path)
{
    const char *dir = getenv("DHA_FAULTIO_DEAD");
    int keep = errno;
    int err = dir && path && strncmp(path, dir, strlen(dir)) == 0 ? number_in(getenv("DHA_FAULTIO"))
                                                                  : 0;
    errno = err ? err : keep;
    return err;
}

static const char *path_of(int fd, char path[512])
{
    char link[40];
    int keep = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 511);
    errno = keep;
    path[n > 0 ? n : 0] = '\0';
    return path;
}

static int fails_fd(int fd)
{
    char path[512];
    return fails_path(path_of(fd, path));
}

#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (!real)                                                                                     \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *buf, size_t n)
{
    REAL(write);
    return fails_fd(fd) ? -1 : real(fd, buf, n);
}
ssize_t pwrite(int fd, const void *buf, size_t n, off_t at)
{
    REAL(pwrite);
    return fails_fd(fd) ? -1 : real(fd, buf, n, at);
}
ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t at)
{
    REAL(pwrite64);
    return fails_fd(fd) ? -1 : real(fd, buf, n, at);
}
int flock(int fd, int what)
{
    REAL(flock);
    char path[512];
    const char *dir = getenv("DHA_FAULTIO_DIR"), *how = getenv("DHA_FAULTIO_FLOCK");
    if (!dir || !how || strncmp(path_of(fd, path), dir, strlen(dir)) != 0)
        return real(fd, what);
    errno = atoi(how);
    return errno ? -1 : 0;
}
/* The fcntl() of both names; what is asked is answered as if nobody held one. */
static int lock_of_file(int fd, int cmd, void *arg, int (*real)(int, int, ...))
{
    char path[512];
    const char *dir = getenv("DHA_FAULTIO_DIR"), *how = getenv("DHA_FAULTIO_OFD");
    if ((cmd != F_OFD_SETLK && cmd != F_OFD_GETLK) || !dir || !how ||
        strncmp(path_of(fd, path), dir, strlen(dir)) != 0)
        return real(fd, cmd, arg);
    errno = atoi(how);
    if (!errno && cmd == F_OFD_GETLK)
        ((struct flock *)arg)->l_type = F_UNLCK;
    return errno ? -1 : 0;
}
int fcntl(int fd, int cmd, ...)
{
    REAL(fcntl);
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return lock_of_file(fd, cmd, arg, real);
}
int fcntl64(int fd, int cmd, ...)
{
    REAL(fcntl64);
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return lock_of_file(fd, cmd, arg, real);
}
int fsync(int fd)
{
    REAL(fsync);
    return fails_fd(fd) ? -1 : real(fd);
}
static void hang(void)
{
    const struct timespec a_while = {.tv_nsec = 10000000};
    const char *file = getenv("DHA_FAULTIO");
    char waits[512];
    while (number_in(file)) {
        snprintf(waits, sizeof waits, "%s.waits", file);
        syscall(SYS_close,
                syscall(SYS_openat, AT_FDCWD, waits, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        nanosleep(&a_while, NULL);
    }
}
static void hang_at(const char *path)
{
    const char *hung = getenv("DHA_FAULTIO_HUNG");
    if (hung && strncmp(path, hung, strlen(hung)) == 0)
        hang();
}
int stat(const char *path, struct stat *st)
{
    REAL(stat);
    hang_at(path);
    return is_dead(path) ? -1 : real(path, st);
}
int fstat(int fd, struct stat *st)
{
    REAL(fstat);
    char path[512];
    return is_dead(path_of(fd, path)) ? -1 : real(fd, st);
}
ssize_t pread(int fd, void *buf, size_t n, off_t at)
{
    REAL(pread);
    char path[512];
    return is_dead(path_of(fd, path)) ? -1 : real(fd, buf, n, at);
}
ssize_t pread64(int fd, void *buf, size_t n, off64_t at)
{
    REAL(pread64);
    char path[512];
    return is_dead(path_of(fd, path)) ? -1 : real(fd, buf, n, at);
}
DIR *opendir(const char *path)
{
    REAL(opendir);
    return is_dead(path) ? NULL : real(path);
}
int fdatasync(int fd)
{
    REAL(fdatasync);
    if (getenv("DHA_FAULTIO_SYNC"))
        hang();
    return fails_fd(fd) ? -1 : real(fd);
}
int ftruncate(int fd, off_t size)
{
    REAL(ftruncate);
    return fails_fd(fd) ? -1 : real(fd, size);
}
int ftruncate64(int fd, off64_t size)
{
    REAL(ftruncate64);
    return fails_fd(fd) ? -1 : real(fd, size);
}
int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    return fails_path(path) ? -1 : real(path, mode);
}
int rename(const char *from, const char *to)
{
    REAL(rename);
    return fails_path(to) ? -1 : real(from, to);
}
int unlink(const char *path)
{
    REAL(unlink);
    return fails_path(path) ? -1 : real(path);
}
static mode_t mode_of(int flags, va_list ap)
{
    return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(ap, int) : 0;
}
int open(const char *path, int flags, ...)
{
    REAL(open);
    hang_at(path);
    va_list ap;
    va_start(ap, flags);
    mode_t mode = mode_of(flags, ap);
    va_end(ap);
    if (is_dead(path))
        return -1;
    return (flags & O_ACCMODE) != O_RDONLY && fails_path(path) ? -1 : real(path, flags, mode);
}
int open64(const char *path, int flags, ...)
{
    REAL(open64);
    hang_at(path);
    va_list ap;
    va_start(ap, flags);
    mode_t mode = mode_of(flags, ap);
    va_end(ap);
    if (is_dead(path))
        return -1;
    return (flags & O_ACCMODE) != O_RDONLY && fails_path(path) ? -1 : real(path, flags, mode);
}
int clock_gettime(clockid_t clock, struct timespec *ts)
{
    int rc = (int)syscall(SYS_clock_gettime, clock, ts);
    const char *off = clock == CLOCK_REALTIME   ? getenv("DHA_FAULTIO_CLOCK")
                      : clock == CLOCK_BOOTTIME ? getenv("DHA_FAULTIO_BOOT")
                      : clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE
                          ? getenv("DHA_FAULTIO_MONOTONIC")
                          : NULL;
    if (rc == 0 && off)
        ts->tv_sec += number_in(off);
    return rc;
}
