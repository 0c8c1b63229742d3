/* server_impl.h: what server.c and server_stream.c share; nobody else includes it. */
#ifndef DHA_DAEMON_SERVER_IMPL_H
#define DHA_DAEMON_SERVER_IMPL_H

#include "daemon/server.h"

#include <microhttpd.h>

/* One for each uid that has connected; kept until the server closes. */
struct server_user {
    uid_t uid;
    unsigned connections, streams, max_streams;
    struct server_user *next;
};

enum { SERVER_ADDRESS = 16 };

/* One for each connection, as long as it is open. */
struct server_peer {
    struct server_user *user;
    gid_t *groups; /* n_groups: all that the process was in when it connected */
    size_t n_groups;
    int fd;         /* the library's */
    bool over;      /* it was one too many: its requests are refused, and it is ended soon */
    bool nul;       /* the request that it is sending has a NUL in its first line */
    size_t uri_len; /* of its path and query, as they came */
    bool tcp;
    uint64_t useful_ms; /* when it was opened; over TCP, or when its last request was worked on */
    struct server_peer *prev, *next; /* where it is in one of the lists below */
    /* of TCP only (server_tcp.c) */
    bool known;     /* its last request had a valid token */
    bool working;   /* its request is being worked on */
    bool streaming; /* it has an event stream */
    bool answering; /* it is being sent an answer */
    bool pushed;    /* it has to make room: nothing of it is done any more */
    unsigned char address[SERVER_ADDRESS];
};

struct live;

struct server {
    uv_loop_t *loop;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_timer_t timer;          /* the HTTP library's own */
    uv_idle_t at_once;         /* it wants to run again without waiting */
    uint64_t log_next_ms;      /* not before then it is heard in the log again */
    unsigned long long unsaid; /* what it said meanwhile */
    unsigned fruitless;        /* runs of it since it last called us */
    uv_timer_t deadline;       /* the earliest of the waiting requests */
    struct server_ops ops;
    struct server_request *held, *waiting;
    size_t n_held;
    struct server_limits limits;
    struct server_user *users;
    unsigned n_connections;
    struct server_peer *tcp_peers;
    struct server_peer *over; /* of the unix socket, one too many */
    uv_timer_t look_over;
    bool closing;
    int open_handles;
    /* server_stream.c */
    struct live *streams;              /* all of them */
    struct live *due_first, *due_last; /* those that are to be served, in order */
    unsigned n_streams;
    uint64_t round_ms; /* not before then the next round begins */
    uv_timer_t pump, round, beat;
    uv_poll_t tcp;
    uv_timer_t tcp_again; /* no descriptor was left: not before then it accepts again */
    int tcp_fd;
};

/* For people: "uid 12", or that they are who come over TCP. */
const char *server_user_name(const struct server_user *u, char text[32]);
/* NULL where there was no memory for it. */
struct server_peer *server_peer(struct MHD_Connection *conn);
/* Into the list, and out of it. */
void server_peer_push(struct server_peer **list, struct server_peer *p);
void server_peer_take(struct server_peer **list, struct server_peer *p);
/* Close callback of the server's own handles (data = the server), which the last one frees. */
void server_handle_closed(uv_handle_t *h);

/* ---- server_stream.c ---- */

/* Makes its handles, closes them; returns how many. */
int server_stream_init(struct server *s);
void server_stream_close(struct server *s);
/* A handler made a reply: if that is a stream and there are too many, it becomes an error. */
void server_stream_check(struct server *s, struct server_request *rq);
/* The response for rq->reply.stream, which it takes over; NULL = no memory. */
struct MHD_Response *server_stream_start(struct server *s, struct server_request *rq);
/* The request is over; nothing if it has no stream. */
void server_stream_end(struct server_request *rq);
void server_stream_wake(struct server *s);
/* Every stream gets its end (the server is closing). */
void server_stream_stop(struct server *s);

/* ---- server_tcp.c ---- */

/* A connection over TCP was let in. */
void server_tcp_begin(struct server *s, struct server_peer *p, struct MHD_Connection *conn);
/* How many streams the address of that one has. */
unsigned server_tcp_streams(const struct server *s, const struct server_peer *like);
void server_tcp_close(struct server *s);

#endif
