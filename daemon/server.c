/* server.c: see server.h. */
#include "daemon/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <microhttpd.h>

#include "daemon/log.h"
#include "proto/json.h"

/* A client that keeps sending beyond this is cut off instead of being read out. */
#define DISCARD_MAX ((size_t)64 * SERVER_BODY_MAX)

enum phase { READING, HELD, WAITING, READY, SENT };

struct server {
    uv_loop_t *loop;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_timer_t timer;    /* the HTTP library's own */
    uv_timer_t deadline; /* the earliest of the waiting requests */
    struct server_ops ops;
    struct server_request *held, *waiting;
    size_t n_held;
    bool closing;
    int open_handles;
};

const char *server_query(const struct server_request *rq, const char *name)
{
    return MHD_lookup_connection_value(rq->conn, MHD_GET_ARGUMENT_KIND, name);
}

const char *server_header(const struct server_request *rq, const char *name)
{
    return MHD_lookup_connection_value(rq->conn, MHD_HEADER_KIND, name);
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

void server_reply_error(struct server_request *rq, const struct dha_err *e)
{
    free(rq->reply.body);
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

/* ---- one request ---- */

static struct server_request *request_new(struct MHD_Connection *conn, const char *url,
                                          const char *method)
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
    rq->peer_uid = (uid_t)-1;
    rq->phase = READING;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred cred;
    socklen_t len = sizeof cred;
    if (info && getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
        rq->peer_uid = cred.uid;
    }
    return rq;
}

static void request_free(struct server_request *rq)
{
    free(rq->reply.body);
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

static enum MHD_Result send_reply(struct server_request *rq)
{
    struct server_reply *rp = &rq->reply;
    static char empty[1];
    struct MHD_Response *resp = MHD_create_response_from_buffer(
        rp->body ? rp->len : 0, rp->body ? rp->body : empty,
        rp->body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!resp) {
        return MHD_NO;
    }
    rp->body = NULL;
    MHD_add_response_header(resp, "Content-Type",
                            rp->content_type ? rp->content_type : "application/json");
    for (int i = 0; i < rp->n_headers; i++) {
        MHD_add_response_header(resp, rp->header[i].name, rp->header[i].value);
    }
    enum MHD_Result rc = MHD_queue_response(rq->conn, (unsigned)rp->status, resp);
    MHD_destroy_response(resp);
    rq->phase = SENT;
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
        first = rq->deadline_ms < first ? rq->deadline_ms : first;
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
    if (s->closing) {
        struct dha_err bye = {0};
        dha_fail(&bye, DHA_E_UNREACHABLE, "the daemon is shutting down");
        server_reply_error(rq, &bye);
        rq->phase = READY;
    } else if (s->ops.handle(s->ops.ctx, rq) == SERVER_WAIT) {
        rq->phase = WAITING;
    } else {
        rq->phase = s->ops.uncommitted(s->ops.ctx) ? HELD : READY;
    }
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **con_cls)
{
    (void)version;
    struct server *s = cls;
    struct server_request *rq = *con_cls;
    if (!rq) {
        rq = request_new(conn, url, method);
        *con_cls = rq;
        return rq ? MHD_YES : MHD_NO;
    }
    if (rq->phase == READY) {
        return send_reply(rq);
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
        return send_reply(rq);
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
    (void)cls;
    (void)conn;
    (void)why;
    if (*con_cls) {
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
    if (MHD_get_timeout(s->mhd, &ms) == MHD_YES) {
        uv_timer_start(&s->timer, on_timer, ms, 0);
    } else {
        uv_timer_stop(&s->timer);
    }
}

size_t server_held(const struct server *s)
{
    return s->n_held;
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

static void redispatch(struct server *s, bool only_expired)
{
    struct server_request *rq = s->waiting;
    uint64_t now = uv_now(s->loop);
    s->waiting = NULL;
    while (rq) {
        struct server_request *next = rq->next;
        rq->expired = rq->deadline_ms <= now;
        if (!only_expired || rq->expired) {
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
        redispatch(s, false);
    }
}

static void on_deadline(uv_timer_t *t)
{
    struct server *s = t->data;
    redispatch(s, true);
    server_run(s);
}

static void on_log(void *cls, const char *fmt, va_list ap)
{
    (void)cls;
    log_v(LOG_LEVEL_WARN, "http: ", fmt, ap);
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
    s->mhd = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL,
                              NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                              MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_NOTIFY_COMPLETED,
                              on_completed, s, MHD_OPTION_CONNECTION_LIMIT, 900u,
                              MHD_OPTION_CONNECTION_TIMEOUT, 300u, MHD_OPTION_END);
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
    uv_timer_init(loop, &s->deadline);
    uv_poll_init(loop, &s->poll, info->epoll_fd);
    s->poll.data = s->timer.data = s->deadline.data = s;
    s->open_handles = 3;
    uv_poll_start(&s->poll, UV_READABLE, on_readable);
    return s;
}

static void on_handle_closed(uv_handle_t *h)
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
    uv_poll_stop(&s->poll);
    for (int i = 0; i < 3; i++) {
        MHD_run(s->mhd);
    }
    MHD_stop_daemon(s->mhd);
    uv_close((uv_handle_t *)&s->poll, on_handle_closed);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->deadline, on_handle_closed);
}
