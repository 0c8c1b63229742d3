/* server.c: see server.h. */
#include "daemon/server_impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"
#include "proto/json.h"
#include "proto/text.h"

/* A client that keeps sending beyond this is cut off instead of being read out. */
#define DISCARD_MAX ((size_t)64 * SERVER_BODY_MAX)

/* Connections: enough for a thousand readers of events. Of the files that the process may open so many are for
 * everything else (the store, journals, pidfds, shims' sockets). */
enum { CONNECTIONS_MAX = 1400, OTHER_FILES = 256 };
/* The answers that are left, and the last words of streams, get so many runs of the library to go out. */
enum { CLOSING_RUNS = 10 };
/* All who come over TCP share this part of what one user may have; one address has this part of that. */
enum { TCP_SHARE = 8, ADDRESS_SHARE = 2 };
/* The library (0.9.75) wants to run on and on for a client that sent the beginning of a chunk, and no end of its line. After
 * so many runs that led to nothing it has to wait a little between them. */
enum { FRUITLESS_RUNS = 1000, FRUITLESS_MS = 20 };
enum { LOG_EVERY_MS = 60000 };

enum phase { READING, HELD, WAITING, READY, SENT };
enum refusal { WELCOME, TOO_MANY_HEADERS, TOO_LONG_HEADERS, PUSHED_OUT, HAS_NUL, TWO_LENGTHS };

const char *server_query(const struct server_request *rq, const char *name)
{
    return MHD_lookup_connection_value(rq->conn, MHD_GET_ARGUMENT_KIND, name);
}

const char *server_header(const struct server_request *rq, const char *name)
{
    return MHD_lookup_connection_value(rq->conn, MHD_HEADER_KIND, name);
}

struct count {
    const char *name;
    int n;
};

static enum MHD_Result count_header(void *cls, enum MHD_ValueKind kind, const char *key,
                                    const char *value)
{
    (void)kind;
    (void)value;
    struct count *c = cls;
    c->n += strcasecmp(key, c->name) == 0;
    return MHD_YES;
}

int server_header_count(const struct server_request *rq, const char *name)
{
    struct count c = {.name = name};
    MHD_get_connection_values(rq->conn, MHD_HEADER_KIND, count_header, &c);
    return c.n;
}

struct each {
    bool (*fn)(void *ctx, const char *name, const char *value);
    void *ctx;
};

static enum MHD_Result each_argument(void *cls, enum MHD_ValueKind kind, const char *key,
                                     const char *value)
{
    (void)kind;
    struct each *it = cls;
    return it->fn(it->ctx, key, value ? value : "") ? MHD_YES : MHD_NO;
}

void server_query_each(const struct server_request *rq,
                       bool (*fn)(void *ctx, const char *name, const char *value), void *ctx)
{
    struct each it = {fn, ctx};
    MHD_get_connection_values(rq->conn, MHD_GET_ARGUMENT_KIND, each_argument, &it);
}

static void drop_reply(struct server_request *rq)
{
    if (rq->reply.stream.read) {
        rq->reply.stream.close(rq->reply.stream.ctx);
    }
    free(rq->reply.body);
}

void server_reply_error(struct server_request *rq, const struct dha_err *error)
{
    struct dha_err copy = *error, *e = &copy;
    drop_reply(rq);
    /* What a client sent may be quoted, with bytes that are no characters or cut in the middle of one. */
    text_clean_utf8(e->msg);
    text_clean_utf8(e->hint);
    text_clean_utf8(e->path);
    rq->reply = (struct server_reply){.status = dha_code_http(e->code),
                                      .content_type = "application/json"};
    cJSON *doc = cJSON_CreateObject(), *err = cJSON_CreateObject();
    if (doc && err && json_put_int(doc, "api", 1) == 0 &&
        json_put_str(err, "code", dha_code_name(e->code)) == 0 &&
        json_put_str(err, "message", e->msg) == 0 && json_put_str(err, "hint", e->hint) == 0 &&
        json_put_str(err, "path", e->path) == 0) {
        int put = json_put(doc, "error", err);
        err = NULL;
        rq->reply.body = put == 0 ? json_text(doc) : NULL;
    }
    rq->reply.len = rq->reply.body ? strlen(rq->reply.body) : 0;
    cJSON_Delete(err);
    cJSON_Delete(doc);
}

