/* draft.h: a submission before the store sees it. Reading its body, validating the spec, looking at the files it names,
 * the keys of its stages: more than half of what it costs, and the files may lie on a disk that is slow to answer, or
 * never does. So it is done in a thread, while the loop commits what was ready before, and also for one that comes alone.
 * Where files do not answer another thread takes its place, for the submissions of other users (patience.h bounds their number).
 *
 * struct draft is what can be found out without the daemon's own state; draft_check() and draft_derive() may run in any thread.
 * The rest is for the loop: the handler calls drafts_begin() and returns API_WAIT; it is called again when the draft is
 * ready, with rq->own still that draft.
 */
#ifndef DHA_DAEMON_DRAFT_H
#define DHA_DAEMON_DRAFT_H

#include <sys/types.h>
#include <uv.h>

#include "daemon/stagekey.h"

struct server_request;
struct daemon;

struct draft {
    cJSON *body; /* of the request; NULL: body_e says why, or why it was not read */
    struct dha_err body_e;
    /* e.code OK: the spec is valid, its files are there and all that follows is set. errors: those of the spec, for the
     * error document, or NULL. */
    struct dha_err e;
    cJSON *errors;
    struct job_spec spec;
    struct stagekey keys[STAGE_KINDS]; /* as that user's (stages_keys()) */
    int n_keys;
    char *text, *node_names; /* what the store keeps of the spec */
    /* draft.c's own */
    struct server_request *rq; /* who waits for it; NULL = nobody any more */
    struct drafts *all;
    bool reading; /* it is wanted, or ready */
    char *raw;    /* the body as it came */
    size_t raw_len;
    int64_t owner;
    struct draft *next;
};

/* Validates doc with the files it names, as that user: fills e, errors and, if they say nothing, the spec. */
void draft_check(struct draft *d, const cJSON *doc, int64_t owner);
/* Keys and texts of a spec that is valid. Sets e. */
void draft_derive(struct draft *d, int64_t owner);
void draft_finish(struct draft *d);
/* Both for the loop, which waits for the files as long as patience.h has it: what hangs is e.code TRANSIENT. */
void draft_now(struct draft *d, const cJSON *doc, int64_t owner);
/* [{path, message, hint}], as far as memory goes. */
cJSON *draft_errors(const struct spec_errors *errs);

/* ---- the loop's ---- */

struct draft_list {
    struct draft *first, **end;
};

struct drafts {
    uv_mutex_t lock; /* over all up to stopping, and what readers are at */
    uv_cond_t some, gone;
    struct draft_list wanted, ready,
        spent;             /* spent: to be freed by the thread, which can use the memory */
    size_t ahead;          /* bytes of the bodies that are ready */
    struct reader *reader; /* one: a second would take the loop's core */
    struct reader *aside;  /* those whose files do not answer: each another user's */
    bool stopping;
    uv_async_t some_ready;
    uv_timer_t look; /* while there are any: are they stuck? */
    bool open;
    size_t n; /* in the lists, or being read */
};

int drafts_init(struct daemon *d, struct dha_err *e);
/* What nobody waits for any more is not read. False: a thread waits for files that do not answer, and still uses the daemon's
 * memory. */
bool drafts_stop(struct daemon *d);
void drafts_finish(struct daemon *d); /* where it was true */
/* Takes the request's body and has it read; rq->own becomes the draft. 0 / -1 NO_MEMORY, or TRANSIENT where a thread waits for
 * files of that user that do not answer, or of others and there can be no more threads. */
int drafts_begin(struct daemon *d, struct server_request *rq, struct dha_err *e);

#endif
