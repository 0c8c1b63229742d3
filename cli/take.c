#include "cli/take.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/copydir.h"
#include "cli/locate.h"
#include "cli/result_dir.h"

static int worker_export(const char *model, const char *out, const char *format, const char *dtype,
                         struct dha_err *e)
{
    char worker[LOCATE_MAX];
    const char *argv[12];
    int n = 0;
    int status;

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

static int verify_file(const struct result_dir *r, const cJSON *file, struct dha_err *e)
{
    const char *name = json_str(file, "path", "");
    int64_t want = json_int(file, "bytes", -1);
    struct stat st;
    char what[96];
    int fd = result_dir_file(r, name, &st, e);

    if (fd < 0) {
        return e->code == DHA_E_NOT_FOUND ? damaged(e, "the file is missing", name) : -1;
    }
    close(fd);
    if (st.st_size != want) {
        snprintf(what, sizeof what, "the file has %lld bytes, %lld were written",
                 (long long)st.st_size, (long long)want);
        return damaged(e, what, name);
    }
    return 0;
}

/* *list: output.json, NULL where there is none; the caller's also when this fails. */
static int verify(const struct result_dir *r, const char *model, cJSON **list, struct dha_err *e)
{
    char dir[LOCATE_MAX];
    const cJSON *file;

    *list = NULL;
    if (locate_absolute(NULL, model, dir, sizeof dir, e)) {
        return -1;
    }
    *strrchr(dir, '/') = 0;
    if (result_dir_list(r, list, e)) {
        return e->code == DHA_E_PROTOCOL
                   ? damaged(e, "the list of files does not parse", "output.json")
                   : -1;
    }
    cJSON_ArrayForEach(file, json_get(*list, "files"))
    {
        if (verify_file(r, file, e)) {
            return dha_err_context(e, "in %s", dir);
        }
    }
    return *list ? verify_content(dir, e) : 0;
}

int take_verify(const char *model, struct dha_err *e)
{
    struct result_dir r;
    cJSON *list;
    int ret;

    if (result_dir_open(&r, model, e)) {
        return -1;
    }
    ret = verify(&r, model, &list, e);
    cJSON_Delete(list);
    result_dir_close(&r);
    return ret;
}

/* A list that leaves the model out would have us hand over a directory without one. */
static int complete(const struct result_dir *r, const cJSON *list, struct dha_err *e)
{
    char config[sizeof r->name + 16];
    const cJSON *file;

    snprintf(config, sizeof config, "%s/config.json", r->name);
    cJSON_ArrayForEach(file, json_get(list, "files"))
    {
        if (!strcmp(json_str(file, "path", ""), config)) {
            return 0;
        }
    }
    dha_fail(e, DHA_E_CHECKPOINT, "output.json does not list %s: it is not what the job wrote",
             config);
    return dha_err_hint(e, "submit the job again: damaged stages are made anew");
}

/* The worker opens files by their names. What another user can put links into is copied first, and read from there. */
static int rewrite(const struct result_dir *r, const cJSON *files, const char *model,
                   const char *out, const char *format, const char *dtype, struct dha_err *e)
{
    char to[LOCATE_MAX];
    char copy[LOCATE_MAX + 32];
    int ret;

    if (r->owner == geteuid()) {
        return worker_export(model, out, format, dtype, e);
    }
    if (locate_absolute(NULL, out, to, sizeof to, e)) {
        return -1;
    }
    snprintf(copy, sizeof copy, "%s.copy-%ld", to, (long)getpid());
    if (copydir(r, files, copy, e)) {
        return -1;
    }
    ret = worker_export(copy, out, format, dtype, e);
    copydir_remove(copy);
    return ret;
}

static int take(const char *model, const char *out, const char *format, const char *dtype,
                struct dha_err *e)
{
    struct result_dir r;
    cJSON *list = NULL;
    const cJSON *files;
    int ret;

    if (copydir_check(out, e) || result_dir_open(&r, model, e)) {
        return -1;
    }
    ret = verify(&r, model, &list, e);
    if (!ret && list) {
        ret = complete(&r, list, e);
    }
    files = json_get(list, "files");
    if (!ret) {
        ret = format || dtype ? rewrite(&r, files, model, out, format, dtype, e)
                              : copydir(&r, files, out, e);
    }
    cJSON_Delete(list);
    result_dir_close(&r);
    return ret;
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
    if (take(checkpoint, out, format, dtype, e)) {
        return dha_err_context(e, "exporting job %s", id);
    }
    return 0;
}
