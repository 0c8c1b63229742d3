/* main.c: finds the command, parses its arguments, runs it, turns its error into an exit status. */
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "cli/cli.h"
#include "proto/stream.h"

static int run(int argc, char **argv)
{
    struct cli cli = {0};
    struct args args;
    struct dha_err e = {0};
    const struct command *cmd;
    const char *near;
    int at = 1;
    int rc;

    /* --socket and --json may also stand before the command. */
    bool json = false;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (!strcmp(argv[at], "--socket") && at + 1 < argc) {
            cli.socket = argv[++at];
        } else if (!strncmp(argv[at], "--socket=", 9)) {
            cli.socket = argv[at] + 9;
        } else if (!strcmp(argv[at], "--json")) {
            json = true;
        } else if (!strcmp(argv[at], "--help") || !strcmp(argv[at], "-h")) {
            help_all(stdout);
            return 0;
        } else if (!strcmp(argv[at], "--version")) {
            printf("dha %s\n", DHA_VERSION);
            return 0;
        } else {
            dha_fail(&e, DHA_E_USAGE, "'%s' is not an option that stands before a command",
                     argv[at]);
            dha_err_hint(&e, "`dha --help` lists the commands");
            return cli_complain(&e);
        }
    }
    if (at == argc) {
        help_all(stderr);
        return dha_code_exit(DHA_E_USAGE);
    }
    if (!strcmp(argv[at], "help")) {
        if (at + 1 == argc) {
            help_all(stdout);
            return 0;
        }
        cmd = command_find(argv[at + 1]);
        if (cmd) {
            help_command(stdout, cmd);
            return 0;
        }
        at++;
    }
    cmd = command_find(argv[at]);
    if (!cmd) {
        near = command_nearest(argv[at]);
        dha_fail(&e, DHA_E_USAGE, "there is no command '%s'", argv[at]);
        if (near) {
            dha_err_hint(&e, "did you mean `dha %s`?  `dha --help` lists them all", near);
        } else {
            dha_err_hint(&e, "`dha --help` lists them all");
        }
        return cli_complain(&e);
    }
    if (json) { /* as if it stood behind: whether the command has it is its business */
        argv[at - 1] = argv[at];
        argv[at--] = "--json";
    }
    if (args_parse(cmd, argc - at, argv + at, &args, &e)) {
        return cli_complain(&e);
    }
    if (arg_flag(&args, "help")) {
        help_command(stdout, cmd);
        return 0;
    }
    if (arg_value(&args, "socket")) {
        cli.socket = arg_value(&args, "socket");
    }
    cli.json = arg_flag(&args, "json");
    rc = cmd->run(&cli, &args, &e);
    return rc < 0 ? cli_complain(&e) : rc;
}

int main(int argc, char **argv)
{
    int unwritten;
    int rc;

    setlocale(LC_CTYPE, ""); /* only for how wide the terminal's characters are; numbers stay C's */
    signal(SIGPIPE, SIG_IGN); /* a closed reader is seen below, as a failed write */
    if (curl_global_init(CURL_GLOBAL_DEFAULT)) {
        fputs("dha: libcurl does not start\n", stderr);
        return dha_code_exit(DHA_E_INTERNAL);
    }
    rc = run(argc, argv);
    curl_global_cleanup();
    unwritten = stream_unwritten(stdout);
    if (unwritten && unwritten != EPIPE) { /* `dha list | head` is no failure */
        struct dha_err e = {0};
        dha_fail_errno(&e, unwritten, "writing to stdout");
        unwritten = cli_complain(&e);
        return rc ? rc : unwritten;
    }
    return rc;
}
