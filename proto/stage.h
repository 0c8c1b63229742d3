/* stage.h: what the controller hands to a worker: `spec.json` of an attempt, and what a worker leaves
 * beside it: `status.json`. Every path is absolute.
 *
 * spec.json
 *   { "format": "dha-stage-1", "job": "12", "stage": "34", "attempt": 1, "uuid": "...",
 *     "kind": "fuse", "dir": ATTEMPT_DIR, "out": OUT_DIR, "cache": CACHE_DIR,
 *     "spec": { normalised job spec },
 *     "inputs": { "search": OUT_DIR of the search stage, "fuse": ..., "train": ... },
 *     "places": [ { "node": "gpu-1", "cores": "0-3", "gpu": "" }, ... by rank ] }      (places may be left out)
 * OUT_DIR is the stage's, shared by its attempts (so attempt 2 resumes from attempt 1's
 * checkpoints). What each kind leaves there:
 *   search  plan.json
 *   fuse    losses.json (of the parent and the model before recovery), model/ (config.json, model.safetensors in f32),
 *           ckpt/step-N/ while training
 *   train   model/, ckpt/step-N/
 *   eval    eval.json
 *   export  model/ (the directory a user takes away)
 * and, once the stage is complete, output.json beside them: {"format": "dha-output-1",
 *   "files": [{"path": "model/model.safetensors", "bytes": "123456"}, ...]}, paths relative to OUT_DIR.
 * status.json, written atomically by the worker in ATTEMPT_DIR at the very end:
 *   { "code": "ok", "message": "", "hint": "", "rank": 0 }
 */
#ifndef DHA_PROTO_STAGE_H
#define DHA_PROTO_STAGE_H

#include "proto/cores.h"
#include "proto/spec.h"

/* Where a rank runs: what it may use of its node. */
struct stage_place {
    char node[64];
    char cores[CORES_TEXT]; /* "" = any */
    char gpu[64];           /* uuid; "" = none */
};

struct stage_spec {
    int64_t job, stage;
    int attempt;
    char uuid[40];
    enum stage_kind kind;
    char *dir, *out, *cache;
    struct job_spec spec;
    char *inputs[STAGE_KINDS];  /* by kind; NULL where there is none */
    struct stage_place *places; /* by rank; n_places of them, or none: anything goes */
    int n_places;
};

int stage_spec_parse(const cJSON *doc, struct stage_spec *out, struct dha_err *e);
cJSON *stage_spec_to_json(const struct stage_spec *s);
void stage_spec_finish(struct stage_spec *s);

#endif