void server_reply_header(struct server_request *rq, const char *name, const char *fmt, ...)
{
    struct server_reply *rp = &rq->reply;
    if ((size_t)rp->n_headers == sizeof rp->header / sizeof *rp->header) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    rp->header[rp->n_headers].name = name;
    vsnprintf(rp->header[rp->n_headers].value, sizeof rp->header[0].value, fmt, ap);
    va_end(ap);
    rp->n_headers++;
}

/* ---- connections and their users ---- */

static struct server_user *user_of(struct server *s, uid_t uid)
{
    struct server_user *u = s->users;
    while (u && u->uid != uid) {
        u = u->next;
    }
    if (!u && (u = calloc(1, sizeof *u))) {
        u->uid = uid; /* SERVER_NOBODY: all who come over TCP together */
        u->max_streams = uid == SERVER_NOBODY ? s->limits.tcp_streams : s->limits.streams_per_user;
        u->next = s->users;
        s->users = u;
    }
    return u;
}

unsigned server_user_connections(const struct server *s, uid_t uid)
{
    const struct server_user *u = s->users;
    while (u && u->uid != uid) {
        u = u->next;
    }
    return u ? u->connections : 0;
}

/* The socket's other end: its group and all supplementary ones. 0 / -1. */
static int read_groups(int fd, gid_t own, struct server_peer *p)
{
    socklen_t len = 0;
    int rc = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len);
    if (rc != 0 && errno != ERANGE) {
        return -1;
    }
    p->groups = calloc(len / sizeof *p->groups + 1, sizeof *p->groups);
    if (!p->groups || (len && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, p->groups, &len) != 0)) {
        return -1;
    }
    p->n_groups = len / sizeof *p->groups;
    p->groups[p->n_groups++] = own;
    return 0;
}

static void peer_free(struct server_peer *p)
{
    if (p) {
        free(p->groups);
    }
    free(p);
}

static struct server_peer *peer_new(struct server *s, struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred cred = {.uid = SERVER_NOBODY};
    socklen_t len = sizeof cred;
    int domain = 0;
    socklen_t domain_len = sizeof domain;
    if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_len) != 0 ||
        (domain == AF_UNIX &&
         getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0)) {
        return NULL;
    }
    struct server_peer *p = calloc(1, sizeof *p);
    if (!p || (domain == AF_UNIX && read_groups(info->connect_fd, cred.gid, p) != 0) ||
        !(p->user = user_of(s, cred.uid))) {
        peer_free(p);
        return NULL;
    }
    p->fd = info->connect_fd;
    p->tcp = domain != AF_UNIX;
    p->user->connections++; /* there was room for it, or it would not be here */
    if (p->tcp) {
        server_tcp_begin(s, p, conn);
    }
    return p;
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct server *s = cls;
    struct server_peer *p = *context;
    s->fruitless = 0;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        s->n_connections++;
        *context = peer_new(s, conn);
        return;
    }
    s->n_connections--;
    if (p) {
        p->user->connections--;
        if (p->tcp) {
            server_tcp_end(s, p);
        }
        peer_free(p);
    }
    *context = NULL;
}

struct server_peer *server_peer(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* Before the library decodes it: what it hands us then would end at a NUL, and `/v1/jobs/1%00zzz` be job 1. */
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
    struct server_peer *p = server_peer(conn);
    (void)cls;
    if (p) {
        p->nul = strstr(uri, "%00") != NULL;
        p->uri_len = strlen(uri);
    }
    return NULL; /* the request is made when its headers are there */
}

