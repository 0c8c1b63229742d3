/* plan.h: the queue and the slots as the scheduler sees them: between plan.c, which acts on the decisions, and
 * explain.c, which puts them into words. */
#ifndef DHA_DAEMON_PLAN_H
#define DHA_DAEMON_PLAN_H

#include "daemon/daemon.h"
#include "daemon/sched.h"

/* For how long a stage may hold its slots: its walltime, and the grace that its stop may take. 0 = nobody knows. */
int64_t plan_lease_us(int64_t walltime_s);

/* Ids of the nodes that one stage may use; what sched_stage.only borrows. */
struct plan_only {
    struct plan_only *next;
    size_t n;
    int64_t id[];
};

struct snapshot {
    struct store_candidate *cand;
    struct store_node *nodes; /* n_nodes */
    size_t n_nodes;
    struct store_node **by_name; /* of nodes; NULL until a stage names some */
    struct plan_only *only;
    struct sched_stage *stages; /* n; a preview has one more than cand */
    size_t n;                   /* of stages */
    size_t n_cand;
    struct sched_slot *slots;
    size_t n_slots, n_free;
    struct sched_result result;
};

/* Slots, and with them the stages that are ready. 0 / -1; snapshot_finish() in any case. */
int snapshot_take(struct daemon *d, struct snapshot *s, struct dha_err *e);
/* Slots only. */
int snapshot_slots(struct daemon *d, struct snapshot *s, struct dha_err *e);
int snapshot_decide(struct daemon *d, struct snapshot *s, int64_t now, struct dha_err *e);
void snapshot_finish(struct snapshot *s);
/* The stage of a decision, as it was asked about. */
const struct sched_stage *snapshot_stage(const struct snapshot *s, int64_t stage);
/* NULL if it is not of the queue (a preview's). */
const struct store_candidate *snapshot_candidate(const struct snapshot *s, int64_t stage);

/* A running job of lower priority than the stage on slots that it could use; *job = 0: there is none. */
int plan_lower(struct daemon *d, const struct snapshot *s, const struct sched_stage *st,
               int64_t *job, struct dha_err *e);
/* A job that was told to give way to this one and still runs; 0 = none. */
int64_t plan_giving_way(const struct daemon *d, int64_t job);

/* Why the nodes that there are can never hold the gang: two sentences, of at most 320 bytes. */
void explain_never(const struct snapshot *s, const struct sched_decision *dec, const char *what,
                   char *reason, char *unblock);
/* What a decision on a stage of kind `what` of a job (0 = not submitted yet) means. */
int explain_decision(struct daemon *d, const struct snapshot *s, const struct sched_decision *dec,
                     const char *what, int64_t job, struct plan_explanation *x, struct dha_err *e);

#endif
