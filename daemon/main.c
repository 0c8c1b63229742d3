/* main.c: dhad's command line, detaching, and the way down.
 *
 * --detach forks before anything is opened; the parent waits on a pipe and leaves with status 0 only
 * when the child says that the socket answers, or with the child's error and exit code. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "daemon/failpoint.h"
#include "daemon/fsck_main.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "proto/json.h"

static const char help_text[] =
    "usage: dhad --state DIR --socket PATH [option...]\n"
    "       dhad fsck --state DIR [option...]      (see dhad fsck --help)\n"
    "\n"
    "The controller of dha: keeps jobs in DIR, runs their stages, answers on the unix socket "
    "PATH.\n"
    "\n"
    "  --state DIR       state directory (made with mode 0700; one daemon each)\n"
    "  --socket PATH     where to listen (made with mode 0600; see --group and --others)\n"
    "  --slots N         cores that stages may use on this host (default: all that are online)\n"
    "  --worker PATH     dha-worker (default: beside dhad, else in PATH)\n"
    "  --shim PATH       dha-shim (default: beside dhad, else in PATH)\n"
    "  --launcher NAME   local (mpirun on this host), hosts (mpirun over ssh on the nodes of the "
    "settings), or\n"
    "                    fake:SCRIPT, which runs SCRIPT SPEC.JSON instead, for trying the daemon "
    "without a worker\n"
    "                    (default: hosts if the settings name nodes, else local)\n"
    "  --stall SECONDS   stop and retry a stage that makes no progress for so long at the latest "
    "(default: 3600;\n"
    "                    0: never); once its pace is known: after 10 times the longest step\n"
    "  --stall-min SECS  but not before so many seconds (default: 300)\n"
    "  --ageing SECONDS  waiting that long counts as one priority (default: 0: priorities are "
    "absolute)\n"
    "  --log-mib N       disk for what the ranks of an attempt print, shared among them; beyond it "
    "the "
    "middle "
    "is dropped\n"
    "                    (default: 64)\n"
    "  --preempt 0|1     1: running stages checkpoint and give way to those of higher priority "
    "(default: 0)\n"
    "  --group GROUP     its members may submit, and change and read the logs of their own jobs, "
    "which "
    "run with the\n"
    "                    rights of the user who runs dhad, or if that is root with their own "
    "(default: nobody)\n"
    "  --others none|read   what everybody else on this host may do; read: all but logs (default: "
    "none)\n"
    "  --queue-per-user N   jobs of one user that have not ended; more are refused (default: "
    "100000; 0: any\n"
    "                    number)\n"
    "  --tcp ADDRESS:PORT   listens there as well: who can connect reads all but logs, a token "
    "(dha admin token)\n"
    "                    may do more. Not encrypted: 127.0.0.1, and ssh -L from elsewhere "
    "(default: "
    "no TCP)\n"
    "  --allow-root-jobs 0|1   a daemon that runs as root runs each job as who submitted it; "
    "root's "
    "own only\n"
    "                    with 1 (default: 1 without a group, 0 with one)\n"
    "  --config FILE     these from a file: {\"slots\": 8, \"stall_s\": 3600, "
    "\"stall_min_s\": 300,\n"
    "                    \"ageing_s\": 0, \"log_mib\": 64, \"preempt\": 0, \"group\": \"gpu\",\n"
    "                    \"others\": \"read\", \"queue_per_user\": 1000, \"tcp\": "
    "\"127.0.0.1:8080\",\n"
    "                    \"tcp_hosts\": [\"dha.example.org\"]}, and "
    "\"stall_search_s\", "
    "\"stall_fuse_s\",\n"
    "                    \"stall_train_s\", \"stall_eval_s\", \"stall_export_s\": stall_s for one "
    "kind of stage;\n"
    "                    \"backup_hours\": 1 (0: none), \"backup_keep\": 24: copies of the "
    "database in "
    "DIR/backup;\n"
    "                    \"metrics_days\": 30 (0: never): thin the curves of jobs that ended "
    "before;\n"
    "                    \"priority_max\": 0: what members of the group may give; \"nodes\", "
    "\"ssh_args\",\n"
    "                    \"mpi_interface\", \"unreachable_s\", \"pin\": several machines; "
    "docs/ADMIN.md has them all.\n"
    "                    SIGHUP reads it again; what the command line says goes before it\n"
    "  --foreground      stay in the foreground, log to the terminal as well (default)\n"
    "  --detach          go to the background; returns when the socket answers\n"
    "  --log FILE        log file (default: DIR/dhad.log)\n"
    "  --help, --version\n"
    "\n"
    "SIGTERM and SIGINT stop the daemon; stages that run go on and are found again by the next "
    "one.\n"
    "\n"
    "example: dhad --state ~/.dha --socket ~/.dha/run/sock --detach\n";

enum {
    OPT_STATE = 256,
    OPT_SOCKET,
    OPT_SLOTS,
    OPT_STALL,
    OPT_STALL_MIN,
    OPT_AGEING,
    OPT_LOG_MIB,
    OPT_PREEMPT,
    OPT_GROUP,
    OPT_OTHERS,
    OPT_QUEUE,
    OPT_TCP,
    OPT_ROOT_JOBS,
    OPT_CONFIG,
    OPT_WORKER,
    OPT_SHIM,
    OPT_LAUNCHER,
    OPT_FOREGROUND,
    OPT_DETACH,
    OPT_LOG,
    OPT_HELP,
    OPT_VERSION,
    OPT_FAILPOINTS
};

static const struct option options[] = {{"state", required_argument, NULL, OPT_STATE},
                                        {"socket", required_argument, NULL, OPT_SOCKET},
                                        {"slots", required_argument, NULL, OPT_SLOTS},
                                        {"stall", required_argument, NULL, OPT_STALL},
                                        {"stall-min", required_argument, NULL, OPT_STALL_MIN},
                                        {"ageing", required_argument, NULL, OPT_AGEING},
                                        {"log-mib", required_argument, NULL, OPT_LOG_MIB},
                                        {"preempt", required_argument, NULL, OPT_PREEMPT},
                                        {"group", required_argument, NULL, OPT_GROUP},
                                        {"others", required_argument, NULL, OPT_OTHERS},
                                        {"queue-per-user", required_argument, NULL, OPT_QUEUE},
                                        {"tcp", required_argument, NULL, OPT_TCP},
                                        {"allow-root-jobs", required_argument, NULL, OPT_ROOT_JOBS},
                                        {"config", required_argument, NULL, OPT_CONFIG},
                                        {"worker", required_argument, NULL, OPT_WORKER},
                                        {"shim", required_argument, NULL, OPT_SHIM},
                                        {"launcher", required_argument, NULL, OPT_LAUNCHER},
                                        {"foreground", no_argument, NULL, OPT_FOREGROUND},
                                        {"detach", no_argument, NULL, OPT_DETACH},
                                        {"log", required_argument, NULL, OPT_LOG},
                                        {"help", no_argument, NULL, OPT_HELP},
                                        {"version", no_argument, NULL, OPT_VERSION},
#ifdef DHA_FAILPOINTS
                                        {"list-failpoints", no_argument, NULL, OPT_FAILPOINTS},
#endif
                                        {0}};

struct arguments {
    struct daemon_options opt;
    bool detach;
};

static int usage_error(const char *what)
{
    fprintf(stderr, "dhad: %s\nsee dhad --help\n", what);
    return dha_code_exit(DHA_E_USAGE);
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct arguments *a)
{
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case OPT_STATE: a->opt.state = optarg; break;
        case OPT_SOCKET: a->opt.socket = optarg; break;
        case OPT_SLOTS:
            if (settings_option(&a->opt.said, "slots", optarg) != 0) {
                return usage_error("--slots wants a number from 1 to 65536");
            }
            break;
        case OPT_STALL:
            if (settings_option(&a->opt.said, "stall", optarg) != 0) {
                return usage_error("--stall wants a number of seconds");
            }
            break;
        case OPT_STALL_MIN:
            if (settings_option(&a->opt.said, "stall-min", optarg) != 0) {
                return usage_error("--stall-min wants a number of seconds from 1 on");
            }
            break;
        case OPT_AGEING:
            if (settings_option(&a->opt.said, "ageing", optarg) != 0) {
                return usage_error("--ageing wants a number of seconds");
            }
            break;
        case OPT_LOG_MIB:
            if (settings_option(&a->opt.said, "log-mib", optarg) != 0) {
                return usage_error("--log-mib wants a number from 1 to 1048576");
            }
            break;
        case OPT_PREEMPT:
            if (settings_option(&a->opt.said, "preempt", optarg) != 0) {
                return usage_error("--preempt wants 0 or 1");
            }
            break;
        case OPT_GROUP:
            if (settings_option(&a->opt.said, "group", optarg) != 0) {
                return usage_error("--group wants the name of a group, or its number");
            }
            break;
        case OPT_OTHERS:
            if (settings_option(&a->opt.said, "others", optarg) != 0) {
                return usage_error("--others wants none or read");
            }
            break;
        case OPT_QUEUE:
            if (settings_option(&a->opt.said, "queue-per-user", optarg) != 0) {
                return usage_error("--queue-per-user wants a number from 0 to 1000000000");
            }
            break;
        case OPT_TCP:
            if (settings_option(&a->opt.said, "tcp", optarg) != 0) {
                return usage_error("--tcp wants ADDRESS:PORT, like 127.0.0.1:8080");
            }
            break;
        case OPT_ROOT_JOBS:
            if (settings_option(&a->opt.said, "allow-root-jobs", optarg) != 0) {
                return usage_error("--allow-root-jobs wants 0 or 1");
            }
            break;
        case OPT_CONFIG: a->opt.config = optarg; break;
        case OPT_WORKER: a->opt.worker = optarg; break;
        case OPT_SHIM: a->opt.shim = optarg; break;
        case OPT_LAUNCHER: a->opt.launcher = optarg; break;
        case OPT_FOREGROUND: a->detach = false; break;
        case OPT_DETACH: a->detach = true; break;
        case OPT_LOG: a->opt.log = optarg; break;
        case OPT_HELP: fputs(help_text, stdout); return 0;
        case OPT_VERSION: puts("dhad " DHA_VERSION); return 0;
#ifdef DHA_FAILPOINTS
        case OPT_FAILPOINTS: failpoint_list(); return 0;
#endif
        default: fputs("see dhad --help\n", stderr); return dha_code_exit(DHA_E_USAGE);
        }
    }
    if (optind < argc) {
        return usage_error("takes options only");
    }
    if (!a->opt.state || !a->opt.socket) {
        return usage_error("--state and --socket are required");
    }
    return -1;
}

static void complain(const struct dha_err *e)
{
    fprintf(stderr, "dhad: %s\n", e->msg);
    if (e->hint[0]) {
        fprintf(stderr, "hint: %s\n", e->hint);
    }
}

/* The readiness pipe carries one struct dha_err: code OK = ready. */
static void report(int fd, const struct dha_err *e)
{
    ssize_t ignored = write(fd, e, sizeof *e);
    (void)ignored;
}

