#include "worker/export.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/fsutil.h"
#include "worker/hf_files.h"
#include "worker/model/expand.h"

#define MAX_FILE ((size_t)4 << 30) /* bytes */

/* What a tokenizer and a generation need, where the source has it. */
static const char *const companions[] = {
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
};

static int copy_companions(const char *from, const char *to, struct dha_err *e)
{
    char a[PATH_MAX], b[PATH_MAX];
    for (size_t i = 0; i < sizeof companions / sizeof *companions; i++) {
        if (fs_path(a, sizeof a, e, "%s/%s", from, companions[i]) ||
            fs_path(b, sizeof b, e, "%s/%s", to, companions[i]))
            return -1;
        if (fs_exists(a) && fs_copy_file(a, b, e))
            return -1;
    }
    return 0;
}

static int write_python(const char *to, struct dha_err *e)
{
    char path[PATH_MAX];
    for (size_t i = 0; i < hf_files_count; i++)
        if (fs_path(path, sizeof path, e, "%s/%s", to, hf_files[i].name) ||
            fs_write_file(path, hf_files[i].data, hf_files[i].len, e))
            return -1;
    return 0;
}

/* Nothing there, or an empty directory (which is removed: the rename needs the name). */
static int check_target(const char *to, struct dha_err *e)
{
    if (rmdir(to) == 0 || errno == ENOENT)
        return 0;
    dha_fail(e, DHA_E_CONFLICT, "%s exists already%s", to,
             errno == ENOTEMPTY || errno == EEXIST ? " and is not empty" : "");
    return dha_err_hint(e, "name another directory, or remove it first");
}

/* Decides plain or dha, and expands where asked. *own is set where the model to write is a new one. */
static int arrange(struct model *m, const char *format, struct model **own, bool *plain,
                   struct dha_err *e)
{
    bool fits = model_config_is_plain_gqa(&m->cfg);
    *own = NULL;
    if (!strcmp(format, "auto") || !strcmp(format, "dha")) {
        *plain = !strcmp(format, "auto") && fits;
        return 0;
    }
    *plain = true;
    if (!strcmp(format, "expand"))
        return model_expand(own, m, e);
    if (strcmp(format, "gqa"))
        return dha_fail(e, DHA_E_USAGE, "unknown format \"%s\": auto, dha, gqa or expand", format);
    if (fits)
        return 0;
    dha_fail(e, DHA_E_CONFLICT,
             "its heads are not shared in equal, contiguous groups, the same for keys "
             "and values in every layer, so it is no plain GQA checkpoint");
    return dha_err_hint(e,
                        "convert with method spectral-gqa, or export with --format dha or expand");
}

int export_model(struct kern *k, const char *from, const char *files_from, const char *to,
                 const char *format, const char *dtype, const cJSON *facts, struct dha_err *e)
{
    struct model *m = NULL, *own = NULL;
    cJSON *kept = NULL;
    char tmp[PATH_MAX], parent[PATH_MAX];
    bool plain = false;
    int rc = -1;
    if (fs_path(tmp, sizeof tmp, e, "%s.tmp%ld", to, (long)getpid()) ||
        fs_path(parent, sizeof parent, e, "%s", to) || check_target(to, e))
        return -1;
    char *slash = strrchr(parent, '/');
    if (slash && slash != parent)
        *slash = '\0';
    if (slash && slash != parent && fs_make_dirs(parent, e))
        return -1;
    if (!facts && card_read(from, &kept, e))
        goto out;
    if (model_load(&m, k, from, e) || arrange(m, format, &own, &plain, e))
        goto out;
    if (fs_remove_tree(tmp, e) || fs_make_dirs(tmp, e))
        goto out;
    struct model *w = own ? own : m;
    /* one file under its usual name where it fits in 4 GiB, shards with an index above */
    size_t shard = w->n_params * sizeof(float) <= MAX_FILE ? 0 : MAX_FILE;
    if (model_save(w, tmp, dtype ? dtype : m->cfg.dtype, plain, shard, e) ||
        copy_companions(files_from, tmp, e) || (!plain && write_python(tmp, e)) ||
        card_write(tmp, &w->cfg, plain, dtype ? dtype : m->cfg.dtype, facts ? facts : kept, e))
        goto undo;
    if (rename(tmp, to)) {
        dha_fail_errno(e, errno, "cannot rename %s to %s", tmp, to);
        goto undo;
    }
    rc = fs_sync_dir(slash ? (slash == parent ? "/" : parent) : ".", e);
undo:
    if (rc)
        fs_remove_tree(tmp, NULL);
out:
    if (rc)
        dha_err_context(e, "exporting %s to %s", from, to);
    cJSON_Delete(kept);
    model_free(own);
    model_free(m);
    return rc;
}
