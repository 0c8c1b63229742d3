/* cmd_run.c: a whole job without a controller: DIR/<stage>/{out,journal.ndjson,done.json}, DIR/cache, DIR/result.json.
 * A stage whose done.json says the same inputs is not run again; one that was interrupted goes on from its checkpoint; one
 * whose inputs changed starts anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/cmd.h"
#include "worker/fsutil.h"
#include "worker/output_list.h"
#include "worker/stage.h"

struct run_job {
    const char *dir;
    const char *backend;
    struct comm *comm;
    struct stage_spec s; /* of the stage at hand */
    char *chain;         /* canonical inputs of all stages so far, one JSON a line */
    cJSON *result;
    char uuid[40];
};

/* chain += inputs of stage k: what done.json must say for the stage to count as done. */
static int extend_chain(struct run_job *r, enum stage_kind k, struct dha_err *e)
{
    cJSON *in = spec_stage_inputs(&r->s.spec, k);
    char *text = in ? json_text(in) : NULL, *more = NULL;
    int rc = -1;
    if (text &&
        asprintf(&more, "%s%s %s\n", r->chain ? r->chain : "", stage_kind_name(k), text) > 0) {
        free(r->chain);
        r->chain = more;
        rc = 0;
    } else {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for the stage's inputs");
    }
    free(text);
    cJSON_Delete(in);
    return rc;
}

static bool is_done(const struct run_job *r, const char *path)
{
    struct dha_err ignored;
    if (!fs_exists(path))
        return false;
    cJSON *j = json_parse_file(path, 0, &ignored);
    bool same = j && !strcmp(json_str(j, "inputs", ""), r->chain);
    cJSON_Delete(j);
    return same;
}

static int mark(const char *path, const char *inputs, struct dha_err *e)
{
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_str(j, "inputs", inputs) ? dha_fail(e, DHA_E_NO_MEMORY, "no memory")
                                               : json_write_file(path, j, e);
    cJSON_Delete(j);
    return rc;
}

/* Inputs changed since the directory was begun: the old output must not be taken for the new one's. */
static int prepare(struct run_job *r, const char *stage_dir, struct dha_err *e)
{
    char begun[PATH_MAX], done[PATH_MAX];
    if (fs_make_dirs(stage_dir, e) || fs_path(begun, sizeof begun, e, "%s/begun.json", stage_dir) ||
        fs_path(done, sizeof done, e, "%s/done.json", stage_dir))
        return -1;
    if (!is_done(r, begun) && (fs_remove_tree(done, e) || fs_remove_tree(r->s.out, e)))
        return -1;
    return mark(begun, r->chain, e);
}

static void keep_eval(struct run_job *r, const char *stage_dir)
{
    /* the stage's own journal is where its numbers are */
    char path[PATH_MAX], line[RECORD_MAX];
    struct record rec;
    if (fs_path(path, sizeof path, NULL, "%s/journal.ndjson", stage_dir))
        return;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        size_t n = strcspn(line, "\n");
        if (record_parse(line, n, &rec, NULL) || rec.type != REC_EVAL ||
            !strncmp(rec.eval.name, "valid", 5)) /* a point of the curve, or of a domain's */
            continue;
        cJSON_DeleteItemFromObjectCaseSensitive(r->result, rec.eval.name);
        json_put_num(r->result, rec.eval.name, rec.eval.loss);
    }
    if (f)
        fclose(f);
}

/* Scores of the eval stage, if it was given tasks. */
static int keep_tasks(struct run_job *r, struct dha_err *e)
{
    char path[PATH_MAX];
    if (r->s.spec.n_eval_tasks == 0)
        return 0;
    if (fs_path(path, sizeof path, e, "%s/eval/out/eval.json", r->dir))
        return -1;
    cJSON *j = json_parse_file(path, 0, e);
    if (!j)
        return -1;
    int rc = json_put(r->result, "tasks", cJSON_Duplicate(json_get(j, "tasks"), true));
    cJSON_Delete(j);
    return rc ? dha_fail(e, DHA_E_NO_MEMORY, "no memory for the scores") : 0;
}

/* Is what the finished stage left still what it was? If not it is removed and made anew. Rank 0. */
static bool is_whole(const char *out, const char *done, enum stage_kind k)
{
    struct dha_err why = {0};
    if (output_list_verify(out, &why) == 0)
        return true;
    fprintf(stderr, "%-6s is made anew: %s\n", stage_kind_name(k), why.msg);
    return fs_remove_tree(done, &why) || fs_remove_tree(out, &why);
}

