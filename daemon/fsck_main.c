/* fsck_main.c: `dhad fsck --state DIR`: fsck where no daemon runs. See fsck_main.h. */
#include "daemon/fsck_main.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "daemon/failpoint.h"
#include "daemon/fsck.h"
#include "daemon/runas.h"
#include "proto/findings.h"

static const char help_text[] =
    "usage: dhad fsck --state DIR [--deep] [--repair] [--dry-run] [--json]\n"
    "\n"
    "Compares the database of a state directory that no daemon uses with itself and with the "
    "disk.\n"
    "`dha admin fsck` does the same through a daemon that runs; its --help explains the options.\n"
    "Exit status: 0 sound or repaired, 1 something is not as it should be.\n"
    "\n"
    "example: dhad fsck --state ~/.dha --deep\n";

struct arguments {
    const char *state;
    bool deep, repair, dry_run, json;
};

static const struct option options[] = {{"state", required_argument, NULL, 's'},
                                        {"deep", no_argument, NULL, 'd'},
                                        {"repair", no_argument, NULL, 'r'},
                                        {"dry-run", no_argument, NULL, 'n'},
                                        {"json", no_argument, NULL, 'j'},
                                        {"help", no_argument, NULL, 'h'},
                                        {0}};

static int complain(const struct dha_err *e)
{
    fprintf(stderr, "dhad fsck: %s\n", e->msg);
    if (e->hint[0]) {
        fprintf(stderr, "hint: %s\n", e->hint);
    }
    return dha_code_exit(e->code);
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct arguments *a)
{
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 's': a->state = optarg; break;
        case 'd': a->deep = true; break;
        case 'r': a->repair = true; break;
        case 'n': a->dry_run = true; break;
        case 'j': a->json = true; break;
        case 'h': fputs(help_text, stdout); return 0;
        default: fputs("see dhad fsck --help\n", stderr); return dha_code_exit(DHA_E_USAGE);
        }
    }
    if (optind < argc || !a->state) {
        fputs("dhad fsck: it takes --state DIR and options\nsee dhad fsck --help\n", stderr);
        return dha_code_exit(DHA_E_USAGE);
    }
    return -1;
}

/* The lock that the store takes: a daemon that is at work would change what we look at. */
static int take_lock(const char *dir, struct dha_err *e)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%.4000s/state.db", dir);
    if (stat(path, &st) != 0) {
        dha_fail_errno(e, errno, "%s is no state directory: state.db", dir);
        return dha_err_hint(e,
                            "name the directory that dhad was given as --state (default ~/.dha)");
    }
    snprintf(path, sizeof path, "%.4000s/lock", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return dha_fail_errno(e, errno, "cannot open %s", path);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int err = errno;
        close(fd);
        if (err != EWOULDBLOCK) {
            return dha_fail_errno(e, err, "cannot lock %s", path);
        }
        dha_fail(e, DHA_E_CONFLICT, "a daemon uses the state directory %s", dir);
        return dha_err_hint(e,
                            "`dha admin fsck` without --state asks that daemon; or stop it first: "
                            "dha down");
    }
    return fd;
}

/* Returns how many could not be repaired, or -1. */
static int repair_all(struct store *s, const char *dir, const struct fsck_report *r,
                      struct dha_err *e)
{
    int64_t now = now_us(), repaired = 0;
    int left = 0;
    char *lost = fsck_lost_dir(dir, (int64_t)getpid(), now);
    if (!lost) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < r->n; i++) {
        struct dha_err why = {0};
        bool done;
        if (fsck_repair(s, dir, lost, &r->at[i], now, &done, &why) != 0) {
            complain(&why);
        }
        repaired += done;
        left += !done;
    }
    FAILPOINT(admin_offline_before_commit);
    int rc = store_commit(s, e);
    fprintf(stderr, "dhad fsck: %lld repaired, %d left; what was moved is in %s\n",
            (long long)repaired, left, lost);
    free(lost);
    return rc == 0 ? left : -1;
}

struct reporter {
    struct progress p;
    atomic_bool over;
};

