/* stage_export.c: the finished model as the directory a user takes away: OUT/model. Rank 0's work. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "worker/export.h"
#include "worker/fsutil.h"
#include "worker/stage.h"

int stage_export(struct stage *st, struct dha_err *e)
{
    struct model_config parent = {0};
    char from[PATH_MAX], to[PATH_MAX];
    int rc = 0;
    stage_hello(st, 0, -1);
    if (!stage_has_output(st, "model") && st->comm->rank == 0) {
        rc = model_config_load(st->s->spec.model, &parent, e) ||
                     stage_input_model(st, from, sizeof from, e) ||
                     stage_out(st, to, sizeof to, "model", e) ||
                     export_model(st->k, from, st->s->spec.model, to, st->s->spec.format,
                                  parent.dtype, e)
                 ? -1
                 : 0;
    }
    stage_output(st, "model");
    model_config_finish(&parent);
    return comm_agree(st->comm, rc, e);
}
