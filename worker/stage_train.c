/* stage_train.c: recovery (continued pre-training) of a converted model, by LM, by KL or BiLD to the parent, or mixtures. Leaves
 * model/ and, while it runs, ckpt/.
 */
#include <limits.h>

#include "worker/stage.h"
#include "proto/json.h"
#include "worker/train/schedule.h"
#include "worker/train/trainer.h"

#define EVALS 6 /* points on the loss-against-tokens curve */

static int64_t fuse_steps(const struct trainer_options *o, int64_t tokens)
{
    struct trainer_options fuse = *o;
    fuse.tokens = tokens;
    return trainer_steps(&fuse);
}

/* trained.json: what the card says of this stage, which the model does not. */
static int write_trained(struct stage *st, const struct trainer_options *o, int64_t tokens,
                         struct dha_err *e)
{
    char path[PATH_MAX];
    int rc = 0;
    if (st->comm->rank == 0) {
        cJSON *j = cJSON_CreateObject();
        rc = json_put_id(j, "tokens", tokens) || json_put_num(j, "lr", o->lr)
                 ? dha_fail(e, DHA_E_NO_MEMORY, "no memory for trained.json")
                 : stage_out(st, path, sizeof path, "trained.json", e);
        if (rc == 0)
            rc = json_write_file(path, j, e);
        cJSON_Delete(j);
    }
    return comm_agree(st->comm, rc, e);
}

/* Of an earlier attempt that got that far. */
static int64_t trained_before(struct stage *st)
{
    char path[PATH_MAX];
    struct dha_err none = {0};
    cJSON *j = stage_out(st, path, sizeof path, "trained.json", &none)
                   ? NULL
                   : json_parse_file(path, 0, &none);
    int64_t tokens = json_int(j, "tokens", st->s->spec.tokens_train);
    cJSON_Delete(j);
    return tokens;
}

int stage_train(struct stage *st, struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    struct model *m = NULL, *teacher = NULL;
    struct trainer_options o;
    struct trainer_result r;
    char ckpt[PATH_MAX], identity[33], path[PATH_MAX];
    int rc = -1;
    stage_output(st, "model");
    if (stage_has_output(st, "model")) {
        stage_hello(st, 0, -1);
        st->bye.bye.tokens = trained_before(st);
        return 0;
    }
    if (stage_input_model(st, path, sizeof path, e) || model_load(&m, st->k, path, e) ||
        stage_open_data(st, &m->cfg, e))
        goto out;
    if ((s->w_kl > 0 || s->w_bild > 0) && stage_load_parent(st, &teacher, e))
        goto out;
    stage_training(st, &o, ckpt, sizeof ckpt, identity);
    o.model = m;
    o.teacher = teacher;
    o.tokens = s->tokens_train;
    o.w_lm = s->w_lm;
    o.w_kl = s->w_kl;
    o.w_bild = s->w_bild;
    /* goes on in the data where the training of the fuse stage ended */
    o.data_step = s->tokens_fuse > 0 ? fuse_steps(&o, s->tokens_fuse) : 0;
    if (o.lr == 0)
        o.lr = schedule_recovery_rate(trainer_steps(&o), m->cfg.hidden);
    o.valid = st->valid;
    o.evals = EVALS;
    if (trainer_run(&o, &r, e))
        goto out;
    st->bye.bye.tokens = r.tokens;
    rc = write_trained(st, &o, r.tokens, e) || stage_save_model(st, m, "float32", false, e) ? -1
                                                                                            : 0;
out:
    model_free(teacher);
    model_free(m);
    return rc;
}
