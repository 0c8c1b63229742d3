/* take.h: taking the result of a finished job away: what `dha export` and the end of `dha convert` do. */
#ifndef DHA_CLI_TAKE_H
#define DHA_CLI_TAKE_H

#include "cli/cli.h"

/* Writes the job's checkpoint to out. format NULL: the files as the job's export stage made them; else the worker
 * writes them anew as dha, gqa or expand, in dtype (NULL: the checkpoint's). Nothing existing is overwritten. */
int take_checkpoint(const cJSON *job, const char *out, const char *format, const char *dtype,
                    struct dha_err *e);
/* The same for a model directory. */
int take_model(const char *model, const char *out, const char *format, const char *dtype,
               struct dha_err *e);

#endif
