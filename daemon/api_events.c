/* api_events.c: the event log in three forms. JSON: what there is, or (long poll) the first that comes. SSE and NDJSON: streams,
 * which end only when the client closes. All three read from the feed; a stream holds a cursor and a filter, nothing else. */
#include "daemon/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/feed.h"
#include "daemon/log.h"

enum { WAIT_MAX_S = 60, EVENTS_MAX = 10000 };
/* Events that one call looks at: of a filtered log of millions, a turn of the loop reads a few milliseconds' worth. */
enum { LOOK_STREAM = 1024, LOOK_POLL = 20000 };

static int read_filter(struct api_call *c, struct feed_filter *f)
{
    const char *type = server_query(c->rq, "type");
    if (api_query_int(c, "job", 1, INT64_MAX, 0, &f->job) != 0) {
        return -1;
    }
    if (type && (strlen(type) >= sizeof f->type ||
                 strspn(type, "abcdefghijklmnopqrstuvwxyz_.") != strlen(type))) {
        dha_fail(&c->e, DHA_E_USAGE, "type=%.40s is not the beginning of an event's type", type);
        return dha_err_hint(&c->e, "small letters, \"_\" and \".\", like job. or stage.state");
    }
    snprintf(f->type, sizeof f->type, "%s", type ? type : "");
    return 0;
}

/* ---- streams ---- */

enum form { JSON, SSE, NDJSON };

struct reader {
    struct feed *feed;
    struct feed_filter filter;
    enum form form;
    int64_t cursor; /* all up to here is with the client or did not pass */
    int64_t part;   /* of this event the first `sent` bytes are, too; 0 = none */
    size_t sent;
};

/* Copies what of src (n bytes that stand at `at` in the whole) lies beyond *from, as far as it fits. */
static size_t copy_from(char *buf, size_t max, const char *src, size_t n, size_t at, size_t *from)
{
    if (*from >= at + n) {
        return 0;
    }
    size_t skip = *from - at, m = n - skip < max ? n - skip : max;
    memcpy(buf, src + skip, m);
    *from += m;
    return m;
}

/* One event in the reader's form, or the rest of one: returns the bytes put into buf; *whole: that was all of it. */
static size_t put_event(struct reader *r, const struct feed_event *ev, char *buf, size_t max,
                        bool *whole)
{
    char head[96] = "";
    const char *tail = r->form == SSE ? "\n\n" : "\n";
    if (r->form == SSE) {
        snprintf(head, sizeof head, "id: %lld\nevent: %s\ndata: ", (long long)ev->seq, ev->type);
    }
    size_t n_head = strlen(head), n_tail = strlen(tail), n = 0;
    n += copy_from(buf + n, max - n, head, n_head, 0, &r->sent);
    if (r->sent >= n_head) {
        n += copy_from(buf + n, max - n, ev->text, ev->len, n_head, &r->sent);
    }
    if (r->sent >= n_head + ev->len) {
        n += copy_from(buf + n, max - n, tail, n_tail, n_head + ev->len, &r->sent);
    }
    *whole = r->sent == n_head + ev->len + n_tail;
    return n;
}

static ssize_t read_stream(void *ctx, char *buf, size_t max, bool idle, bool *more)
{
    struct reader *r = ctx;
    struct feed_event ev;
    struct dha_err e = {0};
    enum feed_found found;
    size_t n = 0;
    int budget = LOOK_STREAM;
    while ((found = feed_next(r->feed, &r->filter, &r->cursor, &budget, &ev, &e)) == FEED_EVENT) {
        if (r->part && r->part != ev.seq) {
            return -1; /* the log has changed under a half of an event */
        }
        size_t begin = n;
        bool whole;
        n += put_event(r, &ev, buf + n, max - n, &whole);
        if (!whole) {
            if (begin == 0) { /* longer than the buffer: the rest next time */
                r->part = ev.seq;
            } else {
                n = begin;
                r->sent = 0;
            }
            *more = true;
            return (ssize_t)n;
        }
        r->cursor = ev.seq;
        r->part = 0;
        r->sent = 0;
    }
    if (found == FEED_ERROR) {
        log_fail("an event stream ends", &e);
        return -1;
    }
    *more = found == FEED_PAUSE;
    if (n == 0 && idle) {
        /* SSE: a comment. NDJSON: an empty line, which readers of lines pass over. */
        const char *beat = r->form == SSE ? ": keep-alive\n\n" : "\n";
        n = strlen(beat);
        memcpy(buf, beat, n);
    }
    return (ssize_t)n;
}

