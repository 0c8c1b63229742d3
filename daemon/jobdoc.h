/* jobdoc.h: a job that has ended as a directory that another daemon can take in (`dha admin export`, `import`).
 *
 *   DIR/manifest.json    {format: "dha-export-1", files: [{path, bytes, sha256}]}: written last, names every other file
 *   DIR/job.json         {format: "dha-job-1", job: {...}, stages: [{..., attempts, evals, head_budgets, checkpoints}]}
 *   DIR/metrics.ndjson   a point a line: {stage, attempt, name, step, tokens, value}
 *   DIR/events.ndjson    the job's events, as the API gives them
 *   DIR/files/KIND/out/  what the stage left, checkpoints included; KIND/aN/: its attempts' journals and logs
 *
 * The rows are those of struct store_import, their names those of its members; paths are relative to DIR/files. A stage
 * that the job had taken from another one is written with all that belongs to the other one.
 */
#ifndef DHA_DAEMON_JOBDOC_H
#define DHA_DAEMON_JOBDOC_H

#include <stdio.h>

#include "proto/json.h"
#include "store/store.h"

#define JOBDOC_MANIFEST "dha-export-1"

/* Directories that belong to the job. */
struct jobdoc_dirs {
    struct jobdoc_dir {
        char *from, *to; /* absolute; relative to the job's directory */
    } * at;
    size_t n;
};
void jobdoc_dirs_finish(struct jobdoc_dirs *d);

/* All that s knows about a job that has ended, else DHA_E_CONFLICT. */
int jobdoc_load(struct store *s, int64_t job, struct store_import *out, struct jobdoc_dirs *dirs,
                struct dha_err *e);

/* job.json, without the points. NULL = no memory. */
cJSON *jobdoc_to_json(const struct store_import *im);
/* The other way; strict, for bytes that we did not write. *out is to be finished on failure, too. */
int jobdoc_parse(const cJSON *doc, struct store_import *out, struct dha_err *e);
/* metrics.ndjson: 0 / -1 with errno or *e. */
int jobdoc_write_points(const struct store_import *im, FILE *f);
int jobdoc_read_points(FILE *f, struct store_import *im, struct dha_err *e);

#endif
