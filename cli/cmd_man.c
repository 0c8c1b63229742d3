/* cmd_man.c: dha man: the manual page dha(1), generated from the command table and the error table. */
#include <string.h>

#include "cli/cli.h"

/* roff text: backslashes, hyphens that are minus signs, and dots at the start of a line. */
static void roff(const char *s)
{
    bool start = true;

    for (; *s; s++) {
        if (start && (*s == '.' || *s == '\'')) {
            fputs("\\&", stdout);
        }
        start = *s == '\n';
        if (*s == '\\') {
            fputs("\\e", stdout);
        } else if (*s == '-') {
            fputs("\\-", stdout);
        } else {
            putchar(*s);
        }
    }
}

static void option(const struct cli_opt *o)
{
    fputs(".TP\n", stdout);
    if (o->key) {
        printf("\\fB\\-%c\\fR, ", o->key);
    }
    fputs("\\fB\\-\\-", stdout);
    roff(o->name);
    fputs("\\fR", stdout);
    if (o->arg) {
        fputs(" \\fI", stdout);
        roff(o->arg);
        fputs("\\fR", stdout);
    }
    putchar('\n');
    roff(o->help);
    putchar('\n');
}

static void command(const struct command *c)
{
    printf(".SS dha %s ", c->name);
    roff(c->args);
    putchar('\n');
    roff(c->summary);
    fputs(".\n", stdout);
    if (c->help && *c->help) {
        fputs(".PP\n", stdout);
        roff(c->help);
        putchar('\n');
    }
    for (const struct cli_opt *o = c->opts; o && o->name; o++) {
        option(o);
    }
    fputs(".PP\n.nf\n", stdout);
    roff(c->example);
    fputs("\n.fi\n", stdout);
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    (void)cli;
    (void)a;
    (void)e;
    printf(".TH DHA 1 \"\" \"dha %s\" \"User commands\"\n", DHA_VERSION);
    puts(".SH NAME\ndha \\- convert multi\\-head\\-attention checkpoints to a fraction of their KV "
         "cache\n"
         ".SH SYNOPSIS\n.B dha\n\\fICOMMAND\\fR [\\fIARGUMENTS\\fR]\n"
         ".SH DESCRIPTION\nTurns a pretrained LLaMA\\-architecture checkpoint into one that keeps "
         "a fraction of its\n"
         "key/value heads. The work is done in jobs by a daemon,\n.BR dhad ,\nwhich is started "
         "when it is needed.\n"
         "Facts go to standard output, everything else to standard error.\n"
         ".SH COMMANDS");
    for (int i = 0; commands[i]; i++) {
        command(commands[i]);
    }
    puts(".SH OPTIONS OF EVERY COMMAND");
    for (const struct cli_opt *o = common_opts; o->name; o++) {
        option(o);
    }
    puts(".SH EXIT STATUS");
    for (int c = 0; c < DHA_E_COUNT; c++) {
        printf(".TP\n.B %d\n", dha_code_exit((enum dha_code)c));
        roff(dha_code_meaning((enum dha_code)c));
        putchar('\n');
    }
    puts(".TP\n.B 130\ninterrupted by Ctrl\\-C; jobs go on\n"
         ".SH ENVIRONMENT\n.TP\n.B DHA_SOCKET\nthe daemon's socket\n"
         ".TP\n.B DHA_URL\nhttp://HOST:PORT of a daemon that listens there, instead of a socket\n"
         ".TP\n.B DHA_TOKEN\nwith DHA_URL: the secret of dha admin token create\n"
         ".TP\n.B DHA_STATE\nstate directory of a daemon that is started (default ~/.dha)\n"
         ".TP\n.B DHA_DEMO\nanother demo directory\n"
         ".TP\n.B NO_COLOR\nno colours");
    return 0;
}

const struct command cmd_man = {
    .name = "man",
    .args = "",
    .summary = "Print the manual page dha(1)",
    .help = "In roff, made from the same table as this help.",
    .example = "dha man | man -l -",
    .group = "Other",
    .run = run,
};