static enum api_outcome start_stream(struct api_call *c, enum form form, int64_t after,
                                     const struct feed_filter *filter)
{
    if (server_query(c->rq, "wait") || server_query(c->rq, "limit")) {
        dha_fail(&c->e, DHA_E_USAGE, "a stream of events has no end: wait and limit are for JSON");
        dha_err_hint(&c->e, "leave them out, or ask with Accept: application/json");
        return API_FAIL;
    }
    struct reader *r = malloc(sizeof *r);
    if (!r) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        return API_FAIL;
    }
    *r = (struct reader){.feed = c->d->feed, .filter = *filter, .form = form, .cursor = after};
    struct server_reply *rp = &c->rq->reply;
    rp->status = 200;
    rp->content_type = form == SSE ? "text/event-stream" : "application/x-ndjson";
    rp->stream = (struct server_stream){.ctx = r, .read = read_stream, .close = free};
    server_reply_header(c->rq, "Cache-Control", "no-store");
    return API_OK;
}

/* ---- JSON ---- */

struct page {
    char *text; /* {"events":[...],"last":"N","api":1} */
    size_t n, cap;
};

static int append(struct page *p, const char *text, size_t n, struct dha_err *e)
{
    if (p->n + n + 1 > p->cap) {
        size_t cap = 2 * (p->n + n) + 256;
        char *more = realloc(p->text, cap);
        if (!more) {
            return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        }
        p->text = more;
        p->cap = cap;
    }
    memcpy(p->text + p->n, text, n);
    p->n += n;
    p->text[p->n] = '\0';
    return 0;
}

/* The next events after *cursor, at most `limit`, which *n counts. */
static int collect(struct api_call *c, const struct feed_filter *filter, int64_t *cursor,
                   int64_t limit, struct page *p, int64_t *n)
{
    struct feed_event ev;
    enum feed_found found = FEED_END;
    int budget = LOOK_POLL;
    *n = 0;
    int rc = append(p, "{\"events\":[", 11, &c->e);
    while (rc == 0 && *n < limit &&
           (found = feed_next(c->d->feed, filter, cursor, &budget, &ev, &c->e)) == FEED_EVENT) {
        rc = (*n)++ ? append(p, ",", 1, &c->e) : 0;
        rc = rc == 0 ? append(p, ev.text, ev.len, &c->e) : rc;
        *cursor = ev.seq;
    }
    return rc == 0 && found == FEED_ERROR ? -1 : rc;
}

static enum api_outcome answer_page(struct api_call *c, const struct feed_filter *filter,
                                    int64_t after, int64_t limit, int64_t wait)
{
    struct server_request *rq = c->rq;
    struct page p = {0};
    int64_t n, cursor = rq->cursor > after ? rq->cursor : after;
    char tail[64];
    if (collect(c, filter, &cursor, limit, &p, &n) != 0) {
        free(p.text);
        return API_FAIL;
    }
    rq->cursor = cursor;
    if (n == 0 && wait > 0 && !rq->expired && cursor >= store_event_last(c->d->store)) {
        if (rq->deadline_ms == 0) {
            rq->deadline_ms = uv_now(&c->d->loop) + (uint64_t)wait * 1000;
        }
        free(p.text);
        return API_WAIT;
    }
    int m = snprintf(tail, sizeof tail, "],\"last\":\"%lld\",\"api\":1}", (long long)cursor);
    if (append(&p, tail, (size_t)m, &c->e) != 0) {
        free(p.text);
        return API_FAIL;
    }
    rq->reply.status = 200;
    rq->reply.content_type = "application/json";
    rq->reply.body = p.text;
    rq->reply.len = p.n;
    return API_OK;
}

static enum form form_of(const struct api_call *c)
{
    const char *accept = server_header(c->rq, "Accept");
    return !accept                                  ? JSON
           : strstr(accept, "text/event-stream")    ? SSE
           : strstr(accept, "application/x-ndjson") ? NDJSON
                                                    : JSON;
}

enum api_outcome api_events(struct api_call *c)
{
    struct feed_filter filter = {0};
    int64_t after, limit, wait;
    enum form form = form_of(c);
    const char *last_id = server_header(c->rq, "Last-Event-ID");
    if (api_query_int(c, "after", 0, INT64_MAX, 0, &after) != 0 ||
        api_query_int(c, "limit", 1, EVENTS_MAX, 1000, &limit) != 0 ||
        api_query_int(c, "wait", 0, WAIT_MAX_S, 0, &wait) != 0 || read_filter(c, &filter) != 0) {
        return API_FAIL;
    }
    /* A browser that connects again sends both: the URL's after, and where it really was. */
    if (last_id && (api_to_int(last_id, &after) != 0 || after < 0)) {
        dha_fail(&c->e, DHA_E_USAGE, "Last-Event-ID \"%.40s\" is not the number of an event",
                 last_id);
        dha_err_hint(&c->e, "send the id of the last event that came, or leave it out");
        return API_FAIL;
    }
    return form == JSON ? answer_page(c, &filter, after, limit, wait)
                        : start_stream(c, form, after, &filter);
}
