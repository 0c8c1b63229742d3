/* server_stream.c: answers that go on (see server.h), a thousand of them in one loop.
 *
 * A stream is parked (its connection suspended, not polled) unless the HTTP library has something of it to write. The library asks
 * on_read() for the next bytes when the last ones are out; bytes are given only against a grant, one for each time a
 * stream is taken off the list of those that are due, otherwise the stream parks itself. So
 *   - a slow client's stream is not parked, has one buffer in the library and is not looked at again until
 *     its socket took that;
 *   - on_pump() grants GRANTS streams at a time (16 KiB each, together 1 MiB, which is a millisecond of work), until
 *     PUMP_NS are over; then the loop gets its turn. Whoever wants more goes to the end of the list;
 *   - news (server_stream_wake()) make all parked streams due at once, but with n streams only every
 *     n * ROUND_US: when events come faster, streams get more of them at a time instead of more calls.
 * A parked connection is not polled by the library, so each stream watches its socket for the client's end.
 */
#include "daemon/server_impl.h"

#include <stdlib.h>

enum { GRANTS = 64, PUMP_MS = 1, PUMP_NS = 2000000, ROUND_US = 100, BEAT_MS = 1000, BLOCK = 4096 };

enum live_state {
    PARKED,  /* suspended; nothing new as far as we know */
    DUE,     /* suspended; in the list */
    WRITING, /* resumed: the library has bytes of it, or asks for some */
};

struct live {
    struct server *s;
    struct MHD_Connection *conn;
    struct server_user *user;
    struct server_peer *peer; /* its connection ends later than the stream */
    struct server_stream stream;
    struct live *prev, *next;
    struct live *due_prev, *due_next;
    enum live_state state;
    bool news;    /* read() may find something */
    bool granted; /* read() may be called once */
    bool idle;    /* a sign of life is due */
    bool gone;    /* the client closed */
    uint64_t sent_ms;
    uv_poll_t hangup;
};

static void on_pump(uv_timer_t *t);

static void make_due(struct live *l)
{
    struct server *s = l->s;
    l->state = DUE;
    l->due_next = NULL;
    l->due_prev = s->due_last;
    *(s->due_last ? &s->due_last->due_next : &s->due_first) = l;
    s->due_last = l;
    if (!uv_is_active((uv_handle_t *)&s->pump)) {
        uv_timer_start(&s->pump, on_pump, PUMP_MS, 0);
    }
}

static void take_off(struct live *l)
{
    struct server *s = l->s;
    *(l->due_prev ? &l->due_prev->due_next : &s->due_first) = l->due_next;
    *(l->due_next ? &l->due_next->due_prev : &s->due_last) = l->due_prev;
    l->due_next = l->due_prev = NULL;
}

static void resume(struct live *l)
{
    if (l->state == DUE) {
        take_off(l);
    }
    if (l->state != WRITING) {
        l->state = WRITING;
        MHD_resume_connection(l->conn);
    }
}

