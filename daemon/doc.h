/* doc.h: the API's documents (proto/API.md) out of the store. Each returns a tree, or NULL with e set. */
#ifndef DHA_DAEMON_DOC_H
#define DHA_DAEMON_DOC_H

#include "daemon/daemon.h"

cJSON *doc_job(struct daemon *d, int64_t id, struct dha_err *e);
/* A tag that changes with every change of a job's document (doc_job()), except what moves by itself all the time:
 * the progress of its stages, the time it has taken so far, and trouble of the daemon. *whole: the text of the document, unless NULL; free() it also after -1. 0 / -1 with e set. */
#define DOC_TAG_SIZE 40
int doc_job_tag(const cJSON *job, char tag[DOC_TAG_SIZE], char **whole, struct dha_err *e);
/* JOB-SHORT. The job is borrowed. */
cJSON *doc_job_short(struct daemon *d, const struct store_job *j, struct dha_err *e);
/* The result of a job (JSON null until something is known). */
cJSON *doc_result(struct daemon *d, const struct store_job *j, const struct store_stages *l,
                  struct dha_err *e);
cJSON *doc_node(struct daemon *d, const struct store_node *n, const struct store_slot *slots,
                size_t n_slots, struct dha_err *e);
cJSON *doc_event(const struct store_event *ev, struct dha_err *e);
cJSON *doc_sweep(struct daemon *d, const struct store_sweep *w, bool with_results,
                 struct dha_err *e);

/* Small builders shared by the documents. All return 0 / -1 (out of memory). */
int doc_put_error(cJSON *obj, const char *key, const struct store_error *err); /* null: no error */
/* "trouble": why changes cannot be saved at present (turn_trouble()), or null. */
int doc_put_trouble(cJSON *obj, const struct daemon *d);
/* "notice": what everybody should know of this state directory, or null. */
int doc_put_notice(cJSON *obj, const struct daemon *d);
int doc_put_time(cJSON *obj, const char *key, int64_t us);       /* decimal string; 0 = null */
int doc_put_text(cJSON *obj, const char *key, const char *text); /* NULL = null */
int doc_put_null(cJSON *obj, const char *key);
/* NULL + e "out of memory", deleting j. */
cJSON *doc_oom(cJSON *j, struct dha_err *e);

#endif
