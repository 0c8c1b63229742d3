#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <xxhash.h>

#include "worker/control.h"
#include "worker/fsutil.h"
#include "worker/output_list.h"
#include "worker/model/expand.h"
#include "worker/stage.h"
#include "worker/train/trainer.h"

int stage_out(const struct stage *st, char *buf, size_t cap, const char *name, struct dha_err *e)
{
    return fs_path(buf, cap, e, "%s/%s", st->s->out, name);
}

bool stage_has_output(const struct stage *st, const char *name)
{
    /* rank 0 looks for all: on a network file system ranks might see different things */
    char path[PATH_MAX];
    char there = st->comm->rank == 0 && stage_out(st, path, sizeof path, name, NULL) == 0 &&
                 fs_exists(path);
    comm_bcast(st->comm, &there, 1, 0);
    return there != 0;
}

void stage_output(struct stage *st, const char *name)
{
    snprintf(st->bye.bye.output, sizeof st->bye.bye.output, "%s/%s", st->s->out, name);
}

static int element_bytes(const char *dtype)
{
    return strcmp(dtype, "float32") ? 2 : 4;
}

void stage_kv_bytes(struct stage *st, const struct model_config *parent,
                    const struct model_config *converted)
{
    int elem = element_bytes(parent->dtype);
    st->bye.bye.kv_parent = model_config_kv_bytes(parent, elem);
    st->bye.bye.kv_converted = model_config_kv_bytes(converted, elem);
}

void stage_hello(struct stage *st, int64_t steps, int64_t resumed_from)
{
    struct record r = {.type = REC_HELLO};
    snprintf(r.hello.stage, sizeof r.hello.stage, "%s", stage_kind_name(st->s->kind));
    st->k->ops->describe(st->k, r.hello.backend, sizeof r.hello.backend);
    snprintf(r.hello.version, sizeof r.hello.version, "%s", DHA_VERSION);
    gethostname(r.hello.host, sizeof r.hello.host - 1);
    r.hello.attempt = st->s->attempt;
    r.hello.ranks = st->comm->size;
    r.hello.threads = st->s->spec.resources.threads;
    r.hello.pid = (int)getpid();
    r.hello.steps = steps;
    r.hello.resumed_from = resumed_from;
    journal_write(st->journal, &r);
}

/* Phase records from method code; non-zero once a stop was asked for. The ranks agree on that: one that left alone would
 * leave the others in a collective. */
static int method_progress(void *arg, const char *phase, int64_t done, int64_t total)
{
    struct stage *st = arg;
    journal_phase(st->journal, phase, done, total);
    return control_agree(st->comm, CONTROL_NONE) == CONTROL_STOP;
}

static void method_layer(void *arg, const char *name, const char *kind, int layer, int64_t step,
                         double value)
{
    struct stage *st = arg;
    journal_layer(st->journal, name, kind, layer, step, value);
}

struct method_env stage_method_env(struct stage *st, struct model *parent)
{
    const struct job_spec *s = &st->s->spec;
    return (struct method_env){.parent = parent,
                               .train = st->train,
                               .comm = st->comm,
                               .method = &s->method,
                               .seq = st->seq,
                               .seed = s->seed,
                               .calib_tokens = s->tokens_search,
                               .progress = method_progress,
                               .layer = method_layer,
                               .arg = st};
}

int stage_load_parent(struct stage *st, struct model **m, struct dha_err *e)
{
    struct model *as_is = NULL;
    journal_phase(st->journal, "load", 0, 0);
    int rc = model_load(&as_is, st->k, st->s->spec.model, e);
    if (rc == 0 && model_config_head_budget(&as_is->cfg) < 1.0)
        rc = model_expand(m, as_is, e);
    else if (rc == 0)
        *m = as_is, as_is = NULL;
    model_free(as_is);
    return comm_agree(st->comm, rc, e);
}

/* ---- models on disk ------------------------------------------------------------------------------------- */

static int save_rank0(struct stage *st, struct model *m, const char *dtype, bool plain,
                      struct dha_err *e)
{
    char tmp[PATH_MAX], final[PATH_MAX];
    if (stage_out(st, tmp, sizeof tmp, "model.tmp", e) ||
        stage_out(st, final, sizeof final, "model", e) || fs_remove_tree(tmp, e) ||
        fs_make_dirs(tmp, e) || model_save(m, tmp, dtype, plain, 0, e))
        return -1;
    if (rename(tmp, final))
        return dha_fail_errno(e, errno, "cannot rename %s to %s", tmp, final);
    return fs_sync_dir(st->s->out, e);
}

int stage_save_model(struct stage *st, struct model *m, const char *dtype, bool plain,
                     struct dha_err *e)
{
    journal_phase(st->journal, "save", 0, 0);
    int rc = st->comm->rank == 0 ? save_rank0(st, m, dtype, plain, e) : 0;
    return comm_agree(st->comm, rc, e);
}

int stage_input_model(const struct stage *st, char *buf, size_t cap, struct dha_err *e)
{
    const char *from = st->s->inputs[STAGE_TRAIN] ? st->s->inputs[STAGE_TRAIN]
                                                  : st->s->inputs[STAGE_FUSE];
    if (!from)
        return dha_fail(e, DHA_E_PROTOCOL, "stage %s has no input model",
                        stage_kind_name(st->s->kind));
    return fs_path(buf, cap, e, "%s/model", from);
}

/* ---- training ------------------------------------------------------------------------------------------- */

static void trainer_hello(void *arg, int64_t steps, int64_t resumed_from)
{
    stage_hello(arg, steps, resumed_from);
}

