/* failpoint.h: places where a test may kill the daemon: DHA_FAILPOINT=name[:n] kills it (SIGKILL to
 * itself) the n-th time it comes by (default 1st). Compiled in only with -DDHA_FAILPOINTS (the
 * binary dhad-failpoints that tests/crash uses); in dhad itself nothing is left of them.
 *
 * Every point is a row of this table (or does not compile); tests/crash enumerates `dhad-failpoints
 * --list-failpoints`, so a new point without a surviving daemon fails the suite, and so does a function that
 * commits, renames, removes, starts or kills without a point (crash_failpoints.py: Sites).
 * Those of the shim are in dha-shim-failpoints, which listens to DHA_SHIM_FAILPOINT. DHA_FAILPOINT_ONCE names a file
 * that the first hit creates: who finds it there goes on.
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
    X(cancel_after_signal, "told to stop, nothing recorded about it")                              \
    X(cancel_before_kill, "grace over, nothing killed")                                            \
    X(cancel_after_kill, "everything of the attempt was sent SIGKILL")                             \
    X(launch_before_spec, "attempt committed, its directory there, nothing in it")                 \
    X(start_before_commit, "state open, node registered, not committed")                           \
    X(start_after_commit, "state open and committed, nobody listens")                              \
    X(stop_before_unlink, "told to end: everything committed, the socket there")                   \
    X(sweep_before_kill, "a shim was lost, what it left is alive")                                 \
    X(sweep_after_kill, "nothing is left of a lost attempt, its temporary directory is")           \
    X(remote_before_ask, "nothing is left here, no other node was asked")                          \
    X(remote_before_drain, "a node is given up, its attempt not ended")                            \
    X(remove_before_unlink, "a damaged output is about to be removed")                             \
    X(admin_export_before_records, "export: files copied, nothing written about them")             \
    X(admin_export_before_manifest, "export: all but its manifest there")                          \
    X(admin_export_before_rename, "export: whole, but still DIR.tmp")                              \
    X(admin_export_after_rename, "export: there, nobody told")                                     \
    X(admin_import_before_copy, "import: its directory made, nothing in it")                       \
    X(admin_import_copied, "import: all copied, no rows")                                          \
    X(admin_import_before_commit, "import: rows made, not committed")                              \
    X(admin_import_before_rename, "import: rows committed, the files not the job's yet")           \
    X(admin_import_after_rename, "import: there, nobody told")                                     \
    X(admin_prune_no_manifest, "prune: a checkpoint's manifest is gone, the rest is there")        \
    X(admin_prune_retired, "prune: a checkpoint renamed away, its row still complete")             \
    X(admin_prune_before_remove, "prune: recorded as deleted, the bytes still there")              \
    X(admin_fsck_before_move, "fsck: a place in lost+found made, nothing moved")                   \
    X(admin_fsck_after_move, "fsck: moved, its event not committed")                               \
    X(admin_fsck_disabled, "fsck: a bad checkpoint's manifest renamed, its row still complete")    \
    X(admin_offline_before_commit, "dhad fsck: all repaired, not committed")                       \
    X(shim_locked, "dha-shim: lock held, nothing written")                                         \
    X(shim_tmp_made, "dha-shim: its temporary directory there, shim.json not")                     \
    X(shim_before_rename, "dha-shim: shim.json (1st) or exit.json (2nd) written, not named so")    \
    X(shim_after_rename, "dha-shim: shim.json (1st) or exit.json (2nd) there")                     \
    X(shim_before_fork, "dha-shim: counts as started, the command does not run")                   \
    X(shim_swept, "dha-shim: nothing is left of the attempt, exit.json not written")

enum failpoint {
#define X(name, where) FAILPOINT_##name,
    DHA_FAILPOINT_TABLE(X)
#undef X
};

#ifdef DHA_FAILPOINTS
void failpoint_hit(const char *name);
void failpoint_list(void);
#define FAILPOINT(name) ((void)FAILPOINT_##name, failpoint_hit(#name))
#else
#define FAILPOINT(name) ((void)FAILPOINT_##name)
#endif

#endif
