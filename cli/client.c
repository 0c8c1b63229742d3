#include "cli/client.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>

#include "cli/locate.h"
#include "cli/start.h"
#include "proto/text.h"

/* No answer of ours comes near; a runaway one must not fill the memory. */
#define ANSWER_MAX ((size_t)256 << 20)
/* Of jobs of one name that are counted: the daemon's longest list. */
#define SAME_NAME_MAX 1000
#define CONNECT_TRIES 5

struct client {
    CURL *curl;
    struct locate_socket where;
    const char *url;   /* $DHA_URL: over TCP instead of the socket; NULL = not */
    const char *token; /* $DHA_TOKEN, with a URL; NULL = none */
    int connect_errno; /* of the last connect(2); EAGAIN: the daemon has no room; 0 = none */
    bool json;         /* documents go out as they are; otherwise as text, see show() */
    cJSON *errors;
    char curl_error[CURL_ERROR_SIZE];
};

struct answer {
    char *data;
    size_t len, cap;
    int64_t next;
    int ranks;
    bool end, too_large;
    char path[1024];
};

static size_t take_body(char *data, size_t size, size_t n, void *arg)
{
    struct answer *a = arg;
    size_t len = size * n;

    if (a->len + len + 1 > a->cap) {
        size_t cap = (a->len + len + 1) * 2;
        char *grown = cap > ANSWER_MAX ? NULL : realloc(a->data, cap);
        if (!grown) {
            a->too_large = true;
            return 0; /* curl ends the transfer */
        }
        a->data = grown;
        a->cap = cap;
    }
    memcpy(a->data + a->len, data, len);
    a->len += len;
    a->data[a->len] = 0;
    return len;
}

static size_t take_header(char *data, size_t size, size_t n, void *arg)
{
    struct answer *a = arg;
    size_t len = size * n;
    char line[1200];
    char *value;
    size_t end;

    snprintf(line, sizeof line, "%.*s", (int)(len < sizeof line ? len : sizeof line - 1), data);
    value = strchr(line, ':');
    if (!value) {
        return len;
    }
    *value++ = 0;
    value += strspn(value, " \t");
    end = strlen(value);
    while (end && isspace((unsigned char)value[end - 1])) {
        value[--end] = 0;
    }
    if (!strcasecmp(line, "X-Dha-Offset")) {
        a->next = strtoll(value, NULL, 10);
    } else if (!strcasecmp(line, "X-Dha-End")) {
        a->end = !strcmp(value, "1");
    } else if (!strcasecmp(line, "X-Dha-Ranks")) {
        a->ranks = (int)strtol(value, NULL, 10);
    } else if (!strcasecmp(line, "X-Dha-Path")) {
        snprintf(a->path, sizeof a->path, "%s", value);
    }
    return len;
}

static int add_header(struct curl_slist **headers, const char *name, const char *value)
{
    char *line = NULL;
    struct curl_slist *more = NULL;

    if (asprintf(&line, "%s%s", name, value) >= 0) {
        more = curl_slist_append(*headers, line);
        free(line);
    }
    *headers = more ? more : *headers;
    return more ? 0 : -1;
}

/* curl connects to the socket without blocking, which fails at once, and without an errno, where the daemon's queue of
 * connections is full. So a connection of our own waits for room, and curl tries again: the pause is for the daemon to
 * take ours from the queue. */
static CURLcode converse(struct client *c)
{
    struct timespec pause = {.tv_nsec = 20000000};
    CURLcode rc;

    for (int tries = 1;; tries++, pause.tv_nsec *= 2) {
        long errnum = 0;
        int fd;
        rc = curl_easy_perform(c->curl);
        if (rc != CURLE_COULDNT_CONNECT) {
            c->connect_errno = 0;
            return rc;
        }
        curl_easy_getinfo(c->curl, CURLINFO_OS_ERRNO, &errnum);
        c->connect_errno = (int)errnum;
        if (c->url || errnum) {
            return rc;
        }
        c->connect_errno = EAGAIN;
        if (tries == CONNECT_TRIES) {
            return rc;
        }
        fd = daemon_connect(c->where.path);
        if (fd < 0) {
            c->connect_errno = errno;
            return rc;
        }
        close(fd);
        nanosleep(&pause, NULL);
    }
}

