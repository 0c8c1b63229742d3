/* cmd.h: the worker's commands. Each parses its own options (getopt_long), works, and returns a dha_code; on failure *e is
 * set and main prints it. Under mpirun (or srun) `comm` is the gang, else a gang of one.
 */
#ifndef DHA_WORKER_CMD_H
#define DHA_WORKER_CMD_H

#include "proto/spec.h"
#include "worker/comm.h"

int cmd_stage(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_run(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_check(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_verify(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_eval(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_tasks(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_generate(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_score(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_inspect(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_probe(int argc, char **argv, struct comm *comm, struct dha_err *e);
int cmd_export(int argc, char **argv, struct comm *comm, struct dha_err *e);

/* ---- options (cmd_options.c) ---------------------------------------------------------------------- */
#define OPTION_MANY 64
struct option_spec {
    const char *name;  /* long option, without -- */
    const char **str;  /* set to its argument, or */
    bool *flag;        /* set to true, or */
    long long *num;    /* parsed as a whole number, or */
    const char **many; /* may be given again: its arguments [OPTION_MANY], */
    int *n_many;       /* and their number */
    bool required;
};
/* Options by the table (ends with a NULL name); returns the index of the first other argument, -1 + DHA_E_USAGE. */
int cmd_options(int argc, char **argv, const struct option_spec *table, struct dha_err *e);
/* A number of them outside lo to hi is DHA_E_USAGE. */
int cmd_range(const char *name, long long v, long long lo, long long hi, struct dha_err *e);

/* A job spec from a file, relative paths against its directory; every error of it goes to stderr (rank 0). */
int cmd_read_spec(const char *path, struct job_spec *s, struct comm *comm, struct dha_err *e);

#endif
