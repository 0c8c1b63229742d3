/* tasks.h: a model's score on a benchmark file: multiple choice by likelihood, exactly as lm-evaluation-harness scores it
 * (api/task.py, multiple_choice): acc: the choice with the greatest log-likelihood is the right one (the first of equals);
 * acc_norm: with the greatest log-likelihood a character; stderr = sqrt(p (1 - p) / (n - 1)), that of a mean.
 *
 * exact_match: greedy decoding of as many tokens as the answer has gives the answer: its tokens are each the most likely
 * one after those before it, which one pass over the right answer tells (METHODS 2.7's protocol; the harness's is_greedy).
 *
 * Shots are the first examples of the file other than the question itself (the harness's `first_n` sampler), each
 * followed by an empty line.
 */
#ifndef DHA_WORKER_TASKS_H
#define DHA_WORKER_TASKS_H

#include <stdio.h>
#include "worker/data/question.h"
#include "worker/eval/loglik.h"

struct task_options {
    int shots;
    int64_t limit; /* questions from the start of the file; 0 = all */
    bool bos; /* begin each context with it (the harness's add_bos_token; its default is not to) */
    FILE *details;     /* rank 0: one JSON object a question; NULL: none */
    const char *model; /* what details call the model; may be NULL */
};
struct task_score {
    int64_t questions;
    double acc, acc_stderr;           /* NaN stderr of a single question */
    double acc_norm, acc_norm_stderr; /* NaN where the harness has none */
    double exact_match;
    int64_t cut; /* questions whose beginning did not fit the model's positions */
};
/* All ranks. */
int task_run(struct model *m, const struct spm *s, enum task t, const char *path,
             const struct task_options *o, struct comm *comm, struct task_score *out,
             struct dha_err *e);
/* Is the file's first line a question of this task? */
int task_check(const char *task, const char *path, struct dha_err *e);
/* {"task", "questions", "acc", "acc_stderr", "acc_norm", ...}; NULL: out of memory. */
cJSON *task_score_json(enum task t, const struct task_score *v);
/* The tokenizer of a model: an error if it has more tokens than the model. tokenizer NULL: DIR/tokenizer.model. */
int task_tokenizer(const char *dir, const char *tokenizer, int vocab, struct spm **s,
                   struct dha_err *e);

#endif
