/* cmd_admin.c: dha admin: keeping a state directory in order. One function for each verb. */
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/chore.h"
#include "cli/fmt.h"
#include "cli/locate.h"
#include "proto/findings.h"

static const struct cli_opt opts[] = {
    {"deep", 0, NULL,
     "fsck: read checkpoints and outputs and compare their digests, not only sizes"},
    {"repair", 0, NULL, "fsck: say what will be done, then do it"},
    {"dry-run", 'n', NULL, "fsck --repair, prune: only say it"},
    {"state", 0, "DIR", "fsck: a state directory that no daemon uses"},
    {"out", 'o', "DIR", "export: the directory to make"},
    {"keep-last", 0, "K", "prune: the newest K checkpoints of each stage stay (default 1)"},
    {"keep-every", 0, "N", "prune: those at multiples of N steps stay as well"},
    {"keep-best", 0, NULL, "prune: the one of the lowest validation loss stays as well"},
    {"metrics-older-than", 0, "AGE", "prune: thin the series of jobs that ended so long ago: 30d"},
    {"role", 0, "ROLE", "token create: viewer, operator or owner (default viewer)"},
    {"user", 0, "USER", "token create: who it speaks for, a name or a uid (default: you)"},
    {NULL, 0, NULL, NULL},
};

struct call {
    const struct cli *cli;
    const struct args *a;
    struct client *client;
    const char *what; /* the argument after the verb, or NULL */
};

/* ---- fsck ---- */

/* Where no daemon runs, dhad itself looks: this program never opens a database. Returns only on failure. */
static int exec_fsck(const struct args *a, struct dha_err *e)
{
    static const char *const flags[] = {"--deep", "--repair", "--dry-run", "--json"};
    char program[LOCATE_MAX];
    const char *argv[9] = {program, "fsck", "--state", arg_value(a, "state")};
    int n = 4;

    if (locate_program("dhad", program, sizeof program, e)) {
        return -1;
    }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (arg_flag(a, flags[i] + 2)) {
            argv[n++] = flags[i];
        }
    }
    char *own[9]; /* execv() takes away what it does not use: const */
    memcpy(own, argv, sizeof own);
    execv(program, own);
    return dha_fail_errno(e, errno, "running %s", program);
}

static int repair(const struct call *k, const cJSON *planned, int found, struct dha_err *e)
{
    const cJSON *result;
    const cJSON *f;
    cJSON *chore = NULL;
    int left;

    if (chore_apply(k->client, planned, &chore, e)) {
        return -1;
    }
    result = json_get(chore, "result");
    left = found - (int)json_int(result, "repaired", 0);
    cJSON_ArrayForEach(f, json_get(result, "failed"))
    {
        cli_say("%s", json_str(f, "message", "?"));
    }
    cli_say("%lld repaired, %d left; what was moved is in %s",
            (long long)json_int(result, "repaired", 0), left, json_str(result, "lost", "?"));
    cJSON_Delete(chore);
    return left ? dha_code_exit(DHA_E_FAILED) : 0;
}

static int run_fsck(const struct call *k, struct dha_err *e)
{
    cJSON *body = cJSON_CreateObject();
    cJSON *chore = NULL;
    int found;
    int ret = -1;

    if (!body || json_put_bool(body, "deep", arg_flag(k->a, "deep"))) {
        dha_fail(e, DHA_E_NO_MEMORY, "asking for a check");
        goto out;
    }
    if (chore_run(k->client, "/v1/admin/fsck", body, &chore, e)) {
        goto out;
    }
    const cJSON *report = json_get(chore, "result");
    found = cJSON_GetArraySize(json_get(report, "findings"));
    if (arg_flag(k->a, "json")) {
        if (cli_print_json(report, e)) {
            goto out;
        }
        fflush(stdout);
    } else {
        findings_print(stdout, report, arg_flag(k->a, "repair"));
    }
    if (arg_flag(k->a, "repair") && !arg_flag(k->a, "dry-run") && chore_planned(chore)) {
        ret = repair(k, chore, found, e);
    } else {
        ret = found ? dha_code_exit(DHA_E_FAILED) : 0;
    }
out:
    cJSON_Delete(chore);
    cJSON_Delete(body);
    return ret;
}

