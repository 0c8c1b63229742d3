/* result.c: `result` of a job: what its stages' records add up to. A reused stage's records are those of
 * the stage it was taken from; later stages have the last word. */
#include "daemon/doc.h"
#include "daemon/scores.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct collected {
    double parent, converted, final; /* NaN = unknown */
    int64_t tokens, kv_parent, kv_converted;
    cJSON *curve;
    struct store_head_budget *heads;
    size_t n_heads;
    bool known; /* anything at all */
};

/* before: tokens that the stages before this one read. */
static int add_point(cJSON *curve, enum stage_kind kind, const struct store_eval *ev,
                     int64_t before)
{
    cJSON *p = cJSON_CreateObject();
    if (!p || !cJSON_AddItemToArray(curve, p)) {
        cJSON_Delete(p);
        return -1;
    }
    return json_put_str(p, "stage", stage_kind_name(kind)) | json_put_int(p, "step", ev->step) |
           json_put_int(p, "trained_tokens", ev->trained_tokens) |
           json_put_int(p, "tokens", before + ev->trained_tokens) |
           json_put_num(p, "loss", ev->loss);
}

static int take_evals(struct collected *c, enum stage_kind kind, const struct store_eval *ev,
                      size_t n)
{
    for (size_t i = 0; i < n; i++) {
        c->known = true;
        if (strcmp(ev[i].name, "parent") == 0) {
            c->parent = ev[i].loss;
        } else if (strcmp(ev[i].name, "converted") == 0) {
            c->converted = ev[i].loss;
        } else if (strcmp(ev[i].name, "final") == 0) {
            c->final = ev[i].loss;
        } else if (strcmp(ev[i].name, "valid") == 0 &&
                   add_point(c->curve, kind, &ev[i], c->tokens) != 0) {
            return -1;
        }
    }
    return 0;
}

static int take_stage(struct daemon *d, struct collected *c, const struct store_stage *st,
                      struct dha_err *e)
{
    bool untouched = st->attempt == 0 && (st->state == STAGE_PENDING || st->state == STAGE_READY);
    int64_t from = st->reused_from ? st->reused_from : st->id;
    struct store_eval *ev = NULL;
    struct store_head_budget *hb = NULL;
    size_t n = 0, n_hb = 0;
    int rc = -1;
    if (untouched) { /* nothing has spoken of it */
        return 0;
    }
    if (store_evals(d->store, from, &ev, &n, e) != 0 ||
        store_head_budgets(d->store, from, &hb, &n_hb, e) != 0) {
        goto out;
    }
    if (take_evals(c, st->kind, ev, n) != 0) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    if (n_hb) {
        free(c->heads);
        c->heads = hb;
        c->n_heads = n_hb;
        hb = NULL;
        c->known = true;
    }
    c->tokens += st->tokens;
    c->kv_parent = st->kv_parent ? st->kv_parent : c->kv_parent;
    c->kv_converted = st->kv_converted ? st->kv_converted : c->kv_converted;
    c->known |= st->tokens > 0 || st->kv_parent > 0;
    rc = 0;
out:
    free(ev);
    free(hb);
    return rc;
}

static cJSON *int_array(const int *v, int n)
{
    return cJSON_CreateIntArray(v, n);
}

/* Per layer, in layer order: heads and maps of keys or of values. */
static int put_heads(cJSON *j, const struct collected *c, bool value)
{
    cJSON *heads = cJSON_CreateArray(), *maps = cJSON_CreateArray();
    bool ok = heads && maps;
    for (size_t i = 0; ok && i < c->n_heads; i++) {
        const struct store_head_budget *h = &c->heads[i];
        if (h->value == value) {
            ok = cJSON_AddItemToArray(heads, cJSON_CreateNumber(h->heads)) &&
                 cJSON_AddItemToArray(maps, int_array(h->map, h->n_map));
        }
    }
    if (!ok) {
        cJSON_Delete(heads);
        cJSON_Delete(maps);
        return -1;
    }
    return json_put(j, value ? "value_heads" : "key_heads", heads) |
           json_put(j, value ? "value_of" : "key_of", maps);
}

