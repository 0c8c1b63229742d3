/* copydir.h: handing a checkpoint over: a directory appears whole or not at all.
 *
 * Files go to OUT.part-PID, each synced; then that directory is renamed to OUT. If we die before, OUT is not there
 * and the .part directory can be deleted.
 */
#ifndef DHA_CLI_COPYDIR_H
#define DHA_CLI_COPYDIR_H

#include "cli/cli.h"

/* An error unless OUT is absent or an empty directory: nothing that exists is ever overwritten. */
int copydir_check(const char *out, struct dha_err *e);
int copydir(const char *from, const char *out, struct dha_err *e);

#endif
