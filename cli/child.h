/* child.h: running another program and waiting for it. */
#ifndef DHA_CLI_CHILD_H
#define DHA_CLI_CHILD_H

#include "cli/cli.h"

enum child_stdout {
    CHILD_STDOUT_INHERIT,   /* the program's facts are ours */
    CHILD_STDOUT_TO_STDERR, /* the program's facts are talk here */
    CHILD_STDOUT_CAPTURE,   /* into *out, at most 16 MiB */
    CHILD_STDERR_CAPTURE,   /* not stdout, which is dropped, but stderr into *out */
};

/* argv[0] is a path; stdin is /dev/null, stderr ours but for STDERR_CAPTURE. *status: its exit status, 128 + N for
 * signal N. out: for CAPTURE, the text (free it), else NULL. -1 only when it could not be run. */
int child_run(const char *const argv[], enum child_stdout mode, char **out, int *status,
              struct dha_err *e);
/* A non-zero status of a program that uses our exit codes -> *e. */
int child_failed(const char *name, int status, struct dha_err *e);
/* The same where the program's stderr is ours and it ended by itself: it has said why, so *e has the code and no message. */
int child_said(const char *name, int status, struct dha_err *e);

#endif
