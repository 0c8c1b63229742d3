/* scratch.h: one temporary directory a test program, removed at its end. */
#ifndef DHA_TEST_SCRATCH_H
#define DHA_TEST_SCRATCH_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char scratch_root[] = "/tmp/dha-test-XXXXXX";

static inline const char *scratch_dir(void)
{
    return scratch_root;
}

/* Path of a file in it; two results are alive at a time. */
static inline const char *scratch(const char *name)
{
    static char path[2][512];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", scratch_root, name);
    return path[turn];
}

static inline int scratch_make(void **state)
{
    (void)state;
    return mkdtemp(scratch_root) ? 0 : -1;
}

static inline int scratch_unlink(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)s;
    (void)type;
    (void)f;
    return remove(path);
}

static inline int scratch_remove(void **state)
{
    (void)state;
    return nftw(scratch_root, scratch_unlink, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
