/* stage_export.c: the finished model as the directory a user takes away: OUT/model, with what the stages before it measured in
 * its card (card.h). Rank 0's work.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/export.h"
#include "worker/fsutil.h"
#include "worker/stage.h"

/* A document that a stage before this one left; *doc = NULL where that stage was not or did not leave it. */
static int left_by(const struct stage *st, enum stage_kind k, const char *name, cJSON **doc,
                   struct dha_err *e)
{
    char path[PATH_MAX];
    *doc = NULL;
    if (!st->s->inputs[k])
        return 0;
    if (fs_path(path, sizeof path, e, "%s/%s", st->s->inputs[k], name))
        return -1;
    if (!fs_exists(path))
        return 0;
    *doc = json_parse_file(path, 0, e);
    return *doc ? 0 : -1;
}

/* The member `key` of `from`, where it is there. */
static int take(cJSON *to, const char *as, const cJSON *from, const char *key)
{
    const cJSON *v = json_get(from, key);
    return v ? json_put(to, as, cJSON_Duplicate(v, true)) : 0;
}

static int put_scores(cJSON *facts, const cJSON *losses, const cJSON *eval)
{
    cJSON *s = cJSON_CreateObject(), *domains = cJSON_CreateObject();
    int bad = !s || !domains || take(s, "seq_len", eval, "seq_len") ||
              take(s, "parent", losses, "parent") || take(s, "converted", losses, "converted") ||
              take(s, "final", eval, "loss") || take(s, "tasks", eval, "tasks") ||
              take(domains, "parent", json_get(losses, "domains"), "parent") ||
              take(domains, "converted", json_get(losses, "domains"), "converted") ||
              take(domains, "final", eval, "domains");
    if (!bad && domains->child) {
        bad = json_put(s, "domains", domains);
        domains = NULL;
    }
    cJSON_Delete(domains);
    if (bad || !s->child) { /* nothing was measured */
        cJSON_Delete(s);
        return bad ? -1 : 0;
    }
    return json_put(facts, "scores", s);
}

/* The parent's own name is its directory's: the path is nobody else's business. */
static int put_parent(cJSON *facts, const char *dir, const struct model_config *c)
{
    char path[PATH_MAX];
    cJSON *p = cJSON_CreateObject();
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    snprintf(path, sizeof path, "%.*s", (int)n, dir);
    const char *slash = strrchr(path, '/');
    return json_put(facts, "parent", p) ||
                   json_put_str(p, "name", slash && slash[1] ? slash + 1 : path) ||
                   json_put(p, "key_heads", cJSON_CreateIntArray(c->n_key, c->layers)) ||
                   json_put(p, "value_heads", cJSON_CreateIntArray(c->n_value, c->layers))
               ? -1
               : 0;
}

static int put_data(cJSON *facts, const struct data_spec *s)
{
    cJSON *data = cJSON_CreateObject(), *domains = NULL;
    if (json_put(facts, "data", data) || json_put_str(data, "format", s->format) ||
        (s->seq_len > 0 && json_put_int(data, "seq_len", s->seq_len)))
        return -1;
    if (s->n_mixture > 0 && json_put(data, "domains", domains = cJSON_CreateArray()))
        return -1;
    for (int i = 0; i < s->n_mixture; i++) {
        cJSON *name = cJSON_CreateString(s->mixture[i].name);
        if (!name || !cJSON_AddItemToArray(domains, name)) {
            cJSON_Delete(name);
            return -1;
        }
    }
    return 0;
}

/* "method_parts": the method as an object, if it is not its preset. */
static int put_parts(cJSON *facts, const struct job_spec *s)
{
    cJSON *doc = spec_to_json(s);
    cJSON *parts = doc ? cJSON_DetachItemFromObjectCaseSensitive(doc, "method") : NULL;
    cJSON_Delete(doc);
    if (!parts)
        return -1;
    if (cJSON_IsObject(parts))
        return json_put(facts, "method_parts", parts);
    cJSON_Delete(parts);
    return 0;
}

