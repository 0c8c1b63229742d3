/* log.c: see log.h. The log has one process-wide destination: that is what a log is. */
#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/text.h"

static int log_fd = STDERR_FILENO;
static bool log_copy;
static enum log_level log_least = LOG_LEVEL_INFO;

int log_open(const char *path, bool also_stderr, struct dha_err *e)
{
    int fd = STDERR_FILENO;
    if (path) {
        fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0) {
            return dha_fail_errno(e, errno, "cannot open the log %s", path);
        }
    }
    log_close();
    log_fd = fd;
    log_copy = also_stderr && fd != STDERR_FILENO;
    const char *debug = getenv("DHA_LOG_DEBUG");
    log_least = debug && *debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO;
    return 0;
}

void log_close(void)
{
    if (log_fd != STDERR_FILENO) {
        close(log_fd);
    }
    log_fd = STDERR_FILENO;
    log_copy = false;
}

static void put(int fd, const char *buf, size_t n)
{
    /* A log that cannot be written has nobody to tell. */
    ssize_t ignored = write(fd, buf, n);
    (void)ignored;
}

void log_v(enum log_level level, const char *prefix, const char *fmt, va_list ap)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    if (level < log_least) {
        return;
    }
    char line[2048], said[1900];
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %-5s %s", ts.tv_nsec / 1000000,
                          names[level], prefix);
    if (vsnprintf(said, sizeof said, fmt, ap) > 0) {
        text_trim_utf8(said);
        for (char *c = said; *c; c++) { /* one event, one line */
            *c = *c == '\n' || *c == '\r' ? ' ' : *c;
        }
        /* Messages quote what users wrote; whoever reads the log reads it on a terminal. */
        text_shown(line + n, sizeof line - n - 1, said, false);
        n += strlen(line + n);
    }
    while (n && line[n - 1] == ' ') {
        n--;
    }
    line[n++] = '\n';
    put(log_fd, line, n);
    if (log_copy) {
        put(STDERR_FILENO, line, n);
    }
}

#define LOG_BODY(level)                                                                            \
    va_list ap;                                                                                    \
    va_start(ap, fmt);                                                                             \
    log_v(level, "", fmt, ap);                                                                     \
    va_end(ap)

void log_debug(const char *fmt, ...)
{
    LOG_BODY(LOG_LEVEL_DEBUG);
}

void log_info(const char *fmt, ...)
{
    LOG_BODY(LOG_LEVEL_INFO);
}

void log_warn(const char *fmt, ...)
{
    LOG_BODY(LOG_LEVEL_WARN);
}

void log_error(const char *fmt, ...)
{
    LOG_BODY(LOG_LEVEL_ERROR);
}

void log_fail(const char *what, const struct dha_err *e)
{
    log_error("%s: %s%s%s%s", what, e->msg, e->hint[0] ? " (" : "", e->hint, e->hint[0] ? ")" : "");
}
