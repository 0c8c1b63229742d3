/* output_list.c: see output_list.h. */
#include "worker/output_list.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/json.h"
#include "worker/fsutil.h"

#define FORMAT "dha-output-1"

static int list_file(cJSON *files, const char *out, const char *rel, struct dha_err *e)
{
    char path[PATH_MAX], digest[FS_DIGEST_CHARS];
    int64_t bytes;
    struct stat st;
    if (fs_path(path, sizeof path, e, "%s/%s", out, rel))
        return -1;
    if (stat(path, &st))
        return dha_fail_errno(e, errno, "cannot read %s", path);
    if (!S_ISREG(st.st_mode))
        return 0;
    if (fs_digest(path, digest, &bytes, e))
        return -1;
    cJSON *o = cJSON_CreateObject();
    if (json_put_str(o, "path", rel) || json_put_id(o, "bytes", bytes) ||
        json_put_str(o, "xxh3_128", digest) || !cJSON_AddItemToArray(files, o)) {
        cJSON_Delete(o);
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for output.json");
    }
    return 0;
}

static int list_all(cJSON *files, const char *out, const char *name, struct dha_err *e)
{
    char path[PATH_MAX], rel[PATH_MAX];
    int rc = 0;
    if (fs_path(path, sizeof path, e, "%s/%s", out, name))
        return -1;
    DIR *d = opendir(path);
    if (!d)
        return list_file(files, out, name, e);
    for (struct dirent *f; rc == 0 && (f = readdir(d));)
        if (f->d_name[0] != '.')
            rc = fs_path(rel, sizeof rel, e, "%s/%s", name, f->d_name) ||
                         list_file(files, out, rel, e)
                     ? -1
                     : 0;
    closedir(d);
    return rc;
}

static int write_list(const char *out, const cJSON *doc, struct dha_err *e)
{
    char path[PATH_MAX];
    return fs_path(path, sizeof path, e, "%s/output.json", out) ? -1
                                                                : json_write_file(path, doc, e);
}

int output_list_write(const char *out, const char *name, struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject(), *files = cJSON_AddArrayToObject(j, "files");
    int rc = -1;
    if (!files || json_put_str(j, "format", FORMAT))
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for output.json");
    else if (list_all(files, out, name, e) == 0)
        rc = write_list(out, j, e);
    cJSON_Delete(j);
    return rc;
}

int output_list_condemn(const char *out, const char *why, struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "format", "dha-output-damaged-1") || json_put_str(j, "why", why)
                 ? dha_fail(e, DHA_E_NO_MEMORY, "no memory for output.json")
                 : write_list(out, j, e);
    cJSON_Delete(j);
    return rc;
}

static int verify_file(const char *out, const cJSON *file, struct dha_err *e)
{
    char path[PATH_MAX], digest[FS_DIGEST_CHARS];
    const char *rel, *want = json_str(file, "xxh3_128", NULL);
    int64_t bytes, had;
    if (json_need_str(file, "path", &rel, e) || json_need_int(file, "bytes", &had, e) ||
        fs_path(path, sizeof path, e, "%s/%s", out, rel))
        return -1;
    if (!want)
        return 0;
    if (fs_digest(path, digest, &bytes, e))
        return -1;
    if (bytes != had)
        return dha_fail(e, DHA_E_CHECKPOINT,
                        "%s has %" PRId64 " bytes; it had %" PRId64 " when it was made", path,
                        bytes, had);
    return strcmp(digest, want) == 0
               ? 0
               : dha_fail(e, DHA_E_CHECKPOINT,
                          "%s is damaged: its content is not what it was when it was made", path);
}

int output_list_verify(const char *out, struct dha_err *e)
{
    char path[PATH_MAX];
    if (fs_path(path, sizeof path, e, "%s/output.json", out))
        return -1;
    if (!fs_exists(path))
        return 0;
    cJSON *doc = json_parse_file(path, 0, e);
    const cJSON *file;
    int rc = doc ? 0 : -1;
    if (doc && strcmp(json_str(doc, "format", ""), FORMAT))
        rc = dha_fail(e, DHA_E_CHECKPOINT, "%s is damaged%s%s", out,
                      json_str(doc, "why", NULL) ? ": " : "", json_str(doc, "why", ""));
    cJSON_ArrayForEach(file, json_get(doc, "files")) if (rc == 0) rc = verify_file(out, file, e);
    cJSON_Delete(doc);
    if (rc && e && (e->code == DHA_E_NOT_FOUND || e->code == DHA_E_PROTOCOL))
        e->code = DHA_E_CHECKPOINT;
    return rc;
}
