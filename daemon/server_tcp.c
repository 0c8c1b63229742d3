/* server_tcp.c: who comes over TCP (see server.h).
 *
 * Nobody knows from whom these connections are, and anybody may make them. So all of them together have a part of what one
 * user of the unix socket may have, each address a part of that, and whoever comes beyond that is told so and never gets
 * into the HTTP library: there they would take room from the unix socket as long as they go on sending a byte now and then.
 *
 * When there is no room, a connection that has been of no use for SLOW_MS gives way to the new one: it has not sent a whole
 * request since it was opened or last answered, or does not take its answer. One that an address has in its own share gives
 * way to that address's own next one only. Streams, requests that are being worked on (long polls) and connections whose
 * last request had a valid token stay.
 */
#include "daemon/server_impl.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { AGAIN_MS = 200, SLOW_MS = 10000, AT_ONCE = 64, IGNORED_MAX = 8 };

/* Who counts as one: an IPv4 address, also written as an IPv6 one; of IPv6 the first half, of which a client has all. */
static void address_key(const struct sockaddr *from, unsigned char key[SERVER_ADDRESS])
{
    memset(key, 0, SERVER_ADDRESS);
    if (from && from->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)from;
        key[10] = key[11] = 0xff;
        memcpy(key + 12, &v4->sin_addr, 4);
    } else if (from && from->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)from;
        memcpy(key, &v6->sin6_addr, IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) ? 16 : 8);
    }
}

static bool same(const struct server_peer *p, const unsigned char key[SERVER_ADDRESS])
{
    return memcmp(p->address, key, SERVER_ADDRESS) == 0;
}

void server_tcp_begin(struct server *s, struct server_peer *p, struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    address_key(info ? info->client_addr : NULL, p->address);
    p->useful_ms = uv_now(s->loop);
    server_peer_push(&s->tcp_peers, p);
}

unsigned server_tcp_streams(const struct server *s, const struct server_peer *like)
{
    unsigned n = 0;
    for (const struct server_peer *p = s->tcp_peers; p; p = p->next) {
        n += p->streaming && same(p, like->address);
    }
    return n;
}

/* ---- no room ---- */

/* An answer to a client that is not let in, or no longer. What it has sent is read, or closing would take the answer from
 * it; as far as a request's head may go, or who sends without end would keep the loop. Best effort: nobody waits for it. */
static void turn_away(int fd, const struct dha_err *e)
{
    struct server_request rq = {0};
    char text[2048], ignored[4096];
    server_reply_error(&rq, e);
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 503 Service Unavailable\r\nX-Dha-Api: 1\r\nContent-Type: "
                     "application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                     rq.reply.len, rq.reply.body ? rq.reply.body : "");
    free(rq.reply.body);
    if (n > 0 && (size_t)n < sizeof text &&
        send(fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        return; /* the client has gone, or does not read: there is nobody to tell */
    }
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < IGNORED_MAX; i++) {
        if (recv(fd, ignored, sizeof ignored, MSG_DONTWAIT) != (ssize_t)sizeof ignored) {
            break;
        }
    }
}

/* One of that address (NULL: of any) that is of no use makes room. */
static bool push_out(struct server *s, const unsigned char *key)
{
    uint64_t now = uv_now(s->loop);
    struct server_peer *worst = NULL;
    for (struct server_peer *p = s->tcp_peers; p; p = p->next) {
        bool stays = p->streaming || p->working || p->known || p->pushed ||
                     now - p->useful_ms < SLOW_MS;
        if (!stays && (!key || same(p, key)) && (!worst || p->useful_ms < worst->useful_ms)) {
            worst = p;
        }
    }
    if (!worst) {
        return false;
    }
    if (!worst->answering) {
        struct dha_err e = {0};
        dha_fail(&e, DHA_E_TRANSIENT, "no whole request came for %d s, and others wait for room",
                 SLOW_MS / 1000);
        dha_err_hint(&e, "connect again");
        turn_away(worst->fd, &e);
    }
    worst->pushed = true; /* what the library has of it already is refused */
    shutdown(worst->fd, SHUT_RDWR);
    return true;
}

static bool has_room(struct server *s, const unsigned char key[SERVER_ADDRESS], struct dha_err *e)
{
    unsigned all = 0, its = 0;
    for (const struct server_peer *p = s->tcp_peers; p; p = p->next) {
        all += !p->pushed;
        its += !p->pushed && same(p, key);
    }
    bool over = its >= s->limits.tcp_connections_per_address;
    bool full = s->n_connections >= s->limits.connections; /* the library takes no more */
    if (!full && ((!over && all < s->limits.tcp_connections) || push_out(s, over ? key : NULL))) {
        return true;
    }
    if (full) {
        dha_fail(e, DHA_E_TRANSIENT, "%u connections are open, all there may be", s->n_connections);
        dha_err_hint(e, "try again later");
    } else if (over) {
        dha_fail(e, DHA_E_TRANSIENT, "your address has %u connections over TCP open, all it may",
                 its);
        dha_err_hint(e, "close some, or use one for many requests (keep-alive)");
    } else {
        dha_fail(e, DHA_E_TRANSIENT, "clients over TCP have %u connections open, all they may",
                 all);
        dha_err_hint(e, "try again later, or come over the unix socket (DHA_SOCKET; ssh -L)");
    }
    return false;
}

/* ---- the door ---- */

static void on_again(uv_timer_t *t);

static void let_in(struct server *s, int fd, const struct sockaddr_storage *from, socklen_t len)
{
    unsigned char key[SERVER_ADDRESS];
    struct dha_err e = {0};
    address_key((const void *)from, key);
    if (has_room(s, key, &e)) {
        MHD_add_connection(s->mhd, fd, (const void *)from, len); /* closes it, too */
    } else {
        turn_away(fd, &e);
        close(fd);
    }
}

static void on_tcp(uv_poll_t *p, int status, int events)
{
    struct server *s = p->data;
    (void)status;
    (void)events;
    for (int i = 0; i < AT_ONCE; i++) {
        struct sockaddr_storage from;
        socklen_t len = sizeof from;
        int fd = accept4(s->tcp_fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            let_in(s, fd, &from, len);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            uv_poll_stop(p);
            uv_timer_start(&s->tcp_again, on_again, AGAIN_MS, 0);
            break;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            break;
        }
    }
    server_run(s);
}

static void on_again(uv_timer_t *t)
{
    struct server *s = t->data;
    uv_poll_start(&s->tcp, UV_READABLE, on_tcp);
}

int server_listen_tcp(struct server *s, int fd, struct dha_err *e)
{
    if (uv_poll_init(s->loop, &s->tcp, fd) != 0) {
        close(fd);
        return dha_fail(e, DHA_E_INTERNAL, "the loop does not take the TCP socket");
    }
    uv_timer_init(s->loop, &s->tcp_again);
    s->tcp.data = s->tcp_again.data = s;
    s->tcp_fd = fd;
    s->open_handles += 2;
    uv_poll_start(&s->tcp, UV_READABLE, on_tcp);
    return 0;
}

void server_tcp_close(struct server *s)
{
    if (s->tcp_fd >= 0) {
        uv_close((uv_handle_t *)&s->tcp, server_handle_closed);
        uv_close((uv_handle_t *)&s->tcp_again, server_handle_closed);
        close(s->tcp_fd);
    }
}
