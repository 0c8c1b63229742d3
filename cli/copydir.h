/* copydir.h: handing a checkpoint over: a directory appears whole or not at all.
 *
 * Files go to OUT.part-PID, each synced; then that directory is renamed to OUT. If we die before, OUT is not there
 * and the .part directory can be deleted.
 */
#ifndef DHA_CLI_COPYDIR_H
#define DHA_CLI_COPYDIR_H

#include "cli/cli.h"
#include "cli/result_dir.h"

/* An error unless OUT is absent, where it can be made, or an empty directory: nothing that exists is ever overwritten. */
int copydir_check(const char *out, struct dha_err *e);
/* Copies the checkpoint: of its files those that `files`, output.json's, names; NULL: all. */
int copydir(const struct result_dir *from, const cJSON *files, const char *out, struct dha_err *e);
/* Removes a directory with what is in it, as far as that can be. */
void copydir_remove(const char *path);

#endif
