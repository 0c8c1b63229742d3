/* api_events.c: the event log, with long poll: a request that finds nothing new waits until an event is
 * committed or its time is up. */
#include "daemon/api.h"

#include "daemon/doc.h"

enum { WAIT_MAX_S = 60, EVENTS_MAX = 10000 };

enum api_outcome api_events(struct api_call *c)
{
    struct store_events l;
    int64_t after, limit, wait;
    if (api_query_int(c, "after", 0, INT64_MAX, 0, &after) != 0 ||
        api_query_int(c, "limit", 1, EVENTS_MAX, 1000, &limit) != 0 ||
        api_query_int(c, "wait", 0, WAIT_MAX_S, 0, &wait) != 0 ||
        store_events_list(c->d->store, after, (int)limit, &l, &c->e) != 0) {
        return API_FAIL;
    }
    if (l.n == 0 && wait > 0 && !c->rq->expired) {
        if (c->rq->deadline_ms == 0) {
            c->rq->deadline_ms = uv_now(&c->d->loop) + (uint64_t)wait * 1000;
        }
        store_events_finish(&l);
        return API_WAIT;
    }
    cJSON *list = cJSON_CreateArray();
    int64_t last = after;
    for (size_t i = 0; list && i < l.n; i++) {
        cJSON *one = doc_event(&l.at[i], &c->e);
        if (!one || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            list = NULL;
        }
        last = l.at[i].seq;
    }
    store_events_finish(&l);
    enum api_outcome out = api_answer(c, "events", list);
    if (out == API_OK && json_put_id(c->doc, "last", last) != 0) {
        dha_fail(&c->e, DHA_E_NO_MEMORY, "out of memory");
        out = API_FAIL;
    }
    return out;
}