/* There was no answer: why, and what to do. */
static void unanswered(struct client *c, CURLcode rc, struct dha_err *e)
{
    const char *where = c->where.path;

    if (!c->url && c->connect_errno == EAGAIN) {
        dha_fail(e, DHA_E_UNREACHABLE, "the daemon at %s has no room for another connection",
                 where);
        dha_err_hint(e, "somebody holds too many, or it hangs: try again; its dhad.log says more");
        return;
    }
    dha_fail(e, DHA_E_UNREACHABLE, "the daemon does not answer at %s (%s)", where,
             c->connect_errno   ? strerror(c->connect_errno)
             : c->curl_error[0] ? c->curl_error
                                : curl_easy_strerror(rc));
    if (c->url) {
        dha_err_hint(e, "is $DHA_URL right, and does the daemon listen there (`dhad --tcp`)?");
        return;
    }
    dha_err_hint(e,
                 c->connect_errno == EACCES
                     ? "you may not open %s: another user's? DHA_SOCKET or --socket names one"
                 : c->where.named
                     ? "is that the right socket?  `dha up --socket %s` starts a daemon there"
                     : "`dha up` starts one (socket %s)",
                 where);
}

/* One request. On return a->data is the body, also of a refusal; *status the HTTP status. */
static int perform(struct client *c, const char *path, const char *body, const char *key,
                   struct answer *a, long *status, struct dha_err *e)
{
    struct curl_slist *headers = NULL;
    char *url = NULL;
    CURLcode rc;
    int ret = -1;

    if (asprintf(&url, "%s%s", c->url ? c->url : "http://dhad", path) < 0) {
        url = NULL;
        goto memory;
    }
    headers = curl_slist_append(NULL, "Accept: application/json");
    if (body) {
        /* An empty Expect: no pause for "100 Continue" before a body. */
        struct curl_slist *more = curl_slist_append(headers, "Content-Type: application/json");
        headers = more ? more : headers;
        more = more ? curl_slist_append(headers, "Expect:") : NULL;
        if (!more) {
            goto memory;
        }
        headers = more;
    }
    if ((key && add_header(&headers, "Idempotency-Key: ", key)) ||
        (c->token && add_header(&headers, "Authorization: Bearer ", c->token))) {
        goto memory;
    }
    curl_easy_reset(c->curl);
    c->curl_error[0] = 0;
    if (c->url) {
        curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    } else {
        curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, c->where.path);
    }
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->curl_error);
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_PROXY, "");
    curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(c->curl, CURLOPT_TIMEOUT, 90L); /* the longest long poll is 30 s */
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(c->curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(c->curl, CURLOPT_HEADERDATA, a);
    if (body) {
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body);
    }
    rc = converse(c);
    if (a->too_large) {
        dha_fail(e, DHA_E_TOO_LARGE, "the daemon's answer to %s is over %zu MiB", path,
                 ANSWER_MAX >> 20);
        goto out;
    }
    if (rc) {
        unanswered(c, rc, e);
        goto out;
    }
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, status);
    ret = 0;
    goto out;

memory:
    dha_fail(e, DHA_E_NO_MEMORY, "asking %s", path);
out:
    curl_slist_free_all(headers);
    free(url);
    return ret;
}

static int show_one(char **at)
{
    size_t len = *at ? strlen(*at) : 0;
    size_t need = *at ? text_shown(NULL, 0, *at, false) : 0;
    char *shown;

    if (need == len) {
        return 0;
    }
    shown = cJSON_malloc(need + 1);
    if (!shown) {
        return -1;
    }
    text_shown(shown, need + 1, *at, false);
    cJSON_free(*at);
    *at = shown;
    return 0;
}

/* Strings of an answer are what any user wrote: file names, messages, paths. All that is printed of them as text comes
 * through here, so that none can send a terminal its commands. */
