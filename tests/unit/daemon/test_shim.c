/* dha-shim by itself, without a daemon. argv[1] is its path. */
#include "cmocka_all.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/tmpdir.h"
#include "proto/json.h"

static char *shim;
static char dir[64];
static char uuid[64];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/dha-shimtest-XXXXXX");
    snprintf(uuid, sizeof uuid, "test-%d", (int)getpid());
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

/* Starts the shim with a shell script as its command. */
static pid_t start(const char *script)
{
    pid_t pid = fork();
    if (pid == 0) {
        char sh[] = "/bin/sh", c[] = "-c", dashes[] = "--", tmp[] = "@TMP@", name[] = "name";
        char *copy = strdup(script);
        char *args[] = {shim, dir, uuid, dashes, sh, c, copy, name, tmp, NULL};
        setenv("DHA_ATTEMPT", uuid, 1);
        int log = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(log, 2);
        execv(shim, args);
        _exit(127);
    }
    return pid;
}

static int wait_rc(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static cJSON *doc(const char *name)
{
    char path[128];
    struct dha_err e = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return json_parse_file(path, 0, &e);
}

static char *content(const char *name)
{
    static char buf[4096];
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(buf, 1, sizeof buf - 1, f) : 0;
    if (f) {
        fclose(f);
    }
    buf[n] = '\0';
    return buf;
}

static void wait_for(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (int i = 0; i < 5000 && access(path, F_OK) != 0; i++) {
        usleep(1000);
    }
    assert_int_equal(access(path, F_OK), 0);
}

static void assert_exit(const char *key, int value, int swept)
{
    cJSON *j = doc("exit.json");
    assert_non_null(j);
    assert_int_equal(json_int(j, key, -1), value);
    assert_int_equal(json_int(j, "swept", -1), swept);
    assert_int_equal(json_int(j, "left", -1), 0);
    cJSON_Delete(j);
}

static void leaves_the_exit_status_and_the_output(void **state)
{
    (void)state;
    pid_t pid = start("echo out; echo err >&2; exit 7");
    assert_int_equal(wait_rc(pid), 0);
    assert_exit("exited", 7, 0);
    assert_string_equal(content("journal.ndjson"), "out\n");
    assert_string_equal(content("stderr.log"), "err\n");
    cJSON *j = doc("shim.json");
    assert_int_equal(json_int(j, "pid", -1), pid);
    assert_int_equal(strlen(json_str(j, "boot_id", "")), 36);
    cJSON_Delete(j);
}

static void leaves_the_signal_that_ended_the_command(void **state)
{
    (void)state;
    assert_int_equal(wait_rc(start("kill -11 $$")), 0);
    assert_exit("signal", 11, 0);
}

static void a_command_that_is_not_there_is_127(void **state)
{
    (void)state;
    assert_int_equal(wait_rc(start("exec /no/such/program")), 0);
    assert_exit("exited", 127, 0);
}

static void runs_once_however_often_it_is_started(void **state)
{
    (void)state;
    pid_t first = start("echo ran; sleep 0.3");
    wait_for("shim.json");
    assert_int_equal(wait_rc(start("echo ran")), 3); /* while it runs */
    assert_int_equal(wait_rc(first), 0);
    assert_int_equal(wait_rc(start("echo ran")), 3); /* and ever after */
    assert_string_equal(content("journal.ndjson"), "ran\n");
}

static void of_many_started_at_once_one_runs(void **state)
{
    (void)state;
    pid_t pids[8];
    int ran = 0;
    for (int i = 0; i < 8; i++) {
        pids[i] = start("echo ran");
    }
    for (int i = 0; i < 8; i++) {
        int rc = wait_rc(pids[i]);
        /* The one that ran sweeps the attempt's tag, which a late one carries, too. */
        assert_true(rc == 0 || rc == 3 || rc == -SIGKILL);
        ran += rc == 0;
    }
    assert_int_equal(ran, 1);
    assert_string_equal(content("journal.ndjson"), "ran\n");
}

static void passes_signals_on_and_survives_them(void **state)
{
    (void)state;
    pid_t pid = start("trap 'echo usr1' USR1; trap 'echo usr2; exit 5' USR2;"
                      "echo ready; while :; do sleep 0.01; done");
    for (int i = 0; i < 5000 && !strstr(content("journal.ndjson"), "ready"); i++) {
        usleep(1000);
    }
    kill(pid, SIGUSR1);
    for (int i = 0; i < 5000 && !strstr(content("journal.ndjson"), "usr1"); i++) {
        usleep(1000);
    }
    kill(pid, SIGHUP);
    kill(pid, SIGINT);
    kill(pid, SIGUSR2);
    assert_int_equal(wait_rc(pid), 0);
    assert_exit("exited", 5, 0);
    assert_string_equal(content("journal.ndjson"), "ready\nusr1\nusr2\n");
}

static void kills_what_the_command_leaves_behind(void **state)
{
    (void)state;
    /* one orphan in the session, one in a session of its own */
    pid_t pid = start("sleep 1000 & echo $!; setsid sleep 1000 >/dev/null & sleep 0.1; exit 0");
    assert_int_equal(wait_rc(pid), 0);
    cJSON *j = doc("exit.json");
    assert_int_equal(json_int(j, "left", -1), 0);
    assert_true(json_int(j, "swept", -1) >= 2);
    cJSON_Delete(j);
    pid_t orphan = (pid_t)atoi(content("journal.ndjson"));
    assert_true(orphan > 1);
    assert_int_equal(kill(orphan, 0), -1);
}

static void gives_a_short_temporary_directory_and_removes_it(void **state)
{
    (void)state;
    pid_t pid = start("test -d \"$1\" && mkdir -p \"$1/a/b\" && echo x > \"$1/a/b/c\" && "
                      "ln -s / \"$1/root\" && echo \"$1\"");
    assert_int_equal(wait_rc(pid), 0);
    assert_exit("exited", 0, 0);
    char *tmp = content("journal.ndjson");
    tmp[strcspn(tmp, "\n")] = '\0';
    assert_int_equal(strncmp(tmp, "/tmp/dha-", 9), 0);
    assert_true(strlen(tmp) < 20);
    assert_int_equal(access(tmp, F_OK), -1);
    assert_int_equal(access("/tmp", F_OK), 0); /* what the link pointed at is still there */
}

/* What a shim does that is started again after one that was killed before shim.json. */
static void an_unused_temporary_directory_goes_with_the_next_one(void **state)
{
    (void)state;
    char first[TMPDIR_SIZE], second[TMPDIR_SIZE], below[64];
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    tmpdir_unmake(fd); /* there is none */
    assert_int_equal(tmpdir_make(fd, first), 0);
    assert_int_equal(access(first, W_OK | X_OK), 0);
    assert_string_equal(content("tmp.name"), first);
    assert_int_equal(tmpdir_make(fd, second), 0);
    assert_int_equal(access(first, F_OK), -1);
    assert_int_equal(access(second, F_OK), 0);
    /* with something in it, it is not an unused one */
    snprintf(below, sizeof below, "%s/x", second);
    assert_int_equal(mkdir(below, 0700), 0);
    tmpdir_unmake(fd);
    assert_int_equal(access(below, F_OK), 0);
    assert_int_equal(tmpdir_remove(second), 0);
    /* nor is one of another kind of name */
    char other[] = "/tmp/dha-other-XXXXXX", path[128];
    assert_non_null(mkdtemp(other));
    snprintf(path, sizeof path, "%s/tmp.name", dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(other, f) >= 0);
    assert_int_equal(fclose(f), 0);
    tmpdir_unmake(fd);
    assert_int_equal(rmdir(other), 0);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fputs("usage: test_shim DHA_SHIM\n", stderr);
        return 2;
    }
    shim = argv[1];
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(leaves_the_exit_status_and_the_output),
        T(leaves_the_signal_that_ended_the_command),
        T(a_command_that_is_not_there_is_127),
        T(runs_once_however_often_it_is_started),
        T(of_many_started_at_once_one_runs),
        T(passes_signals_on_and_survives_them),
        T(kills_what_the_command_leaves_behind),
        T(gives_a_short_temporary_directory_and_removes_it),
        T(an_unused_temporary_directory_goes_with_the_next_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
