/* launch.c: see launch.h. */
#include "daemon/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/place.h"
#include "daemon/runas.h"
#include "daemon/statedir.h"
#include "proto/probe.h"

extern char **environ;

void launch_word(struct launch_argv *v, const char *fmt, ...)
{
    char *word = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&word, fmt, ap);
    va_end(ap);
    char **more = n < 0 ? NULL : realloc(v->at, (v->n + 2) * sizeof *more);
    if (!more) {
        if (n >= 0) {
            free(word);
        }
        v->failed = 1;
        return;
    }
    v->at = more;
    v->at[v->n++] = word;
    v->at[v->n] = NULL;
}

void launch_argv_finish(struct launch_argv *v)
{
    for (size_t i = 0; i < v->n; i++) {
        free(v->at[i]);
    }
    free(v->at);
    *v = (struct launch_argv){0};
}

static void words(struct launch_argv *v, const char *text)
{
    for (const char *p = text; *(p += strspn(p, " "));) {
        int len = (int)strcspn(p, " ");
        launch_word(v, "%.*s", len, p);
        p += len;
    }
}

void launch_quoted(struct launch_argv *v, const char *text)
{
    char *out = malloc(4 * strlen(text) + 3), *p = out;
    if (!out) {
        v->failed = 1;
        return;
    }
    *p++ = '\'';
    for (; *text; text++) {
        if (*text == '\'') {
            p = stpcpy(p, "'\\''");
        } else {
            *p++ = *text;
        }
    }
    strcpy(p, "'");
    launch_word(v, "%s", out);
    free(out);
}

void launch_ssh(struct launch_argv *v, const struct hosts *h, const char *address)
{
    launch_word(v, "ssh");
    words(v, HOSTS_SSH_OPTIONS);
    words(v, h->ssh_args);
    launch_word(v, "%s", address);
}

/* ---- launchers ---- */

static void mca(struct launch_argv *v, const char *name, const char *value)
{
    launch_word(v, "--mca");
    launch_word(v, "%s", name);
    launch_word(v, "%s", value);
}

/* Why each option is there: DESIGN section 10. @TMP@ is the shim's short temporary directory. */
static void mpirun(const struct launch_attempt *a, struct launch_argv *v)
{
    launch_word(v, "mpirun");
    launch_word(v, "-n");
    launch_word(v, "%d", a->ranks);
    launch_word(v, "--hostfile");
    launch_word(v, "%s/hostfile", a->spec->dir);
    launch_word(v, "--bind-to");
    launch_word(v, "none");
    launch_word(v, "--oversubscribe");
    mca(v, "orte_tmpdir_base", "@TMP@");
    mca(v, "btl_vader_backing_directory", "@TMP@");
    mca(v, "oob_tcp_keepalive_time", "3");
    mca(v, "oob_tcp_keepalive_intvl", "2");
    mca(v, "oob_tcp_keepalive_probes", "3");
}

static void worker(const struct launch_config *c, const struct launch_attempt *a,
                   struct launch_argv *v)
{
    launch_word(v, "%s", c->worker);
    launch_word(v, "stage");
    launch_word(v, "%s/spec.json", a->spec->dir);
}

static int local_command(const struct launch_config *c, const struct launch_attempt *a,
                         struct launch_argv *v, struct dha_err *e)
{
    (void)e;
    mpirun(a, v);
    worker(c, a, v);
    return 0;
}

/* Nodes are filled in the order of the hostfile, which is that of the ranks' places. The daemons that mpirun starts
 * there carry the attempt's tag, too, and all are started from here, where ssh_args hold. */
static int hosts_command(const struct launch_config *c, const struct launch_attempt *a,
                         struct launch_argv *v, struct dha_err *e)
{
    static const char *const pass[] = {"DHA_ATTEMPT", "DHA_RANKS", "OMP_NUM_THREADS"};
    const struct hosts *h = c->hosts;
    char text[640];
    (void)e;
    mpirun(a, v);
    launch_word(v, "--map-by");
    launch_word(v, "slot");
    mca(v, "plm", "rsh");
    mca(v, "plm_rsh_agent", "ssh");
    mca(v, "plm_rsh_no_tree_spawn", "1");
    snprintf(text, sizeof text, "%s%s%s", HOSTS_SSH_OPTIONS, h->ssh_args[0] ? " " : "",
             h->ssh_args);
    mca(v, "plm_rsh_args", text);
    snprintf(text, sizeof text, "env DHA_ATTEMPT=%s orted", a->spec->uuid);
    mca(v, "orte_launch_agent", text);
    if (h->mpi_interface[0]) {
        mca(v, "oob_tcp_if_include", h->mpi_interface);
        mca(v, "btl_tcp_if_include", h->mpi_interface);
    }
    for (size_t i = 0; i < sizeof pass / sizeof *pass; i++) {
        launch_word(v, "-x");
        launch_word(v, "%s", pass[i]);
    }
    worker(c, a, v);
    return 0;
}

