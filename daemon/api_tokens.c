/* api_tokens.c: tokens of those who come over TCP: making them, and knowing them again. */
#include "daemon/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/doc.h"
#include "daemon/runas.h"
#include "daemon/stagekey.h"

enum { TOKEN_BYTES = 32, TOKEN_SIZE = 2 * TOKEN_BYTES + 1 };
_Static_assert(STORE_DIGEST_SIZE == STAGEKEY_SIZE, "both are SHA-256 in hex");

/* ---- who is it? ---- */

static int refuse_token(struct api_call *c, const char *why)
{
    dha_fail(&c->e, DHA_E_UNAUTHENTICATED, "%s", why);
    return dha_err_hint(&c->e, "send \"Authorization: Bearer TOKEN\" with one of `dha admin token "
                               "create`, or no such header: reading needs none");
}

/* Host and Origin (tcp.h). */
static int check_request(struct api_call *c)
{
    const struct server_request *rq = c->rq;
    const char *host = server_header(rq, "Host"), *origin = server_header(rq, "Origin");
    const char *hosts = c->d->settings.tcp_hosts;
    bool change = strcmp(rq->method, "GET") != 0;
    if (server_header_count(rq, "Host") != 1 || !tcp_host_known(c->d->tcp, hosts, host)) {
        dha_fail(&c->e, DHA_E_FORBIDDEN, "this daemon is not called \"%.100s\"", host ? host : "");
        return dha_err_hint(&c->e, "it is %s; other names are given with the setting \"tcp_hosts\"",
                            c->d->tcp);
    }
    if (change && origin &&
        (server_header_count(rq, "Origin") != 1 || !tcp_origin_known(c->d->tcp, hosts, origin))) {
        return dha_fail(&c->e, DHA_E_FORBIDDEN, "a page of \"%.100s\" may change nothing here",
                        origin);
    }
    return 0;
}

int api_body_type(struct api_call *c)
{
    const struct server_request *rq = c->rq;
    if (rq->tcp && rq->body_len > 0 &&
        (server_header_count(rq, "Content-Type") != 1 ||
         !tcp_is_json(server_header(rq, "Content-Type")))) {
        return dha_fail(&c->e, DHA_E_USAGE, "over TCP a body needs Content-Type: application/json");
    }
    return 0;
}

int api_token_check(struct api_call *c)
{
    char digest[STORE_DIGEST_SIZE];
    struct store_token t;
    bool found;
    int n = server_header_count(c->rq, "Authorization");
    c->role = ACCESS_VIEWER;
    if (check_request(c) != 0) {
        return -1;
    }
    if (n == 0) {
        return 0;
    }
    const char *text = n == 1 ? tcp_bearer(server_header(c->rq, "Authorization")) : NULL;
    if (!text) {
        return refuse_token(c, "the Authorization is not one \"Bearer TOKEN\"");
    }
    if (stagekey_digest(text, digest, &c->e) != 0 ||
        store_token_find(c->d->store, digest, &t, &found, &c->e) != 0) {
        return -1;
    }
    /* A role that is none (a damaged row) lets nobody in. */
    c->role = found ? access_role_named(t.role) : ACCESS_NONE;
    if (c->role == ACCESS_NONE) {
        return refuse_token(c, "this token is not known, or has been revoked");
    }
    c->rq->peer_uid = (uid_t)t.owner_uid;
    return 0;
}

/* ---- routes ---- */

static bool is_name(const char *text)
{
    size_t n = strlen(text);
    return n > 0 && n < sizeof((struct store_token *)0)->name &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static cJSON *token_doc(const struct store_token *t)
{
    cJSON *j = cJSON_CreateObject();
    if ((json_put_str(j, "name", t->name) | json_put_str(j, "role", t->role) |
         json_put_id(j, "uid", t->owner_uid) | json_put_id(j, "created_us", t->created_us)) != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

static int make_secret(char secret[TOKEN_SIZE], struct dha_err *e)
{
    unsigned char bytes[TOKEN_BYTES];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        return dha_fail_errno(e, errno, "no random bytes");
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        snprintf(secret + 2 * i, 3, "%02x", bytes[i]);
    }
    return 0;
}

static int read_token(struct api_call *c, struct store_token *t)
{
    const char *name, *role;
    int64_t uid = (int64_t)c->rq->peer_uid;
    if (json_need_str(c->body, "name", &name, &c->e) != 0 ||
        json_need_str(c->body, "role", &role, &c->e) != 0 ||
        (json_get(c->body, "uid") && json_need_int(c->body, "uid", &uid, &c->e) != 0)) {
        c->e.code = DHA_E_USAGE;
        return -1;
    }
    if (!is_name(name)) {
        return dha_fail(&c->e, DHA_E_USAGE,
                        "a token's name has 1 to 63 letters, digits, dots, dashes or underscores");
    }
    if (access_role_named(role) == ACCESS_NONE) {
        return dha_fail(&c->e, DHA_E_USAGE, "\"role\" is \"viewer\", \"operator\" or \"owner\"");
    }
    if (uid < 0 || uid >= (int64_t)SERVER_NOBODY) {
        return dha_fail(&c->e, DHA_E_USAGE, "\"uid\" is no user's number");
    }
    *t = (struct store_token){.owner_uid = uid, .created_us = now_us()};
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->role, sizeof t->role, "%s", role);
    return 0;
}

/* Where jobs run as their users, one who is none could submit nothing: said now, and not to whoever has the token. */
static int check_user(struct api_call *c, const struct store_token *t)
{
    struct runas_account ignored;
    if (access_may(access_role_named(t->role), ACCESS_SUBMIT) == ACCESS_NO ||
        runas_user(t->owner_uid) == RUNAS_SELF ||
        runas_account((uid_t)t->owner_uid, &ignored, &c->e) == 0) {
        return 0;
    }
    return c->e.code == DHA_E_FORBIDDEN
               ? dha_err_hint(&c->e,
                              "name a user that `getent passwd` knows on the daemon's host; or "
                              "make it a viewer's token, which submits nothing")
               : -1;
}

enum api_outcome api_token_new(struct api_call *c)
{
    char secret[TOKEN_SIZE], digest[STORE_DIGEST_SIZE];
    struct store_token t;
    if (read_token(c, &t) != 0 || check_user(c, &t) != 0 || make_secret(secret, &c->e) != 0 ||
        stagekey_digest(secret, digest, &c->e) != 0 ||
        store_token_new(c->d->store, &t, digest, &c->e) != 0) {
        return API_FAIL;
    }
    cJSON *j = token_doc(&t);
    if (json_put_str(j, "secret", secret) != 0) {
        cJSON_Delete(j);
        j = NULL;
    }
    c->status = 201;
    explicit_bzero(secret, sizeof secret);
    return api_answer(c, "token", j);
}

enum api_outcome api_token_list(struct api_call *c)
{
    struct store_token *tokens;
    size_t n;
    if (store_tokens(c->d->store, &tokens, &n, &c->e) != 0) {
        return API_FAIL;
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list && i < n; i++) {
        cJSON *one = token_doc(&tokens[i]);
        if (!one || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            list = NULL;
        }
    }
    free(tokens);
    return api_answer(c, "tokens", list);
}

enum api_outcome api_token_revoke(struct api_call *c)
{
    return store_token_revoke(c->d->store, c->name, now_us(), &c->e) == 0
               ? api_answer(c, "ok", cJSON_CreateTrue())
               : API_FAIL;
}
