/* sweepdoc.h: a sweep's document (proto/API.md) as cells of method and budget, each the mean over its seeds, and the choice of
 * the best job. Pure: from JSON to numbers.
 */
#ifndef DHA_CLI_SWEEPDOC_H
#define DHA_CLI_SWEEPDOC_H

#include "cli/chart.h"
#include "proto/json.h"

struct sweep_cell {
    char method[40];
    double budget;
    int group;                            /* the method's place among the sweep's methods */
    int jobs, measured;                   /* all; those with a final loss */
    double parent, converted, final_loss; /* means over the seeds; NaN = none yet */
    double spread; /* standard deviation of final_loss over the seeds; NaN below two */
    double kv_bytes, tokens, head_budget; /* means; NaN */
    char state[96];                       /* "done", "2 done, 1 running", "dominated by job 7" */
    char ids[64];                         /* of its jobs, comma-separated */
    bool best;                            /* lowest final loss at its budget */
    bool front;               /* no cell has a loss and a cache as small, and one of them smaller */
    struct plot_series curve; /* loss by tokens, mean over the seeds */
};

struct sweep_cells {
    struct sweep_cell *at; /* by budget, larger first; then in the methods' order */
    int n;
    const char *methods[CHART_GROUPS]; /* the document's strings */
    int n_methods;
    double parent;
};

int sweep_cells_read(const cJSON *sweep, struct sweep_cells *out, struct dha_err *e);
void sweep_cells_finish(struct sweep_cells *c);

/* "3.80" = a loss; "512B", "1.5KiB", "2MB" = bytes a token. */
struct sweep_limit {
    bool bytes;
    double value;
};
int sweep_limit_parse(const char *text, struct sweep_limit *out, struct dha_err *e);
/* Under a loss: the finished job with the fewest KV bytes a token; under bytes: that with the lowest loss. NULL and
 * DHA_E_FAILED with the nearest miss where none qualifies. */
const cJSON *sweep_best(const cJSON *sweep, const struct sweep_limit *limit, struct dha_err *e);

#endif