static int put_budget(cJSON *j, const struct collected *c)
{
    int64_t kept = 0, all = 0;
    for (size_t i = 0; i < c->n_heads; i++) {
        kept += c->heads[i].heads;
        all += c->heads[i].n_map;
    }
    if (all == 0) {
        return doc_put_null(j, "head_budget") | doc_put_null(j, "key_heads") |
               doc_put_null(j, "value_heads") | doc_put_null(j, "key_of") |
               doc_put_null(j, "value_of");
    }
    return json_put_num(j, "head_budget", (double)kept / (double)all) | put_heads(j, c, false) |
           put_heads(j, c, true);
}

static int put_kv(cJSON *j, const struct collected *c)
{
    if (!c->kv_parent && !c->kv_converted) {
        return doc_put_null(j, "kv_bytes_per_token");
    }
    cJSON *kv = cJSON_CreateObject();
    if (!kv || json_put(j, "kv_bytes_per_token", kv) != 0) {
        return -1;
    }
    return (c->kv_parent ? json_put_id(kv, "parent", c->kv_parent) : doc_put_null(kv, "parent")) |
           (c->kv_converted ? json_put_id(kv, "converted", c->kv_converted)
                            : doc_put_null(kv, "converted"));
}

/* The export stage's model directory: what a user takes away. */
static int put_checkpoint(cJSON *j, const struct store_stages *l)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct store_stage *st = &l->at[i];
        if (st->kind != STAGE_EXPORT || (st->state != STAGE_DONE && st->state != STAGE_REUSED)) {
            continue;
        }
        if (st->output && st->output[0]) {
            return json_put_str(j, "checkpoint", st->output);
        }
        char path[4200];
        snprintf(path, sizeof path, "%.4000s/model", st->out_dir ? st->out_dir : "");
        return json_put_str(j, "checkpoint", path);
    }
    return doc_put_null(j, "checkpoint");
}

static cJSON *assemble(const struct store_job *job, const struct store_stages *l,
                       struct collected *c)
{
    cJSON *j = cJSON_CreateObject(), *loss = cJSON_CreateObject();
    if (!j || !loss) {
        cJSON_Delete(loss);
        cJSON_Delete(j);
        return NULL;
    }
    int64_t end = job->ended_us ? job->ended_us : now_us();
    int rc = json_put_num(loss, "parent", c->parent) |
             json_put_num(loss, "converted", c->converted) | json_put_num(loss, "final", c->final);
    rc |= json_put(j, "loss", loss) | json_put_int(j, "tokens_spent", c->tokens) | put_kv(j, c) |
          put_budget(j, c) | put_checkpoint(j, l) | json_put(j, "curve", c->curve);
    c->curve = NULL;
    rc |= (job->started_us ? json_put_num(j, "wall_s", (double)(end - job->started_us) / 1e6)
                           : doc_put_null(j, "wall_s")) |
          doc_put_error(j, "error", &job->error);
    if (rc != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

cJSON *doc_result(struct daemon *d, const struct store_job *job, const struct store_stages *l,
                  struct dha_err *e)
{
    struct collected c = {.parent = NAN, .converted = NAN, .final = NAN};
    cJSON *j = NULL;
    c.curve = cJSON_CreateArray();
    c.known = job->error.code[0] != '\0' || job->state == JOB_DONE;
    if (!c.curve) {
        return doc_oom(NULL, e);
    }
    for (size_t i = 0; i < l->n; i++) {
        if (take_stage(d, &c, &l->at[i], e) != 0) {
            goto out;
        }
    }
    j = c.known ? assemble(job, l, &c) : cJSON_CreateNull();
    if (!j) {
        doc_oom(NULL, e);
    } else if (c.known && scores_put(d, l, j, e) != 0) {
        cJSON_Delete(j);
        j = NULL;
    }
out:
    cJSON_Delete(c.curve);
    free(c.heads);
    return j;
}
