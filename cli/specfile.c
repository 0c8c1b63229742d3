#include "cli/specfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/locate.h"
#include "proto/spec.h"

#define SPEC_MAX ((size_t)1 << 20) /* the API's limit for a body */

static int read_stdin(cJSON **out, struct dha_err *e)
{
    char *buf = malloc(SPEC_MAX + 1);
    size_t n;

    if (!buf) {
        return dha_fail(e, DHA_E_NO_MEMORY, "reading a spec");
    }
    n = fread(buf, 1, SPEC_MAX + 1, stdin);
    *out = NULL;
    if (ferror(stdin)) {
        dha_fail_errno(e, errno, "reading standard input");
    } else if (n > SPEC_MAX) {
        dha_fail(e, DHA_E_TOO_LARGE, "standard input is over %zu bytes", SPEC_MAX);
    } else {
        *out = json_parse(buf, n, NULL, e);
        if (!*out) {
            dha_err_context(e, "standard input");
        }
    }
    free(buf);
    return *out ? 0 : -1;
}

static int absolute_string(cJSON *item, const char *base, struct dha_err *e)
{
    char path[LOCATE_MAX];

    if (!cJSON_IsString(item) || !*item->valuestring) {
        return 0;
    }
    if (locate_absolute(base, item->valuestring, path, sizeof path, e)) {
        return -1;
    }
    return cJSON_SetValuestring(item, path) ? 0
                                            : dha_fail(e, DHA_E_NO_MEMORY, "making paths absolute");
}

struct absolute {
    const char *base;
    struct dha_err *e;
};

static int make_absolute(void *arg, cJSON *item, const char *where)
{
    struct absolute *a = arg;
    (void)where;
    return absolute_string(item, a->base, a->e);
}

int specfile_absolute(cJSON *spec, const char *base, struct dha_err *e)
{
    struct absolute a = {base, e};

    return absolute_string(cJSON_GetObjectItemCaseSensitive(spec, "model"), base, e) ||
                   spec_each_file(spec, make_absolute, &a)
               ? -1
               : 0;
}

int specfile_read(const char *path, const struct args *a, cJSON **out, struct dha_err *e)
{
    char base[LOCATE_MAX];
    const char *set;
    char *slash;
    bool from_stdin = !strcmp(path, "-");
    int rc;

    *out = NULL;
    if (from_stdin) {
        rc = read_stdin(out, e);
    } else {
        *out = json_parse_file(path, SPEC_MAX, e);
        rc = *out ? 0 : -1;
    }
    if (rc) {
        return -1;
    }
    for (int i = 0; (set = arg_nth(a, "set", i)); i++) {
        if (spec_set(*out, set, e)) {
            dha_err_context(e, "--set %s", set);
            goto fail;
        }
    }
    if (!from_stdin) {
        if (locate_absolute(NULL, path, base, sizeof base, e)) {
            goto fail;
        }
        slash = strrchr(base, '/');
        if (slash) {
            slash[slash == base] = 0;
        }
    }
    if (specfile_absolute(*out, from_stdin ? NULL : base, e)) {
        goto fail;
    }
    return 0;
fail:
    cJSON_Delete(*out);
    *out = NULL;
    return -1;
}

int specfile_print_errors(FILE *out, const char *what, const cJSON *error)
{
    const cJSON *err;
    int n = cJSON_GetArraySize(json_get(error, "errors"));

    if (n > 0) {
        fprintf(out, "dha: %s has %d error%s:\n", what, n, n == 1 ? "" : "s");
    }
    cJSON_ArrayForEach(err, json_get(error, "errors"))
    {
        const char *hint = json_str(err, "hint", "");
        fprintf(out, "  %-24s %s\n", json_str(err, "path", "$"), json_str(err, "message", "?"));
        if (*hint) {
            fprintf(out, "  %-24s %s\n", "", hint);
        }
    }
    return n;
}

int specfile_post(struct client *c, const cJSON *spec, const struct submission *s, cJSON **out,
                  struct dha_err *e)
{
    cJSON *body = cJSON_CreateObject();
    struct dha_err why = {0};
    int rc;

    if (!body || json_put(body, "spec", cJSON_Duplicate(spec, true)) ||
        json_put_bool(body, "dry_run", s->dry_run) ||
        (s->hold && json_put_bool(body, "hold", true)) ||
        (s->after && json_put(body, "after", cJSON_Duplicate(s->after, true)))) {
        cJSON_Delete(body);
        return dha_fail(e, DHA_E_NO_MEMORY, "submitting");
    }
    rc = client_post(c, "/v1/jobs", body, s->key, out, &why);
    cJSON_Delete(body);
    if (rc) {
        if (why.code == DHA_E_SPEC && specfile_print_errors(stderr, "the spec", client_errors(c))) {
            dha_fail(e, why.code, "nothing was submitted");
            return -1;
        }
        *e = why;
    }
    return rc;
}

bool specfile_say_blocked(const char *whose, const cJSON *now)
{
    const char *verdict = json_str(now, "verdict", "");

    if (strcmp(verdict, "drained") && strcmp(verdict, "never_fits")) {
        return false;
    }
    cli_say("%s cannot start as things are: %s\nwhat would help: %s", whose,
            json_str(now, "reason", "?"), json_str(now, "unblock", "?"));
    return true;
}

void specfile_say_if_blocked(struct client *c, const char *id)
{
    struct dha_err why = {0};
    cJSON *now = NULL;
    char whose[32];

    snprintf(whose, sizeof whose, "job %.20s", id);
    if (client_get(c, &now, &why, "/v1/jobs/%s/explain", id)) {
        cli_say("%s is submitted; whether it can start is not known: %s", whose, why.msg);
    } else {
        specfile_say_blocked(whose, now);
    }
    cJSON_Delete(now);
}
