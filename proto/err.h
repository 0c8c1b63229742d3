/* err.h: one error table for every program.
 *
 * A function that can fail returns 0 or -1 and takes a `struct dha_err *` as its last argument,
 * which it fills on failure and leaves alone on success. The buffer is fixed: no allocation on an
 * error path. Context is added once a layer with dha_err_context("loading %s", path), in front.
 * msg says what went wrong, to what and why; hint says what to do about it (may be empty);
 * path is the JSON path or file the error is about (may be empty).
 *
 * One row of DHA_ERR_TABLE gives the code's wire name, HTTP status, exit code and retry class:
 *   USER   the request, model, data or spec is wrong: never retried
 *   INFRA  machine, disk or network: retried by the controller up to a limit
 *   FREE   stopped on purpose with a checkpoint: continued without counting as a retry
 *   NONE   not a failure of a stage
 */
#ifndef DHA_PROTO_ERR_H
#define DHA_PROTO_ERR_H

#include <stddef.h>
#include <sys/statvfs.h>

/* X(symbol, wire name, HTTP status, exit code, retry class, meaning) */
#define DHA_ERR_TABLE(X)                                                                           \
    X(OK, "ok", 200, 0, NONE, "success")                                                           \
    X(FAILED, "failed", 500, 1, USER, "the job or command ended without success")                  \
    X(USAGE, "usage", 400, 2, USER, "the command line or request is not of the right form")        \
    X(SPEC, "invalid_spec", 422, 64, USER, "a job spec has errors")                                \
    X(INPUT, "bad_input", 422, 65, USER, "a model, tokenizer or data file cannot be used")         \
    X(NOT_FOUND, "not_found", 404, 66, USER, "no such job, stage, node or file")                   \
    X(CONFLICT, "conflict", 409, 67, USER, "not possible in the present state")                    \
    X(FORBIDDEN, "forbidden", 403, 68, USER, "the caller may not do this")                         \
    X(UNREACHABLE, "unreachable", 503, 69, INFRA, "the controller does not answer")                \
    X(INTERNAL, "internal", 500, 70, USER, "a defect in dha")                                      \
    X(TOO_LARGE, "too_large", 413, 71, USER, "a request or document is over its size limit")       \
    X(VERSION, "newer_version", 500, 72, USER, "made by a newer dha than this one")                \
    X(NO_SPACE, "no_space", 507, 73, INFRA, "the disk is full")                                    \
    X(IO, "io_error", 500, 74, INFRA, "reading or writing failed")                                 \
    X(TRANSIENT, "transient", 503, 75, INFRA, "a passing fault; try again")                        \
    X(PROTOCOL, "protocol", 400, 76, USER, "a document does not follow the protocol")              \
    X(COMM, "communication", 500, 77, INFRA, "a collective between ranks failed")                  \
    X(CHECKPOINT, "bad_checkpoint", 500, 78, INFRA, "a checkpoint does not verify")                \
    X(STOPPED, "stopped", 503, 79, FREE, "checkpointed and stopped on request")                    \
    X(DIVERGED, "diverged", 500, 80, USER, "the loss is not a finite number")                      \
    X(NO_MEMORY, "no_memory", 500, 81, INFRA, "out of memory")                                     \
    X(LOST, "lost", 500, 82, INFRA, "the processes of an attempt vanished")                        \
    X(NO_SLOT, "no_slot", 422, 83, USER, "no node could ever hold this gang")                      \
    X(TIMEOUT, "timeout", 504, 84, INFRA, "walltime or watchdog limit reached")                    \
    X(CANCELLED, "cancelled", 409, 85, USER, "cancelled by a user")                                \
    X(PRECONDITION, "precondition", 412, 86, USER, "changed since the caller last looked")         \
    X(QUEUE_FULL, "queue_full", 429, 87, USER, "the user has as many jobs as one may have")        \
    X(UNAUTHENTICATED, "unauthenticated", 401, 88, USER, "no token, or none that is valid")        \
    X(METHOD, "method_not_allowed", 405, 89, USER, "the path does not answer to this HTTP method")

enum dha_code {
#define X(sym, name, http, rc, retry, text) DHA_E_##sym,
    DHA_ERR_TABLE(X)
#undef X
        DHA_E_COUNT
};
enum dha_retry { DHA_RETRY_NONE, DHA_RETRY_USER, DHA_RETRY_INFRA, DHA_RETRY_FREE };

struct dha_err {
    enum dha_code code;
    char msg[640];
    char hint[320];
    char path[256];
};

const char *dha_code_name(enum dha_code c);    /* "invalid_spec" */
const char *dha_code_meaning(enum dha_code c); /* the table's last column */
int dha_code_http(enum dha_code c);
int dha_code_exit(enum dha_code c);
enum dha_retry dha_code_retry(enum dha_code c);
/* DHA_E_COUNT if there is no such name / exit code. */
enum dha_code dha_code_from_name(const char *name);
enum dha_code dha_code_from_exit(int rc);

/* Fill *e (may be NULL) and return -1, so that `return dha_fail(...)` reads well. */
int dha_fail(struct dha_err *e, enum dha_code c, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with strerror(errnum); ENOSPC/EDQUOT -> NO_SPACE, ENOMEM -> NO_MEMORY, ENOENT -> NOT_FOUND,
 * else IO. */
int dha_fail_errno(struct dha_err *e, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Add to an error that is set; both return -1. An error without a message was said elsewhere: no context is added. */
int dha_err_hint(struct dha_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int dha_err_context(struct dha_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What to do where there was no space, and what there is too little of on that disk: bytes, or room for files (inodes). */
void dha_space_words(const struct statvfs *fs, const char *dir, char *text, size_t size);
/* Makes that the hint. -1 */
int dha_err_hint_space(struct dha_err *e, const char *dir);

#endif
