/* stage.h: the stages of a conversion, each a function of its inputs (DESIGN section 6). What a stage reads and leaves is
 * said in proto/stage.h.
 *
 * Life cycle of a stage: stage_run() opens the backend, says hello in the journal, runs the stage's driver, says bye
 * (or error, then bye with the error's code), and returns the driver's result. All ranks call it; only rank 0 writes.
 * An output appears under its final name only when it is complete, so a driver that finds its output has nothing to do.
 */
#ifndef DHA_WORKER_STAGE_H
#define DHA_WORKER_STAGE_H

#include "proto/stage.h"
#include "worker/comm.h"
#include "worker/data/corpus.h"
#include "worker/journal.h"
#include "worker/method/method.h"
#include "worker/model/model.h"
#include "worker/train/evaluate.h"

struct stage {
    const struct stage_spec *s;
    struct comm *comm;
    struct kern *k;
    struct journal *journal;
    struct corpus *train, *valid; /* opened by stage_open_data() */
    int seq;
    double started;
    int64_t resumed_tokens; /* trained on by earlier attempts */
    int64_t trained_tokens; /* by the stage, in training */
    int64_t trained_steps;  /* the step that its newest training ended with */
    struct record bye;      /* what the driver wants said at the end */
};

int stage_run(const struct stage_spec *s, struct comm *comm, struct journal *journal,
              const char *backend, struct dha_err *e);

/* Drivers (stage_search.c ...). */
int stage_search(struct stage *st, struct dha_err *e);
int stage_fuse(struct stage *st, struct dha_err *e);
int stage_train(struct stage *st, struct dha_err *e);
int stage_eval(struct stage *st, struct dha_err *e);
int stage_export(struct stage *st, struct dha_err *e);

/* ---- what drivers share (stage_common.c, stage_data.c) -------------------------------------------------------------- */
/* The parent as an MHA model: one with fewer K/V heads than query heads is expanded (METHODS 1.11, "GQA inputs"). */
int stage_load_parent(struct stage *st, struct model **m, struct dha_err *e);
/* Opens train and valid (or holds valid out of train) and settles the sequence length. */
int stage_open_data(struct stage *st, const struct model_config *cfg, struct dha_err *e);
void stage_hello(struct stage *st, int64_t steps, int64_t resumed_from);
/* What method code needs: parent, data, ranks, calibration tokens; its progress becomes phase records, and a stop asked
 * for stops it. */
struct method_env stage_method_env(struct stage *st, struct model *parent);
/* Evaluates on valid and journals it as `name`; of a mixture each domain, too. A parent that is worse than guessing is an
 * error. */
int stage_evaluate_all(struct stage *st, struct model *m, const char *name, struct eval_result *v,
                       struct dha_err *e);
int stage_evaluate(struct stage *st, struct model *m, const char *name, double *loss,
                   struct dha_err *e);
/* OUT/model, published by rename of a complete directory; all ranks call, rank 0 writes. */
int stage_save_model(struct stage *st, struct model *m, const char *dtype, bool plain,
                     struct dha_err *e);
/* A path below the stage's output directory. */
int stage_out(const struct stage *st, char *buf, size_t cap, const char *name, struct dha_err *e);
bool stage_has_output(const struct stage *st, const char *name);
/* model directory that the stage before left: train's if there was one, else fuse's. */
int stage_input_model(const struct stage *st, char *buf, size_t cap, struct dha_err *e);
/* Sets the bye record's output and KV bytes. */
void stage_output(struct stage *st, const char *name);
void stage_kv_bytes(struct stage *st, const struct model_config *parent,
                    const struct model_config *converted);
/* Training of this stage: fills in everything that comes from the spec. */
struct trainer_options;
void stage_training(struct stage *st, struct trainer_options *o, char *ckpt_dir, size_t cap,
                    char identity[33]);

#endif