/* A NUL that is not encoded ends the strings that the library (0.9.75; 1.0 refuses it) hands us: that there was more shows
 * in where they lie, beside each other as they came, with a NUL in place of each of the two spaces. */
static bool is_cut(const struct server_peer *p, const char *method, const char *url,
                   const char *version)
{
    return url != method + strlen(method) + 1 || version != url + p->uri_len + 1;
}

struct header_size {
    size_t bytes;
    unsigned lengths, chunked; /* how many there are that say how long the body is */
};

static bool is_named(const char *key, size_t len, const char *name)
{
    return len == strlen(name) && strncasecmp(key, name, len) == 0;
}

static enum MHD_Result add_header_size(void *cls, enum MHD_ValueKind kind, const char *key,
                                       size_t key_len, const char *value, size_t value_len)
{
    (void)kind;
    (void)value;
    struct header_size *h = cls;
    h->bytes += key_len + value_len;
    h->lengths += is_named(key, key_len, "Content-Length");
    h->chunked += is_named(key, key_len, "Transfer-Encoding");
    return MHD_YES;
}

static enum refusal check_limits(struct MHD_Connection *conn, const struct server_peer *peer)
{
    struct header_size h = {0};
    int n = MHD_get_connection_values_n(conn, MHD_HEADER_KIND, add_header_size, &h);
    return n > SERVER_HEADERS_MAX          ? TOO_MANY_HEADERS
           : h.bytes > SERVER_HEADER_BYTES ? TOO_LONG_HEADERS
           : peer && peer->nul             ? HAS_NUL
           : h.lengths + h.chunked > 1     ? TWO_LENGTHS
                                           : WELCOME;
}

const char *server_user_name(const struct server_user *u, char text[32])
{
    if (u->uid == SERVER_NOBODY) {
        return "clients over TCP have";
    }
    snprintf(text, 32, "uid %ld has", (long)u->uid);
    return text;
}

static void refuse(struct server_request *rq)
{
    struct dha_err e = {0};
    switch ((enum refusal)rq->refusal) {
    case PUSHED_OUT:
        dha_fail(&e, DHA_E_TRANSIENT, "others waited for this connection's room");
        dha_err_hint(&e, "connect again");
        break;
    case TOO_MANY_HEADERS:
        dha_fail(&e, DHA_E_TOO_LARGE, "the request has more than %d headers", SERVER_HEADERS_MAX);
        dha_err_hint(&e, "leave out those that are not in proto/openapi.yaml");
        break;
    case TOO_LONG_HEADERS:
        dha_fail(&e, DHA_E_TOO_LARGE, "the request's headers are over %d bytes",
                 SERVER_HEADER_BYTES);
        dha_err_hint(&e, "leave out those that are not in proto/openapi.yaml");
        break;
    case HAS_NUL:
        dha_fail(&e, DHA_E_USAGE,
                 "the request's first line has a NUL (%%00) in it, or a space too many");
        dha_err_hint(&e, "no path and no argument that this daemon knows has one: see "
                         "proto/openapi.yaml");
        break;
    case TWO_LENGTHS: /* RFC 9112, 6.3: a proxy in front may go by the other one, and see other requests than we */
        dha_fail(&e, DHA_E_USAGE, "the request says more than once how long its body is");
        dha_err_hint(&e, "give one Content-Length, or Transfer-Encoding: chunked");
        break;
    case WELCOME: break;
    }
    server_reply_error(rq, &e);
    if (rq->refusal == TWO_LENGTHS) {
        server_reply_header(rq, "Connection", "close");
    }
}

/* ---- one request ---- */

