/* chores.h: the chores there are (chore.h). Each starts one: 0, or -1 with *e. Paths are absolute. */
#ifndef DHA_DAEMON_CHORES_H
#define DHA_DAEMON_CHORES_H

#include "daemon/checkpoint.h"
#include "daemon/chore.h"

/* A checked copy of state.db. result {file, bytes}. */
int chore_backup(struct daemon *d, const char *file, struct dha_err *e);

/* Plans where something can be repaired. result: fsck_doc(), and once applied repaired, skipped, lost, failed[]. */
int chore_fsck(struct daemon *d, bool deep, struct dha_err *e);

#endif
