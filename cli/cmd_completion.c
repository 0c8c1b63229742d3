/* cmd_completion.c: dha completion: shell completion, generated from the command table. */
#include <string.h>

#include "cli/cli.h"

static void options_of(const struct command *cmd)
{
    for (const struct cli_opt *o = cmd->opts; o && o->name; o++) {
        printf(" --%s", o->name);
    }
    for (const struct cli_opt *o = common_opts; o->name; o++) {
        if (opt_applies(cmd, o)) {
            printf(" --%s", o->name);
        }
    }
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    (void)cli;
    if (strcmp(a->pos[0], "bash")) {
        return dha_fail(e, DHA_E_USAGE, "there is a completion for bash, none for '%s'", a->pos[0]);
    }
    puts("# bash completion for dha; made by `dha completion bash`\n"
         "_dha() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd= i\n"
         "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "        case ${COMP_WORDS[i]} in\n"
         "        --socket) ((i++)) ;;\n"
         "        -*) ;;\n"
         "        *) cmd=${COMP_WORDS[i]}; break ;;\n"
         "        esac\n"
         "    done\n"
         "    COMPREPLY=()");
    printf("    if [ -z \"$cmd\" ]; then\n        COMPREPLY=($(compgen -W '");
    for (int i = 0; commands[i]; i++) {
        printf("%s%s", i ? " " : "", commands[i]->name);
    }
    puts(" --help --version --socket' -- \"$cur\"))\n        return\n    fi\n"
         "    case $cur in\n    -*) ;;\n    *) return ;; # files, by -o default\n    esac\n"
         "    case $cmd in");
    for (int i = 0; commands[i]; i++) {
        printf("    %s) COMPREPLY=($(compgen -W '", commands[i]->name);
        options_of(commands[i]);
        puts("' -- \"$cur\")) ;;");
    }
    puts("    esac\n}\ncomplete -o default -F _dha dha");
    return 0;
}

const struct command cmd_completion = {
    .name = "completion",
    .args = "bash",
    .summary = "Print the shell completion",
    .help = "Made from the same table as this help.",
    .example = "source <(dha completion bash)",
    .group = "Other",
    .min_pos = 1,
    .max_pos = 1,
    .run = run,
};
