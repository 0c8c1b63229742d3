/* tcp.c: see tcp.h. */
#include "daemon/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 128 };

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at;
    socklen_t len;
    bool loopback;
};

/* 0 / -1 */
static int parse_address(const char *text, struct address *a)
{
    char host[INET6_ADDRSTRLEN];
    const char *colon = strrchr(text, ':');
    bool v6 = text[0] == '[';
    char *end;
    memset(a, 0, sizeof *a);
    if (!colon || colon == text || (v6 && colon[-1] != ']')) {
        return -1;
    }
    size_t n = (size_t)(colon - text) - (v6 ? 2 : 0);
    if (n >= sizeof host || colon[1] < '0' || colon[1] > '9' || strlen(colon + 1) > 5) {
        return -1;
    }
    memcpy(host, text + v6, n);
    host[n] = '\0';
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (*end || port > 65535) {
        return -1;
    }
    if (v6) {
        a->at.v6.sin6_family = AF_INET6;
        a->at.v6.sin6_port = htons((uint16_t)port);
        a->len = sizeof a->at.v6;
        if (inet_pton(AF_INET6, host, &a->at.v6.sin6_addr) != 1) {
            return -1;
        }
        a->loopback = IN6_IS_ADDR_LOOPBACK(&a->at.v6.sin6_addr);
        return 0;
    }
    a->at.v4.sin_family = AF_INET;
    a->at.v4.sin_port = htons((uint16_t)port);
    a->len = sizeof a->at.v4;
    if (inet_pton(AF_INET, host, &a->at.v4.sin_addr) != 1) {
        return -1;
    }
    a->loopback = ntohl(a->at.v4.sin_addr.s_addr) >> 24 == 127;
    return 0;
}

bool tcp_is_address(const char *text)
{
    struct address a;
    return parse_address(text, &a) == 0;
}

bool tcp_is_hosts(const char *text)
{
    return text[0] && text[0] != ' ' &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "0123456789.-_:[] ") == strlen(text);
}

static int name_bound(int fd, char bound[TCP_BOUND_MAX])
{
    struct address a = {.len = sizeof a.at};
    char host[INET6_ADDRSTRLEN];
    if (getsockname(fd, &a.at.any, &a.len) != 0) {
        return -1;
    }
    bool v6 = a.at.any.sa_family == AF_INET6;
    const void *ip = v6 ? (const void *)&a.at.v6.sin6_addr : (const void *)&a.at.v4.sin_addr;
    if (!inet_ntop(a.at.any.sa_family, ip, host, sizeof host)) {
        return -1;
    }
    snprintf(bound, TCP_BOUND_MAX, v6 ? "[%s]:%u" : "%s:%u", host,
             (unsigned)ntohs(v6 ? a.at.v6.sin6_port : a.at.v4.sin_port));
    return 0;
}

int tcp_listen(const struct settings *s, char bound[TCP_BOUND_MAX], struct dha_err *e)
{
    struct address a;
    int on = 1;
    if (parse_address(s->tcp, &a) != 0) {
        return dha_fail(e, DHA_E_INPUT, "\"%s\" is no ADDRESS:PORT", s->tcp);
    }
    if (!a.loopback && !s->tcp_hosts[0]) {
        dha_fail(e, DHA_E_INPUT, "tcp is %s: others on the network could read, and see tokens",
                 s->tcp);
        return dha_err_hint(e, "better 127.0.0.1 and `ssh -L`, or TLS by a proxy in front of it; "
                               "or name the hosts that clients may use in \"tcp_hosts\"");
    }
    int fd = socket(a.at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return dha_fail_errno(e, errno, "cannot make a TCP socket");
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, &a.at.any, a.len) != 0 || listen(fd, BACKLOG) != 0 || name_bound(fd, bound) != 0) {
        dha_fail_errno(e, errno, "cannot listen on %s", s->tcp);
        close(fd);
        return -1;
    }
    return fd;
}

/* Is the host `name`, which may have a port of its own, or else with ours? With ours left out: where that is usual. */
static bool same_host(const char *name, size_t n, const char *port, bool without, const char *host)
{
    bool has_port = memchr(name, ':', n) && name[n - 1] != ']';
    const char *rest = host + n;
    if (strncasecmp(host, name, n) != 0) {
        return false;
    }
    return has_port ? *rest == '\0' : strcmp(rest, port) == 0 || (without && *rest == '\0');
}

bool tcp_host_known(const char *bound, const char *hosts, const char *host)
{
    const char *port = strrchr(bound, ':');
    size_t n = port ? (size_t)(port - bound) : 0;
    bool any = strncmp(bound, "0.0.0.0:", 8) == 0 || strncmp(bound, "[::]:", 5) == 0;
    if (!port) {
        return false;
    }
    bool usual = strcmp(port, ":80") == 0;
    if ((!any && same_host(bound, n, port, usual, host)) ||
        same_host("localhost", strlen("localhost"), port, usual, host)) {
        return true;
    }
    for (const char *p = hosts; *p;) {
        n = strcspn(p, " ");
        if (n && same_host(p, n, port, true, host)) {
            return true;
        }
        p += n + (p[n] == ' ');
    }
    return false;
}

bool tcp_origin_known(const char *bound, const char *hosts, const char *origin)
{
    const char *host = strncmp(origin, "http://", 7) == 0    ? origin + 7
                       : strncmp(origin, "https://", 8) == 0 ? origin + 8
                                                             : NULL;
    return host && tcp_host_known(bound, hosts, host);
}

const char *tcp_bearer(const char *authorization)
{
    static const char scheme[] = "Bearer ";
    if (strncasecmp(authorization, scheme, sizeof scheme - 1) != 0) {
        return NULL;
    }
    const char *token = authorization + sizeof scheme - 1;
    token += strspn(token, " ");
    return *token ? token : NULL;
}

bool tcp_is_json(const char *content_type)
{
    static const char json[] = "application/json";
    if (!content_type || strncasecmp(content_type, json, sizeof json - 1) != 0) {
        return false;
    }
    const char *rest = content_type + sizeof json - 1;
    rest += strspn(rest, " \t");
    return *rest == '\0' || *rest == ';';
}
