/* rank_log.h: what a rank of a stage prints goes into a file of its own, ATTEMPT_DIR/rank-N.log, not through mpirun: who said
 * what is then known, ranks do not wait for a reader, and on other nodes the shared file system carries it. What comes
 * before (mpirun, MPI_Init, a spec that cannot be read) stays in the stderr.log of the attempt.
 */
#ifndef DHA_WORKER_RANK_LOG_H
#define DHA_WORKER_RANK_LOG_H

#include "proto/err.h"

/* stdout and stderr of this rank are the file from now on, line by line. *journal: for rank 0 a descriptor of what stdout
 * was, which is the journal; for the others -1. */
int rank_log_open(const char *dir, int rank, int *journal, struct dha_err *e);

#endif
