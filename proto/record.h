/* record.h: the journal: one JSON object a line, written by rank 0 on stdout (a file), read by the
 * controller. Numbers cross from worker to controller only here. Every record has "t" (its type)
 * and "time" (seconds since the epoch). A reader skips types it does not know; a line that is no
 * record is set aside, never fatal. Lines are at most RECORD_MAX bytes.
 */
#ifndef DHA_PROTO_RECORD_H
#define DHA_PROTO_RECORD_H

#include "proto/json.h"

#define RECORD_MAX 65536

enum record_type {
    REC_HELLO,
    REC_PHASE,
    REC_PROGRESS,
    REC_HEAD_BUDGET,
    REC_CHECKPOINT,
    REC_EVAL,
    REC_ERROR,
    REC_BYE,
    REC_TASK,
    REC_LAYER,
    REC_UNKNOWN
};

struct record {
    enum record_type type;
    double time;
    union {
        struct {
            char stage[16], backend[96], version[24], host[64];
            int attempt, ranks, threads, pid;
            int64_t steps;        /* of the stage; 0 = not counted in steps */
            int64_t resumed_from; /* step; -1 = from the start */
        } hello;
        struct { /* work that is not training steps: "calibrate", "costs", "merge", "refit" ... */
            char name[48];
            int64_t done, total;
        } phase;
        struct {
            int64_t step, steps; /* step = finished steps */
            int64_t tokens;      /* trained on so far in this stage */
            double loss;         /* what is minimised; nats a token */
            double lm, kl;       /* its parts */
            double lr, grad_norm, tokens_per_s, comm_ms, eta_s;
            double fusion_loss, lambda, threshold; /* NaN where there is no operator */
            double bild;       /* a part of the loss; NaN where it is not trained on */
            double closed;     /* share of masks that are closed; NaN without masks */
            double teacher_ms; /* of the step; NaN without a teacher */
        } progress;
        struct {
            int layer;
            char kind[8]; /* "key" | "value" */
            int heads;    /* kept */
            int n_map;    /* query heads */
            int map[256];
        } head_budget;
        struct { /* a number of one layer: "fusion_loss", "regression_error", "share.J" of head J */
            char name[24];
            int layer;
            char kind[8]; /* "key" | "value" | "block", the whole attention block */
            int64_t step;
            double value;
        } layer;
        struct {
            int64_t step, bytes;
            char path[512];
            char digest[72];   /* SHA-256 of the manifest, hex */
            double valid_loss; /* of the validation at this step; NaN = there was none */
        } checkpoint;
        struct {
            /* "parent" "converted" "valid" "final"; with a mixture also "valid:wiki" ... for its domains */
            char name[40];
            double loss; /* nats a token */
            int64_t tokens, windows;
            int64_t step, trained_tokens; /* where on the training curve ("valid") */
        } eval;
        struct {            /* a model's score on a multiple-choice task (worker/eval/) */
            char model[16]; /* "parent" "final" */
            char task[16];  /* "arc-e" ... */
            int64_t questions;
            double acc, acc_stderr; /* by likelihood; shares of 1 */
            double acc_norm,
                acc_norm_stderr; /* by likelihood a character; NaN where the task has none */
            double exact_match;  /* the answer's tokens are the greedy ones */
        } task;
        struct {
            char code[24], message[640], hint[320];
        } error;
        struct {
            char code[24];
            int64_t tokens; /* training + calibration tokens this stage consumed, all attempts */
            double seconds;
            int64_t peak_rss; /* bytes, max over ranks */
            int64_t kv_parent,
                kv_converted; /* KV cache bytes a token at the checkpoint's dtype; 0 = n/a */
            char output[512]; /* model directory or plan the stage leaves */
        } bye;
    };
};

/* One line without its newline -> record. -1 + DHA_E_PROTOCOL if it is none; an unknown "t" is
 * REC_UNKNOWN and success. Missing optional numbers are 0 (fusion fields: NaN). */
int record_parse(const char *line, size_t len, struct record *r, struct dha_err *e);
/* One line with its newline into buf; returns its length, or -1 if it does not fit. */
int record_format(const struct record *r, char *buf, size_t cap);
const char *record_type_name(enum record_type t);

#endif
