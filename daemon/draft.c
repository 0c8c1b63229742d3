/* draft.c: see draft.h. */
#include "daemon/draft.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"
#include "daemon/patience.h"
#include "daemon/runas.h"
#include "proto/text.h"

/* No more is read ahead of the loop than bodies of this size in all: as trees they are some 30 times as large, and a commit may
 * take long. Some thousand usual ones. */
enum { AHEAD_MAX = 1 << 20 };
/* Files that have not answered for so long are left to a thread of their own: another one reads what other users submit. */
#define SLOW_NS ((uint64_t)500 * 1000000)
/* And so long: they may never do so; then what else that user submits is refused. */
#define STUCK_NS ((uint64_t)5 * 1000000000)
enum { LOOK_MS = 250 };

/* A thread that reads one submission after the other. */
struct reader {
    struct drafts *all;
    struct draft *at; /* since since_ns; NULL: it waits for one */
    uint64_t since_ns;
    const char *model; /* of that, once it is known */
    bool aside;        /* another has its place: when it comes back it ends */
    struct patience_left left;
    struct reader *next;
};

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
    if (patience_run(now_work, now_drop, n, owner, model ? model : "the spec's files", &d->e) ==
        0) {
        *d = n->draft;
        n->draft = (struct draft){0};
        now_drop(n);
    }
}

/* ---- lists; with the lock ---- */

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

static struct draft *take_at(struct draft_list *l, struct draft **at)
{
    struct draft *d = *at;
    if (!(*at = d->next)) {
        l->end = at;
    }
    return d;
}

/* The first of the list, or NULL. */
static struct draft *take(struct draft_list *l)
{
    return l->first ? take_at(l, &l->first) : NULL;
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

/* Who reads something of that user and was put aside, or NULL. */
static const struct reader *aside_for(const struct drafts *all, int64_t owner)
{
    const struct reader *r = all->aside;
    while (r && r->left.owner != owner) {
        r = r->next;
    }
    return r;
}

/* What is to be read next: one reader at most waits for the files of one user. */
static struct draft *take_wanted(struct drafts *all)
{
    struct draft **at = &all->wanted.first;
    while (*at && aside_for(all, (*at)->owner)) {
        at = &(*at)->next;
    }
    return *at && all->ahead < AHEAD_MAX ? take_at(&all->wanted, at) : NULL;
}

/* ---- in a thread ---- */

static void read_one(struct reader *r)
{
    struct draft *d = r->at;
    d->body = json_parse(d->raw, d->raw_len, NULL, &d->body_e);
    const cJSON *doc = json_get(d->body, "spec");
    if (!d->body) {
        dha_err_context(&d->body_e, "the request's body");
    }
    if (!doc) {
        return;
    }
    uv_mutex_lock(&r->all->lock);
    r->model = path_of(doc, "model");
    uv_mutex_unlock(&r->all->lock);
    draft_check(d, doc, d->owner);
    if (d->e.code == DHA_E_OK) {
        draft_derive(d, d->owner);
    }
}

static void hand_in(struct reader *r)
{
    struct drafts *all = r->all;
    if (r->at) {
        put(&all->ready, r->at);
        all->ahead += r->at->raw_len;
        r->at = NULL;
        r->model = NULL;
        if (!all->stopping) {
            uv_async_send(&all->some_ready);
        }
    }
}

/* Hands in what was read and waits for more: r->at, or something spent. False: this thread is to end. */
static bool go_on(struct reader *r, struct draft **spent)
{
    struct drafts *all = r->all;
    uv_mutex_lock(&all->lock);
    hand_in(r);
    for (;;) {
        bool wanted = !r->aside && !all->stopping;
        r->at = wanted ? take_wanted(all) : NULL;
        *spent = wanted ? take(&all->spent) : NULL;
        if (!wanted || r->at || *spent) {
            r->since_ns = r->at ? uv_hrtime() : 0;
            uv_mutex_unlock(&all->lock);
            return wanted;
        }
        uv_cond_wait(&all->some, &all->lock);
    }
}

static void end(struct reader *r)
{
    struct drafts *all = r->all;
    uv_mutex_lock(&all->lock);
    struct reader **at = r->aside ? &all->aside : &all->reader;
    while (*at != r) {
        at = &(*at)->next;
    }
    *at = r->next;
    if (r->aside) {
        patience_back(&r->left);
        uv_cond_signal(&all->some); /* its user's others may be read again */
    }
    free(r);
    uv_cond_signal(&all->gone);
    uv_mutex_unlock(&all->lock);
}

static void in_thread(void *arg)
{
    struct reader *r = arg;
    struct draft *spent;
    json_pool_join();
    while (go_on(r, &spent)) {
        if (spent) {
            drop(spent);
        }
        if (r->at) {
            read_one(r);
        }
    }
    json_pool_leave();
    end(r);
}

/* ---- the loop ---- */

/* With the lock. */
static struct reader *start(struct drafts *all, struct dha_err *e)
{
    struct reader *r = calloc(1, sizeof *r);
    if (!r) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        return NULL;
    }
    r->all = all;
    if (patience_thread(in_thread, r, "read submissions", e) != 0) {
        free(r);
        return NULL;
    }
    return r;
}