void stage_training(struct stage *st, struct trainer_options *o, char *ckpt_dir, size_t cap,
                    char identity[33])
{
    const struct job_spec *s = &st->s->spec;
    cJSON *inputs = spec_stage_inputs(s, st->s->kind);
    char *text = inputs ? json_text(inputs) : NULL;
    XXH128_hash_t h = XXH3_128bits(text ? text : "", text ? strlen(text) : 0);
    snprintf(identity, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
    free(text);
    cJSON_Delete(inputs);
    snprintf(ckpt_dir, cap, "%s/ckpt", st->s->out);
    *o = (struct trainer_options){
        .train = st->train,
        .comm = st->comm,
        .journal = st->journal,
        .stream = STREAM_TRAIN,
        .seed = s->seed,
        .seq = st->seq,
        .batch_tokens = s->batch_tokens,
        .w_lm = 1.0,
        .lr = s->optim.lr,
        .lr_omega = s->optim.lr_omega,
        .lr_attention = s->optim.lr_attention,
        .lr_lambda = s->optim.lr_lambda,
        .warmup = s->optim.warmup,
        .final_lr = s->optim.final_lr,
        .clip = s->optim.clip,
        .weight_decay = s->optim.weight_decay,
        .eval_windows = s->eval_windows,
        .ckpt_dir = ckpt_dir,
        .identity = identity,
        .ckpt_every = s->checkpoint.every,
        .ckpt_keep = {.last = s->checkpoint.keep,
                      .every = s->checkpoint.keep_every,
                      .best = s->checkpoint.keep_best},
        .hello = trainer_hello,
        .arg = st,
    };
}

/* ---- what a finished stage left ---------------------------------------------------------------------------- */

static int write_output_list(const struct stage *st, struct dha_err *e)
{
    const char *name = strrchr(st->bye.bye.output, '/');
    return name ? output_list_write(st->s->out, name + 1, e)
                : dha_fail(e, DHA_E_INTERNAL, "stage %s named no output",
                           stage_kind_name(st->s->kind));
}

/* What the stage reads (proto/stage.h): search's plan, else the newest model; NULL = only the job's own files. */
static const char *input_of(const struct stage_spec *s)
{
    const char *model = s->inputs[STAGE_TRAIN] ? s->inputs[STAGE_TRAIN] : s->inputs[STAGE_FUSE];
    return s->kind == STAGE_SEARCH  ? NULL
           : s->kind == STAGE_FUSE  ? s->inputs[STAGE_SEARCH]
           : s->kind == STAGE_TRAIN ? s->inputs[STAGE_FUSE]
                                    : model;
}

/* A damaged input is marked: the daemon then makes it again before this stage's next attempt. */
static int verify_input(const struct stage_spec *s, struct dha_err *e)
{
    struct dha_err no = {0};
    const char *from = input_of(s);
    if (!from || output_list_verify(from, e) == 0)
        return 0;
    if (e->code != DHA_E_CHECKPOINT)
        return -1;
    if (output_list_condemn(from, e->msg, &no))
        return dha_err_hint(e, "remove %s and start again: it is then made anew", from);
    return dha_err_hint(e, "it is made anew before the next attempt");
}

/* ---- a stage from hello to bye ---------------------------------------------------------------------------- */

typedef int (*driver)(struct stage *st, struct dha_err *e);
static const driver drivers[] = {
    [STAGE_SEARCH] = stage_search, [STAGE_FUSE] = stage_fuse,     [STAGE_TRAIN] = stage_train,
    [STAGE_EVAL] = stage_eval,     [STAGE_EXPORT] = stage_export,
};
_Static_assert(sizeof drivers / sizeof *drivers == STAGE_KINDS, "a driver for each kind");

static void say_bye(struct stage *st, int rc, const struct dha_err *e)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    int64_t rss = (int64_t)u.ru_maxrss * 1024;
    comm_max_i64(st->comm, &rss, 1);
    if (rc)
        journal_error(st->journal, e);
    st->bye.type = REC_BYE;
    snprintf(st->bye.bye.code, sizeof st->bye.bye.code, "%s",
             dha_code_name(rc ? e->code : DHA_E_OK));
    st->bye.bye.seconds = journal_now() - st->started;
    st->bye.bye.peak_rss = rss;
    if (rc)
        st->bye.bye.output[0] = '\0';
    journal_write(st->journal, &st->bye);
}

int stage_run(const struct stage_spec *s, struct comm *comm, struct journal *journal,
              const char *backend, struct dha_err *e)
{
    struct kern_err ke = {0};
    struct stage st = {.s = s, .comm = comm, .journal = journal, .started = journal_now()};
    int rc = 0;
    /* a rank on a GPU that computed beside it would hold it from others for nothing */
    if (strcmp(s->spec.resources.device, "cuda") == 0)
        backend = "cuda";
    st.k = kern_open(backend, s->spec.resources.threads, &ke);
    if (!st.k)
        rc = strcmp(s->spec.resources.device, "cuda") == 0
                 ? dha_fail(e, DHA_E_INPUT, "this worker does not compute on GPUs: %s", ke.msg)
                 : dha_fail(e, DHA_E_INTERNAL, "backend %s: %s", backend, ke.msg);
    if (rc == 0 && comm->rank == 0)
        rc = fs_make_dirs(s->out, e) || verify_input(s, e) ? -1 : 0;
    rc = comm_agree(comm, rc, e);
    if (rc == 0)
        rc = drivers[s->kind](&st, e);
    if (rc == 0 && comm->rank == 0)
        rc = write_output_list(&st, e);
    /* a rank's own failure outside of an agreement must not leave the others waiting */
    rc = comm_agree(comm, rc, e);
    if (rc)
        dha_err_context(e, "stage %s", stage_kind_name(s->kind));
    say_bye(&st, rc, e);
    corpus_close(st.valid);
    corpus_close(st.train);
    if (st.k)
        kern_close(st.k);
    return rc;
}
