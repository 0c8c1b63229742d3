/* api.h: from a request to its answer. api.c has the table of routes; each api_*.c answers some of them.
 *
 * A handler gets the call with its ids taken out of the path and its body parsed, fills call->doc (a tree,
 * without "api": the router adds it) and call->status, and returns API_OK; or fills call->e and
 * returns API_FAIL; or returns API_WAIT (long poll) after setting rq->deadline_ms. The router has checked that the
 * caller may do this (access.h), that only known members are in the body and only known arguments in the query.
 */
#ifndef DHA_DAEMON_API_H
#define DHA_DAEMON_API_H

#include "daemon/daemon.h"

enum api_outcome { API_OK, API_FAIL, API_WAIT };

struct api_call {
    struct daemon *d;
    struct server_request *rq;
    int64_t id;       /* of the path's ID; 0 = none */
    const char *name; /* the path's NAME; NULL = none */
    enum access_role role;
    cJSON *body; /* parsed; an empty object if there was none */
    int status;  /* 200 unless set */
    cJSON *doc;
    struct dha_err e;
    cJSON *errors; /* list for the error document, or NULL */
};

enum server_outcome api_handle(void *ctx, struct server_request *rq);

/* Query arguments. Absent = dflt; not a whole number in [lo, hi] = failure in call->e. */
int api_query_int(struct api_call *c, const char *name, int64_t lo, int64_t hi, int64_t dflt,
                  int64_t *out);
/* The decimal number of a whole string: 0 / -1. */
int api_to_int(const char *text, int64_t *out);
/* call->doc += "next": where the next page begins, null (0) where this one is the last. */
enum api_outcome api_answer_next(struct api_call *c, int64_t next);
/* call->doc = {key: value}. Takes value; NULL value or no memory = API_FAIL (e set if it was not). */
enum api_outcome api_answer(struct api_call *c, const char *key, cJSON *value);

typedef enum api_outcome api_handler(struct api_call *c);
/* api_jobs.c */
api_handler api_job_submit, api_job_list, api_job_get, api_job_explain;
/* api_actions.c */
api_handler api_job_cancel, api_job_hold, api_job_release, api_job_retry, api_job_priority;
/* api_records.c */
api_handler api_job_metrics, api_job_metric_names, api_job_checkpoints, api_job_logs;
/* api_events.c */
api_handler api_events;
/* api_nodes.c */
api_handler api_nodes, api_node_drain, api_node_resume;
/* api_sweeps.c */
api_handler api_sweep_new, api_sweep_list, api_sweep_get;
/* api_admin.c */
api_handler api_admin_fsck, api_admin_backup, api_admin_export, api_admin_import, api_admin_prune,
    api_admin_apply, api_admin_chore;
/* api_tokens.c */
api_handler api_token_new, api_token_list, api_token_revoke;
/* For a request over TCP: is it for us, and whose is it? Sets call->role and the request's peer_uid. */
int api_token_check(struct api_call *c);
/* Over TCP a body is JSON by its Content-Type, which no form of another page can have. */
int api_body_type(struct api_call *c);
/* api_daemon.c */
api_handler api_version, api_alive, api_ready, api_shutdown;
/* api_metrics.c */
api_handler api_prometheus;

/* api_jobs.c: call->doc = {job: JOB} with the job's ETag. */
enum api_outcome api_answer_job(struct api_call *c, int64_t id);
/* Does the request's If-Match (if there is one) name the job as it is now? Else DHA_E_PRECONDITION. */
int api_if_match(struct api_call *c);

/* api_jobs.c, for sweeps: validates a spec document whole; a draft that is good is the caller's to finish. On failure call->e
 * and call->errors are set. */
int api_check_spec(struct api_call *c, const cJSON *doc, struct draft *draft);
/* The request's Idempotency-Key (NULL = none), checked. */
int api_idempotency_key(struct api_call *c, const char **key);
/* A high priority goes before other users' work: an operator may give settings.priority_max at most. 0 / -1 FORBIDDEN. */
int api_may_priority(struct api_call *c, int64_t priority);
struct api_submission {
    int64_t sweep;               /* 0 = none */
    const char *idempotency_key; /* NULL = none */
    bool hold;
    const struct store_dependency *after; /* n_after */
    size_t n_after;
};
/* Submits a good draft; *id, *existed as store_job_submit(). */
int api_submit_draft(struct api_call *c, const struct draft *draft, const struct api_submission *s,
                     int64_t *id, bool *existed);

#endif