static int put_spec(cJSON *facts, const struct job_spec *s)
{
    cJSON *tokens = cJSON_CreateObject(), *recovery = cJSON_CreateObject();
    if (json_put_str(facts, "format", "dha-conversion-1") ||
        json_put_str(facts, "version", DHA_VERSION) ||
        json_put_str(facts, "method", s->method.name) || put_parts(facts, s) ||
        /* one head a layer is what it is, whatever the budget says */
        (s->method.grouping != GROUP_ONE && json_put_num(facts, "budget", s->budget)) ||
        json_put_id(facts, "seed", s->seed)) {
        cJSON_Delete(tokens);
        cJSON_Delete(recovery);
        return -1;
    }
    int bad = json_put(facts, "tokens", tokens) ||
              /* what calibrates is counted by the stage that did (put_scores) */
              (s->method.grouping == GROUP_LEARNED &&
               json_put_id(tokens, "search", s->tokens_search)) ||
              json_put_id(tokens, "fuse", s->tokens_fuse) ||
              json_put_id(tokens, "train", s->tokens_train);
    bool trained = s->tokens_train > 0 || s->tokens_fuse > 0;
    if (bad || !trained) {
        cJSON_Delete(recovery);
        return bad ? -1 : 0;
    }
    return json_put(facts, "recovery", recovery) || json_put_num(recovery, "lm", s->w_lm) ||
                   json_put_num(recovery, "kl", s->w_kl) ||
                   json_put_num(recovery, "bild", s->w_bild) ||
                   json_put_id(facts, "batch_tokens", s->batch_tokens)
               ? -1
               : 0;
}

/* What was spent in fact stands for what was asked for: whole steps, and a stop rule. */
static int put_spent(cJSON *facts, const cJSON *losses, const cJSON *trained)
{
    cJSON *tokens = cJSON_GetObjectItemCaseSensitive(facts, "tokens");
    return take(tokens, "calibration", losses, "calibration_tokens") ||
           take(tokens, "fuse", losses, "trained_tokens") ||
           take(tokens, "train", trained, "tokens") || take(facts, "lr", trained, "lr");
}

static int gather_facts(const struct stage *st, const struct model_config *parent, cJSON **out,
                        struct dha_err *e)
{
    const struct job_spec *s = &st->s->spec;
    cJSON *losses = NULL, *eval = NULL, *trained = NULL, *facts = cJSON_CreateObject();
    int rc = left_by(st, STAGE_FUSE, "losses.json", &losses, e) ||
                     left_by(st, STAGE_TRAIN, "trained.json", &trained, e) ||
                     left_by(st, STAGE_EVAL, "eval.json", &eval, e)
                 ? -1
                 : 0;
    if (rc == 0 && (!facts || put_spec(facts, s) || put_data(facts, &s->data) ||
                    put_parent(facts, s->model, parent) || put_scores(facts, losses, eval) ||
                    put_spent(facts, losses, trained)))
        rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for the model's card");
    cJSON_Delete(losses);
    cJSON_Delete(trained);
    cJSON_Delete(eval);
    if (rc)
        cJSON_Delete(facts);
    *out = rc ? NULL : facts;
    return rc;
}

static int export(struct stage *st, struct dha_err *e)
{
    struct model_config parent = {0};
    char from[PATH_MAX], to[PATH_MAX];
    cJSON *facts = NULL;
    int rc = model_config_load(st->s->spec.model, &parent, e) ||
                     stage_input_model(st, from, sizeof from, e) ||
                     stage_out(st, to, sizeof to, "model", e) ||
                     gather_facts(st, &parent, &facts, e) ||
                     export_model(st->k, from, st->s->spec.model, to, st->s->spec.format,
                                  parent.dtype, facts, e)
                 ? -1
                 : 0;
    cJSON_Delete(facts);
    model_config_finish(&parent);
    return rc;
}

int stage_export(struct stage *st, struct dha_err *e)
{
    int rc = 0;
    stage_hello(st, 0, -1);
    if (!stage_has_output(st, "model") && st->comm->rank == 0)
        rc = export(st, e);
    stage_output(st, "model");
    return comm_agree(st->comm, rc, e);
}
