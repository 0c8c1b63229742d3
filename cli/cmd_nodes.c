/* cmd_nodes.c: dha nodes */
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/fmt.h"
#include "cli/view.h"

static const struct cli_opt opts[] = {
    {"reason", 0, "TEXT", "why (drain)"},
    {NULL, 0, NULL, NULL},
};

static void count_slots(const cJSON *slots, const char *device, int *all, int *unused)
{
    const cJSON *s;
    *all = *unused = 0;
    cJSON_ArrayForEach(s, slots)
    {
        if (!strcmp(json_str(s, "device", ""), device)) {
            ++*all;
            *unused += json_str(s, "job", NULL) == NULL;
        }
    }
}

static void name_jobs(const cJSON *slots, char *jobs, size_t size)
{
    const cJSON *s;
    jobs[0] = '\0';
    cJSON_ArrayForEach(s, slots)
    {
        const char *job = json_str(s, "job", NULL);
        char word[32];
        if (!job) {
            continue;
        }
        snprintf(word, sizeof word, "%s%s", *jobs ? " " : "", job);
        /* A gang's slots are neighbours: each job once. */
        const char *last = strrchr(jobs, ' ');
        if (strcmp(last ? last + 1 : jobs, job) && strlen(jobs) + strlen(word) < size) {
            strcat(jobs, word);
        }
    }
}

static void memory_words(double bytes, char text[32])
{
    if (bytes > 0) {
        snprintf(text, 32, "%.4g GiB", bytes / (1 << 30));
    } else {
        snprintf(text, 32, "-");
    }
}

/* Of all its slots of a device together, in GiB; "-" where it is not known. */
static void say_memory(const cJSON *slots, const char *device, char text[32])
{
    double bytes = 0;
    const cJSON *s;
    cJSON_ArrayForEach(s, slots)
    {
        if (!strcmp(json_str(s, "device", ""), device)) {
            bytes += strtod(json_str(s, "memory", "0"), NULL);
        }
    }
    memory_words(bytes, text);
}

/* One row a kind of slot that the node has; a node without any has one, too. */
static void rows(struct table *t, const struct fmt *f, const cJSON *node)
{
    static const char *const devices[] = {"cpu", "cuda"};
    const cJSON *slots = json_get(node, "slots");
    const char *state = json_str(node, "state", "?");
    char jobs[128], memory[32];
    bool said = false;
    name_jobs(slots, jobs, sizeof jobs);
    for (size_t i = 0; i < 2; i++) {
        int all, unused;
        count_slots(slots, devices[i], &all, &unused);
        if (all == 0 && !(i == 1 && !said)) {
            continue;
        }
        said = true;
        say_memory(slots, devices[i], memory);
        table_cell(t, "%s", json_str(node, "name", "?"));
        table_cell(t, "%s", json_str(node, "address", "here"));
        table_cell(t, "%s%s%s", fmt_on(f, view_state_colour(state)), state, fmt_off(f));
        table_cell(t, "%s", all ? devices[i] : "-");
        table_cell(t, "%d", all);
        table_cell(t, "%d", unused);
        table_cell(t, "%s", memory);
        table_cell(t, "%s", jobs);
        table_cell(t, "%s", json_str(node, "reason", ""));
    }
}