static struct server_request *request_new(struct MHD_Connection *conn, const char *url,
                                          const char *method, const char *version)
{
    struct server_request *rq = calloc(1, sizeof *rq);
    if (!rq || !(rq->url = strdup(url)) || !(rq->body = calloc(1, 1))) {
        free(rq ? rq->url : NULL);
        free(rq);
        return NULL;
    }
    rq->conn = conn;
    rq->path = rq->url;
    /* Only two methods are told apart; both names are static text. */
    rq->method = strcmp(method, "GET") == 0 ? "GET" : strcmp(method, "POST") == 0 ? "POST" : "?";
    struct server_peer *peer = server_peer(conn);
    if (peer) {
        peer->nul |= is_cut(peer, method, url, version);
    }
    rq->peer_uid = peer ? peer->user->uid : SERVER_NOBODY;
    rq->tcp = !peer || peer->tcp;
    rq->peer_groups = peer ? peer->groups : NULL;
    rq->n_peer_groups = peer ? peer->n_groups : 0;
    rq->phase = READING;
    rq->refusal = (int)check_limits(conn, peer);
    return rq;
}

static void request_free(struct server_request *rq)
{
    drop_reply(rq);
    if (rq->own) {
        rq->own_free(rq->own);
    }
    free(rq->body);
    free(rq->url);
    free(rq);
}

static bool append_body(struct server_request *rq, const char *data, size_t n)
{
    rq->body_seen += n;
    if (rq->body_seen > DISCARD_MAX) {
        return false;
    }
    if (rq->body_seen > SERVER_BODY_MAX) {
        rq->too_large = true; /* read on, so that the client gets to see the answer */
        rq->body_len = 0;
        rq->body[0] = '\0';
        return true;
    }
    if (rq->body_len + n + 1 > rq->body_cap) {
        size_t cap = 2 * (rq->body_len + n) + 256;
        char *more = realloc(rq->body, cap);
        if (!more) {
            return false;
        }
        rq->body = more;
        rq->body_cap = cap;
    }
    memcpy(rq->body + rq->body_len, data, n);
    rq->body_len += n;
    rq->body[rq->body_len] = '\0';
    return true;
}

