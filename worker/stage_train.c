/* stage_train.c: recovery (continued pre-training) of a converted model, by LM, by KL or BiLD to the parent, or mixtures. Leaves
 * model/ and, while it runs, ckpt/.
 */
#include <limits.h>

#include "worker/stage.h"
#include "worker/train/trainer.h"

#define EVALS 6 /* points on the loss-against-tokens curve */

static int64_t fuse_steps(const struct trainer_options *o, int64_t tokens)
{
    struct trainer_options fuse = *o;
    fuse.tokens = tokens;
    return trainer_steps(&fuse);
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
        st->bye.bye.tokens = s->tokens_train;
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
    o.valid = st->valid;
    o.evals = EVALS;
    if (trainer_run(&o, &r, e))
        goto out;
    st->bye.bye.tokens = r.tokens;
    rc = stage_save_model(st, m, "float32", false, e);
out:
    model_free(teacher);
    model_free(m);
    return rc;
}