/* ---- backup ---- */

/* {key: absolute path} */
static cJSON *path_body(const char *key, const char *path, struct dha_err *e)
{
    char full[LOCATE_MAX];
    cJSON *body;

    if (locate_absolute(NULL, path, full, sizeof full, e)) {
        return NULL;
    }
    body = cJSON_CreateObject();
    if (json_put_str(body, key, full)) {
        cJSON_Delete(body);
        dha_fail(e, DHA_E_NO_MEMORY, "asking for %s", path);
        return NULL;
    }
    return body;
}

static int run_backup(const struct call *k, struct dha_err *e)
{
    cJSON *body = path_body("file", k->what, e);
    cJSON *chore = NULL;
    char a[FMT_BUF];
    int ret = -1;

    if (!body || chore_run(k->client, "/v1/admin/backup", body, &chore, e)) {
        goto out;
    }
    const cJSON *result = json_get(chore, "result");
    if (arg_flag(k->a, "json")) {
        ret = cli_print_json(result, e);
        goto out;
    }
    cli_say("copied and checked: %s", fmt_bytes(a, json_int(result, "bytes", 0)));
    puts(json_str(result, "file", ""));
    ret = 0;
out:
    cJSON_Delete(chore);
    cJSON_Delete(body);
    return ret;
}

/* ---- export, import ---- */

static int run_export(const struct call *k, struct dha_err *e)
{
    const char *out = arg_value(k->a, "out");
    cJSON *body = NULL;
    cJSON *chore = NULL;
    char id[24];
    char a[FMT_BUF];
    int ret = -1;

    if (!out) {
        dha_fail(e, DHA_E_USAGE, "`dha admin export` needs --out DIR");
        return dha_err_hint(e, "dha admin export %s --out job-%s", k->what, k->what);
    }
    if (client_job_id(k->client, k->what, CLIENT_NEWEST, id, e) ||
        !(body = path_body("out", out, e))) {
        goto out;
    }
    if (json_put_str(body, "job", id)) {
        dha_fail(e, DHA_E_NO_MEMORY, "asking for %s", out);
        goto out;
    }
    if (chore_run(k->client, "/v1/admin/export", body, &chore, e)) {
        goto out;
    }
    const cJSON *result = json_get(chore, "result");
    if (arg_flag(k->a, "json")) {
        ret = cli_print_json(result, e);
        goto out;
    }
    cli_say("job %s: %lld files, %s", id, (long long)json_int(result, "files", 0),
            fmt_bytes(a, json_int(result, "bytes", 0)));
    puts(out);
    ret = 0;
out:
    cJSON_Delete(chore);
    cJSON_Delete(body);
    return ret;
}

static int run_import(const struct call *k, struct dha_err *e)
{
    cJSON *body = path_body("dir", k->what, e);
    cJSON *chore = NULL;
    int ret = -1;

    if (!body || chore_run(k->client, "/v1/admin/import", body, &chore, e)) {
        goto out;
    }
    const cJSON *result = json_get(chore, "result");
    if (arg_flag(k->a, "json")) {
        ret = cli_print_json(result, e);
        goto out;
    }
    cli_say("%s is job %s here (%s)", json_str(result, "name", "?"), json_str(result, "job", "?"),
            json_str(result, "state", "?"));
    puts(json_str(result, "job", ""));
    ret = 0;
out:
    cJSON_Delete(chore);
    cJSON_Delete(body);
    return ret;
}

/* ---- prune ---- */

/* 90s, 15m, 12h, 30d, 8w; a bare number is days. */
static int parse_age(const char *text, int64_t *seconds, struct dha_err *e)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
    size_t len = strspn(text, "0123456789");
    int64_t scale = text[len] ? 0 : 86400;

    for (size_t i = 0; i < sizeof units / sizeof *units && text[len] && !text[len + 1]; i++) {
        scale = units[i].unit == text[len] ? units[i].seconds : scale;
    }
    if (len == 0 || len > 9 || !scale) {
        dha_fail(e, DHA_E_USAGE, "--metrics-older-than: '%.40s' is no length of time", text);
        return dha_err_hint(e, "a number with s, m, h, d or w: 30d");
    }
    *seconds = strtoll(text, NULL, 10) * scale;
    return 0;
}