static int show(cJSON *doc)
{
    cJSON *item;

    if (show_one(&doc->string) || (cJSON_IsString(doc) && show_one(&doc->valuestring))) {
        return -1;
    }
    cJSON_ArrayForEach(item, doc)
    {
        if (show(item)) {
            return -1;
        }
    }
    return 0;
}

/* A refusal's document -> *e. */
static int refused(struct client *c, const char *path, const struct answer *a, long status,
                   struct dha_err *e)
{
    const struct json_limits lim = {.max_bytes = ANSWER_MAX};
    cJSON *doc = a->data ? json_parse(a->data, a->len, &lim, NULL) : NULL;
    cJSON *err = doc ? cJSON_DetachItemFromObjectCaseSensitive(doc, "error") : NULL;
    enum dha_code code;

    cJSON_Delete(doc);
    if (err && show(err)) {
        cJSON_Delete(err);
        return dha_fail(e, DHA_E_NO_MEMORY, "reading the daemon's answer to %s", path);
    }
    cJSON_Delete(c->errors);
    c->errors = err;
    if (!err) {
        return dha_fail(e, DHA_E_PROTOCOL,
                        "the daemon answered %s with status %ld and no error document", path,
                        status);
    }
    code = dha_code_from_name(json_str(err, "code", ""));
    dha_fail(e, code == DHA_E_COUNT ? DHA_E_FAILED : code, "%s",
             json_str(err, "message", "the daemon refused without a reason"));
    snprintf(e->path, sizeof e->path, "%s", json_str(err, "path", ""));
    return dha_err_hint(e, "%s", json_str(err, "hint", ""));
}

static int request(struct client *c, const char *path, const char *body, const char *key,
                   cJSON **out, struct dha_err *e)
{
    const struct json_limits lim = {.max_bytes = ANSWER_MAX};
    struct answer a = {0};
    long status = 0;
    int ret = -1;

    if (out) {
        *out = NULL;
    }
    if (perform(c, path, body, key, &a, &status, e)) {
        goto out;
    }
    if (status < 200 || status > 299) {
        refused(c, path, &a, status, e);
        goto out;
    }
    if (out) {
        *out = json_parse(a.data ? a.data : "", a.len, &lim, e);
        if (!*out) {
            dha_err_context(e, "the daemon's answer to %s", path);
            goto out;
        }
        if (!c->json && show(*out)) {
            dha_fail(e, DHA_E_NO_MEMORY, "reading the daemon's answer to %s", path);
            cJSON_Delete(*out);
            *out = NULL;
            goto out;
        }
    }
    ret = 0;
out:
    free(a.data);
    return ret;
}

int client_get(struct client *c, cJSON **out, struct dha_err *e, const char *path_fmt, ...)
{
    char *path = NULL;
    va_list ap;
    int n;
    int rc;

    va_start(ap, path_fmt);
    n = vasprintf(&path, path_fmt, ap);
    va_end(ap);
    if (n < 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "asking the daemon");
    }
    rc = request(c, path, NULL, NULL, out, e);
    free(path);
    return rc;
}

int client_post(struct client *c, const char *path, const cJSON *body, const char *idempotency_key,
                cJSON **out, struct dha_err *e)
{
    char *text = body ? json_text(body) : strdup("{}");
    int rc;

    if (!text) {
        return dha_fail(e, DHA_E_NO_MEMORY, "asking the daemon");
    }
    rc = request(c, path, text, idempotency_key, out, e);
    free(text);
    return rc;
}

int client_get_bytes(struct client *c, const char *path, struct client_bytes *out,
                     struct dha_err *e)
{
    struct answer a = {0};
    long status = 0;

    memset(out, 0, sizeof *out);
    if (perform(c, path, NULL, NULL, &a, &status, e)) {
        free(a.data);
        return -1;
    }
    if (status < 200 || status > 299) {
        refused(c, path, &a, status, e);
        free(a.data);
        return -1;
    }
    out->data = a.data;
    out->len = a.len;
    out->next = a.next;
    out->end = a.end;
    out->ranks = a.ranks;
    memcpy(out->path, a.path, sizeof out->path);
    return 0;
}

const cJSON *client_errors(const struct client *c)
{
    return c->errors;
}

