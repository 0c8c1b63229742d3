/* output.c: see output.h. */
#include "daemon/output.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/failpoint.h"
#include "daemon/files.h"
#include "daemon/log.h"
#include "daemon/runas.h"
#include "daemon/tmpdir.h"

enum { PATH_SIZE = 4400, LIST_BYTES_MAX = 1024 * 1024 };

static int path_in(char path[PATH_SIZE], const char *dir, const char *name, struct dha_err *why)
{
    int n = snprintf(path, PATH_SIZE, "%s/%s", dir, name);
    if (n < 0 || n >= PATH_SIZE) {
        return dha_fail(why, DHA_E_INPUT, "the path %.200s/... is too long", dir);
    }
    return 0;
}

__attribute__((format(printf, 3, 4))) static int differs(struct dha_err *why, const char *path,
                                                         const char *fmt, ...)
{
    char how[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(how, sizeof how, fmt, ap);
    va_end(ap);
    dha_fail(why, DHA_E_INPUT, "%.330s %s", path, how);
    snprintf(why->path, sizeof why->path, "%.255s", path);
    return -1;
}

/* bytes < 0: any size but none. */
static int check_file(const char *dir, const char *name, int64_t bytes, struct dha_err *why)
{
    char path[PATH_SIZE];
    struct stat st;
    if (path_in(path, dir, name, why) != 0) {
        return -1;
    }
    if (runas_stat(path, &st) != 0) {
        int err = errno;
        /* no file has such a name: a list with it is damaged, and looking again will not help */
        bool never = err == ENAMETOOLONG || err == ELOOP;
        return err == ENOENT || err == ENOTDIR || never
                   ? differs(why, path, "is not there")
                   : dha_fail_errno(why, err, "cannot look at %.330s", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return differs(why, path, "is not a regular file");
    }
    if (bytes < 0 && st.st_size == 0) {
        return differs(why, path, "is empty");
    }
    if (bytes >= 0 && st.st_size != bytes) {
        return differs(why, path, "has %lld bytes; it had %lld when it was made",
                       (long long)st.st_size, (long long)bytes);
    }
    return 0;
}

static int check_listed(const char *dir, const char *list, struct dha_err *why)
{
    struct dha_err bad = {0};
    cJSON *doc = runas_json(list, LIST_BYTES_MAX, &bad);
    const cJSON *files = json_get(doc, "files"), *f;
    int rc = 0;
    if (!doc && output_is_unknown(&bad)) {
        *why = bad;
        return -1;
    }
    if (!doc || strcmp(json_str(doc, "format", ""), "dha-output-1") != 0 || !cJSON_IsArray(files)) {
        /* a worker that found other content in its input than was written leaves a list that says so */
        const char *said = json_str(doc, "why", "it is no dha-output-1 document");
        rc = differs(why, list, "is damaged: %.200s", bad.msg[0] ? bad.msg : said);
    }
    for (f = rc == 0 ? files->child : NULL; f && rc == 0; f = f->next) {
        const char *name;
        int64_t bytes;
        if (json_need_str(f, "path", &name, &bad) != 0 ||
            json_need_int(f, "bytes", &bytes, &bad) != 0 || bytes < 0) {
            rc = differs(why, list, "is damaged: %.200s",
                         bad.msg[0] ? bad.msg : "a size is negative");
        } else {
            rc = check_file(dir, name, bytes, why);
        }
    }
    cJSON_Delete(doc);
    return rc;
}

int output_check(enum stage_kind kind, const char *out_dir, struct dha_err *why)
{
    static const char *const leaves[STAGE_KINDS] = {[STAGE_SEARCH] = "plan.json",
                                                    [STAGE_FUSE] = "model/config.json",
                                                    [STAGE_TRAIN] = "model/config.json",
                                                    [STAGE_EVAL] = "eval.json",
                                                    [STAGE_EXPORT] = "model/config.json"};
    char list[PATH_SIZE];
    struct stat st;
    if (!out_dir) {
        return dha_fail(why, DHA_E_INPUT, "it is not known where its output is");
    }
    if (check_file(out_dir, leaves[kind], -1, why) != 0 ||
        path_in(list, out_dir, "output.json", why) != 0) {
        return -1;
    }
    return runas_stat(list, &st) != 0 && errno == ENOENT ? 0 : check_listed(out_dir, list, why);
}

static int compare_file(const char *dir, const cJSON *f, struct progress *p, struct dha_err *why)
{
    const char *name, *want = json_str(f, "xxh3_128", NULL);
    char path[PATH_SIZE];
    struct files_seen seen;
    if (!want) {
        return 0;
    }
    if (json_need_str(f, "path", &name, why) != 0 || path_in(path, dir, name, why) != 0 ||
        files_digest(path, p, &seen, why) != 0) {
        return -1;
    }
    return strcmp(seen.xxh3, want) == 0
               ? 0
               : differs(why, path, "does not have the digest that it had when it was made");
}

int output_compare(const char *out_dir, struct progress *p, struct dha_err *why)
{
    char list[PATH_SIZE];
    struct stat st;
    const cJSON *f;
    if (path_in(list, out_dir, "output.json", why) != 0) {
        return -1;
    }
    if (runas_stat(list, &st) != 0 && errno == ENOENT) {
        return 0;
    }
    cJSON *doc = runas_json(list, LIST_BYTES_MAX, why);
    int rc = doc ? 0 : -1;
    cJSON_ArrayForEach(f, json_get(doc, "files"))
    {
        rc = rc == 0 ? compare_file(out_dir, f, p, why) : rc;
    }
    cJSON_Delete(doc);
    return rc;
}

bool output_is_unknown(const struct dha_err *why)
{
    return why->code == DHA_E_IO || why->code == DHA_E_NO_MEMORY;
}

int output_clear_damaged(enum stage_kind kind, const char *out_dir, struct dha_err *e)
{
    char list[PATH_SIZE];
    struct dha_err why = {0};
    struct stat st;
    if (path_in(list, out_dir, "output.json", &why) != 0 || runas_stat(list, &st) != 0 ||
        output_check(kind, out_dir, &why) == 0) {
        return 0;
    }
    if (output_is_unknown(&why)) {
        *e = why;
        return dha_err_context(e, "whether the stage's output is whole");
    }
    log_warn("%s is removed before its stage runs again: %s", out_dir, why.msg);
    FAILPOINT(remove_before_unlink);
    struct runas as;
    int rc = runas_enter_path(&as, out_dir);
    if (rc == 0) {
        rc = tree_remove(out_dir);
        runas_leave(&as);
    }
    int err = errno;
    if (rc != 0) {
        return dha_fail_errno(e, err, "cannot remove the damaged output %s", out_dir);
    }
    return 0;
}
