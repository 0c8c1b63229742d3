/* question.c: see question.h. */
#include "worker/data/question.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/spec.h"
#include "proto/text.h"

struct fields {
    const cJSON *line;
    struct dha_err *e;
};

static int no_memory(struct dha_err *e)
{
    return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a question");
}

__attribute__((format(printf, 1, 2))) static char *say(const char *fmt, ...)
{
    char *out = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&out, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : out;
}

/* A string member, or NULL and an error. */
static const char *text_of(const struct fields *f, const char *key)
{
    const cJSON *v = json_get(f->line, key);
    if (cJSON_IsString(v))
        return v->valuestring;
    dha_fail(f->e, DHA_E_INPUT, "no string \"%s\"", key);
    return NULL;
}

static int64_t characters(const char *s)
{
    int64_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

/* Takes context over; the choice is put behind it after a space. */
static int add_choice(struct question *q, char *context, const char *choice, struct dha_err *e)
{
    int i = q->n++;
    q->context[i] = context;
    q->continuation[i] = say(" %s", choice);
    q->characters[i] = characters(choice) > 0 ? characters(choice) : 1;
    return context && q->continuation[i] ? 0 : no_memory(e);
}

static int find_gold(struct question *q, const char *answer, struct dha_err *e)
{
    char shown[80];
    for (int i = 0; i < q->n; i++) {
        if (strcmp(q->continuation[i] + 1, answer) == 0) {
            q->gold = i;
            return 0;
        }
    }
    text_copy(shown, sizeof shown, answer);
    return dha_fail(e, DHA_E_INPUT, "the answer \"%s\" is none of its options", shown);
}

/* ---- one function a form of line ------------------------------------------------------------------- */

/* bare: the question alone is the context. */
static int with_options(const struct fields *f, bool bare, struct question *q)
{
    const char *question = text_of(f, "input_question"), *answer = text_of(f, "answer");
    const cJSON *options = json_get(f->line, "options"), *o;
    if (!question || !answer)
        return -1;
    int n = cJSON_IsArray(options) ? cJSON_GetArraySize(options) : 0;
    if (n < 2 || n > QUESTION_CHOICES)
        return dha_fail(f->e, DHA_E_INPUT, "\"options\" is no list of 2 to %d", QUESTION_CHOICES);
    cJSON_ArrayForEach(o, options)
    {
        if (!cJSON_IsString(o))
            return dha_fail(f->e, DHA_E_INPUT, "\"options\" has an entry that is no string");
        if (add_choice(q, bare ? strdup(question) : say("Question: %s\nAnswer:", question),
                       o->valuestring, f->e))
            return -1;
    }
    return find_gold(q, answer, f->e);
}

static int arc(const struct fields *f, struct question *q)
{
    return with_options(f, false, q);
}

static int openbookqa(const struct fields *f, struct question *q)
{
    return with_options(f, true, q);
}

static int piqa(const struct fields *f, struct question *q)
{
    const char *goal = text_of(f, "goal"), *answer = text_of(f, "answer");
    const char *sol[2] = {text_of(f, "sol1"), text_of(f, "sol2")};
    if (!goal || !answer || !sol[0] || !sol[1])
        return -1;
    for (int i = 0; i < 2; i++)
        if (add_choice(q, say("Question: %s\nAnswer:", goal), sol[i], f->e))
            return -1;
    return find_gold(q, answer, f->e);
}

static int siqa(const struct fields *f, struct question *q)
{
    static const char *const keys[] = {"answerA", "answerB", "answerC"};
    const char *context = text_of(f, "context"), *question = text_of(f, "question");
    const char *answer = text_of(f, "answer");
    if (!context || !question || !answer)
        return -1;
    for (int i = 0; i < 3; i++) {
        const char *choice = text_of(f, keys[i]);
        if (!choice || add_choice(q, say("Q: %s %s\nA:", context, question), choice, f->e))
            return -1;
    }
    return find_gold(q, answer, f->e);
}

/* "labelKey" or "answer": "true", "false" or a boolean. */
static int boolq(const struct fields *f, struct question *q)
{
    const char *passage = text_of(f, "passage"), *question = text_of(f, "question");
    const cJSON *label = json_get(f->line, "labelKey");
    if (!label)
        label = json_get(f->line, "answer");
    if (!passage || !question)
        return -1;
    bool yes = cJSON_IsTrue(label) ||
               (cJSON_IsString(label) && !strcmp(label->valuestring, "true"));
    bool no = cJSON_IsFalse(label) ||
              (cJSON_IsString(label) && !strcmp(label->valuestring, "false"));
    if (!yes && !no)
        return dha_fail(f->e, DHA_E_INPUT,
                        "\"labelKey\" (or \"answer\") is neither true nor false");
    for (int i = 0; i < 2; i++)
        if (add_choice(q, say("%s\nQuestion: %s?\nAnswer:", passage, question), i ? "yes" : "no",
                       f->e))
            return -1;
    q->gold = yes;
    return 0;
}

struct blank {
    const char *sentence, *at, *option[2]; /* at: the "_" */
    int gold;
};

static int read_blank(const struct fields *f, struct blank *b)
{
    const cJSON *key = json_get(f->line, "answerKey");
    if (!key)
        key = json_get(f->line, "answer");
    *b = (struct blank){.sentence = text_of(f, "sentence"),
                        .option = {text_of(f, "option1"), text_of(f, "option2")}};
    if (!b->sentence || !b->option[0] || !b->option[1])
        return -1;
    if (!(b->at = strchr(b->sentence, '_')))
        return dha_fail(f->e, DHA_E_INPUT, "\"sentence\" has no _ to fill in");
    for (int i = 0; i < 2; i++) {
        if (cJSON_IsString(key) && (strcmp(key->valuestring, b->option[i]) == 0 ||
                                    strcmp(key->valuestring, i ? "2" : "1") == 0)) {
            b->gold = i;
            return 0;
        }
    }
    return dha_fail(f->e, DHA_E_INPUT, "\"answerKey\" is neither option1 nor option2");
}

static bool is_space(const char *s, size_t n)
{
    /* what str.isspace() says, of one character of n bytes */
    static const char *const wide[] = {
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
        "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
        "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
        "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    if (n == 1)
        return (*s >= '\t' && *s <= '\r') || (*s >= 0x1c && *s <= ' ');
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++)
        if (strlen(wide[i]) == n && memcmp(wide[i], s, n) == 0)
            return true;
    return false;
}

size_t question_context_end(const char *context)
{
    size_t n = strlen(context);
    while (n > 0) {
        size_t at = n - 1;
        while (at > 0 && n - at < 4 && ((unsigned char)context[at] & 0xc0) == 0x80)
            at--;
        if (!is_space(context + at, n - at))
            break;
        n = at;
    }
    return n;
}

/* As str.strip(): the first character behind white space. */
static const char *skip_space(const char *s)
{
    for (size_t k; (k = text_utf8_len((const unsigned char *)s, strlen(s))) > 0 && is_space(s, k);)
        s += k;
    return s;
}

static int winogrande(const struct fields *f, struct question *q)
{
    struct blank b;
    if (read_blank(f, &b))
        return -1;
    const char *rest = skip_space(b.at + 1);
    char *target = say("%.*s", (int)question_context_end(rest), rest);
    int rc = target ? 0 : no_memory(f->e);
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = add_choice(q, say("%.*s%s", (int)(b.at - b.sentence), b.sentence, b.option[i]), target,
                        f->e);
    free(target);
    q->gold = b.gold;
    q->ask = say("%s\nQuestion: Does _ stand for %s or %s?\nAnswer:", b.sentence, b.option[0],
                 b.option[1]);
    q->reply = say(" %s", b.option[b.gold]);
    if (rc == 0 && (!q->ask || !q->reply))
        rc = no_memory(f->e);
    return rc;
}

/* ---- tasks ----------------------------------------------------------------------------------------- */

static const struct {
    int (*parse)(const struct fields *f, struct question *q);
    bool norm;
    const char *tell; /* a member that only this form of line has, for instruct examples */
} tasks[] = {
    [TASK_ARC_E] = {arc, true, NULL},
    [TASK_ARC_C] = {arc, true, "options"},
    [TASK_OPENBOOKQA] = {openbookqa, true, NULL},
    [TASK_PIQA] = {piqa, true, "goal"},
    [TASK_SIQA] = {siqa, false, "answerA"},
    [TASK_WINOGRANDE] = {winogrande, false, "sentence"},
    [TASK_BOOLQ] = {boolq, false, "passage"},
};
_Static_assert(sizeof tasks / sizeof tasks[0] == TASKS, "a row a task");

const char *task_name(enum task t)
{
    return spec_task_names()[t];
}

bool task_has_norm(enum task t)
{
    return tasks[t].norm;
}

int task_from_name(const char *name, enum task *t, struct dha_err *e)
{
    const char *const *names = spec_task_names();
    char shown[48];
    for (int i = 0; i < TASKS; i++) {
        if (strcmp(names[i], name) == 0) {
            *t = (enum task)i;
            return 0;
        }
    }
    text_copy(shown, sizeof shown, name);
    dha_fail(e, DHA_E_USAGE, "there is no task \"%s\"", shown);
    const char *near = text_nearest(name, names, TASKS);
    return near ? dha_err_hint(e, "did you mean \"%s\"?", near)
                : dha_err_hint(e, "one of: arc-e arc-c openbookqa piqa siqa winogrande boolq");
}

int question_parse(const cJSON *line, enum task t, struct question *q, struct dha_err *e)
{
    struct fields f = {line, e};
    memset(q, 0, sizeof *q);
    if (!cJSON_IsObject(line))
        return dha_fail(e, DHA_E_INPUT, "not an object");
    if (tasks[t].parse(&f, q) == 0)
        return 0;
    question_finish(q);
    return -1;
}

const char *question_ask(const struct question *q)
{
    return q->ask ? q->ask : q->context[q->gold];
}

const char *question_reply(const struct question *q)
{
    return q->reply ? q->reply : q->continuation[q->gold];
}

void question_finish(struct question *q)
{
    for (int i = 0; i < q->n; i++) {
        free(q->context[i]);
        free(q->continuation[i]);
    }
    free(q->ask);
    free(q->reply);
    memset(q, 0, sizeof *q);
}

/* ---- instruct examples ------------------------------------------------------------------------------ */

/* By its name, else by its fields. */
static int told_task(const cJSON *line, enum task *t)
{
    const char *name = json_str(line, "task_name", "");
    for (int i = 0; i < TASKS; i++) {
        if (strcmp(task_name((enum task)i), name) == 0) {
            *t = (enum task)i;
            return 0;
        }
    }
    for (int i = 0; i < TASKS; i++) {
        if (tasks[i].tell && json_get(line, tasks[i].tell)) {
            *t = (enum task)i;
            return 0;
        }
    }
    return -1;
}

static bool ends_in_space(const char *s)
{
    return question_context_end(s) < strlen(s);
}

/* prompt and answer as one text; free()d by the caller, like prompt and answer by theirs. */
static int join(const char *prompt, const char *answer, char **text, size_t *end, struct dha_err *e)
{
    bool spaced = prompt[0] == '\0' || ends_in_space(prompt) || skip_space(answer) != answer;
    if (*skip_space(answer) == '\0')
        return dha_fail(e, DHA_E_INPUT, "its answer is empty");
    *text = say("%s%s%s", prompt, spaced ? "" : " ", answer);
    *end = question_context_end(prompt);
    return *text ? 0 : no_memory(e);
}

int question_example(const cJSON *line, char **text, size_t *prompt, struct dha_err *e)
{
    struct fields f = {line, e};
    struct question q;
    enum task t;
    *text = NULL;
    if (!cJSON_IsObject(line))
        return dha_fail(e, DHA_E_INPUT, "not an object");
    if (json_get(line, "prompt")) {
        const char *p = text_of(&f, "prompt"), *a = text_of(&f, "answer");
        return p && a ? join(p, a, text, prompt, e) : -1;
    }
    if (told_task(line, &t))
        return dha_fail(e, DHA_E_INPUT, "no \"prompt\" and \"answer\", and no known task's fields");
    if (question_parse(line, t, &q, e))
        return -1;
    int rc = join(question_ask(&q), question_reply(&q), text, prompt, e);
    question_finish(&q);
    return rc;
}