const char *client_socket(const struct client *c)
{
    return c->where.path;
}

char *client_escape(struct client *c, const char *text)
{
    char *curls = curl_easy_escape(c->curl, text, 0);
    char *ours = curls ? strdup(curls) : NULL;

    curl_free(curls);
    return ours;
}

void client_close(struct client *c)
{
    if (!c) {
        return;
    }
    curl_easy_cleanup(c->curl);
    cJSON_Delete(c->errors);
    free(c);
}

/* Two daemons of one user can differ in their state: do not quietly talk to the other one. */
static int check_state(struct client *c, struct dha_err *e)
{
    char want[LOCATE_MAX];
    const char *have;
    cJSON *v;
    int rc = 0;

    if (c->where.named || !getenv("DHA_STATE") || !*getenv("DHA_STATE")) {
        return 0;
    }
    if (locate_state(want, sizeof want, e) || client_get(c, &v, e, "/v1/version")) {
        return -1;
    }
    have = json_str(v, "state_dir", "");
    char *a = realpath(have, NULL);
    char *b = realpath(want, NULL);
    if (strcmp(a ? a : have, b ? b : want)) {
        rc = dha_fail(e, DHA_E_CONFLICT,
                      "the daemon at %s keeps its state in %s, but DHA_STATE is %s", c->where.path,
                      have, want);
        dha_err_hint(
            e, "name another socket too (DHA_SOCKET=%s/sock with `dha up`), or `dha down` first",
            want);
    }
    free(a);
    free(b);
    cJSON_Delete(v);
    return rc;
}

/* $DHA_URL and $DHA_TOKEN. */
static int find_url(struct client *c, struct dha_err *e)
{
    const char *url = getenv("DHA_URL");
    const char *token = getenv("DHA_TOKEN");

    if (!url || !*url) {
        return 0;
    }
    if ((strncmp(url, "http://", 7) && strncmp(url, "https://", 8)) ||
        strspn(strchr(url, ':'), ":/") == strlen(strchr(url, ':')) ||
        strlen(url) >= sizeof c->where.path) {
        dha_fail(e, DHA_E_USAGE, "$DHA_URL is \"%.100s\"", url);
        return dha_err_hint(e, "like http://127.0.0.1:8080");
    }
    if (token && strspn(token, "0123456789abcdef") != strlen(token)) {
        dha_fail(e, DHA_E_USAGE, "$DHA_TOKEN is no token");
        return dha_err_hint(
            e, "it is the secret that `dha admin token create` shows, and nothing else");
    }
    c->token = token && *token ? token : NULL;
    c->where.named = true;
    snprintf(c->where.path, sizeof c->where.path, "%s", url);
    for (size_t n = strlen(url); c->where.path[n - 1] == '/'; n--) { /* ours begin with one */
        c->where.path[n - 1] = 0;
    }
    c->url = c->where.path;
    return 0;
}

static struct client *open_client(const struct cli *cli, bool may_start, struct dha_err *e)
{
    struct client *c = calloc(1, sizeof *c);
    struct dha_err why = {0};
    int rc;

    if (!c) {
        dha_fail(e, DHA_E_NO_MEMORY, "opening a client");
        return NULL;
    }
    c->json = cli->json;
    c->curl = curl_easy_init();
    if (!c->curl) {
        dha_fail(e, DHA_E_NO_MEMORY, "opening a client");
        goto fail;
    }
    if (find_url(c, e) || (!c->url && locate_socket(cli, &c->where, e))) {
        goto fail;
    }
    rc = request(c, "/livez", NULL, NULL, NULL, &why);
    if (rc && why.code == DHA_E_UNREACHABLE && c->connect_errno != EAGAIN && may_start &&
        !c->where.named) {
        char state[LOCATE_MAX];
        if (locate_state(state, sizeof state, e) || daemon_start(state, c->where.path, e)) {
            goto fail;
        }
        cli_say("started a private daemon (state in %s; `dha down` stops it)", state);
        rc = request(c, "/livez", NULL, NULL, NULL, &why);
    }
    if (rc) {
        *e = why;
        goto fail;
    }
    if (check_state(c, e)) {
        goto fail;
    }
    return c;
fail:
    client_close(c);
    return NULL;
}

