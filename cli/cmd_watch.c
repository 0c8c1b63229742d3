/* cmd_watch.c: dha watch */
#include <stdlib.h>

#include "cli/follow.h"
#include "cli/interrupt.h"
#include "cli/view.h"

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    struct client *c = client_open(cli, e);
    int n = a->n_pos;
    char(*ids)[24] = calloc((size_t)n, sizeof *ids);
    const char **list = calloc((size_t)n, sizeof *list);
    cJSON **docs = calloc((size_t)n, sizeof *docs);
    int ret = -1;
    int end;

    if (!ids || !list || !docs) {
        dha_fail(e, DHA_E_NO_MEMORY, "watching");
        goto out;
    }
    if (!c) {
        goto out;
    }
    for (int i = 0; i < n; i++) {
        if (client_job_id(c, a->pos[i], CLIENT_NEWEST, ids[i], e)) {
            goto out;
        }
        list[i] = ids[i];
    }
    end = follow_jobs(c, list, n, stdout, docs, e);
    if (end < 0) {
        goto out;
    }
    if (end == FOLLOW_INTERRUPTED) {
        cli_say("job %s goes on; `dha watch %s` comes back to it, `dha cancel %s` stops it", ids[0],
                ids[0], ids[0]);
        ret = INTERRUPT_EXIT;
        goto out;
    }
    ret = view_outcomes(docs, n, e);
out:
    for (int i = 0; docs && i < n; i++) {
        cJSON_Delete(docs[i]);
    }
    free(docs);
    free(list);
    free(ids);
    client_close(c);
    return ret;
}

const struct command cmd_watch = {
    .name = "watch",
    .args = "ID...",
    .summary = "Follow jobs live until they end",
    .help = "On a terminal: a picture that is redrawn, a line a stage. Elsewhere: a line when "
            "something changes.\n"
            "Ctrl-C ends the watching, not the job (exit status 130). Otherwise the exit status is "
            "the job's: 0 when it\n"
            "is done, 85 when it was cancelled, else that of its error.",
    .example = "dha watch 12",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = -1,
    .run = run,
};
