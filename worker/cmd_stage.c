/* cmd_stage.c: one stage, as the controller starts it: spec in a file, journal on stdout, status.json at the end, what
 * its ranks print in a file of each (rank_log.h). */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
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

/* What the rank may use of its node, before anything starts a thread or opens a device. */
static int take_place(const struct stage_place *p, struct dha_err *e)
{
    int cores[CORES_MAX], n = p->cores[0] ? cores_read(p->cores, cores, CORES_MAX) : 0;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < n; i++)
        if (cores[i] < CPU_SETSIZE)
            CPU_SET((size_t)cores[i], &set);
    if (n > 0 && sched_setaffinity(0, sizeof set, &set) != 0) {
        dha_fail_errno(e, errno, "cannot run on the cores %s of node %s", p->cores, p->node);
        return dha_err_hint(e, "are the cores that the controller's settings name there?");
    }
    if (p->gpu[0] && setenv("CUDA_VISIBLE_DEVICES", p->gpu, 1) != 0)
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    return 0;
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
    /* under another number of ranks (a person started it by hand) the places mean nothing */
    if (rc == 0 && s.n_places == comm->size)
        rc = comm_agree(comm, take_place(&s.places[comm->rank], e), e);
    if (rc == 0)
        rc = stage_run(&s, comm, &journal, backend, e);
    if (comm->rank == 0)
        write_status(&s, comm->rank, rc, e);
    if (journal.fd >= 0)
        close(journal.fd);
    stage_spec_finish(&s);
    return rc;
}
