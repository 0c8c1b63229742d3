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

static int print(const cJSON *doc, struct dha_err *e)
{
    static const char *const heads[] = {"NODE", "STATE", "DEVICE", "SLOTS",
                                        "FREE", "JOBS",  "REASON"};
    static const enum fmt_align align[] = {FMT_LEFT,  FMT_LEFT, FMT_LEFT, FMT_RIGHT,
                                           FMT_RIGHT, FMT_LEFT, FMT_LEFT};
    struct fmt f = fmt_for(stdout);
    struct table *t = table_create(7, heads, align);
    const cJSON *node;

    if (!t) {
        return dha_fail(e, DHA_E_NO_MEMORY, "listing nodes");
    }
    cJSON_ArrayForEach(node, json_get(doc, "nodes"))
    {
        const cJSON *slots = json_get(node, "slots");
        const char *state = json_str(node, "state", "?");
        const cJSON *s;
        char jobs[128] = "";
        int free_slots = 0;
        cJSON_ArrayForEach(s, slots)
        {
            const char *job = json_str(s, "job", NULL);
            char word[32];
            if (!job) {
                free_slots++;
                continue;
            }
            snprintf(word, sizeof word, "%s%s", *jobs ? " " : "", job);
            /* A gang's slots are neighbours: each job once. */
            const char *last = strrchr(jobs, ' ');
            if (strcmp(last ? last + 1 : jobs, job) && strlen(jobs) + strlen(word) < sizeof jobs) {
                strcat(jobs, word);
            }
        }
        table_cell(t, "%s", json_str(node, "name", "?"));
        table_cell(t, "%s%s%s", fmt_on(&f, view_state_colour(state)), state, fmt_off(&f));
        table_cell(t, "%s", json_str(json_at(slots, "0"), "device", "?"));
        table_cell(t, "%d", cJSON_GetArraySize(slots));
        table_cell(t, "%d", free_slots);
        table_cell(t, "%s", jobs);
        table_cell(t, "%s", json_str(node, "reason", ""));
    }
    table_print(t, stdout, &f, "");
    table_destroy(t);
    return 0;
}

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
        dha_fail(e, DHA_E_USAGE, "'%s' is neither drain nor resume", verb);
        return dha_err_hint(e, "dha nodes drain NODE --reason TEXT; dha nodes resume NODE");
    }
    if (a->n_pos != 2) {
        return dha_fail(e, DHA_E_USAGE, "`dha nodes %s` needs the name of one node", verb);
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
    if (a->n_pos > 0) {
        ret = change(c, a, e);
    } else if (!client_get(c, &doc, e, "/v1/nodes")) {
        ret = arg_flag(a, "json") ? cli_print_json(doc, e) : print(doc, e);
    }
    cJSON_Delete(doc);
    client_close(c);
    return ret;
}

const struct command cmd_nodes = {
    .name = "nodes",
    .args = "[drain|resume NODE] [--reason TEXT]",
    .summary = "Nodes and their slots; take one out of service and back",
    .help = "A drained node finishes what runs on it and gets nothing new.",
    .example = "dha nodes\ndha nodes drain node-3 --reason \"fan broken\"\ndha nodes resume node-3",
    .group = "The daemon and its nodes",
    .max_pos = 2,
    .json = true,
    .opts = opts,
    .run = run,
};