static int print(const cJSON *doc, struct dha_err *e)
{
    static const char *const heads[] = {"NODE", "ADDRESS", "STATE", "DEVICE", "SLOTS",
                                        "FREE", "MEMORY",  "JOBS",  "REASON"};
    static const enum fmt_align align[] = {FMT_LEFT,  FMT_LEFT,  FMT_LEFT, FMT_LEFT, FMT_RIGHT,
                                           FMT_RIGHT, FMT_RIGHT, FMT_LEFT, FMT_LEFT};
    struct fmt f = fmt_for(stdout);
    struct table *t = table_create(9, heads, align);
    const cJSON *node;

    if (!t) {
        return dha_fail(e, DHA_E_NO_MEMORY, "listing nodes");
    }
    cJSON_ArrayForEach(node, json_get(doc, "nodes"))
    {
        rows(t, &f, node);
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    return 0;
}

/* One node, slot by slot. */
static int print_slots(const cJSON *doc, const char *name, bool json, struct dha_err *e)
{
    static const char *const heads[] = {"SLOT", "DEVICE", "CORES", "GPU", "MEMORY", "JOB"};
    static const enum fmt_align align[] = {FMT_LEFT, FMT_LEFT,  FMT_LEFT,
                                           FMT_LEFT, FMT_RIGHT, FMT_LEFT};
    struct fmt f = fmt_for(stdout);
    const cJSON *node, *s;
    cJSON_ArrayForEach(node, json_get(doc, "nodes"))
    {
        if (strcmp(json_str(node, "name", ""), name)) {
            continue;
        }
        if (json) {
            return cli_print_json(node, e);
        }
        struct table *t = table_create(6, heads, align);
        if (!t) {
            return dha_fail(e, DHA_E_NO_MEMORY, "listing slots");
        }
        cJSON_ArrayForEach(s, json_get(node, "slots"))
        {
            char memory[32];
            memory_words(strtod(json_str(s, "memory", "0"), NULL), memory);
            table_cell(t, "%s", json_str(s, "name", "?"));
            table_cell(t, "%s", json_str(s, "device", "?"));
            table_cell(t, "%s", json_str(s, "cores", "any"));
            table_cell(t, "%s", json_str(s, "gpu", "-"));
            table_cell(t, "%s", memory);
            table_cell(t, "%s", json_str(s, "job", ""));
        }
        table_print(t, stdout, &f, "");
        table_destroy(t);
        return 0;
    }
    dha_fail(e, DHA_E_NOT_FOUND, "there is no node \"%.60s\"", name);
    return dha_err_hint(e, "dha nodes lists them");
}

static const char node_name[] = "the node's name";

static int change(struct client *c, const struct args *a, struct dha_err *e)
{
    const char *verb = a->pos[0];
    const char *reason = arg_value(a, "reason");
    bool drain = !strcmp(verb, "drain");
    cJSON *body = NULL;
    cJSON *doc = NULL;
    char *name = NULL;
    char path[512];
    int ret = -1;

    if (!drain && strcmp(verb, "resume")) {
        dha_fail(e, DHA_E_USAGE, "'%s' is none of show, drain, resume", verb);
        return dha_err_hint(e, "dha nodes drain NODE --reason TEXT; dha nodes resume NODE");
    }
    if (a->n_pos != 2) {
        return dha_fail(e, DHA_E_USAGE, "`dha nodes %s` needs the name of one node", verb);
    }
    if (client_check_word(node_name, a->pos[1], "dha nodes", e)) {
        return -1;
    }
    name = client_escape(c, a->pos[1]);
    body = cJSON_CreateObject();
    if (!name || !body || (drain && json_put_str(body, "reason", reason ? reason : ""))) {
        dha_fail(e, DHA_E_NO_MEMORY, "changing a node");
        goto out;
    }
    snprintf(path, sizeof path, "/v1/nodes/%s/%s", name, verb);
    if (client_post(c, path, body, NULL, &doc, e)) {
        goto out;
    }
    if (arg_flag(a, "json")) {
        ret = cli_print_json(json_get(doc, "node"), e);
        goto out;
    }
    cli_say("node %s is %s", a->pos[1], json_str(json_get(doc, "node"), "state", "?"));
    ret = 0;
out:
    cJSON_Delete(doc);
    cJSON_Delete(body);
    free(name);
    return ret;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    struct client *c = client_open(cli, e);
    cJSON *doc = NULL;
    int ret = -1;

    if (!c) {
        return -1;
    }
    bool show = a->n_pos > 0 && !strcmp(a->pos[0], "show");
    if (show && a->n_pos != 2) {
        dha_fail(e, DHA_E_USAGE, "`dha nodes show` needs the name of one node");
    } else if (a->n_pos > 0 && !show) {
        ret = change(c, a, e);
    } else if (show) {
        ret = client_check_word(node_name, a->pos[1], "dha nodes", e) ||
                      client_get(c, &doc, e, "/v1/nodes")
                  ? -1
                  : print_slots(doc, a->pos[1], arg_flag(a, "json"), e);
    } else if (!client_get(c, &doc, e, "/v1/nodes")) {
        ret = arg_flag(a, "json") ? cli_print_json(doc, e) : print(doc, e);
    }
    cJSON_Delete(doc);
    client_close(c);
    return ret;
}

const struct command cmd_nodes = {
    .name = "nodes",
    .args = "[show|drain|resume NODE] [--reason TEXT]",
    .summary = "Nodes and their slots; take one out of service and back",
    .help = "`show` lists a node's slots: their cores, GPU and memory. A drained node finishes "
            "what runs on "
            "it and gets nothing new.",
    .example = "dha nodes\ndha nodes drain node-3 --reason \"fan broken\"\ndha nodes resume node-3",
    .group = "The daemon and its nodes",
    .max_pos = 2,
    .json = true,
    .opts = opts,
    .run = run,
};
