/* server.h: HTTP/1.1 on one listening socket, inside a libuv loop. Knows nothing about jobs.
 *
 * Life cycle. server_open() takes the listening socket (and owns it from then on); server_close() ends
 * every connection; between them everything happens in the loop's thread.
 *
 * A request lives from its first header to its last reply byte. When its body is complete the server
 * calls ops->handle(), which fills rq->reply and returns SERVER_REPLY, or SERVER_WAIT to be called
 * again by server_wake(), when rq->deadline_ms (uv_now) has passed, or when it is no longer busy. A reply that was made while
 * ops->uncommitted() is true is held back (the connection is suspended) until server_release(): a 2xx
 * to a change leaves only after the commit. The owner of the turn calls server_release() after each
 * commit and server_run() until nothing more is pending.
 *
 * Streams. A handler may give reply.stream instead of a body: the answer then never ends until the client
 * closes, stream->read() says so or the server closes. The server asks read() for bytes only when the
 * client's socket took all that came before, so a slow reader costs one buffer of the HTTP library
 * (16 KiB at most) and holds up nobody; what it has not read yet stays where read() gets it from. server_wake() tells
 * all streams that there may be something new; with many of them they are served in turns of a few
 * dozen, so that no turn of the loop gets long (server_stream.c).
 *
 * Limits. Of the body, the headers, connections and streams, in all and for each user: what is over them
 * is refused with an error that names the limit. Those of connections follow the number of files that the process may
 * open. Over TCP each address has a share, and what is idle gives way when there is no room (server_door.c).
 *
 * libmicrohttpd in a foreign loop has two rules: ask for its timeout after every run (server_run() does),
 * and let commit and release follow every run, the timer's too (the owner does so in a uv_prepare
 * callback, which no path back to a blocking poll can miss).
 */
#ifndef DHA_DAEMON_SERVER_H
#define DHA_DAEMON_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "proto/err.h"

#define SERVER_BODY_MAX     (1024 * 1024)
#define SERVER_HEADERS_MAX  64   /* header fields of a request */
#define SERVER_HEADER_BYTES 8192 /* of their names and values together */

#define SERVER_NOBODY       ((uid_t)-1)

struct server;
struct live;

/* How many may be open at once. A user's share is less than the whole: there is room left for another one (root). So is
 * that of all who come over TCP, and of one address among them. */
struct server_limits {
    unsigned connections, connections_per_user, streams, streams_per_user;
    unsigned tcp_connections, tcp_connections_per_address, tcp_streams, tcp_streams_per_address;
};

/* An answer that goes on. */
struct server_stream {
    void *ctx;
    /* Puts at most max bytes of what is there now into buf and returns how many; 0: nothing new; -1: no more, end
     * the connection. idle: nothing has been sent for SERVER_IDLE_MS, so a sign of life is due.
     * Sets *more if there is something left. Must not take long: what is long goes into the next call. */
    ssize_t (*read)(void *ctx, char *buf, size_t max, bool idle, bool *more);
    void (*close)(void *ctx); /* the last call */
};
#define SERVER_IDLE_MS 15000

struct server_reply {
    int status;
    char *body; /* malloc'ed; the server frees it */
    size_t len;
    const char *content_type;    /* static text */
    struct server_stream stream; /* read != NULL: instead of the body */
    struct {
        const char *name; /* static text */
        char value[1200];
    } header[5];
    int n_headers;
};

struct server_request {
    const char *method, *path;
    bool tcp;       /* it came over TCP: nobody knows from whom, peer_uid is SERVER_NOBODY */
    uid_t peer_uid; /* the handler may set it, once it knows */
    const gid_t *peer_groups; /* n_peer_groups */
    size_t n_peer_groups;
    char *body; /* NUL-terminated; "" when there is none; NULL once the handler has taken it */
    size_t body_len;
    bool too_large;       /* the body was over SERVER_BODY_MAX and is gone */
    bool expired;         /* called again because the deadline passed */
    bool changed_state;   /* set by the handler: the reply depends on the open turn */
    uint64_t deadline_ms; /* for SERVER_WAIT */
    int64_t cursor;       /* for SERVER_WAIT: the handler's own, 0 at first */
    /* Of SERVER_WAIT, too: set by a handler that has something done elsewhere for it. Nobody calls it again before that is
     * cleared and server_wake_ready() said so, neither server_wake() nor the deadline. */
    bool busy;
    void *own; /* the handler's; NULL at first. own_free(own): the request is over */
    void (*own_free)(void *own);
    struct server_reply reply;
    /* the server's own */
    struct MHD_Connection *conn;
    struct server_request *next;
    char *url;
    size_t body_cap, body_seen;
    int phase, refusal;
    struct live *live; /* its stream, once that has begun */
};

enum server_outcome { SERVER_REPLY, SERVER_WAIT };

struct server_ops {
    void *ctx;
    enum server_outcome (*handle)(void *ctx, struct server_request *rq);
    /* Is there a transaction open whose outcome a reply must wait for? */
    bool (*uncommitted)(void *ctx);
};

/* Query argument or header, or NULL. Borrowed until the handler returns. */
const char *server_query(const struct server_request *rq, const char *name);
const char *server_header(const struct server_request *rq, const char *name);
/* Calls fn for each query argument until it returns false. */
void server_query_each(const struct server_request *rq,
                       bool (*fn)(void *ctx, const char *name, const char *value), void *ctx);

struct server *server_open(uv_loop_t *loop, int listen_fd, const struct server_ops *ops,
                           struct dha_err *e);
/* Listens on that TCP socket as well, which it owns from then on. What comes that way has rq->tcp. */
int server_listen_tcp(struct server *s, int fd, struct dha_err *e);
/* How often the request has that header. */
int server_header_count(const struct server_request *rq, const char *name);
/* Lets the replies that were held back go. If commit_error is not NULL the transaction was lost: every
 * held reply becomes that error. */
void server_release(struct server *s, const struct dha_err *commit_error);
/* Calls every waiting request's handler again, and has every stream look for news. */
void server_wake(struct server *s);
/* Calls the handlers of those that are no longer busy. */
void server_wake_ready(struct server *s);
/* One run of the HTTP library. */
void server_run(struct server *s);
/* Requests whose reply is held back. */
size_t server_held(const struct server *s);
struct server_limits server_limits(const struct server *s);
/* How many are open now. */
unsigned server_connections(const struct server *s);
unsigned server_streams(const struct server *s);
void server_close(struct server *s);

/* Adds a header; name is static text. There is room for three. */
void server_reply_header(struct server_request *rq, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Fills rq->reply with the JSON error document. Never fails: without memory it is an empty 500. */
void server_reply_error(struct server_request *rq, const struct dha_err *e);

#endif
