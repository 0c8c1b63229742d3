/* parity_logits.c: the logits of a checkpoint for a list of tokens, fed one by one over the KV cache (the first 5 at once), for
 * another program to compare.
 *   parity_logits MODEL_DIR 1,2,3 OUT     OUT: f32 [tokens, vocab]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/fsutil.h"
#include "worker/model/model.h"

static int feed_all(struct decode *d, const int32_t *ids, int n, float *logits, struct dha_err *e)
{
    size_t vocab = (size_t)decode_vocab(d);
    int first = n < 5 ? n : 5;
    if (decode_feed(d, ids, first, logits, first, e))
        return -1;
    for (int i = first; i < n; i++)
        if (decode_feed(d, ids + i, 1, logits + (size_t)i * vocab, 1, e))
            return -1;
    return 0;
}

int main(int argc, char **argv)
{
    struct dha_err e = {0};
    struct kern_err ke = {0};
    struct model *m = NULL;
    struct decode *d = NULL;
    int32_t ids[4096];
    int n = 0;
    if (argc != 4)
        return 2;
    for (char *at = strtok(argv[2], ","); at && n < 4096; at = strtok(NULL, ","))
        ids[n++] = (int32_t)strtol(at, NULL, 10);
    struct kern *k = kern_open("cpu", 0, &ke);
    if (!k || model_load(&m, k, argv[1], &e) || decode_new(&d, m, n, &e))
        goto fail;
    size_t floats = (size_t)n * (size_t)m->cfg.vocab;
    float *logits = malloc(floats * sizeof *logits);
    if (!logits || feed_all(d, ids, n, logits, &e) ||
        fs_write_file(argv[3], logits, floats * sizeof *logits, &e))
        goto fail;
    free(logits);
    decode_free(d);
    model_free(m);
    kern_close(k);
    return 0;
fail:
    fprintf(stderr, "parity_logits: %s\n", e.msg[0] ? e.msg : ke.msg);
    return 1;
}