static struct MHD_Response *make_response(struct server *s, struct server_request *rq)
{
    struct server_reply *rp = &rq->reply;
    static char empty[1];
    if (rp->stream.read) {
        return server_stream_start(s, rq);
    }
    struct MHD_Response *resp = MHD_create_response_from_buffer(
        rp->body ? rp->len : 0, rp->body ? rp->body : empty,
        rp->body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (resp) {
        rp->body = NULL;
    }
    return resp;
}

static void set_answering(const struct server *s, struct MHD_Connection *conn, bool answering)
{
    struct server_peer *peer = server_peer(conn);
    if (peer && peer->tcp) {
        peer->working = false;
        peer->answering = answering;
        peer->useful_ms = uv_now(s->loop);
    }
}

static enum MHD_Result send_reply(struct server *s, struct server_request *rq)
{
    struct server_reply *rp = &rq->reply;
    struct MHD_Response *resp = make_response(s, rq);
    if (!resp) {
        return MHD_NO;
    }
    MHD_add_response_header(resp, "X-Dha-Api", "1");
    MHD_add_response_header(resp, "Content-Type",
                            rp->content_type ? rp->content_type : "application/json");
    for (int i = 0; i < rp->n_headers; i++) {
        MHD_add_response_header(resp, rp->header[i].name, rp->header[i].value);
    }
    enum MHD_Result rc = MHD_queue_response(rq->conn, (unsigned)rp->status, resp);
    MHD_destroy_response(resp);
    rq->phase = SENT;
    set_answering(s, rq->conn, true);
    return rc;
}

static void push(struct server_request **list, struct server_request *rq)
{
    rq->next = *list;
    *list = rq;
}

static void on_deadline(uv_timer_t *t);

static void arm_deadline(struct server *s)
{
    uint64_t first = UINT64_MAX, now = uv_now(s->loop);
    for (struct server_request *rq = s->waiting; rq; rq = rq->next) {
        first = !rq->busy && rq->deadline_ms < first ? rq->deadline_ms : first;
    }
    if (first == UINT64_MAX) {
        uv_timer_stop(&s->deadline);
    } else {
        uv_timer_start(&s->deadline, on_deadline, first > now ? first - now : 0, 0);
    }
}

/* Runs the handler; afterwards the request is READY, HELD or WAITING. */
static void dispatch(struct server *s, struct server_request *rq)
{
    struct server_peer *peer = server_peer(rq->conn);
    if (peer) {
        peer->working = true;
        rq->refusal = peer->pushed ? (int)PUSHED_OUT : rq->refusal;
    }
    if (s->closing) {
        struct dha_err bye = {0};
        dha_fail(&bye, DHA_E_UNREACHABLE, "the daemon is shutting down");
        server_reply_error(rq, &bye);
        rq->phase = READY;
    } else if (rq->refusal != WELCOME) {
        refuse(rq);
        rq->phase = READY;
    } else if (s->ops.handle(s->ops.ctx, rq) == SERVER_WAIT) {
        rq->phase = WAITING;
    } else {
        server_stream_check(s, rq);
        rq->phase = s->ops.uncommitted(s->ops.ctx) ? HELD : READY;
    }
    if (peer) {
        peer->known = rq->peer_uid != SERVER_NOBODY;
    }
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **con_cls)
{
    struct server *s = cls;
    struct server_request *rq = *con_cls;
    s->fruitless = 0;
    if (!rq) {
        rq = request_new(conn, url, method, version);
        *con_cls = rq;
        return rq ? MHD_YES : MHD_NO;
    }
    if (rq->phase == READY) {
        return send_reply(s, rq);
    }
    if (rq->phase != READING) {
        return MHD_YES;
    }
    if (*n) {
        bool ok = append_body(rq, data, *n);
        *n = 0;
        return ok ? MHD_YES : MHD_NO;
    }
    dispatch(s, rq);
    if (rq->phase == READY) {
        return send_reply(s, rq);
    }
    MHD_suspend_connection(conn);
    if (rq->phase == HELD) {
        push(&s->held, rq);
        s->n_held++;
    } else {
        push(&s->waiting, rq);
        arm_deadline(s);
    }
    return MHD_YES;
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                         enum MHD_RequestTerminationCode why)
{
    struct server *s = cls;
    (void)why;
    s->fruitless = 0;
    if (*con_cls) {
        set_answering(s, conn, false);
        server_stream_end(*con_cls);
        request_free(*con_cls);
        *con_cls = NULL;
    }
}

/* ---- the loop ---- */

static void on_timer(uv_timer_t *t)
{
    struct server *s = t->data;
    server_run(s);
}

static void on_at_once(uv_idle_t *h)
{
    struct server *s = h->data;
    server_run(s);
}

static void on_readable(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    struct server *s = p->data;
    server_run(s);
}

void server_run(struct server *s)
{
    MHD_UNSIGNED_LONG_LONG ms;
    MHD_run(s->mhd);
    bool some = MHD_get_timeout(s->mhd, &ms) == MHD_YES;
    uv_timer_stop(&s->timer);
    uv_idle_stop(&s->at_once);
    if (some && ms == 0 && ++s->fruitless > FRUITLESS_RUNS) {
        ms = FRUITLESS_MS;
    }
    if (some && ms == 0) {
        /* Not a timer of 0 ms that starts itself again: libuv runs that until it no longer does, and there are connections
         * for which the library says 0 until the loop's other parts had their turn, or the client's next byte is there. */
        uv_idle_start(&s->at_once, on_at_once);
    } else if (some) {
        uv_timer_start(&s->timer, on_timer, ms, 0);
    }
}

size_t server_held(const struct server *s)
{
    return s->n_held;
}

struct server_limits server_limits(const struct server *s)
{
    return s->limits;
}

unsigned server_connections(const struct server *s)
{
    return s->n_connections;
}

unsigned server_streams(const struct server *s)
{
    return s->n_streams;
}

void server_release(struct server *s, const struct dha_err *commit_error)
{
    struct server_request *rq = s->held;
    s->held = NULL;
    s->n_held = 0;
    while (rq) {
        struct server_request *next = rq->next;
        if (commit_error) {
            server_reply_error(rq, commit_error);
        }
        rq->phase = READY;
        MHD_resume_connection(rq->conn);
        rq = next;
    }
}

enum whom { ALL, EXPIRED, READ };

/* Those that wait and are not busy. READ: only those that were. */
static void redispatch(struct server *s, enum whom whom)
{
    struct server_request *rq = s->waiting;
    uint64_t now = uv_now(s->loop);
    s->waiting = NULL;
    while (rq) {
        struct server_request *next = rq->next;
        rq->expired = rq->deadline_ms <= now;
        if (!rq->busy &&
            (whom == ALL || (whom == EXPIRED && rq->expired) || (whom == READ && rq->own))) {
            dispatch(s, rq);
        }
        if (rq->phase == WAITING) {
            push(&s->waiting, rq);
        } else if (rq->phase == HELD) {
            push(&s->held, rq);
            s->n_held++;
        } else {
            MHD_resume_connection(rq->conn);
        }
        rq = next;
    }
    arm_deadline(s);
}

void server_wake(struct server *s)
{
    if (s->waiting) {
        redispatch(s, ALL);
    }
    server_stream_wake(s);
}

void server_wake_ready(struct server *s)
{
    redispatch(s, READ);
    server_run(s);
}

static void on_deadline(uv_timer_t *t)
{
    struct server *s = t->data;
    redispatch(s, EXPIRED);
    server_run(s);
}

static void say_unsaid(struct server *s)
{
    if (s->unsaid) {
        log_warn("http: %llu more messages of the HTTP library (with DHA_LOG_DEBUG=1 each is said)",
                 s->unsaid);
    }
    s->unsaid = 0;
}

/* The library says something of each client that leaves in the middle of a request: anybody who may connect could fill the
 * disk. One line a minute is said, the others are counted. */
__attribute__((format(printf, 2, 0))) static void on_log(void *cls, const char *fmt, va_list ap)
{
    /* It (0.9.75) is not told that the connections that server_door.c hands it are of a unix socket, and would have them push
     * what they have sent: that needs no pushing there. */
    static const char no_tcp[] = "Setting %s option to ", no_push[] = "Failed to push the data ";
    struct server *s = cls;
    uint64_t now = uv_now(s->loop);
    if (strncmp(fmt, no_tcp, sizeof no_tcp - 1) == 0 ||
        strncmp(fmt, no_push, sizeof no_push - 1) == 0) {
        return;
    }
    if (now < s->log_next_ms) {
        s->unsaid++;
        log_v(LOG_LEVEL_DEBUG, "http: ", fmt, ap);
        return;
    }
    say_unsaid(s);
    s->log_next_ms = now + LOG_EVERY_MS;
    log_v(LOG_LEVEL_WARN, "http: ", fmt, ap);
}

/* The process may open more files than it was started with, up to the hard limit: that is raised as far as it is of use
 * here, and what it then is bounds the connections. */
static struct server_limits find_limits(void)
{
    struct rlimit files = {0};
    unsigned n = CONNECTIONS_MAX;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        rlim_t want = CONNECTIONS_MAX + OTHER_FILES;
        if (files.rlim_cur < want) {
            rlim_t old = files.rlim_cur;
            files.rlim_cur = files.rlim_max < want ? files.rlim_max : want;
            if (setrlimit(RLIMIT_NOFILE, &files) != 0) {
                files.rlim_cur = old;
            }
        }
        if (files.rlim_cur < want) {
            n = files.rlim_cur > 2 * OTHER_FILES ? (unsigned)files.rlim_cur - OTHER_FILES
                                                 : (unsigned)files.rlim_cur / 2;
            log_warn("only %ld files may be open (ulimit -n): at most %u connections",
                     (long)files.rlim_cur, n);
        }
    }
    /* 1400: 1260 for one user, 1120 streams, 1024 of one user */
    struct server_limits l = {.connections = n,
                              .connections_per_user = n * 9 / 10,
                              .streams = n * 8 / 10,
                              .streams_per_user = n * 1024 / CONNECTIONS_MAX};
    /* 157 and 128, of one address 78 and 64 */
    l.tcp_connections = l.connections_per_user / TCP_SHARE;
    l.tcp_connections_per_address = l.tcp_connections / ADDRESS_SHARE;
    l.tcp_streams = l.streams_per_user / TCP_SHARE;
    l.tcp_streams_per_address = l.tcp_streams / ADDRESS_SHARE;
    return l;
}

