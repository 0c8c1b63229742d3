/* scenario.h: what the store is made to do while something fails: turns, each some calls and a commit.
 *
 * A turn starts from what the turns before it left, so every id is known beforehand. Each call is one function of
 * store.h, or one that reads; each must be atomic by itself. They may be run with some of them left out: then
 * some fail, the same ones each time.
 */
#ifndef DHA_TESTS_SCENARIO_H
#define DHA_TESTS_SCENARIO_H

#include "store/store.h"

#define SCENARIO_NOW   INT64_C(1700000000000000)
#define SCENARIO_CALLS 12

struct scenario_turn {
    const char *name;
    struct {
        const char *name; /* NULL ends the turn */
        int (*run)(struct store *s, struct dha_err *e);
    } call[SCENARIO_CALLS];
};

extern const struct scenario_turn scenario[];
extern const int scenario_turns;

#endif
