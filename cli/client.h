/* client.h: one conversation with the daemon: HTTP over its unix socket (proto/API.md).
 *
 * client_open() finds the daemon and, where the user named none, starts a private one and says so once.
 * Every answer that is not 2xx becomes a struct dha_err with the code, message and hint that the daemon gave;
 * client_errors() then still holds the whole error document (a refused spec lists all its errors there).
 * Documents are owned by the caller (cJSON_Delete).
 */
#ifndef DHA_CLI_CLIENT_H
#define DHA_CLI_CLIENT_H

#include "cli/cli.h"

struct client;

struct client *client_open(const struct cli *cli, struct dha_err *e);
/* As above, but a daemon that is not there stays away: DHA_E_UNREACHABLE. */
struct client *client_open_existing(const struct cli *cli, struct dha_err *e);
void client_close(struct client *c);
const char *client_socket(const struct client *c);

int client_get(struct client *c, cJSON **out, struct dha_err *e, const char *path_fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* body NULL = {}; key NULL = none. */
int client_post(struct client *c, const char *path, const cJSON *body, const char *idempotency_key,
                cJSON **out, struct dha_err *e);
/* The "error" object of the last refusal, or NULL. */
const cJSON *client_errors(const struct client *c);
/* Percent-encodes for a query or path segment. free() it. */
char *client_escape(struct client *c, const char *text);

struct client_bytes {
    char *data; /* free() */
    size_t len;
    int64_t next;    /* X-Dha-Offset */
    bool end;        /* X-Dha-End: 1 */
    int ranks;       /* X-Dha-Ranks */
    char path[1024]; /* X-Dha-Path */
};
int client_get_bytes(struct client *c, const char *path, struct client_bytes *out,
                     struct dha_err *e);

/* DHA_E_USAGE where a word that is to name something ("the job's id") is empty; `list` shows what there is. */
int client_check_word(const char *what, const char *text, const char *list, struct dha_err *e);

/* Which job a name means that several have. What changes a job takes none by chance: DHA_E_CONFLICT. */
enum client_pick {
    CLIENT_NEWEST, /* the newest */
    CLIENT_LIVE,   /* the only one that has not ended */
    CLIENT_ONLY,   /* none */
};

/* A job named by its id, or by its name. */
int client_job_id(struct client *c, const char *text, enum client_pick pick, char id[24],
                  struct dha_err *e);
/* GET /v1/jobs/ID; *out is the JOB object itself. */
int client_job(struct client *c, const char *id, cJSON **out, struct dha_err *e);

#endif
