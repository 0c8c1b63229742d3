/* spec.h: the job spec (DESIGN section 13): what a user submits.
 *
 * spec_parse() validates a whole document and reports every error at once, each with its JSON path;
 * spec_to_json() writes it back with every default filled in (that is what is stored). The numbers
 * in a struct job_spec are therefore never "unset".
 * Strings and arrays belong to the struct: spec_finish() frees them; a zeroed struct is finished.
 */
#ifndef DHA_PROTO_SPEC_H
#define DHA_PROTO_SPEC_H

#include <stdint.h>
#include "proto/json.h"

enum stage_kind { STAGE_SEARCH, STAGE_FUSE, STAGE_TRAIN, STAGE_EVAL, STAGE_EXPORT, STAGE_KINDS };
const char *stage_kind_name(enum stage_kind k);                 /* "search" ... */
int stage_kind_from_name(const char *name, enum stage_kind *k); /* 0 / -1 */

enum method_grouping { GROUP_ADJACENT, GROUP_ONE, GROUP_LEARNED, GROUP_CLOSED_FORM };
enum method_budget { BUDGET_UNIFORM, BUDGET_ADAPTIVE, BUDGET_MEASURED };
enum method_merge { MERGE_MEAN, MERGE_FUSION, MERGE_SPECTRAL };

/* A method = grouping x budget x merge (x recovery, which is a field of its own). METHODS D1. A new
 * preset is one row of the table in spec.c. */
struct method {
    char name[32]; /* preset it came from: gqa mqa dha spectral spectral-gqa */
    enum method_grouping grouping;
    enum method_budget budget;
    enum method_merge merge;
    bool uniform;   /* equal, contiguous groups in every layer: result is a plain GQA checkpoint */
    bool refit;     /* spectral: ridge regression of W_O */
    bool any_count; /* head counts need not divide H */
    bool scalar_omega; /* fusion operator: one number a head pair */
};

struct data_spec {
    char **train; /* n_train paths */
    int n_train;
    char *valid;     /* NULL: the last part of train is held out (see spec.c) */
    char *format;    /* u16 u32 text jsonl */
    char *tokenizer; /* NULL: MODEL/tokenizer.model; only for text and jsonl */
    int seq_len;
};

struct job_spec {
    char *name;
    char *model; /* directory */
    struct method method;
    double budget; /* kept K+V heads / (2 L H), in (0,1] */
    struct data_spec data;
    int64_t tokens_search, tokens_fuse, tokens_train;
    double w_kl, w_lm;    /* recovery */
    int64_t batch_tokens; /* a step, all ranks together */
    struct {
        double lr, lr_omega, lr_lambda, warmup, final_lr, clip, weight_decay;
    } optim;
    char dtype[8]; /* f32 | bf16 */
    int64_t seed;
    int eval_windows;     /* "eval": {"windows": 256}; 0 = all of valid */
    int checkpoint_every; /* "checkpoint": {"every": steps}; 0 = chosen by the worker */
    char format[8];       /* "export": {"format": "auto|dha|gqa|expand"} */
    struct {
        int ranks;
        int threads; /* cores a rank; slots = ranks * threads on a CPU node */
        char device[8];
        int64_t walltime_s; /* 0 = none */
    } resources;
    int priority;
};

struct spec_errors {
    int n;
    struct {
        char path[96]; /* "$.optim.lr" */
        char msg[256];
        char hint[160];
    } at[32]; /* n counts on past 32; the rest is not kept */
};

/* 0, or -1 with at least one error. base_dir: directory that relative paths in the document are
 * relative to (NULL: leave them). */
int spec_parse(const cJSON *doc, const char *base_dir, struct job_spec *out,
               struct spec_errors *errs);
cJSON *spec_to_json(const struct job_spec *s);
void spec_finish(struct job_spec *s);
/* Presets by name: 0 / -1. method_names(): "gqa, mqa, dha, spectral, spectral-gqa". */
int method_preset(const char *name, struct method *m);
const char *method_names(void);
/* `path=value` (value is JSON if it parses, else a string) applied to a document before parsing. */
int spec_set(cJSON *doc, const char *assignment, struct dha_err *e);
/* Stages of a job in order; search is left out where the method needs none, train where
 * tokens_train = 0. Returns their number (<= STAGE_KINDS). */
int spec_stages(const struct job_spec *s, enum stage_kind out[STAGE_KINDS]);
/* The part of the normalised spec that stage k's result depends on (its own inputs only, not those of
 * the stages before it), canonical key order. What a stage key is a digest of. */
cJSON *spec_stage_inputs(const struct job_spec *s, enum stage_kind k);

#endif
