/* question.h: a line of a benchmark file as text: contexts and the continuations whose likelihood is compared, worded as
 * lm-evaluation-harness words them (its tasks' doc_to_text, doc_to_choice and doc_to_target; target_delimiter " "):
 *
 *   arc-e, arc-c   Question: {input_question}\nAnswer:                 " {option}" of options; gold: answer
 *   openbookqa     {input_question}                                    " {option}"
 *   piqa           Question: {goal}\nAnswer:                           " {sol1}", " {sol2}"
 *   siqa           Q: {context} {question}\nA:                         " {answerA}" ... " {answerC}"
 *   boolq          {passage}\nQuestion: {question}?\nAnswer:           " no", " yes"
 *   winogrande     {sentence up to _}{option}                          " {rest of the sentence}", of each option
 *
 * Likelihood a character (acc_norm) is defined for the first four, as there; characters are Unicode code points of the
 * option without the space.
 *
 * An instruct example is {"prompt": ..., "answer": ...}, joined by a space where neither brings one, or one of these
 * lines, told by its fields and its task_name: context and right continuation. A winogrande line becomes
 *   {sentence}\nQuestion: Does _ stand for {option1} or {option2}?\nAnswer: {option}
 * (our wording), since its continuation is the same whatever the answer is; exact match asks the same way.
 */
#ifndef DHA_WORKER_QUESTION_H
#define DHA_WORKER_QUESTION_H

#include <stdbool.h>
#include "proto/json.h"

#define QUESTION_CHOICES 8

/* In the order of spec_task_names(). */
enum task {
    TASK_ARC_E,
    TASK_ARC_C,
    TASK_OPENBOOKQA,
    TASK_PIQA,
    TASK_SIQA,
    TASK_WINOGRANDE,
    TASK_BOOLQ,
    TASKS
};
int task_from_name(const char *name, enum task *t, struct dha_err *e);
const char *task_name(enum task t);
bool task_has_norm(enum task t);

struct question {
    int n, gold;
    char *context[QUESTION_CHOICES];
    char *continuation[QUESTION_CHOICES];
    int64_t characters[QUESTION_CHOICES]; /* of the choice, at least 1 */
    /* The same as a prompt and its one right answer; NULL: the gold choice's context and continuation. */
    char *ask, *reply;
};
const char *question_ask(const struct question *q);
const char *question_reply(const struct question *q);
/* A zeroed question is finished. Errors name what is wrong with the line, not where it stands. */
int question_parse(const cJSON *line, enum task t, struct question *q, struct dha_err *e);
void question_finish(struct question *q);

/* Text of an instruct example: prompt and answer together; the prompt is the first *prompt bytes. */
int question_example(const cJSON *line, char **text, size_t *prompt, struct dha_err *e);

/* Bytes of context that the context's tokens are made of: white space at its end belongs to what follows
 * (lm-evaluation-harness: TemplateLM._encode_pair; white space as Python's str.rstrip() knows it). */
size_t question_context_end(const char *context);

#endif
