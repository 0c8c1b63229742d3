#include "cli/take.h"

#include <string.h>

#include "cli/child.h"
#include "cli/copydir.h"
#include "cli/locate.h"

int take_model(const char *model, const char *out, const char *format, const char *dtype,
               struct dha_err *e)
{
    char worker[LOCATE_MAX];
    const char *argv[12];
    int n = 0;
    int status;

    if (copydir_check(out, e)) {
        return -1;
    }
    if (!format && !dtype) {
        return copydir(model, out, e);
    }
    if (locate_program("dha-worker", worker, sizeof worker, e)) {
        return -1;
    }
    argv[n++] = worker;
    argv[n++] = "export";
    argv[n++] = "--model";
    argv[n++] = model;
    argv[n++] = "--out";
    argv[n++] = out;
    argv[n++] = "--format";
    argv[n++] = format ? format : "auto";
    if (dtype) {
        argv[n++] = "--dtype";
        argv[n++] = dtype;
    }
    argv[n] = NULL;
    if (child_run(argv, CHILD_STDOUT_TO_STDERR, NULL, &status, e)) {
        return -1;
    }
    return status ? child_failed("dha-worker export", status, e) : 0;
}

int take_checkpoint(const cJSON *job, const char *out, const char *format, const char *dtype,
                    struct dha_err *e)
{
    const char *checkpoint = json_str(json_get(job, "result"), "checkpoint", NULL);
    const char *id = json_str(job, "id", "?");
    const char *state = json_str(job, "state", "?");

    if (!checkpoint) {
        dha_fail(e, DHA_E_CONFLICT, "job %s has no checkpoint to take away yet (it is %s)", id,
                 state);
        return dha_err_hint(e,
                            !strcmp(state, "failed") || !strcmp(state, "cancelled")
                                ? "`dha show %s` says why; `dha retry %s` goes on"
                                : "`dha watch %s` waits for it",
                            id, id);
    }
    if (take_model(checkpoint, out, format, dtype, e)) {
        return dha_err_context(e, "exporting job %s", id);
    }
    return 0;
}