/* NULL + *e. */
static cJSON *prune_body(const struct args *a, struct dha_err *e)
{
    const char *older = arg_value(a, "metrics-older-than");
    bool checkpoints = !older || arg_value(a, "keep-last") || arg_value(a, "keep-every") ||
                       arg_flag(a, "keep-best");
    int64_t last;
    int64_t every;
    int64_t age = 0;
    cJSON *body;

    if (arg_int(a, "keep-last", 0, 1000000, 1, &last, e) ||
        arg_int(a, "keep-every", 1, INT64_MAX, 0, &every, e) ||
        (older && parse_age(older, &age, e))) {
        return NULL;
    }
    body = cJSON_CreateObject();
    if ((checkpoints && json_put_int(body, "keep_last", last)) ||
        (every && json_put_int(body, "keep_every", every)) ||
        (checkpoints && json_put_bool(body, "keep_best", arg_flag(a, "keep-best"))) ||
        (older && json_put_int(body, "metrics_older_than_s", age))) {
        cJSON_Delete(body);
        dha_fail(e, DHA_E_NO_MEMORY, "asking to prune");
        return NULL;
    }
    return body;
}

static void print_plan(const cJSON *plan, bool only)
{
    const cJSON *one;
    char a[FMT_BUF];

    cJSON_ArrayForEach(one, json_get(plan, "checkpoints"))
    {
        printf("job %s: %s remove %s (%s)\n", json_str(one, "job", "?"), only ? "would" : "will",
               json_str(one, "path", "?"), fmt_bytes(a, json_int(one, "bytes", 0)));
    }
    cJSON_ArrayForEach(one, json_get(plan, "metrics"))
    {
        printf("job %s: %s thin %lld points of its series to %lld at most\n",
               json_str(one, "job", "?"), only ? "would" : "will",
               (long long)json_int(one, "points", 0), (long long)json_int(one, "left", 0));
    }
    printf("%d checkpoints of jobs that have ended: %s; %lld stay\n",
           cJSON_GetArraySize(json_get(plan, "checkpoints")),
           fmt_bytes(a, json_int(plan, "bytes", 0)), (long long)json_int(plan, "kept", 0));
    fflush(stdout);
}

static int run_prune(const struct call *k, struct dha_err *e)
{
    bool only = arg_flag(k->a, "dry-run");
    bool json = arg_flag(k->a, "json");
    cJSON *body = prune_body(k->a, e);
    cJSON *chore = NULL;
    cJSON *done = NULL;
    char a[FMT_BUF];
    int ret = -1;

    if (!body || chore_run(k->client, "/v1/admin/prune", body, &chore, e)) {
        goto out;
    }
    if (!json) {
        print_plan(json_get(chore, "result"), only);
    }
    if (only || !chore_planned(chore)) {
        ret = json ? cli_print_json(json_get(chore, "result"), e) : 0;
        goto out;
    }
    if (chore_apply(k->client, chore, &done, e)) {
        goto out;
    }
    const cJSON *result = json_get(done, "result");
    cli_say("%lld checkpoints removed, %s freed; %lld points removed",
            (long long)json_int(result, "removed", 0), fmt_bytes(a, json_int(result, "freed", 0)),
            (long long)json_int(result, "points_removed", 0));
    if (json_int(result, "skipped", 0)) {
        cli_say("%lld were left: in use again, or see the daemon's log",
                (long long)json_int(result, "skipped", 0));
    }
    ret = json ? cli_print_json(result, e) : 0;
out:
    cJSON_Delete(done);
    cJSON_Delete(chore);
    cJSON_Delete(body);
    return ret;
}

/* ---- the table ---- */

/* ---- token ---- */

static int user_id(const char *text, long *uid, struct dha_err *e)
{
    char *end;
    const struct passwd *pw = getpwnam(text);

    errno = 0;
    *uid = pw ? (long)pw->pw_uid : strtol(text, &end, 10);
    if (!pw && (errno || *end || end == text || *uid < 0)) {
        return dha_fail(e, DHA_E_USAGE, "there is no user '%s' here", text);
    }
    return 0;
}

