/* Lines of benchmark and instruct files: the first byte picks the task (or "an example"), the rest is the line. What is accepted
 * has contexts and continuations, a right one among them, and a border inside the text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "worker/data/question.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dha_err e;
    struct question q;
    char *text;
    size_t prompt;
    if (size == 0)
        return 0;
    cJSON *j = json_parse((const char *)data + 1, size - 1, NULL, &e);
    if (!j)
        return 0;
    if (data[0] % (TASKS + 1) == TASKS) {
        if (question_example(j, &text, &prompt, &e) == 0) {
            if (prompt >= strlen(text))
                abort();
            free(text);
        }
    } else if (question_parse(j, (enum task)(data[0] % (TASKS + 1)), &q, &e) == 0) {
        if (q.n < 2 || q.n > QUESTION_CHOICES || q.gold < 0 || q.gold >= q.n)
            abort();
        for (int i = 0; i < q.n; i++)
            if (q.continuation[i][0] != ' ' || q.characters[i] < 1 ||
                question_context_end(q.context[i]) > strlen(q.context[i]))
                abort();
        if (!question_ask(&q) || !question_reply(&q))
            abort();
        question_finish(&q);
    }
    cJSON_Delete(j);
    return 0;
}
