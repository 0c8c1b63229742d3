/* precheck.h: what can be known before a job waits in the queue: `dha-worker check` on its spec.
 *
 * The worker reads the model's config and tensor headers and looks whether data and tokenizer are there, so that a
 * mistake is said at once and not when the job's turn comes. A worker that is not there, or is too old to know
 * `check`, is no error: the same is checked when the job runs.
 */
#ifndef DHA_CLI_PRECHECK_H
#define DHA_CLI_PRECHECK_H

#include "cli/client.h"

/* For a command's option table. DHA_NO_CHECK=1 in the environment does the same. */
#define PRECHECK_OPT                                                                               \
    {                                                                                              \
        "no-check", 0, NULL,                                                                       \
            "submit without looking at the model and data first ($DHA_NO_CHECK=1: the same)"       \
    }

/* 0, or -1 with what the worker found. A spec that the daemon refuses too is left to the daemon, which lists all its
 * errors: they are printed here as specfile_post() does. */
int precheck(struct client *c, const struct args *a, const cJSON *spec, struct dha_err *e);
/* What `dha-worker check --json` says of a spec: {parameters, disk_bytes {checkpoints, models}}. NULL, and no error, where
 * it cannot be had. */
int precheck_needs(const struct args *a, const cJSON *spec, cJSON **needs, struct dha_err *e);
/* What `dha-worker check` wrote to stderr and its exit status -> *e. */
int precheck_error(const char *text, int status, struct dha_err *e);

#endif
