/* ingest.h: a journal's new lines into the store.
 *
 * The journal is a file that rank 0's stdout is appended to. Only whole lines count; how far the file
 * has been read and what was read are one transaction (store_ingest), so each record counts once
 * however often the daemon dies. A line that is no record is set aside in lost_found. At the end of an
 * attempt (`final`) a last line without a newline is set aside, too. Whatever is in the file, and however much: one call
 * takes some 20 ms, and what is set aside of one attempt is bounded.
 */
#ifndef DHA_DAEMON_INGEST_H
#define DHA_DAEMON_INGEST_H

#include "daemon/daemon.h"

struct ingest {
    int64_t attempt; /* id */
    const char *dir;
    int64_t offset;            /* read so far */
    int fd;                    /* -1 = not open yet */
    int aside;                 /* lines that were set aside by this daemon */
    bool retaining;            /* its worker may be removing checkpoints */
    double away_from, away_to; /* when no daemon was at work, by the wall clock */
    bool worked;               /* records were written between these */
    bool closed;               /* what is in dir is another's: not to be opened */
    bool lost;                 /* it is not there any more, or is no file */
    bool said_unknown;         /* that it has records of a type that this version does not know */
};

#define JOURNAL_FILE "journal.ndjson"

enum { INGEST_MORE = 1 };
/* Reads what is new. 0 also when there is nothing (no file yet). INGEST_MORE: call it again, in another turn. */
int ingest_journal(struct daemon *d, struct ingest *in, bool final, struct dha_err *e);
void ingest_finish(struct ingest *in);

#endif
