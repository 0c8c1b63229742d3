/* cmd_stage.c: one stage, as the controller starts it: spec in a file, journal on stdout, status.json at the end, what
 * its ranks print in a file of each (rank_log.h). */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/cmd.h"
#include "worker/fsutil.h"
#include "worker/rank_log.h"
#include "worker/stage.h"

/* What happened, beside the launcher's ambiguous exit code (DESIGN section 10). */
static void write_status(const struct stage_spec *s, int rank, int rc, const struct dha_err *e)
{
    struct dha_err ignored;
    char path[PATH_MAX];
    cJSON *j = cJSON_CreateObject();
    if (json_put_str(j, "code", dha_code_name(rc ? e->code : DHA_E_OK)) == 0 &&
        json_put_str(j, "message", rc ? e->msg : "") == 0 &&
        json_put_str(j, "hint", rc ? e->hint : "") == 0 && json_put_int(j, "rank", rank) == 0 &&
        fs_path(path, sizeof path, &ignored, "%s/status.json", s->dir) == 0 &&
        json_write_file(path, j, &ignored))
        fprintf(stderr, "status.json: %s\n", ignored.msg);
    cJSON_Delete(j);
}

int cmd_stage(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    const char *backend = "cpu";
    const struct option_spec options[] = {{.name = "backend", .str = &backend}, {0}};
    struct stage_spec s = {0};
    int first = cmd_options(argc, argv, options, e);
    if (first < 0)
        return -1;
    if (first != argc - 1)
        return dha_fail(e, DHA_E_USAGE, "exactly one stage spec is needed");
    cJSON *j = json_parse_file(argv[first], 0, e);
    int rc = j ? stage_spec_parse(j, &s, e) : -1;
    cJSON_Delete(j);
    if (rc)
        return dha_err_context(e, "reading %s", argv[first]);
    struct journal journal = {.fd = -1};
    rc = comm_agree(comm, rank_log_open(s.dir, comm->rank, &journal.fd, e), e);
    if (rc == 0)
        rc = stage_run(&s, comm, &journal, backend, e);
    if (comm->rank == 0)
        write_status(&s, comm->rank, rc, e);
    if (journal.fd >= 0)
        close(journal.fd);
    stage_spec_finish(&s);
    return rc;
}
