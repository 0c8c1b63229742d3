/* result_dir.h: what a job made, opened so that it is what the job made and nothing else. A job's directory is its
 * owner's: they can put links, other people's files and pipes there. So who takes a result (root, for one) goes down from
 * the job's directory name by name, through no link, and touches only what belongs to the owner of the stage's output.
 */
#ifndef DHA_CLI_RESULT_DIR_H
#define DHA_CLI_RESULT_DIR_H

#include <sys/stat.h>

#include "cli/cli.h"

struct result_dir {
    int out; /* the stage's output directory: what output.json's paths are relative to; -1 = closed */
    uid_t owner;    /* its owner: everything below must be theirs, too */
    char name[256]; /* the checkpoint's directory in it: "model" */
};

/* checkpoint: as in the job's document, DIR/STAGE/out/model. */
int result_dir_open(struct result_dir *r, const char *checkpoint, struct dha_err *e);
void result_dir_close(struct result_dir *r);
/* A file or directory in dir, opened for reading: a regular file (or, with dirs, a directory) of the owner's. */
int result_dir_entry(const struct result_dir *r, int dir, const char *name, bool dirs,
                     struct stat *st, struct dha_err *e);
/* The same for a path of output.json: below the checkpoint or beside it, without "..". */
int result_dir_file(const struct result_dir *r, const char *path, struct stat *st,
                    struct dha_err *e);
/* *list = output.json; NULL where there is none (an older version's output). */
int result_dir_list(const struct result_dir *r, cJSON **list, struct dha_err *e);

#endif
