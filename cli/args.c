/* args.c: a command line against a command's option table, by getopt_long. */
#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

const struct cli_opt common_opts[] = {
    {"json", 0, NULL, "print the facts as JSON on stdout"},
    {"socket", 0, "PATH", "the daemon's socket ($DHA_SOCKET goes first)"},
    {"help", 'h', NULL, "this help"},
    {NULL, 0, NULL, NULL},
};

bool opt_applies(const struct command *cmd, const struct cli_opt *o)
{
    return cmd->json || strcmp(o->name, "json") != 0;
}

#define MAX_OPTS 40

static int unknown_option(const struct command *cmd, const struct cli_opt *const *defs, int n,
                          const char *given, struct dha_err *e)
{
    const char *names[MAX_OPTS];
    char word[64];
    size_t len;

    dha_fail(e, DHA_E_USAGE, "'%s' is not an option of `dha %s`", given, cmd->name);
    if (given[0] == '-' && given[1] >= '0' && given[1] <= '9') {
        return dha_err_hint(e, "a negative number goes behind two dashes: dha prio ID -- %s",
                            given);
    }
    while (*given == '-') {
        given++;
    }
    len = strcspn(given, "=");
    if (len >= sizeof word) {
        len = sizeof word - 1;
    }
    memcpy(word, given, len);
    word[len] = 0;
    for (int i = 0; i < n; i++) {
        names[i] = defs[i]->name;
    }
    const char *near = text_nearest(word, names, (size_t)n);
    if (near) {
        return dha_err_hint(e, "did you mean --%s?  `dha %s --help` lists the options", near,
                            cmd->name);
    }
    return dha_err_hint(e, "`dha %s --help` lists the options", cmd->name);
}

/* The word that getopt stopped at: the one just passed, or, at a letter beyond ASCII (it takes a byte for one, and more bytes
 * follow), the one it is still in. */
static const char *bad_word(int argc, char **argv)
{
    char byte = (char)optopt;
    const char *now = optind < argc ? argv[optind] : "";
    bool within = (optopt < 0 || (optopt > 127 && optopt < 256)) && now[0] == '-' &&
                  now[1] != '-' && strchr(now, byte);
    return within ? now : argv[optind - 1];
}

int args_parse(const struct command *cmd, int argc, char **argv, struct args *out,
               struct dha_err *e)
{
    const struct cli_opt *defs[MAX_OPTS];
    struct option longs[MAX_OPTS + 1];
    char shorts[2 * MAX_OPTS + 2] = ":";
    size_t ns = 1;
    int n = 0;
    int c;

    for (const struct cli_opt *o = cmd->opts; o && o->name && n < MAX_OPTS; o++) {
        defs[n++] = o;
    }
    for (const struct cli_opt *o = common_opts; o->name && n < MAX_OPTS; o++) {
        if (opt_applies(cmd, o)) {
            defs[n++] = o;
        }
    }
    for (int i = 0; i < n; i++) {
        /* val 256 + i tells the options apart whether or not they have a letter. */
        longs[i] = (struct option){defs[i]->name, defs[i]->arg ? required_argument : no_argument,
                                   NULL, 256 + i};
        if (defs[i]->key) {
            shorts[ns++] = defs[i]->key;
            if (defs[i]->arg) {
                shorts[ns++] = ':';
            }
        }
    }
    longs[n] = (struct option){0};
    shorts[ns] = 0;