/* A line on the terminal that says how far it is, until it is over. */
static void report_progress(void *arg)
{
    struct reporter *r = arg;
    const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
    while (nanosleep(&pause, NULL) == 0 && !atomic_load(&r->over)) {
        fprintf(stderr, "\r\033[K%s %lld of %lld", atomic_load(&r->p.phase),
                (long long)atomic_load(&r->p.done), (long long)atomic_load(&r->p.total));
    }
    fputs("\r\033[K", stderr);
}

static int check(const char *dir, bool deep, struct fsck_report *r, struct dha_err *e)
{
    struct reporter to = {0};
    struct store *s;
    uv_thread_t thread;
    if (store_open_reader(dir, &s, e) != 0) {
        return -1;
    }
    progress_phase(&to.p, "starting", 0);
    bool shown = isatty(2) && uv_thread_create(&thread, report_progress, &to) == 0;
    int rc = fsck_check(s, dir, deep, &to.p, r, e);
    if (shown) {
        atomic_store(&to.over, true);
        uv_thread_join(&thread);
    }
    store_close(s);
    return rc;
}

static int repair(const char *dir, const struct fsck_report *r, int *left, struct dha_err *e)
{
    struct store *s;
    if (store_open(dir, 0, now_us(), &s, e) != 0) {
        return -1;
    }
    *left = repair_all(s, dir, r, e);
    store_close(s);
    return *left < 0 ? -1 : 0;
}

/* A database that cannot be read, or is of an earlier schema, is brought up by opening it as a daemon does. */
static int bring_up(const struct arguments *a, const char *dir, const struct dha_err *why,
                    struct dha_err *e)
{
    struct store *s;
    printf("database    %s\n            will %s\n", why->msg,
           why->code == DHA_E_VERSION ? "upgrade it; a copy of it as it is goes to backup/"
                                      : "put what can be read of it into a new one; the old one is "
                                        "kept beside it");
    fflush(stdout);
    if (a->dry_run) {
        *e = *why;
        return -1;
    }
    if (store_open(dir, 0, now_us(), &s, e) != 0) {
        return -1;
    }
    store_close(s);
    return 0;
}

static int tell(const struct arguments *a, const struct fsck_report *r, struct dha_err *e)
{
    cJSON *doc = fsck_doc(r);
    char *text = doc && a->json ? json_text_pretty(doc) : NULL;
    int rc = doc && (text || !a->json) ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    if (rc == 0 && a->json) {
        puts(text);
        fflush(stdout);
    } else if (rc == 0) {
        findings_print(stdout, doc, a->repair);
    }
    free(text);
    cJSON_Delete(doc);
    return rc;
}

static int run(const struct arguments *a, const char *dir, struct dha_err *e)
{
    struct fsck_report r = {0};
    struct dha_err why = {0};
    int left = 0, lock = take_lock(dir, e);
    if (lock < 0) {
        return -1;
    }
    int rc = check(dir, a->deep, &r, &why);
    close(lock); /* the store takes it itself */
    if (rc != 0 && a->repair && (why.code == DHA_E_IO || why.code == DHA_E_VERSION)) {
        fsck_report_finish(&r);
        rc = bring_up(a, dir, &why, e) == 0 ? check(dir, a->deep, &r, e) : -1;
    } else if (rc != 0) {
        *e = why;
    }
    if (rc == 0) {
        rc = tell(a, &r, e);
    }
    left = (int)r.n;
    if (rc == 0 && a->repair && !a->dry_run && r.n) {
        rc = repair(dir, &r, &left, e);
    }
    fsck_report_finish(&r);
    return rc == 0 ? (left ? dha_code_exit(DHA_E_FAILED) : 0) : -1;
}

int fsck_main(int argc, char **argv)
{
    struct arguments a = {0};
    struct dha_err e = {0};
    int rc = parse(argc, argv, &a);
    if (rc >= 0) {
        return rc;
    }
    umask(077);
    char *dir = realpath(a.state, NULL);
    runas_init(dir);
    if (!dir) {
        dha_fail_errno(&e, errno, "state directory %s", a.state);
        return complain(&e);
    }
    rc = run(&a, dir, &e);
    free(dir);
    return rc < 0 ? complain(&e) : rc;
}
