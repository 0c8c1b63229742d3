/* draft.c: see draft.h. */
#include "daemon/draft.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"
#include "daemon/patience.h"
#include "daemon/runas.h"

/* No more is read ahead of the loop than bodies of this size in all: as trees they are some 30 times as large, and a commit may
 * take long. Some thousand usual ones. */
enum { AHEAD_MAX = 1 << 20 };
/* Files that have not answered for so long may never do so; then nobody is kept waiting for them but who named them. */
#define STUCK_NS ((uint64_t)5 * 1000000000)
enum { LOOK_MS = 1000 };

cJSON *draft_errors(const struct spec_errors *errs)
{
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; list && i < errs->n && (size_t)i < sizeof errs->at / sizeof *errs->at; i++) {
        cJSON *one = cJSON_CreateObject();
        if (!one || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            break;
        }
        if (json_put_str(one, "path", errs->at[i].path) != 0 ||
            json_put_str(one, "message", errs->at[i].msg) != 0 ||
            json_put_str(one, "hint", errs->at[i].hint) != 0) {
            break; /* what is there is still an answer */
        }
    }
    return list;
}

static char *path_of(const cJSON *obj, const char *key)
{
    const cJSON *v = json_get(obj, key);
    return cJSON_IsString(v) && v->valuestring[0] ? v->valuestring : NULL;
}

/* A spec with errors may name files that are not there as well: said in the same answer, as far as its paths
 * can be read. */
static void check_files_of(const cJSON *doc, int64_t owner_uid, struct spec_errors *errs)
{
    struct runas as;
    const cJSON *data = json_get(doc, "data"), *train = json_get(data, "train"), *f;
    struct job_spec paths = {.model = path_of(doc, "model"),
                             .data = {.valid = path_of(data, "valid"),
                                      .tokenizer = path_of(data, "tokenizer")}}; /* all borrowed */
    int n = cJSON_IsArray(train) ? cJSON_GetArraySize(train) : 0;
    paths.data.train = calloc((size_t)n + 1, sizeof *paths.data.train);
    if (!cJSON_IsArray(train) || !paths.data.train) {
        train = NULL;
    }
    cJSON_ArrayForEach(f, train)
    {
        if (!cJSON_IsString(f) || !f->valuestring[0]) {
            paths.data.n_train = 0;
            break;
        }
        paths.data.train[paths.data.n_train++] = f->valuestring;
    }
    if (runas_enter(&as, runas_user(owner_uid)) == 0) {
        stagekey_check_files(&paths, errs);
        runas_leave(&as);
    }
    free(paths.data.train);
}

void draft_check(struct draft *d, const cJSON *doc, int64_t owner)
{
    struct spec_errors errs = {0};
    struct runas as;
    if (spec_parse(doc, NULL, &d->spec, &errs) == 0) {
        if (runas_enter(&as, runas_user(owner)) != 0) {
            dha_fail_errno(&d->e, errno, "cannot look at the spec's files as uid %lld",
                           (long long)owner);
            return; /* whose the spec is: draft_finish()'s */
        }
        int missing = stagekey_check_files(&d->spec, &errs);
        runas_leave(&as);
        if (missing == 0) {
            return;
        }
        spec_finish(&d->spec);
    } else {
        check_files_of(doc, owner, &errs);
    }
    d->errors = draft_errors(&errs);
    dha_fail(&d->e, DHA_E_SPEC, "the spec has %d error%s: %s: %s%s", errs.n, errs.n == 1 ? "" : "s",
             errs.at[0].path, errs.at[0].msg, errs.n > 1 ? " (and more)" : "");
    if (errs.at[0].hint[0]) {
        dha_err_hint(&d->e, "%s", errs.at[0].hint);
    }
    snprintf(d->e.path, sizeof d->e.path, "%s", errs.at[0].path);
}

void draft_derive(struct draft *d, int64_t owner)
{
    cJSON *doc = spec_to_json(&d->spec);
    d->node_names = plan_node_names(&d->spec, &d->e);
    d->text = doc ? json_text(doc) : NULL;
    cJSON_Delete(doc);
    if (!d->text || !d->node_names) {
        dha_fail(&d->e, DHA_E_NO_MEMORY, "out of memory");
        return;
    }
    stages_keys(&d->spec, owner, d->keys, &d->n_keys, &d->e);
}

