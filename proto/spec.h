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

enum method_grouping {
    GROUP_ADJACENT,
    GROUP_ONE,
    GROUP_LEARNED,
    GROUP_CLOSED_FORM,
    GROUP_ALIGNED_VALUE, /* one grouping for K and V, by the similarity of the aligned values */
    GROUP_ALIGNED_KEY,
    GROUP_ALIGNED /* keys and values each by their own */
};
enum method_criterion { CRITERION_DIST, CRITERION_COS }; /* METHODS 2.3 */
enum method_alignment { ALIGN_NONE, ALIGN_PROCRUSTES };
enum method_budget { BUDGET_UNIFORM, BUDGET_ADAPTIVE, BUDGET_MEASURED };
enum method_allocation { ALLOCATE_KNAPSACK, ALLOCATE_GREEDY }; /* METHODS 1.6.5 */
enum method_merge { MERGE_MEAN, MERGE_FUSION, MERGE_SPECTRAL, MERGE_MASKS };
enum method_masks { MASKS_LINEAR, MASKS_HARD_CONCRETE, MASKS_RELEASED }; /* METHODS 2.6 */
enum method_tie { TIE_HARD, TIE_CONTRACT }; /* how the fusion operator's rows are made equal */

/* A method = grouping x alignment x budget x merge (x recovery, which is a field of its own).
 * METHODS D1. A new preset is one row of a table in method.c, a new part or flag one row of another.
 * A part that the others leave without effect has its first value. */
struct method {
    char name[32]; /* preset it came from */
    enum method_grouping grouping;
    enum method_criterion criterion; /* grouping aligned-*: what counts as similar */
    enum method_alignment alignment; /* members turned towards each other before they are merged */
    enum method_budget budget;
    enum method_allocation allocation; /* budget adaptive */
    enum method_merge merge;
    enum method_masks masks; /* merge masks */
    enum method_tie tie;     /* merge fusion */
    bool uniform;  /* equal, contiguous groups in every layer: result is a plain GQA checkpoint */
    bool refit;    /* spectral: ridge regression of W_O */
    bool exchange; /* spectral, budget measured: head counts improved by measured exchanges */
    bool regress;  /* spectral: attention blocks fitted to the parent's, layer by layer */
    bool slow_planes;  /* spectral: RoPE planes that hardly turn are merged as one block */
    bool any_count;    /* head counts need not divide H */
    bool scalar_omega; /* fusion operator: one number a head pair */
    bool rope_tied;    /* fusion operator: the two dims of a key's RoPE plane share omega (D2) */
    bool progressive;  /* fusion operator: 2x, 4x, 8x one after the other (METHODS 1.6) */
    bool annealing;    /* groups from distances by the paper's annealing (METHODS 1.6.4) */
    bool norm_restore; /* merged heads get their members' mean Frobenius norm (METHODS 2.9) */
};

/* One domain of a mixture: sequences are drawn from it with this probability. */
struct domain_spec {
    char name[25]; /* letters, digits, . _ - */
    double weight; /* > 0; those of a mixture sum to 1 */
    char **train;  /* n_train paths */
    int n_train;
    char *valid; /* NULL: the last part of train is held out */
};
struct data_spec {
    char **train; /* n_train paths; none with a mixture */
    int n_train;
    char *valid;     /* NULL: the last part of train is held out (see stage_common.c) */
    char *format;    /* u16 u32 text jsonl instruct */
    char *tokenizer; /* NULL: MODEL/tokenizer.model; not read for u16 and u32 */
    int seq_len;
    struct domain_spec *mixture; /* n_mixture; instead of train and valid */
    int n_mixture;
};

/* "eval": {"tasks": [{"task": "arc-e", "path": FILE}]} */
struct task_spec {
    char name[16]; /* one of spec_task_names() */
    char *path;
};
/* NULL-terminated: arc-e arc-c openbookqa piqa siqa winogrande boolq. */
const char *const *spec_task_names(void);

struct job_spec {
    char *name;
    char *model; /* directory */
    struct method method;
    double budget; /* kept K+V heads / (2 L H), in (0,1] */
    struct data_spec data;
    int64_t tokens_search, tokens_fuse, tokens_train;
    double w_kl, w_lm;    /* recovery */
    double w_bild;        /* on the answers of instruct data (METHODS 2.7) */
    int64_t batch_tokens; /* a step, all ranks together */
    struct {
        double lr, lr_omega, lr_lambda; /* 0 = chosen for the number of steps by the worker; lr: for
                                           closed forms only */
        double lr_attention;            /* factor on lr for the attention's projections */
        double warmup, final_lr, clip, weight_decay;
    } optim;
    char dtype[8]; /* f32 | bf16 */
    int64_t seed;
    int eval_windows;             /* "eval": {"windows": 256}; 0 = all of valid */
    struct task_spec *eval_tasks; /* n_eval_tasks */
    int n_eval_tasks;
    int eval_shots; /* examples put before each question */
    int eval_limit; /* questions a task; 0 = all */
    struct {        /* which checkpoints a stage in training writes, and which of them stay */
        int every;  /* steps; 0 = chosen by the worker */
        int keep;   /* the newest so many */
        int64_t keep_every; /* and those of steps that are multiples of it; 0 = none */
        int keep_best;      /* and so many with the lowest validation loss; 0 = none */
    } checkpoint;
    char format[8]; /* "export": {"format": "auto|dha|gqa|expand"} */
    struct {
        int ranks;   /* of the whole gang: the same number on each of its nodes */
        int threads; /* cores a rank; slots = ranks * threads on a CPU node */
        int nodes;
        char device[8];
        double memory_gib; /* that each rank must have; 0 = any */
        char **node_names; /* n_node_names: only these; none = any */
        int n_node_names;
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
/* Presets by name: 0 / -1. method_names(): "gqa, mqa, ..." */
int method_preset(const char *name, struct method *m);
const char *method_names(void);
bool method_groups_by_alignment(const struct method *m); /* grouping aligned-* */
/* The merge reads calibration tokens (tokens.search of them) whether or not there was a search. */
bool method_merge_calibrates(const struct method *m);
/* `path=value` (value is JSON if it parses, else a string) applied to a document before parsing. */
int spec_set(cJSON *doc, const char *assignment, struct dha_err *e);
/* Calls f for every string of a document (a spec, or spec_stage_inputs() of one) that names a file of its data or
 * tasks: all paths but `model`. where: "$.data.train[0]". Stops at the first that f does not return 0 for and returns that. */
int spec_each_file(cJSON *doc, int (*f)(void *arg, cJSON *item, const char *where), void *arg);
/* Stages of a job in order; search is left out where the method needs none, train where
 * tokens_train = 0. Returns their number (<= STAGE_KINDS). */
int spec_stages(const struct job_spec *s, enum stage_kind out[STAGE_KINDS]);
/* Slots of the gang on each of its nodes (a GPU rank is one GPU, a CPU rank its threads), and bytes each must come with. */
int spec_slots_per_node(const struct job_spec *s);
int64_t spec_slot_memory(const struct job_spec *s);
/* Letters, digits, dots, _ and -, a letter or digit first, at most 63: a host's name. */
bool spec_is_node_name(const char *name);
/* The part of the normalised spec that stage k's result depends on (its own inputs only, not those of
 * the stages before it), canonical key order. What a stage key is a digest of. */
cJSON *spec_stage_inputs(const struct job_spec *s, enum stage_kind k);

#endif
