/* main.c: dha-worker: every rank of a stage attempt, and tools that need no controller.
 *
 * Exit codes are those of proto/err.h. In a gang every rank returns the same code; a rank that fails alone aborts the gang.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/stream.h"
#include "worker/cmd.h"
#include "worker/control.h"

struct command {
    const char *name, *args, *help;
    int (*run)(int argc, char **argv, struct comm *comm, struct dha_err *e);
};
static const struct command commands[] = {
    {"run", "SPEC.json --dir DIR [--backend cpu|reference]",
     "all stages of a job spec, in DIR, without a controller; started again it goes on where it "
     "was",
     cmd_run},
    {"stage", "STAGE.json [--backend cpu|reference]",
     "one stage of a job, as the controller starts it; the journal goes to stdout", cmd_stage},
    {"check", "SPEC.json [--json]",
     "what can be known before any work: the model's config and headers, the budget, the data; "
     "--json: parameters, and the disk that the job may need",
     cmd_check},
    {"probe", "[--json]", "what this host has: cores, memory, GPUs by UUID", cmd_probe},
    {"verify", "DIR",
     "are the files of a finished stage, listed in DIR/output.json, what they were when it ended?",
     cmd_verify},
    {"eval", "--model DIR --data F --seq-len N [--format F] [--tokenizer T] [--windows W] [--json]",
     "mean loss over windows of N tokens that do not overlap, in nats a token", cmd_eval},
    {"tasks",
     "MODEL --task arc-e=FILE ... [--shots N] [--limit N] [--tokenizer T] [--bos] [--details F] "
     "[--json]",
     "multiple choice by likelihood, as lm-evaluation-harness scores it, and greedy exact match",
     cmd_tasks},
    {"generate",
     "MODEL [PROMPT|-] [--ids 1,2,3] [--compare MODEL] [--max-tokens N] [--temperature T] [--top-k "
     "K] "
     "[--top-p P] [--seed S] [--tokenizer T] [--no-bos] [--ignore-eos] [--ids-out] [--json]",
     "continue a prompt, over a cache of the kept heads; without one, line by line from the "
     "terminal",
     cmd_generate},
    {"score", "--model DIR --tokens F --seq-len N --out O [--format F]",
     "one f32 loss a predicted token, written to O; F: token file or a .safetensors with input_ids",
     cmd_score},
    {"inspect", "--model DIR [--json]",
     "what a checkpoint is: shape, head maps, parameters, KV cache bytes, similarity of heads",
     cmd_inspect},
    {"export",
     "--model DIR --out DIR [--format auto|dha|gqa|expand] [--dtype float32|bfloat16|float16]",
     "write a checkpoint as a Hugging Face directory", cmd_export},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void usage(FILE *f)
{
    fprintf(f,
            "dha-worker %s: the mathematics of dha, one process or a gang of MPI ranks\n\n"
            "usage: [mpirun -n N] dha-worker COMMAND ...\n\n",
            DHA_VERSION);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %s %s\n      %s\n", commands[i].name, commands[i].args, commands[i].help);
    fprintf(
        f,
        "\nexample:\n  mpirun -n 2 dha-worker run spec.json --dir work\n"
        "  dha-worker eval --model work/export/out/model --data valid.u16 --seq-len 256 --json\n");
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

int main(int argc, char **argv)
{
    struct dha_err e = {0};
    struct comm comm;
    const struct command *c = argc > 1 ? find(argv[1]) : NULL;
    bool help = argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        printf("dha-worker %s\n", DHA_VERSION);
        return 0;
    }
    if (c && argc > 2 && !strcmp(argv[2], "--help")) {
        printf("usage: dha-worker %s %s\n  %s\n", c->name, c->args, c->help);
        return 0;
    }
    if (!c) {
        usage(help ? stdout : stderr);
        if (!help && argc > 1)
            fprintf(stderr, "\ndha-worker: there is no command \"%s\"\n", argv[1]);
        return help ? 0 : dha_code_exit(DHA_E_USAGE);
    }
    control_install();
    comm_alone(&comm);
    /* MPI only under a launcher: starting it alone takes half a second and needs what a tool should not need */
    bool launched = getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK");
    if (launched && comm_init(&comm, &argc, &argv, &e)) {
        fprintf(stderr, "dha-worker: %s\n", e.msg);
        return dha_code_exit(e.code);
    }
    int rc = c->run(argc - 1, argv + 1, &comm, &e);
    int unwritten = rc ? 0 : stream_unwritten(stdout);
    if (unwritten)
        rc = dha_fail_errno(&e, unwritten, "writing to stdout");
    if (rc && comm.rank == 0) {
        fprintf(stderr, "dha-worker %s: %s\n", c->name, e.msg);
        if (e.hint[0])
            fprintf(stderr, "  hint: %s\n", e.hint);
    }
    comm_finish(&comm);
    return rc ? dha_code_exit(e.code) : 0;
}
