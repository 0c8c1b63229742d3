/* verdict.h: what the end of an attempt means for its stage. Pure: facts in, verdict out.
 *
 * Whose word counts, in this order: the worker's status.json (it knows), the `error` record in its
 * journal, the launcher's exit status (mpirun's 1 may mean anything), and if there is none of them: lost.
 * Then by the retry class of the code (proto/err.h): the user's faults fail the stage at once,
 * infrastructure faults get another attempt up to VERDICT_RETRIES times in a row with a growing back-off, a stop
 * on request continues without counting. Running into the walltime fails the stage; making no progress is an
 * infrastructure fault, whatever the worker says when it is stopped for it; so is a directory that was removed under it. An intent to cancel turns every end but success into cancelled.
 */
#ifndef DHA_DAEMON_VERDICT_H
#define DHA_DAEMON_VERDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/err.h"

#define VERDICT_RETRIES        3
#define VERDICT_BACKOFF_US     INT64_C(1000000)  /* the first; each is twice the one before */
#define VERDICT_HANG_US        INT64_C(30000000) /* between looks at files that do not answer */
#define VERDICT_BACKOFF_MAX_US VERDICT_HANG_US

struct verdict_facts {
    bool has_status;       /* status.json was read */
    struct dha_err status; /* code OK = success */
    bool has_record;       /* the journal has an error record */
    struct dha_err record;
    bool has_exit; /* exit.json was read */
    int exited;    /* launcher's exit status; -1 if a signal ended it */
    int signal;
    bool has_launch; /* it never ran: why */
    struct dha_err launch;
    bool
        files_hang; /* it never ran, because files that it reads do not answer: it waits for them, however long */
    bool cancel;    /* the job is to be cancelled */
    bool asked;     /* it was told to stop (hold) */
    bool over_time; /* it ran into its walltime */
    int64_t walltime_s;
    bool stalled; /* it made no progress: what of it, for how long, which limit (borrowed) */
    const char *stalled_why;
    bool gone; /* its directory was removed while it ran (why: borrowed) */
    const char *gone_why;
    int retries; /* counted before this one */
    bool
        got_further; /* it left a checkpoint beyond the one it started from: those before count no more */
};

enum verdict_kind {
    VERDICT_DONE,
    VERDICT_AGAIN, /* another attempt */
    VERDICT_FAILED,
    VERDICT_CANCELLED
};

struct verdict {
    enum verdict_kind kind;
    bool count_retry, renew_retries;
    int64_t backoff_us;
    struct dha_err error; /* code OK: none */
};

struct verdict verdict_of(const struct verdict_facts *f);

#endif
