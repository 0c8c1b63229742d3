/* feed.c: see feed.h. A block holds the events of (after, upto]: the numbers are those of the log, without gaps as a rule. Blocks
 * begin at multiples of BLOCK_EVENTS, so that readers share them wherever they began to read; the last one
 * grows with the log. */
#include "daemon/feed.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/doc.h"

enum { BLOCK_EVENTS = 256 };

struct entry {
    int64_t seq, job;
    size_t at, len; /* its text */
    char type[FEED_TYPE_MAX];
};

struct block {
    int64_t after, upto;
    uint64_t used; /* when it was last asked for; 0 = the place is free */
    struct entry entry[BLOCK_EVENTS];
    size_t n;
    char *text;
    size_t len, cap;
};

struct feed {
    struct store *store;
    uint64_t clock;
    struct block block[FEED_BLOCKS];
};

struct feed *feed_open(struct store *s, struct dha_err *e)
{
    struct feed *f = calloc(1, sizeof *f);
    if (!f) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        return NULL;
    }
    f->store = s;
    return f;
}

void feed_close(struct feed *f)
{
    for (size_t i = 0; f && i < FEED_BLOCKS; i++) {
        free(f->block[i].text);
    }
    free(f);
}

static bool is_closed(const struct block *b)
{
    return b->n == BLOCK_EVENTS || b->len >= FEED_BLOCK_BYTES;
}

/* Room for n more bytes of text; false: no memory. */
static bool reserve(struct block *b, size_t n)
{
    if (b->len + n > b->cap) {
        size_t cap = 2 * (b->len + n);
        char *more = realloc(b->text, cap);
        if (!more) {
            return false;
        }
        b->text = more;
        b->cap = cap;
    }
    return true;
}

static int add_event(struct block *b, const struct store_event *ev, struct dha_err *e)
{
    cJSON *doc = doc_event(ev, e);
    char *text = doc ? json_text(doc) : NULL;
    cJSON_Delete(doc);
    size_t len = text ? strlen(text) : 0;
    if (!text || !reserve(b, len)) {
        free(text);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    struct entry *at = &b->entry[b->n++];
    *at = (struct entry){.seq = ev->seq, .job = ev->job, .at = b->len, .len = len};
    memcpy(at->type, ev->type, sizeof at->type - 1);
    memcpy(b->text + b->len, text, len);
    b->len += len;
    b->upto = ev->seq;
    free(text);
    return 0;
}

/* The events after b->upto, as far as they are committed and there is room. */
static int extend(struct feed *f, struct block *b, int64_t last, struct dha_err *e)
{
    struct store_events l;
    int room = BLOCK_EVENTS - (int)b->n, rc = 0;
    if (store_events_list(f->store, b->upto, room, &l, e) != 0) {
        return -1;
    }
    size_t i = 0;
    while (i < l.n && l.at[i].seq <= last && !is_closed(b) && rc == 0) {
        rc = add_event(b, &l.at[i++], e);
    }
    if (rc == 0 && (i < l.n ? l.at[i].seq > last : l.n < (size_t)room)) {
        b->upto = last; /* also where the log has a gap: there is nothing to wait for */
    }
    store_events_finish(&l);
    return rc;
}

/* The place of the block that was not asked for longest, emptied. */
static struct block *new_block(struct feed *f, int64_t after)
{
    struct block *b = &f->block[0];
    for (size_t i = 1; i < FEED_BLOCKS; i++) {
        b = f->block[i].used < b->used ? &f->block[i] : b;
    }
    free(b->text);
    b->text = NULL;
    b->len = b->cap = b->n = 0;
    b->after = b->upto = after;
    return b;
}

/* The block with what comes after the cursor, which is less than `last`. NULL on failure. */
static struct block *block_at(struct feed *f, int64_t cursor, int64_t last, struct dha_err *e)
{
    for (;;) {
        int64_t begin = cursor - cursor % BLOCK_EVENTS;
        struct block *near =
            NULL; /* the one that ends last, of those that could lead up to the cursor */
        for (size_t i = 0; i < FEED_BLOCKS; i++) {
            struct block *b = &f->block[i];
            if (b->used && b->after <= cursor && cursor < b->upto) {
                b->used = ++f->clock;
                return b;
            }
            if (b->used && begin <= b->upto && b->upto <= cursor &&
                (!near || b->upto > near->upto)) {
                near = b;
            }
        }
        if (!near || is_closed(near)) {
            near = new_block(f, near ? near->upto : begin);
        }
        near->used = ++f->clock;
        if (extend(f, near, last, e) != 0) {
            near->used = 0; /* what is in it may be half of an event */
            return NULL;
        }
    }
}

static bool passes(const struct entry *at, const struct feed_filter *filter)
{
    return (!filter->job || at->job == filter->job) &&
           strncmp(at->type, filter->type, strlen(filter->type)) == 0;
}

/* Index of the first entry with a number over the cursor. */
static size_t find(const struct block *b, int64_t cursor)
{
    size_t lo = 0, hi = b->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (b->entry[mid].seq > cursor) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return lo;
}

enum feed_found feed_next(struct feed *f, const struct feed_filter *filter, int64_t *cursor,
                          int *budget, struct feed_event *out, struct dha_err *e)
{
    int64_t last = store_event_last(f->store);
    while (*cursor < last) {
        const struct block *b = block_at(f, *cursor, last, e);
        if (!b) {
            return FEED_ERROR;
        }
        for (size_t i = find(b, *cursor); i < b->n; i++) {
            const struct entry *at = &b->entry[i];
            if (*budget <= 0) {
                return FEED_PAUSE;
            }
            --*budget;
            if (passes(at, filter)) {
                *out = (struct feed_event){at->seq, at->type, b->text + at->at, at->len};
                return FEED_EVENT;
            }
            *cursor = at->seq;
        }
        *cursor = b->upto;
    }
    return FEED_END;
}
