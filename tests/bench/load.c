/* load.c: sends requests to a unix socket over many connections and says how long their answers took; what it costs itself
 * must not count. load SOCKET CLIENTS < REQUESTS: whole requests, each behind its length in decimal and a newline.
 * Each connection sends its next one when it has the answer to the one before. Prints one line:
 * seconds, the 50th and the 99th percentile in ms, seconds of CPU of its own, answers that were not 201. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS_MAX = 1024, ANSWER_MAX = 1 << 18 };

struct request {
    char *text;
    size_t len;
};

struct client {
    int fd;
    size_t next; /* the request that it sends next: every so-manyth */
    double began;
    char *buf;
    size_t n;
};

static struct request *requests;
static double *took;
static size_t n_requests, n_done, n_bad;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void read_requests(void)
{
    size_t len, cap = 0;
    while (scanf("%zu", &len) == 1 && getchar() == '\n') {
        if (n_requests == cap) {
            cap = cap ? 2 * cap : 1024;
            requests = realloc(requests, cap * sizeof *requests);
        }
        char *text = malloc(len);
        if (!requests || !text || fread(text, 1, len, stdin) != len)
            die("reading the requests");
        requests[n_requests++] = (struct request){text, len};
    }
}

static int connect_to(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) != 0)
        die(path);
    return fd;
}

static void send_next(struct client *c)
{
    if (c->next >= n_requests)
        return;
    const struct request *r = &requests[c->next];
    c->began = now();
    for (size_t at = 0; at < r->len;) {
        ssize_t w = write(c->fd, r->text + at, r->len - at);
        if (w < 0)
            die("write");
        at += (size_t)w;
    }
}

/* Length of a whole answer at the beginning of the buffer; 0: more has to come. */
static size_t whole_answer(const struct client *c)
{
    const char *end = memmem(c->buf, c->n, "\r\n\r\n", 4);
    if (!end)
        return 0;
    const char *field = strcasestr(c->buf, "\r\ncontent-length:");
    if (!field || field > end)
        die("an answer without its length");
    size_t all = (size_t)(end + 4 - c->buf) + strtoul(field + 17, NULL, 10);
    return c->n >= all ? all : 0;
}

static void on_readable(struct client *c, size_t clients)
{
    ssize_t r = read(c->fd, c->buf + c->n, ANSWER_MAX - c->n);
    if (r <= 0)
        die("read");
    c->n += (size_t)r;
    c->buf[c->n] = '\0';
    if (!whole_answer(c))
        return;
    took[n_done++] = now() - c->began;
    if (strncmp(c->buf, "HTTP/1.1 201", 12) != 0 && n_bad++ == 0)
        fprintf(stderr, "%s\n", c->buf);
    c->n = 0;
    c->next += clients;
    send_next(c);
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

int main(int argc, char **argv)
{
    size_t n = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    static struct client client[CLIENTS_MAX];
    if (n < 1 || n > CLIENTS_MAX) {
        fprintf(stderr, "usage: load SOCKET CLIENTS < REQUESTS\n");
        return 2;
    }
    read_requests();
    took = calloc(n_requests + 1, sizeof *took);
    int ep = epoll_create1(0);
    if (!took || ep < 0)
        die("start");
    for (size_t i = 0; i < n; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &client[i]};
        client[i] = (struct client){connect_to(argv[1]), i, 0, malloc(ANSWER_MAX + 1), 0};
        if (!client[i].buf || epoll_ctl(ep, EPOLL_CTL_ADD, client[i].fd, &ev) != 0)
            die("epoll");
    }
    double begin = now();
    for (size_t i = 0; i < n; i++)
        send_next(&client[i]);
    while (n_done < n_requests) {
        struct epoll_event ev[64];
        int k = epoll_wait(ep, ev, 64, -1);
        for (int i = 0; i < k; i++)
            on_readable(ev[i].data.ptr, n);
        if (k < 0 && errno != EINTR)
            die("epoll_wait");
    }
    double wall = now() - begin;
    struct rusage ru;
    getrusage(RUSAGE_SELF, &ru);
    double cpu = (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
                 (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) * 1e-6;
    qsort(took, n_requests, sizeof *took, by_size);
    printf("%.6f %.4f %.4f %.4f %zu\n", wall, 1e3 * took[n_requests / 2],
           1e3 * took[n_requests * 99 / 100], cpu, n_bad);
    return n_bad != 0;
}
