/* feed.h: the event log as text, for many readers: each event is read from the store and turned into JSON once, however many
 * readers there are.
 *
 * Life cycle. feed_open() borrows the store until feed_close(). The feed keeps the blocks of events that were asked
 * for last (FEED_BLOCKS of some FEED_BLOCK_BYTES, the newest ones as a rule) and reads others again when somebody needs
 * them. A reader is nothing but a cursor: the number of the last event it has.
 *
 * Only what is committed is shown: nobody is told of a change that a lost turn takes back.
 */
#ifndef DHA_DAEMON_FEED_H
#define DHA_DAEMON_FEED_H

#include "store/store.h"

#define FEED_BLOCKS      16
#define FEED_BLOCK_BYTES (256 * 1024) /* a block takes no more events after so many bytes */
#define FEED_TYPE_MAX    32

struct feed;

struct feed *feed_open(struct store *s, struct dha_err *e);
void feed_close(struct feed *f); /* NULL allowed */

struct feed_filter {
    int64_t job;              /* 0 = all */
    char type[FEED_TYPE_MAX]; /* what the type begins with; "" = all */
};

struct feed_event {
    int64_t seq;
    const char *type; /* borrowed until the next call */
    const char *text; /* the event as one line of JSON (proto/API.md), len bytes */
    size_t len;
};

enum feed_found {
    FEED_ERROR = -1, /* e says why */
    FEED_END,        /* nothing more at present */
    FEED_EVENT,      /* *out is the next one; the cursor stands before it */
    FEED_PAUSE       /* *budget events were looked at: go on in another turn of the loop */
};

/* The first committed event after *cursor that passes the filter. Moves *cursor over those that do not, and takes them
 * off *budget; the caller sets it to out->seq when it has taken the event. */
enum feed_found feed_next(struct feed *f, const struct feed_filter *filter, int64_t *cursor,
                          int *budget, struct feed_event *out, struct dha_err *e);

#endif
