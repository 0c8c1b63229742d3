/* take.h: taking the result of a finished job away: what `dha export` and the end of `dha convert` do. */
#ifndef DHA_CLI_TAKE_H
#define DHA_CLI_TAKE_H

#include "cli/cli.h"

/* Writes the job's checkpoint to out. format NULL: the files as the job's export stage made them; else the worker
 * writes them anew as dha, gqa or expand, in dtype (NULL: the checkpoint's). Nothing existing is overwritten, no link
 * is followed and no file that output.json does not list is copied. */
int take_checkpoint(const cJSON *job, const char *out, const char *format, const char *dtype,
                    struct dha_err *e);
/* Every file that output.json beside the model directory lists is there with its size; no list, nothing to check.
 * A difference is DHA_E_CHECKPOINT and names the file; a link or another user's file there is DHA_E_INPUT. */
int take_verify(const char *model, struct dha_err *e);

#endif
