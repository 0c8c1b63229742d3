/* Finding an attempt's processes: by session, by descent and by tag; zombies and others are not. */
#include "cmocka_all.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/procs.h"

static const char tag[] = "0a1b2c3d-test";

/* A process that waits to be killed; `in_session` makes it a session leader, `tagged` executes it with the tag. */
static pid_t start(bool in_session, bool tagged)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char env[64];
        snprintf(env, sizeof env, "DHA_ATTEMPT=%s", tag);
        char arg0[] = "sleep", arg1[] = "1000";
        char *args[] = {arg0, arg1, NULL}, *with[] = {env, NULL}, *without[] = {NULL};
        if (in_session) {
            setsid();
        }
        close(fds[0]);
        close(fds[1]);
        execve("/bin/sleep", args, tagged ? with : without);
        _exit(127);
    }
    close(fds[1]);
    char c;
    assert_int_equal(read(fds[0], &c, 1), 0); /* the child has come as far as its execve */
    close(fds[0]);
    for (int i = 0; i < 1000; i++) { /* and past it */
        char path[64], comm[32] = "";
        snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
        FILE *f = fopen(path, "re");
        if (f) {
            if (!fgets(comm, sizeof comm, f)) {
                comm[0] = '\0';
            }
            fclose(f);
        }
        if (strcmp(comm, "sleep\n") == 0) {
            break;
        }
        usleep(1000);
    }
    return pid;
}

static void stop(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static bool found(pid_t shim, const char *uuid, pid_t pid)
{
    pid_t pids[512];
    size_t n = procs_find(shim, uuid, PROCS_ANY, 0, pids, 512);
    for (size_t i = 0; i < n && i < 512; i++) {
        if (pids[i] == pid) {
            return true;
        }
    }
    return false;
}

static void by_tag_wherever_it_is(void **state)
{
    (void)state;
    pid_t with = start(true, true), without = start(true, false);
    assert_true(found(0, tag, with));
    assert_false(found(0, tag, without));
    assert_false(found(0, "0a1b2c3d", with)); /* the whole value, not its beginning */
    stop(with);
    stop(without);
}

static void by_session_and_the_leader_itself_is_left_out(void **state)
{
    (void)state;
    pid_t leader = start(true, false);
    assert_false(found(leader, NULL, leader));
    stop(leader);
}

static void by_descent_from_the_shim(void **state)
{
    (void)state;
    pid_t child = start(true, false); /* a session of its own, no tag: only descent is left */
    assert_true(found(getpid(), NULL, child));
    assert_false(found(child, NULL, getpid()));
    stop(child);
}

static void zombies_count_as_dead(void **state)
{
    (void)state;
    pid_t pid = start(true, true);
    struct proc_stat st;
    char boot[PROC_BOOT_ID_SIZE];
    proc_boot_id(boot);
    assert_int_equal(proc_stat_read(pid, &st), 0);
    assert_true(proc_is(pid, st.start, boot));
    kill(pid, SIGKILL);
    siginfo_t info;
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    assert_int_equal(proc_stat_read(pid, &st), 0);
    assert_int_equal(st.state, 'Z');
    assert_false(proc_is(pid, st.start, boot));
    assert_false(found(0, tag, pid));
    waitpid(pid, NULL, 0);
    assert_int_equal(proc_stat_read(pid, &st), -1);
}

static void a_pid_is_nobody_without_its_start_time_and_boot(void **state)
{
    (void)state;
    struct proc_stat st;
    char boot[PROC_BOOT_ID_SIZE];
    proc_boot_id(boot);
    assert_int_equal(strlen(boot), 36);
    assert_int_equal(proc_stat_read(getpid(), &st), 0);
    assert_int_equal(st.ppid, getppid());
    assert_true(proc_is(getpid(), st.start, boot));
    assert_false(proc_is(getpid(), st.start + 1, boot));
    assert_false(proc_is(getpid(), st.start, "another boot"));
}

static void killing_takes_all_and_counts_them(void **state)
{
    (void)state;
    pid_t a = start(true, true), b = start(false, true);
    assert_int_equal(procs_kill(0, tag, PROCS_ANY, getpid()), 2);
    waitpid(a, NULL, 0);
    waitpid(b, NULL, 0);
    assert_int_equal(procs_kill(0, tag, getuid(), getpid()), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_tag_wherever_it_is),
        cmocka_unit_test(by_session_and_the_leader_itself_is_left_out),
        cmocka_unit_test(by_descent_from_the_shim),
        cmocka_unit_test(zombies_count_as_dead),
        cmocka_unit_test(a_pid_is_nobody_without_its_start_time_and_boot),
        cmocka_unit_test(killing_takes_all_and_counts_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
