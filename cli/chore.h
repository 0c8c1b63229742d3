/* chore.h: what the daemon does for an administrator (`dha admin`) and takes long: started, waited for, shown. */
#ifndef DHA_CLI_CHORE_H
#define DHA_CLI_CHORE_H

#include "cli/client.h"

/* POST path, then waits until the chore rests, with its progress on stderr where that is a terminal. *out: its document
 * (proto/API.md), planned or done; a chore that failed is -1 with its error. body NULL = {}. */
int chore_run(struct client *c, const char *path, const cJSON *body, cJSON **out,
              struct dha_err *e);
/* The same for going on with one that is planned. */
int chore_apply(struct client *c, const cJSON *chore, cJSON **out, struct dha_err *e);
bool chore_planned(const cJSON *chore);

#endif
