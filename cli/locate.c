#include "cli/locate.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int put(char *out, size_t cap, struct dha_err *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static int put(char *out, size_t cap, struct dha_err *e, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(out, cap, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= cap) {
        return dha_fail(e, DHA_E_USAGE, "a path is longer than %zu bytes: %.80s...", cap - 1, out);
    }
    return 0;
}

static const char *env(const char *name)
{
    const char *v = getenv(name);

    return v && *v ? v : NULL;
}

static int home(const char **out, struct dha_err *e)
{
    struct passwd *pw;

    *out = env("HOME");
    if (*out) {
        return 0;
    }
    pw = getpwuid(getuid());
    if (!pw || !pw->pw_dir || !*pw->pw_dir) {
        dha_fail(e, DHA_E_USAGE, "no home directory is known for user %ld", (long)getuid());
        return dha_err_hint(e, "set HOME, or DHA_STATE and DHA_SOCKET");
    }
    *out = pw->pw_dir;
    return 0;
}

int locate_absolute(const char *base, const char *path, char *out, size_t cap, struct dha_err *e)
{
    char cwd[LOCATE_MAX] = "";
    char raw[2 * LOCATE_MAX];
    size_t n = 0;

    if (path[0] != '/' && (!base || base[0] != '/') && !getcwd(cwd, sizeof cwd)) {
        return dha_fail_errno(e, errno, "the current directory");
    }
    if (path[0] == '/') {
        base = cwd[0] ? "" : NULL;
    }
    if (put(raw, sizeof raw, e, "%s/%s/%s", cwd, base ? base : "", path)) {
        return -1;
    }
    for (const char *s = raw; *s;) {
        size_t len = strcspn(s, "/");
        if (len && !(len == 1 && *s == '.')) {
            if (n + len + 2 > cap) {
                return dha_fail(e, DHA_E_USAGE, "path is too long: %.80s...", path);
            }
            out[n++] = '/';
            memcpy(out + n, s, len);
            n += len;
        }
        s += len + (s[len] == '/');
    }
    if (n == 0) {
        out[n++] = '/';
    }
    out[n] = 0;
    return 0;
}

int locate_socket(const struct cli *cli, struct locate_socket *out, struct dha_err *e)
{
    const size_t room = sizeof((struct sockaddr_un *)0)->sun_path;
    const char *from_env = env("DHA_SOCKET");
    const char *named = from_env ? from_env : cli->socket;
    const char *run = env("XDG_RUNTIME_DIR");
    const char *h;
    struct stat st;

    out->named = named != NULL;
    if (named) {
        if (locate_absolute(NULL, named, out->path, sizeof out->path, e)) {
            return -1;
        }
    } else if (run && run[0] == '/' && !stat(run, &st) && S_ISDIR(st.st_mode) &&
               st.st_uid == geteuid()) {
        if (put(out->path, sizeof out->path, e, "%s/dha/sock", run)) {
            return -1;
        }
    } else {
        if (home(&h, e) || put(out->path, sizeof out->path, e, "%s/.dha/run/sock", h)) {
            return -1;
        }
    }
    if (strlen(out->path) >= room) {
        dha_fail(e, DHA_E_USAGE,
                 "the socket's path is %zu bytes long; a socket address holds %zu: %s",
                 strlen(out->path), room - 1, out->path);
        return dha_err_hint(e, "name a shorter one with DHA_SOCKET or --socket");
    }
    return 0;
}

int locate_state(char *out, size_t cap, struct dha_err *e)
{
    const char *named = env("DHA_STATE");
    const char *h;

    if (named) {
        return locate_absolute(NULL, named, out, cap, e);
    }
    if (home(&h, e)) {
        return -1;
    }
    return put(out, cap, e, "%s/.dha", h);
}

/* The directory this program lies in. */
static int own_dir(char *out, size_t cap, struct dha_err *e)
{
    ssize_t n = readlink("/proc/self/exe", out, cap - 1);
    char *slash;

    if (n < 0) {
        return dha_fail_errno(e, errno, "reading /proc/self/exe");
    }
    out[n] = 0;
    slash = strrchr(out, '/');
    if (slash) {
        *slash = 0;
    }
    return 0;
}

int locate_program(const char *name, char *out, size_t cap, struct dha_err *e)
{
    const char *path = env("PATH");
    char dir[LOCATE_MAX];

    if (own_dir(dir, sizeof dir, e) || put(out, cap, e, "%s/%s", dir, name)) {
        return -1;
    }
    if (!access(out, X_OK)) {
        return 0;
    }
    for (const char *p = path; p && *p;) {
        size_t len = strcspn(p, ":");
        if (len && !put(out, cap, e, "%.*s/%s", (int)len, p, name) && !access(out, X_OK)) {
            return 0;
        }
        p += len + (p[len] == ':');
    }
    dha_fail(e, DHA_E_NOT_FOUND, "the program %s is neither beside dha (%s) nor on PATH", name,
             dir);
    return dha_err_hint(e, "build it with `make`, or add its directory to PATH");
}

int locate_demo(char *out, size_t cap, struct dha_err *e)
{
    const char *named = env("DHA_DEMO");
    char dir[LOCATE_MAX];
    char probe[LOCATE_MAX + 32];

    if (own_dir(dir, sizeof dir, e)) {
        return -1;
    }
    for (int i = 0; i < (named ? 1 : 3); i++) {
        if ((i == 0 && !named) ||
            put(out, cap, e, "%s%s%s",
                i == 0   ? named
                : i == 1 ? dir
                         : DHA_DEMO_DIR,
                i == 1 ? "/" : "", i == 1 ? DHA_DATADIR_FROM_BIN "/demo" : "")) {
            continue;
        }
        snprintf(probe, sizeof probe, "%s/hf/config.json", out);
        if (!access(probe, R_OK)) {
            char *clean = realpath(out, NULL);
            int rc = clean ? put(out, cap, e, "%s", clean) : 0;
            free(clean);
            return rc;
        }
    }
    if (named) {
        dha_fail(e, DHA_E_NOT_FOUND, "DHA_DEMO is %s, but there is no hf/config.json in it", named);
        return dha_err_hint(e, "unset it, or set it to a directory like deploy/demo");
    }
    dha_fail(e, DHA_E_NOT_FOUND, "the demo's files are neither in %s/%s/demo nor in %s", dir,
             DHA_DATADIR_FROM_BIN, DHA_DEMO_DIR);
    return dha_err_hint(e, "set DHA_DEMO to the directory deploy/demo of the source tree");
}

int locate_mkdirs(const char *dir, unsigned mode, struct dha_err *e)
{
    char path[LOCATE_MAX];

    if (put(path, sizeof path, e, "%s", dir)) {
        return -1;
    }
    for (char *s = path + 1;; s++) {
        if (*s == '/' || !*s) {
            char was = *s;
            *s = 0;
            if (mkdir(path, mode) && errno != EEXIST) {
                return dha_fail_errno(e, errno, "creating the directory %s", path);
            }
            *s = was;
        }
        if (!*s) {
            return 0;
        }
    }
}
