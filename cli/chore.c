#include "cli/chore.h"

#include <string.h>

#include "cli/fmt.h"

#define WAIT_S 1

static void show(const struct fmt *f, const cJSON *chore)
{
    double done = json_num(chore, "done", 0);
    double total = json_num(chore, "total", 0);
    char a[FMT_BUF];
    char b[FMT_BUF];

    if (!f->tty) {
        return;
    }
    fprintf(stderr, "\r\033[K%s", json_str(chore, "phase", ""));
    if (total > 0) {
        fprintf(stderr, " %s of %s", fmt_count(a, done), fmt_count(b, total));
    } else if (done > 0) {
        fprintf(stderr, " %s", fmt_count(a, done));
    }
    fflush(stderr);
}

static int refused(const cJSON *chore, struct dha_err *e)
{
    const cJSON *err = json_get(chore, "error");
    enum dha_code code = dha_code_from_name(json_str(err, "code", ""));

    dha_fail(e, code == DHA_E_COUNT ? DHA_E_FAILED : code, "%s",
             json_str(err, "message", "the daemon gave no reason"));
    return dha_err_hint(e, "%s", json_str(err, "hint", ""));
}

/* Takes doc: the answer that started it. */
static int wait_for(struct client *c, cJSON *doc, cJSON **out, struct dha_err *e)
{
    struct fmt f = fmt_for(stderr);
    bool shown = false;

    for (;;) {
        const cJSON *chore = json_get(doc, "chore");
        const char *state = json_str(chore, "state", "?");
        char id[24];
        if (strcmp(state, "running")) {
            if (shown && f.tty) {
                fputs("\r\033[K", stderr);
            }
            *out = cJSON_DetachItemFromObjectCaseSensitive(doc, "chore");
            cJSON_Delete(doc);
            if (*out && strcmp(state, "failed")) {
                return 0;
            }
            int rc = refused(*out, e);
            cJSON_Delete(*out);
            *out = NULL;
            return rc;
        }
        show(&f, chore);
        shown = true;
        snprintf(id, sizeof id, "%s", json_str(chore, "id", ""));
        cJSON_Delete(doc);
        if (client_get(c, &doc, e, "/v1/admin/chores/%s?wait=%d", id, WAIT_S)) {
            return -1;
        }
    }
}

int chore_run(struct client *c, const char *path, const cJSON *body, cJSON **out, struct dha_err *e)
{
    cJSON *doc;

    *out = NULL;
    return client_post(c, path, body, NULL, &doc, e) ? -1 : wait_for(c, doc, out, e);
}

int chore_apply(struct client *c, const cJSON *chore, cJSON **out, struct dha_err *e)
{
    char path[80];

    snprintf(path, sizeof path, "/v1/admin/chores/%.24s/apply", json_str(chore, "id", ""));
    return chore_run(c, path, NULL, out, e);
}

bool chore_planned(const cJSON *chore)
{
    return !strcmp(json_str(chore, "state", ""), "planned");
}
