/* api_daemon.c: the daemon about itself. */
#include "daemon/api.h"

#include <unistd.h>

#include "daemon/doc.h"

static cJSON *limits_doc(const struct daemon *d)
{
    struct server_limits l = server_limits(d->server);
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_int(j, "body_bytes", SERVER_BODY_MAX) |
             json_put_int(j, "headers", SERVER_HEADERS_MAX) |
             json_put_int(j, "header_bytes", SERVER_HEADER_BYTES) |
             json_put_int(j, "connections", l.connections) |
             json_put_int(j, "connections_per_user", l.connections_per_user) |
             json_put_int(j, "streams", l.streams) |
             json_put_int(j, "streams_per_user", l.streams_per_user) |
             json_put_int(j, "tcp_connections", l.tcp_connections) |
             json_put_int(j, "tcp_connections_per_address", l.tcp_connections_per_address) |
             json_put_int(j, "tcp_streams", l.tcp_streams) |
             json_put_int(j, "tcp_streams_per_address", l.tcp_streams_per_address);
    if (rc != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

/* The copies that are made by themselves (upkeep.h). */
static cJSON *backup_doc(const struct daemon *d)
{
    const struct upkeep *u = &d->upkeep;
    cJSON *j = cJSON_CreateObject();
    int rc = json_put_id(j, "last_us", u->copied_us) |
             json_put_int(j, "every_hours", d->settings.backup_hours) |
             doc_put_text(j, "error", u->failed.code != DHA_E_OK ? u->failed.msg : NULL);
    if (rc != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

enum api_outcome api_version(struct api_call *c)
{
    int64_t now = now_us();
    if (api_answer(c, "version", cJSON_CreateString(DHA_VERSION)) != API_OK) {
        return API_FAIL;
    }
    cJSON *j = c->doc;
    int rc = json_put_int(j, "pid", (int64_t)getpid()) |
             json_put_str(j, "state_dir", c->d->state_dir) |
             json_put_id(j, "started_us", c->d->started_us) |
             json_put_num(j, "uptime_s", (double)(now - c->d->started_us) / 1e6) |
             json_put_str(j, "worker", c->d->launch.worker) |
             json_put_str(j, "launcher", c->d->launch.launcher->name) |
             json_put_int(j, "schema", STORE_SCHEMA) | doc_put_trouble(j, c->d) |
             doc_put_notice(j, c->d) | json_put(j, "limits", limits_doc(c->d)) |
             json_put(j, "backup", backup_doc(c->d)) |
             doc_put_text(j, "tcp", c->d->tcp[0] ? c->d->tcp : NULL) |
             json_put_str(j, "role", access_role_name(c->role));
    if (rc != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
    }
    return rc == 0 ? API_OK : API_FAIL;
}

/* Alive = the loop turns: that there is an answer says it. */
enum api_outcome api_alive(struct api_call *c)
{
    return api_answer(c, "ok", cJSON_CreateTrue());
}

/* Ready = the attempts that run are known, the database answers and changes can be saved. */
enum api_outcome api_ready(struct api_call *c)
{
    int64_t jobs[JOB_STATES], stages[STAGE_STATES];
    if (c->d->blind && !c->d->no_jobs) {
        dha_fail(&c->e, DHA_E_TRANSIENT, "which stages run is not known yet: adoption goes on");
        dha_err_hint(&c->e, "it is tried again by itself; the log says what is in the way");
        return API_FAIL;
    }
    if (store_counts(c->d->store, jobs, stages, &c->e) != 0) {
        c->e.code = DHA_E_TRANSIENT;
        dha_err_context(&c->e, "the database does not answer");
        return API_FAIL;
    }
    if (turn_writable(c->d, &c->e) != 0) {
        return API_FAIL;
    }
    return api_answer(c, "ok", cJSON_CreateTrue());
}

enum api_outcome api_shutdown(struct api_call *c)
{
    daemon_quit_soon(c->d);
    return api_answer(c, "ok", cJSON_CreateTrue());
}
