/* verdict.c: see verdict.h. */
#include "daemon/verdict.h"

#include <signal.h>
#include <string.h>

/* The shell's convention, which mpirun follows: 128 + signal. */
enum { SHELL_SIGNAL = 128 };

static void hint_signal(int sig, struct dha_err *e)
{
    if (sig == SIGKILL) {
        dha_err_hint(e, "if nobody did it, the kernel did, for want of memory (dmesg says so): "
                        "fewer resources.ranks, or a smaller seq_len");
    } else {
        dha_err_hint(e, "dha logs shows what was said before");
    }
}

static void from_exit(const struct verdict_facts *f, struct dha_err *e)
{
    if (f->exited < 0) {
        dha_fail(e, DHA_E_LOST, "the launcher was killed by signal %d (%s)", f->signal,
                 strsignal(f->signal));
        hint_signal(f->signal, e);
        return;
    }
    if (f->exited == 0) {
        dha_fail(e, DHA_E_LOST, "the launcher ended with status 0, but the worker left no status");
        return;
    }
    if (f->exited == 127) {
        dha_fail(e, DHA_E_LOST, "the launcher could not be executed (status 127)");
        dha_err_hint(e, "is mpirun in the daemon's PATH? dha logs shows what was said");
        return;
    }
    enum dha_code code = dha_code_from_exit(f->exited);
    if (f->exited > SHELL_SIGNAL && f->exited < SHELL_SIGNAL + 65) {
        int sig = f->exited - SHELL_SIGNAL;
        dha_fail(e, DHA_E_LOST, "a rank was killed by signal %d (%s)", sig, strsignal(sig));
        hint_signal(sig, e);
    } else if (code != DHA_E_COUNT && f->exited >= 64) {
        dha_fail(e, code, "the worker ended with status %d: %s", f->exited, dha_code_meaning(code));
    } else {
        dha_fail(e, DHA_E_LOST, "the launcher ended with status %d and the worker said nothing",
                 f->exited);
        dha_err_hint(e, "dha logs shows what was said");
    }
}

static void cause(const struct verdict_facts *f, struct dha_err *e)
{
    if (f->has_status) {
        *e = f->status;
    } else if (f->has_launch) {
        *e = f->launch;
    } else if (f->has_record) {
        *e = f->record;
    } else if (f->has_exit) {
        from_exit(f, e);
    } else {
        dha_fail(e, DHA_E_LOST, "the processes of the attempt vanished without a word");
        dha_err_hint(e, "was the host restarted, or everything of it killed? dha logs shows what "
                        "was said before");
    }
}

struct verdict verdict_of(const struct verdict_facts *f)
{
    struct verdict v = {.kind = VERDICT_FAILED};
    cause(f, &v.error);
    if (v.error.code == DHA_E_OK) {
        v.kind = VERDICT_DONE;
        return v;
    }
    if (f->stalled && dha_code_retry(v.error.code) != DHA_RETRY_USER) {
        memset(&v.error, 0, sizeof v.error);
        dha_fail(&v.error, DHA_E_TIMEOUT, "%s", f->stalled_why);
        dha_err_hint(&v.error, "a rank or a collective hangs: dha logs shows what each rank said "
                               "(dhad --help: the settings stall_s, stall_min_s)");
    }
    if (f->gone && dha_code_retry(v.error.code) != DHA_RETRY_USER) {
        memset(&v.error, 0, sizeof v.error);
        dha_fail(&v.error, DHA_E_LOST, "%s", f->gone_why);
        dha_err_hint(&v.error, "what is below jobs/ is the daemon's while a job runs: dha cancel "
                               "first; dha admin prune makes room");
    }
    enum dha_retry class = dha_code_retry(v.error.code);
    if (f->cancel) {
        v.kind = VERDICT_CANCELLED;
        return v;
    }
    if (f->files_hang) {
        v.kind = VERDICT_AGAIN;
        v.backoff_us = VERDICT_HANG_US;
        return v;
    }
    if (f->over_time && class != DHA_RETRY_USER) {
        memset(&v.error, 0, sizeof v.error);
        dha_fail(&v.error, DHA_E_TIMEOUT, "the stage ran for longer than its walltime of %lld s",
                 (long long)f->walltime_s);
        dha_err_hint(&v.error, "a retry goes on from the newest checkpoint, for as long again");
        return v;
    }
    if (class == DHA_RETRY_FREE || (f->asked && class == DHA_RETRY_INFRA)) {
        v.kind = VERDICT_AGAIN;
        /* a worker that stops on its own must not spin */
        v.backoff_us = f->asked ? 0 : VERDICT_BACKOFF_US;
        return v;
    }
    /* A fault a week in a stage of months is not four in a row. */
    int retries = f->got_further ? 0 : f->retries;
    if (class == DHA_RETRY_INFRA && retries < VERDICT_RETRIES) {
        v.kind = VERDICT_AGAIN;
        v.count_retry = true;
        v.renew_retries = f->got_further;
        v.backoff_us = VERDICT_BACKOFF_US << retries;
    }
    return v;
}
