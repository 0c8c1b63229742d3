/* journal.h: rank 0's journal (proto/record.h): one record a line, each written with one write() so that a reader never
 * sees half of two. Other ranks hold a silent journal.
 */
#ifndef DHA_WORKER_JOURNAL_H
#define DHA_WORKER_JOURNAL_H

#include <stdbool.h>
#include "proto/record.h"

struct journal {
    int fd;       /* -1: silent */
    bool narrate; /* also say it in words on stderr (running without a controller) */
    char stage[16];
    double narrated; /* when progress was last put into words */
};

double journal_now(void);
void journal_write(struct journal *j, struct record *r); /* sets r->time */
/* total 0: work that has no count, or is a single thing ("save"); it is declared so that the daemon does not measure its
 * time by that of the steps around it. */
void journal_phase(struct journal *j, const char *name, int64_t done, int64_t total);
void journal_eval(struct journal *j, const char *name, double loss, int64_t tokens, int64_t windows,
                  int64_t step, int64_t trained);
/* kind: "key", "value" or "block" (the whole attention block) */
void journal_layer(struct journal *j, const char *name, const char *kind, int layer, int64_t step,
                   double value);
void journal_error(struct journal *j, const struct dha_err *e);

#endif