static ssize_t on_read(void *cls, uint64_t pos, char *buf, size_t max)
{
    (void)pos;
    struct live *l = cls;
    l->s->fruitless = 0;
    if (l->gone) {
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    if (l->s->closing) { /* what happened last, then a proper end: as far as the client's socket takes it */
        bool ignored;
        ssize_t n = l->stream.read(l->stream.ctx, buf, max, false, &ignored);
        return n > 0 ? n : MHD_CONTENT_READER_END_OF_STREAM;
    }
    if (l->granted) {
        bool more = false, idle = l->idle;
        l->granted = l->news = l->idle = false;
        ssize_t n = l->stream.read(l->stream.ctx, buf, max, idle, &more);
        if (n < 0) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        l->news = l->news || more;
        if (n > 0) {
            l->sent_ms = uv_now(l->s->loop);
            return n;
        }
    }
    MHD_suspend_connection(l->conn);
    if (l->news) {
        make_due(l);
    } else {
        l->state = PARKED;
    }
    return 0;
}

static void on_pump(uv_timer_t *t)
{
    struct server *s = t->data;
    uint64_t begin = uv_hrtime();
    do {
        for (int i = 0; i < GRANTS && s->due_first; i++) {
            struct live *l = s->due_first;
            l->granted = true;
            resume(l);
        }
        server_run(s);
    } while (s->due_first && uv_hrtime() - begin < PUMP_NS);
    if (s->due_first && !uv_is_active((uv_handle_t *)t)) {
        uv_timer_start(t, on_pump, PUMP_MS, 0);
    }
}

static void begin_round(struct server *s)
{
    s->round_ms = uv_now(s->loop) + (uint64_t)s->n_streams * ROUND_US / 1000;
    for (struct live *l = s->streams; l; l = l->next) {
        l->news = true;
        if (l->state == PARKED) {
            make_due(l);
        }
    }
}

static void on_round(uv_timer_t *t)
{
    begin_round(t->data);
}

void server_stream_wake(struct server *s)
{
    uint64_t now = uv_now(s->loop);
    if (!s->streams || uv_is_active((uv_handle_t *)&s->round)) {
        return;
    }
    if (now >= s->round_ms) {
        begin_round(s);
    } else {
        uv_timer_start(&s->round, on_round, s->round_ms - now, 0);
    }
}

static void on_beat(uv_timer_t *t)
{
    struct server *s = t->data;
    uint64_t now = uv_now(s->loop);
    for (struct live *l = s->streams; l; l = l->next) {
        if (l->state == PARKED && now - l->sent_ms >= SERVER_IDLE_MS) {
            l->idle = true;
            make_due(l);
        }
    }
}

static void on_hangup(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    struct live *l = p->data;
    uv_poll_stop(p);
    l->gone = true;
    resume(l);
    server_run(l->s);
}

/* ---- beginning and end of one ---- */

void server_stream_check(struct server *s, struct server_request *rq)
{
    const struct server_peer *peer = server_peer(rq->conn);
    if (!rq->reply.stream.read) {
        return;
    }
    bool all = s->n_streams >= s->limits.streams;
    bool address = peer && peer->tcp &&
                   server_tcp_streams(s, peer) >= s->limits.tcp_streams_per_address;
    if (!all && !address && peer && peer->user->streams < peer->user->max_streams) {
        return;
    }
    struct dha_err e = {0};
    if (address) {
        dha_fail(&e, DHA_E_TRANSIENT,
                 "your address has %u event streams over TCP open; that is the limit",
                 s->limits.tcp_streams_per_address);
    } else if (all) {
        dha_fail(&e, DHA_E_TRANSIENT, "%u event streams are open; that is the limit", s->n_streams);
    } else {
        char name[32];
        dha_fail(&e, DHA_E_TRANSIENT, "%s %u event streams open; that is the limit",
                 peer ? server_user_name(peer->user, name) : "you have",
                 peer ? peer->user->streams : 0);
    }
    dha_err_hint(&e, "close some, or ask without a stream: GET /v1/events?after=SEQ&wait=30");
    server_reply_error(rq, &e);
}

static void free_live(uv_handle_t *h)
{
    free(h->data);
}

struct MHD_Response *server_stream_start(struct server *s, struct server_request *rq)
{
    struct server_peer *peer = server_peer(rq->conn);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        rq->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct live *l = calloc(1, sizeof *l);
    if (!l || !peer || !info || uv_poll_init(s->loop, &l->hangup, info->connect_fd) != 0) {
        free(l);
        return NULL;
    }
    l->hangup.data = l;
    struct MHD_Response *resp = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, on_read,
                                                                  l, NULL);
    if (!resp) {
        uv_close((uv_handle_t *)&l->hangup, free_live);
        return NULL;
    }
    l->s = s;
    l->conn = rq->conn;
    l->user = peer->user;
    l->peer = peer;
    l->stream = rq->reply.stream;
    rq->reply.stream = (struct server_stream){0};
    rq->live = l;
    l->state = WRITING; /* the headers */
    l->news = true;
    l->sent_ms = uv_now(s->loop);
    l->next = s->streams;
    if (l->next) {
        l->next->prev = l;
    }
    s->streams = l;
    s->n_streams++;
    l->user->streams++;
    l->peer->streaming = true;
    uv_poll_start(&l->hangup, UV_DISCONNECT, on_hangup);
    if (!uv_is_active((uv_handle_t *)&s->beat)) {
        uv_timer_start(&s->beat, on_beat, BEAT_MS, BEAT_MS);
    }
    return resp;
}

void server_stream_end(struct server_request *rq)
{
    struct live *l = rq->live;
    if (!l) {
        return;
    }
    struct server *s = l->s;
    rq->live = NULL;
    if (l->state == DUE) {
        take_off(l);
    }
    *(l->prev ? &l->prev->next : &s->streams) = l->next;
    if (l->next) {
        l->next->prev = l->prev;
    }
    s->n_streams--;
    l->user->streams--;
    l->peer->streaming = false;
    l->stream.close(l->stream.ctx);
    uv_close((uv_handle_t *)&l->hangup, free_live);
    if (!s->streams) {
        uv_timer_stop(&s->beat);
    }
}

/* ---- all of them ---- */

int server_stream_init(struct server *s)
{
    uv_timer_t *timers[] = {&s->pump, &s->round, &s->beat};
    for (size_t i = 0; i < sizeof timers / sizeof *timers; i++) {
        uv_timer_init(s->loop, timers[i]);
        timers[i]->data = s;
    }
    return sizeof timers / sizeof *timers;
}

void server_stream_close(struct server *s)
{
    uv_close((uv_handle_t *)&s->pump, server_handle_closed);
    uv_close((uv_handle_t *)&s->round, server_handle_closed);
    uv_close((uv_handle_t *)&s->beat, server_handle_closed);
}

void server_stream_stop(struct server *s)
{
    for (struct live *l = s->streams; l; l = l->next) {
        resume(l);
    }
}
