/* oracle_align: alignment on real checkpoints.
 *
 *   1. It is lossless (METHODS 4.1): logits of the aligned model, and of one whose heads are in another order, against the
 *      parent's, on every checkpoint below SHARED that is there; largest difference over the largest logit.
 *   2. On rp4m it is what shared/oracle/conv.py's align() and meanpool() make of the very same calibration tokens
 *      (64 sequences, seed 3; oracle_compare.py's Draws), with 100 rounds as here.
 *
 *   oracle_align SHARED [DUMP]     exit 0: all within the tolerances; 1: not; 77: nothing is there (skipped)
 *     DUMP: a file for the tokens, ids then targets of each sequence, int32
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/method/align.h"
#include "worker/method/layer.h"
#include "worker/method/permute.h"
#include "worker/train/evaluate.h"

#define SEQ     64
#define WINDOWS 256
#define WINDOW  256
/* f32 weights are rounded once after float64 rotations: 6e-8 each, and a few layers of them */
#define LOSSLESS  1e-5
#define SAME_LOSS 5e-4

static int die(const char *doing, const struct dha_err *e)
{
    fprintf(stderr, "%s: %s: %s %s\n", doing, dha_code_name(e->code), e->msg, e->hint);
    exit(1);
}

static struct corpus *open_tokens(const char *path, int vocab)
{
    struct corpus *c;
    struct dha_err e = {0};
    struct corpus_options o = {.format = "u16", .vocab = vocab, .bos = -1};
    char name[1024], *paths[] = {name};
    snprintf(name, sizeof name, "%s", path);
    if (corpus_open(&c, paths, 1, &o, &e))
        die(path, &e);
    return c;
}

/* Random tokens do: what is checked holds for any. */
static struct corpus *random_tokens(int vocab)
{
    char path[] = "/tmp/dha-align-XXXXXX";
    int fd = mkstemp(path), limit = vocab < 65536 ? vocab : 65536;
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!f) {
        perror(path);
        exit(1);
    }
    uint64_t state = 1;
    for (int i = 0; i < 1 << 15; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint16_t t = (uint16_t)((state >> 33) % (uint64_t)limit);
        fwrite(&t, sizeof t, 1, f);
    }
    fclose(f);
    struct corpus *c = open_tokens(path, vocab);
    unlink(path);
    return c;
}

/* [SEQ, vocab] of one sequence; the caller frees. */
static float *logits_of(struct model *m)
{
    int32_t ids[SEQ];
    struct run *r;
    struct dha_err e = {0};
    size_t n = SEQ * (size_t)m->cfg.vocab;
    float *out = malloc(n * sizeof *out);
    for (int i = 0; i < SEQ; i++)
        ids[i] = (i * 37 + i / 5) % m->cfg.vocab;
    if (!out || run_new(&r, m, 1, SEQ, RUN_INFER, &e))
        die("run", &e);
    struct kern_buf *b = m->k->ops->alloc(m->k, KERN_F32, n);
    run_forward(r, ids);
    run_logits(r, 0, SEQ, kern_at(b, 0));
    m->k->ops->download(m->k, out, kern_at(b, 0), n);
    if (method_sync(m->k, "logits", &e))
        die("logits", &e);
    m->k->ops->free(m->k, b);
    run_free(r);
    return out;
}

static int same_logits(const char *what, struct model *a, struct model *b)
{
    float *x = logits_of(a), *y = logits_of(b);
    double most = 0, apart = 0;
    for (size_t i = 0; i < SEQ * (size_t)a->cfg.vocab; i++) {
        most = fmax(most, fabs((double)x[i]));
        apart = fmax(apart, fabs((double)x[i] - (double)y[i]));
    }
    free(x);
    free(y);
    bool good = apart <= LOSSLESS * most && most > 0;
    printf("  %-10s %.1e of the largest logit%s\n", what, apart / most, good ? "" : " TOO FAR");
    return good ? 0 : 1;
}

/* Heads h and h + H/2 in one group: another order is needed to make them neighbours. */
static void pairs_far_apart(const struct model_config *c, int *group_of)
{
    for (int i = 0; i < 2 * c->layers * c->heads; i++)
        group_of[i] = i % c->heads % (c->heads > 1 ? (c->heads + 1) / 2 : 1);
}

static int lossless(struct kern *k, struct comm *comm, const char *dir)
{
    struct model *as_is, *mha, *other;
    struct corpus *c;
    struct dha_err e = {0};
    bool owned;
    if (model_load(&as_is, k, dir, &e) || method_expand(as_is, &mha, &owned, &e))
        die(dir, &e);
    const struct model_config *cfg = &mha->cfg;
    printf("%s\n", dir);
    c = random_tokens(cfg->vocab);
    struct method method = {.name = "align-gqa"};
    struct method_env env = {.parent = mha,
                             .train = c,
                             .comm = comm,
                             .method = &method,
                             .seq = SEQ,
                             .seed = 3,
                             .calib_tokens = 4096};
    int *group_of = calloc(2 * (size_t)cfg->layers * (size_t)cfg->heads, sizeof *group_of), bad = 0;
    if (!group_of)
        exit(1);
    pairs_far_apart(cfg, group_of);
    if (align_apply(&env, group_of, &other, &e))
        die("align", &e);
    bad += same_logits("aligned", mha, other);
    model_free(other);
    if (permute_heads(mha, group_of, &other, &e))
        die("permute", &e);
    bad += same_logits("permuted", mha, other);
    model_free(other);
    free(group_of);
    corpus_close(c);
    if (owned)
        model_free(mha);
    model_free(as_is);
    return bad;
}

