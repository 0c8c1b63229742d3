#include "store/db.h"

/* How many jobs that have not ended a user has, without counting them at each submission: from a count that was right
 * once, and what was added since, follows a bound that is never too low. Only when that reaches the limit the jobs are
 * counted again. Jobs that end make the bound too high; what could make it too low (a job that had ended goes on, an end is
 * undone) has it forgotten. */
static struct queue_bound *bound_of(struct store *s, int64_t owner_uid)
{
    for (int i = 0; i < QUEUE_BOUNDS; i++)
        if (s->queue[i].known && s->queue[i].owner_uid == owner_uid)
            return &s->queue[i];
    struct queue_bound *b = &s->queue[s->queue_next++ % QUEUE_BOUNDS];
    *b = (struct queue_bound){.owner_uid = owner_uid, .jobs = INT64_MAX};
    return b;
}

int store_queue_check(struct store *s, int64_t owner_uid, int64_t limit, int64_t n,
                      struct dha_err *e)
{
    if (limit <= 0)
        return 0;
    struct queue_bound *b = bound_of(s, owner_uid);
    if (!b->known || b->jobs + n > limit) {
        if (db_scalar(s, e,
                      db_query(s, e,
                               "SELECT count(*) FROM job WHERE owner_uid = ?1"
                               " AND state IN ('queued', 'held', 'running')",
                               DB_I(owner_uid)),
                      0, &b->jobs) != 0) {
            b->known = false;
            return -1;
        }
        b->known = true;
    }
    if (b->jobs + n <= limit)
        return 0;
    dha_fail(
        e, DHA_E_QUEUE_FULL,
        "uid %lld has %lld jobs that have not ended; with %lld more it would be over the limit "
        "of %lld",
        (long long)owner_uid, (long long)b->jobs, (long long)n, (long long)limit);
    return dha_err_hint(e, "wait until some have ended or cancel some; the limit is the daemon's "
                           "setting queue_per_user");
}

int store_queue_of_others(struct store *s, int64_t uid, int64_t *n, int64_t *other,
                          struct dha_err *e)
{
#define OF_OTHERS " FROM job WHERE owner_uid != ?1 AND state IN ('queued', 'held', 'running')"
    return db_scalar(s, e, db_query(s, e, "SELECT count(*)" OF_OTHERS, DB_I(uid)), 0, n) != 0
               ? -1
               : db_scalar(s, e, db_query(s, e, "SELECT min(owner_uid)" OF_OTHERS, DB_I(uid)), 0,
                           other);
#undef OF_OTHERS
}

void queue_added(struct store *s, int64_t owner_uid)
{
    for (int i = 0; i < QUEUE_BOUNDS; i++)
        if (s->queue[i].known && s->queue[i].owner_uid == owner_uid)
            s->queue[i].jobs++;
}

void queue_forget(struct store *s)
{
    for (int i = 0; i < QUEUE_BOUNDS; i++)
        s->queue[i].known = false;
}