/* The request is over. */
static void leave(void *own)
{
    struct draft *d = own;
    struct drafts *all = d->all;
    d->rq = NULL;
    if (d->reading) {
        return; /* on_ready() will see it */
    }
    uv_mutex_lock(&all->lock);
    bool idle = !all->reader || !all->reader->at; /* nobody would come by */
    if (!idle) {
        put(&all->spent, d);
    }
    uv_mutex_unlock(&all->lock);
    if (idle) {
        drop(d);
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
    if (all->ahead >= AHEAD_MAX) {
        uv_cond_signal(&all->some);
    }
    all->ahead = 0;
    uv_mutex_unlock(&all->lock);
    hand_back(d, list);
}

/* With the lock. Does what that user submits wait for files that do not answer? Sets e. */
static bool is_stuck(const struct drafts *all, int64_t owner, struct dha_err *e)
{
    const struct reader *r = aside_for(all, owner);
    char whose[64] = "no submission", model[201];
    uint64_t now = uv_hrtime();
    if (r) {
        snprintf(whose, sizeof whose, "no submission of uid %lld", (long long)owner);
    } else {
        r = all->reader; /* nobody could take its place */
    }
    if (!r || !r->at || now - r->since_ns < STUCK_NS) {
        return false;
    }
    text_copy(model, sizeof model, r->model ? r->model : "?");
    dha_fail(e, DHA_E_TRANSIENT,
             "%s can be read: the files that one of uid %lld names (model %s) have not answered "
             "for %llu s",
             whose, (long long)r->at->owner, model,
             (unsigned long long)((now - r->since_ns) / 1000000000));
    dha_err_hint(e, "does a file system hang (NFS, automount)? Jobs go on; try again");
    return true;
}

/* With the lock. Where there are too many already, or no thread is to be had, all wait; on_look() tries again. */
static void put_aside(struct drafts *all)
{
    struct reader *r = all->reader, *other;
    struct dha_err ignored;
    r->left = (struct patience_left){.owner = r->at->owner};
    if (!patience_leave(&r->left)) {
        return;
    }
    if (!(other = start(all, &ignored))) {
        patience_back(&r->left);
        return;
    }
    r->aside = true;
    r->next = all->aside;
    all->aside = r;
    all->reader = other;
}

static void on_look(uv_timer_t *t)
{
    struct daemon *d = t->data;
    struct drafts *all = &d->drafts;
    struct draft_list refused;
    clear(&refused);
    if (all->n == 0) {
        uv_timer_stop(t);
        return;
    }
    uv_mutex_lock(&all->lock);
    struct reader *r = all->reader;
    if (r->at && uv_hrtime() - r->since_ns >= SLOW_NS) {
        put_aside(all);
    }
    for (struct draft **at = &all->wanted.first; *at;) {
        struct dha_err e = {0};
        if (is_stuck(all, (*at)->owner, &e)) {
            struct draft *one = take_at(&all->wanted, at);
            one->body_e = e;
            put(&refused, one);
        } else {
            at = &(*at)->next;
        }
    }
    uv_mutex_unlock(&all->lock);
    hand_back(d, refused.first);
}

int drafts_init(struct daemon *d, struct dha_err *e)
{
    struct drafts *all = &d->drafts;
    if (uv_mutex_init(&all->lock) != 0 || uv_cond_init(&all->some) != 0 ||
        uv_cond_init(&all->gone) != 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    all->open = true;
    clear(&all->wanted);
    clear(&all->ready);
    clear(&all->spent);
    uv_timer_init(&d->loop, &all->look);
    all->look.data = all->some_ready.data = d;
    if (uv_async_init(&d->loop, &all->some_ready, on_ready) != 0) {
        return dha_fail(e, DHA_E_INTERNAL, "the loop takes no signal from threads");
    }
    uv_mutex_lock(&all->lock);
    all->reader = start(all, e);
    uv_mutex_unlock(&all->lock);
    return all->reader ? 0 : -1;
}

/* With the lock. Does any thread wait for files? All others end as soon as they may. */
static bool any_reads(const struct drafts *all)
{
    const struct reader *r = all->aside;
    while (r && !r->at) {
        r = r->next;
    }
    return r || (all->reader && all->reader->at);
}

bool drafts_stop(struct daemon *d)
{
    struct drafts *all = &d->drafts;
    uint64_t until = uv_hrtime() + SLOW_NS;
    if (!all->open) {
        return true;
    }
    uv_mutex_lock(&all->lock);
    drop_all(&all->wanted);
    all->stopping = true;
    uv_cond_signal(&all->some);
    while ((all->reader || all->aside) && (!any_reads(all) || uv_hrtime() < until)) {
        uv_cond_timedwait(&all->gone, &all->lock, SLOW_NS / 10);
    }
    bool gone = !all->reader && !all->aside;
    uv_mutex_unlock(&all->lock);
    return gone;
}

void drafts_finish(struct daemon *d)
{
    struct drafts *all = &d->drafts;
    if (all->open) {
        drop_all(&all->ready);
        drop_all(&all->spent);
        uv_cond_destroy(&all->gone);
        uv_cond_destroy(&all->some);
        uv_mutex_destroy(&all->lock);
    }
}

int drafts_begin(struct daemon *d, struct server_request *rq, struct dha_err *e)
{
    struct drafts *all = &d->drafts;
    struct draft *one = calloc(1, sizeof *one);
    if (!one) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    uv_mutex_lock(&all->lock);
    bool stuck = is_stuck(all, (int64_t)rq->peer_uid, e);
    if (!stuck) {
        one->owner = (int64_t)rq->peer_uid;
        one->raw = rq->body;
        one->raw_len = rq->body_len;
        one->rq = rq;
        one->all = all;
        one->reading = true;
        put(&all->wanted, one);
        uv_cond_signal(&all->some);
    }
    uv_mutex_unlock(&all->lock);
    if (stuck) {
        free(one);
        return -1;
    }
    rq->body = NULL;
    rq->own = one;
    rq->own_free = leave;
    rq->busy = true;
    all->n++;
    if (!uv_is_active((uv_handle_t *)&all->look)) {
        uv_timer_start(&all->look, on_look, LOOK_MS, LOOK_MS);
    }
    return 0;
}
