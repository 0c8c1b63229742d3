/* help.c: the command table as text for people, and what dha says to them. */
#include "cli/cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

void help_all(FILE *out)
{
    const char *group = "";

    fputs("usage: dha COMMAND [ARGUMENTS]\n\n"
          "Turns a multi-head-attention checkpoint into one that keeps a fraction of its key/value "
          "heads.\n"
          "New here?  `dha demo` converts a small model and explains the result in minutes;\n"
          "`dha convert MODEL --data FILE --budget 0.25 --out DIR` does it to yours.\n",
          out);
    for (int i = 0; commands[i]; i++) {
        const struct command *c = commands[i];
        if (!c->group) {
            continue;
        }
        if (strcmp(c->group, group)) {
            group = c->group;
            fprintf(out, "\n%s\n", group);
        }
        fprintf(out, "  %-10s %s\n", c->name, c->summary);
    }
    fputs("\n`dha COMMAND --help` tells more, with an example.\n"
          "With $DHA_URL (http://HOST:PORT) and, for changes, $DHA_TOKEN a daemon is asked over "
          "TCP.\n"
          "The daemon is found at $DHA_SOCKET, else --socket PATH, else your own, which is started "
          "when needed\n"
          "(state in ~/.dha; $DHA_STATE overrides).\n",
          out);
}

static void help_option(FILE *out, const struct cli_opt *o)
{
    char left[64];

    snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->key ? "-" : " ", o->key ? o->key : ' ',
             o->key ? ", " : "  ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
    fprintf(out, "  %-28s %s\n", left, o->help);
}

void help_command(FILE *out, const struct command *cmd)
{
    fprintf(out, "usage: dha %s%s%s\n\n%s.\n", cmd->name, *cmd->args ? " " : "", cmd->args,
            cmd->summary);
    if (cmd->help && *cmd->help) {
        fprintf(out, "\n%s\n", cmd->help);
    }
    fputs("\noptions:\n", out);
    for (const struct cli_opt *o = cmd->opts; o && o->name; o++) {
        help_option(out, o);
    }
    for (const struct cli_opt *o = common_opts; o->name; o++) {
        if (opt_applies(cmd, o)) {
            help_option(out, o);
        }
    }
    fputs("\nexample:\n", out);
    for (const char *line = cmd->example; *line;) {
        size_t len = strcspn(line, "\n");
        fprintf(out, "  %.*s\n", (int)len, line);
        line += len + (line[len] == '\n');
    }
}

/* Messages quote what other users wrote. */
static void put_shown(FILE *out, const char *text)
{
    size_t n = text_shown(NULL, 0, text, true) + 1;
    char *shown = malloc(n);

    if (shown) {
        text_shown(shown, n, text, true);
        fputs(shown, out);
    }
    free(shown);
}

void cli_say(const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;

    fflush(stdout);
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0) {
        text = NULL;
    }
    va_end(ap);
    fputs("dha: ", stderr);
    put_shown(stderr, text ? text : "out of memory");
    fputc('\n', stderr);
    free(text);
}

int cli_complain(const struct dha_err *e)
{
    if (*e->msg) {
        cli_say("%s%s%s", e->path[0] && !strstr(e->msg, e->path) ? e->path : "",
                e->path[0] && !strstr(e->msg, e->path) ? ": " : "", e->msg);
    }
    for (const char *line = e->hint; *line;) {
        size_t len = strcspn(line, "\n");
        char one[sizeof e->hint];
        snprintf(one, sizeof one, "%.*s", (int)len, line);
        fputs("     ", stderr);
        put_shown(stderr, one);
        fputc('\n', stderr);
        line += len + (line[len] == '\n');
    }
    return dha_code_exit(e->code);
}

void cli_put_json(const char *text)
{
    for (; *text; text++) {
        const unsigned char *s = (const unsigned char *)text;
        if (s[0] == 0x7f) {
            fputs("\\u007f", stdout);
        } else if (s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0) {
            printf("\\u00%02x", s[1]);
            text++;
        } else {
            putchar(*text);
        }
    }
    putchar('\n');
}

int cli_print_json(const cJSON *doc, struct dha_err *e)
{
    char *text = json_text_pretty(doc);

    if (!text) {
        return dha_fail(e, DHA_E_NO_MEMORY, "printing JSON");
    }
    cli_put_json(text);
    free(text);
    return 0;
}
