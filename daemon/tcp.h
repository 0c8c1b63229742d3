/* tcp.h: the door to the network, which is shut unless setting `tcp` opens it: where to listen, and which requests come
 * from where they say. The API behind it is the same (api.c); who a token is, says the store.
 *
 * Against a web page in the browser of somebody who can reach the port:
 *   - the Host of every request must be, letter for letter but for case, the address that was bound, localhost with its
 *     port, or one of `tcp_hosts`: a name that an attacker points here (DNS rebinding) is none of them;
 *   - a change with an Origin that is not this host is refused, and one with a body that is not JSON: such a request
 *     needs the browser to ask first, which is answered no, and nothing here ever says that another page may read.
 */
#ifndef DHA_DAEMON_TCP_H
#define DHA_DAEMON_TCP_H

#include <stdbool.h>

#include "daemon/settings.h"

enum { TCP_BOUND_MAX = 80 };

/* "127.0.0.1:8080" or "[::1]:8080", numbers only; port 0: the system chooses one. */
bool tcp_is_address(const char *text);
/* Names with or without a port, blank-separated: is it such a list? */
bool tcp_is_hosts(const char *text);

/* Listens there; bound: the address with its port. Another address than the loopback's needs tcp_hosts: DHA_E_INPUT. */
int tcp_listen(const struct settings *s, char bound[TCP_BOUND_MAX], struct dha_err *e);

bool tcp_host_known(const char *bound, const char *hosts, const char *host);
/* Origin: http:// or https:// and a Host that is known. */
bool tcp_origin_known(const char *bound, const char *hosts, const char *origin);
/* The token of "Bearer TOKEN", or NULL. */
const char *tcp_bearer(const char *authorization);
bool tcp_is_json(const char *content_type);

#endif
