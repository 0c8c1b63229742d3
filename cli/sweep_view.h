/* sweep_view.h: a sweep as a table, as CSV, and as the two charts: loss against the cache and against the tokens. */
#ifndef DHA_CLI_SWEEP_VIEW_H
#define DHA_CLI_SWEEP_VIEW_H

#include "cli/sweepdoc.h"

/* The table, what was left out, what was reused, and the charts as characters. */
int sweep_view(FILE *out, const struct fmt *f, const cJSON *sweep, struct dha_err *e);
/* A line a point that no job was made for, with `who` before it: of a sweep, or of the answer to a dry run. */
void sweep_left_out(FILE *out, const char *who, const cJSON *sweep);
/* One line a job; losses with all their digits. */
void sweep_csv(FILE *out, const cJSON *sweep);
int sweep_svg(const char *file, const cJSON *sweep, struct dha_err *e);
/* One finished job as the answer of `dha sweep best`. */
void sweep_best_view(FILE *out, const cJSON *job);

#endif
