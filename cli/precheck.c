#include "cli/precheck.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/locate.h"
#include "cli/specfile.h"

static const char said_by[] = "dha-worker check: ";
static const char hint_mark[] = "  hint: ";

/* Appends a line to buf, which holds `cap` bytes; what does not fit is cut. */
static void add_line(char *buf, size_t cap, const char *line, size_t len)
{
    size_t n = strlen(buf);

    snprintf(buf + n, cap - n, "%s%.*s", n ? "\n" : "", (int)len, line);
}

int precheck_error(const char *text, int status, struct dha_err *e)
{
    char msg[sizeof e->msg] = "";
    char hint[sizeof e->hint] = "";
    const char *line = strstr(text, said_by);
    enum dha_code code = dha_code_from_exit(status);

    if (status > 128 || code == DHA_E_COUNT || code == DHA_E_OK || !line) {
        child_failed("dha-worker check", status, e);
        return dha_err_hint(e, "--no-check submits without it");
    }
    for (line += strlen(said_by); *line;) {
        size_t len = strcspn(line, "\n");
        if (!strncmp(line, hint_mark, strlen(hint_mark))) {
            add_line(hint, sizeof hint, line + strlen(hint_mark), len - strlen(hint_mark));
        } else {
            add_line(*hint ? hint : msg, *hint ? sizeof hint : sizeof msg, line, len);
        }
        line += len + (line[len] == '\n');
    }
    dha_fail(e, code, "%s", msg);
    return dha_err_hint(e, "%s", hint);
}

/* A file that has no name and is gone with us; the child opens it as `path`. */
static int spec_as_file(const cJSON *spec, char path[32], int *fd, struct dha_err *e)
{
    char *text = json_text(spec);
    size_t len = text ? strlen(text) : 0;
    int rc = 0;

    if (!text) {
        return dha_fail(e, DHA_E_NO_MEMORY, "checking the spec");
    }
    *fd = memfd_create("dha-spec", 0); /* inherited: the child reads it */
    if (*fd < 0 || write(*fd, text, len) != (ssize_t)len) {
        rc = dha_fail_errno(e, errno, "writing the spec for dha-worker check");
    }
    free(text);
    snprintf(path, 32, "/proc/self/fd/%d", *fd);
    return rc;
}

static bool wanted(const struct args *a, char worker[LOCATE_MAX])
{
    const char *off = getenv("DHA_NO_CHECK");
    struct dha_err none = {0};

    return !arg_flag(a, "no-check") && (!off || !*off || !strcmp(off, "0")) &&
           !locate_program("dha-worker", worker, LOCATE_MAX, &none);
}

int precheck_needs(const struct args *a, const cJSON *spec, cJSON **needs, struct dha_err *e)
{
    char worker[LOCATE_MAX];
    char path[32];
    char *text = NULL;
    int status = 0;
    int fd = -1;
    int ret = -1;

    *needs = NULL;
    if (!wanted(a, worker)) {
        return 0;
    }
    if (!spec_as_file(spec, path, &fd, e)) {
        const char *argv[] = {worker, "check", "--json", path, NULL};
        ret = child_run(argv, CHILD_STDOUT_CAPTURE, &text, &status, e);
    }
    if (!ret && status == 0 && text) {
        *needs = json_parse(text, strlen(text), NULL, NULL);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(text);
    return ret;
}

int precheck(struct client *c, const struct args *a, const cJSON *spec, struct dha_err *e)
{
    char worker[LOCATE_MAX];
    char path[32];
    cJSON *plan = NULL;
    char *text = NULL;
    int status = 0;
    int fd = -1;
    int ret = -1;

    if (!wanted(a, worker)) {
        return 0;
    }
    if (spec_as_file(spec, path, &fd, e)) {
        goto out;
    }
    const char *argv[] = {worker, "check", path, NULL};
    if (child_run(argv, CHILD_STDERR_CAPTURE, &text, &status, e)) {
        goto out;
    }
    if (status == 0 || status == dha_code_exit(DHA_E_USAGE)) {
        ret = 0; /* USAGE: a worker without this command */
        goto out;
    }
    if (specfile_post(c, spec, &(struct submission){.dry_run = true}, &plan, e)) {
        goto out;
    }
    precheck_error(text, status, e);
out:
    if (fd >= 0) {
        close(fd);
    }
    cJSON_Delete(plan);
    free(text);
    return ret;
}
