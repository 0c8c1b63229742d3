/* spec_fields.h: the job spec as a table, one row a field (private to proto/).
 *
 * Parsing, the unknown-field check, writing back and stage keys all walk this table, so a field that
 * is added here is complete everywhere. Rows are in the order in which the spec is written.
 */
#ifndef DHA_PROTO_SPEC_FIELDS_H
#define DHA_PROTO_SPEC_FIELDS_H

#include "proto/spec.h"

enum field_type {
    FIELD_NAME,     /* char *, display text */
    FIELD_PATH,     /* char *, NULL allowed */
    FIELD_PATHS,    /* data.train */
    FIELD_MIXTURE,  /* data.mixture */
    FIELD_TASKS,    /* eval.tasks */
    FIELD_NODES,    /* resources.node_names */
    FIELD_METHOD,   /* struct method */
    FIELD_CHOICE,   /* char *, one of choices; NULL = not given */
    FIELD_CHOICE8,  /* char[8], one of choices */
    FIELD_NUM,      /* double */
    FIELD_I64,      /* int64_t */
    FIELD_INT,      /* int */
    FIELD_WALLTIME, /* int64_t seconds */
};

struct spec_field {
    const char *object; /* "" = top level, else the object it is a member of */
    const char *key;
    enum field_type type;
    size_t at; /* offset in struct job_spec */
    double lo, hi;
    bool lo_open;        /* lo itself is not allowed */
    const char *choices; /* "f32|bf16" */
    const char *later;   /* a choice that is known, but that this version does not have */
    unsigned stages;     /* bit k: stage k's result depends on it; see spec_stage_inputs() */
};

enum {
    F_NAME,
    F_MODEL,
    F_METHOD,
    F_BUDGET,
    F_DATA_TRAIN,
    F_DATA_VALID,
    F_DATA_FORMAT,
    F_DATA_TOKENIZER,
    F_DATA_SEQ_LEN,
    F_DATA_MIXTURE,
    F_TOKENS_SEARCH,
    F_TOKENS_FUSE,
    F_TOKENS_TRAIN,
    F_RECOVERY_KL,
    F_RECOVERY_LM,
    F_RECOVERY_BILD,
    F_BATCH_TOKENS,
    F_LR,
    F_LR_ATTENTION,
    F_LR_OMEGA,
    F_LR_LAMBDA,
    F_WARMUP,
    F_FINAL_LR,
    F_CLIP,
    F_WEIGHT_DECAY,
    F_DTYPE,
    F_SEED,
    F_EVAL_WINDOWS,
    F_EVAL_TASKS,
    F_EVAL_SHOTS,
    F_EVAL_LIMIT,
    F_CHECKPOINT_EVERY,
    F_CHECKPOINT_KEEP,
    F_CHECKPOINT_KEEP_EVERY,
    F_CHECKPOINT_KEEP_BEST,
    F_EXPORT_FORMAT,
    F_RANKS,
    F_THREADS,
    F_NODES,
    F_DEVICE,
    F_MEMORY,
    F_NODE_NAMES,
    F_WALLTIME,
    F_PRIORITY,
    F_COUNT
};

extern const struct spec_field spec_field[F_COUNT];

/* Adds one error. hint may be "". */
void spec_error(struct spec_errors *errs, const char *path, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* What a document says of a field. A field that is wrong has its error already; what follows from it
 * is not reported as well. */
enum given { ABSENT, GIVEN, WRONG };

/* Reads every field that doc has into *out and sets given[row]; checks types, ranges and unknown
 * names. Fields that are absent, null or wrong keep what *out holds. */
void spec_read_fields(const cJSON *doc, const char *base_dir, struct job_spec *out,
                      enum given given[F_COUNT], struct spec_errors *errs);
/* Writes one field into its (created) object of doc: 0 / -1 out of memory. */
int spec_write_field(const struct job_spec *s, int row, cJSON *doc);

/* Paths, as spec_fields.c reads them (malloc'ed): NULL and an error if v is none. */
char *spec_read_path(const cJSON *v, const char *path, const char *base, struct spec_errors *errs);
/* A list of at least one: *n paths (those that are right). */
char **spec_read_paths(const cJSON *v, const char *path, const char *base, int *n,
                       struct spec_errors *errs);
/* Reports every member of obj that names[0..n) does not have. */
void spec_check_members(const cJSON *obj, const char *path, const char *const *names, size_t n,
                        struct spec_errors *errs);

/* spec_lists.c: the fields that are lists. */
void spec_read_mixture(const cJSON *v, const char *path, const char *base, struct data_spec *out,
                       struct spec_errors *errs);
cJSON *spec_mixture_to_json(const struct data_spec *d);
void spec_read_tasks(const cJSON *v, const char *path, const char *base, struct job_spec *out,
                     struct spec_errors *errs);
cJSON *spec_tasks_to_json(const struct job_spec *s);
void spec_read_nodes(const cJSON *v, const char *path, struct job_spec *out,
                     struct spec_errors *errs);
cJSON *spec_nodes_to_json(const struct job_spec *s);
void spec_lists_finish(struct job_spec *s);

/* method.c: `method` of a spec, and back. */
void method_read(const cJSON *v, struct method *out, struct spec_errors *errs);
cJSON *method_to_json(const struct method *m);
bool method_needs_search(const struct method *m);
/* The part that stage k's result depends on. The preset's name is no part of what is computed. */
cJSON *method_stage_inputs(const struct method *m, enum stage_kind k);

#endif