    memset(out, 0, sizeof *out);
    opterr = 0;
    optind = 0; /* glibc: start anew, also after an earlier parse */
    while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        int which = c - 256;
        if (c == '?') {
            /* optopt tells a bad letter; a bad long name is the word just passed. */
            char letter[3] = {'-', (char)optopt, 0};
            bool is_letter = optopt > 0 && optopt < 128;
            return unknown_option(cmd, defs, n, is_letter ? letter : bad_word(argc, argv), e);
        }
        if (c == ':') {
            dha_fail(e, DHA_E_USAGE, "'%s' needs a value", argv[optind - 1]);
            return dha_err_hint(e, "`dha %s --help` says which", cmd->name);
        }
        for (int i = 0; c < 256 && i < n; i++) {
            if (defs[i]->key == c) {
                which = i;
            }
        }
        if (which < 0 || which >= n) {
            return dha_fail(e, DHA_E_INTERNAL, "option %d is in no table", c);
        }
        if (out->n_given == CLI_MAX_GIVEN) {
            return dha_fail(e, DHA_E_USAGE, "more than %d options", CLI_MAX_GIVEN);
        }
        out->given[out->n_given].opt = defs[which];
        out->given[out->n_given].value = defs[which]->arg ? optarg : NULL;
        out->n_given++;
    }
    out->pos = argv + optind;
    out->n_pos = argc - optind;

    if (arg_flag(out, "help")) {
        return 0;
    }
    if (out->n_pos < cmd->min_pos) {
        dha_fail(e, DHA_E_USAGE, "`dha %s` needs %s", cmd->name, cmd->args);
        return dha_err_hint(e, "`dha %s --help` shows an example", cmd->name);
    }
    if (cmd->max_pos >= 0 && out->n_pos > cmd->max_pos) {
        dha_fail(e, DHA_E_USAGE, "'%s' is one argument too many", out->pos[cmd->max_pos]);
        return dha_err_hint(e, "usage: dha %s %s", cmd->name, cmd->args);
    }
    return 0;
}

bool arg_flag(const struct args *a, const char *name)
{
    for (int i = 0; i < a->n_given; i++) {
        if (!strcmp(a->given[i].opt->name, name)) {
            return true;
        }
    }
    return false;
}

const char *arg_value(const struct args *a, const char *name)
{
    for (int i = a->n_given - 1; i >= 0; i--) {
        if (!strcmp(a->given[i].opt->name, name)) {
            return a->given[i].value;
        }
    }
    return NULL;
}

const char *arg_nth(const struct args *a, const char *name, int nth)
{
    for (int i = 0; i < a->n_given; i++) {
        if (!strcmp(a->given[i].opt->name, name) && nth-- == 0) {
            return a->given[i].value;
        }
    }
    return NULL;
}

int parse_num(const char *what, const char *text, double min, double max, double *out,
              struct dha_err *e)
{
    char *end;
    double v;

    errno = 0;
    v = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(v)) {
        return dha_fail(e, DHA_E_USAGE, "%s: '%s' is not a number", what, text);
    }
    if (v < min || v > max) {
        return dha_fail(e, DHA_E_USAGE, "%s: %s is outside %g to %g", what, text, min, max);
    }
    *out = v;
    return 0;
}

int parse_int(const char *what, const char *text, int64_t min, int64_t max, int64_t *out,
              struct dha_err *e)
{
    char *end;
    long long v;
    int64_t scale = 1;

    errno = 0;
    v = strtoll(text, &end, 10);
    if (end != text && *end && !end[1]) {
        scale = *end == 'k' ? 1000 : *end == 'M' ? 1000000 : *end == 'G' ? 1000000000 : 0;
        end++;
    }
    if (end == text || *end || errno || !scale || v > INT64_MAX / scale || v < INT64_MIN / scale) {
        return dha_fail(e, DHA_E_USAGE, "%s: '%s' is not a whole number", what, text);
    }
    v *= scale;
    if (v < min || v > max) {
        return dha_fail(e, DHA_E_USAGE, "%s: %s is outside %lld to %lld", what, text,
                        (long long)min, (long long)max);
    }
    *out = v;
    return 0;
}

int arg_int(const struct args *a, const char *name, int64_t min, int64_t max, int64_t dflt,
            int64_t *out, struct dha_err *e)
{
    const char *text = arg_value(a, name);
    char what[48];

    *out = dflt;
    if (!text) {
        return 0;
    }
    snprintf(what, sizeof what, "--%s", name);
    return parse_int(what, text, min, max, out, e);
}

int arg_num(const struct args *a, const char *name, double min, double max, double dflt,
            double *out, struct dha_err *e)
{
    const char *text = arg_value(a, name);
    char what[48];

    *out = dflt;
    if (!text) {
        return 0;
    }
    snprintf(what, sizeof what, "--%s", name);
    return parse_num(what, text, min, max, out, e);
}
