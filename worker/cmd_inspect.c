/* cmd_inspect.c: what a checkpoint is, and how alike its heads are: linear CKA on the weights, without centring (METHODS 1.1),
 *   CKA(i,j) = ||W_i W_j^T||_F^2 / (||W_i W_i^T||_F ||W_j W_j^T||_F),  W [dim, hidden],
 * mean over pairs, for keys and values of each layer. 1 = the same subspace, 0 = orthogonal.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/cmd.h"
#include "worker/model/model.h"
#include "proto/json.h"

/* Mean CKA over the pairs of `heads` heads whose weights are parameter p; NaN for one head. */
static int similarity(struct model *m, const struct param *p, int heads, double *mean,
                      struct dha_err *e)
{
    struct kern *k = m->k;
    size_t rows = (size_t)p->rows, d = (size_t)m->cfg.head_dim;
    double *s = calloc((size_t)heads * (size_t)heads, sizeof *s);
    float *g = malloc(rows * rows * sizeof *g);
    struct kern_buf *b = k->ops->alloc(k, KERN_F32, rows * rows);
    int rc = -1;
    if (!s || !g || !b) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for the Gram matrix of %s", p->name);
        goto out;
    }
    struct kern_view w = model_view(m, p);
    k->ops->gemm(k, false, true, rows, rows, (size_t)p->cols, 1, w, (size_t)p->cols, w,
                 (size_t)p->cols, 0, kern_at(b, 0), rows);
    k->ops->download(k, g, kern_at(b, 0), rows * rows);
    struct kern_err ke;
    if (kern_sync(k, &ke)) {
        dha_fail(e, DHA_E_INTERNAL, "backend: %s", ke.msg);
        goto out;
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < rows; j++)
            s[i / d * (size_t)heads + j / d] += (double)g[i * rows + j] * (double)g[i * rows + j];
    double sum = 0;
    for (int i = 0; i < heads; i++)
        for (int j = 0; j < i; j++)
            sum += s[i * heads + j] / sqrt(s[i * heads + i] * s[j * heads + j]);
    *mean = sum / (0.5 * heads * (heads - 1));
    rc = 0;
out:
    k->ops->free(k, b);
    free(g);
    free(s);
    return rc;
}

static cJSON *ints(const int *v, int n)
{
    return cJSON_CreateIntArray(v, n);
}

static int describe(struct model *m, const char *dir, cJSON *j, struct dha_err *e)
{
    const struct model_config *c = &m->cfg;
    int elem = strcmp(c->dtype, "float32") ? 2 : 4;
    cJSON *layers = cJSON_AddArrayToObject(j, "per_layer");
    int bad = json_put_str(j, "model", dir) | json_put_int(j, "layers", c->layers) |
              json_put_int(j, "hidden", c->hidden) | json_put_int(j, "ffn", c->ffn) |
              json_put_int(j, "heads", c->heads) | json_put_int(j, "head_dim", c->head_dim) |
              json_put_int(j, "vocab", c->vocab) | json_put_int(j, "positions", c->max_positions) |
              json_put_str(j, "dtype", c->dtype) | json_put_bool(j, "tied", c->tied) |
              json_put_id(j, "parameters", (int64_t)m->n_params) |
              json_put_num(j, "head_budget", model_config_head_budget(c)) |
              json_put_id(j, "kv_bytes_per_token", model_config_kv_bytes(c, elem)) |
              json_put_bool(j, "plain_gqa", model_config_is_plain_gqa(c));
    for (int l = 0; !bad && layers && l < c->layers; l++) {
        cJSON *o = cJSON_CreateObject();
        double sk, sv;
        if (similarity(m, model_param(m, l, P_K), c->n_key[l], &sk, e) ||
            similarity(m, model_param(m, l, P_V), c->n_value[l], &sv, e)) {
            cJSON_Delete(o);
            return -1;
        }
        bad |= json_put_int(o, "layer", l) | json_put_int(o, "key_heads", c->n_key[l]) |
               json_put_int(o, "value_heads", c->n_value[l]) |
               json_put(o, "key_of", ints(c->key_of + l * c->heads, c->heads)) |
               json_put(o, "value_of", ints(c->value_of + l * c->heads, c->heads)) |
               json_put_num(o, "key_similarity", sk) | json_put_num(o, "value_similarity", sv);
        if (!cJSON_AddItemToArray(layers, o))
            bad = 1;
    }
    return bad || !layers ? dha_fail(e, DHA_E_NO_MEMORY, "no memory for the description") : 0;
}

/* "key 8 heads  a b c d ...": query heads with the same letter share a head. */
static void print_map(const char *kind, const int *map, int heads, int kept, double sim)
{
    printf("    %-5s %3d  ", kind, kept);
    for (int h = 0; h < heads; h++)
        printf(map[h] < 26 ? "%s%c" : "%s%d", h ? " " : "", map[h] < 26 ? 'a' + map[h] : map[h]);
    if (isfinite(sim))
        printf("   similarity %.3f", sim);
    printf("\n");
}

static void print(const struct model *m, const cJSON *j)
{
    const struct model_config *c = &m->cfg;
    printf("%s\n", json_str(j, "model", ""));
    printf("  %d layers, hidden %d, ffn %d, %d heads of %d, vocabulary %d, %d positions, %s%s\n",
           c->layers, c->hidden, c->ffn, c->heads, c->head_dim, c->vocab, c->max_positions,
           c->dtype, c->tied ? ", tied embeddings" : "");
    printf("  %zu parameters; KV cache %s bytes a token (%.4g %% of multi-head)\n", m->n_params,
           json_str(j, "kv_bytes_per_token", "?"), 100 * model_config_head_budget(c));
    printf("  heads: query heads with the same letter share one; similarity: mean CKA of the "
           "weights\n");
    const cJSON *o;
    cJSON_ArrayForEach(o, json_get(j, "per_layer"))
    {
        int l = (int)json_int(o, "layer", 0);
        printf("  layer %d\n", l);
        print_map("key", c->key_of + l * c->heads, c->heads, c->n_key[l],
                  json_num(o, "key_similarity", NAN));
        print_map("value", c->value_of + l * c->heads, c->heads, c->n_value[l],
                  json_num(o, "value_similarity", NAN));
    }
}

int cmd_inspect(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    const char *dir = NULL;
    bool as_json = false;
    const struct option_spec options[] = {
        {.name = "model", .str = &dir, .required = true}, {.name = "json", .flag = &as_json}, {0}};
    struct kern_err ke = {0};
    struct model *m = NULL;
    cJSON *j = NULL;
    int first = cmd_options(argc, argv, options, e), rc = -1;
    if (first < 0)
        return -1;
    if (comm->size > 1)
        return dha_fail(e, DHA_E_USAGE, "inspect runs as one process, not under mpirun -n %d",
                        comm->size);
    if (first != argc)
        return dha_fail(e, DHA_E_USAGE, "unexpected argument %s", argv[first]);
    struct kern *k = kern_open("cpu", 0, &ke);
    if (!k)
        return dha_fail(e, DHA_E_INTERNAL, "backend cpu: %s", ke.msg);
    if (model_load(&m, k, dir, e))
        goto out;
    j = cJSON_CreateObject();
    if (!j) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory for the description");
        goto out;
    }
    if (describe(m, dir, j, e))
        goto out;
    rc = 0;
    if (as_json) {
        char *text = json_text_pretty(j);
        if (text)
            puts(text);
        free(text);
    } else {
        print(m, j);
    }
out:
    cJSON_Delete(j);
    model_free(m);
    kern_close(k);
    return rc;
}
