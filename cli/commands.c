/* commands.c: the command table, in the order of `dha --help`. */
#include "cli/cli.h"

#include <string.h>

#include "proto/text.h"

/* clang-format off */
#define COMMANDS(X)                                                                                \
    X(demo) X(convert) X(inspect) X(compare) X(generate)                                           \
    X(submit) X(list) X(show) X(watch) X(explain) X(logs) X(metrics) X(events)                     \
    X(cancel) X(hold) X(release) X(retry) X(prio) X(export)                                        \
    X(sweep)                                                                                       \
    X(up) X(down) X(nodes) X(admin) X(completion) X(man)
/* clang-format on */

#define X(name) extern const struct command cmd_##name;
COMMANDS(X)
#undef X

const struct command *const commands[] = {
#define X(name) &cmd_##name,
    COMMANDS(X)
#undef X
        NULL,
};

const struct command *command_find(const char *name)
{
    for (int i = 0; commands[i]; i++) {
        if (!strcmp(commands[i]->name, name)) {
            return commands[i];
        }
    }
    return NULL;
}

const char *command_nearest(const char *name)
{
    const char *names[64];
    size_t n = 0;

    for (int i = 0; commands[i] && n < 64; i++) {
        names[n++] = commands[i]->name;
    }
    return text_nearest(name, names, n);
}
