/* upkeep.h: what the daemon does for its state directory without being asked, as chores of its own (chore.h):
 *
 *   backups   every backup_hours, if anything happened since the last, state.db is copied to
 *             STATE/backup/auto-TIME-SEQ.db (store/backup.c: whole and checked, or not there); the newest backup_keep stay
 *   metrics   series of jobs that ended more than metrics_days ago are thinned (store_metric_thin()), looked for once
 *             an hour; the first, last, lowest and highest of each part stay
 *
 * When the last copy was made is in its name, so a restart changes nothing. A failure is an event "upkeep.NAME", in the
 * notice that clients show until the next success, and counted in /metrics.
 */
#ifndef DHA_DAEMON_UPKEEP_H
#define DHA_DAEMON_UPKEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/err.h"

struct daemon;
struct chore;

struct upkeep {
    int64_t copied_us, copied_seq; /* of the newest copy; 0 = there is none */
    int64_t copies, failures;      /* by this daemon */
    struct dha_err failed;         /* of the last copy; code OK = none */
    uint64_t copy_again_ms;        /* after a failure: not before */
    uint64_t thin_ms;              /* when to look for old series again */
};

void upkeep_start(struct daemon *d);
/* A chore of the daemon's own came to rest. */
void upkeep_ended(struct daemon *d, const struct chore *c);

#endif