static int token_create(const struct call *k, const char *name, struct dha_err *e)
{
    const char *user = arg_value(k->a, "user");
    const char *role = arg_value(k->a, "role");
    cJSON *body = cJSON_CreateObject();
    cJSON *doc = NULL;
    long uid = 0;
    int ret = -1;

    if (user && user_id(user, &uid, e)) {
        goto out;
    }
    if (json_put_str(body, "name", name) || json_put_str(body, "role", role ? role : "viewer") ||
        (user && json_put_int(body, "uid", uid))) {
        dha_fail(e, DHA_E_NO_MEMORY, "asking for a token");
        goto out;
    }
    if (client_post(k->client, "/v1/admin/tokens", body, NULL, &doc, e)) {
        goto out;
    }
    if (arg_flag(k->a, "json")) {
        ret = cli_print_json(json_get(doc, "token"), e);
        goto out;
    }
    const cJSON *t = json_get(doc, "token");
    cli_say("token %s: %s, for uid %s. This is the only time it is shown:",
            json_str(t, "name", "?"), json_str(t, "role", "?"), json_str(t, "uid", "?"));
    puts(json_str(t, "secret", ""));
    ret = 0;
out:
    cJSON_Delete(doc);
    cJSON_Delete(body);
    return ret;
}

static int token_list(const struct call *k, struct dha_err *e)
{
    cJSON *doc;
    const cJSON *t;

    if (client_get(k->client, &doc, e, "/v1/admin/tokens")) {
        return -1;
    }
    int ret = 0;
    if (arg_flag(k->a, "json")) {
        ret = cli_print_json(json_get(doc, "tokens"), e);
    } else {
        cJSON_ArrayForEach(t, json_get(doc, "tokens"))
        {
            printf("%-24s %-8s uid %s\n", json_str(t, "name", "?"), json_str(t, "role", "?"),
                   json_str(t, "uid", "?"));
        }
    }
    cJSON_Delete(doc);
    return ret;
}

static int token_revoke(const struct call *k, const char *name, struct dha_err *e)
{
    char *part = NULL;
    char *path = NULL;
    int ret = -1;

    if (client_check_word("the token's name", name, "dha admin token list", e)) {
        return -1;
    }
    part = client_escape(k->client, name);
    if (!part || asprintf(&path, "/v1/admin/tokens/%s/revoke", part) < 0) {
        path = NULL;
        dha_fail(e, DHA_E_NO_MEMORY, "revoking the token");
    } else if (!client_post(k->client, path, NULL, NULL, NULL, e)) {
        cli_say("token %s is revoked", name);
        ret = 0;
    }
    free(path);
    free(part);
    return ret;
}

static int run_token(const struct call *k, struct dha_err *e)
{
    const char *name = k->a->n_pos == 3 ? k->a->pos[2] : NULL;

    if (!strcmp(k->what, "create") && name) {
        return token_create(k, name, e);
    }
    if (!strcmp(k->what, "revoke") && name) {
        return token_revoke(k, name, e);
    }
    if (!strcmp(k->what, "list") && !name) {
        return token_list(k, e);
    }
    dha_fail(e, DHA_E_USAGE, "`dha admin token` takes create NAME, list or revoke NAME");
    return dha_err_hint(e, "`dha admin --help` shows an example");
}

static const struct verb {
    const char *name, *argument; /* NULL = takes none */
    int (*run)(const struct call *k, struct dha_err *e);
} verbs[] = {
    {"fsck", NULL, run_fsck},      {"backup", "FILE", run_backup},
    {"export", "JOB", run_export}, {"import", "DIR", run_import},
    {"prune", NULL, run_prune},    {"token", "create, list or revoke", run_token},
};

