/* cmd_submit.c: dha submit */
#include <string.h>

#include "cli/fmt.h"
#include "cli/follow.h"
#include "cli/interrupt.h"
#include "cli/precheck.h"
#include "cli/specfile.h"
#include "cli/view.h"

static const struct cli_opt opts[] = {
    {"set", 0, "PATH=VALUE",
     "change a field of the spec, e.g. --set optim.lr=1e-4 (may be repeated)"},
    {"dry-run", 0, NULL, "check the spec and show what would run; submit nothing"},
    {"wait", 0, NULL, "follow the job to its end (on stderr); its outcome is the exit status"},
    {"idempotency-key", 0, "KEY", "a repeat with the same key is the same job, not a second one"},
    {"after", 0, "ok:ID|any:ID",
     "start when job ID is done (ok) or has ended (any); may be repeated; a name will do for ID"},
    {"hold", 0, NULL, "put it into the queue held; `dha release ID` lets it go"},
    PRECHECK_OPT,
    {NULL, 0, NULL, NULL},
};

/* The conditions of --after with names made ids. NULL list: none were given. */
static int read_after(struct client *c, const struct args *a, cJSON **out, struct dha_err *e)
{
    const char *text;

    *out = NULL;
    for (int i = 0; (text = arg_nth(a, "after", i)); i++) {
        const char *colon = strchr(text, ':');
        char id[24], word[32];
        if (!colon || (strncmp(text, "ok:", 3) && strncmp(text, "any:", 4))) {
            dha_fail(e, DHA_E_USAGE, "--after %s: ok:ID or any:ID is wanted", text);
            return dha_err_hint(e, "ok:ID = when job ID is done; any:ID = when it has ended");
        }
        if (client_job_id(c, colon + 1, CLIENT_NEWEST, id, e)) {
            return -1;
        }
        snprintf(word, sizeof word, "%.*s:%s", (int)(colon - text), text, id);
        *out = *out ? *out : cJSON_CreateArray();
        cJSON *item = cJSON_CreateString(word);
        if (!cJSON_AddItemToArray(*out, item)) {
            cJSON_Delete(item);
            return dha_fail(e, DHA_E_NO_MEMORY, "submitting");
        }
    }
    return 0;
}

/* Where it would start. */
static void print_slots(const cJSON *now)
{
    const cJSON *slot;
    const char *between = "slots: ";

    cJSON_ArrayForEach(slot, json_get(now, "slots"))
    {
        printf("%s%s", between, slot->valuestring ? slot->valuestring : "?");
        between = " ";
    }
    if (*between == ' ') {
        putchar('\n');
    }
}

/* The disk that the job may need against what is free where the daemon keeps its jobs. */
static void print_disk(const cJSON *plan)
{
    const cJSON *bytes = json_at(plan, "needs.disk_bytes");
    int64_t checkpoints = json_int(bytes, "checkpoints", 0);
    int64_t models = json_int(bytes, "models", 0);
    int64_t there = json_int(plan, "disk_free", -1);
    char a[FMT_BUF], b[FMT_BUF], c[FMT_BUF];

    if (bytes && there >= 0) {
        printf("disk: up to %s for checkpoints and %s for models; %s are free%s\n",
               fmt_bytes(a, checkpoints), fmt_bytes(b, models), fmt_bytes(c, there),
               there < checkpoints + models ? ", which is NOT enough" : "");
    }
}

static void print_plan(const cJSON *plan)
{
    const cJSON *s, *now = json_get(plan, "now");

    printf("spec is valid; slots needed: %lld (%s)\n", (long long)json_int(plan, "slots", 0),
           !json_bool(plan, "fits", true) ? "no node could hold it"
           : strcmp(json_str(now, "verdict", ""), "drained")
               ? "there is a place for it"
               : "there is a place for it, but not on the nodes that take work now");
    cJSON_ArrayForEach(s, json_get(plan, "stages"))
    {
        const cJSON *from = json_get(s, "reused_from");
        printf("  %-7s", json_str(s, "kind", "?"));
        if (cJSON_IsObject(from)) {
            printf(" reused from job %s", json_str(from, "job", "?"));
        } else {
            printf(" runs");
        }
        printf("  key %.12s\n", json_str(s, "key", ""));
    }
    if (json_bool(plan, "fits", true)) {
        const char *unblock = json_str(now, "unblock", "");
        printf("submitted now: %s\n", json_str(now, "reason", "?"));
        if (*unblock) {
            printf("what would help: %s\n", unblock);
        }
        print_slots(now);
    }
    print_disk(plan);
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    bool dry = arg_flag(a, "dry-run");
    bool json = arg_flag(a, "json");
    struct client *c = NULL;
    cJSON *spec = NULL;
    cJSON *doc = NULL;
    cJSON *job = NULL;
    cJSON *after = NULL;
    const char *id;
    int ret = -1;

    if (specfile_read(a->pos[0], a, &spec, e)) {
        return -1;
    }
    c = client_open(cli, e);
    if (!c || precheck(c, a, spec, e) || read_after(c, a, &after, e)) {
        goto out;
    }
    struct submission s = {.dry_run = dry,
                           .hold = arg_flag(a, "hold"),
                           .key = arg_value(a, "idempotency-key"),
                           .after = after};
    if (specfile_post(c, spec, &s, &doc, e)) {
        goto out;
    }
    if (dry) {
        cJSON *needs;
        if (precheck_needs(a, spec, &needs, e) ||
            json_put(doc, "needs", needs ? needs : cJSON_CreateNull())) {
            goto out;
        }
        ret = 0;
        if (json) {
            ret = cli_print_json(doc, e);
        } else {
            print_plan(doc);
        }
        goto out;
    }
    id = json_str(json_get(doc, "job"), "id", "");
    if (!json) {
        puts(id);
        fflush(stdout);
    }
    specfile_say_if_blocked(c, id);
    ret = 0;
    if (arg_flag(a, "wait")) {
        int end = follow_jobs(c, &id, 1, stderr, &job, e);
        if (end == FOLLOW_INTERRUPTED) {
            cli_say("job %s goes on; `dha watch %s` comes back to it", id, id);
        }
        ret = end < 0 ? -1 : end == FOLLOW_INTERRUPTED ? INTERRUPT_EXIT : view_outcome(job, e);
    }
    if (json && (cli_print_json(job ? job : json_get(doc, "job"), ret ? NULL : e))) {
        ret = -1;
    }
out:
    cJSON_Delete(after);
    cJSON_Delete(job);
    cJSON_Delete(doc);
    cJSON_Delete(spec);
    client_close(c);
    return ret;
}

const struct command cmd_submit = {
    .name = "submit",
    .args = "SPEC [--set path=value]... [--dry-run] [--wait]",
    .summary = "Submit a job spec; prints the job's id",
    .help = "SPEC is a JSON file, or - for standard input. Relative paths in it, also those given "
            "with --set, are\n"
            "relative to the spec file (standard input: to the current directory). All errors of a "
            "spec are reported\n"
            "at once. The id alone goes to stdout: ID=$(dha submit spec.json).",
    .example = "dha submit spec.json --set budget=0.5 --set optim.lr=1e-4\n"
               "dha submit spec.json --dry-run\n"
               "dha submit big.json --after ok:12 --set resources.walltime=2h",
    .group = "Jobs",
    .min_pos = 1,
    .max_pos = 1,
    .json = true,
    .opts = opts,
    .run = run,
};
