/* transition.c: states and the arrows between them, as tables. */
#include <string.h>

#include "store/store.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static const char *const job_names[] = {
    [JOB_QUEUED] = "queued", [JOB_HELD] = "held",     [JOB_RUNNING] = "running",
    [JOB_DONE] = "done",     [JOB_FAILED] = "failed", [JOB_CANCELLED] = "cancelled",
};
static const char *const stage_names[] = {
    [STAGE_PENDING] = "pending",     [STAGE_READY] = "ready",   [STAGE_RUNNING] = "running",
    [STAGE_DONE] = "done",           [STAGE_REUSED] = "reused", [STAGE_FAILED] = "failed",
    [STAGE_CANCELLED] = "cancelled",
};
static const char *const attempt_names[] = {
    [ATTEMPT_STARTING] = "starting", [ATTEMPT_RUNNING] = "running",
    [ATTEMPT_STOPPING] = "stopping", [ATTEMPT_UNREACHABLE] = "unreachable",
    [ATTEMPT_ENDED] = "ended",
};
_Static_assert(COUNT(job_names) == JOB_STATES, "a name for each job state");
_Static_assert(COUNT(stage_names) == STAGE_STATES, "a name for each stage state");
_Static_assert(COUNT(attempt_names) == ATTEMPT_STATES, "a name for each attempt state");

#define TO(state) (1u << (state))

/* from -> set of to */
static const unsigned job_moves[] = {
    [JOB_QUEUED] = TO(JOB_HELD) | TO(JOB_RUNNING) | TO(JOB_DONE) /* all stages reused */ |
                   TO(JOB_FAILED) | TO(JOB_CANCELLED),
    [JOB_HELD] = TO(JOB_QUEUED) | TO(JOB_RUNNING) /* a stage went on meanwhile */ | TO(JOB_DONE) |
                 TO(JOB_FAILED) | TO(JOB_CANCELLED),
    [JOB_RUNNING] = TO(JOB_QUEUED) | TO(JOB_HELD) | TO(JOB_DONE) | TO(JOB_FAILED) |
                    TO(JOB_CANCELLED),
    [JOB_DONE] = 0,
    [JOB_FAILED] = TO(JOB_QUEUED),
    [JOB_CANCELLED] = TO(JOB_QUEUED),
};
static const unsigned stage_moves[] = {
    [STAGE_PENDING] = TO(STAGE_READY) | TO(STAGE_REUSED) | TO(STAGE_FAILED) | TO(STAGE_CANCELLED),
    [STAGE_READY] = TO(STAGE_PENDING) | TO(STAGE_RUNNING) | TO(STAGE_REUSED) | TO(STAGE_FAILED) |
                    TO(STAGE_CANCELLED),
    [STAGE_RUNNING] = TO(STAGE_READY) | TO(STAGE_DONE) | TO(STAGE_FAILED) | TO(STAGE_CANCELLED),
    /* back to pending: what it left is not there any more, or the user wants it again */
    [STAGE_DONE] = TO(STAGE_PENDING),
    [STAGE_REUSED] = TO(STAGE_PENDING),
    [STAGE_FAILED] = TO(STAGE_PENDING),
    [STAGE_CANCELLED] = TO(STAGE_PENDING),
};
_Static_assert(COUNT(job_moves) == JOB_STATES, "moves from each job state");
_Static_assert(COUNT(stage_moves) == STAGE_STATES, "moves from each stage state");

bool job_move_allowed(enum job_state from, enum job_state to)
{
    return (unsigned)from < JOB_STATES && (unsigned)to < JOB_STATES && job_moves[from] & TO(to);
}

bool stage_move_allowed(enum stage_state from, enum stage_state to)
{
    return (unsigned)from < STAGE_STATES && (unsigned)to < STAGE_STATES &&
           stage_moves[from] & TO(to);
}

bool job_state_final(enum job_state st)
{
    return st == JOB_DONE || st == JOB_FAILED || st == JOB_CANCELLED;
}

bool stage_state_final(enum stage_state st)
{
    return st == STAGE_DONE || st == STAGE_REUSED || st == STAGE_FAILED || st == STAGE_CANCELLED;
}

const char *job_state_name(enum job_state st)
{
    return (unsigned)st < JOB_STATES ? job_names[st] : "?";
}

const char *stage_state_name(enum stage_state st)
{
    return (unsigned)st < STAGE_STATES ? stage_names[st] : "?";
}

const char *attempt_state_name(enum attempt_state st)
{
    return (unsigned)st < ATTEMPT_STATES ? attempt_names[st] : "?";
}

static int find(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; name && i < n; i++)
        if (strcmp(names[i], name) == 0)
            return (int)i;
    return -1;
}

int job_state_from_name(const char *name, enum job_state *st)
{
    int i = find(job_names, COUNT(job_names), name);
    if (i >= 0)
        *st = (enum job_state)i;
    return i < 0 ? -1 : 0;
}

int stage_state_from_name(const char *name, enum stage_state *st)
{
    int i = find(stage_names, COUNT(stage_names), name);
    if (i >= 0)
        *st = (enum stage_state)i;
    return i < 0 ? -1 : 0;
}

int attempt_state_from_name(const char *name, enum attempt_state *st)
{
    int i = find(attempt_names, COUNT(attempt_names), name);
    if (i >= 0)
        *st = (enum attempt_state)i;
    return i < 0 ? -1 : 0;
}
