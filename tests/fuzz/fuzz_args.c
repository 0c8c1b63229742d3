/* A command line, one word a line, against the option table of the command it names. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORDS = 300 };

static void numbers(const char *text)
{
    struct dha_err e = {0};
    int64_t n;
    double v;
    if (parse_int("it", text, -1000, INT64_MAX, &n, &e) == 0 ? n < -1000 : !e.msg[0])
        abort();
    e = (struct dha_err){0};
    if (parse_num("it", text, -1, 1, &v, &e) == 0 ? !(v >= -1 && v <= 1) : !e.msg[0])
        abort();
}

static void look(const struct command *cmd, int argc, char **argv, const struct args *a)
{
    if (a->n_given < 0 || a->n_given > CLI_MAX_GIVEN || a->pos < argv ||
        a->pos + a->n_pos != argv + argc)
        abort();
    for (int i = 0; i < a->n_given; i++) {
        const struct cli_opt *o = a->given[i].opt;
        if (!o->arg != !a->given[i].value || !opt_applies(cmd, o) || !arg_flag(a, o->name))
            abort();
        if (a->given[i].value)
            numbers(a->given[i].value);
    }
    for (int i = 0; i < a->n_pos; i++)
        numbers(a->pos[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *argv[WORDS + 1];
    int argc = 0;
    if (!text)
        abort();
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    for (char *at = text; at && argc < WORDS;) {
        argv[argc++] = at;
        at = strchr(at, '\n');
        if (at)
            *at++ = '\0';
    }
    argv[argc] = NULL;
    const struct command *cmd = command_find(argv[0]);
    command_nearest(argv[0]);
    if (cmd) {
        struct args a;
        struct dha_err e = {0};
        char wrong[sizeof e.msg];
        snprintf(wrong, sizeof wrong, "'%s' is not an option of `dha %s`", cmd->name, cmd->name);
        if (args_parse(cmd, argc, argv, &a, &e) == 0)
            look(cmd, argc, argv, &a);
        else if (e.code != DHA_E_USAGE || !e.msg[0] || strcmp(e.msg, wrong) == 0)
            abort();
    }
    free(text);
    return 0;
}