struct client *client_open(const struct cli *cli, struct dha_err *e)
{
    return open_client(cli, true, e);
}

struct client *client_open_existing(const struct cli *cli, struct dha_err *e)
{
    return open_client(cli, false, e);
}

int client_check_word(const char *what, const char *text, const char *list, struct dha_err *e)
{
    if (*text) {
        return 0;
    }
    dha_fail(e, DHA_E_USAGE, "%s is empty", what);
    return dha_err_hint(e, "was a shell variable empty? `%s` shows those there are", list);
}

static int no_such_job(const char *text, struct dha_err *e)
{
    dha_fail(e, DHA_E_NOT_FOUND, "there is no job '%s'", text);
    return dha_err_hint(e, "`dha list` shows ids and names");
}

/* Several jobs have the name, and one of them is to be changed: which is not for us to guess. */
static int several(const char *text, const cJSON *doc, struct dha_err *e)
{
    const cJSON *jobs = json_get(doc, "jobs"), *job;
    char ids[128] = "";
    size_t len = 0;
    int shown = 0;

    cJSON_ArrayForEach(job, jobs)
    {
        if (shown++ == 5) {
            len += (size_t)snprintf(ids + len, sizeof ids - len, ", ...");
            break;
        }
        len += (size_t)snprintf(ids + len, sizeof ids - len, "%s%.19s", len ? ", " : "",
                                json_str(job, "id", "?"));
    }
    dha_fail(e, DHA_E_CONFLICT, "%s%d jobs are called '%s': %s",
             json_str(doc, "next", NULL) ? "more than " : "", cJSON_GetArraySize(jobs), text, ids);
    return dha_err_hint(e, "give the id: `dha list --name NAME` shows them");
}

int client_job_id(struct client *c, const char *text, enum client_pick pick, char id[24],
                  struct dha_err *e)
{
    cJSON *doc = NULL, *live = NULL;
    const char *found;
    char *name;
    int rc;

    if (client_check_word("the job's id", text, "dha list", e)) {
        return -1;
    }
    if (strlen(text) < 20 && strspn(text, "0123456789") == strlen(text)) {
        if (strspn(text, "0") == strlen(text)) { /* no id, and none for a path */
            return no_such_job("0", e);
        }
        snprintf(id, 24, "%s", text);
        return 0;
    }
    name = client_escape(c, text);
    if (!name) {
        return dha_fail(e, DHA_E_NO_MEMORY, "looking for the job '%s'", text);
    }
    rc = client_get(c, &doc, e, "/v1/jobs?name=%s&limit=%d", name,
                    pick == CLIENT_NEWEST ? 1 : SAME_NAME_MAX);
    if (!rc && pick == CLIENT_LIVE && json_at(doc, "jobs.1")) {
        rc = client_get(c, &live, e, "/v1/jobs?name=%s&limit=2&state=queued,held,running", name);
        if (!rc && cJSON_GetArraySize(json_get(live, "jobs")) == 1) {
            cJSON_Delete(doc);
            doc = live;
            live = NULL;
        }
    }
    free(name);
    if (rc) {
        goto out;
    }
    found = json_str(json_at(doc, "jobs.0"), "id", NULL);
    if (!found || strlen(found) >= 24) {
        rc = no_such_job(text, e);
    } else if (json_at(doc, "jobs.1")) {
        rc = several(text, doc, e);
    } else {
        snprintf(id, 24, "%s", found);
    }
out:
    cJSON_Delete(live);
    cJSON_Delete(doc);
    return rc;
}

int client_job(struct client *c, const char *id, cJSON **out, struct dha_err *e)
{
    cJSON *doc;

    if (client_get(c, &doc, e, "/v1/jobs/%s", id)) {
        return -1;
    }
    *out = cJSON_DetachItemFromObjectCaseSensitive(doc, "job");
    cJSON_Delete(doc);
    if (!*out) {
        return dha_fail(e, DHA_E_PROTOCOL, "the daemon's answer for job %s has no job in it", id);
    }
    return 0;
}
