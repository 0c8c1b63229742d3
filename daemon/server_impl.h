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
    bool nul;       /* the request that it is sending has a NUL in its first line */
    size_t uri_len; /* of its path and query, as they came */
    bool tcp;
    /* of TCP only (server_door.c) */
    uint64_t useful_ms; /* when it was opened, or its last request was worked on */
    struct server_peer *prev, *next;
    bool known;     /* its last request had a valid token */
    bool working;   /* its request is being worked on */
    bool streaming; /* it has an event stream */
    bool answering; /* it is being sent an answer */
    bool pushed;    /* it has to make room: nothing of it is done any more */
    unsigned char address[SERVER_ADDRESS];
};

struct live;
struct server;

/* A listening socket. */
struct server_door {
    struct server *server; /* NULL: there is none */
    int fd;
    void (*let_in)(struct server *s, int fd, const struct sockaddr *from, socklen_t len);
    uv_poll_t poll;
    uv_timer_t again; /* no descriptor was left: not before then it accepts again */
    uv_timer_t later;
};

enum { SERVER_LEAVING = 32 };

/* One that was not let in, and is kept until it has read why. */
struct server_leaving {
    int fd; /* 0: none */
    uint64_t until_ms;
};

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
    bool closing;
    int open_handles;
    /* server_stream.c */
    struct live *streams;              /* all of them */
    struct live *due_first, *due_last; /* those that are to be served, in order */
    unsigned n_streams;
    uint64_t round_ms; /* not before then the next round begins */
    uv_timer_t pump, round, beat;
    /* server_door.c */
    struct server_door unix_door, tcp_door;
    struct server_leaving leaving[SERVER_LEAVING];
    unsigned next_leaving;
};

/* For people: "uid 12", or that they are who come over TCP. */
const char *server_user_name(const struct server_user *u, char text[32]);
/* NULL where there was no memory for it. */
struct server_peer *server_peer(struct MHD_Connection *conn);
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

/* ---- server_door.c ---- */

/* Takes over the listening socket, unless it fails. */
int server_door_open(struct server *s, struct server_door *door, int fd, struct dha_err *e);
/* Lets nobody in any more. */
void server_door_stop(struct server_door *door);
void server_door_close(struct server_door *door);
/* How many connections that user has open. */
unsigned server_user_connections(const struct server *s, uid_t uid);
/* A connection over TCP was let in, and ends. */
void server_tcp_begin(struct server *s, struct server_peer *p, struct MHD_Connection *conn);
void server_tcp_end(struct server *s, struct server_peer *p);
/* How many streams the address of that one has. */
unsigned server_tcp_streams(const struct server *s, const struct server_peer *like);

#endif