static const struct verb *find_verb(const char *name, struct dha_err *e)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (!strcmp(verbs[i].name, name)) {
            return &verbs[i];
        }
    }
    dha_fail(e, DHA_E_USAGE, "there is no `dha admin %s`", name);
    dha_err_hint(e, "fsck, backup, export, import, prune, token; `dha admin --help` explains them");
    return NULL;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    const struct verb *v = find_verb(a->pos[0], e);
    struct call k = {.cli = cli, .a = a, .what = a->n_pos > 1 ? a->pos[1] : NULL};
    int ret;

    if (!v) {
        return -1;
    }
    if (!v->argument != (a->n_pos == 1) || (a->n_pos == 3 && v->run != run_token)) {
        dha_fail(e, DHA_E_USAGE, "`dha admin %s` takes %s", v->name,
                 v->argument ? v->argument : "no argument");
        return dha_err_hint(e, "`dha admin --help` shows an example");
    }
    if (arg_value(a, "state")) {
        return !strcmp(v->name, "fsck")
                   ? exec_fsck(a, e)
                   : dha_fail(e, DHA_E_USAGE,
                              "--state goes with fsck only: `dha admin %s` asks the "
                              "daemon that runs",
                              v->name);
    }
    k.client = client_open(cli, e);
    if (!k.client) {
        return -1;
    }
    ret = v->run(&k, e);
    client_close(k.client);
    return ret;
}

const struct command cmd_admin = {
    .name = "admin",
    .args = "fsck|backup|export|import|prune|token [ARGUMENT]... [OPTION]...",
    .summary =
        "Check, repair, back up, move and prune what the daemon keeps; who may come over TCP",
    .help =
        "fsck [--deep] [--repair [--dry-run]]\n"
        "    Compares the database with itself and with the disk: is every complete checkpoint and "
        "finished output\n"
        "    there, is there anything that no job knows? --repair first says what it will do: "
        "unknown things are moved\n"
        "    to lost+found/ in the state directory, damaged checkpoints are marked and never gone "
        "on from. What lies in\n"
        "    a directory of another user (root's daemon: jobs run as their users) is left there. "
        "Nothing is\n"
        "    deleted. Exit status 1: something is (still) not as it should be. While a daemon "
        "cannot run, name its\n"
        "    directory: --state DIR.\n"
        "backup FILE\n"
        "    A checked copy of the database (not of metrics.db and the jobs' files) while it is in "
        "use. To restore it, put\n"
        "    it in the place of state.db while no daemon runs, without state.db-wal and -shm.\n"
        "export JOB --out DIR\n"
        "    A job that has ended with all that is known of it: spec, records, metrics, events, "
        "checkpoints, outputs and\n"
        "    logs, each file with its digest. (`dha export`, without admin, takes only the model "
        "it made.)\n"
        "import DIR\n"
        "    Takes such a directory in as a new job, in the state it had, once every file has been "
        "compared with its\n"
        "    digest. Its finished stages are reused by jobs that would repeat them.\n"
        "prune [--keep-last K] [--keep-every N] [--keep-best] [--metrics-older-than AGE] "
        "[--dry-run]\n"
        "    Removes checkpoints of jobs that have ended, but for those named; of a job that "
        "failed or was cancelled the\n"
        "    newest stays in any case, so that `dha retry` goes on from it. Of old series the "
        "first, last, lowest and\n"
        "    highest point of each hundredth stay. With --metrics-older-than alone no checkpoint "
        "is touched.\n"
        "token create NAME [--role ROLE] [--user USER], token list, token revoke NAME\n"
        "    What lets somebody do more than read over TCP (`dhad --tcp`), with the rights of the "
        "role and as USER. The\n"
        "    secret is shown once and kept nowhere: put it into $DHA_TOKEN beside $DHA_URL.",
    .example = "dha admin fsck --deep\n"
               "dha admin fsck --repair --dry-run\n"
               "dha admin backup ~/dha-$(date +%F).db\n"
               "dha admin export 12 --out /usb/job-12\n"
               "dha admin import /usb/job-12\n"
               "dha admin token create laptop --role operator\n"
               "dha admin prune --keep-last 1 --keep-best --metrics-older-than 30d --dry-run",
    .group = "The daemon and its nodes",
    .min_pos = 1,
    .max_pos = 3,
    .json = true,
    .opts = opts,
    .run = run,
};
