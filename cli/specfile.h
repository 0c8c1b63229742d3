/* specfile.h: job specs as users write them: read, adjusted by --set, paths made absolute, submitted. */
#ifndef DHA_CLI_SPECFILE_H
#define DHA_CLI_SPECFILE_H

#include "cli/client.h"

/* Reads a spec ("-": standard input), applies each "path=value" of --set, then makes its paths absolute: relative to
 * the spec's directory (standard input: the current one). */
int specfile_read(const char *path, const struct args *a, cJSON **out, struct dha_err *e);
/* Rewrites model and every path that spec_each_file() finds. What is not a string is left for the daemon to
 * refuse. base NULL: the current directory. */
int specfile_absolute(cJSON *spec, const char *base, struct dha_err *e);
struct submission {
    bool dry_run, hold;
    const char *key;    /* Idempotency-Key; NULL = none */
    const cJSON *after; /* list of "ok:ID" and "any:ID"; NULL = none */
};
/* POST /v1/jobs. *out: the whole answer. A refused spec prints all its errors on stderr. */
int specfile_post(struct client *c, const cJSON *spec, const struct submission *s, cJSON **out,
                  struct dha_err *e);
/* A job that waits for more than its turn: the nodes that take work now do not hold it, somebody has to act. `now`: an
 * explanation. Says so on stderr, of whom it is so in front, and returns true. */
bool specfile_say_blocked(const char *whose, const cJSON *now);
/* The same, asked for: of a job that has just been submitted. */
void specfile_say_if_blocked(struct client *c, const char *id);
/* The "errors" list of an error document, one line each with its path and hint, under a line that says of what ("the spec").
 * Returns their number. */
int specfile_print_errors(FILE *out, const char *what, const cJSON *error);

#endif