static int wait_for_child(int fd)
{
    struct dha_err e;
    size_t got = 0;
    while (got < sizeof e) {
        ssize_t n = read(fd, (char *)&e + got, sizeof e - got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            break;
        }
        got += (size_t)n;
    }
    if (got < sizeof e) {
        fprintf(stderr, "dhad: the daemon ended before its socket answered; see its log\n");
        return dha_code_exit(DHA_E_INTERNAL);
    }
    if (e.code != DHA_E_OK) {
        complain(&e);
    }
    return dha_code_exit(e.code);
}

static int to_null(int fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int rc = null < 0 ? -1 : dup2(null, fd);
    if (null > 2) {
        close(null);
    }
    return rc < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    struct arguments a = {.opt.said = settings_none()};
    if (argc > 1 && strcmp(argv[1], "fsck") == 0) {
        return fsck_main(argc - 1, argv + 1);
    }
    int rc = parse(argc, argv, &a);
    if (rc >= 0) {
        return rc;
    }
    umask(077);
    signal(SIGPIPE, SIG_IGN);
    notify_init();
    int ready = -1;
    if (a.detach) {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) != 0) {
            perror("dhad: pipe");
            return dha_code_exit(DHA_E_IO);
        }
        pid_t pid = fork();
        if (pid < 0) {
            perror("dhad: fork");
            return dha_code_exit(DHA_E_IO);
        }
        if (pid > 0) {
            close(fds[1]);
            return wait_for_child(fds[0]);
        }
        close(fds[0]);
        ready = fds[1];
        setsid();
        signal(SIGHUP, SIG_IGN);
        to_null(0);
    }
    a.opt.copy_log = !a.detach;
    struct dha_err e = {0};
    json_pool_start();
    struct daemon *d = daemon_open(&a.opt, &e);
    if (!d) {
        if (ready >= 0) {
            report(ready, &e);
        } else {
            complain(&e);
        }
        return dha_code_exit(e.code);
    }
    if (ready >= 0) {
        /* Whoever started us must not be kept waiting for the end of our output. */
        to_null(1);
        to_null(2);
        report(ready, &(struct dha_err){.code = DHA_E_OK});
        close(ready);
    }
    notify_say("READY=1");
    daemon_run(d);
    bool alone = daemon_close(d);
    log_close();
    if (!alone) {
        _exit(0);
    }
    return 0;
}