static int one_stage(struct run_job *r, enum stage_kind k, struct dha_err *e)
{
    char dir[PATH_MAX], out[PATH_MAX], path[PATH_MAX];
    struct journal journal = {.fd = -1};
    if (fs_path(dir, sizeof dir, e, "%s/%s", r->dir, stage_kind_name(k)) ||
        fs_path(out, sizeof out, e, "%s/out", dir) ||
        fs_path(path, sizeof path, e, "%s/done.json", dir) || extend_chain(r, k, e))
        return -1;
    r->s.kind = k;
    r->s.dir = dir;
    r->s.out = out;
    char done = r->comm->rank == 0 && is_done(r, path) && is_whole(out, path, k);
    comm_bcast(r->comm, &done, 1, 0);
    int rc = 0;
    if (done) {
        if (r->comm->rank == 0)
            fprintf(stderr, "%-6s done already\n", stage_kind_name(k));
    } else {
        if (r->comm->rank == 0)
            rc = prepare(r, dir, e);
        if (rc == 0 && r->comm->rank == 0) {
            char log[PATH_MAX];
            rc = fs_path(log, sizeof log, e, "%s/journal.ndjson", dir);
            journal.narrate = true;
            journal.fd = rc ? -1 : open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
            if (rc == 0 && journal.fd < 0)
                rc = dha_fail_errno(e, errno, "cannot open %s", log);
        }
        rc = comm_agree(r->comm, rc, e);
        if (rc == 0)
            rc = stage_run(&r->s, r->comm, &journal, r->backend, e);
        if (journal.fd >= 0)
            close(journal.fd);
        if (rc == 0 && r->comm->rank == 0)
            rc = mark(path, r->chain, e);
        rc = comm_agree(r->comm, rc, e);
    }
    if (rc == 0) {
        keep_eval(r, dir);
        r->s.inputs[k] = strdup(out);
        if (!r->s.inputs[k])
            rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for a path");
    }
    r->s.dir = r->s.out = NULL; /* they are on this function's stack */
    return rc;
}

int cmd_run(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    const char *dir = NULL, *backend = "cpu";
    const struct option_spec options[] = {
        {.name = "dir", .str = &dir, .required = true}, {.name = "backend", .str = &backend}, {0}};
    enum stage_kind kinds[STAGE_KINDS];
    char real[PATH_MAX], cache[PATH_MAX], path[PATH_MAX];
    struct run_job r = {.comm = comm};
    int first = cmd_options(argc, argv, options, e), rc = -1;
    if (first < 0)
        return -1;
    if (first != argc - 1)
        return dha_fail(e, DHA_E_USAGE, "exactly one job spec is needed");
    if (cmd_read_spec(argv[first], &r.s.spec, comm, e))
        goto out;
    rc = comm_agree(comm, comm->rank == 0 ? fs_make_dirs(dir, e) : 0, e);
    if (rc)
        goto out;
    rc = -1;
    if (!realpath(dir, real)) {
        dha_fail_errno(e, errno, "cannot resolve %s", dir);
        goto out;
    }
    r.dir = real;
    r.backend = backend;
    r.s.attempt = 1;
    r.result = cJSON_CreateObject();
    if (!r.result || fs_path(cache, sizeof cache, e, "%s/cache", real))
        goto out;
    r.s.cache = cache;
    int n = spec_stages(&r.s.spec, kinds);
    rc = 0;
    for (int i = 0; rc == 0 && i < n; i++)
        rc = one_stage(&r, kinds[i], e);
    r.s.cache = NULL;
    if (rc == 0 && comm->rank == 0) {
        rc = fs_path(path, sizeof path, e, "%s/export/out/model", real);
        json_put_str(r.result, "checkpoint", path);
        if (rc == 0)
            rc = keep_tasks(&r, e);
        if (rc == 0)
            rc = fs_path(path, sizeof path, e, "%s/result.json", real);
        if (rc == 0)
            rc = json_write_file(path, r.result, e);
        char *text = json_text_pretty(r.result);
        if (rc == 0 && text)
            puts(text);
        free(text);
    }
    rc = comm_agree(comm, rc, e);
out:
    cJSON_Delete(r.result);
    free(r.chain);
    stage_spec_finish(&r.s);
    return rc;
}