void draft_finish(struct draft *d)
{
    cJSON_Delete(d->body);
    cJSON_Delete(d->errors);
    spec_finish(&d->spec);
    free(d->text);
    free(d->node_names);
    free(d->raw);
}

/* ---- for who waits for it ---- */

struct now {
    struct draft draft;
    cJSON *doc;
};

static void now_drop(void *arg)
{
    struct now *n = arg;
    draft_finish(&n->draft);
    cJSON_Delete(n->doc);
    free(n);
}

static void now_work(void *arg)
{
    struct now *n = arg;
    draft_check(&n->draft, n->doc, n->draft.owner);
    if (n->draft.e.code == DHA_E_OK) {
        draft_derive(&n->draft, n->draft.owner);
    }
}

void draft_now(struct draft *d, const cJSON *doc, int64_t owner)
{
    struct now *n = calloc(1, sizeof *n);
    const char *model = path_of(doc, "model");
    *d = (struct draft){0};
    if (!n || !(n->doc = cJSON_Duplicate(doc, true))) {
        free(n);
        dha_fail(&d->e, DHA_E_NO_MEMORY, "out of memory");
        return;
    }
    n->draft.owner = owner;
    if (patience_run(now_work, now_drop, n, model ? model : "the spec's files", &d->e) == 0) {
        *d = n->draft;
        n->draft = (struct draft){0};
        now_drop(n);
    }
}

/* ---- in a thread ---- */

static void read_one(struct draft *d)
{
    d->body = json_parse(d->raw, d->raw_len, NULL, &d->body_e);
    const cJSON *doc = json_get(d->body, "spec");
    if (!d->body) {
        dha_err_context(&d->body_e, "the request's body");
    }
    if (!doc) {
        return;
    }
    draft_check(d, doc, d->owner);
    if (d->e.code == DHA_E_OK) {
        draft_derive(d, d->owner);
    }
}

static void put(struct draft_list *l, struct draft *d)
{
    d->next = NULL;
    *l->end = d;
    l->end = &d->next;
}

static void clear(struct draft_list *l)
{
    *l = (struct draft_list){.end = &l->first};
}

/* The first of the list, or NULL. */
static struct draft *take(struct draft_list *l)
{
    struct draft *d = l->first;
    if (d && !(l->first = d->next)) {
        clear(l);
    }
    return d;
}

static void drop(struct draft *d)
{
    draft_finish(d);
    free(d);
}

static void drop_all(struct draft_list *l)
{
    for (struct draft *d; (d = take(l));) {
        drop(d);
    }
}

static struct draft *next_wanted(struct drafts *all, struct draft *done, struct draft **spent)
{
    uv_mutex_lock(&all->lock);
    if (done) {
        put(&all->ready, done);
        all->ahead += done->raw_len;
    }
    struct draft *d = all->ahead < AHEAD_MAX ? take(&all->wanted) : NULL;
    *spent = take(&all->spent);
    all->since_ns = d ? uv_hrtime() : 0;
    all->whose = d ? d->owner : 0;
    uv_mutex_unlock(&all->lock);
    return d;
}

static void in_thread(uv_work_t *w)
{
    struct daemon *daemon = w->data;
    struct drafts *all = &daemon->drafts;
    struct draft *d = NULL, *spent;
    json_pool_join();
    do {
        struct draft *done = d;
        d = next_wanted(all, done, &spent);
        if (spent) {
            drop(spent);
        }
        if (done) { /* it is in the list by now */
            uv_async_send(&all->some_ready);
        }
        if (d) {
            read_one(d);
        }
    } while (d || spent);
}

/* ---- the loop ---- */

/* The request is over. */
static void leave(void *own)
{
    struct draft *d = own;
    struct drafts *all = d->all;
    d->rq = NULL;
    if (d->reading) {
        return; /* on_ready() will see it */
    }
    if (!all->busy) {
        drop(d);
        return;
    }
    uv_mutex_lock(&all->lock);
    put(&all->spent, d);
    uv_mutex_unlock(&all->lock);
}

static void after_thread(uv_work_t *w, int status);

static void start(struct daemon *d)
{
    struct drafts *all = &d->drafts;
    uv_mutex_lock(&all->lock);
    bool some = all->wanted.first && all->ahead < AHEAD_MAX;
    uv_mutex_unlock(&all->lock);
    if (some && !all->busy && !d->stopping) {
        all->busy = uv_queue_work(&d->loop, &all->reader, in_thread, after_thread) == 0;
    }
}

