#include "cli/take.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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
    return status ? child_said("dha-worker export", status, e) : 0;
}

static int damaged(struct dha_err *e, const char *what, const char *path)
{
    dha_fail(e, DHA_E_CHECKPOINT, "%s: %s", path, what);
    return dha_err_hint(e, "submit the job again: damaged stages are made anew");
}

/* The files' digests, where the worker is there to compare them. */
static int verify_content(const char *dir, struct dha_err *e)
{
    char worker[LOCATE_MAX];
    struct dha_err none = {0};
    char *text = NULL;
    int status = 0;
    int ret = 0;

    if (locate_program("dha-worker", worker, sizeof worker, &none)) {
        return 0;
    }
    const char *argv[] = {worker, "verify", dir, NULL};
    if (child_run(argv, CHILD_STDERR_CAPTURE, &text, &status, e)) {
        return -1;
    }
    if (status == dha_code_exit(DHA_E_CHECKPOINT)) {
        const char *said = strstr(text, "dha-worker verify: ");
        size_t n = said ? strcspn(said += strlen("dha-worker verify: "), "\n") : 0;
        dha_fail(e, DHA_E_CHECKPOINT, "%.*s", n ? (int)n : 40, n ? said : "its files are damaged");
        ret = dha_err_hint(e, "remove that file and submit the job again: what is damaged is made "
                              "anew, the rest is reused");
    } else if (status && status != dha_code_exit(DHA_E_USAGE)) { /* USAGE: an older worker */
        ret = child_failed("dha-worker verify", status, e);
    }
    free(text);
    return ret;
}

int take_verify(const char *model, struct dha_err *e)
{
    char dir[LOCATE_MAX];
    char path[2 * LOCATE_MAX];
    cJSON *doc;
    const cJSON *file;
    char *slash;
    int ret = 0;

    if (locate_absolute(NULL, model, dir, sizeof dir, e)) {
        return -1;
    }
    slash = strrchr(dir, '/');
    *slash = 0;
    snprintf(path, sizeof path, "%s/output.json", dir);
    struct stat st;
    if (stat(path, &st)) {
        return errno == ENOENT ? 0 : dha_fail_errno(e, errno, "reading %s", path);
    }
    doc = json_parse_file(path, 0, e);
    if (!doc) {
        return damaged(e, "the list of files does not parse", path);
    }
    cJSON_ArrayForEach(file, json_get(doc, "files"))
    {
        const char *name = json_str(file, "path", "?");
        int64_t want = json_int(file, "bytes", -1);
        char what[96];
        snprintf(path, sizeof path, "%s/%s", dir, name);
        if (stat(path, &st)) {
            ret = errno == ENOENT ? damaged(e, "the file is missing", path)
                                  : dha_fail_errno(e, errno, "reading %s", path);
            break;
        }
        if (st.st_size != want) {
            snprintf(what, sizeof what, "the file has %lld bytes, %lld were written",
                     (long long)st.st_size, (long long)want);
            ret = damaged(e, what, path);
            break;
        }
    }
    cJSON_Delete(doc);
    return ret ? ret : verify_content(dir, e);
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
    if (take_verify(checkpoint, e) || take_model(checkpoint, out, format, dtype, e)) {
        return dha_err_context(e, "exporting job %s", id);
    }
    return 0;
}
