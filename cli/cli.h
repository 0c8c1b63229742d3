/* cli.h: what every command is made of.
 *
 * A command is one file, cmd_NAME.c, that defines one `const struct command cmd_NAME`: its name, arguments,
 * options, help, example and function. commands.c lists them; that table alone drives dispatch, `dha --help`,
 * `dha NAME --help`, the shell completion and the man page, so none of them can differ from the others.
 *
 * main() parses the arguments by the command's own option table, calls run(), prints the error that run() left
 * and turns its code into the exit status (proto/err.h). Facts go to stdout, talk goes to stderr.
 */
#ifndef DHA_CLI_CLI_H
#define DHA_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/json.h"

/* One option. arg NULL: a flag. key: its short form, 0 for none. */
struct cli_opt {
    const char *name;
    char key;
    const char *arg;
    const char *help;
};

#define CLI_MAX_GIVEN 128

/* A parsed command line. Strings are argv's own. */
struct args {
    int n_pos;
    char **pos;
    int n_given;
    struct {
        const struct cli_opt *opt;
        const char *value; /* NULL for a flag */
    } given[CLI_MAX_GIVEN];
};

struct cli {
    const char *socket; /* --socket, or NULL */
    bool json;          /* the answer goes out as a document, not as text */
};

struct command {
    const char *name;
    const char *args;           /* "SPEC [--set path=value]..." after the name in the usage line */
    const char *summary;        /* one line for the list of commands */
    const char *help;           /* paragraphs */
    const char *example;        /* one or more whole command lines */
    int min_pos, max_pos;       /* positional arguments; max -1 = any number */
    const char *group;          /* heading in `dha --help`; NULL = not listed there */
    bool json;                  /* takes --json */
    const struct cli_opt *opts; /* ends with a row whose name is NULL; may be NULL */
    /* Returns the exit status, or -1 with *e filled. */
    int (*run)(const struct cli *cli, const struct args *a, struct dha_err *e);
};

/* commands.c */
extern const struct command *const commands[]; /* NULL-terminated, in the order of `dha --help` */
const struct command *command_find(const char *name); /* NULL if there is none */
const char *command_nearest(const char *name);        /* what the user may have meant, or NULL */

/* args.c */

/* Options that every command takes (--help, --socket; --json where cmd->json). */
extern const struct cli_opt common_opts[];
bool opt_applies(const struct command *cmd, const struct cli_opt *o);
/* argv[0] is the command's name. Positional arguments may stand among the options; "--" ends the options.
 * argv is permuted and must outlive *out. */
int args_parse(const struct command *cmd, int argc, char **argv, struct args *out,
               struct dha_err *e);
bool arg_flag(const struct args *a, const char *name);
const char *arg_value(const struct args *a, const char *name); /* the last one, or NULL */
/* The i-th value of an option that may be repeated, or NULL. */
const char *arg_nth(const struct args *a, const char *name, int i);
/* *out = the option as an integer (suffixes k, M, G = 10^3, 10^6, 10^9), or dflt where it was not given. */
int arg_int(const struct args *a, const char *name, int64_t min, int64_t max, int64_t dflt,
            int64_t *out, struct dha_err *e);
int arg_num(const struct args *a, const char *name, double min, double max, double dflt,
            double *out, struct dha_err *e);
int parse_int(const char *what, const char *text, int64_t min, int64_t max, int64_t *out,
              struct dha_err *e);
int parse_num(const char *what, const char *text, double min, double max, double *out,
              struct dha_err *e);

/* help.c */
void help_all(FILE *out);
void help_command(FILE *out, const struct command *cmd);

/* Prints an error as "dha: what went wrong" and its hint, to stderr. Returns its exit status. An error without a message
 * has been said already (child.h). */
int cli_complain(const struct dha_err *e);
/* "dha: ..." on stderr: talk. */
/* Control characters of what is said are shown, but for newlines. */
void cli_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* JSON text and a newline on stdout; DEL and C1, which JSON lets through, as \u00XX. */
void cli_put_json(const char *text);
/* Pretty JSON and a newline on stdout. */
int cli_print_json(const cJSON *doc, struct dha_err *e);

#endif
