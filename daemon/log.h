/* log.h: the daemon's log: one event a line, ISO time in UTC, level, text (control characters as \xNN, line ends as blanks). Written with one write(2)
 * each to an O_APPEND file, so lines of two processes never mix. Before log_open() lines go to stderr. */
#ifndef DHA_DAEMON_LOG_H
#define DHA_DAEMON_LOG_H

#include <stdarg.h>
#include <stdbool.h>

#include "proto/err.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* path NULL = stderr. also_stderr: copy lines there (--foreground). */
int log_open(const char *path, bool also_stderr, struct dha_err *e);
void log_close(void);
void log_v(enum log_level level, const char *prefix, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* "what: message (hint)" at level ERROR. */
void log_fail(const char *what, const struct dha_err *e);

#endif
