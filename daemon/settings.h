/* settings.h: what dhad may be told in a file (--config FILE), and again while it runs (SIGHUP):
 *   {"slots": 8, "stall_s": 3600, "stall_train_s": 900, "ageing_s": 86400, "log_mib": 64, "preempt": 0,
 *    "group": "gpu", "others": "read", "queue_per_user": 1000,
 *    "tcp": "127.0.0.1:8080", "tcp_hosts": ["dha.example.org:443"]}
 * and the nodes, if there are others than this host (hosts.h). Every member may be left out; one that is not known is
 * an error. An option of the command line goes before the file.
 */
#ifndef DHA_DAEMON_SETTINGS_H
#define DHA_DAEMON_SETTINGS_H

#include "daemon/hosts.h"
#include "proto/json.h"
#include "proto/spec.h"

struct settings {
    long slots; /* cores that stages may use on this host; default: all that are online */
    long
        stall_s; /* seconds without progress that end an attempt at the latest; 0 = never; default 3600 */
    long stall_min_s; /* and at the earliest, once its pace is known (stall.h); default 300 */
    long stall_kind_s
        [STAGE_KINDS]; /* "stall_train_s": stall_s for one kind of stage; default: stall_s */
    long log_mib;      /* of disk for what the ranks of an attempt print; default 64 */
    long
        preempt; /* 1: running stages give way to those of higher priority (preempt.h); default 0 */
    long metrics_days; /* series of jobs that ended longer ago are thinned; 0 = never; default 30 */
    long backup_hours; /* between the daemon's own copies of state.db; 0 = none; default 1 */
    long backup_keep;  /* so many of them stay; default 24 */
    long ageing_s;     /* seconds of waiting that count as one priority; 0 = no ageing; default 0 */
    long
        pin; /* 1: ranks stay on the cores of their slots; default 1 where the file names nodes, 0 for this host alone,
                 whose cores others may be using */
    long priority_max;    /* what operators may give their jobs at most; default 0 */
    long queue_per_user;  /* jobs of one user that have not ended; 0 = any number; default 100000 */
    long allow_root_jobs; /* may jobs run as root? default (-1): not where a group submits */
    /* Texts; "" = nothing said. */
    char group[64];  /* whose members may submit: a name or a gid; default: nobody */
    char others[16]; /* what everybody else on this host may do: "none" (default) or "read" */
    char tcp
        [64]; /* ADDRESS:PORT to listen on as well (tcp.h); default: none. Read at the start only */
    char tcp_hosts[1024]; /* names by which clients reach it, blank-separated (in a file: a list) */
};

struct settings settings_none(void); /* nothing said: -1 and "" everywhere */

/* How long a stage of this kind may stand still at most (0 = for ever), and the name of the setting that says so. */
enum { SETTING_NAME = 24 };
int64_t settings_stall(const struct settings *s, enum stage_kind kind, char *name, size_t size);

/* A value by its option's name ("slots", "stall", "log-mib", "group", ...): 0, or -1 if it is none of its values. */
int settings_option(struct settings *s, const char *option, const char *value);
/* What the document says into *s, the rest stays. DHA_E_INPUT names the member; *s is then untouched. */
int settings_parse(const cJSON *doc, struct settings *s, struct dha_err *e);
/* `said`, then the file (NULL = none), then the defaults; online: cores there are. *hosts: what the file says of nodes;
 * hosts_finish() it. */
int settings_settle(const struct settings *said, const char *file, long online,
                    struct settings *out, struct hosts *hosts, struct dha_err *e);

#endif
