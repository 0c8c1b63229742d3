/* config.json: what is accepted has maps within its heads, and comes back the same through its own JSON. */
#include <stdlib.h>
#include <string.h>

#include "worker/model/config.h"

static void maps_hold(const struct model_config *c)
{
    for (int i = 0; i < c->layers * c->heads; i++)
        if (c->key_of[i] < 0 || c->key_of[i] >= c->n_key[i / c->heads] || c->value_of[i] < 0 ||
            c->value_of[i] >= c->n_value[i / c->heads])
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config c, again;
    struct dha_err e;
    cJSON *j = json_parse((const char *)data, size, NULL, &e);
    if (!j)
        return 0;
    if (model_config_parse(j, "(memory)", &c, &e) == 0) {
        maps_hold(&c);
        cJSON *out = model_config_to_json(&c, false, c.dtype);
        if (!out || model_config_parse(out, "(again)", &again, &e) < 0)
            abort();
        size_t cells = (size_t)c.layers * (size_t)c.heads * sizeof(int);
        if (again.hidden != c.hidden || again.head_dim != c.head_dim || again.rope != c.rope ||
            memcmp(again.key_of, c.key_of, cells) != 0 ||
            memcmp(again.value_of, c.value_of, cells) != 0)
            abort();
        cJSON_Delete(out);
        model_config_finish(&again);
        model_config_finish(&c);
    }
    cJSON_Delete(j);
    return 0;
}
