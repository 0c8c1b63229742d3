/* scores.c: see scores.h. */
#include "daemon/scores.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/doc.h"
#include "daemon/runas.h"

#define EVAL_BYTES_MAX ((size_t)4 << 20)

/* "final:wiki" -> domains.wiki.final; other names are no domain's. Later stages have the last word. */
static int add_domain(cJSON *domains, const struct store_eval *ev)
{
    static const char *const models[] = {"parent", "converted", "final"};
    const char *colon = strchr(ev->name, ':');
    if (!colon || colon[1] == '\0') {
        return 0;
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        if (strlen(models[i]) != (size_t)(colon - ev->name) ||
            strncmp(models[i], ev->name, strlen(models[i])) != 0) {
            continue;
        }
        cJSON *of = cJSON_GetObjectItemCaseSensitive(domains, colon + 1);
        if (!of) {
            of = cJSON_AddObjectToObject(domains, colon + 1);
        }
        cJSON_DeleteItemFromObjectCaseSensitive(of, models[i]);
        return json_put_num(of, models[i], ev->loss);
    }
    return 0;
}

static int add_domains(struct daemon *d, const struct store_stage *st, cJSON *domains,
                       struct dha_err *e)
{
    struct store_eval *ev = NULL;
    size_t n = 0;
    if (store_evals(d->store, st->reused_from ? st->reused_from : st->id, &ev, &n, e) != 0) {
        return -1;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = add_domain(domains, &ev[i]);
    }
    free(ev);
    return rc == 0 ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}

/* The scores that the eval stage left; NULL where it has none, or where its file is gone (which is no reason to
 * withhold the rest of the result). */
static cJSON *tasks_of(const struct store_stages *l)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct store_stage *st = &l->at[i];
        char path[4200];
        struct dha_err ignored;
        if (st->kind != STAGE_EVAL || (st->state != STAGE_DONE && st->state != STAGE_REUSED)) {
            continue;
        }
        if (st->output && st->output[0]) {
            snprintf(path, sizeof path, "%.4100s", st->output);
        } else {
            snprintf(path, sizeof path, "%.4100s/eval.json", st->out_dir ? st->out_dir : "");
        }
        struct runas as;
        if (runas_enter_path(&as, st->out_dir) != 0) { /* the worker said where it is */
            return NULL;
        }
        cJSON *doc = json_parse_file(path, EVAL_BYTES_MAX, &ignored);
        runas_leave(&as);
        cJSON *tasks = cJSON_DetachItemFromObjectCaseSensitive(doc, "tasks");
        cJSON_Delete(doc);
        return tasks;
    }
    return NULL;
}

int scores_put(struct daemon *d, const struct store_stages *l, cJSON *result, struct dha_err *e)
{
    cJSON *domains = cJSON_CreateObject(), *tasks;
    int rc = domains ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    for (size_t i = 0; rc == 0 && i < l->n; i++) {
        rc = add_domains(d, &l->at[i], domains, e);
    }
    if (rc != 0) {
        cJSON_Delete(domains);
        return -1;
    }
    if (!domains->child) {
        cJSON_Delete(domains);
        domains = cJSON_CreateNull();
    }
    rc = json_put(result, "domains", domains);
    tasks = tasks_of(l);
    rc |= json_put(result, "tasks", tasks ? tasks : cJSON_CreateNull());
    return rc == 0 ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}