static void after_thread(uv_work_t *w, int status)
{
    struct daemon *d = w->data;
    (void)status; /* it is never cancelled */
    d->drafts.busy = false;
    start(d); /* what came between its last look and now */
    if (!d->drafts.busy) {
        drop_all(&d->drafts.spent); /* as late; nobody else would come by */
    }
}

/* Calls the handlers of those who wait for them. */
static void hand_back(struct daemon *d, struct draft *list)
{
    for (struct draft *at = list, *next; at; at = next) {
        next = at->next;
        at->reading = false;
        d->drafts.n--;
        if (at->rq) {
            at->rq->busy = false;
        } else {
            drop(at);
        }
    }
    if (d->server && list) {
        server_wake_ready(d->server);
    }
}

static void on_ready(uv_async_t *a)
{
    struct daemon *d = a->data;
    struct drafts *all = &d->drafts;
    uv_mutex_lock(&all->lock);
    struct draft *list = all->ready.first;
    clear(&all->ready);
    all->ahead = 0;
    uv_mutex_unlock(&all->lock);
    hand_back(d, list);
    start(d);
}

/* Does the thread wait for files that do not answer? Sets e. */
static bool is_stuck(struct drafts *all, struct dha_err *e)
{
    uv_mutex_lock(&all->lock);
    uint64_t since = all->since_ns, now = uv_hrtime();
    int64_t whose = all->whose;
    uv_mutex_unlock(&all->lock);
    if (since == 0 || now - since < STUCK_NS) {
        return false;
    }
    dha_fail(e, DHA_E_TRANSIENT,
             "no submission can be read: the files that one of uid %lld names have not answered "
             "for %llu s",
             (long long)whose, (unsigned long long)((now - since) / 1000000000));
    dha_err_hint(e, "does a file system hang (NFS, automount)? Jobs go on; try again");
    return true;
}

static void on_look(uv_timer_t *t)
{
    struct daemon *d = t->data;
    struct drafts *all = &d->drafts;
    struct dha_err e = {0};
    if (all->n == 0) {
        uv_timer_stop(t);
    } else if (is_stuck(all, &e)) {
        uv_mutex_lock(&all->lock);
        struct draft *list = all->wanted.first;
        clear(&all->wanted);
        uv_mutex_unlock(&all->lock);
        for (struct draft *at = list; at; at = at->next) {
            at->body_e = e;
        }
        hand_back(d, list);
    }
}

int drafts_init(struct daemon *d, struct dha_err *e)
{
    struct drafts *all = &d->drafts;
    if (uv_mutex_init(&all->lock) != 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    all->open = true;
    clear(&all->wanted);
    clear(&all->ready);
    clear(&all->spent);
    uv_timer_init(&d->loop, &all->look);
    all->look.data = all->some_ready.data = all->reader.data = d;
    return uv_async_init(&d->loop, &all->some_ready, on_ready) == 0
               ? 0
               : dha_fail(e, DHA_E_INTERNAL, "the loop takes no signal from threads");
}

void drafts_stop(struct daemon *d)
{
    if (d->drafts.open) {
        uv_mutex_lock(&d->drafts.lock);
        drop_all(&d->drafts.wanted);
        uv_mutex_unlock(&d->drafts.lock);
    }
}

void drafts_finish(struct daemon *d)
{
    if (d->drafts.open) {
        drop_all(&d->drafts.ready);
        drop_all(&d->drafts.spent);
        uv_mutex_destroy(&d->drafts.lock);
    }
}

int drafts_begin(struct daemon *d, struct server_request *rq, struct dha_err *e)
{
    struct drafts *all = &d->drafts;
    struct draft *one = is_stuck(all, e) ? NULL : calloc(1, sizeof *one);
    if (!one) {
        return e->code != DHA_E_OK ? -1 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    one->owner = (int64_t)rq->peer_uid;
    one->raw = rq->body;
    one->raw_len = rq->body_len;
    rq->body = NULL;
    rq->own = one;
    rq->own_free = leave;
    one->rq = rq;
    one->all = all;
    one->reading = rq->busy = true;
    all->n++;
    uv_mutex_lock(&all->lock);
    put(&all->wanted, one);
    uv_mutex_unlock(&all->lock);
    start(d);
    if (!uv_is_active((uv_handle_t *)&all->look)) {
        uv_timer_start(&all->look, on_look, LOOK_MS, LOOK_MS);
    }
    return 0;
}