struct server *server_open(uv_loop_t *loop, int listen_fd, const struct server_ops *ops,
                           struct dha_err *e)
{
    struct server *s = calloc(1, sizeof *s);
    if (!s) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        return NULL;
    }
    s->loop = loop;
    s->ops = *ops;
    s->limits = find_limits();
    s->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | MHD_USE_NO_LISTEN_SOCKET, 0,
        NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, s,
        MHD_OPTION_URI_LOG_CALLBACK, on_uri, NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_LIMIT,
        s->limits.connections, MHD_OPTION_CONNECTION_TIMEOUT, 300u, MHD_OPTION_END);
    const union MHD_DaemonInfo *info = s->mhd
                                           ? MHD_get_daemon_info(s->mhd, MHD_DAEMON_INFO_EPOLL_FD)
                                           : NULL;
    if (!info) {
        dha_fail(e, DHA_E_INTERNAL, "the HTTP server did not start: %s", strerror(errno));
        if (s->mhd) {
            MHD_stop_daemon(s->mhd);
        }
        free(s);
        return NULL;
    }
    uv_timer_init(loop, &s->timer);
    uv_idle_init(loop, &s->at_once);
    uv_timer_init(loop, &s->deadline);
    uv_poll_init(loop, &s->poll, info->epoll_fd);
    s->poll.data = s->timer.data = s->at_once.data = s->deadline.data = s;
    s->open_handles = 4 + server_stream_init(s);
    uv_poll_start(&s->poll, UV_READABLE, on_readable);
    if (server_door_open(s, &s->unix_door, listen_fd, e) != 0) {
        server_close(s);
        return NULL;
    }
    return s;
}