static int fake_command(const struct launch_config *c, const struct launch_attempt *a,
                        struct launch_argv *v, struct dha_err *e)
{
    (void)e;
    launch_word(v, "%s", c->worker);
    launch_word(v, "%s/spec.json", a->spec->dir);
    return 0;
}

const struct launcher launcher_local = {"local", false, false, local_command};
const struct launcher launcher_hosts = {"hosts", true, true, hosts_command};
const struct launcher launcher_fake = {"fake", true, false, fake_command};

/* ---- the attempt's directory and the shim ---- */

/* The daemon's own environment, less what would mislead a launcher or the shim. */
static bool passes_on(const char *var)
{
    static const char *const drop[] = {
        "OMPI_",   "PMIX_",     "PRTE_",   "DHA_ATTEMPT=",     "DHA_FAILPOINT=",
        "NOTIFY_", "WATCHDOG_", "LISTEN_", "OMP_NUM_THREADS=", "CUDA_VISIBLE_DEVICES="};
    for (size_t i = 0; i < sizeof drop / sizeof *drop; i++) {
        if (strncmp(var, drop[i], strlen(drop[i])) == 0) {
            return false;
        }
    }
    return true;
}

/* Of another user's attempt nothing of the daemon's environment is: what a log-in would set, and no more. */
static int environment(const struct launch_attempt *a, struct launch_argv *v, struct dha_err *e)
{
    struct runas_account who;
    for (char **p = environ; *p && a->user == RUNAS_SELF; p++) {
        if (passes_on(*p)) {
            launch_word(v, "%s", *p);
        }
    }
    if (a->user != RUNAS_SELF) {
        if (runas_account(a->user, &who, e) != 0) {
            return -1;
        }
        launch_word(v, "PATH=/usr/local/bin:/usr/bin:/bin");
        launch_word(v, "LANG=C.UTF-8");
        launch_word(v, "HOME=%s", who.home);
        launch_word(v, "SHELL=%s", who.shell);
        launch_word(v, "USER=%s", who.name);
        launch_word(v, "LOGNAME=%s", who.name);
    }
    launch_word(v, "DHA_ATTEMPT=%s", a->spec->uuid);
    launch_word(v, "DHA_RANKS=%d", a->ranks);
    launch_word(v, "OMP_NUM_THREADS=%d", a->threads);
    if (a->user == RUNAS_SELF) {
        launch_word(v, "OMPI_ALLOW_RUN_AS_ROOT=1");
        launch_word(v, "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1");
    }
    return 0;
}

/* The attempt's GPUs, or none: what runs on cores has no business on them. Over several nodes each rank sets its own
 * (worker/cmd_stage.c), as it does within these. */
static void gpus(const struct launch_attempt *a, struct launch_argv *v)
{
    char text[PROBE_GPUS * 64] = "";
    for (int i = 0; i < a->spec->n_places && a->n_nodes == 1; i++) {
        const char *gpu = a->spec->places[i].gpu;
        size_t n = strlen(text);
        if (gpu[0] && n + strlen(gpu) + 2 < sizeof text) {
            snprintf(text + n, sizeof text - n, "%s%s", n ? "," : "", gpu);
        }
    }
    if (a->n_nodes == 1) {
        launch_word(v, "CUDA_VISIBLE_DEVICES=%s", text);
    }
}

