#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "worker/cmd.h"

#define MAX_OPTIONS 24

static int take(const struct option_spec *o, const char *arg, struct dha_err *e)
{
    char *end;
    if (o->flag) {
        *o->flag = true;
        return 0;
    }
    if (o->str) {
        *o->str = arg;
        return 0;
    }
    if (o->many) {
        if (*o->n_many == OPTION_MANY)
            return dha_fail(e, DHA_E_USAGE, "--%s is given more than %d times", o->name,
                            OPTION_MANY);
        o->many[(*o->n_many)++] = arg;
        return 0;
    }
    errno = 0;
    *o->num = strtoll(arg, &end, 10);
    if (errno == ERANGE && !*end)
        return dha_fail(e, DHA_E_USAGE, "--%s: %.60s has too many digits", o->name, arg);
    if (errno || *end || end == arg)
        return dha_fail(e, DHA_E_USAGE, "--%s takes a whole number, not \"%s\"", o->name, arg);
    return 0;
}

int cmd_options(int argc, char **argv, const struct option_spec *table, struct dha_err *e)
{
    struct option longs[MAX_OPTIONS + 1] = {0};
    bool seen[MAX_OPTIONS] = {false};
    int n = 0, c, index = 0;
    for (; table[n].name && n < MAX_OPTIONS; n++)
        longs[n] = (struct option){table[n].name, table[n].flag ? no_argument : required_argument,
                                   NULL, 1000 + n};
    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, ":", longs, &index)) != -1) {
        if (c == ':')
            return dha_fail(e, DHA_E_USAGE, "option %s needs a value", argv[optind - 1]);
        if (c < 1000)
            return dha_fail(e, DHA_E_USAGE, "unknown option %s", argv[optind - 1]);
        seen[c - 1000] = true;
        if (take(&table[c - 1000], optarg, e))
            return -1;
    }
    for (int i = 0; i < n; i++)
        if (table[i].required && !seen[i])
            return dha_fail(e, DHA_E_USAGE, "option --%s is missing", table[i].name);
    return optind;
}

int cmd_range(const char *name, long long v, long long lo, long long hi, struct dha_err *e)
{
    if (v >= lo && v <= hi)
        return 0;
    return dha_fail(e, DHA_E_USAGE, "--%s: %lld is outside %lld to %lld", name, v, lo, hi);
}