void server_handle_closed(uv_handle_t *h)
{
    struct server *s = h->data;
    if (--s->open_handles == 0) {
        free(s);
    }
}

void server_close(struct server *s)
{
    if (!s) {
        return;
    }
    /* The library may not be stopped while a connection is suspended: everybody gets an answer. */
    struct dha_err bye = {0};
    dha_fail(&bye, DHA_E_UNREACHABLE, "the daemon is shutting down");
    server_release(s, NULL);
    struct server_request *rq = s->waiting;
    s->waiting = NULL;
    while (rq) {
        struct server_request *next = rq->next;
        server_reply_error(rq, &bye);
        rq->phase = READY;
        MHD_resume_connection(rq->conn);
        rq = next;
    }
    s->closing = true;
    server_stream_stop(s);
    uv_poll_stop(&s->poll);
    server_door_stop(&s->unix_door);
    server_door_stop(&s->tcp_door);
    for (int i = 0; i < CLOSING_RUNS; i++) {
        MHD_run(s->mhd);
    }
    MHD_stop_daemon(s->mhd);
    say_unsaid(s);
    while (s->users) {
        struct server_user *u = s->users;
        s->users = u->next;
        free(u);
    }
    server_stream_close(s);
    server_door_close(&s->unix_door);
    server_door_close(&s->tcp_door);
    uv_close((uv_handle_t *)&s->poll, server_handle_closed);
    uv_close((uv_handle_t *)&s->timer, server_handle_closed);
    uv_close((uv_handle_t *)&s->at_once, server_handle_closed);
    uv_close((uv_handle_t *)&s->deadline, server_handle_closed);
}
