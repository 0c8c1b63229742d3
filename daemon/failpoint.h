/* failpoint.h: places where a test may kill the daemon: DHA_FAILPOINT=name[:n] kills it (SIGKILL to
 * itself) the n-th time it comes by (default 1st). Compiled in only with -DDHA_FAILPOINTS (the
 * binary dhad-failpoints that tests/crash uses); in dhad itself nothing is left of them.
 *
 * Every point is a row of this table; tests/crash enumerates `dhad-failpoints --list-failpoints`, so a
 * new point without a surviving daemon fails the suite.
 */
#ifndef DHA_DAEMON_FAILPOINT_H
#define DHA_DAEMON_FAILPOINT_H

#define DHA_FAILPOINT_TABLE(X)                                                                     \
    X(turn_before_commit, "changes made, transaction open")                                        \
    X(turn_after_commit, "committed; replies and actions still to come")                           \
    X(turn_after_reply, "replies released; actions still to come")                                 \
    X(launch_before_spawn, "attempt committed, shim not started")                                  \
    X(launch_after_spawn, "shim started, nothing recorded about it")                               \
    X(watch_before_open, "shim.json there, not yet watched")                                       \
    X(ingest_before_commit, "journal records read, not committed")                                 \
    X(ingest_final, "last records read, attempt not yet judged")                                   \
    X(finish_before_commit, "attempt over, its end not committed")                                 \
    X(finish_before_turn_end, "end of the attempt and moves made, not committed")                  \
    X(cancel_before_signal, "cancel committed, nothing signalled")                                 \
    X(cancel_before_kill, "grace over, nothing killed")

#ifdef DHA_FAILPOINTS
void failpoint_hit(const char *name);
void failpoint_list(void);
#define FAILPOINT(name) failpoint_hit(#name)
#else
#define FAILPOINT(name) ((void)0)
#endif

#endif
