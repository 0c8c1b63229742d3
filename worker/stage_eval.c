/* stage_eval.c: the loss of the finished model on the validation windows. Leaves eval.json. */
#include <limits.h>

#include "worker/stage.h"

int stage_eval(struct stage *st, struct dha_err *e)
{
    struct model *m = NULL;
    cJSON *j = NULL;
    char path[PATH_MAX];
    double loss = 0;
    int rc = -1;
    stage_hello(st, 0, -1);
    if (stage_input_model(st, path, sizeof path, e) || model_load(&m, st->k, path, e) ||
        stage_open_data(st, &m->cfg, e) || stage_evaluate(st, m, "final", &loss, e))
        goto out;
    rc = 0;
    if (st->comm->rank == 0) {
        j = cJSON_CreateObject();
        rc = json_put_num(j, "loss", loss) || json_put_int(j, "seq_len", st->seq) ||
                     json_put_str(j, "model", path)
                 ? dha_fail(e, DHA_E_NO_MEMORY, "no memory for eval.json")
                 : 0;
        if (rc == 0)
            rc = stage_out(st, path, sizeof path, "eval.json", e);
        if (rc == 0)
            rc = json_write_file(path, j, e);
    }
    rc = comm_agree(st->comm, rc, e);
    stage_output(st, "eval.json");
out:
    cJSON_Delete(j);
    model_free(m);
    return rc;
}
