/* fuzz_dir.h: a directory of its own for targets whose readers take paths; gone when the program ends. */
#ifndef DHA_FUZZ_DIR_H
#define DHA_FUZZ_DIR_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/err.h"
#include "worker/fsutil.h"

static char fuzz_dir[64];

static void fuzz_dir_remove(void)
{
    fs_remove_tree(fuzz_dir, NULL);
}

/* In memory where the machine has that: a run writes it a million times. */
static void fuzz_dir_make(void)
{
    if (fuzz_dir[0])
        return;
    snprintf(fuzz_dir, sizeof fuzz_dir, "%s/dha-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(fuzz_dir) || atexit(fuzz_dir_remove) != 0)
        abort();
}

/* data == NULL: the file is not there. */
static void fuzz_dir_put(const char *name, const void *data, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir, name);
    if (!data) {
        unlink(path);
        return;
    }
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0)
        abort();
}

/* A failure says why; a success says nothing. */
__attribute__((unused)) static void fuzz_said(int rc, const struct dha_err *e)
{
    if (rc != 0 && (e->code == DHA_E_OK || e->msg[0] == '\0'))
        abort();
}

/* The next of several files in one input: they end at a line that is "====". NULL after the last. */
__attribute__((unused)) static const uint8_t *fuzz_next(const uint8_t **at, size_t *left, size_t *n)
{
    static const char mark[] = "\n====\n";
    const uint8_t *from = *at, *end = from ? memmem(from, *left, mark, sizeof mark - 1) : NULL;
    *n = end ? (size_t)(end - from) : *left;
    *left -= end ? *n + sizeof mark - 1 : *n;
    *at = end ? end + sizeof mark - 1 : NULL;
    return from;
}

#endif
