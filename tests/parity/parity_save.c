/* parity_save.c: loads a checkpoint and saves it again, for another program to look at.
 *   parity_save FOLDER TO dha|gqa|expand [MAX_SHARD_BYTES]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/model/expand.h"

int main(int argc, char **argv)
{
    struct dha_err e = {0};
    struct kern_err ke;
    struct model *m = NULL, *x = NULL;
    if (argc < 4)
        return 2;
    struct kern *k = kern_open("reference", 0, &ke);
    size_t shard = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
    bool expand = strcmp(argv[3], "expand") == 0;
    if (!k || model_load(&m, k, argv[1], &e) < 0 || (expand && model_expand(&x, m, &e) < 0) ||
        model_save(x ? x : m, argv[2], "float32", strcmp(argv[3], "dha") != 0, shard, &e) < 0) {
        fprintf(stderr, "parity_save: %s\n", k ? e.msg : ke.msg);
        return 1;
    }
    model_free(x);
    model_free(m);
    kern_close(k);
    return 0;
}
