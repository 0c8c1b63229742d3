/* server_door.c: who is let in (see server.h).
 *
 * A connection over a user's share is told so and never gets into the HTTP library: there it would take room from others as
 * long as it goes on sending a byte now and then, and who opens another for each that is ended would have all of it.
 *
 * Nobody knows from whom the connections over TCP are, and anybody may make them. So all of them together have a part of what
 * one user of the unix socket may have, and each address a part of that.
 *
 * When there is no room over TCP, a connection that has been of no use for SLOW_MS gives way to the new one: it has not sent a whole
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

enum { AGAIN_MS = 200, LEAVE_MS = 1000, SLOW_MS = 10000, AT_ONCE = 64, IGNORED_MAX = 8 };

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
    p->next = s->tcp_peers;
    if (p->next) {
        p->next->prev = p;
    }
    s->tcp_peers = p;
}

void server_tcp_end(struct server *s, struct server_peer *p)
{
    *(p->prev ? &p->prev->next : &s->tcp_peers) = p->next;
    if (p->next) {
        p->next->prev = p->prev;
    }
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

/* ---- the doors ---- */

static void on_again(uv_timer_t *t);
static void on_leave(uv_timer_t *t);

/* Who sends its request after we have closed would get an error in the place of our answer: over the unix socket, where that
 * comes at once, it is kept for a moment. Of so many the oldest makes room. */
static void show_out(struct server *s, int fd)
{
    struct server_leaving *l = &s->leaving[s->next_leaving++ % SERVER_LEAVING];
    if (l->fd > 0) {
        close(l->fd);
    }
    *l = (struct server_leaving){.fd = fd, .until_ms = uv_now(s->loop) + LEAVE_MS};
    if (!uv_is_active((uv_handle_t *)&s->unix_door.later)) {
        uv_timer_start(&s->unix_door.later, on_leave, LEAVE_MS, LEAVE_MS / 4);
    }
}

static void on_leave(uv_timer_t *t)
{
    struct server_door *door = t->data;
    struct server *s = door->server;
    bool some = false;
    for (int i = 0; i < SERVER_LEAVING; i++) {
        struct server_leaving *l = &s->leaving[i];
        if (l->fd > 0 && uv_now(s->loop) >= l->until_ms) {
            close(l->fd);
            l->fd = 0;
        }
        some = some || l->fd > 0;
    }
    if (!some) {
        uv_timer_stop(t);
    }
}

static void let_in_tcp(struct server *s, int fd, const struct sockaddr *from, socklen_t len)
{
    unsigned char key[SERVER_ADDRESS];
    struct dha_err e = {0};
    address_key(from, key);
    if (has_room(s, key, &e)) {
        MHD_add_connection(s->mhd, fd, from, len); /* closes it, too */
    } else {
        turn_away(fd, &e);
        close(fd);
    }
}

static void let_in_unix(struct server *s, int fd, const struct sockaddr *from, socklen_t len)
{
    struct ucred cred;
    socklen_t cred_len = sizeof cred;
    struct dha_err e = {0};
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len) != 0) {
        close(fd);
        return;
    }
    unsigned its = server_user_connections(s, cred.uid);
    if (its >= s->limits.connections_per_user) {
        dha_fail(&e, DHA_E_TRANSIENT, "uid %ld has %u connections open, all it may", (long)cred.uid,
                 its);
        dha_err_hint(&e, "close some, or use one for many requests (keep-alive)");
    } else if (s->n_connections >= s->limits.connections) {
        dha_fail(&e, DHA_E_TRANSIENT, "%u connections are open, all there may be",
                 s->n_connections);
        dha_err_hint(&e, "try again later");
    } else {
        MHD_add_connection(s->mhd, fd, from, len);
        return;
    }
    turn_away(fd, &e);
    show_out(s, fd);
}

static void on_knock(uv_poll_t *p, int status, int events)
{
    struct server_door *door = p->data;
    struct server *s = door->server;
    (void)status;
    (void)events;
    for (int i = 0; i < AT_ONCE; i++) {
        struct sockaddr_storage from;
        socklen_t len = sizeof from;
        int fd = accept4(door->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            door->let_in(s, fd, (struct sockaddr *)&from, len);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            uv_poll_stop(p);
            uv_timer_start(&door->again, on_again, AGAIN_MS, 0);
            break;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            break;
        }
    }
    server_run(s);
}

static void on_again(uv_timer_t *t)
{
    struct server_door *door = t->data;
    uv_poll_start(&door->poll, UV_READABLE, on_knock);
}

int server_door_open(struct server *s, struct server_door *door, int fd, struct dha_err *e)
{
    if (uv_poll_init(s->loop, &door->poll, fd) != 0) {
        return dha_fail(e, DHA_E_INTERNAL, "the loop does not take the listening socket");
    }
    uv_timer_init(s->loop, &door->again);
    uv_timer_init(s->loop, &door->later);
    door->poll.data = door->again.data = door->later.data = door;
    door->server = s;
    door->let_in = door == &s->tcp_door ? let_in_tcp : let_in_unix;
    door->fd = fd;
    s->open_handles += 3;
    uv_poll_start(&door->poll, UV_READABLE, on_knock);
    return 0;
}

void server_door_stop(struct server_door *door)
{
    if (door->server) {
        uv_poll_stop(&door->poll);
        uv_timer_stop(&door->again);
    }
}

void server_door_close(struct server_door *door)
{
    struct server *s = door->server;
    if (!s) {
        return;
    }
    for (int i = 0; door == &s->unix_door && i < SERVER_LEAVING; i++) {
        if (s->leaving[i].fd > 0) {
            close(s->leaving[i].fd);
        }
    }
    door->poll.data = door->again.data = door->later.data =
        s; /* server_handle_closed() wants that */
    uv_close((uv_handle_t *)&door->poll, server_handle_closed);
    uv_close((uv_handle_t *)&door->again, server_handle_closed);
    uv_close((uv_handle_t *)&door->later, server_handle_closed);
    close(door->fd);
}

int server_listen_tcp(struct server *s, int fd, struct dha_err *e)
{
    if (server_door_open(s, &s->tcp_door, fd, e) != 0) {
        close(fd);
        return -1;
    }
    return 0;
}
