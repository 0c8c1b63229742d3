/* output_list.h: what a finished stage left, so that whoever takes it can tell damage: OUT/output.json,
 *   {"format": "dha-output-1", "files": [{"path": "model/config.json", "bytes": "812", "xxh3_128": "..."}]}
 * The daemon compares the sizes before it reuses a stage; the digests are compared by who reads the files.
 */
#ifndef DHA_WORKER_OUTPUT_LIST_H
#define DHA_WORKER_OUTPUT_LIST_H

#include "proto/err.h"

/* Lists the file, or the files of the directory, `name` below out. */
int output_list_write(const char *out, const char *name, struct dha_err *e);
/* Every file there, of its size and digest? DHA_E_CHECKPOINT names the first that is not. 0 where there is no list, or
 * one without digests (an older version's). */
int output_list_verify(const char *out, struct dha_err *e);
/* Says in the list that the output is damaged: the daemon then has its stage run again. */
int output_list_condemn(const char *out, const char *why, struct dha_err *e);

#endif
