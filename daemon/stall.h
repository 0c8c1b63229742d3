/* stall.h: when does a step that does not end mean that the attempt is frozen? Pure: the times are passed in, of a clock
 * that only goes forward.
 *
 * An attempt does one kind of work at a time: it starts, it is in a phase that it declared ("calibrate", "save" ...), or it
 * trains, step after step. Of each kind of work it is remembered how long its steps took at most. Once STALL_SEEN of them
 * were seen, one that takes STALL_TIMES as long as the longest is frozen; but never before `least_s` (people's disks and
 * networks hiccup), and always after `bound_s`. Before that nothing is known, and bound_s it is: a first step may be
 * anything. A phase between two steps is a kind of work of its own, so that a checkpoint is not measured by the steps
 * around it.
 */
#ifndef DHA_DAEMON_STALL_H
#define DHA_DAEMON_STALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STALL_STEP  "step"  /* training */
#define STALL_START "start" /* before the worker said anything */

enum { STALL_WORKS = 12, STALL_SEEN = 5, STALL_TIMES = 10, STALL_NAME = 48 };

struct stall_work {
    char name[STALL_NAME]; /* "" = the row is free */
    uint64_t longest_ms;
    int seen;
};

/* What one daemon has seen of one attempt; all zeros at first. */
struct stall {
    struct stall_work works[STALL_WORKS];
    char now[STALL_NAME]; /* the work it is at */
    int64_t done, of;     /* the step it is at; of 0 = not known */
    int64_t stamp;        /* that of the last move */
    uint64_t moved_ms;    /* when it was seen */
    bool begun;
};

struct stall_limit {
    uint64_t ms;  /* 0 = none */
    bool learned; /* from longest_ms, else bound_s as it was set */
    bool least;   /* learned, and raised to least_s */
    uint64_t longest_ms;
};

/* The name of the work that comes next: that of what is being done; a count that has reached its end says that it is over,
 * and of what follows nothing is known. */
void stall_work_name(const char *name, int64_t done, int64_t of, char *work, size_t size);
/* What the attempt says it is at: a name, and a stamp that changes whenever something moved. */
void stall_see(struct stall *s, const char *work, int64_t done, int64_t of, int64_t stamp,
               uint64_t now_ms);
/* bound_s 0: no limit. */
struct stall_limit stall_limit(const struct stall *s, int64_t bound_s, int64_t least_s);
bool stall_frozen(const struct stall *s, const struct stall_limit *l, uint64_t now_ms);
/* Where the limit comes from, in words; `setting` names the one that bounds it. */
void stall_limit_text(const struct stall_limit *l, const char *setting, char *text, size_t size);
/* "step 12 of 400", "\"calibrate\" 3 of 40", "the start": the step that is waited for. */
void stall_work_text(const struct stall *s, char *text, size_t size);

#endif
