/* procs.h: finding and killing the processes of one attempt, from /proc alone. Shared by dhad and
 * dha-shim; needs nothing but libc.
 *
 * mpirun puts every rank into a process group of its own, and what a rank forks may leave its session:
 * no single id names them all. An attempt's processes are therefore the union of
 *   - the session of its shim (the shim is a session leader),
 *   - the descendants of its shim (the shim is a child subreaper, so orphans come back to it),
 *   - every process whose environment holds DHA_ATTEMPT=<uuid>.
 * Never a name. Zombies count as dead: where pid 1 reaps late, a dead process keeps its /proc entry.
 *
 * A pid alone names nobody (pids are used again): identity is pid + start time + boot id.
 */
#ifndef DHA_DAEMON_PROCS_H
#define DHA_DAEMON_PROCS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct proc_stat {
    char state;
    pid_t ppid, session;
    unsigned long long start; /* clock ticks after boot */
};

#define PROC_BOOT_ID_SIZE 40
/* So many that would not die are named in exit.json. */
#define PROCS_LEFT_MAX 8

/* 0, or -1 if there is no such process (zombies are found, with state 'Z'). */
int proc_stat_read(pid_t pid, struct proc_stat *st);
/* This boot's id, without a newline; "" where the kernel does not tell. */
void proc_boot_id(char out[PROC_BOOT_ID_SIZE]);
/* Alive (not a zombie) and the same process as the one recorded. */
/* How long ago that start was, in microseconds, time in suspend included; what the wall clock says does not matter. -1: not
 * known. */
int64_t proc_age_us(unsigned long long start);
/* How long this machine was suspended since it was booted, in milliseconds. */
int64_t proc_suspended_ms(void);
bool proc_is(pid_t pid, unsigned long long start, const char *boot_id);
/* The pid names another process than the one recorded, which is therefore gone and reaped. */
bool proc_is_another(pid_t pid, unsigned long long start, const char *boot_id);

#define PROCS_ANY ((uid_t)-1) /* whoever it runs as */
/* Does it run (real uid) as that user? */
bool proc_is_of(pid_t pid, uid_t uid);

/* None was found, but not all could be looked at (no descriptor, no memory): not the same as none. */
#define PROCS_UNKNOWN ((size_t)-1)
/* The attempt's living processes into pids[0..cap): returns how many there are (may exceed cap).
 * `shim` (0 = unknown) gives session and descent; `uuid` (may be NULL) the tag. `self` and the shim are
 * left out, and what does not run as `uid`: a user's attempt may say of itself what it likes, others' processes are
 * none of it. Or PROCS_UNKNOWN. */
size_t procs_find(pid_t shim, const char *uuid, uid_t uid, pid_t self, pid_t *pids, size_t cap);
/* SIGKILL to all that procs_find() finds, once. Returns how many were there, or
 * PROCS_UNKNOWN. */
size_t procs_kill(pid_t shim, const char *uuid, uid_t uid, pid_t self);

#endif