static int write_hostfile(const struct launch_attempt *a, struct dha_err *e)
{
    char *path = NULL;
    if (asprintf(&path, "%s/hostfile", a->spec->dir) < 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    int fd = runas_open(path, O_WRONLY | O_CREAT | O_TRUNC);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    bool good = f != NULL;
    for (int i = 0; i < a->n_nodes && good; i++) {
        good = fprintf(f, "%s slots=%d\n", a->nodes[i].address, a->nodes[i].ranks) >= 0;
    }
    int rc = good ? 0 : dha_fail_errno(e, errno, "cannot write %s", path);
    if (!f && fd >= 0) {
        close(fd);
    }
    if (f && fclose(f) != 0 && rc == 0) {
        rc = dha_fail_errno(e, errno, "cannot write %s", path);
    }
    free(path);
    return rc;
}

static int write_spec(const struct launch_attempt *a, struct dha_err *e)
{
    char *path = NULL;
    cJSON *doc = stage_spec_to_json(a->spec);
    int rc = -1;
    if (!doc || asprintf(&path, "%s/spec.json", a->spec->dir) < 0) {
        path = NULL;
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    } else {
        rc = json_write_file(path, doc, e);
    }
    free(path);
    cJSON_Delete(doc);
    return rc;
}

struct reaper {
    uv_process_t process; /* first: the handle is the reaper */
    const struct launch_config *config;
};
_Static_assert(offsetof(struct reaper, process) == 0, "freed through its handle");

static void on_closed(uv_handle_t *h)
{
    free(h);
}

/* What the exit means is read from the attempt's files; here it is only news. */
static void on_exit_reap(uv_process_t *p, int64_t status, int sig)
{
    (void)status;
    (void)sig;
    const struct launch_config *c = ((struct reaper *)p)->config;
    c->ended(c->ctx, p->pid);
    uv_close((uv_handle_t *)p, on_closed);
}

static int spawn_shim(uv_loop_t *loop, const struct launch_config *c,
                      const struct launch_attempt *a, char **args, char **env, int *pid,
                      struct dha_err *e)
{
    char *path = NULL;
    if (asprintf(&path, "%s/launcher.log", a->spec->dir) < 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    int rc = -1;
    struct reaper *r = NULL;
    int fd = runas_open(path, O_WRONLY | O_CREAT | O_APPEND);
    if (fd >= 0 && fcntl(fd, F_SETFL, O_APPEND) != 0) { /* whoever inherits it may wait */
        close(fd);
        fd = -1;
    }
    if (fd < 0) {
        dha_fail_errno(e, errno, "cannot open %s", path);
        goto out;
    }
    r = calloc(1, sizeof *r);
    if (!r) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    r->config = c;
    uv_stdio_container_t io[3] = {{.flags = UV_IGNORE},
                                  {.flags = UV_INHERIT_FD, .data.fd = fd},
                                  {.flags = UV_INHERIT_FD, .data.fd = fd}};
    uv_process_options_t opt = {.exit_cb = on_exit_reap,
                                .file = c->shim,
                                .args = args,
                                .env = env,
                                .cwd = a->spec->dir,
                                .flags = UV_PROCESS_DETACHED,
                                .stdio_count = 3,
                                .stdio = io};
    int err = uv_spawn(loop, &r->process, &opt);
    if (err != 0) {
        dha_fail(e, DHA_E_IO, "cannot start %s: %s", c->shim, uv_strerror(err));
        uv_close((uv_handle_t *)&r->process, on_closed);
        goto out;
    }
    uv_unref((uv_handle_t *)&r->process);
    *pid = r->process.pid;
    rc = 0;
out:
    if (fd >= 0) {
        close(fd);
    }
    free(path);
    return rc;
}

/* The job's directory is its user's, and so is what is made in it. */
static int make_job_dir(const struct launch_attempt *a, struct dha_err *e)
{
    char *dir = strdup(a->spec->dir);
    int rc = dir ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    for (int up = 0; up < 2 && rc == 0; up++) { /* jobs/ID/KIND/aN */
        char *slash = strrchr(dir, '/');
        if (slash) {
            *slash = '\0';
        }
    }
    if (rc == 0 && (runas_open_state(e) != 0 || runas_own_dir(dir, a->user, e) != 0 ||
                    runas_own_dir(a->spec->cache, a->user, e) != 0)) {
        rc = -1;
    }
    free(dir);
    return rc;
}

static int write_files(const struct launch_attempt *a, struct dha_err *e)
{
    struct runas as;
    if (a->user != RUNAS_SELF && make_job_dir(a, e) != 0) {
        return -1;
    }
    if (runas_enter(&as, a->user) != 0) {
        return dha_fail_errno(e, errno, "cannot make files as uid %lu", (unsigned long)a->user);
    }
    int rc = make_dirs(a->spec->dir, e) != 0 || make_dirs(a->spec->out, e) != 0 ? -1 : 0;
    FAILPOINT(launch_before_spec);
    if (rc == 0 && (write_hostfile(a, e) != 0 || write_spec(a, e) != 0)) {
        rc = -1;
    }
    runas_leave(&as);
    return rc;
}

int launch_attempt(uv_loop_t *loop, const struct launch_config *c, const struct launch_attempt *a,
                   int *pid, struct dha_err *e)
{
    struct launch_argv args = {0}, env = {0};
    int rc = -1;
    if (write_files(a, e) != 0) {
        goto out;
    }
    launch_word(&args, "%s", c->shim);
    if (a->user != RUNAS_SELF) {
        launch_word(&args, "--as");
        launch_word(&args, "%lu", (unsigned long)a->user);
    }
    launch_word(&args, "%s", a->spec->dir);
    launch_word(&args, "%s", a->spec->uuid);
    launch_word(&args, "--");
    if (c->launcher->command(c, a, &args, e) != 0) {
        goto out;
    }
    if (environment(a, &env, e) != 0) {
        goto out;
    }
    gpus(a, &env);
    if (args.failed || env.failed) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    rc = spawn_shim(loop, c, a, args.at, env.at, pid, e);
out:
    launch_argv_finish(&args);
    launch_argv_finish(&env);
    return rc == 0 ? 0 : dha_err_context(e, "launching attempt %d", a->spec->attempt);
}