static double loss_of(struct model *m, const struct corpus *valid)
{
    struct dha_err e = {0};
    struct comm alone;
    struct eval_result v;
    comm_alone(&alone);
    if (evaluate(m, valid, WINDOW, WINDOWS, &alone, &v, &e))
        die("evaluating", &e);
    return v.loss;
}

static void dump(const struct method_env *env, int n, const char *path)
{
    static int32_t ids[WINDOW], targets[WINDOW];
    struct dha_err e = {0};
    FILE *f = fopen(path, "wb");
    if (!f) {
        perror(path);
        exit(1);
    }
    for (int i = 0; i < n; i++) {
        if (corpus_draw(env->train, env->seed, STREAM_CALIB, 0, i, WINDOW, ids, targets, &e))
            die("draw", &e);
        fwrite(ids, sizeof *ids, WINDOW, f);
        fwrite(targets, sizeof *targets, WINDOW, f);
    }
    fclose(f);
}

static int as_conv_does(struct kern *k, struct comm *comm, const char *shared, const char *dump_to)
{
    static const struct {
        int heads;
        bool norm_restore;
        double conv;
    } want[] = {
        {4, false, 4.02535},
        {4, true, 3.94753},
        {2, false, 4.32620},
        {2, true, 4.17677},
    };
    char path[1024];
    struct dha_err e = {0};
    struct model *parent, *aligned, *pooled;
    int group_of[2 * 4 * 8], bad = 0;
    snprintf(path, sizeof path, "%s/data/rp4m/hf", shared);
    if (model_load(&parent, k, path, &e))
        die(path, &e);
    snprintf(path, sizeof path, "%s/data/rp4m/train.u16", shared);
    struct corpus *train = open_tokens(path, parent->cfg.vocab);
    snprintf(path, sizeof path, "%s/data/rp4m/valid.u16", shared);
    struct corpus *valid = open_tokens(path, parent->cfg.vocab);
    struct method method = {.name = "align-gqa"};
    struct method_env env = {.parent = parent,
                             .train = train,
                             .comm = comm,
                             .method = &method,
                             .seq = WINDOW,
                             .seed = 3,
                             .calib_tokens = 64 * WINDOW};
    if (dump_to)
        dump(&env, 64, dump_to);
    printf("rp4m, adjacent heads aligned and pooled, untrained\n");
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct method_env with = env;
        for (int x = 0; x < 8; x++)
            groups_adjacent(8, want[i].heads, group_of + x * 8);
        method.norm_restore = want[i].norm_restore;
        if (align_apply(&env, group_of, &aligned, &e))
            die("align", &e);
        with.parent = aligned;
        if (meanpool_merge(&with, group_of, &pooled, &e))
            die("pool", &e);
        double loss = loss_of(pooled, valid);
        bool near = fabs(loss - want[i].conv) <= SAME_LOSS;
        printf("  %d of 8 heads%-16s %.5f   conv.py %.5f %+.5f%s\n", want[i].heads,
               want[i].norm_restore ? ", norms restored" : "", loss, want[i].conv,
               loss - want[i].conv, near ? "" : " TOO FAR");
        bad += near ? 0 : 1;
        model_free(pooled);
        model_free(aligned);
    }
    corpus_close(valid);
    corpus_close(train);
    model_free(parent);
    return bad;
}

int main(int argc, char **argv)
{
    static const char *const checkpoints[] = {
        "data/rp4m/hf",          "demo/hf",         "data/stories-gqa/hf", "data/zh-poem/hf",
        "golden/attention-bias", "golden/mha-tied", "golden/gqa",          "golden/headmap",
        "golden/llama3-rope",
    };
    const char *shared = argc > 1 ? argv[1] : "../shared";
    char path[1024];
    struct kern_err ke;
    struct comm alone;
    int found = 0, bad = 0;
    struct kern *k = kern_open("cpu", 0, &ke);
    if (!k) {
        fprintf(stderr, "%s\n", ke.msg);
        return 1;
    }
    comm_alone(&alone);
    for (size_t i = 0; i < sizeof checkpoints / sizeof *checkpoints; i++) {
        snprintf(path, sizeof path, "%s/%s", shared, checkpoints[i]);
        if (access(path, R_OK))
            continue;
        found++;
        bad += lossless(k, &alone, path);
    }
    snprintf(path, sizeof path, "%s/data/rp4m/valid.u16", shared);
    if (access(path, R_OK) == 0) {
        found++;
        bad += as_conv_does(k, &alone, shared, argc > 2 ? argv[2] : NULL);
    }
    kern_close(k);
    if (!found) {
        printf("skipped: nothing of %s is there\n", shared);
        return 77;
    }
    return bad ? 1 : 0;
}
